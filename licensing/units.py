"""Seats of the other two units, `node` and `admin`: counted and told, never refused.

    node    machines with an agent that the hub heard in the last 30 days, and that are nodes of it still
    admin   named persons (accounts) that used an admin verb in the last 30 days

Rules kept here: both are unlimited unless the licence says how many, and beyond that nothing changes but what is told:
a banner, a row of the audit trail and one of the next usage report. Names stay on the site.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from licensing.document import Licence
from licensing.exchange import UnitPeak
from licensing.plans import DAY_S
from licensing.store import Ledger

WINDOW_S = 30 * DAY_S
"""How long somebody counts after the last time."""


class Unit(StrEnum):
    """What is counted beside GPUs."""

    NODE = "node"
    ADMIN = "admin"


_AGAIN_S = {Unit.NODE: DAY_S, Unit.ADMIN: 3600}
"""How old a note may be before it is written anew: a person who works for an hour is one write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCount:
    """How many of a unit there are, and may be."""

    unit: Unit
    used: int
    limit: int | None = None
    """`None`: as many as there are."""
    names: tuple[str, ...] = ()
    """Who or what was counted; for the site's own screens alone."""

    @property
    def is_over(self) -> bool:
        """Whether there are more than the licence says."""
        return self.limit is not None and self.used > self.limit

    @property
    def told(self) -> str | None:
        """What is said while there are more than the licence says."""
        if not self.is_over:
            return None
        who = _WHO[self.unit][self.used == 1]
        return f"{self.used} {who}, and the licence is for {self.limit}; nothing is refused, ask your vendor for more"


_WHO = {
    Unit.NODE: ("nodes have an agent", "node has an agent"),
    Unit.ADMIN: ("persons used an admin verb in 30 days", "person used an admin verb in 30 days"),
}


class Units:
    """The counts of one site. Used from the thread that owns the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def note_nodes(self, heard: Collection[str], known: Collection[str], at: int) -> None:
        """Note which nodes' agents are heard now; of those that are no nodes of this hub any more nothing is kept.

        Raises:
            StoreError: not stored.
        """
        noted = self._noted(Unit.NODE)
        gone = [name for name in noted if name not in known]
        due = [name for name in sorted(heard) if noted.get(name, 0) < at + WINDOW_S - _AGAIN_S[Unit.NODE]]
        if gone or due:
            with self._ledger.transaction():
                for name in gone:
                    self._ledger.run("DELETE FROM hold WHERE unit = ? AND subject = ?", (Unit.NODE, name))
                for name in due:
                    self._put(Unit.NODE, name, at)

    def note_admin(self, user: str, at: int, used_at: int) -> bool:
        """Note that somebody used an admin verb at `used_at`; whether that was news.

        Raises:
            StoreError: not stored.
        """
        until = self._noted(Unit.ADMIN).get(user, 0)
        if until >= used_at + WINDOW_S - _AGAIN_S[Unit.ADMIN]:
            return False
        with self._ledger.transaction():
            self._put(Unit.ADMIN, user, used_at)
            if until <= at:
                self._ledger.audit(at, "admin", user, until=used_at + WINDOW_S)
        return True

    def counts(self, licence: Licence | None, at: int) -> tuple[UnitCount, ...]:
        """How many there are of each unit."""
        limits = {Unit.NODE: licence.max_nodes, Unit.ADMIN: licence.max_admins} if licence else {}
        found = {unit: tuple(name for name, until in self._noted(unit).items() if until > at) for unit in Unit}
        return tuple(
            UnitCount(unit=unit, used=len(names), limit=limits.get(unit), names=names) for unit, names in found.items()
        )

    def settle(self, licence: Licence | None, at: int) -> None:
        """Note the most of the day, for the reports, and in the trail when there are more than the licence says.

        Raises:
            StoreError: not stored.
        """
        day, counts = at // DAY_S, self.counts(licence, at)
        most = dict(self._ledger.run('SELECT unit, "count" FROM unit_peak WHERE day = ?', (day,)))
        higher = [each for each in counts if each.used > most.get(each.unit, 0)]
        said = dict(self._ledger.run("SELECT name, value FROM meta WHERE name LIKE 'beyond:%'"))
        turned = [each for each in counts if _said(each) != said.get(_key(each), "")]
        if not higher and not turned:
            return
        with self._ledger.transaction():
            for each in higher:
                self._ledger.run(
                    'INSERT OR REPLACE INTO unit_peak (unit, day, "count", at) VALUES (?, ?, ?, ?)',
                    (each.unit, day, each.used, at),
                )
            for each in turned:
                self._ledger.run("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (_key(each), _said(each)))
                if each.is_over:
                    self._ledger.audit(at, "beyond", each.unit, used=each.used, of=each.limit)

    def peaks(self, begins: int, ends: int) -> tuple[UnitPeak, ...]:
        """The most of each unit between two times, and when."""
        sql = (
            'SELECT "count", at FROM unit_peak WHERE unit = ? AND at >= ? AND at < ? ORDER BY "count" DESC, at LIMIT 1'
        )
        rows = [(unit, self._ledger.one(sql, (unit, begins, ends))) for unit in Unit]
        return tuple(UnitPeak(unit=unit, count=row[0], at=row[1]) for unit, row in rows if row is not None)

    def _noted(self, unit: Unit) -> dict[str, int]:
        return dict(self._ledger.run('SELECT subject, "until" FROM hold WHERE unit = ? ORDER BY subject', (unit,)))

    def _put(self, unit: Unit, subject: str, at: int) -> None:
        self._ledger.run(
            'INSERT INTO hold (unit, subject, node, since, "until", gen) VALUES (?, ?, ?, ?, ?, 0) '
            'ON CONFLICT (unit, subject) DO UPDATE SET "until" = excluded."until"',
            (unit, subject, subject, at, at + WINDOW_S),
        )


def _key(each: UnitCount) -> str:
    return f"beyond:{each.unit}"


def _said(each: UnitCount) -> str:
    """What is in the trail already: said again only for another licence's number, or after it was made good."""
    return f"of {each.limit}" if each.is_over else ""
