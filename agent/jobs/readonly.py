"""A job store whose disk takes no writes: the queue as it is on disk, held in memory, to be read and not changed.

Why a copy: SQLite opens a database with a -wal only where it may write beside it, or with `immutable=1`, which
believes no -wal: after a crash it would show a queue without its last changes. So file and -wal are copied to a folder
that takes writes, SQLite plays the one into the other there and checks the whole, and what it has then is taken into
memory.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from agent.jobs.backup import Opened, backup_path
from agent.jobs.dbfile import DamagedError, Schema, open_sound
from agent.jobs.errors import NewerSchemaError, StoreError

_REFUSALS = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What a disk says that takes no writes; rights that are wrong are another matter, and somebody's to mend first."""

_PROBE_BYTES = 4096

logger = logging.getLogger(__name__)


def why_not_writable(folder: Path) -> str | None:
    """What the disk of a folder says to a small file; `None` when it takes it, or when rights are what is wrong."""
    probe = folder / ".probe"
    try:
        with suppress(FileNotFoundError):
            probe.unlink()
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(_PROBE_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        return os.strerror(error.errno) if error.errno in _REFUSALS else None
    return None


def refusal(path: Path, why: str) -> str:
    """What is said to everyone who wants something changed meanwhile."""
    return (
        f"{path} cannot be written: {why}; what runs runs on, and jobs and logs can be read. Make room on its disk or "
        "make it writable again (mount -o remount,rw): the agent then goes on by itself"
    )


def open_read_only(path: Path, schema: Schema, scratch: Path) -> Opened:
    """What a database holds, in memory; of a damaged one what its last backup holds.

    Args:
        path: the database, which is there.
        schema: what it must be; an older one is brought up in memory alone.
        scratch: a folder on another disk, with room for the database.

    Raises:
        NewerSchemaError, StoreError: it cannot be shown; says why.
    """
    try:
        return Opened(connection=_in_memory(path, schema, scratch))
    except DamagedError as error:
        logger.error("store=%s is damaged, and its disk takes no writes: %s; showing its last backup", path, error)
    backup = backup_path(path)
    try:
        return Opened(connection=_in_memory(backup, schema, scratch), restored=True)
    except DamagedError as error:
        raise StoreError(
            f"{path} is damaged, its disk takes no writes, and its backup cannot be shown either: {error}; make the "
            "disk writable and start the agent again"
        ) from error


def _in_memory(path: Path, schema: Schema, scratch: Path) -> sqlite3.Connection:
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="store-", dir=scratch) as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            with suppress(FileNotFoundError):
                shutil.copyfile(path.with_name(f"{path.name}-wal"), copy.with_name(f"{copy.name}-wal"))
            with closing(_opened(copy, path, schema)) as source:
                return _taken_in(source)
    except FileNotFoundError as error:
        raise DamagedError(f"there is no {path}") from error
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"{path} cannot be shown: its disk takes no writes, and a copy of it in {scratch} failed: {error}; make "
            "room on either"
        ) from error


def _opened(copy: Path, path: Path, schema: Schema) -> sqlite3.Connection:
    try:
        return open_sound(copy, schema)
    except NewerSchemaError as error:
        raise NewerSchemaError(str(error).replace(str(copy), str(path))) from error


def _taken_in(source: sqlite3.Connection) -> sqlite3.Connection:
    # Any thread, as with a store on disk: `Database` sees to it that only its own uses it.
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    source.backup(memory)
    memory.row_factory = sqlite3.Row
    memory.execute("PRAGMA query_only = ON")
    return memory
