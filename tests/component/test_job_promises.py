"""What was refused is told nowhere: a COMMIT that fails, or never comes, leaves nothing in the folders that counts.

The COMMIT fails for real: the process may write no file beyond the size that the -wal has.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agent.api.refs import JobRef
from agent.api.types import JobState
from agent.engine.reconcile import reconcile
from agent.jobs import folder, ledger, notes
from agent.jobs.durable import change_durably
from agent.jobs.errors import NoSuchJobError, StoreError
from agent.jobs.folder import is_unconfirmed, job_dir, submissions
from agent.jobs.machine import CancelAsked, Event, NeverRan, PreemptAsked
from agent.jobs.promises import Promise
from agent.jobs.row import JobRow
from agent.jobs.spec import ArraySpec, JobSpec
from agent.jobs.store import JobStore
from tests.fakes.crashes import Crash, World
from tests.fakes.engines import ended, engine, make_config, run, submit, until, who

SPEC = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/")
ARRAY = msgspec.structs.replace(SPEC, array=ArraySpec(tasks=(0, 1, 2), text="0-2"))


class Place:
    """A state folder with its store, which holds a waiting job and an array."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.store = JobStore.open(state_dir / "agent.db", now=1)
        for _ in range(30):  # so that the -wal is larger than any file of a folder
            self.submit(SPEC)
        self.row, self.array = self.submit(SPEC), self.submit(ARRAY)

    def submit(self, spec: JobSpec, key: str | None = None) -> JobRow:
        return ledger.take_in(
            self.store,
            self.state_dir,
            spec,
            user="ada",
            uid=1,
            key=key,
            digest="d",
            now=5,
            env={},
            script="#!/bin/sh\n",
        )[0]

    def ask(self, event: Event) -> JobRow:
        return ledger.apply(self.store, self.state_dir, self.row.id, event, 6)

    def ask_for(self, row: JobRow, event: Event) -> JobRow:
        return ledger.apply(self.store, self.state_dir, row.id, event, 6)

    def ask_all(self, event: Event) -> list[JobRow]:
        return ledger.apply_each(self.store, self.state_dir, [self.array.id, self.array.id + 1], event, 6)

    def amend(self) -> JobRow:
        spec = msgspec.structs.replace(SPEC, nice=7)
        return ledger.amend(self.store, self.state_dir, self.row.id, spec, 6, event="Updated", by="ada")

    def amend_all(self) -> list[JobRow]:
        ids = [self.array.id, self.array.id + 2]
        return ledger.amend_each(self.store, self.state_dir, ids, _nicer, 6, event="Updated", by="ada")

    def rows(self) -> dict[int, tuple[object, ...]]:
        return {row.id: (row.status.state, row.spec) for row in self.store.find()}

    def restart(self, *, lost: bool) -> None:
        """As after `kill -9`, with the database or without it."""
        path = self.state_dir / "agent.db"
        kept = {each: each.read_bytes() for each in self.state_dir.glob("agent.db*")}
        self.store.close()
        for each, data in kept.items():
            each.write_bytes(data)
        if lost:
            for each in kept:
                each.unlink(missing_ok=True)
        self.store = JobStore.open(path, now=9)
        reconcile(self.store, self.state_dir, damaged=self.store.suspect, now=9)


def _nicer(spec: JobSpec) -> JobSpec:
    return msgspec.structs.replace(spec, nice=9)


CHANGES: dict[str, Callable[[Place], object]] = {
    "a submit": lambda place: place.submit(SPEC, "key"),
    "an array's submit": lambda place: place.submit(ARRAY, "key"),
    "a wish": lambda place: place.ask(CancelAsked(by="eve")),
    "a wish for many": lambda place: place.ask_all(CancelAsked(by="eve")),
    "a change": lambda place: place.amend(),
    "a change of many": lambda place: place.amend_all(),
}
each_change = pytest.mark.parametrize("what", CHANGES)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.store.close()


@contextmanager
def full(place: Place) -> Iterator[None]:
    """No file of this process may become larger than the -wal is now: its next COMMIT fails, and small files do not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (place.state_dir / "agent.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("lost", [False, True], ids=["the database is there", "the database is lost"])
@each_change
def test_what_was_refused_by_a_commit_that_failed_happens_after_no_restart(place: Place, what: str, lost: bool) -> None:
    before = place.rows()
    with full(place), pytest.raises(StoreError, match="the job store refused"):
        CHANGES[what](place)
    assert place.rows() == before
    place.restart(lost=lost)
    assert place.rows() == before
    assert notes.read(job_dir(place.state_dir, place.row.id)) == []


@each_change
def test_asked_again_when_there_is_room_it_holds_without_the_database(place: Place, what: str) -> None:
    with full(place), pytest.raises(StoreError):
        CHANGES[what](place)
    CHANGES[what](place)
    after = place.rows()
    place.restart(lost=True)
    assert place.rows() == after


@each_change
def test_one_part_of_a_burst_that_is_undone_is_told_nowhere_and_the_others_are(place: Place, what: str) -> None:
    with place.store.transaction():
        with pytest.raises(ZeroDivisionError), place.store.transaction():
            CHANGES[what](place)
            raise ZeroDivisionError
        other = place.submit(SPEC, "other")
    after = place.rows()
    place.restart(lost=True)
    assert place.rows() == after
    assert other.id in after


def test_a_folder_that_takes_no_mark_away_is_tried_again_and_at_the_next_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(notes, "change_durably", refuse)
        place.ask(CancelAsked(by="ada"))
    where = job_dir(place.state_dir, place.row.id)
    assert notes.read(where) == []
    place.submit(SPEC)
    assert [note.by for note in notes.read(where)] == ["ada"], "with the next transaction"
    with monkeypatch.context() as patch:
        patch.setattr(notes, "change_durably", refuse)
        place.ask_all(CancelAsked(by="bob"))
    place.restart(lost=False)
    assert [note.by for note in notes.read(job_dir(place.state_dir, place.array.id))] == ["bob"], "at the start"
    after = place.rows()
    place.restart(lost=True)
    assert place.rows() == after


def test_a_job_is_not_failed_because_its_folder_took_no_mark_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is launched when the disk is well; until then nothing is made up."""

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            with monkeypatch.context() as patch:
                patch.setattr(folder, "confirm", refuse)
                job = await submit(made, "exit 3", "--hold")
                assert is_unconfirmed(job_dir(tmp_path / "state", job.id))
                await made.release(JobRef(id=job.id), who())
                waits = await until(made, job.id, lambda each: each.state is JobState.CONFIGURING)
                assert waits.attempt == 1
            await submit(made, "true", "--hold")
            assert (await until(made, job.id, ended)).exit_code == 3

    run(test)


def test_a_task_may_start_while_something_is_noted_of_its_array(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the disk refuses that: what a task needs to start is there."""
    owed: list[bool] = []

    def refuse(*_: object) -> None:
        owed.append(place.store.owes(place.array.id))
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(notes, "confirm", refuse)
        place.ask_all(CancelAsked(by="ada"))
    assert owed == [False]
    assert not place.store.owes(place.array.id)


Flush = tuple[Path, Callable[[], None]]


@pytest.mark.parametrize("tear", ["folder", "spec", "script"])
def test_what_a_power_cut_tore_before_it_was_flushed_is_there_again_after_the_start(place: Place, tear: str) -> None:
    """Simulated: what was never flushed is taken away or emptied, the database is kept as its COMMIT left it."""
    late: list[Flush] = []
    place.store.put_off = lambda written, done: late.append((written, done))
    row = place.submit(SPEC, "late")
    where = job_dir(place.state_dir, row.id)
    assert [written for written, _ in late] == [where]
    whole = {name: (where / name).read_bytes() for name in ("spec", "script")}
    if tear == "folder":
        shutil.rmtree(where)
    else:
        (where / tear).chmod(0o600)
        (where / tear).write_bytes(b"")
        (where / "spec").unlink(missing_ok=True)
    place.restart(lost=False)
    assert {name: (where / name).read_bytes() for name in ("spec", "script")} == whole
    after = place.rows()
    assert row.id in after
    place.restart(lost=True)
    assert place.rows() == after


def test_a_submission_stays_promised_until_the_disk_has_its_folder(place: Place) -> None:
    late: list[Flush] = []
    place.store.put_off = lambda written, done: late.append((written, done))
    first, second = place.submit(SPEC), place.submit(SPEC)
    place.submit(SPEC)
    promised = {each.folder_id for each in place.store.all("promise", Promise).values()}
    assert {first.id, second.id} <= promised
    late[0][1]()
    place.submit(SPEC)
    promised = {each.folder_id for each in place.store.all("promise", Promise).values()}
    assert first.id not in promised
    assert second.id in promised


def test_what_the_disk_refused_is_written_anew_at_the_next_start_though_it_reads_well(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page whose writing failed stays in memory and counts as written: a new file is needed, and its own flush."""
    place.store.put_off = lambda _written, _done: None
    spec = job_dir(place.state_dir, place.submit(SPEC).id) / "spec"
    refused, whole = spec.stat().st_ino, spec.read_bytes()
    keep = spec.with_name("kept")
    keep.hardlink_to(spec)  # or its number might be the new one's
    flushed: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    place.restart(lost=False)
    assert spec.read_bytes() == whole
    assert spec.stat().st_ino != refused
    assert spec.stat().st_ino in flushed


def test_a_mark_that_the_disk_refused_is_written_again_though_it_reads_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").write_bytes(b"?one\nxtwo\n")
    written: list[int] = []
    real = os.pwrite

    def pwrite(fd: int, data: bytes, at: int) -> int:
        written.append(at)
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for _ in range(2):
        change_durably(tmp_path / "notes", b"?", b" ", [0, 5])
    assert written == [0, 0], "where neither stands, nothing is changed"
    assert (tmp_path / "notes").read_bytes() == b" one\nxtwo\n"


def test_a_job_that_was_forgotten_meanwhile_is_not_made_anew_by_its_promise(place: Place) -> None:
    place.store.put_off = lambda written, done: None
    row = place.submit(SPEC)
    place.ask_for(row, CancelAsked(by="ada"))
    shutil.rmtree(job_dir(place.state_dir, row.id))
    place.store.forget([row.id])
    place.restart(lost=False)
    assert not job_dir(place.state_dir, row.id).exists()
    assert row.id not in place.rows()


def test_an_older_store_makes_no_forgotten_job_anew_by_a_promise_that_it_still_holds(place: Place) -> None:
    row = place.submit(SPEC)
    place.store.back_up()
    place.ask_for(row, CancelAsked(by="ada"))
    shutil.rmtree(job_dir(place.state_dir, row.id))
    place.store.forget([row.id])
    place.store.close()
    (place.state_dir / "agent.db").unlink()
    place.store = JobStore.open(place.state_dir / "agent.db", now=9)  # the backup: there it waits, and is promised
    assert place.rows()[row.id][0] is JobState.PENDING
    reconcile(place.store, place.state_dir, damaged=place.store.suspect, now=9)
    assert not job_dir(place.state_dir, row.id).exists()
    assert place.rows()[row.id][0] is JobState.CANCELLED


def test_an_older_store_gives_no_job_up_whose_folder_only_lacks_the_last_word(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "confirm", refuse)
        row = place.submit(SPEC)
        place.store.back_up()
        place.store.close()
        (place.state_dir / "agent.db").unlink()
        place.store = JobStore.open(place.state_dir / "agent.db", now=9)
        reconcile(place.store, place.state_dir, damaged=place.store.suspect, now=9)
        assert place.rows()[row.id][0] is JobState.PENDING
        assert place.store.owes(row.folder_id)
    place.submit(SPEC)
    assert not place.store.owes(row.folder_id), "the disk is well again"
    assert folder.read_spec(job_dir(place.state_dir, row.id)).id == row.id


def test_a_run_that_was_taken_back_before_it_began_and_then_cancelled_stays_so_in_an_older_store(place: Place) -> None:
    place.store.claim(place.row.id, attempt=1, gpu_uuids=(), now=6)
    place.store.back_up()
    place.ask(PreemptAsked(for_job=99))
    place.store.apply(place.row.id, NeverRan(), 6)
    place.ask(CancelAsked(by="ada"))
    place.store.close()
    (place.state_dir / "agent.db").unlink()
    place.store = JobStore.open(place.state_dir / "agent.db", now=9)
    assert place.rows()[place.row.id][0] is JobState.CONFIGURING
    reconcile(place.store, place.state_dir, damaged=place.store.suspect, now=9)
    assert place.rows()[place.row.id][0] is JobState.CANCELLED


def test_promises_do_not_pile_up_and_those_of_forgotten_jobs_are_no_fault(place: Place) -> None:
    for _ in range(20):
        place.submit(SPEC)
    (count,) = place.store._execute("SELECT count(*) FROM shelf WHERE kind = 'promise'").fetchone()
    assert count == 1, "the last one is dropped with the next"
    shutil.rmtree(job_dir(place.state_dir, place.submit(SPEC).id))
    with full(place):
        place.restart(lost=False)
    place.submit(SPEC)
    (count,) = place.store._execute("SELECT count(*) FROM shelf WHERE kind = 'promise'").fetchone()
    assert count == 1


def test_a_kept_promise_is_dropped_by_a_later_one_where_the_first_to_do_so_was_undone(place: Place) -> None:
    """Undone in memory as well: else each burst with a fault in it would leave whole submissions in the store."""
    with place.store.transaction():
        with contextlib.suppress(NoSuchJobError), place.store.transaction():
            place.submit(SPEC)
            place.store.get(12345)
        assert len(place.store.all("promise", Promise)) == 1, "of the array, which was taken in last"
    with contextlib.suppress(NoSuchJobError), place.store.transaction():
        place.submit(SPEC)
        place.store.get(12345)
    last = place.submit(SPEC)
    assert list(place.store.all("promise", Promise)) == [str(last.id)]


def test_lines_of_an_older_version_hold(place: Place) -> None:
    where = job_dir(place.state_dir, place.row.id)
    place.ask(CancelAsked(by="ada"))
    path = where / "notes"
    path.write_bytes(path.read_bytes().lstrip(b" "))
    assert [note.by for note in notes.read(where)] == ["ada"]
    change_durably(path, b"?", b" ", [0, 5, 10_000])
    assert [note.by for note in notes.read(where)] == ["ada"], "no byte is changed that is no mark"


def test_killed_anywhere_in_a_submit_and_a_cancel_folders_and_rows_agree(tmp_path: Path) -> None:
    """At every point between two durable writes; then the database is lost as well."""
    for point in range(60):
        (place_of := tmp_path / str(point)).mkdir()
        world = World(place_of)
        before: JobRow | None = None
        try:
            with world.dying(point):
                before = world.submit(SPEC, "key")
                world.ask(before.id, CancelAsked(by="ada"))
            done = True
        except Crash:
            done = False
            world.crash()
        known = {row.id: row.status.state for row in world.store.find()}
        assert set(known) == {each.id for each in submissions(world.state_dir)}  # type: ignore[union-attr]
        if before is not None:
            assert before.id in known, "it was answered"
        world.crash(lose=["", "-wal"])
        assert {row.id: row.status.state for row in world.store.find()} == known
        world.stop()
        if done:
            assert known == {1: JobState.CANCELLED}
            return
    raise AssertionError("more points than were tried")
