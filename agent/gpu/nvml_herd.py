"""GPUs that are read in brief, all together: what a second brings while all is as it was and as it should be. A part
of the door to `pynvml`.

A value of eight GPUs is one tuple, and one comparison says of all of them that it can be; GPU by GPU the same costs
the interpreter five times as much. Whatever is out of the ordinary (a call that fails, a value that cannot be, a
counter that fell, another driver's types) ends the herd before anything of that round was remembered: its GPUs are read
in full, where each is told what its values are worth, and those that are well are a herd again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from operator import gt, le, sub
from typing import Any

import pynvml

from agent.api.types import GpuProcess
from agent.gpu import sieve
from agent.gpu.frames import News
from agent.gpu.nvml_brief import SECOND_S, Brief, Second
from agent.gpu.nvml_fields import OFTEN
from agent.gpu.nvml_glance import throttled_percent
from agent.gpu.nvml_gpm import NO_SHARES
from agent.gpu.nvml_plain import PLAIN_VALUES
from agent.gpu.nvml_processes import WINDOW_US
from agent.gpu.nvml_rings import SAMPLE, SILENT_S, Spread, Unpackers, news_of, spread_of, unpackers_of
from agent.gpu.nvml_sweep import ASKED_IN_TURN, RINGS, Asked, Sweep
from agent.gpu.nvml_words import throttle_of

_Values = Sequence[Any]
"""One value of each GPU."""
_COUNTS = 5
"""Of each GPU in `Sweep.counts`."""
_HAIR = 1
"""By which a share may be over 100, see `Sieve.share`."""
_QUIET = (0, pynvml.NVML_ERROR_NOT_FOUND)
"""What rings and use may answer, which have no news at times."""
_Spreads = Sequence[Sequence[Spread | None]]
"""Of each ring what each GPU has new in it."""
_ALL_BITS = 2**64 - 1


@dataclass(slots=True, kw_only=True)
class _Seconds:
    """What was read at one moment of what is read once a second, of each GPU."""

    at: float
    memory_celsius: _Values
    counts: Sequence[_Values]
    rates: Sequence[_Values]
    shares: Sequence[_Values]
    processes: list[tuple[GpuProcess, ...]]


def alike(briefs: Sequence[Brief]) -> list[Brief]:
    """Those that can be in one herd with the first."""
    kind = briefs[0].kind
    for brief in briefs:
        if brief.kind == kind:
            brief.kind = kind  # from now on found to be the same at once
    return [brief for brief in briefs if brief.kind is kind]


class Herd:
    """Some GPUs that are alike, from the moment they are well until one is not."""

    def __init__(
        self, library: ctypes.CDLL, briefs: list[Brief], units: Sequence[int], most_per_s: Sequence[float]
    ) -> None:
        """`units` and `most_per_s` are those of the counters, see `Rates`."""
        self._units, self._most_per_s = units, most_per_s
        self._members, count = briefs, len(briefs)
        self.indexes = [brief.index for brief in briefs]
        self._nothing: _Values = (None,) * count
        self._zeros: _Values = (0,) * count
        bases = [brief.base for brief in briefs if brief.base is not None]
        seconds = [brief.second for brief in briefs if brief.second is not None]
        kind = briefs[0].kind
        assert kind is not None and len(bases) == len(seconds) == count, "those that are ready have learnt"
        self._kind, self._bases = kind, bases
        self._totals = tuple([base.memory_total_bytes for base in bases])
        self._reserved = tuple([base.memory_reserved_bytes for base in bases])
        self._most_mw = [brief.most_mw for brief in briefs]
        self._sieves = [brief.parts.sieve for brief in briefs]
        self._most_of = (self._most_mw, [float(sieve.PERCENT)] * count, [float(sieve.PERCENT)] * count)
        """What values of each ring can be."""
        self._coding = ([base.encoder_percent for base in bases], [base.decoder_percent for base in bases])
        self._heads = [(head,) * count for head in kind.fields.heads]
        last = [brief.parts.energy.last() for brief in briefs]
        self._energy: _Values = [energy for energy, _ in last]
        self._energy_at = max(at for _, at in last)
        columns = [
            self._nothing if set(column) == {None} else column
            for column in zip(*(each.fields for each in seconds), strict=True)
        ]
        self._seconds = _Seconds(
            at=max(each.at for each in seconds),
            memory_celsius=columns[0],
            counts=columns[1:],
            rates=list(zip(*(each.rates for each in seconds), strict=True)),
            shares=list(zip(*(each.shares for each in seconds), strict=True)),
            processes=[each.processes for each in seconds],
        )
        rings = list(zip(*(brief.parts.rings for brief in briefs), strict=True))
        self._since = [[each.since for each in ring] for ring in rings]
        self._heard_at = [[each.heard_at for each in ring] for ring in rings]
        """Of each ring, GPU by GPU."""
        self.ready_until = 0.0
        """Till then its GPUs are ready without a look at each; set by who looks."""
        self._taken = 0
        """GPM's samples, each GPU's."""
        self._spreads: _Spreads = [self._nothing] * len(rings)
        """What the rings told when they were asked last."""
        self._unpackers: list[dict[int, Unpackers]] = [{} for _ in rings]
        """Of each ring, by what an answer told of its type and number: no two need have the same room."""
        self._throttle: tuple[_Values, _Values] = ((), ())
        """Of each GPU what it said holds its clocks down, and that in words."""
        self._compared: tuple[Any, ...] = ()
        """GPM's answer that the last shares were made of."""
        self._listed: list[bytes] = [b""] * count
        """The processes of each GPU, as they were answered last."""
        self._whole = False
        """What is asked now is what is read once a second."""
        self._now = self._at = 0.0
        gpus = [Asked(handle=brief.handle, samples=brief.parts.gpm.pair() if kind.gpm else (0, 0)) for brief in briefs]
        self._sweep = Sweep(library, kind, gpus)
        self._prepare()
        for brief in briefs:
            brief.herd = self

    def is_of(self, briefs: list[Brief]) -> bool:
        """Whether these are its GPUs, and it is still one."""
        return bool(briefs) and briefs == self._members

    @property
    def is_one(self) -> bool:
        """Whether it was not dissolved."""
        return bool(self._members)

    def start(self, now: float, monotonic: float) -> bool:
        """Make ready to ask; whether that can be."""
        passed = monotonic - self._seconds.at
        if passed <= 0:
            return False
        self._now, self._at, self._whole = now, monotonic, passed >= SECOND_S
        self._sweep.start(turn=self._taken % 2 if self._whole else None, use_since=max(0, int(now * 1e6) - WINDOW_US))
        return True

    def ask(self) -> None:
        """Make the calls. May block for ever."""
        self._sweep.ask()

    def asking(self) -> int | None:
        """The GPU that is being asked, as any thread may see; `None` once all were."""
        place = self._sweep.asking()
        return None if place is None else self.indexes[place]

    def abandon(self) -> None:
        """No GPU is asked after the one that is, and the herd is no more: by another thread than the one that asks."""
        self._sweep.abandon()
        self.dissolve()

    def _prepare(self) -> None:
        """Make ready for the next second: now, while all that it takes is in the processor's caches."""
        self._sweep.prepare(self._since)

    def fold(self) -> News | None:
        """What is new about each; `None` if one of them is not as it should be, and all are to be read in full."""
        found = self._look() if self._sweep.is_whole and self._members else None
        if found is None:
            self.dissolve()
        return found

    def dissolve(self) -> None:
        """Each GPU gets back what is its own."""
        members, self._members = self._members, []
        seconds = self._seconds
        own = zip(
            members,
            zip(seconds.memory_celsius, *seconds.counts, strict=True),
            zip(*seconds.rates, strict=True),
            zip(*seconds.shares, strict=True),
            seconds.processes,
            strict=False,  # of no members once it was
        )
        for place, (brief, fields, rates, shares, processes) in enumerate(own):
            parts, brief.herd = brief.parts, None
            parts.rates.remember(fields[1:], seconds.at)
            parts.energy.remember(self._energy[place], self._energy_at)
            for ring, since, heard_at in zip(parts.rings, self._since, self._heard_at, strict=True):
                ring.resume(since[place], heard_at[place])
            if self._kind.gpm:
                parts.gpm.resume(self._taken, seconds.at)
            brief.second = Second(
                at=seconds.at, fields=fields, rates=rates, spreads={}, shares=shares, processes=processes
            )

    def _look(self) -> News | None:
        if any(self._sweep.codes) and not self._is_quiet():
            return None
        flat, width = self._sweep.answers(), self._sweep.width
        columns = [flat[place::width] for place in range(width)]
        if not self._can_be(columns):
            return None
        spreads: _Spreads = [self._nothing] * len(RINGS)
        if self._whole:
            counts = self._sweep.counts()
            rings = self._rings(counts)
            seconds = self._read_seconds(columns, counts)
            if seconds is None or rings is None:
                return None
            self._seconds, (spreads, self._since, self._heard_at) = seconds, rings
            self._spreads = spreads
            self._taken += 1
            self._prepare()
        self._energy, self._energy_at = columns[4], self._at
        told = self._told(columns)
        return News(self.indexes, self._bases, self._at, self._now, self._seconds.processes, spreads, told)

    def _is_quiet(self) -> bool:
        """Whether only those calls failed that have no news at times."""
        may_be = self._sweep.may_be_quiet()
        return all(
            code == 0 or (code in _QUIET and place in may_be)
            for codes in self._sweep.codes_of_each()
            for place, code in enumerate(codes)
        )

    def _can_be(self, columns: Sequence[_Values]) -> bool:
        """Whether the plain values can be, and those that seldom change did not."""
        total, reserved, _, used, energy, _, busy, memory_busy, power, celsius, sm, memory = columns[:PLAIN_VALUES]
        passed = self._at - self._energy_at
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
            and all(map(le, map(sub, energy, self._energy), [most * passed for most in self._most_mw]))
        )

    def _read_seconds(self, columns: Sequence[_Values], counts: Sequence[int]) -> _Seconds | None:
        found = self._fields(columns)
        if found is None:
            return None
        rates, shares = self._rates(found[1:]), self._shares()
        if rates is None or shares is None:
            return None
        celsius, *counters = found
        if celsius is not self._nothing:
            if max(celsius) > sieve.TEMPERATURE_C:
                return None
            if 0 in celsius:  # no sensor
                celsius = [each or None for each in celsius]
        return _Seconds(
            at=self._at,
            memory_celsius=celsius,
            counts=counters,
            rates=rates,
            shares=shares,
            processes=self._processes(counts),
        )

    def _processes(self, counts: Sequence[int]) -> list[tuple[GpuProcess, ...]]:
        """As they were where nothing is new, which is as good as nobody coming or going."""
        sweep, before = self._sweep, self._seconds.processes
        listed = sweep.processes(counts[3::_COUNTS]) if self._kind.processes else self._listed
        asked = self._kind.use and self._taken % 2 == 1
        if not asked and listed == self._listed and self._taken:
            return before
        codes = sweep.codes_of_each() if asked else ()
        uses = [
            sweep.uses(place, 0 if each[-1] else counts[_COUNTS * place + 4]) for place, each in enumerate(codes)
        ] or self._nothing
        found = [
            then
            if rows == rows_then and self._taken and (use is None or brief.parts.processes.use.is_told(use))
            else brief.parts.processes.put(rows, use, self._at, brief.parts.sieve)
            for brief, then, rows, rows_then, use in zip(self._members, before, listed, self._listed, uses, strict=True)
        ]
        self._listed = listed
        return before if found == before else found

    def _rings(self, counts: Sequence[int]) -> tuple[_Spreads, list[list[int]], list[list[float]]] | None:
        """Of each GPU what is new in the driver's rings, or was told last of those that are not asked in this turn; of
        each ring up to which sample, and when there was news. `None` if one is not as it should be.
        """
        spreads: list[Sequence[Spread | None]] = []
        sinces, heard = [], []
        for ring, room in enumerate(self._kind.rooms):
            since, heard_at = self._since[ring], self._heard_at[ring]
            found = self._spreads[ring]
            if room and ring in ASKED_IN_TURN[self._taken % 2]:
                found, newest = self._ring(ring, room, counts[ring::_COUNTS], since)
                if any(map(gt, since, newest)):
                    return None  # a clock went back
                if all(map(gt, newest, since)):
                    heard_at = [self._at] * len(newest)
                else:
                    heard_at = [
                        self._at if then != now else at for then, now, at in zip(since, newest, heard_at, strict=True)
                    ]
                    if self._at - min(heard_at) > SILENT_S:
                        return None
                since = newest
            spreads.append(found)
            sinces.append(since)
            heard.append(heard_at)
        return spreads, sinces, heard

    def _ring(
        self, ring: int, room: int, tolds: Sequence[int], sinces: Sequence[int]
    ) -> tuple[list[Spread | None], list[int]]:
        """What is new in one ring of each GPU, and its newest sample."""
        buffer, start, size = self._sweep.samples[ring], 0, room * SAMPLE
        found: list[Spread | None] = []
        newest = []
        unpackers = self._unpackers[ring]
        for told, since, most, own_sieve in zip(tolds, sinces, self._most_of[ring], self._sieves, strict=True):
            usual = unpackers.get(told)
            if usual is None and (usual := unpackers_of(told, room)):
                unpackers[told] = usual
            if usual is not None and since:
                # As `news_of` and `spread_of` where all is as it should be: two calls less for each of 24 rings.
                values = usual[0](buffer, start)
                first, last = usual[1](buffer, start)
                ordered = sorted(values)
                low, high = ordered[0], ordered[-1]
                if since < first <= last and low >= 0 and high <= most:
                    found.append((low, low if low == high else sum(values) / len(values), high))
                    newest.append(last)
                    start += size
                    continue
            fresh, seen = news_of(told, room, buffer, since or None, start)
            found.append(spread_of(fresh, own_sieve, most) if fresh else None)
            newest.append(seen or 0)
            start += size
        return found, newest

    def _fields(self, columns: Sequence[_Values]) -> list[_Values] | None:
        """A column for each of `OFTEN`; `None` if one did not come as it uses to."""
        usual = self._kind.fields
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

    def _rates(self, counts: Sequence[_Values]) -> list[_Values] | None:
        """As `Rates`; `None` if a counter fell or leapt."""
        before, passed = self._seconds.counts, self._at - self._seconds.at
        rates: list[_Values] = []
        for now, then, unit, most in zip(counts, before, self._units, self._most_per_s, strict=True):
            if now is self._nothing:
                rates.append(now)
            elif now == then:
                rates.append(self._zeros)
            elif None in then:
                return None
            else:
                a_second = unit / passed
                risen = [int(rise * a_second + 0.5) for rise in map(sub, now, then)]
                if min(risen) < 0 or max(risen) > most:
                    return None
                rates.append(risen)
        return rates

    def _shares(self) -> list[_Values] | None:
        """GPM's, as `Sieve.share`; `None` if one failed or is none."""
        if not self._kind.gpm:
            return [self._nothing] * len(NO_SHARES)
        flat = self._sweep.compared(self._taken % 2)
        if flat == self._compared:  # of GPUs that do nothing, each second
            return list(self._seconds.shares)
        values = flat[1::2]
        most = max(values)
        # What is no number at all is in the sum.
        if any(flat[::2]) or not (
            min(values) >= 0 and most < sieve.PERCENT + _HAIR and sum(values) < len(values) * (sieve.PERCENT + _HAIR)
        ):
            return None
        shares: list[float] = [int(10 * value + 0.5) / 10 for value in values]
        if most > sieve.PERCENT:
            shares = [min(share, 100.0) for share in shares]
        self._compared = flat
        return [shares[place :: len(NO_SHARES)] for place in range(len(NO_SHARES))]

    def _told(self, columns: Sequence[_Values]) -> Sequence[_Values]:
        """As the columns of `News`."""
        _, _, free, used, energy, reasons, busy, memory_busy, power, celsius, sm, memory = columns[:PLAIN_VALUES]
        seconds = self._seconds
        if reasons != self._throttle[0]:
            self._throttle = (reasons, list(map(throttle_of, reasons)))
        *moved, power_rate, heat_rate = seconds.rates
        if power_rate is self._zeros and heat_rate is self._zeros:
            throttled: _Values = self._zeros
        else:
            *_, power_ns, heat_ns = seconds.counts
            throttled = list(map(throttled_percent, power_ns, heat_ns, power_rate, heat_rate, self._throttle[1]))
        return (
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
            self._throttle[1],
            throttled,
            *moved,
            *seconds.shares,
            energy,
            [each.dropped for each in self._sieves],
        )
