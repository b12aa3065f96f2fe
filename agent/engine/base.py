"""What the server asks of whoever runs the jobs; the embedded engine is one answer, Slurm will be another.

A *ref* is a job's id, or an array's id and a task (`17_3`); what is asked of an array's id alone is asked of all its
tasks that have not ended, and answered with the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.api.errors import ApiError
from agent.api.health import Incident
from agent.api.queue import (
    Drain,
    DrainChange,
    DrainRequest,
    PartitionUpdate,
    QueueRules,
    RequeueRequest,
    Reservation,
    ReservationRequest,
    ReservationUpdate,
    Share,
    SignalRequest,
    StepRequest,
    UpdateRequest,
)
from agent.api.refs import JobRef
from agent.api.tasks import TasksReply, TasksRequest, TaskVerb
from agent.api.types import CancelRequest, Job, JobReport, JobState, LogChunk, Plan, SubmitRequest, TaskResult
from agent.jobs.filters import JobFilter
from agent.jobs.tally import QueueTally


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks for something, and what it may."""

    user: str
    uid: int
    admin: bool = False
    """May act on everybody's jobs and on the node."""


def require_admin(asker: Asker, what: str) -> None:
    """Refuse an ordinary user.

    Raises:
        ApiError: 403.
    """
    if not asker.admin:
        raise ApiError(403, "forbidden", f"{what} is for admins, and {asker.user} is none; ask an admin of this node")


class Engine(Protocol):
    """Takes jobs, runs them, tells what became of them. All calls are made on the event loop.

    Every call about one job raises `ApiError` 404 when there is no such job, 403 when it is another user's, and 503
    when the store cannot take it.
    """

    async def submit(
        self,
        request: SubmitRequest,
        *,
        user: str,
        uid: int,
        key: str,
        admin: bool = False,
        cron_id: int | None = None,
    ) -> tuple[Job, bool]:
        """Store a job durably, then answer; the flag says whether it is new (or `key` was seen before).

        Raises:
            ApiError: 400 for a script or flag that cannot be honoured, 403 for an account that may not own jobs, 409
                for a key that was used with other content, 429 when the queue or the user's part of it is full, 503
                when the store cannot take it.
        """
        ...

    async def plan(self, request: SubmitRequest, *, user: str, uid: int, admin: bool = False) -> Plan:
        """What `submit` would do. Nothing is stored.

        Raises:
            ApiError: as `submit`.
        """
        ...

    # --- what is asked of a job

    async def cancel(self, ref: JobRef, asker: Asker, request: CancelRequest) -> Job:
        """Ask a job to end; a job that has ended already is left as it is."""
        ...

    async def hold(self, ref: JobRef, asker: Asker) -> Job:
        """Keep a waiting job from starting."""
        ...

    async def release(self, ref: JobRef, asker: Asker) -> Job:
        """Let a held job start again; one that an admin holds, only an admin."""
        ...

    async def requeue(self, ref: JobRef, asker: Asker, request: RequeueRequest) -> Job:
        """Stop a running job and let it wait again, or let an ended one run once more."""
        ...

    async def ask_tasks(self, verb: TaskVerb, array: JobRef, asker: Asker, request: TasksRequest) -> TasksReply:
        """Ask the same of some of an array's tasks; what is refused to some is done to the others.

        Raises:
            ApiError: 404 where there is no such array, 403 for another's, 429 where the queue has no room for those
                that are to wait again.
        """
        ...

    async def top(self, ref: JobRef, asker: Asker) -> Job:
        """Put a waiting job before all others (an admin), or before the user's own others."""
        ...

    async def signal(self, ref: JobRef, asker: Asker, request: SignalRequest) -> Job:
        """Send a running job's processes a signal that does not end it."""
        ...

    async def signal_step(self, ref: JobRef, step: int, asker: Asker, request: SignalRequest) -> Job:
        """Send the processes of one step a signal; KILL ends the step.

        Raises:
            ApiError: 409 where the job or the step does not run.
        """
        ...

    async def start_step(self, ref: JobRef, asker: Asker, request: StepRequest) -> Job:
        """Start a process more in a running job; for its owner alone.

        Raises:
            ApiError: 409 where the job does not run.
        """
        ...

    async def update(self, ref: JobRef, asker: Asker, request: UpdateRequest) -> Job:
        """Change a job in `scontrol update`'s words; an unknown one changes nothing.

        Raises:
            ApiError: 400 for a word or value that cannot be honoured, 409 when the job is not as it was.
        """
        ...

    # --- what is known of jobs

    async def job(self, ref: JobRef) -> Job:
        """One job."""
        ...

    async def jobs(self, wanted: JobFilter, *, steps: bool = False) -> list[Job]:
        """The newest jobs that match, newest first; each with its `steps` where they are asked for."""
        ...

    async def recent(self, ended: int) -> list[Job]:
        """Every job that has not ended, and the newest `ended` of those that have."""
        ...

    async def report(self, ref: JobRef) -> JobReport:
        """One job's whole story."""
        ...

    async def results(self, ref: JobRef) -> list[TaskResult]:
        """What each task of an array, or a job alone, has told of itself."""
        ...

    async def owner(self, ref: JobRef) -> int:
        """The uid a job belongs to."""
        ...

    async def read_log(
        self, ref: JobRef, offset: int, limit: int, *, since: int | None = None, grep: bytes | None = None
    ) -> LogSlice:
        """Up to `limit` bytes of the log from `offset` on.

        Args:
            ref: whose log.
            offset: a position in everything that the job wrote.
            limit: bytes.
            since: only what was written from then on, Unix seconds; to the second, long ago less precisely.
            grep: only lines that hold this text; nothing in it has a meaning.
        """
        ...

    async def job_counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        ...

    def queue_tally(self) -> QueueTally:
        """The jobs that wait, counted by reason."""
        ...

    # --- what stands around the queue

    def rules(self) -> QueueRules:
        """What a submit may name."""
        ...

    async def shares(self) -> list[Share]:
        """The fair share."""
        ...

    def all_incidents(self) -> list[Incident]:
        """What is wrong with the GPUs and what was, as far as it is kept."""
        ...

    def open_incidents(self) -> list[Incident]:
        """What is wrong with the GPUs now, the newest first."""
        ...

    def drains(self) -> list[Drain]:
        """All that takes no new job."""
        ...

    async def drain(self, request: DrainRequest, asker: Asker) -> DrainChange:
        """Give a GPU or the node no new job; for admins."""
        ...

    async def resume(self, request: DrainRequest, asker: Asker) -> DrainChange:
        """Undo `drain`; for admins."""
        ...

    def reservations(self) -> list[Reservation]:
        """Reservations that are not over."""
        ...

    async def reserve(self, request: ReservationRequest, asker: Asker) -> Reservation:
        """Make one; for admins."""
        ...

    async def update_reservation(self, name: str, request: ReservationUpdate, asker: Asker) -> Reservation:
        """Change one.

        Raises:
            ApiError: 403 for others than admins, 404, 400, 409 where somebody else has it for a part of the time.
        """
        ...

    async def update_partition(self, name: str, request: PartitionUpdate, asker: Asker) -> QueueRules:
        """Open or close a partition; the answer is all of them.

        Raises:
            ApiError: 403 for others than admins, 404, 400.
        """
        ...

    async def unreserve(self, name: str, asker: Asker) -> list[Reservation]:
        """Delete one; for admins. The answer is the rest."""
        ...

    # --- what the node's view asks

    def held_by(self) -> dict[str, tuple[int, ...]]:
        """GPU UUID → ids of the jobs that hold it or a part of it."""
        ...

    def pids(self) -> Mapping[int, int]:
        """Process id → the job whose process it is, as of the last look at them."""
        ...

    def counts(self) -> tuple[int, int]:
        """Jobs that run (or start, or end) and jobs that wait."""
        ...

    def wake(self) -> None:
        """Look at the queue now: something that a waiting job waits for may have changed."""
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

    @property
    def next(self) -> int:
        """Where to ask on: what is before was given, cut, or has no line that was wanted."""
        ...
