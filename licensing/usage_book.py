"""The hub's usage ledger, in `licence.db`: the rows of all nodes, merged once each, and the reports made of them.

Rules kept here: a row is known by node, chain and number, so merging twice is merging once; what is missing or does not
continue is noted and reported, and never refused; the same run told by two chains (a node's store went back in time) is
counted once; rows only come to the end, so what a report closed never changes, and what comes late is in the next one;
only rows that the vendor acknowledged long ago go, from the front (`usage_prune`).
Used from the thread that owns the ledger.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from licensing import usage_rows
from licensing.store import Ledger
from licensing.usage_rows import Page, Told

MAX_BRANCHES = 20
"""Forks of one chain that are followed; a node that makes more is not followed any more, and reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """How far a chain of a node is known; a second branch of it began again at row 1."""

    n: int
    node: str
    chain: str
    branch: int
    seq: int
    head: str
    gpu_ms: int
    began: str
    """The head before its first row here."""
    pruned: int = 0
    """Its last row that is not kept any more, 0 for none."""
    pruned_head: str = ""
    """The head after that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What stands for the rows that are not kept any more (`usage_prune`)."""

    rows: int
    head: str
    """The hub's head after the last of them."""
    before: int
    """Of runs that began earlier it is not known any more which ones were counted, Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a report tells of."""

    at: int
    event: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A row as it is kept."""

    seq: int
    text: str
    counted: int
    gpu_ms: int
    gpu: str
    sku: str
    start: int


class UsageBook:
    """The tables `usage_…` of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # --- merging ------------------------------------------------------------------------------------------------------

    def wanted(self, node: str, told: Sequence[Told], now: int) -> list[tuple[str, int]]:
        """Which rows to ask a node for: (chain, after), for each chain that has more than is known here.

        Raises:
            StoreError: the ledger cannot be read.
        """
        asks = []
        for each in told:
            known = self.branch(node, each.chain)
            if known is None:
                if each.seq:
                    asks.append((each.chain, 0))
            elif (known.seq, known.head) != (each.seq, each.head):
                asks.append((each.chain, known.seq))
        if not asks:
            self.heard(node, told[-1], now)
        return asks

    def heard(self, node: str, told: Told, now: int) -> None:
        """Note that a node was heard, and that all its rows are here.

        Raises:
            StoreError: not stored.
        """
        known = self.branch(node, told.chain)
        with self._ledger.transaction():
            if known is not None and known.gpu_ms != told.gpu_ms:
                apart = abs(known.gpu_ms - told.gpu_ms)
                self._event(now, "counter", node, f"its counter and its rows are {apart} GPU-ms apart")
            self._ledger.run(
                "INSERT INTO usage_node (node, heard_at, open_gpu_ms) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
                " heard_at = max(heard_at, excluded.heard_at), open_gpu_ms = excluded.open_gpu_ms",
                (node, now, told.open_gpu_ms),
            )

    def merge(self, node: str, page: Page, now: int) -> int:
        """Take rows; how many are new. After a fork none are, and `wanted` asks for all of the chain again.

        Raises:
            StoreError: nothing was stored.
        """
        with self._ledger.transaction():
            known = self.branch(node, page.chain) or self._begin(node, page.chain, 0)
            told, page = page, self._without_known(known, page)
            if told.rows and not page.rows and page.before == self.head_at(known, page.first - 1):
                return 0  # asked for before others came: two rounds fetch at once when a report is made
            if page.rows and page.first > known.seq + 1:
                branch = self._gap(known, page, now)
            elif page.before == known.head and not (page.rows and page.first <= known.seq):
                branch = known
            else:
                self._fork(known, now)
                branch = None
            if branch is not None:
                self._add(branch, page, now)
        return len(page.rows) if branch is not None else 0

    def branch(self, node: str, chain: str) -> Branch | None:
        """The branch of a chain that is followed."""
        sql = f"{_BRANCH} WHERE node = ? AND chain = ? ORDER BY branch DESC LIMIT 1"
        row = self._ledger.one(sql, (node, chain))
        return _branch(row) if row else None

    def branches(self) -> list[Branch]:
        """All of them, in the order in which they were first heard of."""
        return [_branch(row) for row in self._ledger.run(f"{_BRANCH} ORDER BY n")]

    def _without_known(self, known: Branch, page: Page) -> Page:
        """The page from the first row on that is not here; rows that differ from those here stay in it."""
        rows, first, before = list(page.rows), page.first, page.before
        while rows and first <= known.seq:
            kept = self._ledger.one("SELECT line FROM usage_row WHERE chain_n = ? AND seq = ?", (known.n, first))
            if kept is None or kept[0] != rows[0]:
                break
            before = usage_rows.head_after(before, rows[:1])
            rows, first = rows[1:], first + 1
        return Page(chain=page.chain, first=first, before=before, rows=tuple(rows))

    def _gap(self, known: Branch, page: Page, now: int) -> Branch | None:
        """Rows are missing: what comes after them is another branch, which begins there."""
        detail = f"chain {known.chain[:8]}: rows {known.seq + 1} to {page.first - 1} are missing"
        self._event(now, "gap", known.node, detail)
        if known.branch + 1 >= MAX_BRANCHES:
            return None
        return self._begin(known.node, known.chain, known.branch + 1, seq=page.first - 1, head=page.before)

    def _fork(self, known: Branch, now: int) -> None:
        detail = f"chain {known.chain[:8]}: its rows do not continue the {known.seq} that are known"
        self._event(now, "fork", known.node, detail)
        if known.branch + 1 < MAX_BRANCHES:
            self._begin(known.node, known.chain, known.branch + 1)

    def _begin(self, node: str, chain: str, branch: int, *, seq: int = 0, head: str = "") -> Branch:
        began = head or usage_rows.genesis(chain)
        self._ledger.run(
            "INSERT INTO usage_chain (node, chain, branch, seq, head, gpu_ms, began, sent)"
            " VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
            (node, chain, branch, seq, began, began, seq),
        )
        found = self.branch(node, chain)
        assert found is not None, "it was put there"
        return found

    def _add(self, known: Branch, page: Page, now: int) -> None:
        head, gpu_ms, unsound = bytes.fromhex(page.before), known.gpu_ms, 0
        hub = bytes.fromhex(self._state()[0])
        lines = []
        for seq, text in enumerate(page.rows, page.first):
            head = usage_rows.link(head, text.encode())
            hub = usage_rows.link(hub, head)
            row = usage_rows.read(text, seq)
            if row is None or row.node != known.node:
                unsound += 1
                lines.append((known.n, seq, text, head, "", "", "", 0, 0, 0))
                continue
            counted = max(0, row.gpu_ms - self._counted(known, row))
            gpu_ms += row.gpu_ms
            lines.append((known.n, seq, text, head, row.job, row.gpu, row.sku, row.start, row.gpu_ms, counted))
        if not lines:
            return
        self._ledger.run_many(_ADD, lines)
        self._ledger.run(
            "UPDATE usage_chain SET seq = ?, head = ?, gpu_ms = ? WHERE n = ?",
            (lines[-1][1], head.hex(), gpu_ms, known.n),
        )
        self._ledger.run("UPDATE usage_state SET head = ?, used = used + ?", (hub.hex(), sum(row[-1] for row in lines)))
        if unsound:
            self._event(now, "unsound", known.node, f"{unsound} rows cannot be read and count nothing")

    def _counted(self, known: Branch, row: usage_rows.Row) -> int:
        """What is counted already of the same run, told by another chain of the node.

        All of it where that is not known any more: such runs were reported, and nothing is billed twice.
        """
        if not self._has_several(known):
            return 0
        if row.start < self.checkpoint().before:
            return row.gpu_ms
        sql = (
            "SELECT coalesce(sum(counted), 0) FROM usage_row JOIN usage_chain ON usage_chain.n = chain_n"
            " WHERE job = ? AND gpu = ? AND start = ? AND node = ? AND chain_n != ?"
        )
        found = self._ledger.one(sql, (row.job, row.gpu, row.start, known.node, known.n))
        return int(found[0]) if found else 0

    def _has_several(self, known: Branch) -> bool:
        found = self._ledger.one("SELECT count(*) FROM usage_chain WHERE node = ?", (known.node,))
        return found is not None and found[0] > 1

    # --- seats, events, sums ------------------------------------------------------------------------------------------

    def note_seats(self, holds: Sequence[tuple[str, str]], at: int) -> None:
        """Note which GPUs hold a seat now, as (node, GPU): what may be used, and the most at once.

        Raises:
            StoreError: not stored.
        """
        with self._ledger.transaction():
            self._ledger.run_many(
                "INSERT INTO usage_leased (node, gpu, last_at) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET last_at = max(last_at, excluded.last_at)",
                [(node, gpu, at) for node, gpu in holds],
            )
            self._ledger.run(
                "INSERT INTO usage_peak (day, seats, at) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
                " at = iif(excluded.seats > seats, excluded.at, at), seats = max(seats, excluded.seats)",
                (at // usage_rows.DAY_S, len(holds), at),
            )

    def leased(self) -> dict[tuple[str, str], int]:
        """Until when each GPU was seen to hold a seat, by (node, GPU)."""
        return {(node, gpu): at for node, gpu, at in self._ledger.run("SELECT node, gpu, last_at FROM usage_leased")}

    def peak(self, begins: int, ends: int) -> tuple[int, int] | None:
        """The most seats at once, and when."""
        sql = "SELECT seats, at FROM usage_peak WHERE at >= ? AND at < ? ORDER BY seats DESC, at LIMIT 1"
        return self._ledger.one(sql, (begins, ends))

    def events(self, begins: int, ends: int) -> list[Event]:
        """What was noticed between two times."""
        sql = "SELECT at, event, subject, detail FROM usage_event WHERE at >= ? AND at < ? ORDER BY n"
        rows = self._ledger.run(sql, (begins, ends))
        return [Event(at=at, event=event, subject=subject, detail=detail) for at, event, subject, detail in rows]

    def used_ms(self) -> int:
        """All that was ever counted, with what runs now, in thousandths of GPU-seconds."""
        running = self._ledger.one("SELECT coalesce(sum(open_gpu_ms), 0) FROM usage_node")
        return self._state()[1] + (running[0] if running else 0)

    def used_of(self, licence_id: str) -> int:
        """What was counted since a licence was first asked for: it is what its prepaid hours are spent on.

        Raises:
            StoreError: the ledger cannot be used.
        """
        used = self.used_ms()
        found = self._ledger.one("SELECT since_ms FROM usage_licence WHERE licence = ?", (licence_id,))
        if found is None:
            self._ledger.run("INSERT INTO usage_licence (licence, since_ms) VALUES (?, ?)", (licence_id, used))
            return 0
        return max(0, used - int(found[0]))

    @property
    def head(self) -> str:
        """Where the hub's own chain of rows stands."""
        return self._state()[0]

    def silent(self, since: int) -> list[str]:
        """Nodes with a lease, or with rows, that were not heard since."""
        sql = (
            'SELECT node FROM "grant" UNION SELECT node FROM usage_chain'
            " EXCEPT SELECT node FROM usage_node WHERE heard_at >= ? ORDER BY 1"
        )
        return [row[0] for row in self._ledger.run(sql, (since,))]

    # --- for reports --------------------------------------------------------------------------------------------------

    def cut(self, branch: Branch, after: int, ends: int) -> int:
        """Up to which row of a branch a report goes: the last one that begins before its end."""
        sql = "SELECT max(seq) FROM usage_row WHERE chain_n = ? AND seq > ? AND start < ?"
        found = self._ledger.one(sql, (branch.n, after, ends))
        return found[0] if found and found[0] is not None else after

    def kept(self, branch: Branch, after: int, until: int) -> Iterator[Kept]:
        """The rows of a branch after one number up to another."""
        rows = self._ledger.run(
            "SELECT seq, line, counted, gpu_ms, gpu, sku, start FROM usage_row"
            " WHERE chain_n = ? AND seq > ? AND seq <= ? ORDER BY seq",
            (branch.n, after, until),
        )
        for seq, text, counted, gpu_ms, gpu, sku, start in rows:
            yield Kept(seq=seq, text=text, counted=counted, gpu_ms=gpu_ms, gpu=gpu, sku=sku, start=start)

    def head_at(self, branch: Branch, seq: int) -> str:
        """The head of a branch after a row."""
        found = self._ledger.one("SELECT head FROM usage_row WHERE chain_n = ? AND seq = ?", (branch.n, seq))
        if found:
            return str(found[0].hex())
        return branch.pruned_head if branch.pruned and branch.pruned == seq else branch.began

    def sent(self, branch: Branch) -> int:
        """The last row of a branch that a report has told of."""
        found = self._ledger.one("SELECT sent FROM usage_chain WHERE n = ?", (branch.n,))
        return found[0] if found else 0

    def mark_sent(self, branch: Branch, seq: int) -> None:
        """A report tells of it up to this row. Belongs inside the transaction that keeps the report."""
        self._ledger.run("UPDATE usage_chain SET sent = ? WHERE n = ?", (seq, branch.n))

    def verify(self) -> int:
        """Walk all rows that are kept, by each node's chain and by the hub's; how many there ever were.

        Raises:
            ValueError: one is missing or was changed, or the trail knows of other rows that are not kept.
        """
        heads = {each.n: bytes.fromhex(each.pruned_head or each.began) for each in self.branches()}
        gone = self.checkpoint()
        if (gone.rows, gone.head) != self._pruned_by_trail():
            raise ValueError("what is said of the rows that are not kept any more is not what the trail has")
        hub, count = bytes.fromhex(gone.head), gone.rows
        for chain_n, seq, text, head in self._ledger.run("SELECT chain_n, seq, line, head FROM usage_row ORDER BY n"):
            heads[chain_n] = usage_rows.link(heads[chain_n], text.encode())
            if heads[chain_n] != head:
                raise ValueError(f"row {seq} of chain {chain_n} or the one before it was changed")
            hub, count = usage_rows.link(hub, head), count + 1
        if hub.hex() != self.head or any(heads[each.n].hex() != each.head for each in self.branches()):
            raise ValueError("rows are missing or were changed")
        return count

    def checkpoint(self) -> Checkpoint:
        """Where the rows that are kept begin."""
        found = self._ledger.one("SELECT pruned, pruned_head, pruned_before FROM usage_state")
        assert found is not None, "made with the table"
        return Checkpoint(rows=found[0], head=found[1], before=found[2])

    def _pruned_by_trail(self) -> tuple[int, str]:
        rows = self._ledger.run("SELECT detail FROM audit WHERE event = 'usage-pruned' ORDER BY n")
        told = [json.loads(row[0]) for row in rows]
        return sum(each["rows"] for each in told), told[-1]["head"] if told else bytes(32).hex()

    def _event(self, at: int, event: str, subject: str, detail: str) -> None:
        """Note something, with an audit row of it; the same thing once."""
        seen = "SELECT 1 FROM usage_event WHERE event = ? AND subject = ? AND detail = ?"
        if self._ledger.one(seen, (event, subject, detail)) is not None:
            return
        sql = "INSERT INTO usage_event (at, event, subject, detail) VALUES (?, ?, ?, ?)"
        self._ledger.run(sql, (at, event, subject, detail))
        self._ledger.audit(at, f"usage-{event}", subject, detail=detail)

    def _state(self) -> tuple[str, int]:
        found = self._ledger.one("SELECT head, used FROM usage_state")
        assert found is not None, "made with the table"
        return found[0], found[1]


def digest(lines: Sequence[str]) -> str:
    """SHA-256 of a part of a report: its lines, each ended by a newline."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def compact(values: object) -> str:
    """A line of JSON in its one spelling."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


_BRANCH = "SELECT n, node, chain, branch, seq, head, gpu_ms, began, pruned, pruned_head FROM usage_chain"
_ADD = (
    "INSERT INTO usage_row (chain_n, seq, line, head, job, gpu, sku, start, gpu_ms, counted)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _branch(row: tuple[Any, ...]) -> Branch:
    n, node, chain, branch, seq, head, gpu_ms, began, pruned, pruned_head = row
    return Branch(
        n=n, node=node, chain=chain, branch=branch, seq=seq, head=head, gpu_ms=gpu_ms, began=began,
        pruned=pruned, pruned_head=pruned_head,
    )  # fmt: skip
