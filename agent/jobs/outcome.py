"""How a run ended: read from its exit record and from what the job itself says, never guessed."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass, replace

from agent.api.types import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, as its exit record tells it."""

    state: JobState
    ended_at: int
    reason: str | None = None
    detail: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    why: str | None = None
    """The exit record's `why`; `None` when it ended by itself."""


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
        why: `cancel`, `requeue`, `preempt`, `limit`, `outside` (a signal that nobody of ours asked for), `start` (the
            script could not be started), or `None` when it ended by itself. `prolog` is `PrologFailed`, no outcome.
        ended_at: Unix seconds.
        oom: the kernel killed one of its processes for memory.
        detail: the shim's own sentence, used where ours would say less.
    """
    state, reason, ours = _verdict(code, signal, why, oom)
    return Outcome(
        state=state,
        reason=reason,
        detail=detail or ours,
        exit_code=code,
        signal=signal,
        ended_at=ended_at,
        why=why,
    )


def believe(outcome: Outcome, result_state: str | None) -> Outcome:
    """The outcome in the light of `result.json`: a job knows better than its exit code (torchrun's is 1 when stopped).

    Args:
        outcome: what the exit record tells.
        result_state: `state` of the `result.json` that this attempt wrote; `None` when it wrote none. `done` and
            `failed` stand whatever was wished; `stopped` leaves it to the wish, where there is one.
    """
    if outcome.why in ("start", "limit") or outcome.state in (JobState.OUT_OF_MEMORY, JobState.NODE_FAIL):
        return outcome
    if result_state == "done":
        detail = f"{outcome.detail}; its result.json says done" if outcome.reason else None
        return replace(outcome, state=JobState.COMPLETED, reason=None, detail=detail, why=None)
    if result_state == "failed":
        ours = "its result.json says failed"
        if outcome.state is JobState.FAILED:
            return replace(outcome, detail=f"{outcome.detail}; {ours}", why=None)
        return replace(outcome, state=JobState.FAILED, reason="ReportedFailure", detail=ours, why=None)
    if result_state == "stopped":
        return replace(outcome, why=outcome.why or "stopped")
    return outcome


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
    if why in ("cancel", "requeue"):
        return JobState.CANCELLED, None, None
    if why == "preempt":
        return JobState.PREEMPTED, "Preempted", "stopped to make way for another job"
    if why == "outside":
        return JobState.CANCELLED, None, "told to stop from outside Stoker (systemctl stop, or the node shut down)"
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
