"""The scheduler's facts, made of rows, readings and rules.

Rules kept here: the facts of a job are made when its row changes and kept until it changes again, so that a snapshot of
ten thousand waiting jobs is a list of what is there; what changes by the clock is the decision's business, not ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from agent.api.types import JobState
from agent.config import Config
from agent.engine.accept import Resources
from agent.engine.arrange import Arrangements
from agent.engine.awaiting import Awaiting
from agent.engine.core import Core, now
from agent.engine.needs import needs_of
from agent.engine.policy import policy_of
from agent.engine.progress import Progress
from agent.jobs.row import JobRow
from agent.jobs.schedule import Demand, GpuFacts, Policy, Running, Snapshot, Waiting
from agent.jobs.schedule.priority import Ranking


class Facts:
    """See above. Everything a decision is made of, at any moment."""

    def __init__(self, core: Core, arrangements: Arrangements, awaiting: Awaiting, progress: Progress) -> None:
        self._core = core
        self._arrangements = arrangements
        self._awaiting = awaiting
        self._progress = progress
        self._waiting: dict[int, Waiting] = {}
        self._running: dict[int, Running] = {}
        self._policy = Policy()
        self._policy_of: tuple[Config, tuple[str, ...], Mapping[str, str]] | None = None
        self.usage: dict[tuple[str, str], float] = {}
        """(account, user) → decayed GPU-seconds; kept by whoever charges."""
        self._started_with: dict[int, int] = {}
        """Job that runs → its priority at the start."""
        core.on_keep(self._keep)
        core.started_with = self._started_with.get

    async def refresh(self) -> None:
        """Fetch what the next snapshot needs and memory does not have.

        Raises:
            StoreError: the store cannot be read.
        """
        for job_id in await self._awaiting.refresh():
            row = self._core.jobs.get(job_id)
            if row is not None and row.status.state is JobState.PENDING:
                self._waiting[job_id] = self._waiting_of(row)
        await self._progress.refresh(self._core.jobs.active())

    def snapshot(self, now: int, *, more: Waiting | None = None) -> Snapshot:
        """The facts at a moment.

        Args:
            now: Unix seconds.
            more: a job that only might be there.
        """
        config, resources = self._core.config, self._core.view.resources()
        waiting = list(self._waiting.values())
        return Snapshot(
            waiting=[*waiting, more] if more else waiting,
            running=[self._progress.told(each) for each in self._running.values()],
            gpus=self._gpus(resources),
            cpu_count=resources.cpu_count,
            memory_bytes=resources.memory_total_bytes,
            licenses=config.jobs.licenses,
            features=frozenset(config.jobs.features),
            reservations=self._arrangements.reservation_facts(now),
            usage=self.usage,
            policy=self._rules(resources),
            licence_hold=resources.licence_hold,
            locked=resources.locked,
            node_drained=self._arrangements.drains.node(),
        )

    def waiting_of(self, row: JobRow, hold: tuple[str, str] | None) -> Waiting:
        """The facts of a job that only might be there."""
        return _waiting(self._core.config, row, hold, row.eligible_at or row.submitted_at)

    async def hold_of(self, row: JobRow) -> tuple[str, str] | None:
        """Why a job that only might be there could not start whatever was free."""
        return held(row, self._core.config.name) or await self._awaiting.plan(row)

    def awaited(self) -> Mapping[int, str]:
        """Job → what of its dependency is still awaited."""
        return self._awaiting.texts

    def fulfilled(self) -> Collection[int]:
        """Jobs of whose dependency nothing is awaited any more."""
        return self._awaiting.fulfilled

    def never_satisfied(self) -> Sequence[int]:
        """Jobs whose dependency cannot be fulfilled any more."""
        return list(self._awaiting.never)

    def look_again_at(self) -> int | None:
        """When a dependency is fulfilled by time alone."""
        return self._awaiting.look_again_at()

    def reload(self) -> None:
        """The rules have changed: make all facts anew."""
        self._policy_of = None
        for row in self._core.jobs:
            self._keep(row)

    # --- below --------------------------------------------------------------------------------------------------------

    def _keep(self, row: JobRow) -> None:
        self._awaiting.keep(row)
        self._waiting.pop(row.id, None) if row.status.state is not JobState.PENDING else None
        self._running.pop(row.id, None)
        if row.status.state is JobState.PENDING:
            self._waiting[row.id] = self._waiting_of(row)
            self._started_with.pop(row.id, None)
        elif row.status.state.is_final:
            self._started_with.pop(row.id, None)
        else:
            self._running[row.id] = _running(self._core.config, row)
            if row.id not in self._started_with:
                self._started_with[row.id] = self._priority(row)

    def _priority(self, row: JobRow) -> int:
        """A started job's: the scheduler's word; after a restart, what the rules say of the moment it started."""
        known = self._core.decision.priorities.get(row.id)
        if known is not None:
            return known.total
        began = row.status.started_at or now()
        job = _waiting(self._core.config, row, None, row.eligible_at or row.submitted_at)
        return Ranking(replace(self.snapshot(began), waiting=[job]), began).parts[row.id].total

    def _waiting_of(self, row: JobRow) -> Waiting:
        hold = held(row, self._core.config.name) or self._awaiting.hold_of(row)
        return _waiting(self._core.config, row, hold, self._awaiting.eligible_at(row))

    def _gpus(self, resources: Resources) -> list[GpuFacts]:
        """Readings joined with what is arranged; what runs on a GPU that a job holds is the job's."""
        holders, drained = self._core.jobs.holders(), self._arrangements.drains.gpus()
        shards = self._core.config.jobs.shards_per_gpu
        return [
            replace(
                gpu,
                foreign=None if gpu.uuid in holders else gpu.foreign,
                drained=drained.get(gpu.uuid),
                shards=shards,
            )
            for gpu in resources.gpus
        ]

    def _rules(self, resources: Resources) -> Policy:
        config, uuids = self._core.config, tuple(gpu.uuid for gpu in resources.gpus)
        closed, before = self._arrangements.partitions.closed(), self._policy_of
        if before is None or before[0] is not config or before[1] != uuids or before[2] is not closed:
            self._policy = policy_of(config, resources.gpus, closed)
            self._policy_of = config, uuids, closed
        return self._policy


def demand_of(row: JobRow) -> Demand:
    """What a job needs of the node."""
    spec = row.spec
    return Demand(
        gpus=spec.gpus,
        gpu_type=spec.gpu_type,
        shards=spec.shards,
        # A GPU job that did not say takes its share of the CPUs as it comes: most of them wait for the GPU.
        cpus=spec.cpus if spec.cpus_said or not (spec.gpus or spec.shards) else 0,
        memory_bytes=spec.memory_bytes or 0,
        exclusive=spec.exclusive,
        licenses=spec.licenses,
        features=spec.features,
    )


def _waiting(config: Config, row: JobRow, hold: tuple[str, str] | None, eligible_at: int) -> Waiting:
    spec = row.spec
    return Waiting(
        id=row.id,
        user=row.user,
        account=spec.account or "",
        partition=_partition(config, row),
        qos=_qos(config, row),
        demand=demand_of(row),
        time_limit_s=spec.time_limit_s,
        submitted_at=row.submitted_at,
        eligible_at=eligible_at,
        begin_at=spec.begin_at,
        deadline_at=spec.deadline_at,
        hold=hold,
        needs=needs_of(config, row),
        priority=spec.priority,
        nice=spec.nice,
        reservation=spec.reservation,
        array_id=row.array_job_id,
        array_limit=spec.array.limit if spec.array else None,
    )


def _running(config: Config, row: JobRow) -> Running:
    spec, status = row.spec, row.status
    return Running(
        id=row.id,
        user=row.user,
        account=spec.account or "",
        partition=_partition(config, row),
        qos=_qos(config, row),
        demand=demand_of(row),
        gpu_uuids=status.gpu_uuids,
        # Made when the claim is kept: until it has begun, that moment stands for its start.
        started_at=status.started_at or now(),
        time_limit_s=spec.time_limit_s,
        ending=status.state is JobState.COMPLETING,
        may_requeue=spec.requeue,
        array_id=row.array_job_id,
        reservation=spec.reservation,
    )


def _partition(config: Config, row: JobRow) -> str:
    default = next((each.name for each in config.partitions if each.default), config.partitions[0].name)
    return row.partition or default


def _qos(config: Config, row: JobRow) -> str:
    return row.spec.qos or config.qos[0].name


def held(row: JobRow, node: str) -> tuple[str, str] | None:
    """Slurm's word and the sentence of a job that somebody holds."""
    if row.spec.held == "admin" and row.status.reason == "Prolog" and row.status.detail:
        return (
            "JobHeldAdmin",
            f"{row.status.detail}; the node was drained for it: when it is mended, an admin gives the node and the job "
            f"back: stoker resume {node}, stoker release {row.id}",
        )
    if row.spec.held == "admin":
        return "JobHeldAdmin", f"held by an admin; one has to release it: stoker release {row.id}"
    if row.spec.held:
        return "JobHeldUser", f"held by its user; release it: stoker release {row.id}"
    return None
