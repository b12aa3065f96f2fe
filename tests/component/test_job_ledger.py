"""Row and folder together, and the queue made again from the folders: nothing that was answered for is lost."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.types import JobState
from agent.engine.claims import attempt_dir
from agent.engine.reconcile import reconcile
from agent.engine.records import Claim, Exit, Started, Stop
from agent.jobs import ledger, notes
from agent.jobs.errors import FolderError, IllegalMoveError, StaleJobError, StoreError
from agent.jobs.folder import job_dir, read_spec
from agent.jobs.machine import CancelAsked, Claimed, Ended, Expired, Lost, PreemptAsked, RequeueAsked, outcome_of
from agent.jobs.machine import Started as StartedEvent
from agent.jobs.notes import Note
from agent.jobs.row import JobRow
from agent.jobs.spec import ArraySpec, JobSpec
from agent.jobs.store import JobStore

BOOT = "this-boot"


class Place:
    """A state folder and its store."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.store = JobStore.open(state_dir / "agent.db", now=1)

    def submit(self, key: str | None = None, *, tasks: int = 0, **fields: object) -> JobRow:
        array = ArraySpec(tasks=tuple(range(tasks)), text=f"0-{tasks - 1}") if tasks else None
        spec = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/", array=array, **fields)  # type: ignore[arg-type]
        return ledger.take_in(
            self.store,
            self.state_dir,
            spec,
            user="ada",
            uid=1001,
            key=key,
            digest="d",
            now=50,
            env={"A": "b"},
            script="#!/bin/sh\n",
            cron_id=3,
        )[0]

    def apply(self, job_id: int, event: object, now: int = 60) -> JobRow:
        return ledger.apply(self.store, self.state_dir, job_id, event, now)  # type: ignore[arg-type]

    def runs(self, job_id: int, attempt: int, *uuids: str) -> None:
        """A claim, in both."""
        self.store.claim(job_id, attempt=attempt, gpu_uuids=uuids, now=60)
        env = {"CUDA_VISIBLE_DEVICES": ",".join(uuids)}
        folder = attempt_dir(self.state_dir, job_id, attempt)
        folder.create(Claim(argv=("/bin/true",), env=env, work_dir="/"))
        record = Started(shim_pid=1, shim_start=1, job_pid=1, job_start=1, boot_id=BOOT, at=61)
        (folder.path / "started").write_bytes(msgspec.json.encode(record))
        self.store.apply(job_id, StartedEvent(at=61), 61)

    def ends(self, job_id: int, code: int | None = 0, why: str | None = None, *, tell: bool = True) -> None:
        attempt = self.store.get(job_id).status.attempt
        record = {"code": code, "signal": None, "why": why, "detail": None, "ended_at": 70}
        rest = {"run_s": 9.0, "oom": False, "swept": 0, "log_bytes": 0}
        msgspec.convert({**record, **rest}, Exit)
        path = attempt_dir(self.state_dir, job_id, attempt).path / "exit"
        path.write_bytes(msgspec.json.encode({**record, **rest}))
        if tell:
            self.store.apply(job_id, Ended(outcome=outcome_of(code=code, signal=None, why=why, ended_at=70)), 70)

    def lose(self, *, backup: bool = False) -> int:
        """The database is gone; a new agent starts."""
        self.store.close()
        (self.state_dir / "agent.db").unlink()
        if not backup:
            (self.state_dir / "agent.db.backup").unlink(missing_ok=True)
        self.store = JobStore.open(self.state_dir / "agent.db", now=90)
        return reconcile(self.store, self.state_dir, damaged=self.store.suspect, now=90, boot_id=BOOT)

    def whole(self) -> dict[int, tuple[object, ...]]:
        return {row.id: (row.key, row.spec, row.status.state, row.status.attempt) for row in self.store.find()}


def add(folder: Path, note: Note) -> None:
    """A note whose row is committed."""
    notes.confirm(folder, notes.append(folder, [note]))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.store.close()


# --- the whole queue comes back ---------------------------------------------------------------------------------------


def test_everything_that_was_asked_comes_back(place: Place) -> None:
    plain, held = place.submit("k1"), place.submit("k2")
    tasks = place.submit("k3", tasks=5)
    ledger.amend(
        place.store,
        place.state_dir,
        held.id,
        msgspec.structs.replace(held.spec, held="user"),
        60,
        event="Held",
        by="ada",
    )
    ledger.apply_each(place.store, place.state_dir, [tasks.id + 3, tasks.id + 4], CancelAsked(by="bob"), 60)
    ledger.amend_each(
        place.store,
        place.state_dir,
        [tasks.id, tasks.id + 1],
        lambda spec: msgspec.structs.replace(spec, nice=5),
        61,
        event="Updated",
        by="ada",
    )
    place.runs(tasks.id + 2, 1, "GPU-a")
    place.ends(tasks.id + 2, 3)
    place.runs(plain.id, 1, "GPU-b")
    expired = place.submit("k4", deadline_at=5)
    place.apply(expired.id, Expired())
    again = place.submit("k5")
    place.apply(again.id, CancelAsked(by="ada"), 62)
    place.apply(again.id, RequeueAsked(by="ada"), 63)
    before = place.whole()
    assert place.lose() == 9
    assert place.whole() == before
    assert place.store.get(plain.id).status.gpu_uuids == ("GPU-b",)
    assert place.store.get(tasks.id + 3).status.detail == "cancelled by bob before it started"
    assert place.store.get(tasks.id + 2).cron_id == 3
    assert place.store.task(tasks.id, 1).spec is place.store.task(tasks.id, 0).spec
    assert place.submit("k1") == place.store.get(plain.id), "a retry still finds its job"
    assert place.submit("new").id == again.id + 1


def test_a_job_that_was_requeued_has_several_attempts(place: Place) -> None:
    row = place.submit("k")
    place.runs(row.id, 1, "GPU-a")
    place.apply(row.id, RequeueAsked(by="ada"), 65)
    place.ends(row.id, 1, "preempt")
    place.runs(row.id, 2, "GPU-b")
    place.ends(row.id, 7)
    place.apply(row.id, RequeueAsked(by="ada", reason="once more"), 80)
    place.runs(row.id, 3, "GPU-a")
    before = place.whole()
    assert before[row.id][2:] == (JobState.RUNNING, 3)
    place.lose()
    assert place.whole() == before
    assert [each.event for each in place.store.history(row.id)] == [
        *("Submitted", "Claimed", "Started", "RequeueAsked", "Ended", "Claimed", "Started", "Ended"),
        *("RequeueAsked", "Claimed", "Started"),
    ]


def test_attempts_that_ended_unrecorded_were_still_begun(place: Place) -> None:
    row = place.submit(requeue=True)
    place.runs(row.id, 1, "GPU-a")
    place.store.apply(row.id, Lost(), 65)
    place.runs(row.id, 2, "GPU-a")
    place.lose()
    assert place.whole()[row.id][2:] == (JobState.RUNNING, 2)
    plain = place.submit()
    place.runs(plain.id, 1)
    place.store.apply(plain.id, Lost(), 65)
    place.apply(plain.id, RequeueAsked(by="ada"), 66)
    place.lose()
    assert place.whole()[plain.id][2:] == (JobState.PENDING, 1)


@pytest.mark.parametrize("wish", [CancelAsked(by="ada"), RequeueAsked(by="ada")])
def test_a_wish_for_a_running_job_is_kept(place: Place, wish: CancelAsked | RequeueAsked) -> None:
    row = place.submit()
    place.runs(row.id, 1)
    place.apply(row.id, wish)
    place.lose()
    status = place.store.get(row.id).status
    assert (status.state, status.wish) == (
        JobState.COMPLETING,
        "cancel" if isinstance(wish, CancelAsked) else "requeue",
    )


def test_a_stop_that_was_written_is_a_wish(place: Place) -> None:
    row = place.submit()
    place.runs(row.id, 1)
    attempt_dir(place.state_dir, row.id, 1).write_stop(Stop(why="cancel", by="bob"))
    place.lose()
    assert place.store.get(row.id).status.cancelled_by == "bob"


def test_a_run_that_ended_by_itself_after_a_requeue_was_asked_is_run_again_as_in_slurm(place: Place) -> None:
    row = place.submit()
    place.runs(row.id, 1)
    place.apply(row.id, RequeueAsked(by="ada"))
    place.ends(row.id, 0)
    assert place.store.get(row.id).status.state is JobState.PENDING
    place.lose()
    assert place.store.get(row.id).status.state is JobState.PENDING


def test_what_the_job_said_of_itself_still_counts(place: Place) -> None:
    row = place.submit()
    place.runs(row.id, 1)
    place.ends(row.id, 1)
    files = job_dir(place.state_dir, row.id) / "files"
    files.mkdir()
    (files / "result.json").write_text('{"state": "done"}')
    place.lose()
    assert place.store.get(row.id).status.state is JobState.COMPLETED


def test_the_note_of_an_older_version_is_honoured(place: Place) -> None:
    row = place.submit()
    (job_dir(place.state_dir, row.id) / "cancelled").write_bytes(b'{"by":"bob","at":55,"reason":null}')
    place.lose()
    assert place.store.get(row.id).status.detail == "cancelled by bob before it started"


# --- an older database ------------------------------------------------------------------------------------------------


def test_an_older_database_is_brought_up(place: Place) -> None:
    ran, cancelled, held, waits, ended = (place.submit(f"k{number}") for number in range(5))
    place.runs(ended.id, 1)
    place.ends(ended.id, 0)
    import threading

    thread = threading.Thread(target=place.store.back_up)
    thread.start()
    thread.join()
    place.runs(ran.id, 1, "GPU-a")
    place.ends(ran.id, 4)
    place.apply(cancelled.id, CancelAsked(by="ada"))
    spec = msgspec.structs.replace(held.spec, held="admin")
    ledger.amend(place.store, place.state_dir, held.id, spec, 60, event="Held", by="root")
    place.apply(ended.id, RequeueAsked(by="ada"))
    young = place.submit("young")
    before = place.whole()
    assert place.lose(backup=True) == 1
    assert place.store.restored
    after = place.whole()
    # What ended is the engine's to tell: it has more to do than to store it.
    assert after.pop(ran.id)[2:] == (JobState.RUNNING, 1)
    assert before.pop(ran.id)[2:] == (JobState.FAILED, 1)
    assert after == before
    assert {waits.id, young.id} <= {row.id for row in place.store.pending()}


def test_nothing_is_told_twice_to_a_sound_store(place: Place) -> None:
    tasks = place.submit(tasks=3)
    ledger.amend_each(
        place.store,
        place.state_dir,
        [tasks.id],
        lambda spec: msgspec.structs.replace(spec, nice=5),
        61,
        event="Updated",
        by="ada",
    )
    place.apply(tasks.id + 1, CancelAsked(by="ada"), 62)
    place.apply(tasks.id + 1, RequeueAsked(by="ada"), 63)
    place.runs(tasks.id + 2, 1)
    place.apply(tasks.id + 2, RequeueAsked(by="ada"), 64)
    before = place.store.find()
    for damaged in (False, True):
        assert reconcile(place.store, place.state_dir, damaged=damaged, now=99, boot_id=BOOT) == 0
        assert place.store.find() == before


def test_a_wish_that_was_noted_and_not_stored_is_done_after_a_restart(place: Place) -> None:
    waits, runs = place.submit(), place.submit()
    place.runs(runs.id, 1)
    for row, attempt, running in ((waits, 0, False), (runs, 1, True)):
        note = Note(at=60, event="CancelAsked", ids=(row.id,), attempt=attempt, running=running, by="ada")
        add(job_dir(place.state_dir, row.id), note)
    assert reconcile(place.store, place.state_dir, damaged=False, now=99, boot_id=BOOT) == 0
    assert place.store.get(waits.id).status.state is JobState.CANCELLED
    assert place.store.get(runs.id).status.state is JobState.COMPLETING


def test_a_claim_that_the_store_lost_is_not_given_out_again(place: Place) -> None:
    row = place.submit()
    claim = Claim(argv=("/bin/true",), env={"CUDA_VISIBLE_DEVICES": "GPU-a"}, work_dir="/")
    attempt_dir(place.state_dir, row.id, 1).create(claim)
    reconcile(place.store, place.state_dir, damaged=False, now=99, boot_id=BOOT)
    status = place.store.get(row.id).status
    assert (status.state, status.attempt, status.gpu_uuids) == (JobState.CONFIGURING, 1, ("GPU-a",))


# --- damaged folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\n", b"{", b"\xff\xfe\n", b'{"at": 1}\n', b"null\n" * 3, b"\0" * 5000])
def test_damaged_notes_lose_no_job(place: Place, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    row, other = place.submit(), place.submit()
    place.apply(other.id, CancelAsked(by="ada"))
    path = job_dir(place.state_dir, row.id) / "notes"
    path.write_bytes(data)
    caplog.set_level(logging.ERROR)
    assert place.lose() == 2
    assert place.store.get(row.id).status.state is JobState.PENDING
    assert place.store.get(other.id).status.state is JobState.CANCELLED
    assert ("is damaged and is passed over" in caplog.text) is (b"\n" in data)
    place.apply(row.id, CancelAsked(by="ada"))
    place.lose()
    assert place.store.get(row.id).status.state is JobState.CANCELLED, "a torn line does not swallow the next one"


def test_notes_that_cannot_be_read_lose_no_job(place: Place) -> None:
    row = place.submit()
    (job_dir(place.state_dir, row.id) / "notes").mkdir()
    assert place.lose() == 1
    with pytest.raises(FolderError):
        notes.read(job_dir(place.state_dir, row.id))
    with pytest.raises(OSError):
        place.apply(row.id, CancelAsked(by="ada"))
    assert place.store.get(row.id).status.state is JobState.PENDING, "nothing was changed"


def test_a_link_planted_for_the_notes_is_not_followed(place: Place) -> None:
    row = place.submit()
    victim = place.state_dir / "victim"
    victim.write_text("untouched")
    (job_dir(place.state_dir, row.id) / "notes").symlink_to(victim)
    with pytest.raises(OSError):
        place.apply(row.id, CancelAsked(by="ada"))
    assert victim.read_text() == "untouched"


def test_one_damaged_submission_does_not_keep_the_others_back(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = place.submit(), place.submit()
    (job_dir(place.state_dir, bad.id) / "spec").write_bytes(b"torn")
    (place.state_dir / "jobs" / "lost+found").mkdir()
    (place.state_dir / "jobs" / "٣").mkdir()
    assert place.lose() == 1
    assert [row.id for row in place.store.find()] == [good.id]
    assert "this job cannot be taken in again" in caplog.text


def test_a_damaged_record_of_an_ended_run_is_lost_and_never_a_success(place: Place) -> None:
    row = place.submit(requeue=True)
    place.runs(row.id, 1)
    place.ends(row.id, 0)
    place.apply(row.id, RequeueAsked(by="ada"))
    place.runs(row.id, 2)
    (attempt_dir(place.state_dir, row.id, 1).path / "exit").write_bytes(b"{")
    place.lose()
    events = [str(each) for each in place.store.history(row.id)]
    assert any("Lost" in each for each in events)
    assert place.whole()[row.id][2:] == (JobState.RUNNING, 2)


# --- together or not at all -------------------------------------------------------------------------------------------


def test_a_wish_that_cannot_be_is_not_noted(place: Place) -> None:
    row = place.submit()
    with pytest.raises(IllegalMoveError):
        place.apply(row.id, RequeueAsked(by="ada"))
    with pytest.raises(StaleJobError):
        ledger.apply(place.store, place.state_dir, row.id, CancelAsked(by="ada"), 60, revision=7)
    assert notes.read(job_dir(place.state_dir, row.id)) == []
    place.runs(row.id, 1)
    place.apply(row.id, PreemptAsked(for_job=9))
    assert notes.read(job_dir(place.state_dir, row.id)) == [], "the scheduler decides again"


def test_many_are_asked_with_one_line(place: Place) -> None:
    tasks = place.submit(tasks=2000)
    begin = time.perf_counter()
    moved = ledger.apply_each(place.store, place.state_dir, range(tasks.id, tasks.id + 2000), CancelAsked(by="ada"), 60)
    assert len(moved) == 2000
    assert time.perf_counter() - begin < 20, "no flush for each: that would be minutes on a slow disk"
    [note] = notes.read(job_dir(place.state_dir, tasks.id))
    assert len(note.ids) == 2000
    assert ledger.apply_each(place.store, place.state_dir, [tasks.id], CancelAsked(by="ada"), 61) == []


def test_an_amended_task_does_not_write_the_tasks_of_its_array(place: Place) -> None:
    tasks = place.submit(tasks=2000)
    spec = msgspec.structs.replace(tasks.spec, nice=3)
    ledger.amend(place.store, place.state_dir, tasks.id + 5, spec, 60, event="Updated", by="ada")
    assert (job_dir(place.state_dir, tasks.id) / "notes").stat().st_size < 2000
    place.lose()
    assert place.store.get(tasks.id + 5).spec == spec
    assert read_spec(job_dir(place.state_dir, tasks.id)).spec == tasks.spec


def test_a_full_disk_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    row = place.submit()
    before = place.store.find()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "write", full)
        with pytest.raises((OSError, StoreError)):
            place.apply(row.id, CancelAsked(by="ada"))
        with pytest.raises((OSError, StoreError)):
            place.submit()
    assert place.store.find() == before
    assert notes.read(job_dir(place.state_dir, row.id)) == []


@settings(max_examples=30)
@given(data=st.binary(max_size=60), cut=st.integers(0, 400))
def test_notes_after_any_tear_are_all_that_were_flushed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("notes")
    written = [Note(at=number, event="Expired", ids=(1,)) for number in range(4)]
    for note in written[:3]:
        add(folder, note)
    path = folder / "notes"
    whole = path.read_bytes()
    add(folder, written[3])
    last = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + last[: min(cut, len(last))] + data.replace(b"\n", b" "))
    assert notes.read(folder)[:3] == written[:3]
    add(folder, Note(at=9, event="Expired", ids=(1,)))
    assert notes.read(folder)[-1].at == 9


def test_claimed_is_the_events_name() -> None:
    """Names of events are what notes and histories are read by: they are never renamed."""
    names = [each.__name__ for each in (CancelAsked, RequeueAsked, Expired, Claimed)]
    assert names == ["CancelAsked", "RequeueAsked", "Expired", "Claimed"]
