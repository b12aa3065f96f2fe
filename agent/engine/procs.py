"""Processes told apart for certain: pid plus start time, signalled through a pidfd only.

A pid is a number that the kernel gives out again; a pid with its start time is one process. `open_exact` pins the
process with a pidfd first and compares the start time after, so whatever happens between, a signal reaches the
process that was meant or nobody.

Used by the shim as well as the agent: nothing but cheap imports here (see `lean`), hence `os` and not `pathlib`.
"""

# ruff: noqa: PTH208

from __future__ import annotations

import os
import time

from agent.engine.lean import read_all, signal

_SWEEP_PAUSE_S = 0.005


class Stat:
    """The fields of /proc/PID/stat that we use; proc_pid_stat(5)."""

    __slots__ = ("parent", "start", "state")

    def __init__(self, state: str, parent: int, start: int) -> None:
        self.state = state
        """`Z` and `X` are dead."""
        self.parent = parent
        self.start = start
        """Clock ticks after boot, field 22."""


def read_stat(pid: int) -> Stat | None:
    """The process's stat, or `None` when there is no such process."""
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name is in parentheses and may itself hold spaces and parentheses: count from the last one.
    fields = data[data.rindex(b")") + 2 :].split()
    return Stat(fields[0].decode(), int(fields[1]), int(fields[19]))


def start_ticks(pid: int) -> int:
    """Start time of a process that must exist.

    Raises:
        ProcessLookupError: it does not.
    """
    stat = read_stat(pid)
    if stat is None:
        raise ProcessLookupError(f"no process {pid}")
    return stat.start


_boot_id: list[str] = []
"""Once it was read: no process sees two boots."""


def boot_id() -> str:
    """This boot's id: a start time means something only together with it."""
    if not _boot_id:
        _boot_id.append(_read("/proc/sys/kernel/random/boot_id").decode().strip())
    return _boot_id[0]


def open_exact(pid: int, start: int) -> int | None:
    """A pidfd of the very process that had this pid at this start time; `None` when it has ended. Close it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    stat = read_stat(pid)
    if stat is not None and stat.start == start and stat.state not in "ZX":
        return pidfd
    os.close(pidfd)
    return None


def signal_exact(pid: int, start: int, number: int) -> bool:
    """Send a signal to that very process; False when it had ended, or is not ours to signal (a set-uid program)."""
    pidfd = open_exact(pid, start)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)
    return True


def descendants(root: int) -> list[tuple[int, int]]:
    """(pid, start) of everything alive below `root`, parents before children.

    A snapshot of something that moves: a process may fork while it is read, so a sweep repeats it until nothing
    is left. Each one listed was, when its start time was read, a child of a process in the list or of `root`.
    """
    known = {root}
    found: list[tuple[int, int]] = []
    ahead = [root]
    while ahead:
        for pid in children(ahead.pop()):
            stat = read_stat(pid)
            if stat is None or pid in known or stat.parent not in known:
                continue
            known.add(pid)
            ahead.append(pid)
            if stat.state not in "ZX":
                found.append((pid, stat.start))
    return found


def children(pid: int) -> list[int]:
    """Pids of the direct children, those of all its threads."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        found.extend(int(each) for each in _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def kill_left(pid: int, start: int, marks: list[bytes], timeout_s: float = 2.0) -> int:
    """Kill a process that lost its shim, all below it, and all that carry `marks`; returns how many were killed.

    Without its shim nothing gathers the orphans of a job. What ran away from the tree is known by its environment:
    every one of `marks` (`NAME=value`) must be in it; with no marks, only the tree is killed. A process that ran
    away *and* cleared its environment is out of reach here (a systemd unit has it in its cgroup).
    """
    killed: set[tuple[int, int]] = set()
    give_up = time.monotonic() + timeout_s
    while True:
        left = _tree(pid, start) | (_marked(marks) if marks else set())
        if not left or time.monotonic() > give_up:
            return len(killed)
        killed |= {each for each in left if signal_exact(*each, signal.SIGKILL)}
        time.sleep(_SWEEP_PAUSE_S)


def _tree(pid: int, start: int) -> set[tuple[int, int]]:
    stat = read_stat(pid)
    if stat is None or stat.start != start:
        return set()
    return {*([(pid, start)] if stat.state not in "ZX" else []), *descendants(pid)}


def _marked(marks: list[bytes]) -> set[tuple[int, int]]:
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        if set(marks) <= set(_read(f"/proc/{name}/environ").split(b"\0")):
            stat = read_stat(int(name))
            if stat is not None and stat.state not in "ZX":
                found.add((int(name), stat.start))
    return found


def _read(path: str) -> bytes:
    """A file of /proc; empty when its process is gone or is not ours to look at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    try:
        return read_all(fd)
    except (ProcessLookupError, PermissionError):
        return b""
    finally:
        os.close(fd)
