"""A file that is not sound: moved aside, never used, never thrown away; and schemas older and newer than ours."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent.jobs.dbfile import Schema, open_database
from agent.jobs.errors import NewerSchemaError, StoreError, StoreLockedError
from agent.jobs.folder import Submission, confirm, job_dir, submissions, write_spec
from agent.jobs.schema import SCHEMA
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
from tests.fakes import disk

SPEC = JobSpec(name="marker-name", script_name="s.sh", submit_dir="/", work_dir="/", args=("x" * 300,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound store of 200 jobs, closed."""
    file = tmp_path / "agent.db"
    store = JobStore.open(file, now=1)
    with store.transaction():
        for _ in range(200):
            store.add(SPEC, user="ada", uid=1, key=None, digest="d", now=1)
    store.close()
    return file


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def zero_length(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all\n" * 500)


def broken_header(path: Path) -> None:
    overwrite(path, 0, b"XXXXXXXX")


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def cut_inside_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5000)


def zeroed_middle(path: Path) -> None:
    overwrite(path, 8 * 4096, b"\0" * 4 * 4096)


def noise_in_the_middle(path: Path) -> None:
    overwrite(path, 3 * 4096, bytes(range(256)) * 48)


def bit_rot_in_a_spec(path: Path) -> None:
    data = path.read_bytes()
    overwrite(path, data.index(b"marker-name"), b"murker")


def somebody_elses_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.execute("PRAGMA application_id = 77")


def no_application_id(path: Path) -> None:
    overwrite(path, 68, b"\0\0\0\0")


DAMAGE = [
    zero_length,
    garbage,
    broken_header,
    cut_short,
    cut_inside_a_page,
    zeroed_middle,
    noise_in_the_middle,
    bit_rot_in_a_spec,
    somebody_elses_database,
    no_application_id,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_moved_aside_whole(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    before = path.read_bytes()
    store = JobStore.open(path, now=1234)
    assert store.damaged == path.with_name("agent.db.damaged-1234")
    assert store.damaged.read_bytes() == before, "kept as it was found"
    assert store.find() == []
    assert store.add(SPEC, user="ada", uid=1, key=None, digest="d", now=1)[0].id == 1
    store.close()
    again = JobStore.open(path, now=1235)
    assert again.damaged is None
    assert len(again.find()) == 1
    again.close()


def test_a_sound_file_is_left_alone(path: Path) -> None:
    store = JobStore.open(path, now=5)
    assert store.damaged is None
    assert len(store.find()) == 200
    store.close()
    assert sorted(each.name for each in path.parent.iterdir()) == ["agent.db"]


def test_a_second_damaged_file_does_not_replace_the_first(path: Path) -> None:
    for name in ("agent.db.damaged-7", "agent.db.damaged-7.2"):
        zero_length(path)
        store = JobStore.open(path, now=7)
        assert store.damaged == path.with_name(name)
        store.close()


def test_the_wal_goes_along(path: Path) -> None:
    broken_header(path)
    path.with_name("agent.db-wal").write_bytes(b"tail")
    store = JobStore.open(path, now=7)
    store.close()
    assert path.with_name("agent.db.damaged-7-wal").read_bytes() == b"tail"


def test_a_file_whose_making_was_cut_short_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # as far as a first start got before the power went
    assert path.stat().st_size > 0
    store = JobStore.open(path, now=7)
    assert store.damaged is None
    store.add(SPEC, user="ada", uid=1, key=None, digest="d", now=1)
    store.close()


def test_the_queue_comes_back_from_the_job_folders(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    store = JobStore.open(path, now=1)
    for number in range(3):
        with store.transaction():
            row, _ = store.add(SPEC, user="ada", uid=1, key=f"k{number}", digest="d", now=50)
            submission = Submission(
                id=row.id,
                user="ada",
                uid=1,
                key=row.key,
                digest="d",
                submitted_at=50,
                spec=SPEC,
                env={},
                script="#!/bin/sh\n",
            )
            write_spec(job_dir(tmp_path, row.id), submission)
            confirm(job_dir(tmp_path, row.id))
    before = store.find()
    store.close()
    garbage(path)
    store = JobStore.open(path, now=2)
    assert store.damaged is not None
    assert len(store.rebuild(each for each in submissions(tmp_path) if isinstance(each, Submission))) == 3
    assert store.find() == before
    store.close()


# --- schemas ----------------------------------------------------------------------------------------------------------


def two_steps(path: Path) -> Schema:
    def add_priority(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")

    return Schema(
        application_id=SCHEMA.application_id, migrations=(*SCHEMA.migrations, add_priority), check=SCHEMA.check
    )


def test_a_schema_is_changed_after_a_backup(path: Path) -> None:
    connection, damaged = open_database(path, two_steps(path), now=9)
    assert damaged is None
    assert connection.execute("SELECT count(*), max(priority) FROM jobs").fetchone()[:] == (200, 0)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 4
    connection.close()
    backup = path.with_name("agent.db.schema-3")
    with closing(sqlite3.connect(backup)) as old:
        assert old.execute("SELECT count(*) FROM jobs").fetchone()[0] == 200
        assert old.execute("PRAGMA user_version").fetchone()[0] == 3


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    open_database(path, two_steps(path), now=9)[0].close()
    before = path.read_bytes()
    with pytest.raises(NewerSchemaError) as caught:
        JobStore.open(path, now=10)
    assert "has schema 4, and this version of Stoker knows up to 3" in str(caught.value)
    assert f"restore the backup {path.with_name('agent.db.schema-3')}" in str(caught.value)
    assert path.read_bytes() == before
    path.with_name("agent.db.schema-3").rename(path)
    store = JobStore.open(path, now=11)
    assert len(store.find()) == 200
    store.close()


def test_a_newer_schema_without_a_backup_says_so(path: Path) -> None:
    open_database(path, two_steps(path), now=9)[0].close()
    path.with_name("agent.db.schema-3").unlink()
    with pytest.raises(NewerSchemaError, match=r"there is no backup .*agent\.db\.schema-3"):
        JobStore.open(path, now=10)


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    def halfway(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE jobs ADD COLUMN priority INTEGER")
        connection.execute("INSERT INTO nowhere VALUES (1)")

    broken = Schema(application_id=SCHEMA.application_id, migrations=(*SCHEMA.migrations, halfway), check=SCHEMA.check)
    with pytest.raises(StoreError, match="nowhere"):
        open_database(path, broken, now=9)
    store = JobStore.open(path, now=10)
    assert len(store.find()) == 200
    store.close()


def test_a_lock_is_not_taken_for_damage(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreLockedError):
            JobStore.open(path, now=9)
    assert not list(path.parent.glob("*.damaged-*"))


MAKING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode=EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_file_that_another_agent_is_just_making_is_not_taken_for_damage(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    with subprocess.Popen(
        [sys.executable, "-c", MAKING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdin and maker.stdout
        assert maker.stdout.readline() == "locked\n"
        assert path.stat().st_size == 0
        with pytest.raises(StoreLockedError, match=f"in use by process {maker.pid}"):
            JobStore.open(path, now=9)
        maker.stdin.close()
        maker.wait(timeout=60)
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_lock_on_a_file_of_another_disk_with_the_same_inode_number_keeps_no_damaged_one(tmp_path: Path) -> None:
    """Else it would be called in use by a process that has nothing to do with it, and not be brought back."""
    lacking = disk.why_no_ext4()
    if lacking is not None:
        pytest.skip(lacking)
    with disk.ext4(tmp_path / "one") as one, disk.ext4(tmp_path / "other") as other:
        damaged, locked = one / "agent.db", other / "else.db"
        damaged.write_bytes(b"no database" * 1000)
        with subprocess.Popen(
            [sys.executable, "-c", MAKING, str(locked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as maker:
            assert maker.stdin and maker.stdout
            assert maker.stdout.readline() == "locked\n"
            assert damaged.stat().st_ino == locked.stat().st_ino
            assert f":{locked.stat().st_ino} " in Path("/proc/locks").read_text()
            JobStore.open(damaged, now=9).close()
            assert (one / "agent.db.damaged-9").read_bytes() == b"no database" * 1000
            with pytest.raises(StoreLockedError, match=f"in use by process {maker.pid}"):
                JobStore.open(locked, now=9)
            maker.stdin.close()
            maker.wait(timeout=60)


def test_a_file_that_cannot_be_read_is_not_taken_for_damage(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    path.mkdir()
    with pytest.raises(StoreError, match="see who owns it"):
        JobStore.open(path, now=9)
    assert path.is_dir()
