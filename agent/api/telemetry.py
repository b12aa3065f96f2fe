"""The words of the node's own history: which metrics there are, and one of them over a time."""

from __future__ import annotations

from agent.api.words import Wire

HOST = "host"
"""The series of the node itself, beside one for each GPU's UUID."""

GPU_METRICS: dict[str, str] = {
    "utilization_percent": "%",
    "memory_utilization_percent": "%",
    "memory_used_bytes": "B",
    "power_mw": "mW",
    "temperature_c": "°C",
    "sm_clock_mhz": "MHz",
    "memory_clock_mhz": "MHz",
    "memory_temperature_c": "°C",
    "fan_percent": "%",
    "encoder_percent": "%",
    "decoder_percent": "%",
    "pcie_rx_bytes_per_s": "B/s",
    "pcie_tx_bytes_per_s": "B/s",
    "nvlink_rx_bytes_per_s": "B/s",
    "nvlink_tx_bytes_per_s": "B/s",
    "sm_active_percent": "%",
    "sm_occupancy_percent": "%",
    "tensor_active_percent": "%",
    "dram_active_percent": "%",
    "throttled_percent": "%",
}
"""What is kept of a GPU, and the unit; fields of `GpuReading`. Twenty fill a row of a history's file."""

HOST_METRICS: dict[str, str] = {
    "cpu_percent": "%",
    "memory_used_bytes": "B",
    "swap_used_bytes": "B",
    "load_1m": "",
    "disk_read_bytes_per_s": "B/s",
    "disk_write_bytes_per_s": "B/s",
    "network_receive_bytes_per_s": "B/s",
    "network_send_bytes_per_s": "B/s",
}
"""The same of the node."""

MAX_POINTS = 2000
"""The most buckets that one answer has."""


class MetricHistory(Wire, frozen=True, kw_only=True):
    """One metric of one series between two moments, in buckets of one width. Of a gap all three values are `None`."""

    node: str
    series: str
    """A GPU's UUID, or `HOST`."""
    metric: str
    unit: str
    begin: int
    """Unix seconds at which the first bucket begins, a multiple of `width_s`."""
    width_s: int
    least: tuple[float | None, ...]
    mean: tuple[float | None, ...]
    most: tuple[float | None, ...]
