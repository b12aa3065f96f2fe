"""What a stretch of time looked like: of each metric the least, the mean and the most. Pure.

A metric that was not measured is absent, never 0; a stretch in which nothing was measured is no bucket at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

Spread = tuple[float, float, float]
"""Least, mean and most of one metric within a stretch."""

ABSENT: Spread = (math.nan, math.nan, math.nan)
"""Of a metric that was not measured."""


class Bucket:
    """A stretch of time that is being filled.

    What is joined is one number in each of four lists; most buckets are of one sample, which is kept as it came.
    """

    __slots__ = ("_least", "_most", "_only", "_sums", "_weights", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        """How much of it was measured; the rest is a gap."""
        self._only: Sequence[Spread | None] | None = None
        """The one sample that there is; the lists are empty as long."""
        self._least: list[float] = []
        self._sums: list[float] = []
        """Means times the seconds they stand for."""
        self._weights: list[float] = []
        """Seconds for which each metric was there; where that is none, least and most are no numbers."""
        self._most: list[float] = []

    def add(self, spreads: Sequence[Spread | None], seconds: float) -> None:
        """Take in what was measured over some seconds; the metrics are always the same, in the same order."""
        if self.seconds == 0:
            self._only = spreads
        else:
            self._unfold(len(spreads))
            self._fold_in(spreads, seconds)
        self.seconds += seconds

    def join(self, other: Bucket) -> None:
        """Take in what another one holds."""
        if other._only is not None:
            self.add(other._only, other.seconds)
            return
        self._unfold(len(other._sums))
        self.seconds += other.seconds
        each = zip(other._least, other._sums, other._weights, other._most, strict=True)
        for index, (least, total, weight, most) in enumerate(each):
            if weight:
                self._stretch(index, least, most)
                self._sums[index] += total
                self._weights[index] += weight

    def flat(self) -> list[float]:
        """Least, mean and most of the first metric, of the second and so on, as `ABSENT` where there was nothing."""
        if self._only is not None:
            known = [ABSENT if spread is None or spread[1] != spread[1] else spread for spread in self._only]
            return list(chain.from_iterable(known))
        flat = [0.0] * (3 * len(self._sums))
        flat[0::3], flat[2::3] = self._least, self._most
        each = zip(self._sums, self._weights, strict=True)
        flat[1::3] = [total / weight if weight else math.nan for total, weight in each]
        return flat

    def _unfold(self, count: int) -> None:
        if not self._sums:
            self._least, self._most = [math.nan] * count, [math.nan] * count
            self._sums, self._weights = [0.0] * count, [0.0] * count
        if self._only is not None:
            only, self._only = self._only, None
            self._fold_in(only, self.seconds)

    def _fold_in(self, spreads: Sequence[Spread | None], seconds: float) -> None:
        lows, sums, weights, highs = self._least, self._sums, self._weights, self._most
        for index, spread in enumerate(spreads):
            if spread is None:
                continue
            least, mean, most = spread
            if mean != mean:
                continue
            if not lows[index] <= least:  # as `_stretch`, but each second: a call, or `min`, is three times this
                lows[index] = least
            if not highs[index] >= most:
                highs[index] = most
            sums[index] += mean * seconds
            weights[index] += seconds

    def _stretch(self, index: int, least: float, most: float) -> None:
        """No number is neither above nor below any."""
        if not self._least[index] <= least:
            self._least[index] = least
        if not self._most[index] >= most:
            self._most[index] = most
