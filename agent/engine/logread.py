"""Reading a job's bounded log, while it is written or after.

The log's files are named by the position of their first byte in everything the job wrote: `log` from 0 on, `log.OFFSET`
for the rotating tail (`output.BoundedLog`). Rule kept here: an offset never changes its meaning. Where bytes were cut,
the next piece simply begins later; a reader that follows asks again from the end of what it got.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.engine.records import AttemptDir

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
