"""What a job holds in memory, and whether that is more than it asked for, where no cgroup limits it.

A look each second, which a job can outrun: a cgroup stops it at the byte, this ends it within a second or two. Only
what nobody could take back from a process is counted (its own pages and shared memory, each shared page once); files
that it has mapped are not. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os

from agent.engine import procs
from agent.engine.lean import read_file

LOOK_S = 1.0
_PAGE = os.sysconf("SC_PAGESIZE")


class MemoryWatch:
    """Looks at the job's processes when it is time."""

    def __init__(self, most_bytes: int | None) -> None:
        """`most_bytes`: what the job asked for; `None`: nothing is to be watched."""
        self._most = most_bytes
        self._next = 0.0
        self.told: str | None = None
        """A sentence, once the job held more."""

    def due(self) -> float:
        """When to look again; never, where there is nothing to watch."""
        return float("inf") if self._most is None or self.told is not None else self._next

    def exceeded(self, now: float) -> bool:
        """Look if it is time; whether the job holds more than it asked for."""
        if self._most is None or now < self.due():
            return False
        self._next = now + LOOK_S
        pids = [pid for pid, _ in procs.descendants(os.getpid())]
        # Resident pages count what is shared once for each process: too many at worst, and cheap to read.
        if sum(map(_resident, pids)) <= self._most:
            return False
        held = sum(map(_held, pids))
        if held <= self._most:
            return False
        self.told = f"held {held >> 20} MiB of memory and had asked for {self._most >> 20} MiB (--mem)"
        return True


def _resident(pid: int) -> int:
    fields = read_file(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def _held(pid: int) -> int:
    """Bytes of its own and its part of what it shares; all that is resident, where the kernel tells no more."""
    told = {}
    for line in read_file(f"/proc/{pid}/smaps_rollup").splitlines():
        name, _, rest = line.partition(b":")
        if name.startswith(b"Pss") and rest.split():
            told[name] = int(rest.split()[0]) * 1024
    if b"Pss_Anon" in told:
        return told[b"Pss_Anon"] + told.get(b"Pss_Shmem", 0)
    return told.get(b"Pss", 0) or _resident(pid)
