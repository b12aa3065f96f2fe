"""Arrays, changes of what is asked for, filters, retention's view: the store over a real SQLite file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.types import JobState, SubmitRequest
from agent.config import load
from agent.engine.steps import Submitter, store_submission
from agent.jobs.errors import GpuHeldError, NoSuchJobError, StaleJobError
from agent.jobs.filters import JobFilter
from agent.jobs.machine import CancelAsked, Ended, Expired, Started, outcome_of
from agent.jobs.row import JobRow
from agent.jobs.spec import ArraySpec, Dependency, DependencySpec, JobSpec
from agent.jobs.store import JobStore
from tests.fakes.stores import path as path
from tests.fakes.stores import store as store


def spec(**fields: object) -> JobSpec:
    known = {"name": "nm", "script_name": "s.sh", "submit_dir": "/home/ada", "work_dir": "/home/ada"}
    return JobSpec(**{**known, **fields})  # type: ignore[arg-type]


def array(*tasks: int, **fields: object) -> JobSpec:
    return spec(array=ArraySpec(tasks=tasks, text="as asked"), **fields)


def add(store: JobStore, asked: JobSpec | None = None, *, key: str | None = None, user: str = "ada") -> JobRow:
    return store.add(asked or spec(), user=user, uid=1001, key=key, digest="d", now=100)[0]


def end(store: JobStore, job_id: int, at: int) -> None:
    store.claim(job_id, attempt=store.get(job_id).status.attempt + 1, gpu_uuids=(), now=at)
    store.apply(job_id, Started(at=at), at)
    store.apply(job_id, Ended(outcome=outcome_of(code=0, signal=None, why=None, ended_at=at)), at)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cron_id", [None, 4])
@pytest.mark.parametrize("begin_at", [None, 4_000_000_000])
def test_what_a_submit_hands_on_is_what_is_stored(
    tmp_path: Path, store: JobStore, cron_id: int | None, begin_at: int | None
) -> None:
    config = load(environ={"HOME": str(tmp_path)})
    config.state_dir.mkdir(parents=True)
    who = Submitter(user="ada", uid=1001, key="k", digest="d", owner=None, cron_id=cron_id)
    request = SubmitRequest(script="#!/bin/sh\n", script_name="s.sh", work_dir="/")
    asked = array(7, 2, 5, requeue=True, begin_at=begin_at)
    rows, created = store_submission(store, config, asked, request, who)
    assert created
    assert rows == list(store.tasks_of(rows[0].array_job_id or 0))
    assert store_submission(store, config, asked, request, who) == ([store.get(rows[0].array_job_id or 0)], False)


def test_an_array_is_rows_of_its_own_with_ids_that_follow(store: JobStore) -> None:
    add(store)
    first = add(store, array(3, 5, 8), key="k")
    tasks = store.tasks_of(first.id)
    assert [(row.id, row.array_job_id, row.array_task_id, row.folder_id) for row in tasks] == [
        (2, 2, 3, 2),
        (3, 2, 5, 2),
        (4, 2, 8, 2),
    ]
    assert tasks[0] == first
    assert tasks[0].spec is tasks[2].spec, "ten thousand tasks have one spec in memory"
    assert store.task(2, 5) == tasks[1] == store.get(3)
    assert add(store).id == 5
    for array_id, task_id in ((2, 4), (1, 0), (99, 3)):
        with pytest.raises(NoSuchJobError, match=f"there is no job {array_id}_{task_id}"):
            store.task(array_id, task_id)
    assert store.tasks_of(1) == []


def test_a_repeated_array_is_the_first_one(store: JobStore) -> None:
    asked = array(0, 1)
    first, created = store.add(asked, user="ada", uid=1001, key="k", digest="d", now=1)
    again, created_again = store.add(asked, user="ada", uid=1001, key="k", digest="d", now=2)
    assert (created, created_again, again) == (True, False, first)
    assert len(store.find()) == 2


def test_ten_thousand_tasks_are_one_submission(store: JobStore) -> None:
    add(store, array(*range(10_000)))
    assert store.counts() == {JobState.PENDING: 10_000}
    assert store._execute("SELECT count(*) FROM specs").fetchone()[0] == 1
    assert len({id(row.spec) for row in store.pending()}) == 1


def test_shares_of_one_gpu_go_to_several_jobs(store: JobStore) -> None:
    one, two = add(store, spec(shards=1)).id, add(store, spec(shards=2)).id
    whole = add(store, spec(gpus=1)).id
    store.claim(one, attempt=1, gpu_uuids=["GPU-a"], now=1)
    store.claim(two, attempt=1, gpu_uuids=["GPU-a"], now=1)
    with pytest.raises(GpuHeldError):
        store.claim(whole, attempt=1, gpu_uuids=["GPU-a"], now=1)


# --- changes ----------------------------------------------------------------------------------------------------------


def test_what_a_job_asks_for_changes_with_its_history(store: JobStore) -> None:
    row = add(store)
    held = msgspec.structs.replace(row.spec, held="user", nice=5)
    changed = store.amend(row.id, held, 200, event="Held", by="bob", revision=row.revision)
    assert (changed.spec, changed.revision, changed.eligible_at) == (held, 1, 100)
    assert store.get(row.id) == changed
    assert str(store.history(row.id)[-1]) == "Held at 200 -> PENDING (by bob)"
    with pytest.raises(StaleJobError):
        store.amend(row.id, row.spec, 201, event="Released", by="bob", revision=0)
    assert store._execute("SELECT count(*) FROM specs").fetchone()[0] == 1, "what nobody asks for any more is dropped"


def test_requeue_follows_the_spec(store: JobStore) -> None:
    row = add(store)
    changed = store.amend(row.id, msgspec.structs.replace(row.spec, requeue=True), 2, event="Updated", by="ada")
    assert changed.status.requeue
    assert store.get(row.id).status.requeue


def test_tasks_that_change_alike_share_one_spec_again(store: JobStore) -> None:
    first = add(store, array(*range(50)))
    ids = [row.id for row in store.tasks_of(first.id)][10:]
    held = msgspec.structs.replace(first.spec, held="user")
    store.amend_alike(ids, held, 2, event="Held", by="ada")
    assert store._execute("SELECT count(*) FROM specs").fetchone()[0] == 2
    assert [row.spec.held for row in store.tasks_of(first.id)] == [None] * 10 + ["user"] * 40


def test_from_when_on_a_job_ages(store: JobStore) -> None:
    waits = DependencySpec(conditions=(Dependency(kind="afterok", job_id=1),))
    plain, later, behind = add(store), add(store, spec(begin_at=500)), add(store, spec(dependency=waits, begin_at=50))
    assert (plain.eligible_at, later.eligible_at, behind.eligible_at) == (100, 500, None)
    sooner = store.amend(later.id, msgspec.structs.replace(later.spec, begin_at=None), 200, event="U", by="a")
    freed = store.amend(behind.id, msgspec.structs.replace(behind.spec, dependency=None), 600, event="U", by="a")
    assert (sooner.eligible_at, freed.eligible_at) == (100, 600)


# --- filters ----------------------------------------------------------------------------------------------------------

USERS, NAMES, ACCOUNTS = ["ada", "bob"], ["a", "b", "実験"], [None, "vision"]
JOBS = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from(NAMES), st.sampled_from(ACCOUNTS), st.booleans(), st.booleans()),
    max_size=12,
)


@st.composite
def filters(draw: st.DrawFn) -> JobFilter:
    def some(among: list[str]) -> list[str]:
        return draw(st.lists(st.sampled_from([*among, "nobody", "'; DROP TABLE jobs; --"]), max_size=2))

    number = st.none() | st.integers(0, 30)
    return JobFilter(
        states=draw(st.sets(st.sampled_from([JobState.PENDING, JobState.CANCELLED, JobState.DEADLINE]), max_size=2)),
        users=some(USERS),
        names=some(NAMES),
        accounts=some(["vision"]),
        array=draw(number),
        since=draw(number),
        until=draw(number),
        before=draw(number),
        limit=draw(st.none() | st.integers(0, 5)),
    )


@settings(max_examples=25)
@given(jobs=JOBS, wanted=filters())
def test_a_filter_finds_what_python_finds(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[tuple[str, str, str | None, bool, bool]], wanted: JobFilter
) -> None:
    store = JobStore.open(tmp_path_factory.mktemp("filter") / "agent.db", now=1)
    with store.transaction():
        for at, (user, name, account, is_array, ended) in enumerate(jobs):
            fields = {"name": name, "account": account}
            asked = array(0, 1, **fields) if is_array else spec(**fields)
            row = store.add(asked, user=user, uid=1, key=None, digest="d", now=at)[0]
            if ended:
                store.apply(row.id, CancelAsked(by="x") if at % 2 else Expired(), at + 2)
    rows = sorted(store.find(), key=lambda row: -row.id)
    expected = [row for row in rows if _matches(row, wanted)]
    assert store.find(wanted) == expected[: wanted.limit]
    store.close()


def _matches(row: JobRow, wanted: JobFilter) -> bool:
    status = row.status
    return (
        (not wanted.states or status.state in wanted.states)
        and (not wanted.users or row.user in wanted.users)
        and (not wanted.names or row.spec.name in wanted.names)
        and (not wanted.accounts or row.spec.account in wanted.accounts)
        and wanted.array in (None, row.array_job_id)
        and (wanted.since is None or status.ended_at is None or status.ended_at >= wanted.since)
        and (wanted.until is None or row.submitted_at <= wanted.until)
        and (wanted.before is None or row.id < wanted.before)
    )


def test_pages_follow_each_other(store: JobStore) -> None:
    add(store, array(*range(25)))
    seen: list[int] = []
    before = None
    while page := store.find(JobFilter(before=before, limit=10)):
        seen += [row.id for row in page]
        before = page[-1].id
    assert seen == list(range(25, 0, -1))


def test_a_page_is_found_in_the_index_alone(store: JobStore) -> None:
    """Whatever is combined: or a page of a long history would read rows that it does not show."""
    from agent.jobs.filters import query

    wanted = JobFilter(users=["ada"], states=[JobState.FAILED], since=3, cron=4, qos=["x"], array=5, limit=100)
    sql, values = query(wanted)
    plan = [row["detail"] for row in store._execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert any("USING COVERING INDEX idx_jobs_page" in each for each in plan), plan


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_what_ended_long_ago_is_found_by_submission_the_youngest_stays(store: JobStore) -> None:
    old, tasks, young = add(store).id, add(store, array(0, 1, 2)).id, add(store).id
    for job_id in (old, tasks, tasks + 1, young):
        end(store, job_id, 50)
    assert store.expired(40, 10) == {}
    assert store.expired(60, 10) == {old: [old]}, "a task of the array waits still"
    end(store, tasks + 2, 70)
    assert store.expired(60, 10) == {old: [old]}, "or ended too late"
    assert store.expired(80, 10) == {old: [old], tasks: [tasks, tasks + 1, tasks + 2]}
    assert store.expired(80, 1) == {old: [old]}


def test_forgotten_jobs_leave_nothing_and_their_ids_are_not_given_out_again(tmp_path: Path, store: JobStore) -> None:
    from agent.api.queue import JobUsage

    for _ in range(3):
        add(store, spec(name="same"))
    add(store, spec(name="other"), key="k")
    for job_id in (1, 2, 4):
        end(store, job_id, 50)
        store.put_usage(job_id, JobUsage())
    assert store.forget([1, 3, 4, 99]) == 2, "what has not ended stays"
    assert [row.id for row in store.find()] == [3, 2]
    assert store.history(1) == []
    assert store.usage_of(4) is None
    assert store._execute("SELECT count(*) FROM specs").fetchone()[0] == 1
    assert store.forget([]) == 0
    store.close()
    again = JobStore.open(tmp_path / "agent.db", now=2)
    assert add(again).id == 5
    assert add(again, key="k").id == 6, "the key was forgotten with its job"
    again.close()
