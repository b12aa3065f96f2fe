"""The words between the agent and its sampler process: one JSON object a line on the child's pipes.

A GPU is told in full when something about it changed that seldom does (its state, limits, errors); else only what each
reading brings is, in a row without names, which costs a third to write and to read. `FrameWriter` and `FrameReader`
are the two ends of that; the first frame of a child tells all in full. Events are told once. Times of reading travel as
CLOCK_MONOTONIC seconds, which on Linux is one clock for all processes: the agent computes every age from it and never
from the wall clock, and a frame that waited in the pipe still tells its true age.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any

import msgspec

from agent.api.types import GpuProcess, GpuReading, GpuSource

EXIT_FRESH = 75
"""Exit status of a child that needs a fresh process (EX_TEMPFAIL of sysexits.h): the driver was exchanged under it."""

UNKNOWN_UUID = "unknown:"
"""With the index, the UUID of a GPU that never answered this child; the agent may remember a better one."""


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The child's one argument, as JSON."""

    source: str
    period_s: float
    library: str | None
    simulated_count: int
    simulated_layout: str = "nvswitch"
    fast_s: float | None = None
    """See `gpu.fast_s` in the configuration."""
    node_name: str
    state_dir: str


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A line on the child's standard input: the GPUs that running jobs hold."""

    uuids: tuple[str, ...]


class Stamped(msgspec.Struct, frozen=True, kw_only=True):
    """A reading and when it was taken."""

    reading: GpuReading
    at: float | None
    """CLOCK_MONOTONIC seconds at which the read began; `None` if this child never read the GPU."""


class EventKind(StrEnum):
    """What the driver tells of by itself."""

    XID = "xid"
    ECC = "ecc"
    """Memory held two wrong bits in one word, or poisoned data could not be contained."""
    POISON = "poison"
    """Poisoned data was met and contained."""
    ROW_RETIRED = "row_retired"
    ROW_NOT_RETIRED = "row_not_retired"
    """There is no spare row left, or it could not be used."""
    UNAVAILABLE = "unavailable"
    """The driver cannot use the GPU any more."""


class GpuEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened once, as the driver told of it."""

    kind: EventKind
    uuid: str
    """The whole GPU's."""
    at: float
    """Unix seconds at which it was heard."""
    code: int | None = None
    """Of an XID."""
    mig_gi: int | None = None
    """The GPU instance (MIG) that it hit; `None`: the GPU, or not told."""


class Fresh(msgspec.Struct, frozen=True, array_like=True):
    """What each reading of a GPU brings, `None` where the driver does not say; names as in `GpuReading`."""

    index: int
    at: float
    """See `Stamped.at`."""
    processes: tuple[GpuProcess, ...] | None
    """`None`: as they were."""
    sampled_at: float
    memory_used_bytes: int | None
    memory_free_bytes: int | None
    utilization_percent: int | None
    power_mw: int | None
    temperature_c: int | None
    memory_temperature_c: int | None
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    memory_utilization_percent: int | None
    encoder_percent: int | None
    decoder_percent: int | None
    throttle: tuple[str, ...] | None
    throttled_percent: float | None
    pcie_rx_bytes_per_s: int | None
    pcie_tx_bytes_per_s: int | None
    nvlink_rx_bytes_per_s: int | None
    nvlink_tx_bytes_per_s: int | None
    sm_active_percent: float | None
    sm_occupancy_percent: float | None
    tensor_active_percent: float | None
    dram_active_percent: float | None
    spreads: dict[str, tuple[float, float, float]]
    energy_mj: int | None
    dropped: int


_Whole = tuple[int | None, ...] | None
_Share = tuple[float | None, ...] | None
_Spread = tuple[float, float, float]


class Swept(msgspec.Struct, frozen=True, array_like=True):
    """As `Fresh`, of GPUs that were asked in one go: a column of each value, `None` where all are as they were."""

    indexes: tuple[int, ...]
    at: float
    processes: tuple[tuple[GpuProcess, ...] | None, ...] | None
    spreads: tuple[tuple[_Spread | None, ...] | None, ...]
    """A column for each of `SPREAD_NAMES`."""
    sampled_at: float
    memory_used_bytes: _Whole
    memory_free_bytes: _Whole
    utilization_percent: _Whole
    power_mw: _Whole
    temperature_c: _Whole
    memory_temperature_c: _Whole
    sm_clock_mhz: _Whole
    memory_clock_mhz: _Whole
    memory_utilization_percent: _Whole
    encoder_percent: _Whole
    decoder_percent: _Whole
    throttle: tuple[tuple[str, ...] | None, ...] | None
    throttled_percent: _Share
    pcie_rx_bytes_per_s: _Whole
    pcie_tx_bytes_per_s: _Whole
    nvlink_rx_bytes_per_s: _Whole
    nvlink_tx_bytes_per_s: _Whole
    sm_active_percent: _Share
    sm_occupancy_percent: _Share
    tensor_active_percent: _Share
    dram_active_percent: _Share
    energy_mj: _Whole
    dropped: tuple[int, ...] | None


SPREAD_NAMES = ("power_mw", "utilization_percent", "memory_utilization_percent")
"""What a reading calls the spread of each of the driver's rings."""


class Renewal:
    """What a reading brings beyond one before it, as it goes into a frame: a whole reading is rarely wanted of it."""

    __slots__ = ("base", "processes", "row")

    def __init__(self, base: GpuReading, processes: tuple[GpuProcess, ...], row: tuple[Any, ...]) -> None:
        """`base` is the reading before, `row` is as `Fresh`, as if the processes were as before."""
        self.base, self.processes, self.row = base, processes, row

    def stamped(self) -> Stamped:
        """The whole reading."""
        values = dict(zip(FRESH_NAMES, self.row[_BEFORE_NAMES:], strict=True))
        return Stamped(reading=msgspec.structs.replace(self.base, processes=self.processes, **values), at=self.row[1])


class News:
    """What a sweep brings about several GPUs: a `Renewal` of each, made only where somebody wants it."""

    __slots__ = ("at", "bases", "columns", "indexes", "processes", "sampled_at", "spreads")

    def __init__(
        self,
        indexes: list[int],
        bases: list[GpuReading],
        at: float,
        sampled_at: float,
        processes: list[tuple[GpuProcess, ...]],
        spreads: Sequence[Sequence[_Spread | None]],
        columns: Sequence[Sequence[Any]],
    ) -> None:
        """As `Swept`; `columns` are all that follow `sampled_at` there. `bases` is the same list while the GPUs are
        swept together and each differs from its base in nothing else.
        """
        self.indexes, self.bases, self.processes = indexes, bases, processes
        self.at, self.sampled_at, self.spreads, self.columns = at, sampled_at, spreads, columns

    def __iter__(self) -> Iterator[Renewal]:
        *columns, energy, dropped = self.columns
        spreads = [
            {name: each for name, each in zip(SPREAD_NAMES, row, strict=True) if each}
            for row in zip(*self.spreads, strict=True)
        ]
        rows = zip(*columns, spreads, energy, dropped, strict=True)
        for index, base, processes, row in zip(self.indexes, self.bases, self.processes, rows, strict=True):
            yield Renewal(base, processes, (index, self.at, None, self.sampled_at, *row))


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A line on the child's standard output, at least one each period."""

    source: GpuSource
    reason: str | None = None
    """Why there are no GPUs, or why they are not known yet."""
    driver_version: str | None = None
    gpus: tuple[Stamped, ...] | None
    """Those that are told in full; `None` while the source is still being opened: what was known before still holds,
    and ages."""
    fresh: tuple[Fresh, ...] = ()
    """Those of which only the values are new."""
    swept: Swept | None = None
    """Likewise, all together."""
    shown: tuple[int, ...] | None = None
    """Indexes of all GPUs in their order, where they are not as in the frame before; one that is neither in `gpus`,
    `fresh` nor `swept` has nothing new."""
    events: tuple[GpuEvent, ...] = ()
    """What was heard since the frame before."""


_BEFORE_NAMES = 3
_SWEPT_COLUMNS = Swept.__struct_fields__[5:]
FRESH_NAMES = Fresh.__struct_fields__[_BEFORE_NAMES:]
"""Of the values that `Fresh` brings."""
_STEADY_NAMES = tuple(name for name in GpuReading.__struct_fields__ if name not in FRESH_NAMES and name != "processes")
_fresh = attrgetter(*FRESH_NAMES)
_steady = attrgetter(*_STEADY_NAMES)
Name = Callable[[tuple[GpuProcess, ...]], tuple[GpuProcess, ...]]
"""Gives processes their users and commands."""


@dataclass(slots=True)
class _Told:
    last: Stamped | Renewal
    base: GpuReading
    """Of what is told in full; a renewal of it is told in short."""
    steady: tuple[object, ...]
    processes: tuple[GpuProcess, ...]


class FrameWriter:
    """Makes frames; remembers what was told."""

    def __init__(
        self, source: GpuSource, driver_version: str | None, name: Name, known: Callable[[], object] = object
    ) -> None:
        """`known` returns the same object for as long as `name` would give the same processes the same names."""
        self._known = known
        self._named_by: object = None
        self._processes: list[tuple[GpuProcess, ...]] = []
        self._source, self._driver_version, self._name = source, driver_version, name
        self._told: dict[int, _Told] = {}
        self._shown: tuple[int, ...] = ()
        self._bases: list[GpuReading] | None = None
        """Of the sweep that the last frame told of, in short."""
        self._columns: Sequence[Sequence[Any] | None] = ()
        self._named: list[tuple[GpuProcess, ...]] = []
        """What was told of it."""
        self._encode = msgspec.json.Encoder().encode

    def write(self, gpus: Iterable[Stamped | Renewal], events: tuple[GpuEvent, ...] = ()) -> bytes:
        """The line that tells what is new about all GPUs there are, and what was heard since the line before."""
        frame = self._swept(gpus) if isinstance(gpus, News) and gpus.bases is self._bases else self._one_by_one(gpus)
        if events:
            frame["events"] = events
        return self._encode(frame) + b"\n"

    def _swept(self, news: News) -> dict[str, object]:
        """Of those that the frame before told of, and of no others."""
        columns: Sequence[Sequence[Any] | None]
        processes: list[tuple[GpuProcess, ...] | None] | None = None
        known, named = self._known(), self._named
        if news.processes is not self._processes or known is not self._named_by:
            self._processes, self._named_by = news.processes, known
            named = [self._name(each) if each else () for each in news.processes]
        if named is not self._named and named != self._named:
            processes = [None if now == then else now for now, then in zip(named, self._named, strict=True)]
            for index, each in zip(news.indexes, named, strict=True):
                self._told[index].processes = each
            self._named = named
        columns = (*news.spreads, *news.columns)
        before, self._columns = self._columns, columns
        if before:
            columns = [None if now == then else now for now, then in zip(columns, before, strict=True)]
        rings = len(SPREAD_NAMES)
        swept = (news.indexes, news.at, processes, columns[:rings], news.sampled_at, *columns[rings:])
        return {"source": self._source, "driver_version": self._driver_version, "gpus": (), "swept": swept}

    def _one_by_one(self, gpus: Iterable[Stamped | Renewal]) -> dict[str, object]:
        full, fresh, told, shown = [], [], self._told, []
        for new in gpus:
            if isinstance(new, Renewal):
                shown.append(index := new.base.index)
                before = told.get(index)
                if before is not None and before.base is new.base:
                    if before.last is not new:
                        fresh.append(self._renewed(before, new))
                    continue
                stamped = new.stamped()
            else:
                stamped = new
                shown.append(index := new.reading.index)
                before = told.get(index)
            reading = stamped.reading
            processes = self._name(reading.processes) if reading.processes else ()
            if before is not None and before.last is new and before.processes == processes:
                continue
            steady = _steady(reading)
            if before is not None and before.steady == steady and stamped.at is not None:
                news = None if before.processes == processes else processes
                fresh.append((index, stamped.at, news, *_fresh(reading)))
                before.last, before.base, before.processes = new, reading, processes
            else:
                full.append(Stamped(reading=msgspec.structs.replace(reading, processes=processes), at=stamped.at))
                told[index] = _Told(new, reading, steady, processes)
        self._bases, self._columns = None, ()
        if isinstance(gpus, News) and not full:
            self._named_by = None
            self._bases, self._named = gpus.bases, [told[index].processes for index in gpus.indexes]
        return self._frame(full, fresh, tuple(shown))

    def _renewed(self, before: _Told, renewal: Renewal) -> tuple[Any, ...]:
        """A renewal as `Fresh`."""
        processes, before.last = renewal.processes, renewal
        named = self._name(processes) if processes else ()
        if named is before.processes or named == before.processes:
            return renewal.row
        before.processes = named
        index, at, _, *values = renewal.row
        return (index, at, named, *values)

    def _frame(self, full: list[Stamped], fresh: list[tuple[object, ...]], shown: tuple[int, ...]) -> dict[str, object]:
        frame: dict[str, object] = {"source": self._source, "driver_version": self._driver_version}
        if shown != self._shown:
            self._shown = frame["shown"] = shown
            self._told = {index: told for index, told in self._told.items() if index in shown}
        frame["gpus"], frame["fresh"] = full, fresh
        return frame


class FrameReader:
    """Puts together what one child tells."""

    def __init__(self) -> None:
        self._known: dict[int, Stamped] = {}
        self._shown: tuple[int, ...] = ()

    def read(self, frame: Frame) -> tuple[Stamped, ...] | None:
        """All GPUs as they are now; `None` while they are not known.

        Raises:
            ValueError: there are news of a GPU that was never told of.
        """
        if frame.gpus is None:
            return None
        is_empty = not (frame.gpus or frame.fresh or frame.swept)
        if is_empty and frame.shown is None and frame.reason is not None:
            self._known, self._shown = {}, ()
        self._known.update({stamped.reading.index: stamped for stamped in frame.gpus})
        if frame.shown is not None:
            self._shown = frame.shown
        try:
            for fresh in frame.fresh:
                self._known[fresh.index] = _renewed(self._known[fresh.index].reading, fresh)
            if frame.swept is not None:
                self._known.update(self._renewed(frame.swept))
            self._known = {index: self._known[index] for index in self._shown}
        except KeyError as error:
            raise ValueError(f"GPU {error} was never told in full") from error
        return tuple(self._known.values())

    def _renewed(self, swept: Swept) -> Iterator[tuple[int, Stamped]]:
        told = [(name, column) for name in _SWEPT_COLUMNS if (column := getattr(swept, name)) is not None]
        rings = [(name, ring) for name, ring in zip(SPREAD_NAMES, swept.spreads, strict=True) if ring is not None]
        for place, index in enumerate(swept.indexes):
            values: dict[str, Any] = {name: column[place] for name, column in told}
            values["spreads"] = spreads = dict(self._known[index].reading.spreads)
            for name, ring in rings:
                spreads.pop(name, None)
                if (spread := ring[place]) is not None:
                    spreads[name] = spread
            if swept.processes is not None and (processes := swept.processes[place]) is not None:
                values["processes"] = processes
            values["sampled_at"] = swept.sampled_at
            reading = msgspec.structs.replace(self._known[index].reading, **values)
            yield index, Stamped(reading=reading, at=swept.at)


def _renewed(reading: GpuReading, fresh: Fresh) -> Stamped:
    values = dict(zip(FRESH_NAMES, _fresh(fresh), strict=True))
    if fresh.processes is not None:
        values["processes"] = fresh.processes
    return Stamped(reading=msgspec.structs.replace(reading, **values), at=fresh.at)
