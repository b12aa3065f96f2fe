"""The hub's ledger: licences, requests, seats held, each node's last grant, the audit trail, the highest time seen.

One SQLite file with one writer: WAL, synchronous=FULL, locking_mode=EXCLUSIVE, so a second hub on the same state is
told so at once. Every change runs inside `transaction()` (BEGIN IMMEDIATE) together with the audit row that records it,
and each audit row carries the SHA-256 of the row before it; the rows of a transaction are written together, as the last
of it. Used from the one thread that called `open()`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from licensing import trail
from licensing.clock import HighWater
from licensing.errors import StoreError
from licensing.store_seats import Forked as Forked
from licensing.store_seats import Grant as Grant
from licensing.store_seats import SeatRows
from licensing.tables import bring_up_to_date

_high_water = msgspec.json.Decoder(HighWater)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A licence that was activated here."""

    id: str
    rev: int
    text: str
    """Its chain of tokens, verified again whenever it is loaded."""
    activated_at: int
    """First activation of this licence id at this site; a later one does not move it."""
    doubted: bool = False
    """The clock certainly stood too early then: `activated_at` is a time of the vendor's until the clock is right."""
    report_by: int = 0
    """What the last receipt said, 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that this site made."""

    id: str
    want: str
    made_at: int
    until: int
    text: str
    answer: str = ""
    """The licence that answered it; empty while it is pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A licence that this site gave back."""

    licence: str
    generation: int
    at: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of the trail."""

    number: int
    at: int
    event: str
    subject: str
    detail: dict[str, Any]


class LostTransactionError(StoreError):
    """SQLite rolled everything back by itself in the middle of a transaction."""


class Ledger(SeatRows):
    """The open file. Every method raises `StoreError` when SQLite cannot do what is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._conn: sqlite3.Connection | None = None
        self._unwritten: list[tuple[Any, ...]] = []
        """Audit rows of the open transaction, each with the digest before it and its own."""
        self._end: tuple[int, str] | None = None
        """What `_noted_end` read, or the last commit noted."""

    def open(self) -> None:
        """Open or create the file, check it, bring its tables up to date.

        Raises:
            StoreError: another process has it open, or it is damaged; says what to do.
        """
        try:
            self._conn = sqlite3.connect(self.path, isolation_level=None, timeout=2)
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._conn.execute(f"PRAGMA {pragma}")
            check = self._conn.execute("PRAGMA quick_check(1)").fetchone()[0]
            if check != "ok":
                raise sqlite3.DatabaseError(check)
            bring_up_to_date(self._conn)
        except sqlite3.Error as error:
            self.close()
            raise StoreError(self._explain(error)) from error

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._conn is not None:
            self._conn.close()
            self._conn = self._end = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Committed when the block ends: only then may anything be signed or sent."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._write_trail()
            end = self._note_end()
            self._run("COMMIT")
            self._end = end
        except BaseException:
            self._unwritten.clear()
            if self._open.in_transaction:
                self._open.execute("ROLLBACK")
            raise

    @contextmanager
    def part(self) -> Iterator[None]:
        """A part of a transaction that may fail alone: what it did is undone, and the others' work stands.

        Raises:
            StoreError: SQLite gave up the whole transaction; nothing of it is kept.
        """
        self._require_transaction()
        self._write_trail()  # what waits is of the parts before this one
        self._run("SAVEPOINT part")
        try:
            yield
            self._write_trail()
        except BaseException:
            self._unwritten.clear()
            self._require_transaction()
            self._run("ROLLBACK TO part")
            self._run("RELEASE part")
            raise
        self._run("RELEASE part")

    def _require_transaction(self) -> None:
        """After some errors (a full disk) SQLite rolls back at once, and each statement would then stand for itself."""
        if not self._open.in_transaction:
            raise LostTransactionError(f"{self.path}: the transaction was given up, nothing of it was kept")

    # --- licences ---

    def put_licence(self, licence: Installed) -> None:
        """Make it the installed one. A known id keeps the moment of its first activation."""
        self._run(
            "INSERT INTO licence (id, rev, text, activated_at, doubted, installed) "
            "VALUES (?, ?, ?, ?, ?, (SELECT coalesce(max(installed), 0) + 1 FROM licence)) "
            "ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, text = excluded.text, installed = excluded.installed",
            (licence.id, licence.rev, licence.text, licence.activated_at, int(licence.doubted)),
        )

    def installed(self) -> Installed | None:
        """The licence installed last."""
        return _licence(self._one(f"{_LICENCE} ORDER BY installed DESC LIMIT 1"))

    def known(self, licence_id: str) -> Installed | None:
        """What is remembered of a licence id, installed now or earlier."""
        return _licence(self._one(f"{_LICENCE} WHERE id = ?", (licence_id,)))

    def settle(self, shift_s: int, *, right: bool) -> None:
        """The clock jumped: what was activated while it was wrong is that much younger. `right`: it is so no more."""
        self._run(
            "UPDATE licence SET activated_at = activated_at + ?, doubted = ? WHERE doubted = 1",
            (shift_s, int(not right)),
        )

    def put_report_by(self, licence_id: str, report_by: int) -> None:
        """Note what a receipt said; an older receipt moves nothing."""
        self._run("UPDATE licence SET report_by = max(report_by, ?) WHERE id = ?", (report_by, licence_id))

    # --- exchange with the vendor ---

    def put_request(self, asked: Asked, keep: int) -> None:
        """Note a request; of those still pending the newest `keep` stay."""
        self._run(
            "INSERT INTO request (id, want, made_at, until, text, answer) VALUES (?, ?, ?, ?, ?, ?)",
            (asked.id, asked.want, asked.made_at, asked.until, asked.text, asked.answer),
        )
        self._run(
            "DELETE FROM request WHERE answer = '' AND id NOT IN "
            "(SELECT id FROM request WHERE answer = '' ORDER BY made_at DESC, rowid DESC LIMIT ?)",
            (keep,),
        )

    def request(self, request_id: str) -> Asked | None:
        """A request of this site."""
        row = self._one("SELECT id, want, made_at, until, text, answer FROM request WHERE id = ?", (request_id,))
        return _asked(row) if row else None

    def pending(self, now: int) -> list[Asked]:
        """The requests that may still be answered, newest first."""
        rows = self._run(
            "SELECT id, want, made_at, until, text, answer FROM request WHERE answer = '' AND until > ? "
            "ORDER BY made_at DESC, rowid DESC",
            (now,),
        )
        return [_asked(row) for row in rows]

    def answer_request(self, request_id: str, licence_id: str) -> None:
        """It is answered, once."""
        self._run("UPDATE request SET answer = ? WHERE id = ?", (licence_id, request_id))

    def put_tombstone(self, stone: Tombstone) -> None:
        """Note that a licence was given back."""
        self._run(
            "INSERT INTO released (licence, generation, at, text) VALUES (?, ?, ?, ?)",
            (stone.licence, stone.generation, stone.at, stone.text),
        )

    def tombstone(self, licence_id: str) -> Tombstone | None:
        """The last time that a licence was given back."""
        row = self._one(
            "SELECT licence, generation, at, text FROM released WHERE licence = ? ORDER BY generation DESC LIMIT 1",
            (licence_id,),
        )
        return Tombstone(licence=row[0], generation=row[1], at=row[2], text=row[3]) if row else None

    def put_list(self, signer: str, number: int, text: str) -> None:
        """Keep the newest revocation list of a signer."""
        self._run("INSERT OR REPLACE INTO crl (signer, number, text) VALUES (?, ?, ?)", (signer, number, text))

    def lists(self) -> list[str]:
        """The revocation lists that are kept."""
        return [row[0] for row in self._run("SELECT text FROM crl")]

    # --- time and trail ---

    def clock(self) -> HighWater | None:
        """The highest time seen."""
        row = self._one("SELECT value FROM meta WHERE name = 'clock'")
        return _high_water.decode(row[0]) if row else None

    def put_clock(self, mark: HighWater) -> None:
        """Note the highest time seen."""
        self._run(
            "INSERT OR REPLACE INTO meta (name, value) VALUES ('clock', ?)", (msgspec.json.encode(mark).decode(),)
        )

    def epoch(self) -> int:
        """Which hub of this site speaks: a standby that took over speaks with a higher one."""
        row = self._one("SELECT value FROM meta WHERE name = 'epoch'")
        return int(row[0]) if row else 1

    def put_epoch(self, epoch: int) -> None:
        """This hub speaks with it from now on."""
        self._run("INSERT OR REPLACE INTO meta (name, value) VALUES ('epoch', ?)", (str(epoch),))

    def epoch_heard(self) -> int:
        """The highest epoch that a node's lease of this site had, 0 for none: above `epoch`, another hub leads."""
        row = self._one("SELECT value FROM meta WHERE name = 'epoch_heard'")
        return int(row[0]) if row else 0

    def put_epoch_heard(self, epoch: int) -> None:
        """A node has a lease of it."""
        self._run("INSERT OR REPLACE INTO meta (name, value) VALUES ('epoch_heard', ?)", (str(epoch),))

    def clock_resets(self) -> int:
        """How often the time was set right by hand or by the vendor."""
        row = self._one("SELECT value FROM meta WHERE name = 'clock_resets'")
        return int(row[0]) if row else 0

    def count_reset(self) -> None:
        """It was set right."""
        count = str(self.clock_resets() + 1)
        self._run("INSERT OR REPLACE INTO meta (name, value) VALUES ('clock_resets', ?)", (count,))

    def audit(self, at: int, event: str, subject: str, **detail: object) -> None:
        """Record what this transaction does.

        Raises:
            StoreError: there is no `transaction()`, or SQLite gave it up.
        """
        self._require_transaction()
        number, prev = self.audit_head()
        row = (number + 1, at, event, subject, trail.detail(detail))
        self._unwritten.append((*row, prev, trail.digest(prev, row)))

    def _write_trail(self) -> None:
        if self._unwritten:
            self._require_transaction()
            rows, self._unwritten = self._unwritten, []
            self.run_many(_ADD_AUDIT, rows)

    def _note_end(self) -> tuple[int, str]:
        """Once a transaction, if it wrote rows. A chain does not show what is cut off its end: this does."""
        last, noted = self._last_row(), self._noted_end()
        if last[0] <= noted[0]:
            return noted
        self._run("INSERT OR REPLACE INTO meta (name, value) VALUES ('trail', ?)", (f"{last[0]} {last[1]}",))
        return last

    def audit_head(self) -> tuple[int, str]:
        """How many rows the trail has, and the digest of the last; those of the open transaction too.

        Rows that were cut off its end count: the next one leaves a gap, which `verify_audit` finds.
        """
        if self._unwritten:
            return self._unwritten[-1][0], self._unwritten[-1][-1]
        return max(self._noted_end(), self._last_row(), key=lambda end: end[0])

    def _last_row(self) -> tuple[int, str]:
        row = self._one("SELECT n, hash FROM audit ORDER BY n DESC LIMIT 1")
        return (row[0], row[1]) if row else (0, trail.GENESIS)

    def _noted_end(self) -> tuple[int, str]:
        """Number and digest of the row that was written last; a ledger of before this was noted has none.

        Read once: this process alone has the file.
        """
        if self._end is None:
            row = self._one("SELECT value FROM meta WHERE name = 'trail'")
            number, _, digest = (row[0] if row else f"0 {trail.GENESIS}").partition(" ")
            self._end = (int(number) if number.isdecimal() else 0), digest
        return self._end

    def trail(self, limit: int) -> list[Entry]:
        """The newest rows of the trail, newest first."""
        rows = self.run("SELECT n, at, event, subject, detail FROM audit ORDER BY n DESC LIMIT ?", (limit,))
        return [
            Entry(number=number, at=at, event=event, subject=subject, detail=json.loads(detail))
            for number, at, event, subject, detail in rows
        ]

    def verify_audit(self) -> int:
        """Walk the trail from its first row; gives the number of rows.

        Raises:
            StoreError: a row is missing, at the end too, or was changed.
        """
        prev, count = trail.GENESIS, 0
        for *row, stored_prev, stored in self.run(
            "SELECT n, at, event, subject, detail, prev, hash FROM audit ORDER BY n"
        ):
            if row[0] != count + 1 or stored_prev != prev or stored != trail.digest(prev, tuple(row)):
                raise StoreError(
                    f"{self.path}: audit row {count + 1} is missing or was changed; keep the file, tell the vendor"
                )
            prev, count = stored, count + 1
        end = self._noted_end()
        if end[0] > count or (end[0] == count > 0 and end[1] != prev):
            raise StoreError(
                f"{self.path}: audit rows are missing at the end, or were changed: there are {count}, and "
                f"{end[0]} were written; keep the file, tell the vendor"
            )
        return count

    # --- for the other tables of the file ---

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A statement of `store_seats`, `usage_book` or `usage_report`."""
        self._write_trail()  # which it may be about
        return self._run(sql, values)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """The same statement for each row."""
        try:
            self._open.executemany(sql, rows)
        except sqlite3.Error as error:
            raise StoreError(self._explain(error)) from error

    def one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Its first row."""
        rows = self.run(sql, values)
        return rows[0] if rows else None

    # --- underneath ---

    @property
    def _open(self) -> sqlite3.Connection:
        if self._conn is None:
            raise StoreError(f"{self.path} is not open")
        return self._conn

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._open.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(self._explain(error)) from error

    def _one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        rows = self._run(sql, values)
        return rows[0] if rows else None

    def _explain(self, error: sqlite3.Error) -> str:
        if "locked" in str(error):
            return f"{self.path} is in use by another process; is a second hub running on this state folder?"
        if "full" in str(error):
            return (
                f"{self.path} cannot be written: the disk is full; make room there and try again; running jobs and "
                "given leases are not touched"
            )
        if "readonly" in str(error) or "I/O" in str(error) or "unable to open" in str(error):
            return (
                f"{self.path} cannot be written ({error}): see whether its disk is read-only or failing, mend that and "
                "start the hub again, with the file as it is; running jobs and given leases are not touched"
            )
        return (
            f"{self.path} cannot be used ({error}); given leases go on for up to 96 h. Stop the hub, put the file back "
            "from the backup, or without one move it away; start the hub, and then: stoker-license activate FILE, or "
            "for a licence that answered a request: stoker-license export-request --want activate"
        )


_ADD_AUDIT = "INSERT INTO audit (n, at, event, subject, detail, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?)"
_LICENCE = "SELECT id, rev, text, activated_at, doubted, report_by FROM licence"


def _licence(row: tuple[Any, ...] | None) -> Installed | None:
    if row is None:
        return None
    return Installed(id=row[0], rev=row[1], text=row[2], activated_at=row[3], doubted=bool(row[4]), report_by=row[5])


def _asked(row: tuple[Any, ...]) -> Asked:
    return Asked(id=row[0], want=row[1], made_at=row[2], until=row[3], text=row[4], answer=row[5])
