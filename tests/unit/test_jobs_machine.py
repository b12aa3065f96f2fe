"""What can happen to a job: the table, the outcomes, and a walk over both."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.api.types import FINAL_STATES, JobState
from agent.jobs.errors import IllegalMoveError
from agent.jobs.machine import (
    CancelAsked,
    Claimed,
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
    launch_failed,
    outcome_of,
)
from tests.fakes.machine import CLAIM, DONE, after

EVENTS: list[Event] = [
    CLAIM,
    Started(at=11),
    Ended(outcome=DONE),
    CancelAsked(by="ada"),
    RequeueAsked(by="ada"),
    PreemptAsked(for_job=17),
    Expired(),
    PrologFailed(detail="the prolog exited with code 1"),
    NeverRan(),
    Rebooted(),
    Lost(),
]


WISHES: set[type[Event]] = {CancelAsked, RequeueAsked, PreemptAsked}


LEGAL: dict[JobState, set[type[Event]]] = {
    JobState.PENDING: {Claimed, CancelAsked, Expired},
    JobState.CONFIGURING: {Started, Ended, PrologFailed, NeverRan, Rebooted, Lost} | WISHES,
    JobState.RUNNING: {Ended, PrologFailed, Rebooted, Lost} | WISHES,
    JobState.COMPLETING: {Started, Ended, PrologFailed, NeverRan, Rebooted, Lost} | WISHES,
    **{state: {RequeueAsked} for state in FINAL_STATES},
}


def is_legal(state: JobState, event: type[Event]) -> bool:
    return event in LEGAL.get(state, set())


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, EVENTS)), ids=str)
def test_the_table_is_the_whole_of_it(state: JobState, event: Event) -> None:
    status = Status(state=state, wish="preempt" if state is JobState.COMPLETING else None)
    if is_legal(state, type(event)):
        handle(status, event, 10)
        return
    with pytest.raises(IllegalMoveError) as caught:
        handle(status, event, 10, ["Submitted at 1 -> PENDING", "…"])
    assert str(caught.value) == (
        f"{type(event).__name__} cannot happen to a job that is {state}; so far: Submitted at 1 -> PENDING; …"
    )
    assert caught.value.status == status


def test_a_plain_life() -> None:
    claimed = after(CLAIM)
    assert claimed == Status(state=JobState.CONFIGURING, attempt=1, gpu_uuids=("GPU-a", "GPU-b"))
    running = handle(claimed, Started(at=12), 13)
    assert running == dataclasses.replace(claimed, state=JobState.RUNNING, started_at=12)
    ended = handle(running, Ended(outcome=DONE), 100)
    assert ended == dataclasses.replace(running, state=JobState.COMPLETED, ended_at=99, exit_code=0)


def test_a_run_that_ended_while_the_agent_was_away() -> None:
    assert after(CLAIM, Ended(outcome=DONE)).state is JobState.COMPLETED


def test_cancelled_while_waiting() -> None:
    status = after(CancelAsked(by="ada", reason="wrong data"))
    assert status.state is JobState.CANCELLED
    assert status.ended_at == 10
    assert status.attempt == 0
    assert status.detail == "cancelled by ada: wrong data before it started"


@pytest.mark.parametrize("before", [(CLAIM,), (CLAIM, Started(at=11))])
def test_cancelled_while_it_runs(before: tuple[Event, ...]) -> None:
    asked = after(*before, CancelAsked(by="ada"))
    assert (asked.state, asked.cancelled_by, asked.detail) == (JobState.COMPLETING, "ada", "cancelled by ada")
    assert asked.gpu_uuids == ("GPU-a", "GPU-b")
    assert handle(asked, CancelAsked(by="bob"), 20) == asked
    record = outcome_of(code=None, signal=15, why="cancel", ended_at=21)
    ended = handle(asked, Ended(outcome=record), 22)
    assert (ended.state, ended.signal, ended.detail) == (JobState.CANCELLED, 15, "cancelled by ada")


def test_a_job_that_was_done_before_the_cancel_reached_it_is_done() -> None:
    record = outcome_of(code=0, signal=None, why=None, ended_at=12)
    ended = after(CLAIM, Started(at=11), CancelAsked(by="ada"), Ended(outcome=record))
    assert (ended.state, ended.detail) == (JobState.COMPLETED, None)


@pytest.mark.parametrize("event", [NeverRan(), Rebooted(), Lost()])
@pytest.mark.parametrize("requeue", [False, True])
def test_what_was_cancelled_never_comes_back(event: Event, requeue: bool) -> None:
    status = after(CLAIM, CancelAsked(by="ada"), event, requeue=requeue)
    assert status.state is JobState.CANCELLED
    assert status.ended_at == 12


@pytest.mark.parametrize(("event", "reason"), [(Rebooted(), "NodeReboot"), (Lost(), "Lost")])
@pytest.mark.parametrize("before", [(CLAIM,), (CLAIM, Started(at=11))])
def test_a_run_that_vanished(event: Event, reason: str, before: tuple[Event, ...]) -> None:
    failed = after(*before, event)
    assert (failed.state, failed.reason, failed.exit_code) == (JobState.NODE_FAIL, reason, None)
    waiting = after(*before, event, requeue=True)
    assert (waiting.state, waiting.attempt, waiting.gpu_uuids) == (JobState.PENDING, 1, ())
    assert (waiting.started_at, waiting.ended_at) == (None, None)
    assert waiting.detail is not None
    assert "run again" in waiting.detail
    again = handle(waiting, Claimed(attempt=2, gpu_uuids=("GPU-c",)), 30)
    assert (again.attempt, again.gpu_uuids, again.detail) == (2, ("GPU-c",), None)


def test_an_attempt_is_never_begun_twice() -> None:
    waiting = after(CLAIM, Rebooted(), requeue=True)
    with pytest.raises(IllegalMoveError, match="attempt 1 was begun before"):
        handle(waiting, CLAIM, 30)


def test_a_launch_cut_short_keeps_its_claim() -> None:
    status = after(CLAIM, NeverRan())
    assert (status.state, status.attempt, status.gpu_uuids) == (JobState.CONFIGURING, 1, ("GPU-a", "GPU-b"))
    assert handle(status, Started(at=14), 15).state is JobState.RUNNING


def test_a_launch_that_failed_for_certain() -> None:
    status = after(CLAIM, Ended(outcome=launch_failed("no account ada", 12)))
    assert (status.state, status.reason, status.detail) == (JobState.FAILED, "JobLaunchFailure", "no account ada")


@pytest.mark.parametrize(
    ("code", "signal", "why", "oom", "state", "reason"),
    [
        (0, None, None, False, JobState.COMPLETED, None),
        (3, None, None, False, JobState.FAILED, "NonZeroExitCode"),
        (None, 11, None, False, JobState.FAILED, "RaisedSignal"),
        (None, 9, None, True, JobState.OUT_OF_MEMORY, "OutOfMemory"),
        (137, None, None, True, JobState.OUT_OF_MEMORY, "OutOfMemory"),
        (0, None, None, True, JobState.OUT_OF_MEMORY, "OutOfMemory"),
        (0, None, "limit", False, JobState.TIMEOUT, "TimeLimit"),
        (None, 15, "limit", True, JobState.TIMEOUT, "TimeLimit"),
        (0, None, "cancel", False, JobState.CANCELLED, None),
        (None, 9, "cancel", True, JobState.CANCELLED, None),
        (None, None, "start", False, JobState.FAILED, "JobLaunchFailure"),
        (None, None, None, False, JobState.NODE_FAIL, "Lost"),
        (1, None, "a word of a later version", False, JobState.FAILED, "NonZeroExitCode"),
    ],
)
def test_outcomes(
    code: int | None, signal: int | None, why: str | None, oom: bool, state: JobState, reason: str | None
) -> None:
    outcome = outcome_of(code=code, signal=signal, why=why, oom=oom, ended_at=5)
    assert (outcome.state, outcome.reason, outcome.exit_code, outcome.signal) == (state, reason, code, signal)


def test_sentences_of_outcomes() -> None:
    def detail(code: int | None, signal: int | None) -> str | None:
        return outcome_of(code=code, signal=signal, why=None, ended_at=5).detail

    assert detail(3, None) == "exited with code 3"
    assert detail(None, 11) == "ended by signal 11 (SIGSEGV)"
    assert detail(None, 63) == "ended by signal 63"
    shims = outcome_of(code=None, signal=None, why="start", ended_at=5, detail="/nowhere: no such folder")
    assert shims.detail == "/nowhere: no such folder"


class Walk(RuleBasedStateMachine):
    """Every legal life of a job, and what must hold all along."""

    def __init__(self) -> None:
        super().__init__()
        self.status = Status()
        self.now = 1000
        self.cancelled = False
        """Somebody asked for its end, and nobody for another run since."""
        self.attempts: list[int] = []

    def _step(self, event: Event) -> None:
        self.now += 1
        before = self.status
        legal = is_legal(before.state, type(event))
        if isinstance(event, RequeueAsked) and before.wish == "cancel" and before.state is JobState.COMPLETING:
            legal = False
        if not legal:
            with pytest.raises(IllegalMoveError):
                handle(before, event, self.now)
            assert self.status is before
            return
        self.status = handle(before, event, self.now)
        assert self.status.attempt >= before.attempt, "attempts never fall"
        if before.state.is_final:
            assert isinstance(event, RequeueAsked), "nothing else leaves a final state"
            self.cancelled = False
        if before.state is not JobState.PENDING and self.status.state is JobState.PENDING:
            self._came_back(before, event)

    def _came_back(self, before: Status, event: Event) -> None:
        asked = isinstance(event, RequeueAsked) or before.wish == "requeue"
        never_began = isinstance(event, NeverRan | PrologFailed) or before.started_at is None
        by_record = isinstance(event, Ended) and event.outcome.why == "requeue"
        assert before.requeue or asked or never_began or by_record, "it runs again only if that was wanted"
        assert before.wish != "cancel" or before.state.is_final

    @rule(requeue=st.booleans())
    @precondition(lambda self: self.now == 1000)
    def submit(self, requeue: bool) -> None:
        self.status = Status(requeue=requeue)

    @rule(count=st.integers(0, 8))
    def claim(self, count: int) -> None:
        fresh = is_legal(self.status.state, Claimed)
        attempt = self.status.attempt + 1
        self._step(Claimed(attempt=attempt, gpu_uuids=tuple(f"GPU-{index}" for index in range(count))))
        if fresh:
            assert attempt not in self.attempts
            self.attempts.append(attempt)

    @rule()
    def cancel(self) -> None:
        self.cancelled = self.cancelled or is_legal(self.status.state, CancelAsked)
        self._step(CancelAsked(by="ada"))

    @rule(event=st.sampled_from([RequeueAsked(by="bob"), PreemptAsked(for_job=17)]))
    def wish(self, event: Event) -> None:
        self._step(event)

    @rule(event=st.sampled_from([NeverRan(), Rebooted(), Lost(), PrologFailed(detail="x"), Expired()]))
    def vanish(self, event: Event) -> None:
        self._step(event)

    @rule()
    def start(self) -> None:
        self._step(Started(at=self.now))

    @rule(
        code=st.integers(0, 255),
        why=st.sampled_from([None, "cancel", "limit", "start", "preempt", "requeue", "outside", "a later word"]),
        oom=st.booleans(),
        told=st.sampled_from([None, "done", "failed", "stopped"]),
    )
    def end(self, code: int, why: str | None, oom: bool, told: str | None) -> None:
        outcome = outcome_of(code=code, signal=None, why=why, oom=oom, ended_at=self.now)
        self._step(Ended(outcome=believe(outcome, told)))

    @invariant()
    def holds(self) -> None:
        status = self.status
        assert (status.ended_at is not None) == status.state.is_final
        if status.state is JobState.PENDING:
            assert (status.gpu_uuids, status.started_at, status.wish, status.cancelled_by) == ((), None, None, None)
        if status.state is JobState.RUNNING:
            assert status.started_at is not None
        if status.state in (JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING):
            assert status.attempt == self.attempts[-1]
        if status.state is JobState.COMPLETING:
            assert status.wish is not None
            assert status.cancelled_by is not None
        if self.cancelled:
            assert status.state is JobState.COMPLETING or status.state.is_final
            assert status.state is not JobState.COMPLETING or status.wish == "cancel"


TestWalk = Walk.TestCase


TestWalk.settings = settings(max_examples=100, stateful_step_count=30)


def test_every_final_state_can_be_reached() -> None:
    reached = {
        outcome_of(code=0, signal=None, why=why, oom=oom, ended_at=1).state
        for why in (None, "cancel", "limit", "start", "preempt")
        for oom in (False, True)
    }
    alone = {after(CLAIM, Lost()).state, handle(Status(), Expired(), 1).state}
    assert reached | alone == FINAL_STATES
