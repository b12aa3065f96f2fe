"""A new database is made in a process of its own, and only where nothing of an older one is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.jobs.backup import backup_path
from agent.jobs.making import make_apart
from agent.jobs.store import JobStore

OPENED = """
import os, sys
from pathlib import Path
from agent.jobs.making import make_apart
from agent.jobs.store import JobStore

os.umask(0o077)  # as the daemon does
make_apart(Path(sys.argv[1]))
store = JobStore.open(Path(sys.argv[1]), now=1)
print(store.suspect, store.find(), [name for name in sys.modules if name.startswith("sqlite_utils")])
"""


def test_what_makes_it_stays_out_of_the_process_that_uses_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path / "agent.db")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False [] []\n"
    assert (tmp_path / "agent.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["agent.db", "agent.db-wal", "agent.db-shm"])
def test_nothing_is_made_beside_what_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"older")
    make_apart(tmp_path / "agent.db")
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"older"


def test_a_backup_is_not_forestalled_by_an_empty_database(tmp_path: Path) -> None:
    JobStore.open(tmp_path / "other.db", now=1).close()
    (tmp_path / "other.db").rename(backup_path(tmp_path / "agent.db"))
    make_apart(tmp_path / "agent.db")
    store = JobStore.open(tmp_path / "agent.db", now=1)
    assert store.restored
    store.close()


def test_where_it_cannot_be_made_the_daemon_meets_the_reason_itself(tmp_path: Path) -> None:
    make_apart(tmp_path / "missing" / "agent.db")
    assert list(tmp_path.iterdir()) == []
