"""The verified backup, going back to it, and what a power cut can do to the file. Rows 11, 25, 26 and 28."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent.api.queue import Drain
from agent.jobs import backup
from agent.jobs.errors import StoreError
from agent.jobs.machine import CancelAsked
from agent.jobs.schema import SCHEMA
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
from tests.component.test_job_store_damage import DAMAGE, broken_header, garbage, zero_length
from tests.fakes.stores import path as path
from tests.fakes.stores import store as store

SPEC = JobSpec(name="marker-name", script_name="s.sh", submit_dir="/", work_dir="/", args=("x" * 300,))


def fill(store: JobStore, count: int) -> None:
    with store.transaction():
        for _ in range(count):
            store.add(SPEC, user="ada", uid=1, key=None, digest="d", now=1)


def on_a_thread(act: Callable[[], object]) -> list[object]:
    """What it gave, or the error it raised."""
    said: list[object] = []

    def run() -> None:
        try:
            said.append(act())
        except StoreError as error:
            said.append(error)

    thread = threading.Thread(target=run, name="job-backup")
    thread.start()
    thread.join(timeout=60)
    return said


# --- making one -------------------------------------------------------------------------------------------------------


def test_a_backup_is_a_whole_database(path: Path, store: JobStore) -> None:
    fill(store, 20)
    store.put("drain", "node", Drain(reason="hot", by="ada", at=5))
    store.charge("a", "ada", 7.0, 100)
    assert on_a_thread(store.back_up) == [20]
    target = path.with_name("agent.db.backup")
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in path.parent.iterdir() if "backup" in each.name) == ["agent.db.backup"]
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT count(*) FROM jobs").fetchone()[0] == 20
        assert copy.execute("SELECT body FROM shelf").fetchone()[0].count('"reason":"hot"') == 1


def test_the_store_works_while_it_is_copied(path: Path, store: JobStore) -> None:
    """Its transactions end while the copy is half done; the backup has all that was stored before it ended."""
    fill(store, 6000)
    began, done = threading.Event(), threading.Event()

    def stop() -> bool:
        began.set()
        return False

    def run() -> None:
        store.back_up(at_least=6000, stop=stop)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert began.wait(timeout=30)
    during = 0
    while not done.is_set() and during < 500:
        fill(store, 1)
        store.apply(during + 1, CancelAsked(by="ada"), 9)
        during += 1
    thread.join(timeout=60)
    assert done.is_set()
    assert during > 3, "the store was not kept from its work"
    jobs = backup.verify(path.with_name("agent.db.backup"), SCHEMA)
    assert 6000 < jobs <= 6000 + during
    assert len(store.ids()) == 6000 + during


def test_a_backup_that_is_given_up_leaves_the_last_one(path: Path, store: JobStore) -> None:
    fill(store, 500)
    on_a_thread(store.back_up)
    before = path.with_name("agent.db.backup").read_bytes()
    fill(store, 500)
    [error] = on_a_thread(lambda: store.back_up(stop=lambda: True))
    assert "was given up" in str(error)
    assert path.with_name("agent.db.backup").read_bytes() == before
    assert not path.with_name(".agent.db.backup.tmp").exists()
    fill(store, 1)


@pytest.mark.parametrize("how", ["rotten spec", "too few jobs", "full disk"])
def test_a_bad_copy_never_replaces_the_last_backup(path: Path, store: JobStore, how: str) -> None:
    fill(store, 30)
    on_a_thread(store.back_up)
    before = path.with_name("agent.db.backup").read_bytes()
    at_least = 0
    if how == "rotten spec":
        with store.transaction():
            store._execute("UPDATE specs SET body = replace(body, 'marker', 'murker')")
    elif how == "too few jobs":
        at_least = 31
    else:
        path.with_name(".agent.db.backup.tmp").mkdir()
    [error] = on_a_thread(lambda: store.back_up(at_least=at_least))
    assert "was not renewed" in str(error)
    assert path.with_name("agent.db.backup").read_bytes() == before
    fill(store, 1)


def hidden(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each.name.startswith("."))


def test_a_replaced_backup_stays_until_the_next_one(path: Path, store: JobStore) -> None:
    """To remove a large file at once would hold up the disk; somebody may be copying it, too."""
    target, kept = path.with_name("agent.db.backup"), path.with_name(".agent.db.backup.old")
    for count in (1, 2, 3):
        before = target.read_bytes() if target.exists() else None
        fill(store, 500)
        assert on_a_thread(store.back_up) == [500 * count]
        assert (kept.read_bytes() if before else None) == before
        assert hidden(path) == ([kept.name] if before else [])


def test_a_backup_with_a_second_name_is_never_cut_short(path: Path, store: JobStore) -> None:
    """We were cut off after it had got the name of a replaced one; or an admin has linked it elsewhere."""
    target, kept = path.with_name("agent.db.backup"), path.with_name(".agent.db.backup.old")
    fill(store, 500)
    on_a_thread(store.back_up)
    before = target.read_bytes()
    os.link(target, kept)
    assert "was not renewed" in str(on_a_thread(lambda: store.back_up(at_least=501)))
    assert target.read_bytes() == before
    assert hidden(path) == []


KILLED = """
import os, sys, threading
from pathlib import Path
from agent.jobs.store import JobStore
store = JobStore.open(Path(sys.argv[1]), now=1)
steps = 0
def stop():
    global steps
    steps += 1
    if steps == 3:
        os.kill(os.getpid(), 9)
    return False
threading.Thread(target=lambda: store.back_up(stop=stop)).start()
threading.Event().wait()
"""


def test_killed_half_way_the_last_backup_stands(path: Path, store: JobStore) -> None:
    fill(store, 3000)
    on_a_thread(store.back_up)
    before = path.with_name("agent.db.backup").read_bytes()
    store.close()
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False).returncode == -9
    assert path.with_name(".agent.db.backup.tmp").exists(), "it was half-way"
    assert path.with_name("agent.db.backup").read_bytes() == before
    again = JobStore.open(path, now=2)
    assert on_a_thread(again.back_up) == [3000]
    again.close()


# --- going back to one ------------------------------------------------------------------------------------------------


def gone(path: Path) -> None:
    path.unlink()


LOST = [(damage, False) for damage in [*DAMAGE, gone]] + [
    # Where only pages are broken a -wal may mend them; where the file is none, its -wal is a stray one.
    (damage, True)
    for damage in (gone, zero_length, garbage, broken_header)
]


@pytest.mark.parametrize(("damage", "stray_wal"), LOST, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_lost_database_is_replaced_by_its_backup(path: Path, damage: Callable[[Path], None], stray_wal: bool) -> None:
    store = JobStore.open(path, now=1)
    fill(store, 200)
    store.put("drain", "node", Drain(reason="hot", by="ada", at=5))
    store.charge("a", "ada", 7.0, 100)
    on_a_thread(store.back_up)
    wal = path.with_name("agent.db-wal").read_bytes()
    fill(store, 5)
    store.close()
    if stray_wal:  # of the lost file: it must never be played into the backup
        path.with_name("agent.db-wal").write_bytes(wal[: len(wal) // 2] + os.urandom(50))
    damage(path)
    again = JobStore.open(path, now=1234)
    assert (again.restored, again.suspect) == (True, True)
    assert again.damaged == (None if damage is gone and not stray_wal else path.with_name("agent.db.damaged-1234"))
    assert len(again.find()) == 200
    assert again.all("drain", Drain)["node"].reason == "hot"
    assert again.usage_as_of(100, 1000) == {("a", "ada"): 7.0}
    assert path.with_name("agent.db.backup").exists(), "it may be needed again"
    fill(again, 1)
    again.settle()
    again.close()
    sound = JobStore.open(path, now=1235)
    assert (sound.damaged, sound.suspect, len(sound.find())) == (None, False, 201)
    sound.close()


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_backup_is_not_used_and_not_thrown_away(path: Path, damage: Callable[[Path], None]) -> None:
    store = JobStore.open(path, now=1)
    fill(store, 200)
    on_a_thread(store.back_up)
    store.close()
    damage(path.with_name("agent.db.backup"))
    before = path.with_name("agent.db.backup").read_bytes()
    path.write_bytes(b"")
    again = JobStore.open(path, now=2)
    assert (again.restored, again.suspect, again.find()) == (False, True, [])
    assert path.with_name("agent.db.backup").read_bytes() == before
    again.close()


def test_killed_while_it_goes_back_the_next_start_goes_on(path: Path) -> None:
    store = JobStore.open(path, now=1)
    fill(store, 10)
    on_a_thread(store.back_up)
    store.close()
    path.rename(path.with_name("agent.db.damaged-5"))  # as far as it came
    path.with_name(".agent.db.tmp").write_bytes(b"half")
    again = JobStore.open(path, now=6)
    assert (again.restored, len(again.find())) == (True, 10)
    again.close()


# --- the WAL ----------------------------------------------------------------------------------------------------------


def test_a_wal_that_is_gone_is_noticed(path: Path) -> None:
    store = JobStore.open(path, now=1)
    fill(store, 3)
    left = path.read_bytes()
    store.close()
    assert not path.with_name("agent.db.in-use").exists()
    path.write_bytes(left)
    path.with_name("agent.db.in-use").touch()  # it was not closed, and yet there is no -wal
    again = JobStore.open(path, now=2)
    assert (again.damaged, again.suspect) == (None, True)
    again.close()  # in good order, and yet nobody has brought it up to the job folders
    third = JobStore.open(path, now=3)
    assert third.suspect
    third.settle()
    third.close()
    fourth = JobStore.open(path, now=4)
    assert not fourth.suspect
    fourth.close()


def test_a_wal_cut_anywhere_gives_an_older_state_never_a_broken_one(tmp_path: Path) -> None:
    """Simulated: SQLite's commits are appended to the -wal and flushed; a cut loses what was not flushed yet, here at
    any byte, also within what was flushed. Not simulated: pages of the database itself that a checkpoint tore."""
    path = tmp_path / "agent.db"
    store = JobStore.open(path, now=1)
    sizes = []
    for _ in range(12):
        fill(store, 1)
        sizes.append(path.with_name("agent.db-wal").stat().st_size)
    main, wal = path.read_bytes(), path.with_name("agent.db-wal").read_bytes()
    store.close()
    chance = random.Random(7)
    cuts = sorted({*sizes, *(size - 1 for size in sizes), *(chance.randrange(sizes[-1]) for _ in range(25))})
    for number, cut in enumerate(cuts):
        file = tmp_path / str(number) / "agent.db"
        file.parent.mkdir()
        file.write_bytes(main)
        file.with_name("agent.db-wal").write_bytes(wal[:cut])
        if cut < sizes[0]:
            continue  # before the first answer
        again = JobStore.open(file, now=2)
        assert again.damaged is None
        ids = [row.id for row in again.pending()]
        assert ids == list(range(1, sum(size <= cut for size in sizes) + 1)), "all that was answered by then"
        again.close()


def test_a_foreign_wal_never_gives_a_broken_queue(tmp_path: Path) -> None:
    """Of another database, with good checksums: SQLite plays it in. What comes out is checked like any other file."""
    files = []
    for name, count in (("one", 3), ("two", 400)):
        file = tmp_path / name / "agent.db"
        file.parent.mkdir()
        store = JobStore.open(file, now=1)
        fill(store, count)
        files.append((file.read_bytes(), file.with_name("agent.db-wal").read_bytes()))
        store.close()
    path = tmp_path / "agent.db"
    path.write_bytes(files[0][0])
    path.with_name("agent.db-wal").write_bytes(files[1][1])
    store = JobStore.open(path, now=2)
    assert len(store.find()) in (0, 3, 400)
    fill(store, 1)
    store.close()


# --- who may ----------------------------------------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
from pathlib import Path
from agent.jobs.errors import StoreError
from agent.jobs.store import JobStore
os.setgid(65534), os.setuid(65534)
try:
    JobStore.open(Path(sys.argv[1]), now=1)
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_of_somebody_else_is_named_and_left_alone(mode: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        path = folder / "agent.db"
        store = JobStore.open(path, now=1)
        fill(store, 3)
        store.close()
        path.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(path)], capture_output=True, text=True, timeout=60, check=True
        )
        assert f"cannot use {path} (of uid 0, mode {mode:04o}, and this is uid 65534): Permission denied" in done.stdout
        assert sorted(each.name for each in folder.iterdir()) == ["agent.db"]


def test_bits_flipped_anywhere_are_found_or_do_no_harm(tmp_path: Path) -> None:
    """One byte in each of many places: the file is moved aside, or what is read of it is what was written."""
    path = tmp_path / "agent.db"
    store = JobStore.open(path, now=1)
    fill(store, 120)
    for job_id in range(1, 60):
        store.apply(job_id, CancelAsked(by="ada"), 5)
    store.close()
    whole = path.read_bytes()
    chance = random.Random(11)
    aside = 0
    deadline = time.monotonic() + 60
    for number in range(60):
        if time.monotonic() > deadline:
            break
        place = chance.randrange(100, len(whole))
        file = tmp_path / str(number) / "agent.db"
        file.parent.mkdir()
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        again = JobStore.open(file, now=2)
        aside += again.damaged is not None
        for row in again.find():
            assert row.spec == SPEC
            assert row.status.state.is_final == (row.id < 60) or again.damaged
        again.close()
    assert aside > 5
