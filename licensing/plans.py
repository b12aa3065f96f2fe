"""Plans and editions: what each kind of licence counts, and which features were sold under which name.

    plan         ends                          grace                      what it counts
    trial        N days after activation       none                       days
    evaluation   like trial; the voucher that a build ships
    monthly      its last day                  7 days                     days
    yearly       its last day                  14 days                    days
    perpetual    never                         –                          builds up to `updates_until`
    prepaid      its hours, or its last day    10 % of its hours, 14 days GPU-hours
    pay-per-use  `report_by`, or its last day  30 days, 14 days           GPU-hours, by signed report

An unknown plan of a newer vendor is a term without grace. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from licensing.document import Licence

DAY_S = 86400
MS_PER_HOUR = 3_600_000
TRIAL_S = 30 * DAY_S
REPORT_DUE_S = 35 * DAY_S
"""How long after the end of a period its usage report must be acknowledged."""
REPORT_GRACE_S = 30 * DAY_S
PREPAID_GRACE_PERCENT = 10
EMERGENCY_S = 72 * 3600
"""How long new jobs start once more after everything is over, once a term, on the site's own word."""
OVERDRAFT_PERCENT = 10
OVERDRAFT_S = 30 * DAY_S
"""How long seats beyond the licence's are given, once a term."""
BORROW_PERCENT = 20
BORROW_S = 30 * DAY_S
RECLAIM_PERCENT = 10
RECLAIM_S = 30 * DAY_S
"""In which so many seats may be taken from nodes before their lease ended."""
ISSUER_MONTHS = 25
"""How long an issuer's certificate may live: a stolen key is worth that much less."""
ISSUER_MONTH_S = 366 * DAY_S // 12
"""A twelfth of a leap year, as certificates are made: 25 of them are no shorter than any 25 months of the calendar."""
NEVER = 253_402_300_799
"""The end of the year 9999: when a perpetual licence ends."""


class Plan(StrEnum):
    """The words of `Licence.plan`."""

    TRIAL = "trial"
    EVALUATION = "evaluation"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    PERPETUAL = "perpetual"
    PREPAID = "prepaid"
    PAY_PER_USE = "pay-per-use"


GRACE_S: dict[str, int] = {
    Plan.YEARLY: 14 * DAY_S,
    Plan.MONTHLY: 7 * DAY_S,
    Plan.PAY_PER_USE: 14 * DAY_S,
    Plan.PREPAID: 14 * DAY_S,
}
"""Grace after the licence's own end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """A name under which features are sold; each holds all of the one before it."""

    name: str
    features: tuple[str, ...]


_TEAM = ("qos", "reservations", "recurring")
EDITIONS = (
    Edition(name="standard", features=()),
    Edition(name="team", features=_TEAM),
    Edition(name="enterprise", features=(*_TEAM, "slurm", "training")),
)
FEATURES = EDITIONS[-1].features
"""Each is something that a job can need at its start, which is the only place where a licence says no."""
PLANNED = ("slurm", "training")
"""Words that are sold and keep nothing from starting yet: what they stand for is not built."""
_JOBS = {
    "qos": ("names a QOS beside the default, or one that preempts", "--qos"),
    "reservations": ("names a reservation", "--reservation"),
    "recurring": ("was made by a recurring job", "--cron"),
}
"""What about a job needs a feature, and the option without which it does not."""


def edition(name: str) -> Edition | None:
    """The edition of this name."""
    return next((each for each in EDITIONS if each.name == name), None)


def opened(licence: Licence | None, *, development: bool = False) -> tuple[str, ...]:
    """The features that a licence opens: those it names, in full, whatever its edition is called.

    Under development roots, where anybody can sign anything, one that names neither edition nor features opens all.
    """
    if licence is None:
        return ()
    if development and licence.edition is None and not licence.features:
        return FEATURES
    return licence.features


def first_with(feature: str) -> str | None:
    """The lowest edition that has a feature."""
    return next((each.name for each in EDITIONS if feature in each.features), None)


def sold_with(feature: str) -> str:
    """Which editions have a feature; the one home of these words: `edition team and above`."""
    having = first_with(feature)
    if having is None:
        return "no edition of this version"
    return f"edition {having}" + ("" if having == EDITIONS[-1].name else " and above")


def locked(licence: Licence | None, feature: str, *, development: bool = False) -> str | None:
    """Why a feature cannot be used, and which edition has it; `None` when it can."""
    if feature in opened(licence, development=development):
        return None
    if first_with(feature) is None:
        return f"{feature} is in no edition of this version; upgrade Stoker, or ask your vendor"
    where = f"the licence {licence.id} ({licence.edition or EDITIONS[0].name})" if licence else "this site, unlicensed,"
    return (
        f"{feature} is not part of {where}; {sold_with(feature)} has it. Ask your vendor, then: stoker-license "
        "activate FILE"
    )


def held_jobs(licence: Licence, *, development: bool = False) -> dict[str, str]:
    """Feature → why a job that needs it waits, for each that is locked and keeps jobs from starting."""
    found = {}
    for feature, (does, option) in _JOBS.items():
        why = locked(licence, feature, development=development)
        if why is not None:
            found[feature] = f"it {does}, and {why.partition('. ')[0]}. Without {option} it starts under this licence"
    return found


def part(seats: int, percent: int) -> int:
    """A part of the licence's seats, at least one where there are any."""
    return max(1, seats * percent // 100) if seats else 0


def overdraft(licence: Licence) -> int:
    """Seats beyond the licence's that may be given for a while; none to try, and none to whom nobody knows."""
    bought = licence.site is not None and licence.plan not in (Plan.TRIAL, Plan.EVALUATION)
    return part(licence.seats, OVERDRAFT_PERCENT) if bought else 0


def is_perpetual(licence: Licence) -> bool:
    """Whether it runs for ever."""
    return licence.plan == Plan.PERPETUAL


def problem(licence: Licence) -> str | None:
    """What a plan needs and the licence does not say, or says without its plan."""
    needs = {
        Plan.PERPETUAL: ("updates_until", licence.updates_until),
        Plan.PREPAID: ("gpu_hours", licence.gpu_hours),
        Plan.PAY_PER_USE: ("report_by", licence.report_by),
    }
    for plan, (name, value) in needs.items():
        if licence.plan == plan and value is None:
            return f"is {plan} and does not say {name}"
        if licence.plan != plan and value is not None:
            return f"is {licence.plan} and says {name}, which belongs to {plan}"
    if licence.updates_until is not None and licence.updates_until > licence.exp:
        return "has updates beyond its own dates"
    if licence.site is None and (licence.fingerprint or licence.generation or licence.request):
        return "is bound to no site, and says how it is bound"
    return None
