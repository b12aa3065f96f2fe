"""Where each submit was sent: `hub.db`, so that a repeated one goes to the same node.

Rules kept here: a placement is on disk before the submit is passed on; one process and one thread use the file. A node
answers a repeated key with the job it made then; the hub only has to ask the same node. A placement is forgotten again
only when the node refused every submit that was sent under it: while one of them may have been stored, it stays.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.jobs.dbfile import Schema, open_database, without_numpy
from agent.jobs.errors import StoreError

KEPT_S = 30 * 86_400
"""A client repeats a submit within minutes; a script that keeps its key, within days."""

_log = logging.getLogger(__name__)


class PlacementStore:
    """Placements by submitter and idempotency key. Made by `open`; used and closed by the thread that opened it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path, now: int) -> PlacementStore:
        """Open the file, or make it; forgets placements older than `KEPT_S`.

        A file that is not sound is moved aside with the time in its name: what is lost is only that a submit repeated
        right now might be placed twice, and that is no reason for a hub to stay down. Nor is a full disk, on which
        nothing can be forgotten.

        Raises:
            StoreLockedError: another hub has it open.
            NewerSchemaError: a newer Stoker wrote it.
            StoreError: it cannot be opened or made.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {path.parent}: {error.strerror}; see who owns the state folder") from error
        connection, damaged = open_database(path, _SCHEMA, now=now)
        if damaged is not None:
            _log.error("store=%s was damaged; kept as %s", path, damaged)
        path.chmod(0o600)
        store = cls(connection, path)
        try:
            store._execute("DELETE FROM placement WHERE at < ?", (now - KEPT_S,))
        except StoreError as error:
            _log.warning("old placements stay: %s", error)
        return store

    def find(self, uid: int, key: str) -> str | None:
        """The node that this submit was sent to, if it was seen before.

        Raises:
            StoreError: the file cannot be read.
        """
        row = self._execute("SELECT node FROM placement WHERE uid = ? AND key = ?", (uid, key)).fetchone()
        return row["node"] if row else None

    def add(self, uid: int, key: str, node: str, now: int) -> str:
        """Note that a submit is about to be sent; returns the node it goes to, the first one ever said for this key.

        Raises:
            StoreError: the disk is full, read-only or failing; nothing was noted.
        """
        with self._transaction():
            self._execute(
                "INSERT INTO placement (uid, key, node, at, sent) VALUES (?, ?, ?, ?, 1)"
                " ON CONFLICT DO UPDATE SET sent = sent + 1",
                (uid, key, node, now),
            )
            found = self.find(uid, key)
        assert found is not None
        return found

    def take_back(self, uid: int, key: str) -> None:
        """Note that one of the submits under this key was surely not stored; the last such one ends the placement.

        Raises:
            StoreError: as `add`; the placement stays.
        """
        with self._transaction():
            self._execute("UPDATE placement SET sent = sent - 1 WHERE uid = ? AND key = ?", (uid, key))
            self._execute("DELETE FROM placement WHERE uid = ? AND key = ? AND sent <= 0", (uid, key))

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # Not a deferred transaction: its first write after a read can fail at once, whatever the timeout.
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # after an I/O error SQLite has rolled back by itself
                self._execute("ROLLBACK")
            raise

    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} refused: {error}; see whether its disk is full or read-only") from error


def _create(connection: sqlite3.Connection) -> None:
    """Schema 1. `sent` counts the submits sent under the key that the node has not refused."""
    with without_numpy():
        from sqlite_utils import Database

    columns = {"uid": int, "key": str, "node": str, "at": int, "sent": int}
    Database(connection, recursive_triggers=False, execute_plugins=False).table("placement").create(
        columns, pk=("uid", "key"), not_null={"node", "at", "sent"}, if_not_exists=True, strict=True
    )


def _check_contents(_: sqlite3.Connection) -> str | None:
    """A placement is three plain values: there is nothing in it that SQLite's own check does not see."""
    return None


_SCHEMA = Schema(application_id=0x53544F48, migrations=(_create,), check=_check_contents)
"""`STOH` in the header: `file hub.db` shows it."""
