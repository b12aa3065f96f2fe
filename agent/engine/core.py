"""What all parts of the engine share: the rules, the store, the jobs that have not ended, and who is told of changes.

Rules kept here: a row in memory is one that the store returned; whatever changes a job goes through `apply` or `amend`;
watchers are told of the jobs at the head of the queue in full, and of the rest only a bounded number at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from agent.api.errors import ApiError
from agent.api.queue import JobStep, JobUsage, UsagePoint
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from agent.config import Config
from agent.engine import steps
from agent.engine.accept import Resources, ResourceView, as_api_error
from agent.engine.needs import needs_of
from agent.engine.openjobs import OpenJobs
from agent.engine.storethread import StoreThread
from agent.jobs.machine import Event
from agent.jobs.row import JobRow
from agent.jobs.schedule import Decision, lacking
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
from agent.jobs.wire import Standing, to_wire

LiveUsage = Callable[[int], tuple[JobUsage, Sequence[UsagePoint]] | None]

TOLD_IN_FULL = 50
"""How many jobs at the head of the queue, or changed at once, watchers are told of without delay."""

_TAKEN_AT_ONCE = 250
_LATELY_S = 0.5

Listener = Callable[[Job], None]


class Core:
    """See above. Lives on the event loop."""

    def __init__(
        self, config: Config, view: ResourceView, *, enforces_limits: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self.clock = clock
        """Unix seconds, by which the queue decides and use is charged."""
        self.config = config
        """The rules as they are now; a reload puts another one in its place."""
        self.view = view
        self.store = StoreThread()
        self.jobs = OpenJobs()
        self.decision = Decision()
        """The scheduler's last one."""
        self.awaited: Mapping[int, str] = {}
        """Job → what of its dependency is still awaited, in Slurm's words."""
        self.fulfilled: Collection[int] = ()
        """Jobs of whose dependency nothing is awaited any more."""
        self.woken = asyncio.Event()
        self.live_usage: LiveUsage = lambda job_id: None
        """What a job has used up to now, `None` if it is not measured; whoever measures puts its own in place."""
        self.live_account: Callable[[int], JobUsage | None] = lambda job_id: None
        """The same without the curve."""
        self.warnings: dict[int, tuple[str, int]] = {}
        """Running job → what it is stopped for, and when (Unix seconds); whoever warns keeps it."""
        self.started_with: Callable[[int], int | None] = lambda job_id: None
        """The priority with which a job that runs was started; whoever keeps them puts its own in place."""
        self._enforces_limits = enforces_limits
        self._resources: Resources | None = None
        self._resources_at = 0.0
        self._coming: dict[int, JobRow] = {}
        """Rows that are being taken, many at a time."""
        self._listeners: list[Listener] = []
        self._keepers: list[Callable[[JobRow], None]] = []

    # --- what happens to a job ----------------------------------------------------------------------------------------

    async def apply(self, job_id: int, *events: Event) -> JobRow:
        """Let events happen to a job, all with one flush.

        Raises:
            IllegalMoveError, StoreError: none of them did.
        """
        row = await self.store.call(steps.apply_events, self.config, job_id, events, self._lately())
        self.keep(row)
        return row

    async def apply_each(self, job_ids: Sequence[int], event: Event) -> list[JobRow]:
        """Let one event happen to many jobs with one flush; those to which it cannot happen are left out.

        Raises:
            IllegalMoveError: it can happen to none of them.
            StoreError: not stored.
        """
        rows = await self.store.call(steps.apply_each, self.config, job_ids, event)
        await self.keep_all(rows)
        return rows

    async def amend(self, job_id: int, spec: JobSpec, *, event: str, by: str, revision: int | None = None) -> JobRow:
        """Change what a job asks for.

        Raises:
            StaleJobError: it is not as it was when `revision` was looked at.
            StoreError: not stored.
        """
        row = await self.store.call(steps.amend_one, self.config, job_id, spec, event, by, revision)
        self.keep(row)
        return row

    async def amend_each(
        self, job_ids: Sequence[int], change: Callable[[JobSpec], JobSpec], *, event: str, by: str, waiting: bool = True
    ) -> list[JobRow]:
        """Change what jobs ask for, alike; with `waiting` one that waits no more is left out.

        Raises:
            StoreError: not stored.
        """
        rows = await self.store.call(steps.amend_each, self.config, job_ids, change, event, by, waiting)
        await self.keep_all(rows)
        return rows

    def keep(self, row: JobRow, *, tell: bool = True) -> None:
        """Take a row that the store returned."""
        self._coming.pop(row.id, None)
        known = self.jobs.get(row.id)
        if known is not None and known.revision > row.revision:
            return  # an answer that was overtaken
        held = known is not None and bool(known.status.gpu_uuids)
        self.jobs.keep(row)
        if held and not self._holds(row):
            self.hold_gpus()
        for keeper in self._keepers:
            keeper(row)
        if tell:
            self.announce(row)

    async def keep_all(self, rows: Sequence[JobRow]) -> None:
        """Take many; the loop is left to others in between. The queue tells of those that are not told at once."""
        self._coming.update((row.id, row) for row in rows)
        for place, row in enumerate(rows):
            if self._coming.get(row.id) is row:  # else something newer is known of it by now
                self.keep(row, tell=place < TOLD_IN_FULL or row.status.state.is_final)
            if place % _TAKEN_AT_ONCE == _TAKEN_AT_ONCE - 1:
                await asyncio.sleep(0)

    def on_keep(self, keeper: Callable[[JobRow], None]) -> None:
        """Call `keeper` with every row that is new or changed, before watchers are told."""
        self._keepers.append(keeper)

    def hold_gpus(self) -> None:
        """Tell the sampler which GPUs jobs hold."""
        self.view.hold(self.jobs.holders().keys())

    def wake(self) -> None:
        """Look at the queue now: something that a waiting job waits for may have changed."""
        self.woken.set()

    # --- looking jobs up ----------------------------------------------------------------------------------------------

    async def row(self, ref: JobRef) -> JobRow:
        """One job; of an array's id without a task, its first task.

        Raises:
            ApiError: 404 when there is no such job.
        """
        known = self.jobs.get(ref.id) if ref.task is None else None
        if known is not None:
            return known
        with as_api_error():
            if ref.task is None:
                return await self.store.read(JobStore.get, ref.id)
            return await self.store.read(JobStore.task, ref.id, ref.task)

    async def rows(self, ref: JobRef) -> list[JobRow]:
        """All that a ref means: an array's id without a task means all its tasks, ended ones too.

        Raises:
            ApiError: 404 when there is no such job.
        """
        row = await self.row(ref)
        if ref.task is not None or row.array_job_id != row.id:
            return [row]
        with as_api_error():
            return list(await self.store.read(JobStore.tasks_of, row.id))

    # --- telling ------------------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every job that is added or changed."""
        self._listeners.append(listener)

    def announce(self, row: JobRow, resources: Resources | None = None) -> None:
        """Tell watchers of a job as it is now."""
        job = self.wire(row, resources)
        for listener in self._listeners:
            listener(job)

    def wire(
        self,
        row: JobRow,
        resources: Resources | None = None,
        *,
        log_bytes: int | None = None,
        usage: JobUsage | None = None,
        steps: Sequence[JobStep] = (),
    ) -> Job:
        """A job as its users see it, exact at this moment; of one that is measured, with its account up to now."""
        resources = resources or self._lately()
        return to_wire(
            row,
            self.config.name,
            standing=self._standing(row) if row.status.state is JobState.PENDING else None,
            note=self._limits_note(row),
            gpu_indexes=indexes(resources),
            log_bytes=log_bytes,
            simulated=bool(row.spec.gpus or row.spec.shards) and resources.simulated,
            usage=self.live_account(row.id) or usage,
            warning=self.warnings.get(row.id),
            steps=steps,
            started_with=self.started_with(row.id),
            node_cpus=self.config.cpus,
        )

    def _holds(self, row: JobRow) -> bool:
        return not row.status.state.is_final and bool(row.status.gpu_uuids)

    def _lately(self) -> Resources:
        """What the node had a moment ago: for GPU indexes, which a boot changes, it is good enough."""
        at = time.monotonic()
        if self._resources is None or at - self._resources_at > _LATELY_S:
            self._resources, self._resources_at = self.view.resources(), at
        return self._resources

    def _standing(self, row: JobRow) -> Standing:
        """Where a waiting job stands, by the scheduler's last word."""
        decision = self.decision
        return Standing(
            why=decision.reasons.get(row.id) or lacking(needs_of(self.config, row), self._lately().locked),
            priority=decision.priorities.get(row.id),
            expected_start_at=decision.expected.get(row.id),
            awaited=self.awaited.get(row.id),
            fulfilled=row.id in self.fulfilled,
        )

    def _limits_note(self, row: JobRow) -> str | None:
        """What was asked for and is not kept to here: a limit is never ignored in silence."""
        asked = [flag for flag, said in (("--mem", row.spec.memory_bytes), ("-c", row.spec.cpus_said)) if said]
        if self._enforces_limits or not asked:
            return None
        verb = "are" if len(asked) > 1 else "is"
        return f"{' and '.join(asked)} {verb} not enforced on this node: its jobs do not run in systemd units"


def indexes(resources: Resources) -> dict[str, int]:
    """NVML index of each GPU."""
    return {gpu.uuid: gpu.index for gpu in resources.gpus}


def conflict(row: JobRow, doing: str) -> ApiError:
    """409 with how the job is now."""
    return ApiError(
        409, "changed", f"job {row.id} is {row.status.state}: {doing}; look at it again: stoker show {row.id}"
    )


def now() -> int:
    """Unix seconds."""
    return int(time.time())
