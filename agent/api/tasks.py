"""Some of an array's tasks, asked together: one call, and one answer that says what became of each."""

from __future__ import annotations

from agent.api.types import Job
from agent.api.words import Wire, Word


class TaskVerb(Word):
    """What may be asked of tasks together."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    REQUEUE = "requeue"


class TasksRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs/ARRAY/tasks/VERB` takes."""

    tasks: str
    """As `--array` has them: `3,5-7`."""
    hold: bool = False
    """Of `requeue`: and wait for a release."""
    reason: str | None = None
    """Of `cancel`."""


class TaskGroup(Wire, frozen=True, kw_only=True):
    """Tasks that are alike after the call."""

    tasks: str
    job: Job
    """The first of them, as it is now."""


class TasksRefused(Wire, frozen=True, kw_only=True):
    """Tasks that are as they were, for one reason: as the call for one of them alone would be answered."""

    tasks: str
    status: int
    code: str
    message: str


class TasksReply(Wire, frozen=True, kw_only=True):
    """The answer. Every task that was named is in one of the groups."""

    done: tuple[TaskGroup, ...] = ()
    refused: tuple[TasksRefused, ...] = ()
