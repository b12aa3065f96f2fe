"""What the ledger keeps of the site's hardware: what is enrolled for which licence, since when it is another, drifts.

Each change belongs inside a `transaction()` of the ledger, with its audit row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Rows(Protocol):
    """The ledger, as far as this needs it."""

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A statement, and its rows."""

    def one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Its first row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The hardware of a licence: as it was when the request was made, or as it drifted since."""

    bound: str
    """What the licence names; see `exchange.Drift.bound`."""
    commitment: str
    marks: str
    """`fingerprint.dump`."""
    salt: str
    """`fingerprint.salt_id` of what it is under."""
    at: int
    signed: str = ""
    """The site's signature under a commitment that the licence does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """The machine is not the enrolled one."""

    bound: str
    verdict: str
    since: int
    grace_since: int | None
    doubted: bool
    """The clock certainly stood too early then."""
    taken: bool
    """A standby took over here."""


class HardwareRows:
    """The rows."""

    def __init__(self, ledger: Rows) -> None:
        self._ledger = ledger

    def enrolled(self, bound: str) -> Enrolled | None:
        """What is enrolled for a licence that names this."""
        row = self._ledger.one(
            "SELECT bound, commitment, marks, salt, at, signed FROM hardware_enrolled WHERE bound = ?", (bound,)
        )
        if row is None:
            return None
        return Enrolled(bound=row[0], commitment=row[1], marks=row[2], salt=row[3], at=row[4], signed=row[5])

    def put_enrolled(self, row: Enrolled) -> None:
        """Enrol."""
        self._ledger.run(
            "INSERT OR REPLACE INTO hardware_enrolled (bound, commitment, marks, salt, at, signed) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (row.bound, row.commitment, row.marks, row.salt, row.at, row.signed),
        )

    def doubt(self) -> Doubt | None:
        """What does not match now."""
        row = self._ledger.one("SELECT bound, verdict, since, grace_since, doubted, taken FROM hardware_doubt")
        if row is None:
            return None
        return Doubt(
            bound=row[0],
            verdict=row[1],
            since=row[2],
            grace_since=row[3],
            doubted=bool(row[4]),
            taken=bool(row[5]),
        )

    def put_doubt(self, doubt: Doubt | None) -> None:
        """Note what does not match, or that all does."""
        self._ledger.run("DELETE FROM hardware_doubt")
        if doubt is not None:
            self._ledger.run(
                "INSERT INTO hardware_doubt (id, bound, verdict, since, grace_since, doubted, taken) "
                "VALUES (1, ?, ?, ?, ?, ?, ?)",
                (doubt.bound, doubt.verdict, doubt.since, doubt.grace_since, int(doubt.doubted), int(doubt.taken)),
            )

    def settle(self, shift_s: int, *, right: bool) -> None:
        """The clock jumped: what was noticed while it was wrong is that much younger. `right`: it is so no more."""
        self._ledger.run(
            "UPDATE hardware_doubt SET since = since + ?, grace_since = grace_since + ?, doubted = ? WHERE doubted = 1",
            (shift_s, shift_s, int(not right)),
        )
        self._ledger.run(
            "UPDATE hardware_taken SET since = since + ?, doubted = ? WHERE doubted = 1", (shift_s, int(not right))
        )

    def taken_since(self, bound: str) -> int | None:
        """When a standby took over under this binding; `None` if none ever did."""
        row = self._ledger.one("SELECT since FROM hardware_taken WHERE bound = ?", (bound,))
        return int(row[0]) if row else None

    def put_taken(self, bound: str, since: int, *, doubted: bool) -> None:
        """It does now; once."""
        sql = "INSERT OR IGNORE INTO hardware_taken (bound, since, doubted) VALUES (?, ?, ?)"
        self._ledger.run(sql, (bound, since, int(doubted)))

    def put_drift(self, at: int, *, platform: bool) -> None:
        """A part changed."""
        self._ledger.run("INSERT INTO hardware_drift (at, platform) VALUES (?, ?)", (at, int(platform)))

    def drifts(self, since: int) -> list[tuple[int, bool]]:
        """When a part changed, and whether the platform was among it; the oldest first."""
        rows = self._ledger.run("SELECT at, platform FROM hardware_drift WHERE at > ? ORDER BY n", (since,))
        return [(at, bool(platform)) for at, platform in rows]
