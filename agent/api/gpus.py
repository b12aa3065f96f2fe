"""What is told of a GPU: a part of `agent.api.types`, whose rules hold here, and through which it is imported.

`None` means that driver or board do not offer a value, that it failed, or that what was said cannot be. How often each
is read is said where it is not every second.
"""

from __future__ import annotations

import msgspec

from agent.api.queue import Drain
from agent.api.words import Wire, Word


class GpuState(Word):
    """Whether the values beside it can be trusted."""

    OK = "ok"
    HUNG = "hung"
    """The driver has not answered within the deadline; values are the last ones seen, `sampled_at` says when."""
    LOST = "lost"
    """NVML says the GPU fell off the bus (`NVML_ERROR_GPU_IS_LOST`); values are the last ones seen."""


class ValueState(Word):
    """What one value of a reading is worth, see `GpuReading.value_state`."""

    VALUE = "value"
    UNSUPPORTED = "unsupported"
    """Driver or board do not offer it."""
    ERROR = "error"
    """The driver failed to say it just now, or said what cannot be."""
    STALE = "stale"
    """The GPU hangs or is lost: it is the last one seen, and `sampled_at` says when."""


GRAPHICS = "graphics"
"""A process that draws, and does not compute."""


class GpuProcess(Wire, frozen=True, kw_only=True):
    """A process that holds a context on a GPU. NVML `nvmlDeviceGetComputeRunningProcesses`, `…GraphicsRunning…`."""

    pid: int
    memory_used_bytes: int | None = None
    user: str | None = None
    command: str | None = None
    kind: str = "compute"
    """`compute`, `graphics` or `compute+graphics`."""
    sm_percent: int | None = None
    """Share of the last seconds in which its kernels ran. NVML `nvmlDeviceGetProcessUtilization`."""
    started_at: int | None = None
    """Unix seconds. The kernel's `/proc/PID/stat`."""
    job_id: int | None = None
    """The job whose process it is, by the tree of processes below the job's own; told with a node's snapshot."""


class GpuLimits(Wire, frozen=True, kw_only=True):
    """What the board is built for and set to; read each hour."""

    power_default_mw: int | None = None
    """NVML `nvmlDeviceGetPowerManagementDefaultLimit`."""
    power_least_mw: int | None = None
    """Least limit that can be set, NVML `nvmlDeviceGetPowerManagementLimitConstraints`; the next one is the most."""
    power_most_mw: int | None = None
    temperature_slowdown_c: int | None = None
    """Where it slows down. NVML `nvmlDeviceGetTemperatureThreshold`; so are the next three."""
    temperature_shutdown_c: int | None = None
    temperature_most_c: int | None = None
    """Up to which it works at its full clocks."""
    memory_temperature_most_c: int | None = None
    """Likewise, of its memory."""
    sm_clock_max_mhz: int | None = None
    """NVML `nvmlDeviceGetMaxClockInfo`; so is the next one."""
    memory_clock_max_mhz: int | None = None
    pcie_generation_max: int | None = None
    """Of board and slot together. NVML `nvmlDeviceGetMaxPcieLinkGeneration`."""
    pcie_width_max: int | None = None
    """Lanes. NVML `nvmlDeviceGetMaxPcieLinkWidth`."""


class GpuBus(Wire, frozen=True, kw_only=True):
    """How it is connected now; read every 10 s."""

    pcie_generation: int | None = None
    """NVML `nvmlDeviceGetCurrPcieLinkGeneration`. An idle GPU may lower it to save power; the width it does not."""
    pcie_width: int | None = None
    """Lanes. NVML `nvmlDeviceGetCurrPcieLinkWidth`."""
    nvlinks_total: int | None = None
    """Field `NVML_FI_DEV_NVLINK_LINK_COUNT`."""
    nvlinks_active: int | None = None
    """Field `NVML_FI_DEV_NVLINK_GET_STATE` of each; one that sleeps is active."""


class GpuErrors(Wire, frozen=True, kw_only=True):
    """Counters of errors; read every 10 s. Fields of `nvmlDeviceGetFieldValues`, `NVML_FI_DEV_…` left out."""

    ecc_corrected: int | None = None
    """Since the driver was loaded, `ECC_SBE_VOL_TOTAL`."""
    ecc_uncorrected: int | None = None
    """Likewise, `ECC_DBE_VOL_TOTAL`."""
    ecc_corrected_ever: int | None = None
    """In the board's life, `ECC_SBE_AGG_TOTAL`."""
    ecc_uncorrected_ever: int | None = None
    """`ECC_DBE_AGG_TOTAL`."""
    rows_remapped_corrected: int | None = None
    """Memory rows replaced after corrected errors, `REMAPPED_COR`; Ampere and newer."""
    rows_remapped_uncorrected: int | None = None
    """`REMAPPED_UNC`."""
    remap_pending: bool | None = None
    """A row is replaced at the next reset, `REMAPPED_PENDING`."""
    remap_failed: bool | None = None
    """No spare row was left, `REMAPPED_FAILURE`."""
    pages_retired: int | None = None
    """Before Ampere: `RETIRED_SBE` and `RETIRED_DBE` together."""
    pages_pending: bool | None = None
    """`RETIRED_PENDING`."""
    pcie_replays: int | None = None
    """Packets sent again since the driver was loaded, `PCIE_REPLAY_COUNTER`."""
    nvlink_crc: int | None = None
    """Over all links: `NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL` and `…DATA…`, Hopper and newer `NVLINK_ERROR_DL_CRC`."""
    nvlink_replays: int | None = None
    """`NVLINK_REPLAY_ERROR_COUNT_TOTAL` or `NVLINK_ERROR_DL_REPLAY`."""
    nvlink_recoveries: int | None = None
    """`NVLINK_RECOVERY_ERROR_COUNT_TOTAL` or `NVLINK_ERROR_DL_RECOVERY`."""
    recovery_action: str | None = None
    """What the driver wants done: `none`, `gpu_reset`, `node_reboot`, `drain_p2p`, `drain_and_reset`,
    `recover_imex_domain`, `bus_reset`, `system_reboot`. `GET_GPU_RECOVERY_ACTION`."""


class GpuReading(Wire, frozen=True, kw_only=True):
    """One GPU as the sampler saw it. `None` means that the driver does not offer the value."""

    index: int
    """NVML index: `nvidia-smi`'s order, 0-based; changes between boots. Key on `uuid`. A MIG instance's is 100 × (its
    GPU's + 1) + its place there."""
    uuid: str
    name: str
    state: GpuState = GpuState.OK
    state_since: int | None = None
    """Unix seconds at which `state` was entered; `None` while `ok`."""
    reason: str | None = None
    """Why it is not `ok`, in a sentence."""
    sampled_at: float
    """Unix seconds of the last successful read on the node's clock."""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    """As the driver counts it: neither used nor reserved."""
    memory_reserved_bytes: int | None = None
    """What driver and firmware keep for themselves, beside `memory_used_bytes`. NVML `nvmlDeviceGetMemoryInfo_v2`."""
    utilization_percent: int | None = None
    power_mw: int | None = None
    power_limit_mw: int | None = None
    temperature_c: int | None = None
    memory_temperature_c: int | None = None
    """Field `NVML_FI_DEV_MEMORY_TEMP`."""
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    memory_utilization_percent: int | None = None
    """Share of the last period in which memory was read or written. NVML `nvmlDeviceGetUtilizationRates`, `.memory`."""
    encoder_percent: int | None = None
    """NVML `nvmlDeviceGetEncoderUtilization`; while both are idle, this and the next are read every 10 s."""
    decoder_percent: int | None = None
    """NVML `nvmlDeviceGetDecoderUtilization`."""
    fan_percent: int | None = None
    """Of the most it is meant to turn, and so over 100 at times; boards in servers have none. Read every 10 s.
    NVML `nvmlDeviceGetFanSpeed`."""
    performance_state: int | None = None
    """0 is the fastest, P0, and 15 the slowest; read every 10 s. NVML `nvmlDeviceGetPerformanceState`."""
    throttle: tuple[str, ...] | None = None
    """What keeps its clocks down now: `power_cap`, `thermal_sw`, `thermal_hw`, `power_brake`, `hw_slowdown`,
    `sync_boost`, `app_clocks`, `display_clocks`. Nothing to do is no such reason.
    NVML `nvmlDeviceGetCurrentClocksEventReasons`, before R535 `…ThrottleReasons`."""
    throttled_us: dict[str, int] = msgspec.field(default_factory=dict)
    """How long it was kept down since the driver was loaded: `power`, `thermal`, `sync_boost`, `board`, `reliability`;
    read every 10 s. Fields `NVML_FI_DEV_PERF_POLICY_…`."""
    throttled_percent: float | None = None
    """Share of the time since the last reading in which power or heat kept its clocks down; from
    the same counters, and where there are none all or nothing, from `throttle`."""
    pcie_rx_bytes_per_s: int | None = None
    """Field `NVML_FI_DEV_PCIE_COUNT_RX_BYTES`, the rise since the last reading."""
    pcie_tx_bytes_per_s: int | None = None
    """Field `NVML_FI_DEV_PCIE_COUNT_TX_BYTES`."""
    nvlink_rx_bytes_per_s: int | None = None
    """Payload over all links. Field `NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX`, the rise since the last reading."""
    nvlink_tx_bytes_per_s: int | None = None
    """Field `NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX`."""
    sm_active_percent: float | None = None
    """Share of the SMs that had work, over the time since the last reading: where `utilization_percent` says that some
    kernel ran, this says how much of the GPU it used. NVML `nvmlGpmMetricsGet`, Hopper and newer; so are the next
    three."""
    sm_occupancy_percent: float | None = None
    """Warps on the SMs, of the most that fit."""
    tensor_active_percent: float | None = None
    """Share of the time in which the tensor cores worked."""
    dram_active_percent: float | None = None
    """Memory bandwidth used, of the most there is."""
    spreads: dict[str, tuple[float, float, float]] = msgspec.field(default_factory=dict)
    """Least, mean and most since the last reading, of load in up to two seconds, of values that the driver itself notes
    many times a second: a peak of power that lasts 20 ms is in it. Keyed `power_mw`, `utilization_percent`,
    `memory_utilization_percent`. NVML `nvmlDeviceGetSamples`."""
    energy_mj: int | None = None
    """Energy since the driver was loaded. NVML `nvmlDeviceGetTotalEnergyConsumption`; a fall means a reload."""
    errors: GpuErrors | None = None
    bus: GpuBus | None = None
    limits: GpuLimits | None = None
    failed: tuple[str, ...] = ()
    """Names of the values that are `None` because the driver failed to say them at this reading, or said what cannot
    be: `power_mw`, `errors.ecc_corrected`. The others that are `None` are not offered."""
    dropped: int = 0
    """Values that cannot be (3,000 % load, 300 °C) and were left out, since the sampler was started."""
    numa_node: int | None = None
    minor: int | None = None
    """N of `/dev/nvidiaN`; of a MIG instance its parent's. NVML `nvmlDeviceGetMinorNumber`."""
    pci: str | None = None
    """Where it is on PCI, `0000:3b:00`: domain, bus, device. NVML `nvmlDeviceGetPciInfo`."""
    mig_parent: str | None = None
    """UUID of the GPU that this MIG instance is a part of; `None` for a whole GPU."""
    mig_profile: str | None = None
    """`1g.10gb` and the like, of a MIG instance."""
    mig_gi: int | None = None
    """Id of a MIG instance's GPU instance. NVML `nvmlDeviceGetGpuInstanceId`."""
    mig_ci: int | None = None
    """Id of its compute instance. NVML `nvmlDeviceGetComputeInstanceId`."""
    divided: bool = False
    """MIG mode is on: jobs are given its instances, which are shown as GPUs of their own, and never it itself."""
    ill: tuple[str, ...] = ()
    """What speaks against it though it works, a sentence each: rows remapped, PCIe replays. Short of a drain."""
    links: dict[str, int] = msgspec.field(default_factory=dict)
    """UUID of another GPU → grade of the way to it, see `agent.api.queue.LinkGrade`; a pair left out is `SYSTEM`."""
    processes: tuple[GpuProcess, ...] = ()

    def value_state(self, name: str) -> ValueState:
        """What the value `name` is worth; `errors.ecc_corrected` is one in an inner struct."""
        value: object = self
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is None:
            return ValueState.ERROR if name in self.failed else ValueState.UNSUPPORTED
        return ValueState.VALUE if self.state is GpuState.OK else ValueState.STALE

    def computing(self) -> tuple[GpuProcess, ...]:
        """The processes that take it from others: who only draws, as a desktop does, is in nobody's way."""
        return tuple(process for process in self.processes if process.kind != GRAPHICS)


class Gpu(GpuReading, frozen=True, kw_only=True):
    """A reading joined with what the node knows: who holds the GPU, and whether a seat covers it."""

    age_s: float = 0.0
    """Seconds since `sampled_at`, by the node's monotonic clock, at the moment the snapshot was made."""
    job_id: int | None = None
    """The job that holds it; the first one of several that share it."""
    job_ids: tuple[int, ...] = ()
    """All jobs on it: more than one where shards were asked for."""
    seated: bool = False
    drain: Drain | None = None
    """It takes no new job, who said so and why."""


class GpuSource(Word):
    """Where readings come from."""

    NVML = "nvml"
    SIMULATED = "simulated"
    NONE = "none"
