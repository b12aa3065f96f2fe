"""What the ledger keeps of the exceptions to plain counting: borrowed nodes, overdrafts, early reclaims, rests, pins.

A part of `store.Ledger`, whose rules hold here too: each change belongs inside a `transaction()` with its audit row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SeatRows:
    """The rows; `store.Ledger` runs the statements."""

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def borrowed(self) -> dict[str, int]:
        """Until when each node that borrowed its seats has them."""
        return dict(self._run('SELECT node, "until" FROM borrowed'))

    def put_borrowed(self, node: str, since: int, until: int) -> None:
        """Let a node have its seats until then."""
        self._run('INSERT OR REPLACE INTO borrowed (node, since, "until") VALUES (?, ?, ?)', (node, since, until))

    def end_borrows(self, now: int, beyond: int) -> list[str]:
        """Forget what was borrowed until `now`, or longer than `beyond`, which only a wrong clock gives; the nodes."""
        rows = self._run('DELETE FROM borrowed WHERE "until" <= ? OR "until" > ? RETURNING node', (now, beyond))
        return [row[0] for row in rows]

    def drop_borrowed(self, node: str) -> None:
        """It is back before its time."""
        self._run("DELETE FROM borrowed WHERE node = ?", (node,))

    def overdraft_since(self, term: str) -> int | None:
        """When the overdraft of a term began."""
        rows = self._run("SELECT since FROM overdraft WHERE term = ?", (term,))
        return int(rows[0][0]) if rows else None

    def put_overdraft(self, term: str, since: int) -> None:
        """It begins; once a term."""
        self._run("INSERT INTO overdraft (term, since) VALUES (?, ?)", (term, since))

    def extended_until(self, term: str) -> int | None:
        """Until when the emergency hours of a term run, or ran."""
        rows = self._run('SELECT "until" FROM emergency WHERE term = ?', (term,))
        return int(rows[0][0]) if rows else None

    def put_extended(self, term: str, since: int, until: int) -> None:
        """They begin; once a term."""
        self._run('INSERT INTO emergency (term, since, "until") VALUES (?, ?, ?)', (term, since, until))

    def reclaimed_since(self, since: int) -> int:
        """Seats that were taken from nodes before their lease ended, from then on."""
        return int(self._run("SELECT coalesce(sum(seats), 0) FROM reclaimed WHERE at > ?", (since,))[0][0])

    def put_reclaimed(self, at: int, node: str, seats: int) -> None:
        """Seats are taken from a node before its lease ended."""
        self._run("INSERT INTO reclaimed (at, node, seats) VALUES (?, ?, ?)", (at, node, seats))

    def free_node(self, node: str) -> int:
        """Free every seat of a node; gives how many."""
        return len(self._run("DELETE FROM hold WHERE unit = 'gpu' AND node = ? RETURNING subject", (node,)))

    def resting(self) -> dict[str, int]:
        """Nodes that gave their seats back and get none until they are adopted; since when."""
        return dict(self._run("SELECT node, since FROM resting"))

    def put_resting(self, node: str, since: int) -> None:
        """No seats for it from now on."""
        self._run("INSERT OR IGNORE INTO resting (node, since) VALUES (?, ?)", (node, since))

    def drop_resting(self, node: str) -> bool:
        """Seats for it again; whether it rested."""
        return bool(self._run("DELETE FROM resting WHERE node = ? RETURNING node", (node,)))

    def pinned(self) -> frozenset[str]:
        """GPUs that get a seat before others of their node."""
        return frozenset(row[0] for row in self._run("SELECT gpu FROM pinned"))

    def put_pinned(self, gpu: str) -> None:
        """Before others of its node."""
        self._run("INSERT OR IGNORE INTO pinned (gpu) VALUES (?)", (gpu,))

    def drop_pinned(self, gpu: str) -> bool:
        """As the others again; whether it was pinned."""
        return bool(self._run("DELETE FROM pinned WHERE gpu = ? RETURNING gpu", (gpu,)))
