"""What can be said of usage reports by their signatures and content: the buyer and the vendor run the same checks.

A report carries totals, and the digests of what is too long for it. Here the reports of one site are held against each
other and against the licence. Pure.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from licensing import armour, paseto, verify
from licensing.clock import SKEW_S
from licensing.document import Licence
from licensing.exchange import UnitPeak, Usage
from licensing.moments import day, when
from licensing.plans import DAY_S
from licensing.verify import SiteToken

OVERDRAFT_PERCENT = 10


class Grade(StrEnum):
    """How bad a finding is."""

    WRONG = "wrong"
    """The reports contradict each other or themselves; no receipt."""
    FORK = "fork"
    """Two reports with one parent: two ledgers answer for this site, or one was restored."""
    NOTE = "note"
    """To be talked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a report shows."""

    grade: Grade
    report: str
    words: str


def read(text: str) -> SiteToken[Usage]:
    """Verify one usage report, from its file or as a bare token.

    Raises:
        LicenceError: changed, of another kind, or not by the site that it names.
    """
    return verify.site_paper(Usage, armour.bare(armour.Label.USAGE, text))


def digest(report: SiteToken[Usage]) -> str:
    """SHA-256 of the signed content: what the next report and the receipt name."""
    return hashlib.sha256(paseto.split(report.text).payload).hexdigest()


def check(reports: Sequence[SiteToken[Usage]], licence: Licence | None, now: int) -> list[Finding]:
    """Hold reports of one licence against each other, against the licence where it is known, and against the time."""
    found: list[Finding] = []
    by_number: dict[int, dict[str, SiteToken[Usage]]] = defaultdict(dict)
    for report in reports:
        by_number[report.paper.number][digest(report)] = report
        found += _alone(report.paper, licence, now)
    for number, same in sorted(by_number.items()):
        first, *others = same.values()
        found += [
            _finding(Grade.FORK, other.paper, f"is another report number {number} than {first.paper.id}")
            for other in others
        ]
        before = by_number.get(number - 1)
        for each in same.values():
            found += _chained(each.paper, before)
    return found


def _alone(usage: Usage, licence: Licence | None, now: int) -> list[Finding]:
    found = []
    if usage.iat < usage.ends:
        found.append(_finding(Grade.WRONG, usage, f"was exported {when(usage.iat)}, before its period ended"))
    if usage.iat > now + SKEW_S:
        found.append(_finding(Grade.WRONG, usage, f"was exported {when(usage.iat)}, and here it is {when(now)}"))
    first, last = day(usage.begins), day(usage.ends - 1)
    ahead = sorted({total.day for total in usage.totals if total.day > last})
    if ahead:
        found.append(_finding(Grade.WRONG, usage, f"has totals of {', '.join(ahead)}, after its last day, {last}"))
    late = sum(total.gpu_ms for total in usage.totals if total.day < first)
    if late:  # a closed period never changes
        found.append(_finding(Grade.NOTE, usage, f"has {late} GPU-ms of days before {first} that came late"))
    if usage.open_nodes:
        names = ", ".join(usage.open_nodes)
        found.append(_finding(Grade.NOTE, usage, f"has not yet heard the end of the period of {names}"))
    return found + (_against(usage, licence) if licence else [])


def _against(usage: Usage, licence: Licence) -> list[Finding]:
    found = []
    if usage.licence != licence.id:
        found.append(_finding(Grade.WRONG, usage, f"is for the licence {usage.licence}, not for {licence.id}"))
    if licence.site is not None and usage.site != licence.site:
        found.append(
            _finding(Grade.WRONG, usage, f"is signed by site {usage.site[:16]}…, the licence is bound to another")
        )
    seats = licence.seats + max(1, licence.seats * OVERDRAFT_PERCENT // 100)
    days: dict[str, int] = defaultdict(int)
    for total in usage.totals:
        days[total.day] += total.gpu_ms
    over = sorted(day for day, used in days.items() if used > seats * DAY_S * 1000)
    if over:
        words = f"has more GPU-seconds on {', '.join(over)} than {seats} GPUs can give"
        found.append(_finding(Grade.WRONG, usage, words))
    if usage.peak is not None and usage.peak.seats > licence.seats:
        words = f"held {usage.peak.seats} seats {when(usage.peak.at)}, the licence has {licence.seats}"
        found.append(_finding(Grade.NOTE, usage, words))
    limits = {"node": licence.max_nodes, "admin": licence.max_admins}
    for each in usage.units:
        limit = limits.get(each.unit)
        if limit is not None and each.count > limit:
            words = f"counted {units_told([each])} {when(each.at)}, the licence is for {limit}"
            found.append(_finding(Grade.NOTE, usage, words))
    return found


def units_told(peaks: Sequence[UnitPeak]) -> str:
    """`3 nodes, 1 admin`; a unit of a newer site goes by its own word."""
    return ", ".join(f"{each.count} {each.unit}{'' if each.count == 1 else 's'}" for each in peaks)


def _chained(usage: Usage, before: dict[str, SiteToken[Usage]] | None) -> list[Finding]:
    if usage.number == 1:
        return []
    if not before:
        return [_finding(Grade.NOTE, usage, f"continues number {usage.number - 1}, which is not here")]
    parent = before.get(usage.prev)
    if parent is None:
        return [_finding(Grade.FORK, usage, f"does not continue the report number {usage.number - 1} that is here")]
    found = []
    if parent.paper.ends != usage.begins:
        words = f"begins {when(usage.begins)}, and the one before ended {when(parent.paper.ends)}"
        found.append(_finding(Grade.WRONG, usage, words))
    if parent.paper.cumulative_gpu_ms + usage.gpu_ms != usage.cumulative_gpu_ms:
        found.append(_finding(Grade.WRONG, usage, "says another sum over all periods than it and those before it give"))
    return found


def _finding(grade: Grade, usage: Usage, words: str) -> Finding:
    return Finding(grade=grade, report=usage.id, words=words)
