"""Bringing the hub's ledger up to date, and only when the code that makes its tables is not the code that made them.

Which code it was stands in the file (`PRAGMA user_version`), as a checksum of the modules with the migrations: nothing
has to be counted by hand, and a start that finds its own is spared the database tools.
"""

from __future__ import annotations

import sqlite3
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MAKERS = ("store_schema.py", "usage_schema.py", "hardware_schema.py")


def bring_up_to_date(conn: sqlite3.Connection) -> None:
    """Apply the migrations that the file has not seen."""
    made_by = _makers()
    if made_by and conn.execute("PRAGMA user_version").fetchone()[0] == made_by:
        return
    _migrate(conn)
    with suppress(sqlite3.Error):  # a disk that is full keeps no hub from starting whose tables are all there
        conn.execute(f"PRAGMA user_version = {made_by}")


@contextmanager
def without_numpy() -> Iterator[None]:
    """Import sqlite-utils in here: NumPy would be loaded only to know its number types, 19 MB and 0.2 s.

    The agent's stores have the same (`agent.jobs.dbfile`): they may not know licensing, and licensing knows nobody.
    """
    hidden = "numpy" not in sys.modules
    if hidden:
        sys.modules["numpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["numpy"]


def _migrate(conn: sqlite3.Connection) -> None:
    """Imported here: the commands have the store too, and are spared the database tools."""
    with without_numpy():
        from sqlite_utils import Database

    from licensing.hardware_schema import migrations as hardware_migrations
    from licensing.store_schema import migrations
    from licensing.usage_schema import migrations as usage_migrations

    for each in (migrations, usage_migrations, hardware_migrations):
        each.apply(Database(conn))


def _makers() -> int:
    """31 bits, as SQLite keeps there; 0 where the sources cannot be read, which is as if never made."""
    try:
        texts = [Path(__file__).with_name(name).read_bytes() for name in _MAKERS]
    except OSError:
        return 0
    return zlib.crc32(b"\0".join(texts)) & 0x7FFFFFFF
