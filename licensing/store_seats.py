"""What the ledger keeps of seats: holds and grants, and the exceptions to plain counting.

A part of `store.Ledger`, whose rules hold here too: each change belongs inside a `transaction()` with its audit row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from licensing.errors import StoreError
from licensing.seats import Hold, has_uuid


@dataclass(frozen=True, kw_only=True)
class Grant:
    """The last lease made out to a node, as content: signing it again gives the same token."""

    node: str
    key: str
    seq: int
    wanted: tuple[str, ...]
    content: bytes
    taken: int = 0
    """The number of the newest lease that a holder of this key has shown, and so certainly has."""
    taken_head: str = ""
    """Its digest; empty where none was shown."""
    back: int = -1
    """The older number that was shown since and is in the trail, -1 for none."""

    @cached_property
    def head(self) -> str:
        """The digest of this lease: what the next one names as the one before it."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """A node that shows an old part of somebody's chain: a second holder of that identity."""

    node: str
    key: str
    of: str
    """The node whose chain goes on."""
    seq: int
    """The lease that it shows."""
    since: int


class Runs(Protocol):
    """The ledger, as far as its rows need it."""

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A statement."""

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """The same statement for each row."""


class SeatRows:
    """The rows; `store.Ledger` runs the statements."""

    def holds(self: Runs, now: int) -> list[Hold]:
        """The seats taken at effective time `now`."""
        rows = self.run(
            'SELECT subject, node, since, "until" FROM hold '
            "WHERE unit = 'gpu' AND \"until\" > ? ORDER BY node, since, subject",
            (now,),
        )
        return [Hold(gpu=gpu, node=node, since=since, until=until) for gpu, node, since, until in rows]

    def hold(self: Runs, node: str, gpus: Sequence[str], *, since: int, until: int, gen: int) -> None:
        """Let `node` hold exactly these GPUs: what it held besides is free, what another held is now its own.

        Raises:
            StoreError: one of them is no GPU with a UUID of its own, so it could not be counted once.
        """
        refuse_nameless(node, gpus)
        held = f"DELETE FROM hold WHERE unit = 'gpu' AND node = ? AND subject NOT IN ({_marks(gpus)})"  # noqa: S608
        self.run(held, (node, *gpus))
        self.run_many(
            "INSERT INTO hold (unit, subject, node, since, \"until\", gen) VALUES ('gpu', ?, ?, ?, ?, ?) "
            "ON CONFLICT (unit, subject) DO UPDATE SET since = iif(node = excluded.node, since, excluded.since), "
            'node = excluded.node, "until" = excluded."until", gen = excluded.gen',
            [(gpu, node, since, until, gen) for gpu in gpus],
        )

    def put_holds(self: Runs, holds: Sequence[tuple[Hold, int]], freed: Sequence[str]) -> None:
        """Make these the holders of their GPUs, each under its generation, and free others."""
        if freed:
            self.run_many("DELETE FROM hold WHERE unit = 'gpu' AND subject = ?", [(gpu,) for gpu in freed])
        if holds:
            self.run_many(
                "INSERT INTO hold (unit, subject, node, since, \"until\", gen) VALUES ('gpu', ?, ?, ?, ?, ?) "
                "ON CONFLICT (unit, subject) DO UPDATE SET since = excluded.since, node = excluded.node, "
                '"until" = excluded."until", gen = excluded.gen',
                [(each.gpu, each.node, each.since, each.until, gen) for each, gen in holds],
            )

    def expire(self: Runs, now: int) -> list[Hold]:
        """Free the seats whose time is over; gives what was freed."""
        rows = self.run(
            'DELETE FROM hold WHERE unit = \'gpu\' AND "until" <= ? RETURNING subject, node, since, "until"', (now,)
        )
        return [Hold(gpu=gpu, node=node, since=since, until=until) for gpu, node, since, until in rows]

    def pull_in(self: Runs, beyond: int, until: int) -> list[Hold]:
        """Let the seats that end later than `beyond` end at `until`, but not borrowed ones; gives them."""
        rows = self.run(
            'UPDATE hold SET "until" = ? WHERE unit = \'gpu\' AND "until" > ? '
            'AND node NOT IN (SELECT node FROM borrowed) RETURNING subject, node, since, "until"',
            (until, beyond),
        )
        return [Hold(gpu=gpu, node=node, since=since, until=until) for gpu, node, since, until in rows]

    def grant(self: Runs, node: str) -> Grant | None:
        """The last grant of a node."""
        rows = self.run(f"{_GRANT} WHERE node = ?", (node,))
        return _grant(rows[0]) if rows else None

    def grants(self: Runs, node: str, key: str) -> list[Grant]:
        """The last grant of this node, and those that other nodes had under the same key; the newest first."""
        return [_grant(row) for row in self.run(f"{_GRANT} WHERE node = ? OR key = ? ORDER BY seq DESC", (node, key))]

    def grants_of(self: Runs, nodes: Sequence[str], keys: Sequence[str]) -> list[Grant]:
        """The last grant of each of these nodes, and those that other nodes had under one of these keys."""
        places = f"node IN ({_marks(nodes)}) OR key IN ({_marks(keys)})"
        return [_grant(row) for row in self.run(f"{_GRANT} WHERE {places}", (*nodes, *keys))]

    def put_grant(self: Runs, grant: Grant) -> None:
        """Remember the last grant of a node."""
        self.run_many(_PUT_GRANT, [_row(grant)])

    def put_grants(self: Runs, grants: Sequence[Grant]) -> None:
        """The same for several nodes."""
        if grants:
            self.run_many(_PUT_GRANT, [_row(each) for each in grants])

    def forked(self: Runs) -> list[Forked]:
        """Nodes that show the identity of another, and get nothing new."""
        rows = self.run('SELECT node, key, "of", seq, since FROM forked ORDER BY node')
        return [Forked(node=node, key=key, of=of, seq=seq, since=since) for node, key, of, seq, since in rows]

    def put_forked(self: Runs, each: Forked) -> None:
        """One more."""
        self.run(
            'INSERT OR REPLACE INTO forked (node, key, "of", seq, since) VALUES (?, ?, ?, ?, ?)',
            (each.node, each.key, each.of, each.seq, each.since),
        )

    def drop_forked(self: Runs, node: str) -> bool:
        """It has an identity of its own again; whether it was one."""
        return bool(self.run("DELETE FROM forked WHERE node = ? RETURNING node", (node,)))

    def borrowed(self: Runs) -> dict[str, int]:
        """Until when each node that borrowed its seats has them."""
        return dict(self.run('SELECT node, "until" FROM borrowed'))

    def put_borrowed(self: Runs, node: str, since: int, until: int) -> None:
        """Let a node have its seats until then."""
        self.run('INSERT OR REPLACE INTO borrowed (node, since, "until") VALUES (?, ?, ?)', (node, since, until))

    def end_borrows(self: Runs, now: int, beyond: int) -> list[str]:
        """Forget what was borrowed until `now`, or longer than `beyond`, which only a wrong clock gives; the nodes."""
        rows = self.run('DELETE FROM borrowed WHERE "until" <= ? OR "until" > ? RETURNING node', (now, beyond))
        return [row[0] for row in rows]

    def drop_borrowed(self: Runs, node: str) -> None:
        """It is back before its time."""
        self.run("DELETE FROM borrowed WHERE node = ?", (node,))

    def overdraft_since(self: Runs, term: str) -> int | None:
        """When the overdraft of a term began."""
        rows = self.run("SELECT since FROM overdraft WHERE term = ?", (term,))
        return int(rows[0][0]) if rows else None

    def put_overdraft(self: Runs, term: str, since: int) -> None:
        """It begins; once a term."""
        self.run("INSERT INTO overdraft (term, since) VALUES (?, ?)", (term, since))

    def extended_until(self: Runs, term: str) -> int | None:
        """Until when the emergency hours of a term run, or ran."""
        rows = self.run('SELECT "until" FROM emergency WHERE term = ?', (term,))
        return int(rows[0][0]) if rows else None

    def put_extended(self: Runs, term: str, since: int, until: int) -> None:
        """They begin; once a term."""
        self.run('INSERT INTO emergency (term, since, "until") VALUES (?, ?, ?)', (term, since, until))

    def reclaimed_since(self: Runs, since: int) -> int:
        """Seats that were taken from nodes before their lease ended, from then on."""
        return int(self.run("SELECT coalesce(sum(seats), 0) FROM reclaimed WHERE at > ?", (since,))[0][0])

    def put_reclaimed(self: Runs, at: int, node: str, seats: int) -> None:
        """Seats are taken from a node before its lease ended."""
        self.run("INSERT INTO reclaimed (at, node, seats) VALUES (?, ?, ?)", (at, node, seats))

    def free_node(self: Runs, node: str) -> int:
        """Free every seat of a node; gives how many."""
        return len(self.run("DELETE FROM hold WHERE unit = 'gpu' AND node = ? RETURNING subject", (node,)))

    def resting(self: Runs) -> dict[str, int]:
        """Nodes that gave their seats back and get none until they are adopted; since when."""
        return dict(self.run("SELECT node, since FROM resting"))

    def put_resting(self: Runs, node: str, since: int) -> None:
        """No seats for it from now on."""
        self.run("INSERT OR IGNORE INTO resting (node, since) VALUES (?, ?)", (node, since))

    def drop_resting(self: Runs, node: str) -> bool:
        """Seats for it again; whether it rested."""
        return bool(self.run("DELETE FROM resting WHERE node = ? RETURNING node", (node,)))

    def pinned(self: Runs) -> frozenset[str]:
        """GPUs that get a seat before others of their node."""
        return frozenset(row[0] for row in self.run("SELECT gpu FROM pinned"))

    def put_pinned(self: Runs, gpu: str) -> None:
        """Before others of its node."""
        self.run("INSERT OR IGNORE INTO pinned (gpu) VALUES (?)", (gpu,))

    def drop_pinned(self: Runs, gpu: str) -> bool:
        """As the others again; whether it was pinned."""
        return bool(self.run("DELETE FROM pinned WHERE gpu = ? RETURNING gpu", (gpu,)))


_GRANT = 'SELECT node, key, seq, wanted, content, taken, taken_head, back FROM "grant"'

_PUT_GRANT = (
    'INSERT INTO "grant" (node, key, seq, wanted, content, taken, taken_head, back) VALUES (?, ?, ?, ?, ?, ?, ?, ?) '
    "ON CONFLICT (node) DO UPDATE SET key = excluded.key, seq = excluded.seq, wanted = excluded.wanted, "
    "content = excluded.content, taken = excluded.taken, taken_head = excluded.taken_head, back = excluded.back"
)


def refuse_nameless(node: str, gpus: Sequence[str]) -> None:
    """Let only GPUs pass that can be counted once.

    Raises:
        StoreError: one has no UUID of its own.
    """
    nameless = [gpu for gpu in gpus if not has_uuid(gpu)]
    if nameless:
        raise StoreError(f"{', '.join(nameless)} of {node} has no UUID and gets no seat; see nvidia-smi -L there")


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _row(grant: Grant) -> tuple[Any, ...]:
    return (
        grant.node, grant.key, grant.seq, json.dumps(grant.wanted), grant.content,
        grant.taken, grant.taken_head, grant.back,
    )  # fmt: skip


def _grant(row: tuple[Any, ...]) -> Grant:
    node, key, seq, wanted, content, taken, taken_head, back = row
    return Grant(
        node=node, key=key, seq=seq, wanted=tuple(json.loads(wanted)), content=content,
        taken=taken, taken_head=taken_head, back=back,
    )  # fmt: skip
