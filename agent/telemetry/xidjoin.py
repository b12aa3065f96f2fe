"""One XID out of what the kernel's log and NVML tell of it. Pure.

    kernel's log   code, place, process          ┐
    NVML           code, UUID, MIG instance      ┴─► Heard: the first is new, the second adds what it knows

Each way tells an XID once, so two lines of the log are two XIDs, and so are two events; a line and an event of the
same GPU and code within a few seconds are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass, field

from agent.telemetry.xid import Xid

_HALVES_MOST = 1000
"""Of one GPU and code; in a flood the oldest are not waited for any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An XID as it is known now."""

    xid: Xid
    is_new: bool
    """`False`: the other way told of it before, and this adds to it."""
    job_id: int | None = None


@dataclass(frozen=True, slots=True)
class _Half:
    """Told by one way, and waiting for the other."""

    xid: Xid
    job_id: int | None
    at: float


@dataclass(slots=True)
class XidJoin:
    """See the module."""

    same_s: float
    """Within so long both ways tell of an XID."""
    _halves: dict[Hashable, list[_Half]] = field(default_factory=dict)

    def take(self, xid: Xid, gpu: Hashable, job_id: int | None, monotonic: float) -> Heard:
        """One way told of an XID.

        Args:
            xid: as it was told.
            gpu: what the GPU is known by, whichever way tells.
            job_id: whose process it was, if that is known.
            monotonic: when it was told, in seconds of a clock that never jumps.
        """
        self._forget(monotonic)
        waiting = self._halves.setdefault((gpu, xid.code), [])
        other = next((each for each in waiting if (each.xid.uuid is None) is not (xid.uuid is None)), None)
        if other is None:
            waiting.append(_Half(xid, job_id, monotonic))
            del waiting[:-_HALVES_MOST]
            return Heard(xid=xid, is_new=True, job_id=job_id)
        waiting.remove(other)
        both = _joined(other.xid, xid)
        return Heard(xid=both, is_new=False, job_id=job_id if job_id is not None else other.job_id)

    def _forget(self, monotonic: float) -> None:
        for key, waiting in list(self._halves.items()):
            waiting[:] = [each for each in waiting if monotonic - each.at <= self.same_s]
            if not waiting:
                del self._halves[key]


def _joined(first: Xid, second: Xid) -> Xid:
    """All that either knows, at the moment of the first."""
    found = {each.name: getattr(first, each.name) for each in dataclasses.fields(Xid)}
    return Xid(**{name: getattr(second, name) if value is None else value for name, value in found.items()})
