"""How licence and seats of a site stand at a moment: what `site` tells, and the hub shows."""

from __future__ import annotations

from dataclasses import dataclass

from licensing.document import Licence
from licensing.fingerprint import Hardware
from licensing.leases import Overdraft
from licensing.seats import Hold
from licensing.stage import Standing
from licensing.store import Asked, Forked
from licensing.units import UnitCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Licence and seats at a moment."""

    standing: Standing
    licence: Licence | None
    activated_at: int | None
    site_key: str
    holds: tuple[Hold, ...]
    development: bool
    """The roots of this build are development keys."""
    pending: tuple[Asked, ...] = ()
    """Requests that the vendor may still answer, newest first."""
    superseded: frozenset[str] = frozenset()
    """Those of them that nobody waits for any more."""
    crl: int = 0
    """The highest number of a revocation list that is known."""
    issuer: str | None = None
    at: int = 0
    """The time that all of it is told by."""
    epoch: int = 1
    confirmed_at: int = 0
    """The time without what the clock says beyond it."""
    overdraft: Overdraft | None = None
    borrowed: frozenset[str] = frozenset()
    """Nodes that borrowed their seats."""
    resting: frozenset[str] = frozenset()
    """Nodes that gave theirs back and get none until they are adopted."""
    pinned: frozenset[str] = frozenset()
    forked: tuple[Forked, ...] = ()
    """Nodes that show the identity of another, and get nothing new."""
    epoch_heard: int = 0
    """The highest epoch that a node told of; above `epoch`, another hub took over."""
    rollbacks: int = 0
    """How often since the hub's start its clock was seen behind."""
    hardware: Hardware | None = None
    """How this machine stands to the licence; `None` where it was never looked at."""
    units: tuple[UnitCount, ...] = ()
    """Machines and admins, which are counted beside GPUs."""
