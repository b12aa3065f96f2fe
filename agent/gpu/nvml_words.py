"""What NVML's numbers mean: reasons of throttling, errors, the state of links. A part of the door to `pynvml`."""

from __future__ import annotations

import functools

import pynvml

from agent.api.types import GpuBus, GpuErrors
from agent.gpu.nvml_fields import LINK_COUNT, LINK_CRC, LINK_RECOVERIES, LINK_REPLAYS, LINK_STATE, Fields

_REASONS = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power_cap",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal_sw",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "thermal_hw",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power_brake",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting: "app_clocks",
    pynvml.nvmlClocksThrottleReasonDisplayClockSetting: "display_clocks",
}
"""Not that it idles, and no bit that newer drivers add."""

HELD_DOWN = frozenset({"power_cap", "thermal_sw", "thermal_hw", "power_brake", "hw_slowdown"})
"""Throttling that nobody asked for."""
HELD_DOWN_BITS = sum(bit for bit, word in _REASONS.items() if word in HELD_DOWN)

_ACTIONS = {
    pynvml.NVML_GPU_RECOVERY_ACTION_NONE: "none",
    pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "gpu_reset",
    pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "node_reboot",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: "drain_p2p",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "drain_and_reset",
    5: "recover_imex_domain",
    6: "bus_reset",
    7: "system_reboot",
}
"""By number where older bindings have no name."""

_LINK_DOWN = 0
"""`NVML_FI_DEV_NVLINK_GET_STATE`: 1 is active, 2 asleep."""


FIELD_NAMES: dict[int, str] = {
    pynvml.NVML_FI_DEV_MEMORY_TEMP: "memory_temperature_c",
    pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES: "pcie_rx_bytes_per_s",
    pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES: "pcie_tx_bytes_per_s",
    pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX: "nvlink_rx_bytes_per_s",
    pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX: "nvlink_tx_bytes_per_s",
    pynvml.NVML_FI_DEV_PERF_POLICY_POWER: "throttled_percent",
    pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL: "throttled_percent",
    pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL: "errors.ecc_corrected",
    pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL: "errors.ecc_uncorrected",
    pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL: "errors.ecc_corrected_ever",
    pynvml.NVML_FI_DEV_ECC_DBE_AGG_TOTAL: "errors.ecc_uncorrected_ever",
    pynvml.NVML_FI_DEV_REMAPPED_COR: "errors.rows_remapped_corrected",
    pynvml.NVML_FI_DEV_REMAPPED_UNC: "errors.rows_remapped_uncorrected",
    pynvml.NVML_FI_DEV_REMAPPED_PENDING: "errors.remap_pending",
    pynvml.NVML_FI_DEV_REMAPPED_FAILURE: "errors.remap_failed",
    pynvml.NVML_FI_DEV_RETIRED_SBE: "errors.pages_retired",
    pynvml.NVML_FI_DEV_RETIRED_DBE: "errors.pages_retired",
    pynvml.NVML_FI_DEV_RETIRED_PENDING: "errors.pages_pending",
    pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER: "errors.pcie_replays",
    pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL: "errors.nvlink_crc",
    pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL: "errors.nvlink_crc",
    pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL: "errors.nvlink_replays",
    pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL: "errors.nvlink_recoveries",
    pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: "errors.recovery_action",
    LINK_COUNT: "bus.nvlinks_total",
    LINK_STATE: "bus.nvlinks_active",
    LINK_CRC: "errors.nvlink_crc",
    LINK_REPLAYS: "errors.nvlink_replays",
    LINK_RECOVERIES: "errors.nvlink_recoveries",
}
"""Which values of a reading are made of a field."""


@functools.lru_cache(maxsize=64)
def throttle_of(bits: int | None) -> tuple[str, ...] | None:
    """The reasons in a mask of `nvmlDeviceGetCurrentClocksEventReasons`."""
    return None if bits is None else tuple(word for bit, word in _REASONS.items() if bits & bit)


def errors_of(found: Fields) -> GpuErrors:
    """The counters of errors among the fields."""
    one, links = found.one, found.links
    action = one.get(pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
    return GpuErrors(
        ecc_corrected=one.get(pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL),
        ecc_uncorrected=one.get(pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL),
        ecc_corrected_ever=one.get(pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL),
        ecc_uncorrected_ever=one.get(pynvml.NVML_FI_DEV_ECC_DBE_AGG_TOTAL),
        rows_remapped_corrected=one.get(pynvml.NVML_FI_DEV_REMAPPED_COR),
        rows_remapped_uncorrected=one.get(pynvml.NVML_FI_DEV_REMAPPED_UNC),
        remap_pending=_flag(one.get(pynvml.NVML_FI_DEV_REMAPPED_PENDING)),
        remap_failed=_flag(one.get(pynvml.NVML_FI_DEV_REMAPPED_FAILURE)),
        pages_retired=_sum(one, pynvml.NVML_FI_DEV_RETIRED_SBE, pynvml.NVML_FI_DEV_RETIRED_DBE),
        pages_pending=_flag(one.get(pynvml.NVML_FI_DEV_RETIRED_PENDING)),
        pcie_replays=one.get(pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER),
        nvlink_crc=_either(
            links.get(LINK_CRC),
            _sum(
                one,
                pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
                pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
            ),
        ),
        nvlink_replays=_either(links.get(LINK_REPLAYS), one.get(pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL)),
        nvlink_recoveries=_either(
            links.get(LINK_RECOVERIES), one.get(pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL)
        ),
        recovery_action=None if action is None else _ACTIONS.get(action, str(action)),
    )


def bus_of(found: Fields, pcie_generation: int | None, pcie_width: int | None) -> GpuBus:
    """How the GPU is connected."""
    states = found.links.get(LINK_STATE)
    return GpuBus(
        pcie_generation=pcie_generation,
        pcie_width=pcie_width,
        nvlinks_total=found.one.get(LINK_COUNT),
        nvlinks_active=None if states is None else sum(state != _LINK_DOWN for state in states),
    )


def _flag(value: int | None) -> bool | None:
    return None if value is None else value != 0


def _sum(one: dict[int, int], *numbers: int) -> int | None:
    known = [one[number] for number in numbers if number in one]
    return sum(known) if known else None


def _either(each_link: list[int] | None, total: int | None) -> int | None:
    return total if each_link is None else sum(each_link)
