"""The job store over a real SQLite file: what it keeps and what it refuses."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.api.types import JobState
from agent.jobs import machine
from agent.jobs.errors import (
    GpuHeldError,
    IllegalMoveError,
    KeyConflictError,
    NoSuchJobError,
    StaleJobError,
)
from agent.jobs.filters import JobFilter, matches
from agent.jobs.machine import CancelAsked, Claimed, Ended, Event, Lost, NeverRan, Rebooted, Started, Status, outcome_of
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore
from agent.jobs.wire import Standing, to_wire
from tests.fakes.stores import add, reopened, spec
from tests.fakes.stores import path as path
from tests.fakes.stores import store as store

# --- taking in --------------------------------------------------------------------------------------------------------


def test_a_job_is_kept_as_it_was_taken_in(path: Path, store: JobStore) -> None:
    asked = spec(name="実験", gpus=2, gpu_type="h100", args=("\n", "$x"), requeue=True)
    row, created = store.add(asked, user="ada", uid=1001, key="k", digest="d", now=100)
    assert created
    assert row == JobRow(
        id=1,
        user="ada",
        uid=1001,
        key="k",
        digest="d",
        submitted_at=100,
        spec=asked,
        status=Status(requeue=True),
        folder_id=1,
        eligible_at=100,
    )
    assert reopened(store, path).get(1) == row


def test_the_same_key_gives_the_same_job(store: JobStore) -> None:
    first, created = store.add(spec(), user="ada", uid=1001, key="k", digest="d", now=100)
    again, created_again = store.add(spec(), user="ada", uid=1001, key="k", digest="d", now=200)
    assert (created, created_again) == (True, False)
    assert again == first
    with pytest.raises(KeyConflictError, match=f"was used for job {first.id} with another request"):
        store.add(spec(), user="ada", uid=1001, key="k", digest="other", now=300)
    bobs, bobs_created = store.add(spec(), user="bob", uid=1002, key="k", digest="d", now=100)
    assert (bobs.id, bobs_created) == (first.id + 1, True), "keys are each user's own"
    assert [add(store).id, add(store).id] == [3, 4], "no key, no memory"


def test_ids_ascend_over_restarts(path: Path, store: JobStore) -> None:
    ids = [add(store).id for _ in range(3)]
    store.apply(ids[-1], CancelAsked(by="ada"), 101)
    again = reopened(store, path)
    ids.append(add(again).id)
    assert ids == [1, 2, 3, 4]


def test_the_queue_keeps_its_order(path: Path, store: JobStore) -> None:
    for _ in range(5):
        add(store)
    store.claim(2, attempt=1, gpu_uuids=(), now=101)
    again = reopened(store, path)
    assert [row.id for row in again.pending()] == [1, 3, 4, 5]
    assert [row.id for row in again.active()] == [2]
    assert again.counts() == {JobState.PENDING: 4, JobState.CONFIGURING: 1}


def test_what_is_known_without_its_row_is_chosen_as_rows_are(store: JobStore) -> None:
    for number in range(6):
        if number % 2:
            add(store, user="ada", account="lab", partition="a,main", name="odd")
        else:
            add(store, user="bob", qos="high")
    store.apply(2, CancelAsked(by="ada"), 101)
    store.apply(5, CancelAsked(by="bob"), 501)
    told = [to_wire(row, "n1") for row in store.find()]
    for wanted, count in (
        (JobFilter(), 6),
        (JobFilter(users=["ada", "eve"]), 3),
        (JobFilter(states=[JobState.CANCELLED]), 2),
        (JobFilter(names=["odd"], accounts=["lab"], partitions=["main", "b"]), 3),
        (JobFilter(partitions=["mai"]), 0),
        (JobFilter(qos=["high"]), 3),
        (JobFilter(since=102), 5),
        (JobFilter(until=99), 0),
        (JobFilter(until=100, before=4), 3),
        (JobFilter(ids=[1, 3, 9]), 2),
        (JobFilter(array=3), 0),
        (JobFilter(cron=1), 0),
    ):
        rows = [row.id for row in store.find(wanted)]
        assert ([job.id for job in told if matches(wanted, job)], len(rows)) == (rows, count), wanted


def test_finding(store: JobStore) -> None:
    for number in range(6):
        add(store, user="ada" if number % 2 else "bob")
    store.apply(2, CancelAsked(by="ada"), 101)
    store.apply(5, CancelAsked(by="bob"), 101)
    assert [row.id for row in store.find()] == [6, 5, 4, 3, 2, 1]
    assert [row.id for row in store.find(JobFilter(limit=2))] == [6, 5]
    assert [row.id for row in store.find(JobFilter(users=["ada"]))] == [6, 4, 2]
    assert [row.id for row in store.find(JobFilter(states=[JobState.CANCELLED]))] == [5, 2]
    assert [
        row.id for row in store.find(JobFilter(states=[JobState.CANCELLED, JobState.PENDING], users=["bob"], limit=1))
    ] == [5]
    assert store.find(JobFilter(users=["'; DROP TABLE jobs; --"])) == []
    with pytest.raises(NoSuchJobError, match="there is no job 99"):
        store.get(99)


# --- events -----------------------------------------------------------------------------------------------------------


def test_a_life_and_its_history(path: Path, store: JobStore) -> None:
    job = add(store, gpus=1).id
    store.claim(job, attempt=1, gpu_uuids=["GPU-a"], now=110)
    store.apply(job, Started(at=111), 112)
    done = outcome_of(code=3, signal=None, why=None, ended_at=120)
    row = store.apply(job, Ended(outcome=done), 121)
    assert row.revision == 3
    assert row.status == Status(
        state=JobState.FAILED,
        reason="NonZeroExitCode",
        detail="exited with code 3",
        attempt=1,
        gpu_uuids=("GPU-a",),
        started_at=111,
        ended_at=120,
        exit_code=3,
    )
    again = reopened(store, path)
    assert again.get(job) == row
    assert [str(event) for event in again.history(job)] == [
        "Submitted at 100 -> PENDING",
        "Claimed at 110 -> CONFIGURING (attempt 1)",
        "Started at 112 -> RUNNING (attempt 1)",
        "Ended at 121 -> FAILED (exited with code 3)",
    ]


def test_an_illegal_move_tells_the_history_and_changes_nothing(store: JobStore) -> None:
    job = add(store).id
    before = store.apply(job, CancelAsked(by="ada"), 101)
    with pytest.raises(IllegalMoveError) as caught:
        store.claim(job, attempt=1, gpu_uuids=(), now=102)
    assert "Claimed cannot happen to a job that is CANCELLED" in str(caught.value)
    assert "Submitted at 100 -> PENDING; CancelAsked at 101 -> CANCELLED" in str(caught.value)
    assert store.get(job) == before
    assert len(store.history(job)) == 2


def test_an_old_view_is_refused(store: JobStore) -> None:
    seen = add(store)
    store.claim(seen.id, attempt=1, gpu_uuids=(), now=101)
    with pytest.raises(StaleJobError) as caught:
        store.apply(seen.id, CancelAsked(by="ada"), 102, revision=seen.revision)
    assert caught.value.revision == 1
    assert store.apply(seen.id, CancelAsked(by="ada"), 102, revision=1).status.state is JobState.COMPLETING


def test_a_gpu_is_not_claimed_twice(store: JobStore) -> None:
    first, second = add(store, gpus=2).id, add(store, gpus=1).id
    store.claim(first, attempt=1, gpu_uuids=["GPU-a", "GPU-b"], now=101)
    with pytest.raises(GpuHeldError, match=f"job {second} cannot have GPU GPU-b: job {first} holds it"):
        store.claim(second, attempt=1, gpu_uuids=["GPU-b"], now=102)
    assert store.get(second).status.state is JobState.PENDING
    store.apply(first, CancelAsked(by="ada"), 103)
    with pytest.raises(GpuHeldError):
        store.claim(second, attempt=1, gpu_uuids=["GPU-b"], now=104)  # COMPLETING still holds it
    store.apply(first, Ended(outcome=outcome_of(code=0, signal=None, why="cancel", ended_at=105)), 105)
    assert store.claim(second, attempt=1, gpu_uuids=["GPU-b"], now=106).status.gpu_uuids == ("GPU-b",)


def test_each_transition_is_one_line_in_the_log(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent.jobs.store")
    with store.transaction():
        job = add(store, gpus=1).id
        assert caplog.messages == [], "nothing is said before it is stored"
    store.claim(job, attempt=1, gpu_uuids=["GPU-a"], now=101)
    assert caplog.messages == [
        "job=1 -> PENDING user=ada gpus=1",
        "job=1 PENDING -> CONFIGURING on=Claimed gpus=GPU-a",
    ]


# --- transactions -----------------------------------------------------------------------------------------------------


def test_a_burst_is_stored_whole_or_not_at_all(path: Path, store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent.jobs.store")
    with pytest.raises(RuntimeError), store.transaction():
        add(store)
        add(store)
        raise RuntimeError("no folder")
    assert store.find() == []
    assert caplog.messages == []
    with store.transaction():
        for _ in range(500):
            add(store)
    assert len(caplog.messages) == 500, "and what was undone is not told later"
    assert len(reopened(store, path).pending()) == 500


def test_a_part_can_fail_alone(store: JobStore) -> None:
    with store.transaction():
        kept = add(store, "a").id
        with pytest.raises(OSError, match="disk"), store.transaction():
            add(store, "b")
            raise OSError("disk full for this folder")
        with pytest.raises(KeyConflictError):
            store.add(spec(), user="ada", uid=1001, key="a", digest="other", now=1)
        also = add(store, "c").id
    assert [row.key for row in store.find()] == ["c", "a"]
    assert also == kept + 1, "an id never answered for is free"


def test_a_rebuild_takes_in_what_is_missing(store: JobStore) -> None:
    from agent.jobs.folder import Submission

    def submission(job_id: int, key: str | None) -> Submission:
        return Submission(
            id=job_id,
            user="ada",
            uid=1001,
            key=key,
            digest="d",
            submitted_at=50,
            spec=spec(requeue=True),
            env={"A": "b"},
        )

    kept = add(store, "kept")
    assert [
        row.id
        for row in store.rebuild(
            [submission(kept.id, "x"), submission(40, None), submission(41, "k"), submission(7, "kept")]
        )
    ] == [40, 41]
    assert store.get(kept.id) == kept
    assert [row.id for row in store.pending()] == [kept.id, 40, 41]
    assert store.get(41).status == Status(requeue=True)
    assert add(store, "k").id == 41, "the key is remembered"
    assert add(store, "new").id == 42, "ids go on above the highest"
    row = store.claim(40, attempt=3, gpu_uuids=("GPU-a",), now=60)
    assert row.status.attempt == 3, "an attempt that a folder knows of is taken up as it is"


# --- over the wire ----------------------------------------------------------------------------------------------------


def test_a_row_over_the_wire(store: JobStore) -> None:
    job = add(store, gpus=2, output="%j-%x.out", time_limit_s=600, requeue=True).id
    waiting = to_wire(store.get(job), "n1", standing=Standing(why=("Resources", "asks for 2 GPUs; 1 of 2 free")))
    assert (waiting.reason, waiting.detail) == ("Resources", "asks for 2 GPUs; 1 of 2 free")
    assert (waiting.output_path, waiting.gpu_indexes, waiting.attempt) == ("/home/ada/1-nm.out", (), 0)
    row = store.claim(job, attempt=1, gpu_uuids=["GPU-b", "GPU-a"], now=101)
    wire = to_wire(row, "n1", standing=None, gpu_indexes={"GPU-a": 3, "GPU-b": 1}, simulated=True)
    assert wire.state is JobState.CONFIGURING
    assert (wire.reason, wire.detail) == (None, None)
    assert (wire.gpu_uuids, wire.gpu_indexes) == (("GPU-b", "GPU-a"), (1, 3))
    assert (wire.output_path, wire.error_path) == ("/home/ada/1-nm.out", "/home/ada/1-nm.out")
    assert (wire.id, wire.node, wire.user, wire.time_limit_s, wire.requeue, wire.simulated) == (
        job,
        "n1",
        "ada",
        600,
        True,
        True,
    )


# --- the store against the machine alone ------------------------------------------------------------------------------

EVENTS: list[Event] = [
    Claimed(attempt=1, gpu_uuids=()),
    Claimed(attempt=2, gpu_uuids=()),
    Started(at=7),
    Ended(outcome=outcome_of(code=0, signal=None, why=None, ended_at=8)),
    CancelAsked(by="ada"),
    NeverRan(),
    Rebooted(),
    Lost(),
]


class StoreWalk(RuleBasedStateMachine):
    """Whatever happens, in whatever transactions, with restarts between: the file holds what the machine says."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "agent.db"
        self.store = JobStore.open(self.path, now=1)
        self.model: dict[int, Status] = {}

    @rule(requeue=st.booleans())
    def submit(self, requeue: bool) -> None:
        row = add(self.store, requeue=requeue)
        assert row.id == len(self.model) + 1
        self.model[row.id] = row.status

    @precondition(lambda self: self.model)
    @rule(data=st.data(), batch=st.lists(st.sampled_from(EVENTS), min_size=1, max_size=3), fail=st.booleans())
    def events(self, data: st.DataObject, batch: list[Event], fail: bool) -> None:
        job = data.draw(st.sampled_from(sorted(self.model)))
        status = self.model[job]
        try:
            with self.store.transaction():
                for event in batch:
                    self.store.apply(job, event, 9)
                    status = machine.handle(status, event, 9)
                if fail:
                    raise RuntimeError
        except (IllegalMoveError, RuntimeError):
            return
        self.model[job] = status

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = JobStore.open(self.path, now=2)
        assert self.store.damaged is None

    @invariant()
    def same(self) -> None:
        assert {row.id: row.status for row in self.store.find()} == self.model
        for row in self.store.find():
            assert self.store.history(row.id)[-1].state is row.status.state
            assert len(self.store.history(row.id)) == row.revision + 1

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestStoreWalk = StoreWalk.TestCase


TestStoreWalk.settings = settings(max_examples=15, stateful_step_count=15)


def test_sqlite_is_new_enough() -> None:
    assert sqlite3.sqlite_version_info >= (3, 37), "STRICT tables"
