"""The verified backup `agent.db.backup`: made while the store works, put in place only when sound, and gone back to.

Rules kept here: the copy is made, put on the disk and let go of again in small steps on a thread of its own, so that
nobody waits for it; it gets its name only when it was read back whole (pages, digests, number of jobs), so the last
good one is never replaced by a bad one; a damaged or missing database is replaced by the backup, never by an empty one
while there is a backup; what is moved aside or gone back to is kept.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.jobs.dbfile import DamagedError, Schema, check_sound, move_aside, open_sound, put_in_place
from agent.jobs.durable import write_durably
from agent.jobs.errors import StoreError

_STEP_PAGES = 128
"""512 KiB: the store waits for one step at most, some milliseconds."""

_FLUSH_STEPS = 8
"""4 MiB are put on the disk at once. The whole at the end would keep the store's own flushes waiting."""

_LET_GO_BYTES = 8 * 1024 * 1024
"""To free 200 MB at once holds up every flush of a disk for 0.4 s (ext4 with `discard`)."""

_PAUSE_S = 0.002
"""Between two steps; the store's own calls come first."""

_LATELY_S = 3 * 3600
"""Three backups' time as configured by default."""

_BUSY_S = 0.01
"""While a transaction of the store is open, nothing can be copied."""

logger = logging.getLogger(__name__)


_DOUBTED = b"it may be an older one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A database that was opened."""

    connection: sqlite3.Connection
    damaged: Path | None = None
    """Where an unsound file was moved."""
    restored: bool = False
    """It is a backup, and knows nothing that came after it."""
    wal_lost: bool = False
    """It was in use when the last process went, and the -wal it must have left is not there: it may be an older one."""


def backup_path(path: Path) -> Path:
    """Where the backup of a database is."""
    return path.with_name(f"{path.name}.backup")


# --- making one -------------------------------------------------------------------------------------------------------


def back_up(
    source: sqlite3.Connection,
    target: Path,
    verify: Callable[[Path], int],
    *,
    at_least: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Copy a database that is in use, verify the copy, and put it in place of the last one. Not on the store's thread.

    Args:
        source: the store's own connection; SQLite lets two threads use it in turn, statement by statement.
        target: the backup's name.
        verify: reads the copy whole, and tells how many jobs it holds.
        at_least: how many jobs it must hold.
        stop: asked between two steps; True gives the backup up.

    Returns:
        How many jobs the backup holds.

    Raises:
        StoreError: there is no new backup, the last one stands; says why.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        _let_go(_replaced(target), stop)
        temporary.unlink(missing_ok=True)
        _copy(source, temporary, stop)
        jobs = verify(temporary)
        if jobs < at_least:
            raise DamagedError(f"it holds {jobs} jobs of {at_least}")
        with suppress(OSError):  # there is none yet, or the file system knows no second name
            os.link(target, _replaced(target))
        put_in_place(temporary, target)
    except DamagedError as error:
        raise StoreError(
            f"the backup {target} was not renewed, the copy is damaged: {error}; restart the agent, which checks its "
            "database then and goes back to the last good backup where it must"
        ) from error
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the backup {target} was not renewed: {error}; see the disk of the state folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return jobs


def _copy(source: sqlite3.Connection, temporary: Path, stop: Callable[[], bool]) -> None:
    if sqlite3.threadsafety != 3:
        raise StoreError("this SQLite was built without threads: no backup is made")

    with closing(sqlite3.connect(temporary)) as copy, temporary.open("rb") as written:
        temporary.chmod(0o600)
        # The last step would flush the copy while it holds the store's connection. It is no backup before we did.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size={_STEP_PAGES}"):
            copy.execute(f"PRAGMA {pragma}")
        steps = itertools.count(1)

        def pause(_status: int, _remaining: int, _total: int) -> None:
            if stop():
                raise StoreError("the backup was given up; the last one stands")
            if next(steps) % _FLUSH_STEPS == 0:
                os.fdatasync(written.fileno())
            time.sleep(_PAUSE_S)

        source.backup(copy, pages=_STEP_PAGES, progress=pause, sleep=_BUSY_S)


def _replaced(target: Path) -> Path:
    """The last backup but one, until the next is made: whoever copies it somewhere else has an hour to end that."""
    return target.with_name(f".{target.name}.old")


def _let_go(path: Path, stop: Callable[[], bool]) -> None:
    """Remove a large file little by little."""
    with suppress(FileNotFoundError):
        with path.open("r+b") as file:
            found = os.fstat(file.fileno())
            # With a second name it is somebody's own, or the backup itself: we were cut off before it was replaced.
            left = found.st_size if found.st_nlink == 1 else 0
            while left > 0 and not stop():
                left = max(0, left - _LET_GO_BYTES)
                file.truncate(left)
                time.sleep(_PAUSE_S)
        path.unlink()


def verify(path: Path, schema: Schema) -> int:
    """Read a copy whole that nobody has open; how many jobs it holds.

    Raises:
        DamagedError: it is no sound database of ours, or of a newer schema.
    """
    try:
        # immutable: nothing is written beside it, and no -wal that lies there is believed.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as copy:
            application_id = copy.execute("PRAGMA application_id").fetchone()[0]
            version = copy.execute("PRAGMA user_version").fetchone()[0]
            if application_id != schema.application_id or not 0 < version <= schema.version:
                raise DamagedError(f"application_id {application_id:#x}, schema {version}: not ours")
            check_sound(copy, schema)
            return int(copy.execute("SELECT count(*) FROM jobs").fetchone()[0])
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DamagedError(str(error)) from error


# --- going back to one ------------------------------------------------------------------------------------------------


def open_or_restore(path: Path, schema: Schema, *, now: int) -> Opened:
    """Open a database, or its backup in its place, or make it where there is neither.

    Raises:
        StoreLockedError, NewerSchemaError, StoreError: it cannot be used, and was not touched.
    """
    if path.exists():
        wal_lost = _is_doubted(path) or (_in_use(path).exists() and not path.with_name(f"{path.name}-wal").exists())
        if wal_lost:
            _note(path, _DOUBTED)  # before it is opened, which makes another -wal
        try:
            connection = open_sound(path, schema, threads=True, whole=not _read_lately(path, now))
        except DamagedError as error:
            logger.error("store=%s is damaged: %s", path, error)
        else:
            if wal_lost:
                logger.error("store=%s has lost its -wal, and with it perhaps the last changes", path)
            return _opened(path, Opened(connection=connection, wal_lost=wal_lost))
    if backup_path(path).exists() or path.exists():
        _note(path, _DOUBTED)
    try:
        damaged = move_aside(path, now)
        restored = _restore(path, schema)
    except OSError as error:
        raise StoreError(f"cannot replace the damaged {path}: {error}; see its disk") from error
    if damaged is not None:
        logger.error("store=%s was damaged; kept as %s", path, damaged)
    connection = open_sound(path, schema, threads=True)
    return _opened(path, Opened(connection=connection, damaged=damaged, restored=restored))


def _read_lately(path: Path, now: int) -> bool:
    """Whether a backup was verified not long ago; where backups fail, the next start looks at everything."""
    try:
        return now - backup_path(path).stat().st_mtime < _LATELY_S
    except OSError:
        return False


def _opened(path: Path, opened: Opened) -> Opened:
    """Note that it is in use, until `note_closed`, and whether it may be an older one, until `note_settled`: whoever is
    killed while it is brought up to the folders is followed by one who knows. On a full disk without: what is told then
    is only less.
    """
    doubted = opened.wal_lost or opened.restored or opened.damaged is not None
    _note(path, _DOUBTED if doubted else b"")
    return opened


def note_settled(path: Path) -> None:
    """The database was brought up to the folders: it is no older one any more."""
    _note(path, b"")


def _note(path: Path, said: bytes) -> None:
    try:
        write_durably(_in_use(path), said, mode=0o600)
    except OSError as error:
        logger.warning("cannot note that %s is in use: %s", path, error)


def _is_doubted(path: Path) -> bool:
    try:
        return _in_use(path).read_bytes() == _DOUBTED
    except OSError:
        return False


def note_closed(path: Path) -> None:
    """The database was closed in good order: no -wal is left, and none will be missed."""
    with suppress(OSError):
        _in_use(path).unlink(missing_ok=True)


def _in_use(path: Path) -> Path:
    return path.with_name(f"{path.name}.in-use")


def _restore(path: Path, schema: Schema) -> bool:
    backup = backup_path(path)
    if not backup.exists():
        return False
    try:
        jobs = verify(backup, schema)
    except DamagedError as error:
        logger.error("the backup %s is damaged as well (%s): the queue is made of the job folders alone", backup, error)
        return False
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.write_bytes(backup.read_bytes())
    temporary.chmod(0o600)
    put_in_place(temporary, path)
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(backup.stat().st_mtime))
    logger.error("store=%s was replaced by its backup of %s with %d jobs", path, made, jobs)
    return True
