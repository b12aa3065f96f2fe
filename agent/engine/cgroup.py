"""A cgroup (v2) of the job's own, where it runs in no unit and we may make one: as root, or in a delegated folder.

    <our own cgroup>/stoker-job-PID-START      PID and START are the shim's, so no name is ever met twice in one boot

It gives what the tree of processes cannot: `cgroup.kill` ends everything of the job at once, also after the shim has
died and whatever the job did to its environment. Limits are set as far as our own cgroup may hand the controllers on,
which it may not while processes live in it (cgroups(7), no internal processes), so the launcher promises none. Cheap
imports only (see `lean`).
"""

from __future__ import annotations

import os
import time

from agent.engine import procs
from agent.engine.lean import fork_into, read_file, write_file

_PREFIX = "stoker-job-"
_PERIOD_US = 100_000
"""Of cpu.max; the kernel's default."""

_TRIES = 50
_PAUSE_S = 0.002
"""A cgroup whose last process has just been reaped may take a moment to be empty."""


class JobCgroup:
    """One that was made."""

    def __init__(self, path: str) -> None:
        self.path = path

    def limit(self, memory_bytes: int | None, tasks_max: int | None, cpus: int | None) -> None:
        """Set what can be set."""
        wanted = {
            "memory.max": memory_bytes,
            "memory.swap.max": None if memory_bytes is None else 0,
            "pids.max": tasks_max,
            "cpu.max": None if cpus is None else f"{cpus * _PERIOD_US} {_PERIOD_US}",
        }
        for name, value in wanted.items():
            if value is not None:
                write_file(f"{self.path}/{name}", str(value))

    def fork(self) -> int:
        """As `os.fork`, with the child in it; where that is refused, the job runs as it would without.

        In it from its first moment: to move a process in takes 15 ms on a machine where nobody else does (the kernel
        waits for an RCU grace period), and holds up whoever forks meanwhile.
        """
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return os.fork()
        try:
            return fork_into(folder)
        except (OSError, ImportError):
            pid = os.fork()
            if pid == 0:
                write_file(f"{self.path}/cgroup.procs", "0")
            return pid
        finally:
            os.close(folder)

    def counts_memory_kills(self) -> str | None:
        """The file that counts the processes that were killed for memory."""
        path = f"{self.path}/memory.events"
        return path if os.access(path, os.R_OK) else None

    def remove(self) -> None:
        """Once it is empty; a process that cannot be killed keeps it."""
        for _ in range(_TRIES):
            try:
                os.rmdir(self.path)  # noqa: PTH106
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(_PAUSE_S)
            else:
                return


def make() -> JobCgroup | None:
    """A new one below our own; `None` where there is no cgroup v2 or it is not ours to change."""
    own = _own()
    if own is None:
        return None
    _prune(own)
    path = f"{own}/{_PREFIX}{os.getpid()}-{procs.start_ticks(os.getpid())}"
    try:
        os.mkdir(path)  # noqa: PTH102
    except OSError:
        return None
    for controller in ("memory", "pids", "cpu"):
        write_file(f"{own}/cgroup.subtree_control", f"+{controller}")
    return JobCgroup(path)


def kill_all(path: str) -> bool:
    """SIGKILL to everything in it; False where it is gone, or the kernel (before 5.14) has no `cgroup.kill`."""
    return write_file(f"{path}/cgroup.kill", "1")


def end(path: str, timeout_s: float = 2.0) -> int:
    """Of a job whose shim has died: kill what is left in it, and remove it; returns how many were left."""
    left = members(path)
    give_up_at = time.monotonic() + timeout_s
    while members(path) and kill_all(path) and time.monotonic() < give_up_at:
        time.sleep(_PAUSE_S)
    JobCgroup(path).remove()
    return left


def members(path: str) -> int:
    """How many processes it has."""
    return len(read_file(f"{path}/cgroup.procs").split())


def _prune(own: str) -> None:
    """Remove empty ones of shims that died before they could; one that is not empty is for `recover`."""
    for name in os.listdir(own):  # noqa: PTH208
        pid = name[len(_PREFIX) :].partition("-")[0] if name.startswith(_PREFIX) else ""
        if pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            try:  # noqa: SIM105 - contextlib is not worth its import in a shim
                os.rmdir(f"{own}/{name}")  # noqa: PTH106
            except OSError:
                pass


def _own() -> str | None:
    """The folder of the cgroup that we are in."""
    mounts = [line.split() for line in _text("/proc/self/mounts").splitlines() if " cgroup2 " in line]
    paths = [line[3:] for line in _text("/proc/self/cgroup").splitlines() if line.startswith("0::")]
    if not mounts or not paths or "/.." in paths[0]:  # `/..`: outside of the cgroup namespace that we see
        return None
    if paths[0].rpartition("/")[2].startswith(_PREFIX):  # a unit of the job's own, which is PID 1's to arrange
        return None
    own = f"{mounts[0][1]}{paths[0]}".rstrip("/")
    return own if os.access(own, os.W_OK) else None


def _text(path: str) -> str:
    return read_file(path).decode("utf-8", "replace")
