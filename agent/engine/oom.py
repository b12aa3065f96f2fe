"""The out-of-memory killer: keep it off the shim, and know whether it met the job.

Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os

from agent.engine.lean import read_file, write_file

SCORE = "/proc/self/oom_score_adj"
_SHIELD = -900
"""oom_score_adj of a shim, as of the agent: its 4 MB are not what the kernel should free."""


_inherited: list[tuple[int, tuple[str | None, bool]]] = []
"""What `shield` and `_events_file` say, once a server that makes shims has asked: a fork has its score and cgroup."""


def settle() -> None:
    """For whoever makes shims, where it is to stay: shield it, and so all of them."""
    _inherited[:] = [(shield(), _events_file())]


def shield() -> int:
    """Ask the kernel to spare us (root only, else without effect); returns the score that the job is to have."""
    if _inherited:
        return _inherited[0][0]
    before = int(read_file(SCORE) or "0")
    write_file(SCORE, str(_SHIELD))
    return max(0, before)


class OomCounter:
    """Processes of our cgroup that the kernel killed for memory, since it was made.

    A unit of its own holds nothing but the job. Elsewhere the cgroup is shared with other jobs, so a kill is only
    believed to be ours when the job also died of a SIGKILL that nobody here sent.
    """

    def __init__(self) -> None:
        self._file, self.alone = _inherited[0][1] if _inherited else _events_file()
        """`alone`: the cgroup is the job's own unit."""
        self._own = self.alone
        self._before = self._count()

    def watch(self, events: str) -> None:
        """Count in the cgroup that was made for the job instead."""
        self._file, self._own = events, True
        self._before = self._count()

    def happened(self, *, died_of_kill: bool) -> bool:
        """Whether a process of the job was killed for memory."""
        return (self._own or died_of_kill) and self._count() > self._before

    def _count(self) -> int:
        for line in read_file(self._file).splitlines() if self._file else ():
            name, _, value = line.partition(b" ")
            if name == b"oom_kill":
                return int(value)
        return 0


def _events_file() -> tuple[str | None, bool]:
    """Cgroup v2 `memory.events`, or v1 `memory.oom_control`, and whether the cgroup is the job's own unit."""
    for line in read_file("/proc/self/cgroup").decode("utf-8", "replace").splitlines():
        _, controllers, path = line.split(":", 2)
        alone = path.rpartition("/")[2].startswith("stoker-job-")
        for file in (
            f"/sys/fs/cgroup{path}/memory.events" if not controllers else "",
            f"/sys/fs/cgroup/memory{path}/memory.oom_control" if controllers == "memory" else "",
        ):
            if file and os.access(file, os.R_OK):
                return file, alone
    return None, False
