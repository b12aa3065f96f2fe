"""What stands in a job's folder before its row is committed: it counts only once it is.

    folder: written, marked as not yet so ─► store: row and promise, one COMMIT ─► folder: the mark taken away

Rules kept here: the promise is committed with the row, so whatever the folder holds marked and no promise names was
never stored, and nobody may believe it; one that a crash cut short is kept at the next start; a promise that was kept
is dropped with the next one. So a COMMIT that fails needs nothing undone, on a disk that may refuse that as well.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

import msgspec

from agent.jobs.shelf import Shelf

_KIND = "promise"

logger = logging.getLogger(__name__)


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What of a folder is to lose its mark."""

    folder_id: int
    notes: tuple[int, ...] = ()
    """Where in `notes` the lines begin; none: it is the submission itself."""


Keep = Callable[[Promise], None]
"""Takes the mark away; done again, it changes nothing.

Raises:
    OSError: the disk refuses; it is tried again.
"""


class Promises(Shelf):
    """The promises of a store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._kept: list[str] = []
        """To be dropped with the next one. What a rollback brings back is kept once more at the next start."""

    def promise(self, made: Promise, keep: Keep) -> None:
        """Keep a promise as soon as all of this is stored; never, if it is not.

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            while self._kept:
                self.drop(_KIND, self._kept.pop())
            # A folder is written once, and every note begins elsewhere: no two promises have the same key.
            key = f"{made.folder_id}:{made.notes[0]}" if made.notes else f"{made.folder_id}"
            self.put(_KIND, key, made)
            self.once_stored(lambda: self._keep(key, made, keep))

    def keep_promises(self, keep: Keep) -> None:
        """After a restart: keep all that a crash cut short. Nothing is stored by it: the disk may be full."""
        for key, made in self.all(_KIND, Promise).items():
            try:
                self._keep(key, made, keep)
            except OSError as error:
                logger.error("folder %d of the jobs cannot be written: %s", made.folder_id, error)

    def _keep(self, key: str, made: Promise, keep: Keep) -> None:
        keep(made)
        self._kept.append(key)
