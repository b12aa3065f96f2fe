"""What a stretch of time looked like: of each metric the least, the mean and the most. Pure.

A metric that was not measured is absent, never 0; a stretch in which nothing was measured is no bucket at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

Spread = tuple[float, float, float]
"""Least, mean and most of one metric within a stretch."""

ABSENT: Spread = (math.nan, math.nan, math.nan)
"""Of a metric that was not measured."""


@dataclass(slots=True)
class Bucket:
    """One stretch of one tier, being filled."""

    number: int
    """Unix seconds of its beginning, divided by the tier's width."""
    seconds: float = 0.0
    """How much of it was measured; the rest is a gap."""
    _least: list[float] = field(default_factory=list)
    _sums: list[float] = field(default_factory=list)
    """Means times the seconds they stand for."""
    _weights: list[float] = field(default_factory=list)
    """Seconds for which each metric was there."""
    _most: list[float] = field(default_factory=list)

    def add(self, spreads: Sequence[Spread | None], seconds: float) -> None:
        """Take in what was measured over some seconds; the metrics are always the same, in the same order."""
        if not self._sums:
            count = len(spreads)
            self._least, self._most = [math.inf] * count, [-math.inf] * count
            self._sums, self._weights = [0.0] * count, [0.0] * count
        self.seconds += seconds
        for index, spread in enumerate(spreads):
            if spread is None or spread[1] != spread[1]:
                continue
            least, mean, most = spread
            self._least[index] = min(self._least[index], least)
            self._most[index] = max(self._most[index], most)
            self._sums[index] += mean * seconds
            self._weights[index] += seconds

    def spreads(self) -> list[Spread]:
        """Of each metric, `ABSENT` where there was nothing."""
        each = zip(self._least, self._sums, self._weights, self._most, strict=True)
        return [(least, total / weight, most) if weight else ABSENT for least, total, weight, most in each]
