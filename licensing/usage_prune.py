"""Rows of the hub's usage ledger that the vendor has acknowledged and that are old enough, forgotten.

Rules kept here: a row goes when the report that told of it and all before it are acknowledged and that report's month
is over for as long as rows are kept; only from the front, in the order in which rows came, so each chain and the hub's
own go on from a checkpoint: the head after the last row that is gone. The trail holds the checkpoints. Sums, reports
and what was counted stay. Used from the thread that owns the ledger.

A receipt acknowledges, by digest, its report and those before it that its desk says it has. A report of a licence that
is no longer in use goes with the next one, because no receipt of its own would be taken here any more: whoever reads
the next has its digest and the sum of all, and can ask for it.
"""

from __future__ import annotations

import hashlib
import logging

from licensing import usage_file, usage_rows
from licensing.document import decode
from licensing.exchange import Receipt, Usage
from licensing.store import Ledger
from licensing.usage_book import UsageBook

log = logging.getLogger(__name__)

AT_ONCE = 5_000
"""Rows forgotten in one transaction: some tens of milliseconds, for which leases wait."""


class Pruning:
    """Keeps the ledger as short as it may be."""

    def __init__(self, ledger: Ledger, book: UsageBook) -> None:
        self._ledger = ledger
        self._book = book

    def acknowledge(self, receipt: Receipt) -> None:
        """The vendor has a report. Belongs inside a transaction; one of a report that is not ours changes nothing."""
        row = self._ledger.one("SELECT content FROM usage_report WHERE number = ?", (receipt.number,))
        if row is None or hashlib.sha256(row[0]).hexdigest() != receipt.digest:
            return
        first = receipt.first or receipt.number
        open_ = self._ledger.run(
            "SELECT number, content FROM usage_report WHERE number <= ? AND acknowledged = 0", (receipt.number,)
        )
        self._ledger.run_many(
            "UPDATE usage_report SET acknowledged = 1 WHERE number = ?",
            [
                (number,)
                for number, content in open_
                if number >= first or number == receipt.number or decode(Usage, content).licence != receipt.licence
            ],
        )

    def prune(self, now: int, kept_s: int) -> int:
        """Forget up to `AT_ONCE` rows; how many were.

        Raises:
            StoreError: nothing was.
        """
        report = self._ledger.one(
            "SELECT number, ends, nodes FROM usage_report WHERE ends <= ? AND NOT EXISTS (SELECT 1 FROM usage_report "
            "AS open WHERE open.acknowledged = 0 AND open.number <= usage_report.number) ORDER BY number DESC LIMIT 1",
            (now - kept_s,),
        )
        if report is None:
            return 0
        number, ends, nodes = report
        old = self._old(nodes)
        if not old:
            return 0
        with self._ledger.transaction():
            hub = bytes.fromhex(self._book.checkpoint().head)
            chains: dict[int, tuple[int, bytes]] = {}
            for _, chain_n, seq, head in old:
                hub, chains[chain_n] = usage_rows.link(hub, head), (seq, head)
            self._ledger.run("DELETE FROM usage_row WHERE n <= ?", (old[-1][0],))
            self._ledger.run_many(
                "UPDATE usage_chain SET pruned = ?, pruned_head = ? WHERE n = ?",
                [(seq, head.hex(), chain_n) for chain_n, (seq, head) in chains.items()],
            )
            self._ledger.run(
                "UPDATE usage_state SET pruned = pruned + ?, pruned_head = ?, pruned_before = max(pruned_before, ?)",
                (len(old), hub.hex(), ends),
            )
            row = {"rows": len(old), "head": hub.hex(), "report": number}
            self._ledger.audit(now, "usage-pruned", "site", **row)
        log.info("usage: %d rows of reports up to %d forgotten", len(old), number)
        return len(old)

    def _old(self, nodes: str) -> list[tuple[int, int, int, bytes]]:
        """The first rows that are there, up to one that this report or one before it did not tell of."""
        lines = usage_file.decode_lines(nodes.split("\n")) if nodes else ()
        told = {(each.node, each.chain, each.branch): each.last for each in lines}
        last = {each.n: told.get((each.node, each.chain, each.branch), 0) for each in self._book.branches()}
        rows = self._ledger.run("SELECT n, chain_n, seq, head FROM usage_row ORDER BY n LIMIT ?", (AT_ONCE,))
        keep = next((place for place, row in enumerate(rows) if row[2] > last.get(row[1], 0)), len(rows))
        return [(n, chain_n, seq, head) for n, chain_n, seq, head in rows[:keep]]
