"""What would let a waiting job start, by the reason it gives: sentences for `stoker show` and the job's page. Pure."""

from __future__ import annotations

from agent.api.types import Job, JobState
from tui import arrays

_HELP = {
    "JobHeldUser": "it is held: stoker release {job}",
    "JobHeldAdmin": "an admin holds it, and an admin must release it: stoker release {job}",
    "DependencyNeverSatisfied": "it can never start: stoker cancel {job}, or stoker update {job} Dependency=",
    "Dependency": "it waits for other jobs: stoker update {job} Dependency= starts it without them",
    "BeginTime": "its time has not come: stoker update {job} StartTime=now",
    "License": "the licence keeps it back: stoker license",
    "Reservation": "its reservation has not begun: stoker reservation list",
    "ReqNodeNotAvail": "GPUs are drained or kept for others: stoker drains, stoker reservation list",
    "NodeDown": "the node takes no jobs: stoker drains, stoker nodes",
    "PartitionTimeLimit": "its time limit is over the partition's: stoker partitions, stoker update {job} TimeLimit=…",
    "PartitionDown": "its partition is down: stoker partitions, stoker update {job} Partition=…",
    "PartitionInactive": "its partition is inactive: stoker partitions, stoker update {job} Partition=…",
    "JobArrayTaskLimit": "as many of its tasks run as its array allows: stoker update {job} ArrayTaskThrottle=…",
}
_SHORTER = "a shorter time limit may let it in before others: stoker update {job} TimeLimit=…"
_NO_LIMIT = "it has no time limit, so it can never be fitted in before others: stoker update {job} TimeLimit=…"


def what_helps(job: Job) -> str | None:
    """What its user can do to have it started, or not stopped; `None` where only waiting helps."""
    if job.warning is not None:
        return f"use the GPUs, or give them back now: stoker cancel {arrays.label(job)}"
    if job.state is not JobState.PENDING or job.reason is None:
        return None
    sentence = _HELP.get(job.reason)
    if sentence is None and job.reason in ("Resources", "Priority"):
        sentence = _NO_LIMIT if job.time_limit_s is None else _SHORTER
    return sentence.format(job=arrays.label(job)) if sentence else None
