"""A SQLite connection with our rules on it: transactions that nest, errors in our words, lines said once stored.

Rules kept here: one thread uses it; every write begins with BEGIN IMMEDIATE; what a `transaction` did is on disk when
the outermost one is left, or undone; nothing is logged before it is stored.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from agent.jobs.errors import ReadOnlyStoreError, StoreError

logger = logging.getLogger("agent.jobs.store")

_NO_MORE: AbstractContextManager[None] = nullcontext()

MOST_VALUES = 500
"""Values of one statement; SQLite's own limit was 999 for long."""


class Database:
    """What the stores of one file share. Used and closed by the thread that made it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.text_factory = _text
        self._thread = threading.get_ident()
        self._depth = 0
        self._said: list[str] = []
        self._then: list[Callable[[], None]] = []
        self._else: list[Callable[[], None]] = []
        self.read_only: str | None = None
        """Why nothing can be changed, and what to do."""

    def close(self) -> None:
        """Give the file back. Unusable afterwards."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable at once: one disk flush for a burst of submits, or a pass of the scheduler.

        An inner `transaction` is a part that can fail alone: its error undoes only that part, if it is caught inside
        the outer one.

        Raises:
            StoreError: the disk is full, read-only or failing; nothing of the outermost transaction was stored.
        """
        if self.read_only is not None:
            raise ReadOnlyStoreError(self.read_only)
        level, said, then, otherwise = self._depth, len(self._said), len(self._then), len(self._else)
        self._execute(f"SAVEPOINT part_{level}" if level else "BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            self._execute(f"RELEASE part_{level}" if level else "COMMIT")
        except BaseException:
            undone = self._else[otherwise:]
            del self._said[said:], self._then[then:], self._else[otherwise:]
            try:
                self._undo(level)
            finally:  # after it: what they look up is what is stored; and where it fails, memory is brought back still
                for act in undone:
                    act()
            raise
        finally:
            self._depth = level
        if level == 0:
            self._else.clear()
            self._say()
            self._act()

    def once_stored(self, act: Callable[[], None]) -> None:
        """Do something on this thread when what surrounds the call is stored, before anybody hears of it; never, if it
        is undone. What raises OSError is done again after the next transaction.
        """
        self._then.append(act)

    def if_undone(self, act: Callable[[], None]) -> None:
        """Do something on this thread once what surrounds the call is undone: bring memory back to what is stored."""
        self._else.append(act)

    def whole(self) -> AbstractContextManager[None]:
        """Make everything inside durable, or part of the transaction that is under way, whose `transaction` then undoes
        it with all else if it fails: for what is whole already, and is not worth a part of its own.
        """
        return _NO_MORE if self._depth else self.transaction()

    # --- for the stores -----------------------------------------------------------------------------------------------

    def _execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        self._check_thread()
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise _refused(error) from error

    def _fetch(self, sql: str, values: Any = ()) -> list[sqlite3.Row]:
        self._check_thread()
        try:
            rows: list[sqlite3.Row] = self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _refused(error) from error
        return rows

    def _execute_many(self, sql: str, rows: Iterable[Any]) -> None:
        self._check_thread()
        try:
            self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise _refused(error) from error

    def _tell(self, line: str) -> None:
        """Log a line once it is stored."""
        self._said.append(line)

    def _undo(self, level: int) -> None:
        if not self._connection.in_transaction:
            return  # after an I/O error SQLite has rolled back by itself
        if level:
            self._execute(f"ROLLBACK TO part_{level}")
            self._execute(f"RELEASE part_{level}")
        else:
            self._execute("ROLLBACK")

    def _say(self) -> None:
        for line in self._said:
            logger.info("%s", line)
        self._said.clear()

    def _act(self) -> None:
        acts, self._then = self._then, []
        for act in acts:
            try:
                act()
            except OSError as error:
                logger.error("what is stored is not yet in the job folders as well: %s; trying again", error)
                self._then.append(act)

    def _check_thread(self) -> None:
        # Ours and not sqlite3's own check: the backup reads the same connection from a thread beside (`backup`).
        if threading.get_ident() != self._thread:
            raise StoreError("the job store is used by a thread that is not its own; this is a fault of Stoker")


def in_groups(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values in parts that one statement can take."""
    for start in range(0, len(values), MOST_VALUES):
        yield values[start : start + MOST_VALUES]


def marks(values: Sequence[Any]) -> str:
    """`?, ?, ?` for the values."""
    return ", ".join("?" * len(values))


def _text(data: bytes) -> str:
    """A text in which a bit has flipped since the file was checked is shown, not a reason to show nothing."""
    return data.decode("utf-8", "replace")


def _refused(error: sqlite3.Error) -> StoreError:
    return StoreError(f"the job store refused: {error}; see whether the disk of the state folder is full")
