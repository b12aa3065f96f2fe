"""The answers of all GPUs that are read in brief, looked at side by side. A part of the door to `pynvml`.

A value of eight GPUs is one tuple, and one comparison says of all of them that it can be; GPU by GPU the same costs
the interpreter five times as much. As soon as one answer is out of the ordinary each is looked at alone, and the one
that it was goes the long way.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from operator import le, mul, sub
from typing import Any

from agent.api.types import GpuProcess
from agent.gpu import sieve
from agent.gpu.frames import Renewal
from agent.gpu.nvml_brief import Asked, Brief, Second
from agent.gpu.nvml_fields import OFTEN
from agent.gpu.nvml_glance import throttled_percent
from agent.gpu.nvml_gpm import NO_SHARES
from agent.gpu.nvml_plain import PLAIN_VALUES
from agent.gpu.nvml_words import throttle_of

_Values = Sequence[Any]
"""One value of each GPU."""
_GPM_VALUES = 2 * len(NO_SHARES)
_HAIR = 1
"""By which a share may be over 100, see `Sieve.share`."""


@dataclass(slots=True, kw_only=True)
class _Seconds:
    """What was read at one moment of what is read once a second, of each GPU."""

    ats: _Values
    memory_celsius: _Values
    counts: Sequence[_Values]
    rates: Sequence[_Values]
    shares: Sequence[_Values]
    processes: Sequence[tuple[GpuProcess, ...]]


class Herd:
    """The GPUs that are read in brief, for as long as they stay the same ones."""

    def __init__(self, units: Sequence[int], most_per_s: Sequence[float]) -> None:
        """Of the counters, see `Rates`."""
        self._units, self._most_per_s = units, most_per_s
        self._lock = threading.Lock()
        self._members: list[Brief] = []
        self._bases: _Values = ()
        self._indexes: _Values = ()
        self._totals: _Values = ()
        self._reserved: _Values = ()
        self._most_mw: _Values = ()
        self._coding: tuple[_Values, _Values] = ((), ())
        self._nothing: _Values = ()
        self._zeros: _Values = ()
        self._heads: list[_Values] = []
        self._energy: _Values = ()
        self._energy_ats: _Values = ()
        self._seconds: _Seconds | None = None

    def fold(self, asked: list[Asked]) -> list[Renewal | None]:
        """What is new about each; `None` where it is to be read the long way. Calls nothing of the driver."""
        first = asked[0]
        with self._lock:
            found = None
            if all(each.brief.kind is first.brief.kind and each.whole is first.whole for each in asked):
                found = self._look(asked)
            if found is not None:
                return found
            self._dissolve()
            if len(asked) == 1:
                first.brief.send_back(first)
                return [None]
        return [renewal for each in asked for renewal in self.fold([each])]

    def give_back(self, brief: Brief) -> None:
        """A GPU is about to be read the long way: the parts of it know what is known here."""
        with self._lock:
            if brief in self._members:
                self._dissolve()

    # --- with the lock held -------------------------------------------------------------------------------------------

    def _look(self, asked: list[Asked]) -> list[Renewal | None] | None:
        """What is new, if all is as it should be; else nothing is remembered."""
        members = [each.brief for each in asked]
        if members != self._members:
            self._dissolve()
            self._gather(members)
        seconds = self._seconds
        if seconds is None:
            return None
        columns = list(zip(*[each.flat for each in asked], strict=True))
        ats = [each.at for each in asked]
        if not self._can_be(columns, ats):
            return None
        if asked[0].whole:
            seconds = self._read_seconds(columns, ats, asked, seconds)
            if seconds is None:
                return None
            self._seconds = seconds
            for each in asked:
                each.brief.second_at = each.at
        self._energy, self._energy_ats = columns[4], ats
        rows = zip(*self._told(columns, asked, ats, seconds), strict=True)
        return list(map(Renewal, self._bases, seconds.processes, rows))

    def _can_be(self, columns: Sequence[_Values], ats: _Values) -> bool:
        """Whether the plain values can be, and those that seldom change did not."""
        total, reserved, _, used, energy, _, busy, memory_busy, power, celsius, sm, memory = columns[:PLAIN_VALUES]
        return (
            total == self._totals
            and reserved == self._reserved
            and max(busy) <= sieve.PERCENT
            and max(memory_busy) <= sieve.PERCENT
            and max(celsius) <= sieve.TEMPERATURE_C
            and max(sm) <= sieve.CLOCK_MHZ
            and max(memory) <= sieve.CLOCK_MHZ
            and all(map(le, used, total))
            and all(map(le, power, self._most_mw))
            # As `Counter`: none leapt.
            and all(map(le, map(sub, energy, self._energy), map(mul, self._most_mw, map(sub, ats, self._energy_ats))))
        )

    def _read_seconds(
        self, columns: Sequence[_Values], ats: _Values, asked: list[Asked], before: _Seconds
    ) -> _Seconds | None:
        found = self._fields(columns)
        if found is None:
            return None
        rates = self._rates(found[1:], list(map(sub, ats, before.ats)), before.counts)
        shares = self._shares(columns)
        if rates is None or shares is None:
            return None
        celsius, *counts = found
        if celsius is not self._nothing:
            if max(celsius) > sieve.TEMPERATURE_C:
                return None
            if 0 in celsius:  # no sensor
                celsius = [each or None for each in celsius]
        return _Seconds(
            ats=ats,
            memory_celsius=celsius,
            counts=counts,
            rates=rates,
            shares=shares,
            processes=[each.processes for each in asked],
        )

    def _fields(self, columns: Sequence[_Values]) -> list[_Values] | None:
        """A column for each of `OFTEN`; `None` if one did not come as it uses to."""
        kind = self._members[0].kind
        assert kind is not None
        usual = kind.fields
        end = PLAIN_VALUES + 2 * len(usual.asked)
        if columns[PLAIN_VALUES:end:2] != self._heads:
            return None
        found = [
            values if mask == _ALL_BITS else [value & mask for value in values]
            for values, mask in zip(columns[PLAIN_VALUES + 1 : end : 2], usual.masks, strict=True)
        ]
        if len(found) == len(OFTEN):
            return found
        told = dict(zip((number for number, _ in usual.asked), found, strict=True))
        return [told.get(number, self._nothing) for number in OFTEN]

    def _rates(self, counts: Sequence[_Values], passed: _Values, before: Sequence[_Values]) -> list[_Values] | None:
        """As `Rates`; `None` if a counter fell or leapt."""
        if min(passed) <= 0:
            return None
        rates: list[_Values] = []
        for now, then, unit, most in zip(counts, before, self._units, self._most_per_s, strict=True):
            if now is self._nothing:
                rates.append(now)
            elif now == then:
                rates.append(self._zeros)
            elif None in then:
                return None
            else:
                rises = list(map(sub, now, then))
                risen = [int(rise * unit / seconds + 0.5) for rise, seconds in zip(rises, passed, strict=True)]
                if min(rises) < 0 or max(risen) > most:
                    return None
                rates.append(risen)
        return rates

    def _shares(self, columns: Sequence[_Values]) -> list[_Values] | None:
        """GPM's, as `Sieve.share`; `None` if one failed or is none."""
        kind = self._members[0].kind
        if kind is None or not kind.gpm:
            return [self._nothing] * len(NO_SHARES)
        found: list[_Values] = []
        for codes, values in zip(columns[-_GPM_VALUES::2], columns[1 - _GPM_VALUES :: 2], strict=True):
            most = max(values)
            # What is no number at all is in the sum.
            if any(codes) or not (
                min(values) >= 0
                and most < sieve.PERCENT + _HAIR
                and sum(values) < len(values) * (sieve.PERCENT + _HAIR)
            ):
                return None
            shares = [int(10 * value + 0.5) / 10 for value in values]
            found.append(shares if most <= sieve.PERCENT else [min(share, 100.0) for share in shares])
        return found

    def _told(
        self, columns: Sequence[_Values], asked: list[Asked], ats: _Values, seconds: _Seconds
    ) -> Sequence[_Values]:
        """As `Fresh`, a column for each."""
        _, _, free, used, energy, reasons, busy, memory_busy, power, celsius, sm, memory = columns[:PLAIN_VALUES]
        throttle = list(map(throttle_of, reasons))
        *moved, power_rate, heat_rate = seconds.rates
        if power_rate is self._zeros and heat_rate is self._zeros:
            throttled: _Values = self._zeros
        else:
            *_, power_ns, heat_ns = seconds.counts
            throttled = list(map(throttled_percent, power_ns, heat_ns, power_rate, heat_rate, throttle))
        return (
            self._indexes,
            ats,
            self._nothing,
            [each.now for each in asked],
            used,
            free,
            busy,
            power,
            celsius,
            seconds.memory_celsius,
            sm,
            memory,
            memory_busy,
            *self._coding,
            throttle,
            throttled,
            *moved,
            *seconds.shares,
            [each.spreads for each in asked],
            energy,
            [each.brief.parts.sieve.dropped for each in asked],
        )

    def _gather(self, members: list[Brief]) -> None:
        """These are the herd from now on."""
        bases = [each.base for each in members]
        seconds = [each.second for each in members]
        if None in bases or None in seconds:
            return
        self._members, self._bases, count = members, bases, len(members)
        self._nothing, self._zeros = (None,) * count, (0,) * count
        self._indexes = [base.index for base in bases if base]
        self._totals = tuple([base.memory_total_bytes for base in bases if base])
        self._reserved = tuple([base.memory_reserved_bytes for base in bases if base])
        self._most_mw = [each.most_mw for each in members]
        self._coding = (
            [base.encoder_percent for base in bases if base],
            [base.decoder_percent for base in bases if base],
        )
        kind = members[0].kind
        assert kind is not None
        self._heads = [(head,) * count for head in kind.fields.heads]
        counters = [each.parts.energy.last() for each in members]
        if None in (count for count, _ in counters):
            return
        self._energy, self._energy_ats = zip(*counters, strict=True)
        columns = [
            self._nothing if set(column) == {None} else column
            for column in zip(*(each.fields for each in seconds if each), strict=True)
        ]
        celsius, *counts = columns
        self._seconds = _Seconds(
            ats=[each.at for each in seconds if each],
            memory_celsius=celsius,
            counts=counts,
            rates=list(zip(*(each.rates for each in seconds if each), strict=True)),
            shares=list(zip(*(each.shares for each in seconds if each), strict=True)),
            processes=[each.processes for each in seconds if each],
        )

    def _dissolve(self) -> None:
        """Each GPU gets back what is its own."""
        members, seconds = self._members, self._seconds
        self._members, self._seconds = [], None
        if seconds is None:
            return
        fields = zip(seconds.memory_celsius, *seconds.counts, strict=True)
        own = zip(
            members,
            self._energy,
            self._energy_ats,
            seconds.ats,
            fields,
            zip(*seconds.rates, strict=True),
            zip(*seconds.shares, strict=True),
            seconds.processes,
            strict=True,
        )
        for brief, energy, energy_at, at, found, rates, shares, processes in own:
            second = Second(at=at, fields=found, rates=rates, spreads={}, shares=shares, processes=processes)
            brief.settle(energy, energy_at, second)


_ALL_BITS = 2**64 - 1
