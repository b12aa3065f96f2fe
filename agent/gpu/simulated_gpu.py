"""One simulated GPU: what it says at a moment, held by a job or not, well or ill. Without I/O and clock.

Values move smoothly and depend on time, index and load only; no two curves are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent.api.types import GpuBus, GpuErrors, GpuLimits, GpuReading
from agent.gpu.base import mig_reading
from agent.gpu.health import hints
from agent.gpu.simulated_faults import Fault
from agent.gpu.simulated_layout import MIG_SLICES, NVLINKS

NAME = "Simulated H100 80GB"
GIB = 1024**3

_MEMORY_BYTES = 80 * GIB
_RESERVED_BYTES = 635 * 1024**2
_POWER_LIMIT_MW = 700_000
_CLOCK_MHZ, _IDLE_CLOCK_MHZ = 1635, 345
_SOME_LOAD = 0.05
"""With less nothing asks for clocks that could be held down."""
_WARM_UP_S = 6.0
"""Time constant with which a GPU follows its job's start and end."""
_LIMITS = GpuLimits(
    power_default_mw=_POWER_LIMIT_MW,
    power_least_mw=200_000,
    power_most_mw=_POWER_LIMIT_MW,
    temperature_slowdown_c=87,
    temperature_shutdown_c=92,
    temperature_most_c=87,
    memory_temperature_most_c=95,
    sm_clock_max_mhz=1980,
    memory_clock_max_mhz=2619,
    pcie_generation_max=5,
    pcie_width_max=16,
)


_WELL = GpuErrors(
    ecc_corrected=0,
    ecc_uncorrected=0,
    ecc_corrected_ever=0,
    ecc_uncorrected_ever=0,
    rows_remapped_corrected=0,
    rows_remapped_uncorrected=0,
    remap_pending=False,
    remap_failed=False,
    pcie_replays=0,
    nvlink_crc=0,
    nvlink_replays=0,
    nvlink_recoveries=0,
    recovery_action="none",
)
_ERRORS = {
    Fault.XID: GpuErrors(
        ecc_corrected=0, ecc_uncorrected=0, remap_pending=False, remap_failed=False, recovery_action="gpu_reset"
    ),
    Fault.ECC: GpuErrors(
        ecc_corrected=312,
        ecc_uncorrected=2,
        ecc_corrected_ever=4711,
        ecc_uncorrected_ever=2,
        rows_remapped_corrected=0,
        rows_remapped_uncorrected=1,
        remap_pending=True,
        remap_failed=False,
        recovery_action="drain_and_reset",
    ),
}
_HELD_DOWN: dict[Fault | None, tuple[tuple[str, ...], str, float, float]] = {
    Fault.HOT: (("thermal_sw", "thermal_hw", "hw_slowdown"), "thermal", 82.0, 765 / _CLOCK_MHZ),
    Fault.THROTTLED: (("power_brake", "hw_slowdown"), "power", 100.0, 0.5),
    Fault.STRAGGLER: ((), "power", 0.0, 0.62),
}
"""Fault → reasons, which counter of time rises, its share in percent, and the part of the clock that is left."""


_SPIN_MW = 45_000
"""What one kernel that waits for others takes over the idle power."""
_NVLINK_RECOVERIES_PER_S = 0.5


@dataclass(slots=True)
class Load:
    """0 idle to 1 busy, follows the job with `_WARM_UP_S`."""

    now: float = 0.0
    _at: float | None = None

    def follow(self, target: float, monotonic: float) -> float:
        """A GPU seen for the first time is where its job wants it: a restarted sampler shows no dip."""
        if self._at is None:
            self.now = target
        else:
            passed = max(0.0, monotonic - self._at)
            self.now = target + (self.now - target) * math.exp(-passed / _WARM_UP_S)
        self._at = monotonic
        return self.now


@dataclass(slots=True, kw_only=True)
class Instance:
    """A part of a divided GPU; it has memory of its own, and NVML tells nothing else of one."""

    index: int
    uuid: str
    profile: str
    memory_bytes: int
    load: Load = field(default_factory=Load)

    @property
    def slices(self) -> int:
        """How much of the GPU it is, of `MIG_SLICES`."""
        return int(self.profile.partition("g")[0])


@dataclass(slots=True, kw_only=True)
class SimulatedGpu:
    """See the module."""

    index: int
    slot: int
    """Its place in the machine: its index while no other is missing."""
    uuid: str
    links: dict[str, int]
    nvlinks: int
    numa_node: int
    instances: tuple[Instance, ...] = ()
    _load: Load = field(default_factory=Load)
    _filled: Load = field(default_factory=Load)
    """Of its memory."""
    _energy_mj: float = 0.0
    _throttled_us: dict[str, int] = field(default_factory=lambda: {"power": 0, "thermal": 0})
    _recoveries: float = 0.0
    """Of its NVLinks."""
    _last: GpuReading | None = None
    _read_at: float | None = None
    _buses: dict[Fault | None, GpuBus] = field(init=False)
    """How it is connected, well and ill."""

    def __post_init__(self) -> None:
        well = GpuBus(pcie_generation=5, pcie_width=16, nvlinks_total=NVLINKS, nvlinks_active=self.nvlinks)
        self._buses = {
            None: well,
            Fault.NARROW: msgspec.structs.replace(well, pcie_width=8),
            Fault.SLOW_LINK: msgspec.structs.replace(well, pcie_generation=1),
            Fault.NVLINK_DOWN: msgspec.structs.replace(well, nvlinks_active=max(0, self.nvlinks - 1)),
        }

    def read(self, now: float, monotonic: float, *, held: frozenset[str], fault: Fault | None) -> GpuReading:
        """What it says.

        Args:
            now: Unix seconds.
            monotonic: seconds of a clock that never jumps.
            held: UUIDs that jobs hold.
            fault: what is wrong with it; what keeps it from answering is its reader's matter.
        """
        passed = 0.0 if self._read_at is None else max(0.0, monotonic - self._read_at)
        self._read_at = monotonic
        load, filled = self._follow(held, fault, monotonic)
        # Two incommensurable waves and a phase per GPU: no two curves alike, none ever jumps.
        wave = (math.sin(now / 7 + 1.7 * self.slot) + math.sin(now / 2.9 + 0.6 * self.slot)) / 2
        steady = self._steady(now, load, wave, self._errors(fault, passed))
        steady["bus"] = self._buses.get(fault) or self._buses[None]
        moving = self._spinning(load, filled, wave, passed) if fault is Fault.COLLECTIVE else {}
        self._last = GpuReading(**(steady | (moving or self._moving(load, filled, wave, fault, passed))))
        return self._last

    def _errors(self, fault: Fault | None, passed: float) -> GpuErrors:
        """Its counters; what NVLinks counted once it goes on to count."""
        errors = _WELL if fault is None else _ERRORS.get(fault, _WELL)
        if fault is Fault.NVLINK_ERRORS:
            self._recoveries += _NVLINK_RECOVERIES_PER_S * passed
        if not self._recoveries:
            return errors
        return msgspec.structs.replace(errors, nvlink_recoveries=int(self._recoveries))

    def _steady(self, now: float, load: float, wave: float, errors: GpuErrors) -> dict[str, Any]:
        """What does not care for faults."""
        temperature_c = round(33 + self.slot % 3 + load * (33 + 2 * wave))
        return {
            "index": self.index,
            "uuid": self.uuid,
            "name": NAME,
            "sampled_at": now,
            "memory_total_bytes": _MEMORY_BYTES,
            "memory_reserved_bytes": _RESERVED_BYTES,
            "power_limit_mw": _POWER_LIMIT_MW,
            "temperature_c": temperature_c,
            "memory_temperature_c": temperature_c + 7,
            "memory_clock_mhz": 2619,
            "encoder_percent": 0,
            "decoder_percent": 0,
            "fan_percent": max(30, 2 * temperature_c - 60),
            "performance_state": 0,
            "errors": errors,
            "limits": _LIMITS,
            "numa_node": self.numa_node,
            "minor": self.slot,
            "pci": f"0000:{0x10 + self.slot:02x}:00",
            "divided": bool(self.instances),
            "ill": hints(None, errors),
            "links": self.links,
        }

    def _moving(self, load: float, filled: float, wave: float, fault: Fault | None, passed: float) -> dict[str, Any]:
        """What does: fields of the reading."""
        reasons, counted, share, pace = _HELD_DOWN.get(fault, ((), "power", 0.0, 1.0))
        share = round(share * load, 1)
        power_mw = int(72_000 + 1_500 * wave + load * (510_000 + 40_000 * wave) * (0.3 + 0.7 * pace))
        self._energy_mj += power_mw * passed
        self._throttled_us[counted] += int(share * 1e4 * passed)
        memory_busy = None if self.instances else round(load * (44 + 5 * wave) * pace)
        busy = None if self.instances else round(load * (92 + 6 * wave))
        over_nvlink = int(load * pace * self.nvlinks * (9.5e9 + 0.6e9 * wave))
        hot = {"temperature_c": 94, "memory_temperature_c": 101, "fan_percent": 100} if fault is Fault.HOT else {}
        used_bytes = int((0.5 + filled * (61 + self.slot % 4 + wave)) * GIB)
        return {
            "memory_used_bytes": used_bytes,
            "memory_free_bytes": _MEMORY_BYTES - _RESERVED_BYTES - used_bytes,
            "utilization_percent": busy,
            "memory_utilization_percent": memory_busy,
            "power_mw": power_mw,
            "energy_mj": int(self._energy_mj),
            "sm_clock_mhz": round(_IDLE_CLOCK_MHZ + load * (_CLOCK_MHZ * pace - _IDLE_CLOCK_MHZ)),
            "throttle": reasons if load > _SOME_LOAD or fault is Fault.HOT else (),
            "throttled_us": dict(self._throttled_us),
            "throttled_percent": share,
            "pcie_rx_bytes_per_s": int(load * pace * (2.1e9 + 0.3e9 * wave)),
            "pcie_tx_bytes_per_s": int(load * pace * (0.7e9 + 0.1e9 * wave)),
            "nvlink_rx_bytes_per_s": over_nvlink,
            "nvlink_tx_bytes_per_s": over_nvlink,
            "spreads": _spreads(power_mw, busy, memory_busy, load),
            **({} if self.instances else _shares(load * pace, wave)),
            **hot,
        }

    def _spinning(self, load: float, filled: float, wave: float, passed: float) -> dict[str, Any]:
        """One kernel that does nothing but wait for other GPUs: all of it busy, no work done, hardly any power."""
        found = self._moving(0.0, filled, wave, None, 0.0)
        power_mw = found["power_mw"] + int(_SPIN_MW * load)
        self._energy_mj += power_mw * passed
        busy = None if self.instances else round(100 * load)
        found |= {
            "utilization_percent": busy,
            "power_mw": power_mw,
            "energy_mj": int(self._energy_mj),
            "sm_clock_mhz": round(_IDLE_CLOCK_MHZ + load * (_CLOCK_MHZ - _IDLE_CLOCK_MHZ)),
            "spreads": _spreads(power_mw, busy, found["memory_utilization_percent"], 0.0),
        }
        return found

    def read_instances(self) -> Iterator[GpuReading]:
        """Its MIG instances, right after `read`."""
        parent = self._last
        for each in self.instances if parent else ():
            assert parent is not None
            yield mig_reading(
                parent,
                index=each.index,
                uuid=each.uuid,
                name=f"{NAME} MIG {each.profile}",
                profile=each.profile,
                memory_total_bytes=each.memory_bytes,
                memory_used_bytes=int((0.02 + 0.75 * each.load.now) * each.memory_bytes),
            )

    def _follow(self, held: frozenset[str], fault: Fault | None, monotonic: float) -> tuple[float, float]:
        """How busy it is, and how full: its own load, or what its instances make of it together."""
        if self.instances:
            loads = [
                each.slices * each.load.follow(1.0 if each.uuid in held else 0.0, monotonic) for each in self.instances
            ]
            return sum(loads) / MIG_SLICES, sum(loads) / MIG_SLICES
        is_held = self.uuid in held and fault is not Fault.XID
        works = is_held and fault is not Fault.IDLE
        full = is_held or fault is Fault.LEAKED
        return self._load.follow(float(works), monotonic), self._filled.follow(float(full), monotonic)


def _shares(work: float, wave: float) -> dict[str, float]:
    """How much of a GPU that is not divided is used."""
    return {
        "sm_active_percent": round(work * (84 + 6 * wave), 1),
        "sm_occupancy_percent": round(work * (37 + 3 * wave), 1),
        "tensor_active_percent": round(work * (51 + 5 * wave), 1),
        "dram_active_percent": round(work * (41 + 4 * wave), 1),
    }


def _spreads(
    power_mw: int, busy: int | None, memory_busy: int | None, load: float
) -> dict[str, tuple[float, float, float]]:
    """What the driver's rings would tell: peaks of power that a reading each second misses."""
    found = {"power_mw": (power_mw * (1 - 0.15 * load), float(power_mw), power_mw * (1 + 0.2 * load))}
    for name, value in (("utilization_percent", busy), ("memory_utilization_percent", memory_busy)):
        if value is not None:
            found[name] = (max(0.0, value - 9 * load), float(value), min(100.0, value + 4 * load))
    return found
