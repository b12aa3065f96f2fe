"""The desk's ledger: what was issued, asked, moved, revoked and reported. One SQLite file in the vendor's folder.

Nothing is ever deleted from it. It holds no private key. WAL, synchronous=FULL; several people may use the folder, one
after the other: a writer waits ten seconds for another.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licensing.errors import StoreError
from licensing.tables import without_numpy

with without_numpy():
    from sqlite_utils import Database, Migrations

_migrations = Migrations("desk")


@_migrations()
def m001_first(db: Database) -> None:
    """The tables of the first version."""
    text, number = str, int
    db.table("issued").create(
        {
            "n": number, "id": text, "rev": number, "why": text, "at": number, "customer": text, "plan": text,
            "edition": text, "seats": number, "nbf": number, "exp": number, "site": text, "generation": number,
            "request": text, "reseller": text, "issuer": text, "issuer_key": text, "text": text,
        },
        pk="n",
        not_null={"id", "rev", "at", "text"},
    )  # fmt: skip
    db.table("issued").create_index(["id", "rev"], unique=True)
    db.table("request").create(
        {
            "id": text, "site": text, "want": text, "licence": text, "counter": number, "head": text, "crl": number,
            "at": number, "token": text, "answer": text,
        },
        pk="id",
        not_null={"token", "answer"},
    )  # fmt: skip
    db.table("transfer").create(
        {"licence": text, "generation": number, "at": number, "from_site": text, "to_site": text, "beyond": text},
        pk=("licence", "generation"),
    )
    db.table("revoked").create(
        {"what": text, "subject": text, "at": number, "reason": text, "by": text}, pk=("what", "subject")
    )
    db.table("crl").create({"signer": text, "number": number, "at": number, "text": text}, pk=("signer", "number"))
    db.table("usage").create(
        {"licence": text, "number": number, "digest": text, "id": text, "at": number, "gpu_ms": number, "text": text},
        pk="digest",
    )
    db.table("receipt").create(
        {"digest": text, "id": text, "at": number, "report_by": number, "text": text}, pk="digest"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One revision of a licence that left the desk."""

    id: str
    rev: int
    why: str
    """issue, renew, amend, activate or transfer."""
    at: int
    customer: str
    plan: str
    edition: str
    seats: int
    nbf: int
    exp: int
    site: str
    generation: int
    request: str
    reseller: str
    issuer: str
    issuer_key: str
    text: str
    """The file, as it was handed out."""


COLUMNS = tuple(Issued.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A request and what it was answered."""

    id: str
    site: str
    want: str
    licence: str
    counter: int
    head: str
    crl: int
    at: int
    token: str
    answer: str


class DeskStore:
    """The open file. Every method raises `StoreError` when SQLite cannot do what is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # It has every voucher, which works for whoever reads it; SQLite gives its other files the same mode.
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._conn = sqlite3.connect(path, isolation_level=None, timeout=10)
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                self._conn.execute(f"PRAGMA {pragma}")
            _migrations.apply(Database(self._conn))
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Close the file."""
        self._conn.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")
            raise

    # --- licences ---

    def put_issued(self, issued: Issued) -> None:
        """Note what leaves the desk."""
        marks = ", ".join("?" * len(COLUMNS))
        values = [getattr(issued, name) for name in COLUMNS]
        self._run(f"INSERT INTO issued ({', '.join(COLUMNS)}) VALUES ({marks})", values)  # noqa: S608

    def latest(self, licence_id: str) -> Issued | None:
        """The newest revision of a licence."""
        found = self._issued("WHERE id = ? ORDER BY rev DESC LIMIT 1", (licence_id,))
        return found[0] if found else None

    def search(self, words: Sequence[str]) -> list[Issued]:
        """Every revision in which each word is part of some column, oldest first."""
        columns = ("id", "customer", "plan", "edition", "site", "reseller", "issuer", "request", "why")
        one = "(" + " OR ".join(f"{name} LIKE ? ESCAPE '\\'" for name in columns) + ")"
        where = "WHERE " + " AND ".join([one] * len(words)) if words else ""
        values = [f"%{_escaped(word)}%" for word in words for _ in columns]
        return self._issued(f"{where} ORDER BY n", values)

    def ids_signed_by(self, key: str) -> list[str]:
        """The licences that an issuer's key signed."""
        return [row[0] for row in self._run("SELECT DISTINCT id FROM issued WHERE issuer_key = ? ORDER BY id", (key,))]

    # --- requests and transfers ---

    def answered(self, request_id: str) -> Answered | None:
        """A request that was answered before."""
        return next(iter(self._answered("WHERE id = ?", (request_id,))), None)

    def seen_from(self, site: str) -> list[Answered]:
        """What a site asked before, oldest first."""
        return self._answered("WHERE site = ? ORDER BY at, rowid", (site,))

    def put_answered(self, answered: Answered) -> None:
        """Note a request and its answer."""
        names = tuple(Answered.__dataclass_fields__)
        marks = ", ".join("?" * len(names))
        values = [getattr(answered, name) for name in names]
        self._run(f"INSERT INTO request ({', '.join(names)}) VALUES ({marks})", values)  # noqa: S608

    def transfers_since(self, licence_id: str, since: int) -> int:
        """How often a licence moved."""
        rows = self._run("SELECT count(*) FROM transfer WHERE licence = ? AND at > ?", (licence_id, since))
        return int(rows[0][0])

    def put_transfer(self, licence_id: str, generation: int, at: int, sites: tuple[str, str], beyond: str) -> None:
        """Note a move from one site to another."""
        self._run("INSERT INTO transfer VALUES (?, ?, ?, ?, ?, ?)", (licence_id, generation, at, *sites, beyond))

    # --- revocation ---

    def put_revoked(self, what: str, subject: str, at: int, reason: str) -> None:
        """Note a revocation; the first one of a subject stays."""
        self._run(
            "INSERT OR IGNORE INTO revoked (what, subject, at, reason, \"by\") VALUES (?, ?, ?, ?, '')",
            (what, subject, at, reason),
        )

    def revoked(self, what: str) -> list[tuple[str, int, str]]:
        """Subject, time and reason of every revocation of `licence` or `key`."""
        rows = self._run("SELECT subject, at, reason FROM revoked WHERE what = ? ORDER BY at, subject", (what,))
        return [(row[0], row[1], row[2]) for row in rows]

    def newest_list(self, signer: str) -> tuple[int, str] | None:
        """Number and text of the newest list of a signer."""
        rows = self._run("SELECT number, text FROM crl WHERE signer = ? ORDER BY number DESC LIMIT 1", (signer,))
        return (rows[0][0], rows[0][1]) if rows else None

    def newest_lists(self) -> list[str]:
        """The newest list of each signer."""
        rows = self._run(
            "SELECT text FROM crl AS a WHERE number = (SELECT max(number) FROM crl WHERE signer = a.signer) ORDER BY at"
        )
        return [row[0] for row in rows]

    def put_list(self, signer: str, number: int, at: int, text: str) -> None:
        """Note a list."""
        self._run("INSERT INTO crl VALUES (?, ?, ?, ?)", (signer, number, at, text))

    # --- usage ---

    def reports(self, licence_id: str) -> list[str]:
        """The usage reports that were received for a licence."""
        return [row[0] for row in self._run("SELECT text FROM usage WHERE licence = ? ORDER BY number", (licence_id,))]

    def report(self, digest: str) -> str | None:
        """The usage report of which this is the digest."""
        rows = self._run("SELECT text FROM usage WHERE digest = ?", (digest,))
        return rows[0][0] if rows else None

    def put_report(self, licence_id: str, number: int, digest: str, id_: str, at: int, gpu_ms: int, text: str) -> None:
        """Note a usage report; one that is here already stays."""
        self._run(
            "INSERT OR IGNORE INTO usage VALUES (?, ?, ?, ?, ?, ?, ?)",
            (licence_id, number, digest, id_, at, gpu_ms, text),
        )

    def receipt(self, digest: str) -> str | None:
        """The receipt that a report was given."""
        rows = self._run("SELECT text FROM receipt WHERE digest = ?", (digest,))
        return rows[0][0] if rows else None

    def put_receipt(self, digest: str, id_: str, at: int, report_by: int, text: str) -> None:
        """Note a receipt."""
        self._run("INSERT INTO receipt VALUES (?, ?, ?, ?, ?)", (digest, id_, at, report_by, text))

    # --- underneath ---

    def _issued(self, rest: str, values: Sequence[Any]) -> list[Issued]:
        rows = self._run(f"SELECT {', '.join(COLUMNS)} FROM issued {rest}", values)  # noqa: S608
        return [Issued(**dict(zip(COLUMNS, row, strict=True))) for row in rows]

    def _answered(self, rest: str, values: Sequence[Any]) -> list[Answered]:
        names = tuple(Answered.__dataclass_fields__)
        rows = self._run(f"SELECT {', '.join(names)} FROM request {rest}", values)  # noqa: S608
        return [Answered(**dict(zip(names, row, strict=True))) for row in rows]

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._conn.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StoreError:
        if "locked" in str(error):
            return StoreError(f"{self.path} is being written by somebody else; try again when they are done")
        return StoreError(f"{self.path} cannot be used ({error}); restore the folder from its backup, or name another")


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
