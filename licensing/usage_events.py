"""What a usage report tells beside its totals: rows of the audit trail, and what was noticed of the nodes' ledgers.

Rules kept here: each row of the trail whose event is in `REPORTED` is told once, in the report of its month, or in the
next one if it was written after that was closed; where they are more than fit, those that are first in `REPORTED` stay,
and how many were left out is said. An event changes no total.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from licensing.exchange import UsageEvent
from licensing.store import Ledger
from licensing.usage_book import UsageBook

REPORTED = (
    "epoch", "superseded", "restored", "recalled", "forked", "went_back", "hardware", "drift", "emergency", "overdraft",
    "released", "reclaimed", "clock_reset", "clock_confirmed", "restricted", "lifted", "borrowed", "returned",
    "corrected", "beyond",
)  # fmt: skip
"""Events of the audit trail that the vendor is told of: to have another one told, name it here."""
MOST = 64
_DETAIL_MOST, _SUBJECT_MOST = 120, 200
_MORE = "more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From its first second to the first after it."""

    begins: int
    ends: int


def told(ledger: Ledger, book: UsageBook, period: Period, *, late_ms: int) -> list[UsageEvent]:
    """All that a report of this period has to tell. Belongs inside the transaction that closes it."""
    found = [*_audited(ledger, period)]
    found += [
        _event(each.at, each.event, each.subject, each.detail) for each in book.events(period.begins, period.ends)
    ]
    if late_ms:
        detail = f"{late_ms} GPU-ms came after their own period was closed"
        found.append(_event(period.ends - 1, "late", "site", detail))
    return found


def most_telling(events: Sequence[UsageEvent], most: int, period: Period) -> list[UsageEvent]:
    """At most so many of them, in the order of time; the last then says how many more there were."""
    left = sum(int(each.detail.split()[0]) for each in events if each.event == _MORE)
    there = [each for each in events if each.event != _MORE]
    if len(there) + bool(left) > most:
        rank = {event: number for number, event in enumerate(REPORTED, 1)}  # what is noticed of nodes comes first
        kept = sorted(there, key=lambda each: (rank.get(each.event, 0), each.at))[: most - 1]
        left, there = left + len(there) - len(kept), kept
    there.sort(key=lambda each: each.at)
    return [*there, _event(period.ends - 1, _MORE, "site", f"{left} further events")] if left else there


def _audited(ledger: Ledger, period: Period) -> list[UsageEvent]:
    """Those of its time, and earlier ones that were written after the last report was closed."""
    last = ledger.one("SELECT coalesce(max(n), 0) FROM audit WHERE event = 'usage-report'")
    marks = ", ".join("?" * len(REPORTED))
    of_it = "at < ? AND (at >= ? OR n > ?)"
    sql = f"SELECT at, event, subject, detail FROM audit WHERE {of_it} AND event IN ({marks}) ORDER BY n"  # noqa: S608 - own words
    rows = ledger.run(sql, (period.ends, period.begins, last[0] if last else 0, *REPORTED))
    return [_event(*row) for row in rows]


def _event(at: int, event: str, subject: str, detail: str) -> UsageEvent:
    return UsageEvent(at=at, event=event, subject=subject[:_SUBJECT_MOST] or "site", detail=detail[:_DETAIL_MOST])
