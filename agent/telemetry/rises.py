"""By how much a GPU's error counters rose within the last minute, and for how long it has been at work. Pure.

A counter that fell began anew (another driver, a reset) and tells nothing until it is compared with itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from agent.api.types import GpuErrors, GpuReading, GpuState

WINDOW_S = 60.0
_COUNTERS = ("nvlink_recoveries", "nvlink_replays", "nvlink_crc")

BUSY_PERCENT = 50
BUSY_P_STATE = 2
"""The deepest that a GPU which computes is in; where it is told."""

Risen = Mapping[str, int]
"""Name of a counter of `GpuErrors` → by how much it rose."""


@dataclass(slots=True)
class Rises:
    """See above."""

    _past: dict[str, deque[tuple[float, GpuErrors]]] = field(default_factory=dict)
    """UUID → what was read, oldest first; what did not change is not kept twice."""

    def look(self, readings: Sequence[GpuReading], monotonic: float) -> Mapping[str, Risen]:
        """Take in a look, and tell what rose, by UUID."""
        found: dict[str, Risen] = {}
        self._past = {each.uuid: self._past.get(each.uuid) or deque() for each in readings if each.errors is not None}
        for reading in readings:
            if reading.errors is None or reading.state is not GpuState.OK:
                continue
            past = self._past[reading.uuid]
            if not past or past[-1][1] != reading.errors:
                past.append((monotonic, reading.errors))
            while len(past) > 1 and past[1][0] <= monotonic - WINDOW_S:
                past.popleft()
            risen = {name: _rise([getattr(each, name) for _, each in past]) for name in _COUNTERS}
            if any(risen.values()):
                found[reading.uuid] = risen
        return found


def _rise(counts: Sequence[int | None]) -> int:
    """The sum of all steps up: one step down in between hides none of them."""
    known = [count for count in counts if count is not None]
    return sum(max(0, after - before) for before, after in pairwise(known))


@dataclass(slots=True)
class Busy:
    """Since when each GPU has been at work without a pause."""

    _since: dict[str, float] = field(default_factory=dict)

    def look(self, readings: Sequence[GpuReading], monotonic: float) -> Mapping[str, float]:
        """Take in a look, and tell for how many seconds, by UUID; one that is not at work is left out."""
        self._since = {each.uuid: self._since.get(each.uuid, monotonic) for each in readings if _works(each)}
        return {uuid: monotonic - since for uuid, since in self._since.items()}


def _works(reading: GpuReading) -> bool:
    deep = reading.performance_state is not None and reading.performance_state > BUSY_P_STATE
    return reading.state is GpuState.OK and (reading.utilization_percent or 0) >= BUSY_PERCENT and not deep
