"""What can happen to a job, and what it is afterwards: one table, no clock, no disk.

    PENDING ──Claimed──► CONFIGURING ──Started──► RUNNING ──Ended──► COMPLETED FAILED TIMEOUT CANCELLED OUT_OF_MEMORY
       ▲  └─CancelAsked─► CANCELLED    │             │
       │                       CancelAsked ──► COMPLETING ──Ended, NeverRan, Rebooted, Lost──► a final state
       └──────── Rebooted, Lost (only with --requeue; else NODE_FAIL) ─────┘

Rules kept here: what is not in the table does not happen (`IllegalMoveError` carries the history); a final state is
left by nothing; the outcome is read from a record and never guessed; a job runs again only if it said `--requeue`, and
never after somebody asked to cancel it.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from agent.api.types import JobState
from agent.jobs.errors import IllegalMoveError


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
    started_at: int | None = None
    ended_at: int | None = None
    exit_code: int | None = None
    """0–255 as waitpid(2) gives it; `None` when ended by a signal or unknown."""
    signal: int | None = None
    cancelled_by: str | None = None
    """Who asked for the end; kept from the first to ask."""


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, as its exit record tells it."""

    state: JobState
    ended_at: int
    reason: str | None = None
    detail: str | None = None
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The scheduler gave it GPUs. Stored before anything is launched."""

    attempt: int
    gpu_uuids: tuple[str, ...]


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
class NeverRan:
    """Claimed, but no shim ever opened the gate: the same attempt is launched again, unless cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebooted:
    """The node booted anew between `started` and now: the run is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The run is over and nothing tells how; what was left of it has been killed."""


Event = Claimed | Started | Ended | CancelAsked | NeverRan | Rebooted | Lost


def handle(status: Status, event: Event, now: int, history: Sequence[str] = ()) -> Status:
    """What the job is after `event` at `now` (Unix seconds).

    Raises:
        IllegalMoveError: the table has no such move; `history` goes into the message.
    """
    move = _MOVES.get((status.state, type(event)))
    if move is None:
        raise IllegalMoveError(status, event, history)
    return move(status, event, now)


# --- outcomes ---------------------------------------------------------------------------------------------------------


def outcome_of(
    *,
    code: int | None,
    signal: int | None,
    why: str | None,
    ended_at: int,
    oom: bool = False,
    detail: str | None = None,
) -> Outcome:
    """Read an exit record: who asked for the end counts first, then memory, then the code.

    A job that saves its work on SIGTERM and exits 0 was still stopped: TIMEOUT or CANCELLED, as Slurm says.

    Args:
        code: exit code 0–255, `None` when a signal ended it.
        signal: number of the signal that ended it.
        why: `cancel`, `limit`, `start` (the script could not be started), or `None` when it ended by itself.
        ended_at: Unix seconds.
        oom: the kernel killed one of its processes for memory.
        detail: the shim's own sentence, used where ours would say less.
    """
    state, reason, ours = _verdict(code, signal, why, oom)
    return Outcome(state=state, reason=reason, detail=detail or ours, exit_code=code, signal=signal, ended_at=ended_at)


def launch_failed(detail: str, ended_at: int) -> Outcome:
    """The launcher is certain that no shim runs and none will: `detail` says why."""
    return Outcome(state=JobState.FAILED, reason="JobLaunchFailure", detail=detail, ended_at=ended_at)


def _verdict(
    code: int | None, signal: int | None, why: str | None, oom: bool
) -> tuple[JobState, str | None, str | None]:
    if why == "start":
        return JobState.FAILED, "JobLaunchFailure", "its script could not be started"
    if why == "limit":
        return JobState.TIMEOUT, "TimeLimit", "reached its time limit and was stopped"
    if why == "cancel":
        return JobState.CANCELLED, None, None
    if oom:
        return JobState.OUT_OF_MEMORY, "OutOfMemory", "the kernel killed it for memory; ask for more with --mem"
    if code == 0:
        return JobState.COMPLETED, None, None
    if signal is not None:
        return JobState.FAILED, "RaisedSignal", f"ended by signal {_signal_name(signal)}"
    if code is not None:
        return JobState.FAILED, "NonZeroExitCode", f"exited with code {code}"
    return JobState.NODE_FAIL, "Lost", "its exit record holds neither a code nor a signal"


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signals.Signals(number).name})"
    except ValueError:
        return str(number)


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
        started_at=None,
        ended_at=None,
    )


def _start(status: Status, event: Started, now: int) -> Status:
    return replace(status, state=JobState.RUNNING, started_at=event.at)


def _start_late(status: Status, event: Started, now: int) -> Status:
    return replace(status, started_at=event.at)


def _end(status: Status, event: Ended, now: int) -> Status:
    outcome = event.outcome
    detail = outcome.detail
    if outcome.state is JobState.CANCELLED:
        asked = status.detail if status.cancelled_by else "it was told to stop from outside Stoker"
        detail = "; ".join(each for each in (asked, outcome.detail) if each)
    return replace(
        status,
        state=outcome.state,
        reason=outcome.reason,
        detail=detail,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        ended_at=outcome.ended_at,
    )


def _cancel_waiting(status: Status, event: CancelAsked, now: int) -> Status:
    asked = _ask_end(status, event, now)
    return replace(asked, state=JobState.CANCELLED, ended_at=now, detail=f"{asked.detail} before it started")


def _ask_end(status: Status, event: CancelAsked, now: int) -> Status:
    detail = f"cancelled by {event.by}" + (f": {event.reason}" if event.reason else "")
    return replace(status, state=JobState.COMPLETING, reason=None, detail=detail, cancelled_by=event.by)


def _ask_again(status: Status, event: CancelAsked, now: int) -> Status:
    return status


def _launch_again(status: Status, event: NeverRan, now: int) -> Status:
    return replace(status, reason="JobLaunchFailure", detail=f"attempt {status.attempt} never began; starting it again")


def _cancelled(status: Status, event: NeverRan | Rebooted | Lost, now: int) -> Status:
    how = {NeverRan: "before it started", Rebooted: "and the node rebooted", Lost: "and its end was not recorded"}
    detail = f"{status.detail} {how[type(event)]}"
    return replace(status, state=JobState.CANCELLED, detail=detail, ended_at=now)


def _reboot(status: Status, event: Rebooted, now: int) -> Status:
    return _fail_or_requeue(status, "NodeReboot", f"the node rebooted during attempt {status.attempt}", now)


def _lose(status: Status, event: Lost, now: int) -> Status:
    return _fail_or_requeue(status, "Lost", f"how attempt {status.attempt} ended was not recorded", now)


def _fail_or_requeue(status: Status, reason: str, what: str, now: int) -> Status:
    if not status.requeue:
        return replace(status, state=JobState.NODE_FAIL, reason=reason, detail=what, ended_at=now)
    return Status(
        requeue=True, attempt=status.attempt, reason=reason, detail=f"{what}; it waits to run again, as --requeue asked"
    )


_MOVES: Mapping[tuple[JobState, type], Callable[..., Status]] = MappingProxyType(
    {
        (JobState.PENDING, Claimed): _claim,
        (JobState.PENDING, CancelAsked): _cancel_waiting,
        (JobState.CONFIGURING, Started): _start,
        (JobState.CONFIGURING, Ended): _end,
        (JobState.CONFIGURING, CancelAsked): _ask_end,
        (JobState.CONFIGURING, NeverRan): _launch_again,
        (JobState.CONFIGURING, Rebooted): _reboot,
        (JobState.CONFIGURING, Lost): _lose,
        (JobState.RUNNING, Ended): _end,
        (JobState.RUNNING, CancelAsked): _ask_end,
        (JobState.RUNNING, Rebooted): _reboot,
        (JobState.RUNNING, Lost): _lose,
        (JobState.COMPLETING, Started): _start_late,
        (JobState.COMPLETING, Ended): _end,
        (JobState.COMPLETING, CancelAsked): _ask_again,
        (JobState.COMPLETING, NeverRan): _cancelled,
        (JobState.COMPLETING, Rebooted): _cancelled,
        (JobState.COMPLETING, Lost): _cancelled,
    }
)
"""The transition table. Keyed by (state, event); the value says what the job is then."""
