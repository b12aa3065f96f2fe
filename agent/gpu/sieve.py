"""What a GPU can say and what it cannot: values beyond reason are left out and counted, counters become rates. Pure.

Drivers have been seen to say 2,619 % load, and a counter to leap by 2**32; a plot or a verdict made of that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import le, mul, sub

PERCENT = 100
FAN_PERCENT = 200
"""NVML: over 100 at times."""
TEMPERATURE_C = 200
CLOCK_MHZ = 20_000
MEMORY_BYTES = 2**50
"""Where the whole is not known."""
POWER_LIMITS = 5
"""Times the limit. Peaks of some ms may be twice as high as it."""
POWER_MW = 20_000_000
"""Where the limit is not known."""
PCIE_BYTES_PER_S = 512e9
"""16 lanes of PCIe 7.0 carry 256 GB/s each way."""
NVLINK_BYTES_PER_S = 16e12
"""All links of NVLink 5 carry 0.9 TB/s each way."""


class Sieve:
    """Lets through what can be."""

    def __init__(self) -> None:
        self.dropped = 0
        """What could not be, so far."""

    def whole(self, value: int | None, most: int) -> int | None:
        """The value, if it is not over `most`."""
        if value is None or 0 <= value <= most:
            return value
        self.dropped += 1
        return None

    def all(self, values: Sequence[int | None], most: Sequence[float]) -> list[int | None]:
        """Several values at once, each with the most it can be."""
        kept = [
            None if value is None or not 0 <= value <= limit else value
            for value, limit in zip(values, most, strict=True)
        ]
        if None in kept:
            self.dropped += kept.count(None) - values.count(None)
        return kept

    def share(self, value: float | None) -> float | None:
        """A percentage with a fraction, to one place; no number at all does not pass. A hair over 100 is 100."""
        if value is None:
            return None
        if 0 <= value <= PERCENT:
            return int(10 * value + 0.5) / 10
        if PERCENT < value < PERCENT + 1:
            return 100.0
        self.dropped += 1
        return None


def refused(**told: tuple[int | None, int | None]) -> frozenset[str]:
    """Names of what was said and did not pass."""
    return frozenset(name for name, (said, passed) in told.items() if said is not None and passed is None)


class Rates:
    """The rises a second of several counters that are read together. One that fell began anew and tells nothing until
    the next time.
    """

    def __init__(self, most_per_s: Sequence[float], units: Sequence[int]) -> None:
        """A rise beyond `most_per_s` is a leap: it is left out and counted. A counter counts in its `units`."""
        self._most, self._units = tuple(most_per_s), tuple(units)
        self._counts: Sequence[int | None] = (None,) * len(units)
        self._at = 0.0

    def of(self, counts: Sequence[int | None], monotonic: float, sieve: Sieve) -> list[int | None]:
        """The rates since the call before; `None` at the first one and after a gap."""
        before, passed = self._counts, monotonic - self._at
        self._counts, self._at = counts, monotonic
        if passed <= 0:
            return [None] * len(before)
        if None not in counts and None not in before:
            # Nearly always, and without a look at each: none fell, none leapt.
            rises = list(map(sub, counts, before))
            if min(rises) >= 0:
                usual: list[int | None] = [int(rise / passed + 0.5) for rise in map(mul, rises, self._units)]
                if all(map(le, usual, self._most)):  # type: ignore[arg-type]  # none is None
                    return usual
        rates = [
            None if then is None or now is None or now < then else int((now - then) * unit / passed + 0.5)
            for now, then, unit in zip(counts, before, self._units, strict=True)
        ]
        for place, (rate, most) in enumerate(zip(rates, self._most, strict=True)):
            if rate is not None and rate > most:
                rates[place] = None
                sieve.dropped += 1
        return rates

    def remember(self, counts: Sequence[int | None], monotonic: float) -> None:
        """What came last."""
        self._counts, self._at = counts, monotonic


class Counter:
    """One counter that may leap: a rise of more a second than can be is left out and counted."""

    def __init__(self) -> None:
        self._count: int | None = None
        self._at = 0.0

    def of(self, count: int | None, monotonic: float, most_per_s: float, sieve: Sieve) -> int | None:
        """The count itself, but `None` where it leapt. One that fell began anew."""
        before, passed = self._count, monotonic - self._at
        self.remember(count, monotonic)
        if count is None or before is None or passed <= 0 or count - before <= most_per_s * passed:
            return count
        sieve.dropped += 1
        return None

    def last(self) -> tuple[int | None, float]:
        """The last count, and when it was."""
        return self._count, self._at

    def remember(self, count: int | None, monotonic: float) -> None:
        """What came last."""
        self._count, self._at = count, monotonic
