"""What stands in a job's folder before its row is committed: it counts only once it is.

    folder: written, marked as not yet so ─► store: row and promise, one COMMIT ─► folder: the mark taken away

Rules kept here: the promise is committed with the row, so whatever the folder holds marked and no promise names was
never stored, and nobody may believe it; one that a crash cut short is kept at the next start; a promise that was kept
is dropped with the next one. So a COMMIT that fails needs nothing undone, on a disk that may refuse that as well.

The promise of a submission holds all of it: the COMMIT is the one flush that a submitter waits for. Its folder is
brought to the disk a moment later (`put_off`), and what a power cut tears until then is written anew at the next start;
so it is dropped only when the disk has its folder.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from agent.jobs import folder
from agent.jobs.folder import Submission
from agent.jobs.shelf import Shelf

_KIND = "promise"

logger = logging.getLogger(__name__)


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What of a folder is to lose its mark."""

    folder_id: int
    notes: tuple[int, ...] = ()
    """Where in `notes` the lines begin; none: it is the submission itself."""
    submission: Submission | None = None
    """The submission; an older version left it out, and has flushed its folder."""
    owner: tuple[int, int] | None = None
    """uid and gid of the submission's script."""


Keep = Callable[[Promise], Path | None]
"""Takes the mark away; done again, it changes nothing. Gives the folder if it is still to be brought to the disk.

Raises:
    OSError: the disk refuses; it is tried again.
"""

PutOff = Callable[[Path, Callable[[], None]], None]
"""Brings a folder to the disk when it suits, on any thread, and then calls what it was given."""


class Promises(Shelf):
    """The promises of a store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._kept: list[str] = []
        """To be dropped with the next one."""
        self._owed: set[int] = set()
        """Folders whose submission could not be written yet."""
        self.put_off: PutOff = _at_once
        """Who brings folders to the disk; whoever has a thread for it puts that in place."""

    def owes(self, folder_id: int) -> bool:
        """Whether a row is stored and its submission is not there yet: the disk refused. To be asked on any thread."""
        return folder_id in self._owed

    def promise(self, made: Promise, keep: Keep) -> None:
        """Keep a promise as soon as all of this is stored; never, if it is not.

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            kept = [self._kept.pop() for _ in range(len(self._kept))]  # the thread of `put_off` appends meanwhile
            self.if_undone(partial(self._kept.extend, kept))
            for each in kept:
                self.drop(_KIND, each)
            # A folder is written once, and every note begins elsewhere: no two promises have the same key.
            key = f"{made.folder_id}:{made.notes[0]}" if made.notes else f"{made.folder_id}"
            self.put(_KIND, key, made)
            self.once_stored(partial(self._keep, key, made, keep))

    def keep_promises(self, keep: Keep) -> None:
        """After a restart: keep all that a crash cut short. Nothing is stored by it: the disk may be full."""
        for key, made in self.all(_KIND, Promise).items():
            if not self._is_known(made.folder_id):  # forgotten since: a folder written now would make the job anew
                self._kept.append(key)
                continue
            try:
                self._keep(key, made, keep)
            except OSError as error:
                logger.error("folder %d of the jobs cannot be written: %s; trying again", made.folder_id, error)
                self.once_stored(partial(self._keep, key, made, keep))

    def _keep(self, key: str, made: Promise, keep: Keep) -> None:
        try:
            written = keep(made)
        except OSError:
            if not made.notes:  # what is noted keeps no job from running
                self._owed.add(made.folder_id)
            raise
        if not made.notes:
            self._owed.discard(made.folder_id)
        if written is None:
            self._kept.append(key)
        else:
            self.put_off(written, partial(self._kept.append, key))

    def _is_known(self, folder_id: int) -> bool:
        return bool(self._fetch("SELECT 1 FROM jobs WHERE folder_id = ? LIMIT 1", (folder_id,)))


def _at_once(written: Path, done: Callable[[], None]) -> None:
    for refused in folder.flush([written]).values():
        raise refused
    done()
