"""What is told of a job: which events a change makes, which of them were asked for, and their sentences."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import FINAL_STATES, Job, JobState
from agent.engine import message
from agent.jobs import notice
from agent.jobs.notice import Told


def job(state: JobState = JobState.PENDING, **more: Any) -> Job:
    return Job(
        **{
            "id": 17,
            "node": "n1",
            "name": "train",
            "user": "ada",
            "state": state,
            "submitted_at": 1000,
            "work_dir": "/",
            **more,
        }
    )


FRESH = Told(job_id=17)
BEGUN = Told(job_id=17, state=JobState.RUNNING, attempt=1, began=True)


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        (FRESH, job(), ()),
        (FRESH, job(JobState.CONFIGURING, attempt=1), ()),
        (FRESH, job(JobState.RUNNING, attempt=1, started_at=5), ("BEGIN",)),
        (BEGUN, job(JobState.RUNNING, attempt=1, started_at=5), ()),
        (BEGUN, job(JobState.COMPLETED, attempt=1, started_at=5), ("END",)),
        (BEGUN, job(JobState.TIMEOUT, attempt=1, started_at=5), ("FAIL",)),
        (BEGUN, job(JobState.PENDING, attempt=1, reason="Preempted"), ("REQUEUE",)),
        (Told(job_id=17, attempt=1), job(JobState.RUNNING, attempt=2, started_at=9), ("BEGIN",)),
        (FRESH, job(JobState.CANCELLED), ("FAIL",)),
        (FRESH, job(reason="DependencyNeverSatisfied"), ("INVALID_DEPEND",)),
        (Told(job_id=17, reason="DependencyNeverSatisfied"), job(reason="DependencyNeverSatisfied"), ()),
        # While nobody watched it began and ended: both are told.
        (FRESH, job(JobState.FAILED, attempt=1, started_at=5), ("BEGIN", "FAIL")),
    ],
)
def test_the_events_between_two_looks(before: Told, after: Job, events: tuple[str, ...]) -> None:
    assert notice.changes(before, after) == events


@given(st.lists(st.sampled_from(list(JobState)), min_size=1, max_size=8))
def test_an_end_is_told_once_however_often_it_is_looked_at(states: list[JobState]) -> None:
    told, ends = FRESH, 0
    for state in states:
        after = job(state, attempt=1, started_at=5)
        ends += sum(event in ("END", "FAIL") for event in notice.changes(told, after))
        told = Told(job_id=17, state=state, attempt=1, began=True)
    final = [state in FINAL_STATES for state in states]
    assert ends == sum(now and not before for before, now in zip([False, *final], final, strict=False))


@pytest.mark.parametrize(
    ("types", "told"),
    [
        (("END",), ("FAIL",)),
        (("FAIL",), ("FAIL",)),
        (("BEGIN",), ("BEGIN",)),
        (("ALL",), ("BEGIN", "FAIL")),
        (("REQUEUE",), ()),
        ((), ()),
    ],
)
def test_only_what_was_asked_for_and_every_end_is_an_end(types: tuple[str, ...], told: tuple[str, ...]) -> None:
    assert notice.wanted(("BEGIN", "FAIL"), types, everything=False) == told
    assert notice.wanted(("BEGIN", "FAIL"), types, everything=True) == ("BEGIN", "FAIL")


def test_an_array_ends_with_its_last_task_and_fails_with_one() -> None:
    done, failed, waits = job(JobState.COMPLETED), job(JobState.FAILED), job()
    assert notice.array_end([done, waits]) is None
    assert notice.array_end([done, done]) == "END"
    assert notice.array_end([done, failed]) == "FAIL"
    assert notice.array_end([]) is None


def test_shares_of_the_time_limit() -> None:
    running = job(JobState.RUNNING, started_at=1000, time_limit_s=100)
    assert notice.limits_passed(running, 1049) == ()
    assert notice.limits_passed(running, 1085) == ("TIME_LIMIT_50", "TIME_LIMIT_80")
    assert notice.limits_passed(running, 1200)[-1] == "TIME_LIMIT"
    assert notice.limits_passed(job(JobState.RUNNING, started_at=1000), 99999) == (), "no limit"
    assert notice.limits_passed(job(time_limit_s=1), 99999) == (), "it does not run"


def test_the_message_names_job_user_and_reason_and_is_json() -> None:
    ended = job(JobState.TIMEOUT, attempt=2, detail="reached its time limit", array_job_id=15, array_task_id=2)
    made = message.of_job(ended, "FAIL", 99)
    assert made.id == "17-2-FAIL"
    assert made.text == "job 15_2 (train) of ada on n1 ended: TIMEOUT: reached its time limit"
    body = json.loads(made.body("lab"))
    assert (body["event"], body["cluster"], body["mail_user"], body["job"]["id"]) == ("FAIL", "lab", "ada", 17)


@pytest.mark.parametrize("event", ["BEGIN", "END", "FAIL", "REQUEUE", "INVALID_DEPEND", *notice.SHARES])
def test_every_event_has_a_sentence(event: str) -> None:
    assert "job 17 (train) of ada on n1" in message.of_job(job(), event, 0).text
