"""A node's GPUs as metrics.

Rules kept here: a GPU that is not `ok` shows what it is, its state and its age, and none of its old values; a value
that the driver does not offer has no series; labels of a GPU are its index and UUID; what the work on it makes is
labelled with the job and its user as well, counters and what lasts longer than a job are not, so that their series go
on; what never changes (model, PCI address) is in `stoker_gpu_info`, to be joined on `uuid`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.api.types import Gpu, GpuBus, GpuErrors, GpuLimits, GpuState, Job, Node
from agent.telemetry.metrictext import Family, Labels, Value, counter, gauge, info, scaled

_Labelled = Sequence[tuple[Gpu, Labels]]

THROTTLE_REASONS = (
    "power_cap",
    "thermal_sw",
    "thermal_hw",
    "power_brake",
    "hw_slowdown",
    "sync_boost",
    "app_clocks",
    "display_clocks",
)
_ACTIONS = (
    "none",
    "gpu_reset",
    "node_reboot",
    "drain_p2p",
    "drain_and_reset",
    "recover_imex_domain",
    "bus_reset",
    "system_reboot",
)


@dataclass(frozen=True, slots=True)
class _Quantity:
    """One value of a GPU: the end of its name, its unit, what it is, and where it comes from."""

    name: str
    unit: str
    help: str
    of: Callable[[Gpu], Value]

    @property
    def full_name(self) -> str:
        return f"stoker_gpu_{self.name}_{self.unit}".rstrip("_")


def _ratio(name: str, text: str, of: Callable[[Gpu], float | None]) -> _Quantity:
    return _Quantity(name, "ratio", text, lambda gpu: scaled(of(gpu), 1e-2))


def _watts(name: str, text: str, of: Callable[[Gpu], float | None]) -> _Quantity:
    return _Quantity(name, "watts", text, lambda gpu: scaled(of(gpu), 1e-3))


def _hertz(name: str, text: str, of: Callable[[Gpu], float | None]) -> _Quantity:
    return _Quantity(name, "hertz", text, lambda gpu: scaled(of(gpu), 1e6))


def _limit(of: Callable[[GpuLimits], float | None]) -> Callable[[Gpu], float | None]:
    return lambda gpu: None if gpu.limits is None else of(gpu.limits)


def _bus(of: Callable[[GpuBus], int | None]) -> Callable[[Gpu], int | None]:
    return lambda gpu: None if gpu.bus is None else of(gpu.bus)


def _error(of: Callable[[GpuErrors], int | None]) -> Callable[[Gpu], int | None]:
    return lambda gpu: None if gpu.errors is None else of(gpu.errors)


def _spread(metric: str, place: int) -> Callable[[Gpu], float | None]:
    return lambda gpu: gpu.spreads[metric][place] if metric in gpu.spreads else None


def _free(gpu: Gpu) -> int | None:
    if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None:
        return None
    return max(0, gpu.memory_total_bytes - gpu.memory_used_bytes - (gpu.memory_reserved_bytes or 0))


_ACTIVITY = (
    _ratio("utilization", "Share of time with a kernel running.", lambda g: g.utilization_percent),
    _ratio("memory_utilization", "Share of time with memory read or written.", lambda g: g.memory_utilization_percent),
    _ratio("encoder_utilization", "Share of time the video encoder worked.", lambda g: g.encoder_percent),
    _ratio("decoder_utilization", "Share of time the video decoder worked.", lambda g: g.decoder_percent),
    _ratio("sm_active", "Share of the SMs that had work (GPM, Hopper and newer).", lambda g: g.sm_active_percent),
    _ratio("sm_occupancy", "Warps on the SMs, of the most that fit (GPM).", lambda g: g.sm_occupancy_percent),
    _ratio("tensor_active", "Share of time the tensor cores worked (GPM).", lambda g: g.tensor_active_percent),
    _ratio("dram_active", "Memory bandwidth used, of the most there is (GPM).", lambda g: g.dram_active_percent),
    _ratio("utilization_most", "Most since the last reading.", _spread("utilization_percent", 2)),
    _Quantity("memory_used", "bytes", "Memory in use.", lambda g: g.memory_used_bytes),
    _Quantity("memory_free", "bytes", "Memory neither used nor reserved.", _free),
    _watts("power", "Power drawn.", lambda g: g.power_mw),
    _watts("power_least", "Least since the last reading, from the driver's ring.", _spread("power_mw", 0)),
    _watts("power_most", "Most since the last reading, from the driver's ring.", _spread("power_mw", 2)),
    _Quantity("temperature", "celsius", "Temperature of the die.", lambda g: g.temperature_c),
    _Quantity("memory_temperature", "celsius", "Temperature of the memory.", lambda g: g.memory_temperature_c),
    _hertz("sm_clock", "Clock of the multiprocessors.", lambda g: g.sm_clock_mhz),
    _hertz("memory_clock", "Clock of the memory.", lambda g: g.memory_clock_mhz),
    _ratio("fan_speed", "Fan, of the speed it is meant to turn at most.", lambda g: g.fan_percent),
    _Quantity("performance_state", "", "P-state: 0 is the fastest, 15 the slowest.", lambda g: g.performance_state),
    _ratio(
        "throttled",
        "Share of time power or heat kept its clocks down, since the last reading.",
        lambda g: g.throttled_percent,
    ),
    _Quantity("pcie_receive", "bytes_per_second", "PCIe traffic to the GPU.", lambda g: g.pcie_rx_bytes_per_s),
    _Quantity("pcie_transmit", "bytes_per_second", "PCIe traffic from the GPU.", lambda g: g.pcie_tx_bytes_per_s),
    _Quantity(
        "nvlink_receive", "bytes_per_second", "NVLink payload to the GPU, all links.", lambda g: g.nvlink_rx_bytes_per_s
    ),
    _Quantity("nvlink_transmit", "bytes_per_second", "NVLink payload from the GPU.", lambda g: g.nvlink_tx_bytes_per_s),
    _Quantity("processes", "", "Compute processes with a context on the GPU.", lambda g: len(g.computing())),
)
"""What changes with the work that is done: labelled with the job."""

_STANDING = (
    _Quantity("memory_total", "bytes", "Memory the GPU has.", lambda g: g.memory_total_bytes),
    _Quantity("memory_reserved", "bytes", "What driver and firmware keep.", lambda g: g.memory_reserved_bytes),
    _watts("power_limit", "Power limit in force.", lambda g: g.power_limit_mw),
    _watts("power_limit_default", "Power limit it comes with.", _limit(lambda x: x.power_default_mw)),
    _watts("power_limit_least", "Least power limit that can be set.", _limit(lambda x: x.power_least_mw)),
    _watts("power_limit_most", "Highest power limit that can be set.", _limit(lambda x: x.power_most_mw)),
    _Quantity(
        "temperature_slowdown", "celsius", "Where it slows down.", _limit(lambda limits: limits.temperature_slowdown_c)
    ),
    _Quantity(
        "temperature_shutdown", "celsius", "Where it turns off.", _limit(lambda limits: limits.temperature_shutdown_c)
    ),
    _hertz("sm_clock_most", "Highest clock of the multiprocessors.", _limit(lambda x: x.sm_clock_max_mhz)),
    _hertz("memory_clock_most", "Highest clock of the memory.", _limit(lambda x: x.memory_clock_max_mhz)),
    _Quantity("pcie_generation", "", "PCIe generation in use; lower while idle.", _bus(lambda b: b.pcie_generation)),
    _Quantity("pcie_lanes", "", "PCIe lanes in use.", _bus(lambda b: b.pcie_width)),
    _Quantity(
        "pcie_generation_most", "", "PCIe generation that board and slot can.", _limit(lambda x: x.pcie_generation_max)
    ),
    _Quantity("pcie_lanes_most", "", "PCIe lanes that board and slot have.", _limit(lambda x: x.pcie_width_max)),
    _Quantity("nvlinks", "", "NVLinks the GPU has.", _bus(lambda b: b.nvlinks_total)),
    _Quantity("nvlinks_active", "", "NVLinks that are up.", _bus(lambda b: b.nvlinks_active)),
    _Quantity(
        "row_remap_pending", "", "1: a memory row is replaced at the next reset.", _error(lambda e: e.remap_pending)
    ),
    _Quantity("row_remap_failed", "", "1: no spare memory row was left.", _error(lambda e: e.remap_failed)),
    _Quantity(
        "page_retirement_pending", "", "1: a page is retired at the next reset.", _error(lambda e: e.pages_pending)
    ),
    _Quantity("ill_signs", "", "Signs that speak against it though it works.", lambda g: len(g.ill)),
)
"""What is so whoever holds it: a series lasts longer than a job."""

_COUNTERS = (
    _Quantity("energy", "joules", "Energy since the driver was loaded.", lambda g: scaled(g.energy_mj, 1e-3)),
    _Quantity("pages_retired", "", "Memory pages retired, before Ampere.", _error(lambda e: e.pages_retired)),
    _Quantity(
        "pcie_replays", "", "PCIe packets sent again since the driver was loaded.", _error(lambda e: e.pcie_replays)
    ),
    _Quantity("readings_dropped", "", "Impossible values left out since the sampler began.", lambda g: g.dropped),
)

_BY_KIND: tuple[tuple[str, str, str, dict[str, Callable[[Gpu], int | None]]], ...] = (
    (
        "ecc_errors",
        "ECC errors since the driver was loaded.",
        "kind",
        {
            "corrected": _error(lambda e: e.ecc_corrected),
            "uncorrected": _error(lambda e: e.ecc_uncorrected),
        },
    ),
    (
        "ecc_aggregate_errors",
        "ECC errors in the board's life.",
        "kind",
        {
            "corrected": _error(lambda e: e.ecc_corrected_ever),
            "uncorrected": _error(lambda e: e.ecc_uncorrected_ever),
        },
    ),
    (
        "rows_remapped",
        "Memory rows replaced in the board's life, by the errors that led to it.",
        "kind",
        {
            "corrected": _error(lambda e: e.rows_remapped_corrected),
            "uncorrected": _error(lambda e: e.rows_remapped_uncorrected),
        },
    ),
    (
        "nvlink_errors",
        "NVLink errors over all links.",
        "kind",
        {
            "crc": _error(lambda e: e.nvlink_crc),
            "replay": _error(lambda e: e.nvlink_replays),
            "recovery": _error(lambda e: e.nvlink_recoveries),
        },
    ),
)


def gpu_families(node: Node, jobs: Sequence[Job], *, process_ids: bool = False) -> Iterator[Family]:
    """Everything of all GPUs.

    Args:
        node: the node now.
        jobs: its unfinished jobs, for their users.
        process_ids: tell of each process as well, by its number: a series for each that ever runs.
    """
    users = {job.id: job.user for job in jobs}
    well = [gpu for gpu in node.gpus if gpu.state is GpuState.OK]
    at_work = [(gpu, _labels(gpu, users)) for gpu in well]
    alone = [(gpu, _own(gpu)) for gpu in well]
    yield from _whatever_its_state(node, users)
    for quantities, labelled, write in (
        (_ACTIVITY, at_work, gauge),
        (_STANDING, alone, gauge),
        (_COUNTERS, alone, counter),
    ):
        for quantity in quantities:
            samples = [(labels, _number(quantity.of(gpu))) for gpu, labels in labelled]
            yield write(quantity.full_name, quantity.help, samples, quantity.unit)
    yield _throttle_reasons(at_work)
    yield from _by_label(alone)
    if process_ids:
        yield from _processes(at_work)


# --- parts ------------------------------------------------------------------------------------------------------------


def _whatever_its_state(node: Node, users: Mapping[int, str]) -> Iterator[Family]:
    every = [(gpu, _own(gpu)) for gpu in node.gpus]
    yield info("stoker_gpu", "What a GPU is.", [_what(gpu) for gpu in node.gpus])
    yield gauge(
        "stoker_gpu_state",
        "1 for the state the GPU is in, 0 for the others.",
        [({**labels, "state": state.value}, int(gpu.state is state)) for gpu, labels in every for state in GpuState],
    )
    ages = [(labels, gpu.age_s) for gpu, labels in every]
    yield gauge("stoker_gpu_data_age_seconds", "Time since the GPU was last read.", ages, "seconds")
    seats = [(labels, int(gpu.seated)) for gpu, labels in every]
    yield gauge("stoker_gpu_seated", "1 if a licence seat covers the GPU.", seats)
    drained = [(labels, int(gpu.drain is not None or node.drain is not None)) for gpu, labels in every]
    yield gauge("stoker_gpu_drained", "1 if it takes no new job: it or its node is drained.", drained)
    held = [
        ({**_own(gpu), "job_id": str(job), "user": users.get(job, "")}, 1) for gpu in node.gpus for job in gpu.job_ids
    ]
    yield gauge("stoker_gpu_job", "1 for each job that holds the GPU or a part of it.", held)


def _throttle_reasons(at_work: _Labelled) -> Family:
    reasons = [
        ({**labels, "reason": reason}, None if gpu.throttle is None else int(reason in gpu.throttle))
        for gpu, labels in at_work
        for reason in THROTTLE_REASONS
    ]
    return gauge("stoker_gpu_throttle_reason", "1 for what keeps its clocks down now.", reasons)


def _by_label(alone: _Labelled) -> Iterator[Family]:
    """What has one more label: a reason, a kind, another GPU."""
    times = [
        ({**labels, "reason": reason}, scaled(us, 1e-6))
        for gpu, labels in alone
        for reason, us in sorted(gpu.throttled_us.items())
    ]
    yield counter("stoker_gpu_throttled_seconds", "Time kept down since the driver was loaded.", times, "seconds")
    for name, text, key, kinds in _BY_KIND:
        counts = [({**labels, key: kind}, of(gpu)) for gpu, labels in alone for kind, of in kinds.items()]
        yield counter(f"stoker_gpu_{name}", text, counts)
    actions = [
        ({**labels, "action": action}, int(gpu.errors.recovery_action == action))
        for gpu, labels in alone
        if gpu.errors is not None and gpu.errors.recovery_action is not None
        for action in _ACTIONS
    ]
    yield gauge("stoker_gpu_recovery_action", "1 for what the driver wants done, 0 for the others.", actions)
    links = [
        ({**labels, "peer": peer}, int(grade)) for gpu, labels in alone for peer, grade in sorted(gpu.links.items())
    ]
    yield gauge(
        "stoker_gpu_link_grade", "Way to another GPU: 0 SYS, 1 NODE, 2 PXB or PIX, 10 one NVLink, 1 more each.", links
    )


def _processes(at_work: _Labelled) -> Iterator[Family]:
    every = [
        ({**labels, "pid": str(each.pid), "owner": each.user or "", "kind": each.kind}, each)
        for gpu, labels in at_work
        for each in gpu.processes
    ]
    memory = [(labels, each.memory_used_bytes) for labels, each in every]
    yield gauge("stoker_gpu_process_memory_bytes", "Memory a process holds on the GPU.", memory, "bytes")
    shares = [(labels, scaled(each.sm_percent, 1e-2)) for labels, each in every]
    yield gauge("stoker_gpu_process_sm_ratio", "Share of time a process's kernels ran.", shares, "ratio")


def _number(value: Value) -> Value:
    return int(value) if isinstance(value, bool) else value


def _what(gpu: Gpu) -> dict[str, str]:
    labels = {**_own(gpu), "name": gpu.name, "pci": gpu.pci or ""}
    labels["numa_node"] = "" if gpu.numa_node is None else str(gpu.numa_node)
    if gpu.mig_parent is not None:
        labels |= {"mig_parent": gpu.mig_parent, "mig_profile": gpu.mig_profile or ""}
    return labels


def _own(gpu: Gpu) -> dict[str, str]:
    return {"gpu": str(gpu.index), "uuid": gpu.uuid}


def _labels(gpu: Gpu, users: Mapping[int, str]) -> dict[str, str]:
    """`job_id` and not `job`: that one is Prometheus's own, and a scrape would rename ours to `exported_job`."""
    labels = _own(gpu)
    if gpu.job_id is not None:
        labels |= {"job_id": str(gpu.job_id), "user": users.get(gpu.job_id, "")}
    return labels
