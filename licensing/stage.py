"""What a licence allows at a moment: ACTIVE → NOTICE → GRACE → RESTRICTED, with the code, the words and the remedy.

Pure: terms, facts and time in, a `Standing` out. The only thing a stage ever changes is whether *new* jobs start; what
is running runs to its end, and everything else works in every stage.

    LIC-401  no licence is installed                  LIC-410  this node was never given a lease
    LIC-402  ends soon                                LIC-411  hub not heard since the lease ended; 72 h are granted
    LIC-403  ended, grace runs                        LIC-412  … and those 72 h are over
    LIC-404  ended, grace is over                     LIC-413  the only lease there is was refused
    LIC-405  the evaluation or trial is over          LIC-414  this node cannot keep a lease on its disk
    LIC-406  the voucher's first days are over        LIC-420  no seat for a GPU of this job
    LIC-407  the stored licence is of no use here     LIC-421  grace: no new nodes, no further seats
                                                      LIC-422  this node gave its seats back
    LIC-424  another hub of this site took over       LIC-423  this node shows the identity of another machine
    LIC-408  perpetual: this build is newer than it covers
    LIC-409  given back by this site                  LIC-430  revoked
    LIC-431  usage report overdue, grace runs         LIC-432  … and grace is over
    LIC-433  prepaid hours spent, grace runs          LIC-434  … and grace is spent
    LIC-435  all of it is over, emergency hours run
    LIC-440  another machine in part, grace runs      LIC-441  … and grace is over
    LIC-442  another machine than the licence's
    LIC-443  too few marks to know the machine by     LIC-444  … and grace is over
    LIC-450  a job needs a feature that the edition does not have
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from licensing import plans, release
from licensing.document import Lease, Licence
from licensing.fingerprint import LEAST, Group, Hardware, Verdict
from licensing.moments import day, hours, span, when
from licensing.plans import DAY_S, NEVER, Plan
from licensing.words import FIX as FIX
from licensing.words import FIX_CLOCK as FIX_CLOCK
from licensing.words import FIX_HARDWARE as FIX_HARDWARE
from licensing.words import FIX_REPORT as FIX_REPORT
from licensing.words import Stage as Stage

NOTICE_DAYS = (30, 14, 7, 1)
"""Days before the end at which it is said again."""
NOTICE_S = NOTICE_DAYS[0] * DAY_S
REPORT_NOTICE_S = 7 * DAY_S
PROVISIONAL_S = 14 * DAY_S
"""How long a voucher that is bound to no site works, once per licence id and site state."""
LEASE_TOLERANCE_S = 72 * 3600
"""How long new jobs still start after a lease ended, because the hub may be down: with the lease a long weekend."""
EVALUATION = Plan.EVALUATION.value

EMERGENCY_CODE = "LIC-435"
LOCKED_CODE = "LIC-450"
_QUEUED = "held in the queue"
STILL_WORKS = (
    "Running jobs go on to their end; login, monitoring, logs, export, drain, stop and every licence command work"
)


_SEVERITY = {stage: rank for rank, stage in enumerate(Stage)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """When a licence ends, Unix seconds: the licence itself, and then its grace."""

    begins_at: int
    expires_at: int
    restricted_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What beside its terms and the time decides how a licence stands."""

    built_at: int = release.AT
    """The date of this build, for a perpetual licence."""
    report_by: int | None = None
    """What the last receipt moved the licence's own `report_by` to."""
    extended_until: int | None = None
    """Until when the emergency hours of this term run."""
    gpu_ms_used: int = 0
    """Milliseconds of GPUs used of a prepaid licence."""
    hardware: Hardware | None = None
    """How the hub's machine stands to the licence; a node does not ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The stage with everything needed to explain it."""

    stage: Stage
    code: str | None = None
    message: str
    fix: str | None = None
    expires_at: int | None = None
    restricted_at: int | None = None
    notice_days: int | None = None
    """Which of `NOTICE_DAYS` was passed last, while in NOTICE because of a date: for saying it once each."""
    report_by: int | None = None
    gpu_ms_left: int | None = None
    """Of a prepaid licence; below 0 in its grace."""

    @property
    def detail(self) -> str:
        """Code, message and remedy in one text, for a job that waits."""
        head = f"{self.code}: {self.message}" if self.code else self.message
        return f"{head} Run: {self.fix}" if self.fix else head


def ends(licence: Licence, activated_at: int, *, report_by: int | None = None) -> Ends:
    """When it ends at a site that activated it then; `report_by` is what the last receipt said."""
    end = _dates(licence, activated_at)
    due = _due(licence, report_by)
    if due is None:
        return end
    restricted_at = min(end.restricted_at, due + plans.REPORT_GRACE_S)
    return replace(end, expires_at=min(end.expires_at, restricted_at), restricted_at=restricted_at)


def _dates(licence: Licence, activated_at: int) -> Ends:
    """By its dates alone.

    A voucher is provisional: 14 days at most and no grace after them, because those days are the grace for binding it.
    """
    begins_at = licence.nbf if licence.site is not None else max(licence.nbf, activated_at)
    terms = [NEVER if plans.is_perpetual(licence) else licence.exp]
    if licence.term_s is not None:
        terms.append(activated_at + licence.term_s)
    if licence.site is None:
        terms.append(activated_at + PROVISIONAL_S)
    expires_at = min(terms)
    grace_s = plans.GRACE_S.get(licence.plan, 0) if licence.site is not None else 0
    return Ends(begins_at=begins_at, expires_at=expires_at, restricted_at=min(expires_at + grace_s, NEVER))


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
    return _held("LIC-407", f"The installed licence {licence_id} cannot be used: {problem}")


def released(licence_id: str, at: int) -> Standing:
    """This site gave the licence back."""
    return _held("LIC-409", f"The licence {licence_id} was given back by this site {when(at)}")


def rested() -> Standing:
    """This node gave its lease back."""
    message = (
        f"This node gave its seats back, so new jobs are held in the queue. {STILL_WORKS}. It gets seats again when it "
        "is adopted, on the hub."
    )
    return Standing(stage=Stage.RESTRICTED, code="LIC-422", message=message, fix="stoker-license node adopt NODE")


def locked(why: str) -> str:
    """What a job says that waits for a feature: jobs without it start as ever."""
    return f"{LOCKED_CODE}: {why}, or when a licence that has it is installed. {STILL_WORKS}. Run: {FIX}"


def revoked(problem: str) -> Standing:
    """A revocation list names the licence or the key that signed it."""
    return _held("LIC-430", f"The installed licence cannot be used: {problem.rstrip('.')}")


def of_licence(licence: Licence, activated_at: int, now: int, facts: Facts | None = None) -> Standing:
    """The stage of a licence at effective time `now`: the worst that its dates, plan, reports and machine give.

    NOTICE begins 30 days before the end; on a term too short for that, with its second half, since a licence that was
    never ACTIVE would teach everybody to ignore the word.
    """
    facts = facts or Facts()
    standings = [
        _by_date(licence, activated_at, now, facts),
        _by_report(licence, now, facts),
        _by_hours(licence, facts),
        _by_build(licence, facts),
        _by_hardware(licence, facts.hardware, now),
    ]
    worst = max((each for each in standings if each), key=lambda each: _SEVERITY[each.stage])
    end = ends(licence, activated_at, report_by=facts.report_by)
    forever = end.restricted_at >= NEVER
    if worst.stage is Stage.RESTRICTED and now < (facts.extended_until or 0):
        worst = _emergency(worst, licence, facts.extended_until or 0)
    return replace(
        worst,
        expires_at=None if forever else worst.expires_at or end.expires_at,
        restricted_at=None if forever else worst.restricted_at or end.restricted_at,
        report_by=_due(licence, facts.report_by),
        gpu_ms_left=None if licence.gpu_hours is None else licence.gpu_hours * plans.MS_PER_HOUR - facts.gpu_ms_used,
    )


def of_lease(licence: Licence, lease: Lease, activated_at: int, now: int, built_at: int = release.AT) -> Standing:
    """The stage on a node: the licence's own, or worse when the hub has not renewed the lease."""
    facts = Facts(built_at=built_at, report_by=lease.report_by, extended_until=lease.extended_until)
    standing = replace(of_licence(licence, activated_at, now, facts), gpu_ms_left=None)  # only a hub counts
    until = lease.exp + LEASE_TOLERANCE_S
    if lease.held is not None and not standing.stage.holds:
        return since(_held(lease.held.code, lease.held.why), lease.held.since)
    if standing.stage.holds or now < lease.exp:
        return standing
    silent = f"The hub {lease.cluster} has not renewed this node's lease, which ended {when(lease.exp)}."
    bounds = Ends(begins_at=lease.iat, expires_at=lease.exp, restricted_at=until)
    if now > until:
        message = f"{silent} New jobs are held since {when(until)}. {STILL_WORKS}. Bring the hub back."
        return _standing(bounds, stage=Stage.RESTRICTED, code="LIC-412", message=message, fix="stoker-license status")
    message = f"{silent} New jobs start until {when(until)}; bring the hub back by then."
    return _standing(bounds, stage=Stage.GRACE, code="LIC-411", message=message, fix="stoker-license status")


def refused(standing: Standing, code: str, message: str, fix: str | None = None) -> Standing:
    """The same with the hub's own word why it gives no further lease. Only shown: what may start stays as it was."""
    if standing.stage.holds:
        held = f" New jobs are {_QUEUED}." if fix else ""  # a message with its own command says it itself
        return replace(standing, code=code, message=f"{message}{held} {STILL_WORKS}.", fix=fix)
    worst = standing.stage if standing.stage is not Stage.ACTIVE else Stage.NOTICE
    return replace(standing, stage=worst, code=code, message=f"{message} {standing.message}", fix=fix)


def of_doubt(standing: Standing, sure: Standing, at: int, confirmed: int) -> Standing:
    """The same, where it holds only by a clock that uptime does not explain: that is said first, and how to set it.

    `sure` is how it stands at the `confirmed` time. Only shown: what may start stays as it was.
    """
    if not standing.stage.holds or sure.stage.holds:
        return standing
    right = f"; if it is right, run: {standing.fix}" if standing.fix else ""
    doubt = f"The clock says {when(at)}, and uptime explains no more than {when(confirmed)}{right}. By the clock: "
    return replace(standing, message=doubt + standing.message, fix=FIX_CLOCK)


def since(standing: Standing, at: int) -> Standing:
    """The same, with the moment from which new jobs are held."""
    message = standing.message.replace(_QUEUED, f"{_QUEUED} since {when(at)}", 1)
    return replace(standing, message=message, restricted_at=at)


def why(standing: Standing) -> str:
    """Its reason alone, without what follows for new jobs and what still works."""
    text = standing.message
    cut = re.search(rf"[.;] [Nn]ew jobs are {_QUEUED}", text)
    return text[: cut.start()] if cut else text


# --- what a licence can end by ---


def _by_date(licence: Licence, activated_at: int, now: int, facts: Facts) -> Standing:
    end = _dates(licence, activated_at)
    notice_at = end.expires_at - min(NOTICE_S, (end.expires_at - end.begins_at) // 2)
    if now >= end.restricted_at:
        return _restricted(licence, end)
    if now >= end.expires_at:
        return _grace(licence, end, now)
    if end.expires_at >= NEVER:
        until = day(licence.updates_until or facts.built_at)
        return Standing(stage=Stage.ACTIVE, message=f"{_what(licence)}: for ever, with builds up to {until}.")
    left = f"{_what(licence)}: {span(end.expires_at - now)} left, until {when(end.expires_at)}."
    if now >= notice_at:
        days = -((now - end.expires_at) // DAY_S)
        passed = min((each for each in NOTICE_DAYS if each >= days), default=NOTICE_DAYS[0])
        return replace(_standing(end, stage=Stage.NOTICE, code="LIC-402", message=left, fix=FIX), notice_days=passed)
    return _standing(end, stage=Stage.ACTIVE, message=left)


def _by_report(licence: Licence, now: int, facts: Facts) -> Standing | None:
    """A usage report is due: notice in its last week, then grace."""
    due = _due(licence, facts.report_by)
    if due is None or now < due - REPORT_NOTICE_S:
        return None
    end = Ends(begins_at=licence.nbf, expires_at=due, restricted_at=due + plans.REPORT_GRACE_S)
    missing = f"The usage report of the licence {licence.id} is due {when(due)}"
    if now < due:
        message = f"{missing}: export it, send it to your vendor, and import the receipt."
        return _standing(end, stage=Stage.NOTICE, code="LIC-402", message=message, fix=FIX_REPORT)
    if now < end.restricted_at:
        message = (
            f"{missing.replace('is due', 'was due')}. New jobs start until {when(end.restricted_at)}; no further GPUs "
            "or nodes get a seat. Export it, send it to your vendor, and import the receipt."
        )
        return _standing(end, stage=Stage.GRACE, code="LIC-431", message=message, fix=FIX_REPORT)
    message = (
        f"{missing.replace('is due', 'was due')}; new jobs are held in the queue since {when(end.restricted_at)}. "
        f"{STILL_WORKS}. Export it, send it to your vendor, and import the receipt."
    )
    return _standing(end, stage=Stage.RESTRICTED, code="LIC-432", message=message, fix=FIX_REPORT)


def _by_hours(licence: Licence, facts: Facts) -> Standing | None:
    """Prepaid hours: notice in their last tenth, then a tenth more as grace."""
    if licence.gpu_hours is None:
        return None
    total = licence.gpu_hours * plans.MS_PER_HOUR
    grace = total * plans.PREPAID_GRACE_PERCENT // 100
    left = total - facts.gpu_ms_used
    used = f"{hours(facts.gpu_ms_used)} of the {licence.gpu_hours} prepaid GPU-hours of the licence {licence.id}"
    if left > grace:
        return None
    if left > 0:
        message = f"{used} are used, {hours(left)} are left; buy more."
        return Standing(stage=Stage.NOTICE, code="LIC-402", message=message, fix=FIX)
    if left > -grace:
        message = (
            f"{used} are used. New jobs start for another {hours(left + grace)} GPU-hours; no further GPUs or nodes "
            "get a seat. Buy more."
        )
        return Standing(stage=Stage.GRACE, code="LIC-433", message=message, fix=FIX)
    message = f"{used} are used, and {hours(grace)} beyond them; new jobs are held in the queue. {STILL_WORKS}."
    return Standing(stage=Stage.RESTRICTED, code="LIC-434", message=message, fix=FIX)


def _by_hardware(licence: Licence, hardware: Hardware | None, now: int) -> Standing | None:
    """The machine under the hub is another one than the licence is bound to, or cannot be told from others."""
    if hardware is None or hardware.verdict is Verdict.MATCH:
        return None
    until = hardware.grace_until
    code, over, what = _OF_HARDWARE[hardware.verdict]
    fix = FIX if hardware.verdict is Verdict.UNMARKED else FIX_HARDWARE
    what = f"{what} {_how_other(licence, hardware)}"
    if hardware.is_salt_lost:
        what += ". What was enrolled is under another fingerprint.salt; put that file back from the backup"
    if until is not None and now < until:
        message = f"{what}. New jobs start until {when(until)}; no further GPUs or nodes get a seat."
        return Standing(stage=Stage.GRACE, code=code, message=message, fix=fix, restricted_at=until)
    began = until or hardware.since or now
    message = f"{what}. New jobs are held in the queue since {when(began)}. {STILL_WORKS}."
    return Standing(stage=Stage.RESTRICTED, code=over, message=message, fix=fix, restricted_at=began)


def _how_other(licence: Licence, hardware: Hardware) -> str:
    if hardware.verdict is Verdict.UNMARKED:
        return (
            f"({len(hardware.seen)} of {len(Group)} groups, {LEAST} are needed), and the licence {licence.id} is not "
            f"for such machines. Have your vendor allow it (vendor amend {licence.id} --vm), and import what comes"
        )
    names = f" ({', '.join(hardware.matching)})" if hardware.matching else ""
    return (
        f"the licence {licence.id} is bound to: {len(hardware.matching)} of {len(hardware.enrolled)} groups of its "
        f"marks match{names}, {hardware.needed} must. A request to bind it anew is ready: send it to your vendor, and "
        "import the answer"
    )


_OF_HARDWARE = {
    Verdict.SHORT: ("LIC-440", "LIC-441", "This machine is only in part the one that"),
    Verdict.OTHER: ("LIC-440", "LIC-442", "This is another machine than"),
    Verdict.UNMARKED: ("LIC-443", "LIC-444", "This machine shows too few marks to be known by"),
}
"""Code in grace, code after it, and how it is said."""


def _emergency(over: Standing, licence: Licence, until: int) -> Standing:
    """Everything is over, and the site took its hours to get a renewal."""
    message = (
        f"The licence {licence.id} is over ({over.code}), and its emergency hours run: new jobs start until "
        f"{when(until)}, once in this term. Get a renewal by then."
    )
    return replace(over, stage=Stage.GRACE, code=EMERGENCY_CODE, message=message, fix=FIX, restricted_at=until)


def _by_build(licence: Licence, facts: Facts) -> Standing | None:
    """A perpetual licence asks for the date of the build, not for the clock."""
    if licence.updates_until is None or licence.updates_until >= facts.built_at:
        return None
    message = (
        f"The licence {licence.id} covers builds up to {day(licence.updates_until)}, and this one is of "
        f"{day(facts.built_at)}; this version holds new jobs in the queue, and any build up to that day starts them "
        f"for ever. {STILL_WORKS}. Install an older build, or buy updates."
    )
    return Standing(stage=Stage.PERPETUAL, code="LIC-408", message=message, fix=FIX)


def _due(licence: Licence, report_by: int | None) -> int | None:
    """Until when a report must be acknowledged; a receipt only ever moves it on."""
    return None if licence.report_by is None else max(licence.report_by, report_by or 0)


def _held(code: str, what: str) -> Standing:
    message = f"{what}. New jobs are held in the queue. {STILL_WORKS}."
    return Standing(stage=Stage.RESTRICTED, code=code, message=message, fix=FIX)


def _restricted(licence: Licence, end: Ends) -> Standing:
    if licence.plan in (Plan.EVALUATION, Plan.TRIAL):
        code, ended = "LIC-405", f"The {licence.plan} ended {when(end.expires_at)}"
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
        f"{span(end.restricted_at - now)}, until {when(end.restricted_at)}; no further GPUs or nodes get a seat."
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
    brand = f" ({licence.brand})" if licence.brand else ""
    return f"{kind} {licence.id} of {licence.customer}{brand}, {licence.plan}, {licence.seats} GPU seats"
