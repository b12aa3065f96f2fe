"""Glances between two readings: power, load and what holds the clocks down, as often as `gpu.fast_s` says. A part of
the door to `pynvml`.

The driver's rings tell power and load better where there are any. Boards without rings have their peaks from here, and
those without counters of throttling the share of the time in which it was so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from agent.gpu.nvml_batch import Batch
from agent.gpu.nvml_plain import glance_questions
from agent.gpu.nvml_rings import Spread
from agent.gpu.nvml_words import HELD_DOWN, HELD_DOWN_BITS
from agent.gpu.sieve import PERCENT, Sieve

KEPT_MOST = 1000
"""Between two readings; a GPU that is glanced at and never read is hung."""


class Glances:
    """What was seen of one GPU since its last reading."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any) -> None:
        self._batch = Batch(index, glance_questions(library, handle))
        self.seen: list[list[int | None]] = []

    def look(self, monotonic: float) -> None:
        """See once; raises as `Batch.ask`."""
        if len(self.seen) < KEPT_MOST:
            self.seen.append(list(self._batch.ask(monotonic)))

    def take(self, power_mw: int | None, busy: int | None, reasons: int | None) -> list[list[int | None]]:
        """All that was seen, with what the reading itself says as the last; empty where nobody looks."""
        if not self.seen:
            return self.seen
        seen, self.seen = [*self.seen, [power_mw, busy, reasons]], []
        return seen


def fold(spreads: dict[str, Spread], seen: list[list[int | None]], most_mw: float, sieve: Sieve) -> dict[str, Spread]:
    """The driver's spreads with what was seen: nothing less and nothing more is lost."""
    for place, (name, most) in enumerate((("power_mw", most_mw), ("utilization_percent", PERCENT))):
        said = [row[place] for row in seen]
        values = [value for value in said if value is not None and 0 <= value <= most]
        sieve.dropped += len(said) - said.count(None) - len(values)
        if not values:
            continue
        low, mean, high = spreads.get(name, (float(min(values)), sum(values) / len(values), float(max(values))))
        spreads[name] = (min(low, min(values)), mean, max(high, max(values)))
    return spreads


def throttled_percent(
    power_ns: int | None,
    heat_ns: int | None,
    power_rate: int | None,
    heat_rate: int | None,
    throttle: tuple[str, ...] | None,
    seen: Sequence[Sequence[int | None]] = (),
) -> float | None:
    """See `GpuReading.throttled_percent`; where power and heat do it at the same time, the longer counts."""
    if power_rate == 0 == heat_rate:
        return 0.0
    if power_rate is not None or heat_rate is not None:
        return min(round(max(power_rate or 0, heat_rate or 0) / 1e7, 1), 100.0)
    if throttle is None or power_ns is not None or heat_ns is not None:
        return None
    return held_down_percent(seen, HELD_DOWN_BITS) if seen else 100.0 if HELD_DOWN.intersection(throttle) else 0.0


def held_down_percent(seen: Sequence[Sequence[int | None]], bits: int) -> float | None:
    """Share of the looks at which one of `bits` held the clocks down; `None` where that is not told."""
    known = [reasons for _, _, reasons in seen if reasons is not None]
    return round(100 * sum(bool(each & bits) for each in known) / len(known), 1) if known else None
