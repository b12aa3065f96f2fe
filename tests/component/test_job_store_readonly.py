"""A store that is shown from memory while its disk takes no writes: what is in file and -wal, and nothing changed.

Simulated: the disk takes writes here, so that every user can run this; `test_faults_disk` has disks that do not.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.jobs.errors import NewerSchemaError, ReadOnlyStoreError, StoreError
from agent.jobs.machine import CancelAsked
from agent.jobs.readonly import why_not_writable
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
from tests.component.test_job_store_migrate import SCHEMA_1

SPEC = JobSpec(name="n", script_name="s.sh", submit_dir="/", work_dir="/")


def add(store: JobStore) -> int:
    return store.add(SPEC, user="ada", uid=1, key=None, digest="d", now=1)[0].id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agent.db"


@pytest.fixture
def live(path: Path) -> Iterator[JobStore]:
    """Open and in use: what it was told last is in the -wal alone."""
    path.parent.mkdir()
    store = JobStore.open(path, now=1)
    for _ in range(3):
        add(store)
    yield store
    store.close()


def shown(path: Path, tmp_path: Path) -> JobStore:
    return JobStore.open_read_only(path, scratch=tmp_path / "scratch", why="Read-only file system")


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


CHANGES: list[Callable[[JobStore], object]] = [
    add,
    lambda store: store.apply(1, CancelAsked(by="ada"), 2),
    lambda store: store.claim(1, attempt=1, gpu_uuids=(), now=2),
    lambda store: store.forget([1]),
    lambda store: store.drop("kind", "key"),
    lambda store: store.next_number("kind"),
    lambda store: store.back_up(),
    lambda store: store.forget_charges(2, 1.0),
]


def test_everything_is_shown_and_whatever_would_change_it_is_refused(
    live: JobStore, path: Path, tmp_path: Path
) -> None:
    before = contents(path.parent)
    assert before["agent.db-wal"]
    with closing(shown(path, tmp_path)) as store:
        assert [row.id for row in store.find()] == [3, 2, 1]
        assert [each.event for each in store.history(2)] == ["Submitted"]
        for change in CHANGES:
            with pytest.raises(
                ReadOnlyStoreError, match=rf"{path} cannot be written: Read-only file system; .* goes? on"
            ):
                change(store)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store._connection.execute("DELETE FROM jobs")
        assert len(store.pending()) == 3
    assert contents(path.parent) == before
    assert not list((tmp_path / "scratch").iterdir()), "the copy is gone"
    add(live)


def test_an_older_schema_is_shown_and_the_file_stays_as_it_is(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA_1)
        connection.execute("PRAGMA application_id = 0x53544F4B")
        connection.execute("PRAGMA user_version = 1")
    before = contents(path.parent)
    with closing(shown(path, tmp_path)) as store:
        assert store.find() == []
    assert contents(path.parent) == before


def test_a_newer_schema_and_damage_without_a_backup_are_refused_by_the_files_own_name(
    live: JobStore, path: Path, tmp_path: Path
) -> None:
    live.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(NewerSchemaError, match=rf"^{path} has schema 99"):
        shown(path, tmp_path)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=rf"^{path} is damaged, its disk takes no writes, and its backup cannot"):
        shown(path, tmp_path)


def test_a_scratch_folder_without_room_is_named(live: JobStore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("in the way")
    with pytest.raises(StoreError, match=rf"a copy of it in {tmp_path}/scratch failed: .*; make room on either"):
        shown(path, tmp_path)


def test_a_disk_that_takes_writes_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    (tmp_path / ".probe").write_text("left by a crash")
    assert why_not_writable(tmp_path) is None
    assert not list(tmp_path.iterdir())
    assert why_not_writable(Path("/dev/full")) is None, "no folder at all: somebody else says so"
    if os.access("/proc", os.R_OK):
        assert why_not_writable(Path("/proc")) is None, "rights, or a name that cannot be: not the disk's refusal"
