"""Reading a job's bounded log, while it is written or after: all of it, since a time, or the lines with some text.

The log's files are named by the position of their first byte in everything the job wrote: `log` from 0 on, `log.OFFSET`
for the rotating tail (`output.BoundedLog`). Rule kept here: an offset never changes its meaning. Where bytes were cut,
the next piece simply begins later; a reader that follows asks again from the end of what it got.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.engine import logtimes
from agent.engine.records import AttemptDir

LINE_MOST_BYTES = 64 * 1024
"""A longer line is looked at in pieces of this length; a match across two of them is missed."""

SCAN_MOST_BYTES = 64 * 1024 * 1024
SCAN_MOST_S = 1.0
"""What one `grep` looks through at most; its answer says how far it came."""

_SCAN_BYTES = 1024 * 1024

_TRIES = 5
"""A segment that is listed may have rotated away when it is opened: list again."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes as the job wrote them (unsafe text), and the position of the first."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The position behind the last byte."""
        return self.offset + len(self.data)


def read(attempt: AttemptDir, offset: int, limit: int) -> list[Piece]:
    """Up to `limit` bytes that the log still has from position `offset` on, in order; empty at the end.

    Adjacent bytes are one piece; a jump between pieces, or before the first, means that the bytes between were cut.

    Raises:
        ValueError: `offset` or `limit` is negative.
        OSError: the disk refuses.
    """
    if offset < 0 or limit < 0:
        raise ValueError(f"a log is read from a position and for a length, not from {offset} for {limit}")
    pieces: list[Piece] = []
    for start, path in _files(attempt):
        room = limit - sum(len(piece.data) for piece in pieces)
        if room <= 0:
            break
        begin = max(offset, start, pieces[-1].end if pieces else 0)
        data = _part(path, begin - start, room)
        if not data:
            continue
        if pieces and pieces[-1].end == begin:
            pieces[-1] = Piece(pieces[-1].offset, pieces[-1].data + data)
        else:
            pieces.append(Piece(begin, data))
    return pieces


def size(attempt: AttemptDir) -> int:
    """The position behind the last byte of the log: what the job wrote so far."""
    for _ in range(_TRIES):
        files = _files(attempt)
        if not files:
            break
        try:
            start, path = files[-1]
            end = start + path.stat().st_size
        except FileNotFoundError:
            continue
        ended = attempt.read_exit()
        return end if ended is None else max(end, ended.log_bytes)
    return 0


def offset_since(attempt: AttemptDir, since: float) -> int:
    """The position of the first byte that was written at or after a time, or up to a second (long ago: more) before.

    Args:
        attempt: whose log.
        since: Unix seconds. With no marks, or all of them later, 0; with all of them earlier, the log's end.
    """
    try:
        marks = logtimes.unpack((attempt.path / logtimes.NAME).read_bytes())
    except OSError:
        return 0
    for offset, at_ms, span_ms in marks:
        if at_ms + span_ms > since * 1000:
            return offset
    return size(attempt) if marks else 0


@dataclass(frozen=True, slots=True)
class Matches:
    """Lines of a log with some text."""

    lines: list[Piece]
    """Whole lines with their ends, in order."""
    end: int
    """How far the log was looked through: where to go on."""


def grep(
    attempt: AttemptDir,
    text: bytes,
    offset: int,
    limit: int,
    *,
    ignore_case: bool = False,
    ended: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Matches:
    """Lines from `offset` on that hold `text`, up to `limit` bytes of them.

    Plain text and no pattern: a pattern can be made that takes for ever, and nothing can interrupt it.

    Args:
        attempt: whose log.
        text: what a line must hold; nothing of it has a meaning.
        offset: a position; what it cuts a line in two at, is taken for a line.
        limit: at least one line is given, if one matches.
        ignore_case: of ASCII letters.
        ended: the log grows no more: a last line without an end counts.
        clock: for the time limit.
    """
    wanted = re.compile(re.escape(text), re.IGNORECASE if ignore_case else 0)
    found: list[Piece] = []
    room, scanned, give_up_at = limit, 0, clock() + SCAN_MOST_S
    while room > 0 and scanned < SCAN_MOST_BYTES and clock() < give_up_at:
        pieces, before = read(attempt, offset, _SCAN_BYTES), offset
        at_end = sum(len(piece.data) for piece in pieces) < _SCAN_BYTES
        for line in _lines(pieces, rest=ended and at_end):
            offset = line.end
            if wanted.search(line.data):
                found.append(line)
                room -= len(line.data)
                if room <= 0:
                    break
        scanned += offset - before
        if at_end:
            break
    return Matches(found, offset)


def _lines(pieces: list[Piece], *, rest: bool) -> Iterator[Piece]:
    """The lines of some pieces. What a gap cuts off is one; what the last piece ends with only if `rest`."""
    for place, piece in enumerate(pieces, start=1):
        data, begin = piece.data, 0
        while begin < len(data):
            end = data.find(b"\n", begin, begin + LINE_MOST_BYTES) + 1
            if not end and len(data) - begin >= LINE_MOST_BYTES:
                end = begin + LINE_MOST_BYTES
            elif not end and place == len(pieces) and not rest:
                return
            line = data[begin : end or len(data)]
            yield Piece(piece.offset + begin, line)
            begin += len(line)


def _files(attempt: AttemptDir) -> list[tuple[int, Path]]:
    """The log's files by the position of their first byte."""
    try:
        names = {each.name for each in attempt.path.iterdir()}
    except FileNotFoundError:
        return []
    starts = [(int(name[4:]), name) for name in names if name.startswith("log.") and name[4:].isdigit()]
    if "log" in names:
        starts.append((0, "log"))
    return [(start, attempt.path / name) for start, name in sorted(starts)]


def _part(path: Path, begin: int, length: int) -> bytes:
    """Bytes of one file; empty where it has none, or has rotated away: those bytes are cut now."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(length)
    except FileNotFoundError:
        return b""
