"""Opening a SQLite file that must be sound: ours, of a schema we know, whole, and nobody else's.

Rules kept here: one process at a time (locking_mode=EXCLUSIVE, which also spares the -shm file and so opens on a full
disk); a commit survives a power cut (WAL, synchronous=FULL); a file that fails a check is moved aside under
`NAME.damaged-TIME` with its -wal, and a new one is begun: loud, and nothing thrown away; before an older schema is
changed the file is copied to `NAME.schema-N`; a newer schema is left alone.
A file that has verified backups is opened by `backup.open_or_restore`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.jobs.durable import sync_folder
from agent.jobs.errors import NewerSchemaError, StoreError, StoreLockedError

_LOCK_WAIT_S = 1.0
"""An agent that is just going away may still hold the file."""
_MAGIC = b"SQLite format 3\0"
_PARTS = ("", "-wal", "-shm")
"""The file, and what SQLite keeps beside it. The -wal of a lost file must never meet another one: it would be played
into it."""

_FLOCK = "@hhqqi0q"
"""`struct flock` of 64-bit Linux: kind, whence, start, length, pid."""

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What the file must be."""

    application_id: int
    """Kept in the file's header; tells our files from others."""
    migrations: tuple[Callable[[sqlite3.Connection], None], ...]
    """Number N leads from schema N to N+1. Each may be run again after it was cut short."""
    check: Callable[[sqlite3.Connection], str | None]
    """What quick_check does not see: says what is wrong with the contents, or `None`."""

    quick_check: Callable[[sqlite3.Connection], str | None] | None = None
    """The same of what is needed now, where reading everything would take too long; `None`: `check`."""

    @property
    def version(self) -> int:
        """The schema that this program writes."""
        return len(self.migrations)


class DamagedError(Exception):
    """The file is not to be trusted; the message says why. A check or a migration may raise it."""


def open_database(path: Path, schema: Schema, *, now: int) -> tuple[sqlite3.Connection, Path | None]:
    """Open or make the file; a damaged one is moved aside first.

    Args:
        path: the file.
        schema: what it must be.
        now: Unix seconds, for the name of a file moved aside.

    Returns:
        The connection, and where a damaged file was moved to.

    Raises:
        StoreLockedError, NewerSchemaError, StoreError: it cannot be used, and was not touched.
    """
    try:
        return open_sound(path, schema), None
    except DamagedError:
        aside = move_aside(path, now)
        return open_sound(path, schema), aside


def open_sound(path: Path, schema: Schema, *, threads: bool = False, whole: bool = True) -> sqlite3.Connection:
    """Open the file, or make it where there is none.

    Args:
        path: the file.
        schema: what it must be.
        threads: several threads may use the connection; somebody else sees to it that they do so rightly.
        whole: read all contents; else what `Schema.quick_check` reads.

    Raises:
        DamagedError: it is not to be trusted.
        StoreLockedError, NewerSchemaError, StoreError: it cannot be used, and was not touched.
    """
    is_new = not path.exists()
    if not is_new:
        _check_header(path)
    try:
        connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=not threads)
    except sqlite3.Error as error:
        raise StoreError(f"cannot open {path}: {error}; see whether its folder exists and is writable") from error
    try:
        _bring_up(connection, path, schema, is_new=is_new, whole=whole)
    except sqlite3.Error as error:
        connection.close()
        raise _explained(error, path) from error
    except UnicodeDecodeError as error:  # of a name in the schema, which quick_check tells as it stands there
        connection.close()
        raise DamagedError(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path) -> None:
    """Look before SQLite does: it calls an empty file sound, and throws away the -wal of one it cannot read."""
    try:
        with path.open("rb") as file:
            header = file.read(len(_MAGIC))
        if os.statvfs(path).f_flag & os.ST_RDONLY:  # which os.access calls a matter of rights
            raise StoreError(
                f"cannot use {path}: its disk is read-only; see why (dmesg), make it writable again (mount -o "
                "remount,rw) and start anew, with the file as it is"
            )
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StoreError(f"cannot use {path}{_owner(path)}: {error.strerror}; see who owns it") from error
    if header == _MAGIC:
        return
    if _holder(path) is not None:  # another agent is just making it
        raise _locked(path)
    raise DamagedError("no header of a SQLite file")


def _owner(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return ""
    return f" (of uid {found.st_uid}, mode {found.st_mode & 0o7777:04o}, and this is uid {os.geteuid()})"


def _bring_up(connection: sqlite3.Connection, path: Path, schema: Schema, *, is_new: bool, whole: bool) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    version = 0 if is_new else _existing_version(connection, path, schema, whole=whole)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN IMMEDIATE")  # from the first write on, EXCLUSIVE holds the lock until close
    connection.execute("COMMIT")
    if version not in (0, schema.version):
        _back_up(connection, schema_backup(path, version))
    for number in range(version, schema.version):
        connection.execute("BEGIN IMMEDIATE")
        schema.migrations[number](connection)
        connection.execute(f"PRAGMA application_id = {schema.application_id}")
        connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")


def _existing_version(connection: sqlite3.Connection, path: Path, schema: Schema, *, whole: bool) -> int:
    """The schema of a file that was found sound; 0 where making it was cut short before the first table."""
    version = int(_pragma(connection, "user_version"))
    application_id = int(_pragma(connection, "application_id"))
    if application_id == 0 and version == 0 and int(_pragma(connection, "schema_version")) <= 1:
        return 0
    if application_id != schema.application_id:
        raise DamagedError(f"application_id {application_id:#x} is not ours")
    if version > schema.version:
        raise NewerSchemaError(_newer(path, version, schema.version))
    check_sound(connection, schema, whole=whole)
    return version


def check_sound(connection: sqlite3.Connection, schema: Schema, *, whole: bool = True) -> None:
    """Look for damage in an open file, in its pages and in its contents.

    Raises:
        DamagedError: there is some.
    """
    verdict = _pragma(connection, "quick_check(1)")
    if verdict != "ok":
        raise DamagedError(str(verdict))
    known = int(_pragma(connection, "user_version")) == schema.version
    check = schema.check if whole or schema.quick_check is None else schema.quick_check
    problem = check(connection) if known else None
    if problem is not None:
        raise DamagedError(problem)


def _pragma(connection: sqlite3.Connection, name: str) -> str | int:
    value: str | int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _newer(path: Path, version: int, known: int) -> str:
    backup = schema_backup(path, known)
    restore = f"restore the backup {backup}" if backup.exists() else f"there is no backup {backup} to go back to"
    return (
        f"{path} has schema {version}, and this version of Stoker knows up to {known}: "
        f"install the newer version again, or {restore}"
    )


def schema_backup(path: Path, version: int) -> Path:
    """The copy of a file as it was before its schema went beyond `version`."""
    return path.with_name(f"{path.name}.schema-{version}")


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    with closing(sqlite3.connect(temporary)) as copy:
        connection.backup(copy)
    put_in_place(temporary, target)


def put_in_place(temporary: Path, target: Path) -> None:
    """Give a file that was just written its name, so that after a power cut the name has the old or the new one, whole.

    Raises:
        OSError: the disk refuses; the name holds what it held before.
    """
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(target)
    sync_folder(target.parent)


def _explained(error: sqlite3.Error, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _CORRUPT or "decode to UTF-8" in str(error):  # no code of SQLite's: it does not look into a text
        return DamagedError(str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _locked(path)
    return StoreError(f"cannot use {path}: {error}; see whether the disk is full or read-only")


def _locked(path: Path) -> StoreLockedError:
    holder = _holder(path)
    who = f"process {holder}" if holder else "another process"
    return StoreLockedError(f"{path} is in use by {who}; only one process may use it, stop the other one")


def _holder(path: Path) -> int | None:
    """The process that holds a lock on the file; `None` where there is none, or none that can be named.

    The kernel is asked about the open file (F_GETLK), and not /proc/locks: that names files by inode number and by a
    device number which btrfs and overlayfs do not show to stat(2), and files of several disks have one inode number.
    To close the file drops this process's own locks on it; called only where it has none.
    """
    whole_file = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with path.open("rb") as file:
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, whole_file))
    except OSError:
        return None
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None  # 0: of another PID namespace, -1: of no process


def is_there(path: Path) -> bool:
    """Whether anything of the file is there, if only what SQLite keeps beside it."""
    return any(path.with_name(path.name + suffix).exists() for suffix in _PARTS)


def move_aside(path: Path, now: int) -> Path | None:
    """Rename the file, and what SQLite keeps beside it, out of the way; where to, or `None` if nothing was there."""
    aside = path.with_name(f"{path.name}.damaged-{now}")
    number = 1
    while is_there(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{now}.{number}")
    moved = None
    for suffix in _PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
            moved = aside
    if moved is not None:
        sync_folder(path.parent)
    return moved


@contextmanager
def without_numpy() -> Iterator[None]:
    """Import sqlite-utils in here, and when a file is made rather than at every start.

    Where NumPy is installed it would be loaded only to know its number types: 19 MB and 0.2 s, in a daemon.
    """
    hidden = "numpy" not in sys.modules
    if hidden:
        sys.modules["numpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["numpy"]
