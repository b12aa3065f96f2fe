"""Fault matrix row 46: a store with 10,000 waiting and 100,000 ended jobs is opened, paged through and looked up in.

Bounds leave room for a machine that is busy with other tests; figures are the bench's.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.api.types import JobState
from agent.jobs.filters import JobFilter
from agent.jobs.spec import ArraySpec, JobSpec
from agent.jobs.store import JobStore

ENDED, WAITING = 100_000, 10_000


def array(count: int) -> JobSpec:
    tasks = ArraySpec(tasks=tuple(range(count)), text=f"0-{count - 1}")
    return JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/", array=tasks)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Closed. That so many have ended is written past the state machine, which would take a minute."""
    file = tmp_path_factory.mktemp("many") / "agent.db"
    store = JobStore.open(file, now=1)
    for user in ("ada", "eve"):
        store.add(array(ENDED // 2), user=user, uid=1, key=None, digest=user, now=1)
    with store.transaction():
        store._execute("UPDATE jobs SET state = 'COMPLETED', ended_at = id, exit_code = 0")
    began = time.monotonic()
    store.add(array(WAITING), user="bob", uid=2, key=None, digest="bob", now=2)
    assert time.monotonic() - began < 30, "1 s on a machine that is not busy"
    store.close()
    return file


def test_row_46_the_start_looks_for_damage_in_seconds(path: Path) -> None:
    began = time.monotonic()
    store = JobStore.open(path, now=3)
    took_s = time.monotonic() - began
    try:
        assert store.damaged is None
        assert store.counts() == {JobState.COMPLETED: ENDED, JobState.PENDING: WAITING}
        assert took_s < 30, took_s
    finally:
        store.close()


@pytest.mark.parametrize(
    "wanted",
    [
        JobFilter(limit=100),
        JobFilter(limit=100, before=ENDED // 2),
        JobFilter(limit=100, users=["ada"]),
        JobFilter(limit=100, states=[JobState.COMPLETED], users=["eve"], before=ENDED),
        JobFilter(limit=100, names=["n"], since=ENDED // 4, until=ENDED),
    ],
    ids=["youngest", "older", "a user", "a user's ended", "of a time"],
)
def test_row_46_a_page_is_a_page_however_many_there_are(path: Path, wanted: JobFilter) -> None:
    store = JobStore.open(path, now=3)
    try:
        began = time.thread_time()  # another's load is no fault of the page
        page = store.find(wanted)
        took_s = time.thread_time() - began
        assert len(page) == 100
        assert [row.id for row in page] == sorted((row.id for row in page), reverse=True)
        assert took_s < 0.5, took_s
    finally:
        store.close()
