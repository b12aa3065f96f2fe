"""Where each submit was sent: `hub.db`, so that a repeated one goes to the same node.

Rules kept here: a placement is on disk before the submit is passed on, and is never changed; one process and one thread
use the file. A node answers a repeated key with the job it made then; the hub only has to ask the same node.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agent.api.errors import StokerError
from agent.jobs.dbfile import without_numpy

KEPT_S = 30 * 86_400
"""A client repeats a submit within minutes; a script that keeps its key, within days."""

_SCHEMA = 1


class PlacementStore:
    """Placements by submitter and idempotency key. Made by `open`; used and closed by the thread that opened it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, now: int) -> PlacementStore:
        """Open the file, or make it; forgets placements older than `KEPT_S`.

        A file that is not sound is moved aside with the time in its name: what is lost is only that a submit repeated
        right now might be placed twice, and that is no reason for a hub to stay down.

        Raises:
            StokerError: another hub has it open, a newer Stoker wrote it, or it cannot be made.
        """
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            return cls(_connect(path, now))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StokerError(f"cannot use {path}: {error}; is another hub running, is the disk full?") from error
            for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                with contextlib.suppress(FileNotFoundError):
                    file.replace(file.with_name(f"{file.name}.damaged-{now}"))
            return cls(_connect(path, now))

    def find(self, uid: int, key: str) -> str | None:
        """The node that this submit was sent to, if it was seen before."""
        row = self._connection.execute("SELECT node FROM placement WHERE uid = ? AND key = ?", (uid, key)).fetchone()
        return row[0] if row else None

    def add(self, uid: int, key: str, node: str, now: int) -> str:
        """Remember where a submit goes; returns the node that holds, which is the first one ever said for this key."""
        with _immediate(self._connection):
            self._connection.execute(
                "INSERT INTO placement (uid, key, node, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (uid, key, node, now),
            )
            found = self.find(uid, key)
        assert found is not None
        return found

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()


def _connect(path: Path, now: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        path.chmod(0o600)
        # Simulated power cuts: FULL lost nothing of 300, NORMAL 248.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        _migrate(connection, path)
        with _immediate(connection):
            connection.execute("DELETE FROM placement WHERE at < ?", (now - KEPT_S,))
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _SCHEMA:
        raise StokerError(f"{path} was written by a newer Stoker (schema {version}, this one knows {_SCHEMA}); upgrade")
    if version == _SCHEMA:
        return
    with without_numpy():
        from sqlite_utils import Database
    with _immediate(connection):
        Database(connection).table("placement").create(
            {"uid": int, "key": str, "node": str, "at": int}, pk=("uid", "key"), not_null={"node", "at"}
        )
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")


@contextlib.contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    # Not a deferred transaction: its first write after a read can fail at once, whatever the timeout.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
