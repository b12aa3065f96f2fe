"""One GPU of one job's account, as sums that go on.

A fresh reading counts for the time since the one before it; time without readings is not measured, and not guessed.
Energy is the difference of the driver's counter, over such time too, since the job held the GPU all along. Power × time
stands in for a counter that fell (a driver loaded anew) or rose by more than the GPU can draw, and for none at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from agent.api.queue import GpuUsage
from agent.api.types import GpuReading
from agent.telemetry.curve import Mean
from agent.telemetry.sharing import Split
from agent.telemetry.verdict import GpuMeans

GAP_S = 10.0
"""A reading stands for the time since the one before it, up to this; after that nobody knows."""
AWAY_MAX_S = 86400.0
"""Most that is believed of the wall clock over a restart of the agent: it may have been set meanwhile."""
_SURGE = 1.5
"""Times its power limit that a GPU is believed to have drawn; beyond it, the counter is another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A fresh reading of one of the job's GPUs."""

    reading: GpuReading
    part: float = 1.0
    """The job's, of a shared GPU's work: 0..1."""
    holders: int = 1
    """Jobs that hold the GPU."""
    split: Split = Split.NONE
    memory_bytes: int | None = None
    """The job's own, where the GPU is shared and NVML tells it."""


class GpuAccount(msgspec.Struct, kw_only=True):
    """One GPU of one job."""

    uuid: str
    sampled_at: float | None = None
    """Of the last reading that counted: a reading told twice counts once."""
    at: float | None = None
    """Monotonic seconds of then; `None` where the next reading begins anew: at a start, after a restart of ours."""
    now: float | None = None
    """Unix seconds of then."""
    held_s: float = 0.0
    busy_s: float = 0.0
    utilization: Mean = msgspec.field(default_factory=Mean)
    memory_utilization: Mean = msgspec.field(default_factory=Mean)
    power_share: Mean = msgspec.field(default_factory=Mean)
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_total_bytes: int | None = None
    counter_mj: int | None = None
    energy_mj: float = 0.0
    estimated_mj: float = 0.0
    """Of `energy_mj`, what was power × time."""

    def add(self, sample: Sample, *, now: float, monotonic: float, gap_s: float = GAP_S) -> float:
        """Count a fresh reading. Returns the seconds it stands for; 0 for the first one and after a gap."""
        passed = self._passed(now, monotonic)
        seconds = passed if passed <= gap_s else 0.0
        self.sampled_at, self.at, self.now = sample.reading.sampled_at, monotonic, now
        self._count_energy(sample, passed, measured=bool(seconds))
        self._count_memory(sample)
        self.held_s += passed / sample.holders
        self._count_time(sample, seconds)
        return seconds

    def break_off(self, *, goes_on: bool) -> None:
        """The next reading begins anew; with `goes_on` the job holds the GPU all the while, and its energy counts."""
        self.at = None
        if not goes_on:
            self.counter_mj = self.now = None

    def usage(self) -> GpuUsage:
        """As it is told."""
        return GpuUsage(
            uuid=self.uuid,
            utilization_percent=rounded(self.utilization.value),
            memory_utilization_percent=rounded(self.memory_utilization.value),
            memory_peak_bytes=self.memory_peak_bytes,
            energy_j=round(self.energy_mj / 1000, 1) if self.energy_mj else None,
        )

    def means(self) -> GpuMeans:
        """What the verdict looks at."""
        peak, total = self.memory_peak_bytes, self.memory_total_bytes
        return GpuMeans(
            utilization_percent=self.utilization.value,
            memory_utilization_percent=self.memory_utilization.value,
            power_share=self.power_share.value,
            memory_share=peak / total if peak is not None and total else None,
        )

    def _passed(self, now: float, monotonic: float) -> float:
        """Seconds since the reading before; by the wall clock over a restart of the agent."""
        if self.at is not None:
            return max(0.0, monotonic - self.at)
        return min(max(0.0, now - self.now), AWAY_MAX_S) if self.now is not None else 0.0

    def _count_time(self, sample: Sample, seconds: float) -> None:
        reading = sample.reading
        if reading.utilization_percent is not None:
            self.utilization.add(reading.utilization_percent * sample.part, seconds)
            self.busy_s += seconds * reading.utilization_percent / 100 * sample.part
        self.memory_utilization.add(reading.memory_utilization_percent, seconds)
        if reading.power_mw is not None and reading.power_limit_mw:
            self.power_share.add(reading.power_mw / reading.power_limit_mw, seconds)

    def _count_memory(self, sample: Sample) -> None:
        used = sample.reading.memory_used_bytes
        own = sample.memory_bytes if sample.memory_bytes is not None else None if used is None else used * sample.part
        self.memory_total_bytes = sample.reading.memory_total_bytes
        if own is not None:
            self.memory_bytes = int(own)
            self.memory_peak_bytes = max(self.memory_peak_bytes or 0, self.memory_bytes)

    def _count_energy(self, sample: Sample, passed: float, *, measured: bool) -> None:
        reading, before = sample.reading, self.counter_mj
        self.counter_mj = reading.energy_mj
        if not passed:
            return
        if before is not None and reading.energy_mj is not None:
            rise = reading.energy_mj - before
            if 0 <= rise <= _most_mj(reading, passed):
                self.energy_mj += rise * sample.part
                return
        if reading.power_mw is not None and measured:
            estimate = reading.power_mw * passed * sample.part
            self.energy_mj += estimate
            self.estimated_mj += estimate


def _most_mj(reading: GpuReading, seconds: float) -> float:
    """More than this a GPU cannot have drawn; a second more for readings that come unevenly."""
    limit = reading.power_limit_mw
    return float("inf") if limit is None else _SURGE * limit * (seconds + 1)


def rounded(value: float | None) -> float | None:
    """To one place, as it is told."""
    return None if value is None else round(value, 1)
