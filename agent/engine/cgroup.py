"""A cgroup (v2) of the job's own, where we may make one: as root, or in a delegated folder.

    <home>/stoker-job-ID-ATTEMPT.PID-START      PID and START are the shim's: no name is met twice in one boot

It gives what the tree of processes cannot: `cgroup.kill` ends everything of the job at once, also after the shim has
died and whatever the job did to its environment. In a unit that PID 1 delegated to us (`keeper`) it keeps the job's
limits as well: there all of ours have moved into a leaf, so that the controllers may be handed on (cgroups(7), no
internal processes). Elsewhere home is whatever cgroup we are in, limits are set as far as it goes, and the launcher
promises none. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os
import time

from agent.engine.lean import fork_into, read_file, signal, write_file

_PREFIX = "stoker-job-"
_LEAF = "supervisors"
"""Where keeper and shims are in a delegated unit."""

CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
"""Of cpu.max; the kernel's default."""

_TRIES = 50
_PAUSE_S = 0.002
"""A cgroup whose last process has just been reaped may take a moment to be empty."""


class Home:
    """A cgroup below which those of jobs are made."""

    def __init__(self, path: str, controllers: tuple[str, ...] = (), *, sure: bool = True) -> None:
        self.path = path
        self.controllers = controllers
        """Whose limits hold here for certain."""
        self.sure = sure
        """Made for jobs: one that cannot have its cgroup here is not run."""


class JobCgroup:
    """One that was made."""

    def __init__(self, path: str, controllers: tuple[str, ...] = ()) -> None:
        self.path = path
        self.bounds_tasks = False
        """The number of the job's processes is limited."""
        self.bounds_memory = False
        """So is its memory, where it asked for some."""
        self._controllers = controllers

    def limit(self, memory_bytes: int | None, tasks_max: int | None, cpus: int | None) -> None:
        """Set what can be set.

        Raises:
            OSError: what can be kept here was refused.
        """
        wanted = {
            "memory.max": memory_bytes,
            "memory.swap.max": None if memory_bytes is None else 0,  # not there where the kernel counts no swap
            "pids.max": tasks_max,
            "cpu.max": None if cpus is None else f"{cpus * _PERIOD_US} {_PERIOD_US}",
        }
        for name, value in wanted.items():
            if value is None:
                continue
            taken = write_file(f"{self.path}/{name}", str(value))
            if not taken and name.partition(".")[0] in self._controllers and name != "memory.swap.max":
                raise OSError(f"the kernel did not take {value} for {self.path}/{name}")
            if name == "pids.max":
                self.bounds_tasks = taken
            if name == "memory.max":
                self.bounds_memory = taken

    def fork(self) -> int:
        """As `os.fork`, with the child in it; where that is refused and no limit is promised, the job runs without.

        In it from its first moment: to move a process in takes 15 ms on a machine where nobody else does (the kernel
        waits for an RCU grace period), and holds up whoever forks meanwhile.

        Raises:
            OSError: there is no process, or none that would be held to its limits.
        """
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return os.fork()
        try:
            return fork_into(folder)
        except (OSError, ImportError):
            pid = os.fork()
            if pid and not write_file(f"{self.path}/cgroup.procs", str(pid)) and self._controllers:
                os.kill(pid, signal.SIGKILL)  # it waits at the gate
                os.waitpid(pid, 0)
                raise OSError(f"the kernel took no process into {self.path}") from None
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


def settle() -> Home | None:
    """Make the delegated unit that we are alone in a home for jobs: move into a leaf of it, hand the controllers on.

    Returns:
        `None` where there is no cgroup v2, or it is not ours to change.
    """
    own = _own()
    if own is None:
        return None
    try:
        os.mkdir(f"{own}/{_LEAF}")  # noqa: PTH102
    except OSError:
        return None
    if not write_file(f"{own}/{_LEAF}/cgroup.procs", "0"):
        return None
    handed = [each for each in CONTROLLERS if write_file(f"{own}/cgroup.subtree_control", f"+{each}")]
    return Home(own, tuple(handed))


def find() -> Home | None:
    """Where jobs have cgroups if nobody made a home for them: below our own, if that may be.

    Returns:
        `None` where there is no cgroup v2, or it is not ours to change.
    """
    own = _own()
    if own is None:
        return None
    for path, (pid, _) in jobs_in(own):
        if not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            _remove_empty(path)  # its shim died before it could; one that is not empty is for `recover`
    for controller in CONTROLLERS:
        write_file(f"{own}/cgroup.subtree_control", f"+{controller}")
    return Home(own, sure=False)


def make(attempt: str, home: Home, start: int) -> JobCgroup | None:
    """A new one for the attempt of this path; `None` where it is refused and nobody relies on it.

    Args:
        attempt: the attempt's folder, `…/ID/ATTEMPT`.
        home: where.
        start: our own start time.

    Raises:
        OSError: it is refused where one relies on it.
    """
    job = "-".join(attempt.split("/")[-2:])
    path = f"{home.path}/{_PREFIX}{job}.{os.getpid()}-{start}"
    try:
        os.mkdir(path)  # noqa: PTH102
    except OSError:
        if home.sure:
            raise
        return None
    return JobCgroup(path, home.controllers)


def jobs_in(home: str) -> list[tuple[str, tuple[int, int]]]:
    """The cgroups of jobs below one, each with pid and start time of its shim."""
    found = []
    for name in _names(home):
        pid, _, start = name.rpartition(".")[2].partition("-")
        if name.startswith(_PREFIX) and pid.isdecimal() and start.isdecimal():
            found.append((f"{home}/{name}", (int(pid), int(start))))
    return found


def homes_beside(home: str) -> list[str]:
    """The units like ours: those of earlier agents, whose jobs may run still, and our own."""
    slice_ = os.path.dirname(home)  # noqa: PTH120
    return [f"{slice_}/{name}" for name in _names(slice_) if name.endswith(".service")]


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


def _remove_empty(path: str) -> None:
    try:  # noqa: SIM105 - contextlib is not worth its import in a shim
        os.rmdir(path)  # noqa: PTH106
    except OSError:
        pass


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


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
