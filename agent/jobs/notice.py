"""What is told of a job to whoever asked for it with `--mail-type`: which events a change makes, and their sentence.

Pure. The words are those of sbatch(1): BEGIN, END, FAIL, REQUEUE, INVALID_DEPEND, TIME_LIMIT and its shares, and
ARRAY_TASKS, without which an array is told of as one: when its first task begins, and when its last has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.api.types import FINAL_STATES, Job, JobState

SHARES = {"TIME_LIMIT_50": 0.5, "TIME_LIMIT_80": 0.8, "TIME_LIMIT_90": 0.9, "TIME_LIMIT": 1.0}
"""Part of the time limit after which the event is told."""

_RUNNING = (JobState.RUNNING, JobState.COMPLETING)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How a job was when it was last told of; kept on disk until its end has been told."""

    job_id: int
    state: JobState = JobState.PENDING
    attempt: int = 0
    began: bool = False
    """BEGIN was told of this attempt."""
    reason: str | None = None
    limit: str | None = None
    """The last share of the time limit that this attempt was told of."""
    array_job_id: int | None = None
    """The array that is told of as a whole, and not this task."""


class ToldArray(msgspec.Struct, frozen=True, kw_only=True):
    """What an array was told of as a whole; kept on disk until no task of it is left to be told of."""

    array_job_id: int
    event: str
    """`BEGIN`; `END` or `FAIL` when all its tasks have ended."""
    attempts: int | None = None
    """Of all its tasks together when its end was told; it ends again only when there were more since."""


def changes(before: Told, job: Job) -> tuple[str, ...]:
    """The events that lie between what was told last and `job`, in the order in which they happened.

    A job that began and ended between two looks has both events: nothing is left out because the teller was away.
    """
    events = []
    began_before = before.began and before.attempt == job.attempt
    if job.started_at is not None and not began_before and job.attempt > 0:
        events.append("BEGIN")
    if job.state is JobState.PENDING and before.attempt > 0 and before.state is not JobState.PENDING:
        events.append("REQUEUE")
    if job.reason == "DependencyNeverSatisfied" and before.reason != job.reason:
        events.append("INVALID_DEPEND")
    if job.state in FINAL_STATES and before.state not in FINAL_STATES:
        events.append("END" if job.state is JobState.COMPLETED else "FAIL")
    return tuple(events)


def wanted(events: Sequence[str], types: Sequence[str], *, everything: bool) -> tuple[str, ...]:
    """Those of `events` that were asked for. END asks for every end, FAIL for the bad ones alone, as sbatch has it."""
    asked = set(types)
    if everything or "ALL" in asked:
        return tuple(events)
    also = {"FAIL"} if "END" in asked else set()
    return tuple(event for event in events if event in asked | also)


def array_end(tasks: Sequence[Job]) -> str | None:
    """The event of an array as a whole: `END` when all tasks completed, `FAIL` when one did not, `None` before."""
    if not tasks or any(task.state not in FINAL_STATES for task in tasks):
        return None
    return "END" if all(task.state is JobState.COMPLETED for task in tasks) else "FAIL"


def limits_passed(job: Job, now: int, told: str | None = None) -> tuple[str, ...]:
    """Shares of its time limit that a running job has used up, beyond the one that was told last."""
    if job.state not in _RUNNING or job.started_at is None or not job.time_limit_s:
        return ()
    used, before = (now - job.started_at) / job.time_limit_s, SHARES.get(told or "", 0.0)
    return tuple(event for event, share in SHARES.items() if used >= share > before)


def sentence(job: Job, event: str) -> str:
    """What is said of a job's event."""
    name = f"{job.array_job_id}_{job.array_task_id}" if job.array_task_id is not None else str(job.id)
    what = f"job {name} ({job.name}) of {job.user} on {job.node}"
    if event == "BEGIN":
        return f"{what} began"
    if event == "REQUEUE":
        return f"{what} waits to run again" + (f": {job.detail}" if job.detail else "")
    if event == "INVALID_DEPEND":
        return f"{what} can never start: {job.detail or 'its dependency cannot be fulfilled'}"
    if event in SHARES:
        return f"{what} has used {SHARES[event]:.0%} of its time limit"
    ended = f"{what} ended: {job.state}"
    return f"{ended}: {job.detail}" if job.detail else ended
