"""What a self-test reads of the GPUs beyond a sample: links, error counters, what holds the clocks down.

    self-test ── spec ──► python -I -m agent inspect      a process of its own: a driver that hangs, hangs only it
              ◄── Inspection, a line each period ──

Nothing is ever set: no clock, no limit, no mode, no reset.
"""

from __future__ import annotations

import msgspec

from agent.api.types import GpuReading


class InspectSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The child's one argument, as JSON."""

    library: str | None
    period_s: float = 1.0


class GpuInspection(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment. `None` is what the driver does not tell."""

    reading: GpuReading
    error: str | None = None
    """Why it could not be read; all else is then what was known before."""
    serial: str | None = None
    vbios: str | None = None
    pcie_width: int | None = None
    """Lanes in use. NVML `nvmlDeviceGetCurrPcieLinkWidth`."""
    pcie_width_max: int | None = None
    """What GPU and slot can both do."""
    pcie_generation_max: int | None = None
    """What GPU and slot can both do; the one in use falls while a GPU idles."""
    nvlinks: int | None = None
    """NVLinks that are up."""
    slowdown_c: int | None = None
    """At which the GPU slows itself down. NVML `nvmlDeviceGetTemperatureThreshold`."""
    throttle: int | None = None
    """Bits, see `THROTTLES`. NVML `nvmlDeviceGetCurrentClocksEventReasons`."""
    ecc_corrected: int | None = None
    """Since the driver was loaded. NVML `nvmlDeviceGetTotalEccErrors`, volatile."""
    ecc_uncorrected: int | None = None
    rows_remapped: int | None = None
    remap_failed: bool = False
    pcie_replays: int | None = None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the child."""

    reason: str | None = None
    """Why there are no GPUs."""
    driver_version: str | None = None
    at: float
    """CLOCK_MONOTONIC seconds."""
    gpus: tuple[GpuInspection, ...] = ()


SW_POWER_CAP = 0x04
HW_SLOWDOWN = 0x08
SW_THERMAL = 0x20
HW_THERMAL = 0x40
HW_POWER_BRAKE = 0x80

THROTTLES = {
    HW_THERMAL: "hardware thermal slowdown",
    HW_POWER_BRAKE: "power brake (the power supply asked for it)",
    SW_THERMAL: "software thermal slowdown",
    HW_SLOWDOWN: "hardware slowdown",
}
"""What a healthy, well cooled GPU never does, the clearest word first. At its power limit (`SW_POWER_CAP`) any GPU
arrives under full load."""
