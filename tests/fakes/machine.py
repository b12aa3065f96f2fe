"""A job's life as the tests of the machine tell it: events, and the job after them."""

from __future__ import annotations

from agent.api.types import JobState
from agent.jobs.machine import Claimed, Event, Outcome, Status, handle

CLAIM = Claimed(attempt=1, gpu_uuids=("GPU-a", "GPU-b"))
DONE = Outcome(state=JobState.COMPLETED, ended_at=99, exit_code=0)


def after(*events: Event, requeue: bool = False) -> Status:
    status = Status(requeue=requeue)
    for now, event in enumerate(events, start=10):
        status = handle(status, event, now)
    return status
