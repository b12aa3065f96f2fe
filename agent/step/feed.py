"""What the ranks read: srun's own standard input, to one of them or to all.

Rules kept here: as srun(1) `--input` has it, all ranks get all of it; a rank that does not read holds up the others
only when a megabyte waits for it. Cheap imports only (see `words`).
"""

# ruff: noqa: PTH116

from __future__ import annotations

import os
import select
import stat

from agent.step.words import StepError

_PIECE = 64 * 1024
_MOST_WAITING = 1024 * 1024


class Feed:
    """The descriptors that ranks read from, and the copying where several read the same pipe."""

    def __init__(self, asked: str | None, ranks: int) -> None:
        """Find what each rank reads.

        Raises:
            StepError: the file cannot be opened.
        """
        self._waiting: dict[int, bytes] = {}
        """Our ends of the ranks' pipes, with what each has still to be given."""
        self._source: int | None = None
        self.fds = self._open(asked or "all", ranks)

    def register(self, poll: select.poll) -> None:
        """Watch what may move now."""
        room = max(map(len, self._waiting.values()), default=0) < _MOST_WAITING
        if self._source is not None:
            poll.register(self._source, select.POLLIN if room else 0)
        for fd, data in self._waiting.items():
            poll.register(fd, select.POLLOUT if data else 0)

    def handle(self, fd: int, poll: select.poll) -> bool:
        """Move what `fd` is ready for; whether it was ours."""
        if fd == self._source:
            self._read(poll)
        elif fd in self._waiting:
            self._give(fd, poll)
        else:
            return False
        self.register(poll)
        return True

    def started(self) -> None:
        """The ranks have theirs: close our copies."""
        for fd in set(self.fds) - {0}:
            os.close(fd)

    def _open(self, asked: str, ranks: int) -> list[int]:
        if asked == "all" and ranks == 1:
            return [0]
        if asked == "none" or (asked == "all" and _is_null(0)):
            return [os.open(os.devnull, os.O_RDONLY)] * ranks
        if asked.isascii() and asked.isdigit():
            null = os.open(os.devnull, os.O_RDONLY)
            return [0 if rank == int(asked) else null for rank in range(ranks)]
        if asked != "all" or stat.S_ISREG(os.fstat(0).st_mode):
            path = "/proc/self/fd/0" if asked == "all" else asked
            try:
                return [os.open(path, os.O_RDONLY) for _ in range(ranks)]
            except OSError as error:
                raise StepError(f"Could not open stdin file {path}: {error.strerror}") from error
        return self._pipes(ranks)

    def _pipes(self, ranks: int) -> list[int]:
        theirs = []
        for _ in range(ranks):
            read, write = os.pipe()
            os.set_blocking(write, False)
            theirs.append(read)
            self._waiting[write] = b""
        self._source = 0
        return theirs

    def _read(self, poll: select.poll) -> None:
        try:
            data = os.read(0, _PIECE)
        except OSError:
            data = b""
        if data:
            self._waiting = {fd: waiting + data for fd, waiting in self._waiting.items()}
            return
        poll.unregister(0)
        self._source = None
        for fd in [fd for fd, waiting in self._waiting.items() if not waiting]:
            self._drop(fd, poll)

    def _give(self, fd: int, poll: select.poll) -> None:
        try:
            self._waiting[fd] = self._waiting[fd][os.write(fd, self._waiting[fd]) :]
        except BlockingIOError:
            return
        except OSError:  # the rank reads no more
            self._drop(fd, poll)
            return
        if not self._waiting[fd] and self._source is None:
            self._drop(fd, poll)

    def _drop(self, fd: int, poll: select.poll) -> None:
        try:  # noqa: SIM105 - contextlib is not worth its import here
            poll.unregister(fd)
        except KeyError:
            pass
        del self._waiting[fd]
        os.close(fd)


def _is_null(fd: int) -> bool:
    try:
        return os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev and stat.S_ISCHR(os.fstat(fd).st_mode)
    except OSError:
        return True
