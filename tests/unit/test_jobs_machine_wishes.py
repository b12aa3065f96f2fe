"""What is wished of a run and what comes of it: cancel, requeue, preemption, limits; and what the job says itself."""

from __future__ import annotations

import pytest

from agent.api.types import FINAL_STATES, JobState
from agent.jobs.errors import IllegalMoveError
from agent.jobs.machine import (
    CancelAsked,
    Ended,
    Event,
    Expired,
    Lost,
    NeverRan,
    PreemptAsked,
    PrologFailed,
    Rebooted,
    RequeueAsked,
    Started,
    Status,
    believe,
    handle,
    outcome_of,
)
from tests.fakes.machine import CLAIM, after

# --- wishes -----------------------------------------------------------------------------------------------------------

RUNS = (CLAIM, Started(at=11))
REQUEUE = RequeueAsked(by="ada", reason="new data")
PREEMPT = PreemptAsked(for_job=17)


def ended(why: str | None, *, code: int | None = 0) -> Ended:
    return Ended(outcome=outcome_of(code=code, signal=None if code is not None else 15, why=why, ended_at=20))


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
@pytest.mark.parametrize("requeue", [False, True])
def test_a_person_may_run_an_ended_job_again(state: JobState, requeue: bool) -> None:
    status = Status(state=state, requeue=requeue, attempt=3, gpu_uuids=("GPU-a",), ended_at=9, cancelled_by="bob")
    again = handle(status, REQUEUE, 30)
    what = f"requeued by ada: new data after {state}; it waits to run again"
    assert again == Status(requeue=requeue, attempt=3, reason="Requeued", detail=what)


def test_a_waiting_job_is_not_requeued() -> None:
    with pytest.raises(IllegalMoveError):
        handle(Status(), REQUEUE, 10)


@pytest.mark.parametrize("why", ["requeue", "preempt", "cancel", "outside", "stopped"])
@pytest.mark.parametrize("before", [(CLAIM,), RUNS])
def test_a_run_that_is_requeued_goes_back_whatever_flag_it_has(before: tuple[Event, ...], why: str) -> None:
    asked = after(*before, REQUEUE)
    assert (asked.state, asked.wish, asked.detail) == (JobState.COMPLETING, "requeue", "requeued by ada: new data")
    assert asked.gpu_uuids == ("GPU-a", "GPU-b"), "until it has ended they are its own"
    back = handle(asked, ended(why), 21)
    assert (back.state, back.attempt, back.gpu_uuids, back.wish) == (JobState.PENDING, 1, (), None)
    assert back.detail == "requeued by ada: new data; it waits to run again"


def test_a_preempted_run_goes_back_only_if_it_may() -> None:
    asked = after(*RUNS, PREEMPT)
    assert (asked.wish, asked.detail) == ("preempt", "makes way for job 17")
    over = handle(asked, ended("preempt"), 21)
    assert (over.state, over.reason, over.detail) == (JobState.PREEMPTED, "Preempted", "makes way for job 17")
    assert after(CLAIM, PREEMPT, ended("preempt")).state is JobState.PENDING, "it never began, so it has lost nothing"
    back = after(*RUNS, PREEMPT, ended("preempt"), requeue=True)
    assert (back.state, back.reason, back.requeue) == (JobState.PENDING, "Preempted", True)


@pytest.mark.parametrize("code", [0, 3])
def test_who_asked_for_another_run_gets_it_though_this_one_ended_by_itself(code: int) -> None:
    """A script that calls `scontrol requeue $SLURM_JOB_ID` and exits, before it could be stopped."""
    back = after(*RUNS, REQUEUE, ended(None, code=code))
    assert (back.state, back.reason, back.attempt) == (JobState.PENDING, "Requeued", 1)
    assert after(CLAIM, REQUEUE, ended("start", code=None)).reason == "JobLaunchFailure"


@pytest.mark.parametrize("wish", [PREEMPT, CancelAsked(by="ada")])
@pytest.mark.parametrize("requeue", [False, True])
def test_a_run_that_ended_by_itself_keeps_its_outcome(wish: Event, requeue: bool) -> None:
    assert after(*RUNS, wish, ended(None), requeue=requeue).state is JobState.COMPLETED
    assert after(*RUNS, wish, ended(None, code=3), requeue=requeue).state is JobState.FAILED
    assert after(CLAIM, wish, ended("start", code=None), requeue=requeue).reason == "JobLaunchFailure"


def test_at_its_time_limit() -> None:
    assert after(*RUNS, PREEMPT, ended("limit"), requeue=True).state is JobState.TIMEOUT
    assert after(*RUNS, REQUEUE, ended("limit")).state is JobState.PENDING
    cancelled = after(*RUNS, CancelAsked(by="ada"), ended("limit"))
    assert (cancelled.state, cancelled.detail) == (JobState.CANCELLED, "cancelled by ada")


def test_a_cancel_wins_over_every_other_wish() -> None:
    for wish in (REQUEUE, PREEMPT):
        status = after(*RUNS, wish, CancelAsked(by="bob"), requeue=True)
        assert (status.wish, status.cancelled_by) == ("cancel", "bob")
        assert handle(status, ended("preempt"), 20).state is JobState.CANCELLED
    cancelling = after(*RUNS, CancelAsked(by="bob"))
    with pytest.raises(IllegalMoveError, match="cancelled by bob"):
        handle(cancelling, REQUEUE, 20)
    assert handle(cancelling, PREEMPT, 20) == cancelling
    person = after(*RUNS, PREEMPT, REQUEUE)
    assert (person.wish, person.cancelled_by) == ("requeue", "ada"), "a person's word stands above the scheduler's"
    assert handle(person, PREEMPT, 20) == person


@pytest.mark.parametrize(
    ("event", "requeue", "state"),
    [
        (NeverRan(), False, JobState.PENDING),
        (NeverRan(), True, JobState.PENDING),
        (PrologFailed(detail="x"), False, JobState.PENDING),
        (Rebooted(), False, JobState.PREEMPTED),
        (Rebooted(), True, JobState.PENDING),
        (Lost(), False, JobState.PREEMPTED),
        (Lost(), True, JobState.PENDING),
    ],
)
def test_a_preempted_run_that_vanished(event: Event, requeue: bool, state: JobState) -> None:
    status = after(CLAIM, PREEMPT, event, requeue=requeue)
    assert status.state is state
    assert after(CLAIM, REQUEUE, event, requeue=requeue).state is JobState.PENDING


def test_a_wish_that_was_lost_is_known_from_the_record() -> None:
    assert after(*RUNS, ended("preempt"), requeue=True).state is JobState.PENDING
    assert after(*RUNS, ended("preempt")).state is JobState.PREEMPTED
    assert after(*RUNS, ended("requeue")).state is JobState.PENDING
    cancelled = after(*RUNS, ended("cancel"))
    assert (cancelled.state, cancelled.detail) == (JobState.CANCELLED, "told to stop from outside Stoker")


def test_told_to_stop_from_outside() -> None:
    status = after(*RUNS, ended("outside", code=None))
    assert (status.state, status.signal) == (JobState.CANCELLED, 15)
    assert status.detail == "told to stop from outside Stoker (systemctl stop, or the node shut down)"


def test_a_deadline_that_cannot_be_met() -> None:
    status = handle(Status(), Expired(), 10)
    assert (status.state, status.reason, status.ended_at) == (JobState.DEADLINE, "DeadLine", 10)


@pytest.mark.parametrize("before", [(CLAIM,), RUNS])
def test_a_prolog_that_failed_sends_the_job_back(before: tuple[Event, ...]) -> None:
    status = after(*before, PrologFailed(detail="the prolog exited with code 1"))
    assert status == Status(attempt=1, reason="Prolog", detail="the prolog exited with code 1")
    assert after(*before, CancelAsked(by="ada"), PrologFailed(detail="x")).state is JobState.CANCELLED


# --- result.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "why", "oom", "told", "state", "why_then"),
    [
        (1, None, False, "done", JobState.COMPLETED, None),
        (0, "cancel", False, "done", JobState.COMPLETED, None),
        (0, "preempt", False, "done", JobState.COMPLETED, None),
        (0, None, False, "failed", JobState.FAILED, None),
        (3, "preempt", False, "failed", JobState.FAILED, None),
        (1, None, False, "stopped", JobState.FAILED, "stopped"),
        (1, "preempt", False, "stopped", JobState.PREEMPTED, "preempt"),
        (0, "limit", False, "done", JobState.TIMEOUT, "limit"),
        (1, None, True, "done", JobState.OUT_OF_MEMORY, None),
        (None, "start", False, "done", JobState.FAILED, "start"),
        (0, None, False, None, JobState.COMPLETED, None),
        (0, None, False, "a word of a later version", JobState.COMPLETED, None),
    ],
)
def test_what_the_job_says_of_itself(
    code: int | None, why: str | None, oom: bool, told: str | None, state: JobState, why_then: str | None
) -> None:
    outcome = believe(outcome_of(code=code, signal=None, why=why, oom=oom, ended_at=5), told)
    assert (outcome.state, outcome.why, outcome.exit_code) == (state, why_then, code)


def test_a_job_that_stopped_as_it_was_asked_is_preempted_though_its_launcher_failed() -> None:
    """Torchrun gives 1 for a clean stop, and may end before the first signal."""
    stopped = believe(outcome_of(code=1, signal=None, why=None, ended_at=5), "stopped")
    assert after(*RUNS, PREEMPT, Ended(outcome=stopped), requeue=True).state is JobState.PENDING
    assert after(*RUNS, CancelAsked(by="ada"), Ended(outcome=stopped)).state is JobState.CANCELLED
    assert after(*RUNS, Ended(outcome=stopped)).state is JobState.FAILED, "nobody asked"


def test_sentences_of_results() -> None:
    def told(code: int, state: str) -> str | None:
        return believe(outcome_of(code=code, signal=None, why=None, ended_at=5), state).detail

    assert told(1, "done") == "exited with code 1; its result.json says done"
    assert told(0, "done") is None
    assert told(0, "failed") == "its result.json says failed"
    assert told(3, "failed") == "exited with code 3; its result.json says failed"
