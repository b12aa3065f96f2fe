"""One file of fixed size that keeps a set of metrics for a year: four rings, each finer one shorter.

    page 0      who we are, which metrics; the boot under which it was last written
    1 s   ring  an hour          row = bucket number, CRC, seconds measured, (least, mean, most) of each metric
    10 s  ring  two days         a row's place is its bucket number modulo the ring's length,
    1 min ring  30 days          and its number tells whether it is this lap's
    10 min ring a year

Rules kept here: every block is taken when the file is made, so that a full disk is met then and never later; a row is a
power of two long and lies within one page, so that a death of ours leaves it old or new; after another boot (a power
cut may have torn pages) each row proves itself by its CRC or is forgotten; a gap stays a gap.

All calls block; they are made by the thread that owns the file, but `columns`, which any thread may call.
"""

from __future__ import annotations

import errno
import json
import math
import os
import struct
import threading
import zlib
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agent.api.errors import StokerError
from agent.jobs.durable import sync_folder
from agent.telemetry.bucket import Bucket, Spread

_PAGE_BYTES = 4096
_BOOT_AT = 2048
_BOOT_BYTES = 64
_PIECE_BYTES = 256 * 1024
_WRITTEN_AT_ONCE = 2
"""Rings whose newest bucket is always on file."""
_LATER_S = 10
"""How long the others' buckets, which reach the file with the next `sync`, are not told."""
_LATER_MOST = 30
"""So many times that long waits for a disk that refuses: five minutes, beyond which the oldest is lost."""
_HEAD = struct.Struct("<IIf")  # bucket number, CRC of what follows it, seconds measured
_NUMBER_CRC = struct.Struct("<II")
_FORMAT = 1
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One ring: how wide its buckets are, and how many it keeps."""

    width_s: int
    rows: int

    @property
    def span_s(self) -> int:
        """How far back it reaches; the oldest row may be under way to be overwritten."""
        return self.width_s * (self.rows - 1)


TIERS = (
    Tier(width_s=1, rows=3_600 + 16),
    Tier(width_s=10, rows=17_280 + 16),
    Tier(width_s=60, rows=43_200 + 16),
    Tier(width_s=600, rows=52_704 + 16),
)
"""An hour, two days, thirty days, 366 days. Whole pages of rows, for every length of row up to 256 bytes."""

SPANS = {"hour": TIERS[:1], "days": TIERS[:2], "month": TIERS[:3], "year": TIERS}
"""The rings by the words of `telemetry.history`."""


class RingFileError(StokerError):
    """The file cannot be made, opened or understood; history goes on without it."""


class _Later(NamedTuple):
    """What was measured within ten seconds, of one bucket of each coarse ring."""

    turn: int
    numbers: list[int]
    samples: list[tuple[Sequence[Spread | None], float]]


class Columns:
    """One metric over a range of buckets, as stored: `numbers[i]` tells whose values stand at `i`.

    Bare numbers side by side; a year of them as objects would be a quarter of a million.
    """

    def __init__(self, lead: int, rows: int) -> None:
        """Room for `rows`, after `lead` rows of which nothing is known."""
        self.numbers = array("I", bytes(4 * (lead + rows)))
        self.seconds, self.least, self.mean, self.most = (array("f", bytes(4 * (lead + rows))) for _ in range(4))

    def take(self, at: int, rows: memoryview, row: int, metric: int) -> None:
        """Put rows, each `row` words long, from place `at` on; the metric's values begin at the word `metric`."""
        floats, end = rows.cast("f"), at + len(rows) // (4 * row)
        memoryview(self.numbers)[at:end] = rows.cast("I")[::row]
        for column, word in ((self.seconds, 2), (self.least, metric), (self.mean, metric + 1), (self.most, metric + 2)):
            memoryview(column)[at:end] = floats[word::row]


class RingFile:
    """See above."""

    def __init__(self, path: Path, metrics: Sequence[str], fd: int, tiers: Sequence[Tier]) -> None:
        self.path = path
        self.metrics = tuple(metrics)
        self.tiers = tuple(tiers)
        self._fd = fd
        self._closing = threading.Lock()
        """Between who closes and who begins to read on another thread."""
        self._row = row_bytes(len(self.metrics))
        self._values = struct.Struct(f"<{3 * len(self.metrics)}f")
        self._body = struct.Struct(f"<f{3 * len(self.metrics)}f{self._row - _HEAD.size - 12 * len(self.metrics)}x")
        self._places = _places(self.tiers, self._row)
        self._open: list[Bucket | None] = [None] * len(self.tiers)
        self._numbers = [0] * len(self.tiers)
        """Of each open bucket: Unix seconds of its beginning, divided by the ring's width."""
        self._told_s = [0.0] * len(self.tiers)
        """Seconds of each open bucket that are on file."""
        self._blank = [range(0)] * len(self.tiers)
        """Numbers of which no row is on file: nothing is read for them when their time comes."""
        self._at_once = min(_WRITTEN_AT_ONCE, len(self.tiers))
        self._later: deque[_Later] = deque(maxlen=_LATER_MOST)
        """What the coarse buckets have not had yet, the oldest first."""

    @classmethod
    def open(cls, path: Path, metrics: Sequence[str], boot_id: str, tiers: Sequence[Tier] = TIERS) -> RingFile:
        """Open the file, or make it.

        One of other metrics (an older or newer version's) is made anew, with what both know carried over; one that
        makes no sense is set aside as `NAME.damaged`.

        Raises:
            RingFileError: the disk refuses.
        """
        try:
            found = _Found.read(path)
            if found is not None and found.holds(metrics, tiers):
                return cls._adopt(path, found, metrics, boot_id, tiers)
            ring = cls._make(path, metrics, boot_id, tiers, carry=found)
        except OSError as error:
            raise RingFileError(f"the history {path} cannot be opened: {error.strerror}; see its disk") from error
        return ring

    @classmethod
    def metrics_of(cls, path: Path) -> tuple[str, ...]:
        """What a file keeps; nothing where it cannot be understood.

        Raises:
            OSError: the disk refuses.
        """
        found = _Found.read(path)
        return found.metrics if found is not None and found.whole else ()

    def close(self) -> None:
        """Put everything on disk and let go.

        Raises:
            OSError: the disk refuses.
        """
        try:
            self.sync()
        finally:
            with self._closing:
                fd, self._fd = self._fd, -1
            os.close(fd)

    def sync(self) -> None:
        """Put everything on disk, coarse buckets that are not full yet too.

        Raises:
            OSError: the disk refuses.
        """
        self._take_later(0)
        for index in range(len(self._open)):
            self._put(index)
        os.fdatasync(self._fd)

    # --- writing ------------------------------------------------------------------------------------------------------

    def add(self, at: float, spreads: Sequence[Spread | None], seconds: float = 1.0) -> None:
        """Take in what was measured in the `seconds` that end at `at`.

        The finest rings have it at once, the others when a bucket is full or at the next `sync`.

        Args:
            at: Unix seconds.
            spreads: of each metric, in their order.
            seconds: how long that stood for.

        Raises:
            OSError: the disk refuses.
        """
        second = int(at)
        numbers = [second // tier.width_s for tier in self.tiers]
        turn, coarse = second // _LATER_S, numbers[self._at_once :]
        if not self._later or self._later[-1].turn != turn or self._later[-1].numbers != coarse:
            self._later.append(_Later(turn, coarse, []))
        self._later[-1].samples.append((spreads, seconds))
        for index in range(self._at_once):
            self._open_at(index, numbers[index]).add(spreads, seconds)
            self._put(index)
        if len(self._later) > 1:
            self._take_later(1)

    def _take_later(self, keep: int) -> None:
        """What the coarse buckets have not had yet goes into them, at once: each second into each was half the work.

        All of them are opened before any has it, and it is let go of after that: what the disk refuses comes later, and
        once.
        """
        while len(self._later) > keep:
            later = self._later[0]
            buckets = [self._open_at(index, number) for index, number in enumerate(later.numbers, start=self._at_once)]
            together = Bucket()
            for spreads, seconds in later.samples:
                together.add(spreads, seconds)
            for bucket in buckets:
                bucket.join(together)
            self._later.popleft()

    def _open_at(self, index: int, number: int) -> Bucket:
        """A ring's bucket of that number; the one before is put on file."""
        bucket = self._open[index]
        if bucket is None or self._numbers[index] != number:
            if bucket is not None:
                self._put(index)
            bucket = self._open[index] = self._resume(index, number)
            self._numbers[index], self._told_s[index] = number, bucket.seconds
        return bucket

    def _resume(self, index: int, number: int) -> Bucket:
        """The bucket as it was left: after a restart, or where the clock was set back."""
        bucket, blank = Bucket(), self._blank[index]
        if number in blank:
            self._blank[index] = range(number + 1, blank.stop)
            return bucket
        stored = os.pread(self._fd, self._row * self._ahead(index, number), self._place(index, number))
        if len(stored) < self._row:
            return bucket
        numbers = memoryview(stored).cast("I")[:: self._row // 4]
        known = [ahead for ahead in range(1, len(numbers)) if numbers[ahead] == number + ahead]
        self._blank[index] = range(number + 1, number + (known[0] if known else len(numbers)))
        row = stored[: self._row]
        was, _, seconds = _HEAD.unpack_from(row)
        if was == number and seconds > 0 and _is_whole(row):
            flat = self._values.unpack_from(row, _HEAD.size)
            bucket.add(list(zip(flat[::3], flat[1::3], flat[2::3], strict=True)), seconds)
        return bucket

    def _ahead(self, index: int, number: int) -> int:
        """How many rows are read at once when only one is wanted; what comes next is wanted soon."""
        rows = self.tiers[index].rows
        return min(_PAGE_BYTES // self._row, rows - number % rows)

    def _put(self, index: int) -> None:
        bucket = self._open[index]
        if bucket is not None and bucket.seconds != self._told_s[index]:
            number, flat = self._numbers[index], bucket.flat()
            os.pwrite(self._fd, self._encoded(number, bucket.seconds, flat), self._place(index, number))
            self._told_s[index] = bucket.seconds

    def _encoded(self, number: int, seconds: float, flat: Sequence[float]) -> bytes:
        body = self._body.pack(seconds, *flat)
        return _NUMBER_CRC.pack(number, zlib.crc32(body, number)) + body

    def _place(self, index: int, number: int) -> int:
        return self._places[index] + number % self.tiers[index].rows * self._row

    # --- reading ------------------------------------------------------------------------------------------------------

    def columns(self, index: int, metric: str, first: int, last: int, lead: int = 0) -> Columns:
        """One metric of the buckets `first` to `last`, at most a lap of them, after `lead` empty rows. Any thread may
        ask.

        Raises:
            OSError: the disk refuses; EBADF, the file is closed.
        """
        rows = self.tiers[index].rows
        count = max(0, min(last - first + 1, rows))
        begin = first % rows
        head = min(count, rows - begin)
        found = Columns(lead, count)
        with self._closing:  # a descriptor of its own: the number of a closed one may be another file's by now
            fd = os.dup(self._fd)
        try:
            self._gather(fd, found, metric, lead, self._places[index] + begin * self._row, head)
            self._gather(fd, found, metric, lead + head, self._places[index], count - head)
        finally:
            os.close(fd)
        return found

    def _gather(self, fd: int, found: Columns, metric: str, at: int, place: int, rows: int) -> None:
        """Put rows that lie side by side from `at` on; pieces that stay in the processor's cache are three times as
        fast, and a mapped file would kill us where its disk fails.
        """
        word = _HEAD.size // 4 + 3 * self.metrics.index(metric)
        piece = memoryview(bytearray(min(_PIECE_BYTES, rows * self._row)))
        end = at + rows
        while at < end:
            piece = piece[: (end - at) * self._row]
            if os.preadv(fd, [piece], place) < len(piece):
                raise OSError(errno.EIO, f"{self.path} is shorter than it was made")
            found.take(at, piece, self._row // 4, word)
            place, at = place + len(piece), at + len(piece) // self._row

    # --- making, opening ----------------------------------------------------------------------------------------------

    @classmethod
    def _adopt(cls, path: Path, found: _Found, metrics: Sequence[str], boot_id: str, tiers: Sequence[Tier]) -> RingFile:
        ring = cls(path, metrics, os.open(path, _OLD), tiers)
        if found.boot_id != boot_id:
            ring._forget_torn()
            os.fdatasync(ring._fd)
            os.pwrite(ring._fd, boot_id.encode().ljust(_BOOT_BYTES, b"\0"), _BOOT_AT)
        return ring

    @classmethod
    def _make(
        cls, path: Path, metrics: Sequence[str], boot_id: str, tiers: Sequence[Tier], carry: _Found | None
    ) -> RingFile:
        """Written whole under another name first; a death of ours on the way leaves the old one."""
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        ring = cls(path, metrics, os.open(temporary, _NEW, 0o644), tiers)
        try:
            os.pwrite(ring._fd, _header(metrics, boot_id, tiers), 0)
            os.posix_fallocate(ring._fd, 0, file_bytes(len(ring.metrics), ring.tiers))
            if carry is not None and carry.metrics:
                ring._carry(carry)
            os.fsync(ring._fd)
            if carry is not None and not carry.metrics:
                path.rename(path.with_name(f"{path.name}.damaged"))
            temporary.rename(path)
            sync_folder(path.parent)
        except OSError:
            os.close(ring._fd)
            temporary.unlink(missing_ok=True)
            raise
        return ring

    def _carry(self, old: _Found) -> None:
        """Rows of a file of other metrics, with what both know."""
        other = RingFile(old.path, old.metrics, os.open(old.path, os.O_RDONLY | os.O_CLOEXEC), old.tiers)
        absent = (math.nan,) * 3
        try:
            for index, tier in enumerate(self.tiers):
                if tier not in other.tiers:
                    continue
                for number, seconds, flat in other._stored(other.tiers.index(tier)):
                    known = {name: flat[3 * at : 3 * at + 3] for at, name in enumerate(other.metrics)}
                    values = [value for name in self.metrics for value in known.get(name, absent)]
                    os.pwrite(self._fd, self._encoded(number, seconds, values), self._place(index, number))
        finally:
            os.close(other._fd)

    def _stored(self, index: int) -> list[tuple[int, float, tuple[float, ...]]]:
        """All whole rows of a ring."""
        size = self.tiers[index].rows * self._row
        data = os.pread(self._fd, size, self._places[index])
        found = []
        for at in range(0, len(data) - self._row + 1, self._row):
            row = data[at : at + self._row]
            number, _, seconds = _HEAD.unpack_from(row)
            if seconds > 0 and _is_whole(row):
                found.append((number, seconds, self._values.unpack_from(row, _HEAD.size)))
        return found

    def _forget_torn(self) -> None:
        """Rows that do not prove themselves become gaps."""
        for place in self.torn():
            os.pwrite(self._fd, bytes(self._row), place)

    def torn(self) -> list[int]:
        """Where rows lie that do not prove themselves."""
        found = []
        for index, tier in enumerate(self.tiers):
            data = os.pread(self._fd, tier.rows * self._row, self._places[index])
            for at in range(0, len(data), self._row):
                row = data[at : at + self._row]
                if not _is_whole(row) and row.count(0) != len(row):
                    found.append(self._places[index] + at)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the first page of a file says; without metrics when it says nothing that we understand."""

    path: Path
    metrics: tuple[str, ...] = ()
    tiers: tuple[Tier, ...] = ()
    boot_id: str = ""
    whole: bool = False

    @classmethod
    def read(cls, path: Path) -> _Found | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            page, size = os.pread(fd, _PAGE_BYTES, 0), os.fstat(fd).st_size
        finally:
            os.close(fd)
        try:
            said: dict[str, Any] = json.loads(page[:_BOOT_AT].rstrip(b"\0"))
            metrics = tuple(str(name) for name in said["metrics"])
            tiers = tuple(Tier(width_s=int(width), rows=int(rows)) for width, rows in said["tiers"])
            if said["format"] != _FORMAT or not metrics:
                return cls(path=path)
        except (ValueError, KeyError, TypeError):
            return cls(path=path)
        boot_id = page[_BOOT_AT : _BOOT_AT + _BOOT_BYTES].rstrip(b"\0").decode("ascii", "replace")
        whole = size == file_bytes(len(metrics), tiers)
        return cls(path=path, metrics=metrics, tiers=tiers, boot_id=boot_id, whole=whole)

    def holds(self, metrics: Sequence[str], tiers: Sequence[Tier]) -> bool:
        return self.whole and self.metrics == tuple(metrics) and self.tiers == tuple(tiers)


def row_bytes(metrics: int) -> int:
    """The length of a row: the next power of two, at least 32."""
    return max(32, 1 << (_HEAD.size + 12 * metrics - 1).bit_length())


def file_bytes(metrics: int, tiers: Sequence[Tier] = TIERS) -> int:
    """The size of a file, from its making to its end."""
    return _PAGE_BYTES + sum(tier.rows for tier in tiers) * row_bytes(metrics)


def _places(tiers: Sequence[Tier], row: int) -> list[int]:
    places, at = [], _PAGE_BYTES
    for tier in tiers:
        places.append(at)
        at += tier.rows * row
    return places


def _header(metrics: Sequence[str], boot_id: str, tiers: Sequence[Tier]) -> bytes:
    said = {
        "what": "telemetry of Stoker",
        "format": _FORMAT,
        "metrics": list(metrics),
        "tiers": [[tier.width_s, tier.rows] for tier in tiers],
    }
    page = json.dumps(said).encode().ljust(_BOOT_AT, b"\0") + boot_id.encode().ljust(_BOOT_BYTES, b"\0")
    return page.ljust(_PAGE_BYTES, b"\0")


def _is_whole(row: bytes) -> bool:
    number, crc, _ = _HEAD.unpack_from(row)
    return bool(zlib.crc32(row[8:], number) == crc)
