"""When which part of a job's log was written: the file `times` beside the log.

A mark is three numbers of 8 bytes, big-endian: the position of a byte in everything that the job wrote, when it came
(milliseconds since 1970), and for how long after that it stands for what follows, up to the next mark. One is made at
most once a second. The file is bounded: when it is full the older half loses every other mark, whose span goes to the
one before, so the last hours are told to the second and what was weeks ago to the hour.

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
MARKS_MOST = 16_384
"""393 kB at most."""

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
        self._fd = self._create(NAME)

    def mark(self, offset: int) -> None:
        """Bytes from `offset` on are about to be written."""
        now = self._monotonic()
        if now < self._due_at or self._fd is None:
            return
        self._due_at = now + _STEP_MS / 1000
        at_ms = int(self._wall() * 1000)
        try:
            if self._count >= MARKS_MOST:
                self._thin()
            os.pwrite(self._fd, pack(offset, at_ms, _STEP_MS), self._count * MARK_BYTES)
            self._count += 1
        except OSError:
            self.close()

    def close(self) -> None:
        """No more marks."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _thin(self) -> None:
        """Write the file anew without every other mark of its older half."""
        assert self._fd is not None
        marks = unpack(os.pread(self._fd, MARKS_MOST * MARK_BYTES, 0))
        half = len(marks) // 4 * 2
        kept = [_joined(marks[at], marks[at + 1]) for at in range(0, half, 2)] + marks[half:]
        fd = self._create(f"{NAME}.tmp")
        if fd is None:
            raise OSError("no new file")
        os.write(fd, b"".join(pack(*each) for each in kept))
        os.rename(f"{NAME}.tmp", NAME, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        os.close(self._fd)
        self._fd, self._count = fd, len(kept)

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
    numbers = [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data) - len(data) % MARK_BYTES, 8)]
    return list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))


def _joined(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    """The first of two marks, which covers both; a clock that was set back makes no negative span."""
    return one[0], one[1], max(one[2], other[1] + other[2] - one[1])
