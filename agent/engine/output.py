"""Where a job's output goes: the bounded log, and the files that `--output` and `--error` name.

    pipe ──► BoundedLog   log                        the first `head_bytes`
         │                times                      when what was written (`logtimes`)
         │                log.00000000000016777216   segments of the rotating tail, named by the position of their
         │                log.…                      first byte in everything the job wrote
         └─► OutputFile   opened as the user, capped

Rules kept here: a job is never held up or ended by its output; the log's use of the disk is fixed, with the agent dead
too; no file is opened for a user with more rights than the user has. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os
import stat

from agent.engine.jobproc import Account, StartError, raw
from agent.engine.logtimes import LogTimes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TAIL_SEGMENTS = 4
"""The tail rotates by a quarter of its cap: after a rotation three quarters of it are still there."""


class BoundedLog:
    """Head and rotating tail of everything a job wrote.

    Bytes that the disk refuses are counted and dropped: a gap, like the one that the cap makes. The next write tries
    again.
    """

    def __init__(self, dir_fd: int, head_bytes: int, tail_bytes: int) -> None:
        self.size = 0
        """Bytes written by the job so far, kept or not."""
        self._dir_fd = dir_fd
        self._tail_bytes = tail_bytes
        self._segment_bytes = max(1, tail_bytes // TAIL_SEGMENTS)
        self._segments: list[tuple[str, int]] = []
        """Name and reserved length of the tail's files, oldest first."""
        self._times = LogTimes(dir_fd)
        self._fd: int | None = None
        self._room = 0
        self._head_bytes: int | None = head_bytes
        """Until something is written: a job that says nothing has no log."""

    def write(self, data: bytes) -> None:
        """Take in what the job wrote. Never raises for a disk that is full or broken."""
        self._begin()
        self._times.mark(self.size)
        rest = memoryview(data)
        while rest:
            if self._room == 0:
                rest = self._skip(rest)
                if not rest or not self._rotate():
                    self.size += len(rest)
                    return
            part = rest[: self._room]
            written = self._put(part)
            self.size += written
            self._room -= written
            rest = rest[written:]
            if written < len(part):
                self._room = 0
                self.size += len(rest)
                return

    def _begin(self) -> None:
        if self._head_bytes is None:
            return
        self._fd = self._create("log")
        self._room, self._head_bytes = self._head_bytes if self._fd is not None else 0, None

    def _skip(self, rest: memoryview) -> memoryview:
        """Drop what would rotate out again within this write."""
        surplus = len(rest) - self._segment_bytes * TAIL_SEGMENTS
        if surplus <= 0 and self._tail_bytes:
            return rest
        skipped = len(rest) if not self._tail_bytes else surplus
        self.size += skipped
        return rest[skipped:]

    def _rotate(self) -> bool:
        """Begin the next segment of the tail; the oldest make room for it first."""
        while self._segments and sum(length for _, length in self._segments) + self._segment_bytes > self._tail_bytes:
            self._remove(self._segments.pop(0)[0])
        self.close()
        name = f"log.{self.size:020d}"
        self._fd = self._create(name)
        if self._fd is None:
            return False
        self._room = self._segment_bytes
        self._segments.append((name, self._room))
        return True

    def _put(self, part: memoryview) -> int:
        """Bytes that reached the file; fewer than given when the disk refuses."""
        done = 0
        while done < len(part) and self._fd is not None:
            try:
                done += os.write(self._fd, part[done:])
            except OSError:
                break
        return done

    def _create(self, name: str) -> int | None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o600, dir_fd=self._dir_fd)
        except OSError:
            return None

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._dir_fd)
        except OSError:
            return

    def close(self) -> None:
        """Let go of the file; a later write begins a new one, or is dropped."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class OutputFile:
    """A file of the user's that the job's output is copied to, up to a cap."""

    def __init__(
        self, path: str, account: Account, umask: int, *, append: bool, max_bytes: int, may_come: Callable[[], bool]
    ) -> None:
        """Open it as the user; tried again for as long as `may_come` says that a missing folder may yet be made.

        Raises:
            StartError: as Slurm, which fails a job whose output cannot be opened.
        """
        self.problem: str | None = None
        """Why it is not whole, in a sentence."""
        self._path = path
        self._max_bytes = max_bytes
        self._fd: int | None = None
        while self._fd is None:
            self._fd = _open_as(account, path, umask, may_come)
        if not append and stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, 0)
        self._room = max(0, max_bytes - os.fstat(self._fd).st_size)

    def write(self, data: bytes) -> None:
        """Append; what is above the cap is dropped, after one line that says so."""
        if self._fd is None:
            return
        self._put(memoryview(data)[: self._room])
        self._room -= min(self._room, len(data))
        if self._room == 0 and self._fd is not None:
            self._cut()

    def _cut(self) -> None:
        self.problem = f"{self._path} was cut at {self._max_bytes} bytes"
        self._put(
            memoryview(
                f"\n[stoker: cut at {self._max_bytes} bytes, the limit jobs.output_max_bytes; "
                "the end of the output is in the job's log: stoker logs]\n".encode()
            )
        )
        self.close()

    def _put(self, rest: memoryview) -> None:
        while rest and self._fd is not None:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except OSError as error:
                self.problem = f"{self._path} is not whole: {error.strerror}; the job's log goes on"
                self.close()

    def close(self) -> None:
        """Let go of the file; a later write begins a new one, or is dropped."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def open_input(path: str | None, account: Account) -> int:
    """The file of `--input`, opened as the user; /dev/null when there is none.

    Raises:
        StartError: it cannot be opened, or is no file.
    """
    if path is None:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        account.assume()
        fd = os.open(raw(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(f"cannot open the input file {path}: {error.strerror}; see --input") from error
    finally:
        account.leave()
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
        os.close(fd)
        raise StartError(f"cannot open the input file {path}: it is not a file; see --input")
    os.set_blocking(fd, True)
    return fd


def _open_as(account: Account, path: str, umask: int, may_come: Callable[[], bool]) -> int | None:
    # Non-blocking: opening a fifo without a reader would wait for ever.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    before = os.umask(umask)
    try:
        account.assume()
        fd = os.open(raw(path), flags, 0o666)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and may_come():
            return None
        raise StartError(_explain(path, error.strerror, os.path.islink(raw(path)))) from error  # noqa: PTH114
    finally:
        account.leave()
        os.umask(before)
    facts = os.fstat(fd)
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
        os.set_blocking(fd, True)
        return fd
    if stat.S_ISCHR(facts.st_mode):
        return fd
    os.close(fd)
    what = "it has other hard links" if stat.S_ISREG(facts.st_mode) else "it is not a file"
    raise StartError(_explain(path, what, False))


def _explain(path: str, reason: str | None, is_link: bool) -> str:
    reason = "it is a symbolic link" if is_link else reason
    return f"cannot open the output file {path}: {reason}; make its folder, or name another with --output or --error"
