"""What a licence allows at a moment: ACTIVE → NOTICE → GRACE → RESTRICTED, with the code, the words and the remedy.

Pure: terms and time in, a `Standing` out. The only thing a stage ever changes is whether *new* jobs start; what is
running runs to its end, and everything else works in every stage.

    LIC-401  no licence is installed                  LIC-410  this node was never given a lease
    LIC-402  ends soon                                LIC-411  hub not heard since the lease ended; 72 h are granted
    LIC-403  ended, grace runs                        LIC-412  … and those 72 h are over
    LIC-404  ended, grace is over                     LIC-413  the only lease there is was refused
    LIC-405  the evaluation is over                   LIC-414  this node cannot keep a lease on its disk
    LIC-406  the voucher's first days are over        LIC-420  no seat for a GPU of this job
    LIC-407  the stored licence is of no use here     LIC-421  grace: no new nodes, no further seats
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from licensing.document import Lease, Licence

DAY_S = 86400
NOTICE_S = 30 * DAY_S
PROVISIONAL_S = 14 * DAY_S
"""How long a voucher that is bound to no site works, once per licence id and site state."""
LEASE_TOLERANCE_S = 72 * 3600
"""How long new jobs still start after a lease ended, because the hub may be down: with the lease a long weekend."""
EVALUATION = "evaluation"
_GRACE_S = {"yearly": 14 * DAY_S, "monthly": 7 * DAY_S}

FIX = "stoker-license activate FILE"
STILL_WORKS = (
    "Running jobs go on to their end; login, monitoring, logs, export, drain, stop and every licence command work"
)


class Stage(StrEnum):
    """What new jobs may do."""

    ACTIVE = "ACTIVE"
    NOTICE = "NOTICE"
    GRACE = "GRACE"
    RESTRICTED = "RESTRICTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """When a licence ends, Unix seconds: the licence itself, and then its grace."""

    begins_at: int
    expires_at: int
    restricted_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The stage with everything needed to explain it."""

    stage: Stage
    code: str | None = None
    message: str
    fix: str | None = None
    expires_at: int | None = None
    restricted_at: int | None = None

    @property
    def detail(self) -> str:
        """Code, message and remedy in one text, for a job that waits."""
        head = f"{self.code}: {self.message}" if self.code else self.message
        return f"{head} Run: {self.fix}" if self.fix else head


def ends(licence: Licence, activated_at: int) -> Ends:
    """When it ends at a site that activated it then.

    A voucher is provisional: 14 days at most and no grace after them, because those days are the grace for binding it.
    """
    terms = [licence.exp]
    if licence.term_s is not None:
        terms.append(activated_at + licence.term_s)
    if licence.site is None:
        terms.append(activated_at + PROVISIONAL_S)
    expires_at = min(terms)
    grace_s = _GRACE_S.get(licence.plan, 0) if licence.site is not None else 0
    begins_at = licence.nbf if licence.site is not None else max(licence.nbf, activated_at)
    return Ends(begins_at=begins_at, expires_at=expires_at, restricted_at=expires_at + grace_s)


def no_licence() -> Standing:
    """The hub holds no licence at all."""
    return Standing(
        stage=Stage.RESTRICTED,
        code="LIC-401",
        message=f"No licence is installed, so new jobs are held in the queue. {STILL_WORKS}.",
        fix=FIX,
    )


def unusable(licence_id: str, problem: str) -> Standing:
    """The stored licence no longer fits: a build with other roots, a damaged ledger, or another `site.key`."""
    return Standing(
        stage=Stage.RESTRICTED,
        code="LIC-407",
        message=f"The installed licence {licence_id} cannot be used: {problem}. "
        f"New jobs are held in the queue. {STILL_WORKS}.",
        fix=FIX,
    )


def of_licence(licence: Licence, activated_at: int, now: int) -> Standing:
    """The stage of a licence at effective time `now`.

    NOTICE begins 30 days before the end; on a term too short for that, with its second half, since a licence that was
    never ACTIVE would teach everybody to ignore the word.
    """
    end = ends(licence, activated_at)
    notice_at = end.expires_at - min(NOTICE_S, (end.expires_at - end.begins_at) // 2)
    if now >= end.restricted_at:
        return _restricted(licence, end)
    if now >= end.expires_at:
        return _grace(licence, end, now)
    left = f"{_what(licence)}: {_left(end.expires_at - now)} left, until {when(end.expires_at)}."
    if now >= notice_at:
        return _standing(end, stage=Stage.NOTICE, code="LIC-402", message=left, fix=FIX)
    return _standing(end, stage=Stage.ACTIVE, message=left)


def of_lease(licence: Licence, lease: Lease, activated_at: int, now: int) -> Standing:
    """The stage on a node: the licence's own, or worse when the hub has not renewed the lease."""
    standing = of_licence(licence, activated_at, now)
    until = lease.exp + LEASE_TOLERANCE_S
    if standing.stage is Stage.RESTRICTED or now < lease.exp:
        return standing
    silent = f"The hub {lease.cluster} has not renewed this node's lease, which ended {when(lease.exp)}."
    bounds = Ends(begins_at=lease.iat, expires_at=lease.exp, restricted_at=until)
    if now > until:
        message = f"{silent} New jobs are held since {when(until)}. {STILL_WORKS}. Bring the hub back."
        return _standing(bounds, stage=Stage.RESTRICTED, code="LIC-412", message=message, fix="stoker-license status")
    message = f"{silent} New jobs start until {when(until)}; bring the hub back by then."
    return _standing(bounds, stage=Stage.GRACE, code="LIC-411", message=message, fix="stoker-license status")


def when(time: int) -> str:
    """A moment for people, in UTC because hub, node and laptop may be in three time zones."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _restricted(licence: Licence, end: Ends) -> Standing:
    if licence.plan == EVALUATION:
        code, ended = "LIC-405", f"The evaluation ended {when(end.expires_at)}"
    elif licence.site is None:
        code, ended = (
            "LIC-406",
            f"The voucher {licence.id} ended {when(end.expires_at)}, bound to no site",
        )
    else:
        code, ended = "LIC-404", f"The licence {licence.id} ended {when(end.expires_at)}"
    held = f"new jobs are held in the queue since {when(end.restricted_at)}"
    return _standing(end, stage=Stage.RESTRICTED, code=code, message=f"{ended}; {held}. {STILL_WORKS}.", fix=FIX)


def _grace(licence: Licence, end: Ends, now: int) -> Standing:
    message = (
        f"The licence {licence.id} ended {when(end.expires_at)}. New jobs start for another "
        f"{_left(end.restricted_at - now)}, until {when(end.restricted_at)}; no further GPUs or nodes get a seat."
    )
    return _standing(end, stage=Stage.GRACE, code="LIC-403", message=message, fix=FIX)


def _standing(end: Ends, *, stage: Stage, message: str, code: str | None = None, fix: str | None = None) -> Standing:
    return Standing(
        stage=stage,
        code=code,
        message=message,
        fix=fix,
        expires_at=end.expires_at,
        restricted_at=end.restricted_at,
    )


def _what(licence: Licence) -> str:
    if licence.plan == EVALUATION:
        return f"Evaluation, {licence.seats} GPU seats"
    kind = "Licence" if licence.site else "Voucher"
    return f"{kind} {licence.id} of {licence.customer}, {licence.plan}, {licence.seats} GPU seats"


def _left(seconds: int) -> str:
    """Rounded down, as a countdown is read: 13 days, 5 hours, 40 minutes, 12 seconds."""
    for unit, length in (("day", DAY_S), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
