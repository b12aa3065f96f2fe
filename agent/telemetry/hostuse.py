"""Host memory and CPU time of jobs: from the job's cgroup where it has one of its own, else from /proc.

Memory is what a job would be missed by: anonymous pages and shared memory, not the page cache. In /proc pages that
processes share are seen in each, so there the largest share of one process stands for those of all.
"""

# ruff: noqa: PTH208 - os.listdir of /proc costs a third of Path.iterdir, and is asked every few seconds

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CGROUPS = Path("/sys/fs/cgroup")

JOB_PREFIX = "stoker-job-"
"""`stoker-job-ID-ATTEMPT.service`, a job's unit; `stoker-job-PID-START`, what a shim with that pid made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUse:
    """One job now."""

    memory_bytes: int | None
    cpu_seconds: float | None
    """Since it began, of all its processes, ended ones too as far as they were waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    parent: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The processes of all jobs at one moment."""

    uses: dict[int, HostUse]
    pids: dict[int, int]
    """Process id → job."""


def of_trees(roots: Mapping[int, int], proc: Path = Path("/proc")) -> Survey:
    """What the processes below each job's root use; one walk over /proc for all.

    Args:
        roots: job → pid of its shim or first process. One that is gone is left out.
        proc: where procfs is.
    """
    found = {int(name): _read(proc, name) for name in os.listdir(proc) if name.isdigit()} if roots else {}
    processes = {pid: process for pid, process in found.items() if process is not None}
    children: dict[int, list[int]] = defaultdict(list)
    for pid, process in processes.items():
        children[process.parent].append(pid)
    trees = {job: _tree(root, children) for job, root in roots.items() if root in processes}
    return Survey(
        uses={job: _use(tree, processes, proc) for job, tree in trees.items()},
        pids={pid: job for job, tree in trees.items() for pid in tree},
    )


def cgroup_of(pid: int, name: str, proc: Path = Path("/proc")) -> str | None:
    """The path of the cgroup that a process is in, if `name` is a part of it; cgroups(7).

    Args:
        pid: the process.
        name: the unit's, so that a job that has no cgroup of its own is not told what others use.
        proc: where procfs is.
    """
    try:
        lines = _bytes(f"{proc}/{pid}/cgroup").decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    paths = (line.split(":", 2)[2] for line in lines if line.count(":") >= 2)
    return next((path for path in paths if name in path.split("/")), None)


def job_cgroup(pid: int, proc: Path = Path("/proc")) -> str | None:
    """The name of the job's cgroup that a process is in, `stoker-job-…`; `None`: it is in none, or gone."""
    try:
        lines = _bytes(f"{proc}/{pid}/cgroup").decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    names = (name for line in lines for name in line.split("/"))
    return next((name for name in names if name.startswith(JOB_PREFIX)), None)


def of_cgroup(path: str, root: Path = _CGROUPS) -> HostUse | None:
    """What a cgroup uses, whose it must be alone.

    Args:
        path: as in /proc/PID/cgroup, `/system.slice/stoker-job-17.service`; of version 2 or 1.
        root: where cgroups are mounted.

    Returns:
        `None` where there is no such cgroup or it counts nothing.
    """
    below = path.lstrip("/")
    memory = _memory_of(root / below, ("anon", "shmem")) or _memory_of(root / "memory" / below, ("rss", "shmem"))
    microseconds = _numbers(root / below / "cpu.stat").get("usage_usec")
    nanoseconds = _number(root / "cpuacct" / below / "cpuacct.usage")
    cpu = microseconds / 1e6 if microseconds is not None else nanoseconds / 1e9 if nanoseconds is not None else None
    return None if memory is None and cpu is None else HostUse(memory_bytes=memory, cpu_seconds=cpu)


def _memory_of(folder: Path, keys: tuple[str, ...]) -> int | None:
    numbers = _numbers(folder / "memory.stat")
    found = [numbers[key] for key in keys if key in numbers]
    return sum(found) if found else None


def _numbers(path: Path) -> dict[str, int]:
    """A file of `name number` lines; empty where there is none."""
    try:
        words = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        return {each[0]: int(each[1]) for each in words if len(each) == 2 and each[1].isdigit()}
    except (OSError, ValueError):
        return {}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _read(proc: Path, pid: str) -> _Process | None:
    """proc_pid_stat(5); `None` if it is gone."""
    try:
        stat = _bytes(f"{proc}/{pid}/stat")
        fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may hold spaces and parentheses
        return _Process(parent=int(fields[1]), cpu_seconds=sum(int(each) for each in fields[11:15]) * _TICK_S)
    except (OSError, ValueError, IndexError):
        return None


def _bytes(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _tree(root: int, children: Mapping[int, list[int]]) -> set[int]:
    found, ahead = {root}, [root]
    while ahead:
        new = [pid for pid in children.get(ahead.pop(), ()) if pid not in found]
        found.update(new)
        ahead += new
    return found


def _use(tree: set[int], processes: Mapping[int, _Process], proc: Path) -> HostUse:
    memory = [_memory(proc, pid) for pid in tree]
    return HostUse(
        memory_bytes=sum(private for private, _ in memory) + max(shared for _, shared in memory),
        cpu_seconds=sum(processes[pid].cpu_seconds for pid in tree),
    )


def _memory(proc: Path, pid: int) -> tuple[int, int]:
    """Private and shared bytes of a process, none if it is gone; proc_pid_statm(5)."""
    try:
        _, resident, shared = (int(each) for each in _bytes(f"{proc}/{pid}/statm").split()[:3])
    except (OSError, ValueError):
        return 0, 0
    return max(resident - shared, 0) * _PAGE_BYTES, shared * _PAGE_BYTES
