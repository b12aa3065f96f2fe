"""When which part of a job's log was written: the file `times` beside the log.

A mark is three numbers of 8 bytes, big-endian: the position of a byte in everything that the job wrote, when it came
(milliseconds since 1970), and for how long after that it stands for what follows, up to the next mark. One is made at
most once a second. The file is bounded: when it is full, neighbours become one where what they stand for together is
still short against its age (1/512 of it), so the last minutes are told to the second and last week to 20 minutes.

Rules kept here: marks are a help and no record, so no disk fault is told and nothing is flushed; half a mark at the end
is not one. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "times"
MARK_BYTES = 24
MARKS_MOST = 8192
"""197 kB at most. A year of marks at 1/512 of their age are 6,200."""

_AGE_PARTS = 512

_STEP_MS = 1000


class LogTimes:
    """The writing side, the shim's."""

    def __init__(
        self, dir_fd: int, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._dir_fd = dir_fd
        self._count = 0
        self._due_at = 0.0
        self._fd: int | None = None
        self._closed = False

    def mark(self, offset: int) -> None:
        """Bytes from `offset` on are about to be written."""
        now = self._monotonic()
        if now < self._due_at or self._closed:
            return
        if self._fd is None:  # only now: many jobs say nothing
            self._fd = self._create(NAME)
        if self._fd is None:
            self._closed = True
            return
        self._due_at = now + _STEP_MS / 1000
        at_ms = int(self._wall() * 1000)
        try:
            if self._count >= MARKS_MOST:
                self._thin(at_ms)
            os.pwrite(self._fd, pack(offset, at_ms, _STEP_MS), self._count * MARK_BYTES)
            self._count += 1
        except OSError:
            self.close()

    def close(self) -> None:
        """No more marks."""
        self._closed = True
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _thin(self, now_ms: int) -> None:
        """Write the file anew with fewer marks."""
        assert self._fd is not None
        kept = thinned(os.pread(self._fd, MARKS_MOST * MARK_BYTES, 0), now_ms)
        fd = self._create(f"{NAME}.tmp")
        if fd is None:
            raise OSError("no new file")
        os.write(fd, kept)
        os.rename(f"{NAME}.tmp", NAME, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        os.close(self._fd)
        self._fd, self._count = fd, len(kept) // MARK_BYTES

    def _create(self, name: str) -> int | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, flags, 0o600, dir_fd=self._dir_fd)
        except OSError:
            return None


def pack(offset: int, at_ms: int, span_ms: int) -> bytes:
    """A mark's bytes."""
    return offset.to_bytes(8, "big") + at_ms.to_bytes(8, "big") + span_ms.to_bytes(8, "big")


def unpack(data: bytes) -> list[tuple[int, int, int]]:
    """The whole marks in some bytes."""
    return [_mark(data, at) for at in range(0, len(data) - len(data) % MARK_BYTES, MARK_BYTES)]


def thinned(data: bytes, now_ms: int) -> bytes:
    """Marks with neighbours joined; at most half of them where that was not enough (a clock that went wild)."""
    kept = bytearray()
    before: tuple[int, int, int] | None = None
    for at in range(0, len(data), MARK_BYTES):
        mark = _mark(data, at)
        if before is not None:
            span_ms = mark[1] + mark[2] - before[1]
            if before[2] <= span_ms <= (now_ms - before[1]) // _AGE_PARTS:
                before = (before[0], before[1], span_ms)
                continue
            kept += pack(*before)
        before = mark
    kept += pack(*before) if before else b""
    return bytes(kept) if len(kept) < len(data) * 7 // 8 else _halved(bytes(kept))


def _halved(data: bytes) -> bytes:
    kept = bytearray()
    for at in range(0, len(data) - MARK_BYTES, 2 * MARK_BYTES):
        one, other = _mark(data, at), _mark(data, at + MARK_BYTES)
        kept += pack(one[0], one[1], max(one[2], other[1] + other[2] - one[1]))
    return bytes(kept) + (data[-MARK_BYTES:] if len(data) // MARK_BYTES % 2 else b"")


def _mark(data: bytes, at: int) -> tuple[int, int, int]:
    return tuple(int.from_bytes(data[at + part : at + part + 8], "big") for part in (0, 8, 16))  # type: ignore[return-value]
