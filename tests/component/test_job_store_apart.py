"""A new database is made in a process of its own, where nothing of an older one is; a copy is verified in one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from agent.jobs import apart, backup
from agent.jobs.backup import backup_path
from agent.jobs.dbfile import DamagedError
from agent.jobs.errors import StoreError
from agent.jobs.schema import SCHEMA
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore

OPENED = """
import os, sys
from pathlib import Path
from agent.jobs import apart
from agent.jobs.store import JobStore

os.umask(0o077)  # as the daemon does
apart.make(Path(sys.argv[1]))
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
    apart.make(tmp_path / "agent.db")
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"older"


def test_a_backup_is_not_forestalled_by_an_empty_database(tmp_path: Path) -> None:
    JobStore.open(tmp_path / "other.db", now=1).close()
    (tmp_path / "other.db").rename(backup_path(tmp_path / "agent.db"))
    apart.make(tmp_path / "agent.db")
    store = JobStore.open(tmp_path / "agent.db", now=1)
    assert store.restored
    store.close()


def test_where_it_cannot_be_made_the_daemon_meets_the_reason_itself(tmp_path: Path) -> None:
    apart.make(tmp_path / "missing" / "agent.db")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    store = JobStore.open(tmp_path / "agent.db", now=1)
    spec = JobSpec(name="marker-name", script_name="s.sh", submit_dir="/", work_dir="/")
    with store.transaction():
        for _ in range(20):
            store.add(spec, user="ada", uid=1, key=None, digest="d", now=1)
    store.close()
    return tmp_path / "agent.db"


def test_a_sound_copy_tells_its_jobs(copy: Path) -> None:
    assert apart.verify(copy, lambda: False) == 20


@pytest.mark.parametrize("damage", ["rotten spec", "no header"])
def test_a_damaged_copy_is_told_in_the_same_words(copy: Path, damage: str) -> None:
    if damage == "rotten spec":
        with closing(sqlite3.connect(copy)) as opened, opened:
            opened.execute("UPDATE specs SET body = replace(body, 'marker', 'murker')")
    else:
        copy.write_bytes(b"x" * 100)
    with pytest.raises(DamagedError) as here:
        backup.verify(copy, SCHEMA)
    with pytest.raises(DamagedError) as there:
        apart.verify(copy, lambda: False)
    assert str(there.value) == str(here.value)


def test_verifying_can_be_given_up(copy: Path) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(StoreError, match="was given up"):
        apart.verify(copy, lambda: True)
    assert set(psutil.Process().children()) == before
