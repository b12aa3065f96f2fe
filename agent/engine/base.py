"""What the server asks of whoever runs the jobs; the embedded engine is one answer, Slurm will be another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from agent.api.types import Job, JobState, LogChunk, SubmitRequest


class Engine(Protocol):
    """Takes jobs, runs them, tells what became of them. All calls are made on the event loop."""

    async def submit(self, request: SubmitRequest, *, user: str, uid: int, key: str) -> tuple[Job, bool]:
        """Store a job durably, then answer; the flag says whether it is new (or `key` was seen before).

        Raises:
            ApiError: 400 for a script or flag that cannot be honoured, 403 for an account that may not own jobs, 409
                for a key that was used with other content, 503 when the store cannot take it.
        """
        ...

    async def cancel(self, job_id: int, *, by: str, reason: str | None = None) -> Job:
        """Ask a job to end; a job that has ended already is left as it is.

        Raises:
            ApiError: 404 when there is no such job.
        """
        ...

    async def jobs(self, *, states: Collection[JobState] | None, user: str | None, limit: int) -> list[Job]:
        """The newest `limit` jobs that match, newest first."""
        ...

    async def recent(self, ended: int) -> list[Job]:
        """Every job that has not ended, and the newest `ended` of those that have."""
        ...

    async def job_counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        ...

    def held_by(self) -> dict[str, int]:
        """GPU UUID → id of the job that holds it."""
        ...

    def counts(self) -> tuple[int, int]:
        """Jobs that run (or start, or end) and jobs that wait."""
        ...

    def wake(self) -> None:
        """Look at the queue now: something that a waiting job waits for may have changed."""
        ...

    async def job(self, job_id: int) -> Job:
        """One job.

        Raises:
            ApiError: 404 when there is no such job.
        """
        ...

    async def owner(self, job_id: int) -> int:
        """The uid a job belongs to.

        Raises:
            ApiError: 404 when there is no such job.
        """
        ...

    async def read_log(self, job_id: int, offset: int, limit: int) -> LogSlice:
        """Up to `limit` bytes of the log from `offset` on.

        Raises:
            ApiError: 404 when there is no such job.
        """
        ...

    def listen(self, listener: Callable[[Job], None]) -> None:
        """Call `listener` with every job that is added or changed."""
        ...


class LogSlice(Protocol):
    """Pieces of a log and how far it reaches."""

    @property
    def chunks(self) -> Sequence[LogChunk]:
        """In order; an offset that jumps tells of bytes that the cap cut."""
        ...

    @property
    def end(self) -> int:
        """Bytes the job has written so far."""
        ...
