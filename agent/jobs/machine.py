"""What can happen to a job, and what it is afterwards: one table, no clock, no disk.

    PENDING ──Claimed──► CONFIGURING ──Started──► RUNNING ──Ended──► COMPLETED FAILED TIMEOUT CANCELLED OUT_OF_MEMORY
     ▲ ▲ ├──CancelAsked─► CANCELLED  │                │
     │ │ └──Expired─────► DEADLINE   │                ├──Rebooted, Lost──► NODE_FAIL (PENDING with --requeue)
     │ ├───────PrologFailed──────────┴────────────────┤
     │ │                                 CancelAsked, RequeueAsked, PreemptAsked: the wish is kept
     │ │                                              ▼
     │ └──wish requeue, or preempt with --requeue── COMPLETING ──► its own end, if it came first; else as wished:
     │                                                             CANCELLED, PREEMPTED
     └──RequeueAsked── any final state

Rules kept here: what is not in the table does not happen (`IllegalMoveError` carries the history); a final state is
left only because a person asks for it (`RequeueAsked`); the outcome is read from a record and never guessed; a job runs
again only if it said `--requeue`, if a person asks for it, or if it never began; of several wishes a cancel wins, and
nothing runs again after it but by a later `RequeueAsked`; attempts only go up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from agent.api.types import FINAL_STATES, JobState
from agent.jobs.errors import IllegalMoveError
from agent.jobs.outcome import Outcome as Outcome
from agent.jobs.outcome import believe as believe
from agent.jobs.outcome import launch_failed as launch_failed
from agent.jobs.outcome import outcome_of as outcome_of

Wish = Literal["cancel", "requeue", "preempt"]
"""Why a run is to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The part of a job that changes. A new job is `Status(requeue=…)`."""

    state: JobState = JobState.PENDING
    reason: str | None = None
    """A Slurm word for why it is in this state: `NonZeroExitCode`, `TimeLimit`, `NodeReboot`, …"""
    detail: str | None = None
    """The same as a sentence."""
    requeue: bool = False
    """The job said `--requeue`: after a reboot or a lost record it may run again."""
    attempt: int = 0
    """The run begun last; 0 while never claimed. Names the folder `jobs/ID/ATTEMPT`."""
    gpu_uuids: tuple[str, ...] = ()
    """GPUs held; those held last once the job has ended; empty while it waits."""
    partition: str | None = None
    """The one it was given, of several that it named; the last one once it has ended."""
    started_at: int | None = None
    ended_at: int | None = None
    exit_code: int | None = None
    """0–255 as waitpid(2) gives it; `None` when ended by a signal or unknown."""
    signal: int | None = None
    cancelled_by: str | None = None
    """Who asked for the end; kept from the first to ask, unless a cancel comes after another wish. See `wish`."""
    wish: Wish | None = None
    """What shall become of a COMPLETING job; kept once it has ended."""


def waits(status: Status) -> bool:
    """It waits, or will as soon as it has stopped: it can be held and released already, as under Slurm."""
    return status.state is JobState.PENDING or (status.state is JobState.COMPLETING and status.wish == "requeue")


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The scheduler gave it GPUs. Stored before anything is launched."""

    attempt: int
    gpu_uuids: tuple[str, ...]
    partition: str | None = None
    """Which of several that it named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The `started` record of its attempt was seen."""

    at: int
    """Unix seconds, from the record: the agent may have been away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The `exit` record of its attempt was seen, or the launch failed for certain."""

    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAsked:
    """Somebody wants it to end. Stored before the job is told."""

    by: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueAsked:
    """A person wants it to run again, from the beginning or its last checkpoint. Stored before the job is told."""

    by: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptAsked:
    """The scheduler wants its GPUs for a job that goes before it. Stored before the job is told."""

    for_job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """It can no longer end before its `--deadline`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrologFailed:
    """The site's prolog refused the node for this attempt; nothing of the job ran."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverRan:
    """Claimed, but no shim ever opened the gate: the same attempt is launched again, unless it is to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebooted:
    """The node booted anew between `started` and now: the run is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The run is over and nothing tells how; what was left of it has been killed."""


Event = (
    Claimed
    | Started
    | Ended
    | CancelAsked
    | RequeueAsked
    | PreemptAsked
    | Expired
    | PrologFailed
    | NeverRan
    | Rebooted
    | Lost
)


def handle(status: Status, event: Event, now: int, history: Sequence[str] = ()) -> Status:
    """What the job is after `event` at `now` (Unix seconds).

    Raises:
        IllegalMoveError: the table has no such move; `history` goes into the message.
    """
    move = _MOVES.get((status.state, type(event)))
    if move is None:
        raise IllegalMoveError(status, event, history)
    return move(status, event, now)


# --- the moves --------------------------------------------------------------------------------------------------------


def _claim(status: Status, event: Claimed, now: int) -> Status:
    if event.attempt <= status.attempt:
        raise IllegalMoveError(status, event, (f"attempt {status.attempt} was begun before",))
    return replace(
        status,
        state=JobState.CONFIGURING,
        reason=None,
        detail=None,
        attempt=event.attempt,
        gpu_uuids=event.gpu_uuids,
        partition=event.partition,
        started_at=None,
        ended_at=None,
    )


def _start(status: Status, event: Started, now: int) -> Status:
    return replace(status, state=JobState.RUNNING, started_at=event.at)


def _start_late(status: Status, event: Started, now: int) -> Status:
    return replace(status, started_at=event.at)


def _end(status: Status, event: Ended, now: int) -> Status:
    """A run that ended by itself keeps its own outcome, but where it is to run again; one that was stopped becomes
    what was wished.
    """
    outcome = event.outcome
    wish = _wish(status, outcome)
    if wish in ("requeue", "preempt"):
        return _make_way(status, wish, outcome)
    detail = outcome.detail
    if wish == "cancel":
        outcome = replace(outcome, state=JobState.CANCELLED, reason=None)
        said = None if outcome.why == "limit" else detail
        detail = "; ".join(each for each in (status.detail, said) if each) or "told to stop from outside Stoker"
    return _over(status, outcome, detail)


def _wish(status: Status, outcome: Outcome) -> Wish | None:
    """Whose will the end was; `None` for its own. The record counts where the wish itself was lost.

    Who was told that a job is requeued finds it in the queue, however the run ended: a script that saves, calls
    `scontrol requeue $SLURM_JOB_ID` and exits has mostly ended before it could be stopped.
    """
    if outcome.why in (None, "start"):
        return "requeue" if status.wish == "requeue" and outcome.why is None else None
    if outcome.why == "limit":
        return None if status.wish == "preempt" else status.wish
    if status.wish is not None:
        return status.wish
    match outcome.why:
        case "cancel" | "requeue" | "preempt":
            return outcome.why
        case _:
            return None


def _make_way(status: Status, wish: Wish, outcome: Outcome) -> Status:
    """Back into the queue, where it may run again; a run that never began has lost nothing by it."""
    if wish == "preempt" and not status.requeue and status.started_at is not None:
        detail = status.detail or outcome.detail
        return _over(status, replace(outcome, state=JobState.PREEMPTED, reason="Preempted"), detail)
    return _wait_again(status, wish, status.detail or "it was stopped to run again")


def _over(status: Status, outcome: Outcome, detail: str | None) -> Status:
    return replace(
        status,
        state=outcome.state,
        reason=outcome.reason,
        detail=detail,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        ended_at=outcome.ended_at,
    )


def _wait_again(status: Status, why: Wish, what: str) -> Status:
    reason = "Preempted" if why == "preempt" else "Requeued"
    return _back(status, reason, f"{what}; it waits to run again")


def _back(status: Status, reason: str, detail: str) -> Status:
    """Into the queue as it came; only the attempts it has had are remembered."""
    return Status(requeue=status.requeue, attempt=status.attempt, reason=reason, detail=detail)


def _cancel_waiting(status: Status, event: CancelAsked, now: int) -> Status:
    asked = _ask_end(status, event, now)
    return replace(asked, state=JobState.CANCELLED, ended_at=now, detail=f"{asked.detail} before it started")


def _expire(status: Status, event: Expired, now: int) -> Status:
    detail = "it could not have ended before its deadline any more"
    return replace(status, state=JobState.DEADLINE, reason="DeadLine", detail=detail, ended_at=now)


def _ask_end(status: Status, event: CancelAsked, now: int) -> Status:
    return _completing(status, "cancel", event.by, f"cancelled by {event.by}{_because(event.reason)}")


def _ask_requeue(status: Status, event: RequeueAsked, now: int) -> Status:
    return _completing(status, "requeue", event.by, f"requeued by {event.by}{_because(event.reason)}")


def _ask_preempt(status: Status, event: PreemptAsked, now: int) -> Status:
    return _completing(status, "preempt", f"job {event.for_job}", f"makes way for job {event.for_job}")


def _completing(status: Status, wish: Wish, by: str, detail: str) -> Status:
    return replace(status, state=JobState.COMPLETING, reason=None, detail=detail, cancelled_by=by, wish=wish)


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def _ask_end_again(status: Status, event: CancelAsked, now: int) -> Status:
    return status if status.wish == "cancel" else _ask_end(status, event, now)


def _ask_requeue_again(status: Status, event: RequeueAsked, now: int) -> Status:
    if status.wish == "cancel":
        raise IllegalMoveError(status, event, (status.detail or "it is being cancelled",))
    return status if status.wish == "requeue" else _ask_requeue(status, event, now)


def _ask_preempt_again(status: Status, event: PreemptAsked, now: int) -> Status:
    return status


def _requeue_ended(status: Status, event: RequeueAsked, now: int) -> Status:
    return _wait_again(status, "requeue", f"requeued by {event.by}{_because(event.reason)} after {status.state}")


def _launch_again(status: Status, event: NeverRan, now: int) -> Status:
    return replace(status, reason="JobLaunchFailure", detail=f"attempt {status.attempt} never began; starting it again")


def _prolog_failed(status: Status, event: PrologFailed, now: int) -> Status:
    return _back(status, "Prolog", event.detail)


def _vanish_wished(status: Status, event: NeverRan | Rebooted | Lost | PrologFailed, now: int) -> Status:
    """A run that was to end is gone without an exit record: as wished. One that never began has lost nothing by it."""
    how = {
        NeverRan: "before it started",
        Rebooted: "and the node rebooted",
        Lost: "and its end was not recorded",
        PrologFailed: "and its prolog failed",
    }
    what = f"{status.detail} {how[type(event)]}"
    begun = isinstance(event, Rebooted | Lost)
    if status.wish == "requeue" or (status.wish == "preempt" and (status.requeue or not begun)):
        return _wait_again(status, status.wish, what)
    if status.wish == "preempt":
        return replace(status, state=JobState.PREEMPTED, reason="Preempted", detail=what, ended_at=now)
    return replace(status, state=JobState.CANCELLED, detail=what, ended_at=now)


def _reboot(status: Status, event: Rebooted, now: int) -> Status:
    return _fail_or_requeue(status, "NodeReboot", f"the node rebooted during attempt {status.attempt}", now)


def _lose(status: Status, event: Lost, now: int) -> Status:
    return _fail_or_requeue(status, "Lost", f"how attempt {status.attempt} ended was not recorded", now)


def _fail_or_requeue(status: Status, reason: str, what: str, now: int) -> Status:
    if not status.requeue:
        return replace(status, state=JobState.NODE_FAIL, reason=reason, detail=what, ended_at=now)
    return _back(status, reason, f"{what}; it waits to run again, as --requeue asked")


_MOVES: Mapping[tuple[JobState, type], Callable[..., Status]] = MappingProxyType(
    {
        (JobState.PENDING, Claimed): _claim,
        (JobState.PENDING, CancelAsked): _cancel_waiting,
        (JobState.PENDING, Expired): _expire,
        (JobState.CONFIGURING, Started): _start,
        (JobState.CONFIGURING, Ended): _end,
        (JobState.CONFIGURING, CancelAsked): _ask_end,
        (JobState.CONFIGURING, RequeueAsked): _ask_requeue,
        (JobState.CONFIGURING, PreemptAsked): _ask_preempt,
        (JobState.CONFIGURING, PrologFailed): _prolog_failed,
        (JobState.CONFIGURING, NeverRan): _launch_again,
        (JobState.CONFIGURING, Rebooted): _reboot,
        (JobState.CONFIGURING, Lost): _lose,
        (JobState.RUNNING, Ended): _end,
        (JobState.RUNNING, CancelAsked): _ask_end,
        (JobState.RUNNING, RequeueAsked): _ask_requeue,
        (JobState.RUNNING, PreemptAsked): _ask_preempt,
        (JobState.RUNNING, PrologFailed): _prolog_failed,
        (JobState.RUNNING, Rebooted): _reboot,
        (JobState.RUNNING, Lost): _lose,
        (JobState.COMPLETING, Started): _start_late,
        (JobState.COMPLETING, Ended): _end,
        (JobState.COMPLETING, CancelAsked): _ask_end_again,
        (JobState.COMPLETING, RequeueAsked): _ask_requeue_again,
        (JobState.COMPLETING, PreemptAsked): _ask_preempt_again,
        (JobState.COMPLETING, NeverRan): _vanish_wished,
        (JobState.COMPLETING, PrologFailed): _vanish_wished,
        (JobState.COMPLETING, Rebooted): _vanish_wished,
        (JobState.COMPLETING, Lost): _vanish_wished,
        **{(state, RequeueAsked): _requeue_ended for state in FINAL_STATES},
    }
)
"""The transition table. Keyed by (state, event); the value says what the job is then."""
