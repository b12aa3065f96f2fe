"""The embedded engine: one node's queue, served by one loop that reads a snapshot, decides, and acts.

Rules kept here: a submit is answered when the job is on disk; a claim is stored before anything is launched; a wish to
cancel is stored before anything is signalled; what is kept in memory (the jobs that have not ended) is a copy of the
store's rows and nothing else. All methods run on the event loop; the SQLite file is the store thread's.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace

import msgspec

from agent.api.errors import StokerError
from agent.api.types import FINAL_STATES, Job, JobState, LogChunk, SubmitRequest
from agent.config import Config
from agent.engine import logread, steps
from agent.engine.accept import Resources, ResourceView, accept, as_api_error, check_account
from agent.engine.claims import account_of, attempt_dir
from agent.engine.launch import Launcher
from agent.engine.reconcile import reconcile
from agent.engine.records import AttemptDir, RecordError
from agent.engine.runs import Runner
from agent.engine.storethread import StoreThread
from agent.jobs import machine, schedule
from agent.jobs.filters import JobFilter
from agent.jobs.machine import Event
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore
from agent.jobs.wire import to_wire

TICK_S = 5.0
"""The longest the queue waits for a look: licences and GPUs change without an event of ours."""

TOLD_IN_FULL = 50
"""How many jobs at the head of the queue watchers are told of whenever their sentence changes."""

logger = logging.getLogger(__name__)


class EmbeddedEngine:
    """See `agent.engine.base.Engine`."""

    def __init__(self, config: Config, *, view: ResourceView, launcher: Launcher, boot_id: str) -> None:
        self._config = config
        self._view = view
        self._launcher = launcher
        self._store = StoreThread()
        self._runner = Runner(config.state_dir, boot_id, launcher, prepare=self._write_claim, apply=self._apply)
        self._unfinished: dict[int, JobRow] = {}
        self._waiting: dict[int, tuple[str, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[Job], None]] = []
        self._wake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the store, take up what runs, begin to serve the queue.

        Raises:
            StoreError: the store cannot be opened.
        """
        config = self._config
        damaged = await self._store.open(config.state_dir / "agent.db", now=_now())
        await self._store.call(reconcile, config.state_dir, damaged=damaged, now=_now())
        for row in await self._store.call(JobStore.active):
            self._unfinished[row.id] = row
            self._see_through(row, self._runner.resume(row))
        for row in await self._store.call(JobStore.pending):
            self._unfinished[row.id] = row
        self._hold_gpus()
        self._loop_task = asyncio.create_task(self._serve_queue(), name="queue")

    async def stop(self) -> None:
        """Stop serving; running jobs go on without us."""
        tasks = [*self._tasks, *([self._loop_task] if self._loop_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()

    # --- what the server asks -----------------------------------------------------------------------------------------

    async def submit(self, request: SubmitRequest, *, user: str, uid: int, key: str) -> tuple[Job, bool]:
        """See `Engine.submit`."""
        digest = hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()
        with as_api_error():
            owner = await asyncio.to_thread(check_account, self._config, uid)
            seen = await self._store.call(JobStore.seen, uid, key, digest)
            if seen is not None:  # whatever has become of the queue or the GPUs since: it was accepted
                return self._wire(seen), False
            spec = accept(self._config, request, self._view.resources(), pending=self._count(JobState.PENDING))
            row, created = await self._store.call(
                steps.store_submission, self._config, spec, request, user, uid, key, digest, owner
            )
        if created:
            self._keep(row)
            self.wake()
        return self._wire(row), created

    async def cancel(self, job_id: int, *, by: str, reason: str | None = None) -> Job:
        """See `Engine.cancel`."""
        row = await self._row(job_id)
        if row.status.state.is_final:
            return self._wire(row)
        with as_api_error():
            row = await self._apply(job_id, machine.CancelAsked(by=by, reason=reason))
        if row.status.state is JobState.COMPLETING:
            self._background(self._carry_out_stop(row, by), name=f"stop-{job_id}")
        self.wake()
        return self._wire(row)

    async def jobs(self, *, states: Collection[JobState] | None, user: str | None, limit: int) -> list[Job]:
        """See `Engine.jobs`."""
        rows = await self._store.call(
            JobStore.find, JobFilter(states=states or (), users=[user] if user else (), limit=limit)
        )
        resources = self._view.resources()
        return [self._wire(row, resources) for row in rows]

    async def recent(self, ended: int) -> list[Job]:
        """See `Engine.recent`."""
        rows = await self._store.call(JobStore.find, JobFilter(states=FINAL_STATES, limit=ended))
        resources = self._view.resources()
        return [self._wire(row, resources) for row in [*rows, *self._unfinished.values()]]

    async def job_counts(self) -> dict[JobState, int]:
        """See `Engine.job_counts`."""
        return await self._store.call(JobStore.counts)

    async def job(self, job_id: int) -> Job:
        """See `Engine.job`."""
        row = await self._row(job_id)
        size = await asyncio.to_thread(logread.size, self._attempt(row)) if row.status.attempt else None
        return self._wire(row, log_bytes=size)

    async def owner(self, job_id: int) -> int:
        """See `Engine.owner`."""
        return (await self._row(job_id)).uid

    async def read_log(self, job_id: int, offset: int, limit: int) -> LogPieces:
        """See `Engine.read_log`."""
        row = await self._row(job_id)
        if not row.status.attempt:
            return LogPieces(chunks=(), end=0)
        return await asyncio.to_thread(_read_log, self._attempt(row), offset, limit)

    def listen(self, listener: Callable[[Job], None]) -> None:
        """See `Engine.listen`."""
        self._listeners.append(listener)

    def wake(self) -> None:
        """Look at the queue now: something that a waiting job waits for may have changed."""
        self._wake.set()

    def held_by(self) -> dict[str, int]:
        """GPU UUID → id of the job that holds it."""
        return {
            uuid: row.id
            for row in self._unfinished.values()
            if row.status.state is not JobState.PENDING
            for uuid in row.status.gpu_uuids
        }

    def counts(self) -> tuple[int, int]:
        """Jobs that run (or start, or end) and jobs that wait."""
        pending = self._count(JobState.PENDING)
        return len(self._unfinished) - pending, pending

    # --- the queue ----------------------------------------------------------------------------------------------------

    async def _serve_queue(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._pass()
            except Exception:  # the rim of a loop that must live: the next pass sees the same facts again
                logger.exception("the queue could not be served; trying again in %s s", TICK_S)
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _pass(self) -> None:
        decision = schedule.decide(self._snapshot())
        self._tell_why(decision.reasons)
        if not decision.starts:
            return
        rows = await self._store.call(
            steps.claim_all, decision.starts, {each.id: each for each in self._pending()}, _now()
        )
        for row in rows:
            self._keep(row)
            self._see_through(row, self._runner.run(row))
        self._hold_gpus()

    def _snapshot(self) -> schedule.Snapshot:
        resources, held = self._view.resources(), self.held_by()
        running = [row for row in self._unfinished.values() if row.status.state is not JobState.PENDING]
        return schedule.Snapshot(
            waiting=[
                schedule.Waiting(id=row.id, gpus=row.spec.gpus, gpu_type=row.spec.gpu_type, cpus=row.spec.cpus_per_task)
                for row in self._pending()
            ],
            gpus=[replace(gpu, held_by=held.get(gpu.uuid)) for gpu in resources.gpus],
            cpu_count=resources.cpu_count,
            cpus_used=sum(row.spec.cpus_per_task for row in running if not row.spec.gpus),
            licence_hold=resources.licence_hold,
        )

    def _pending(self) -> list[JobRow]:
        rows = [row for row in self._unfinished.values() if row.status.state is JobState.PENDING]
        return sorted(rows, key=lambda row: row.id)

    def _tell_why(self, reasons: Mapping[int, tuple[str, str]]) -> None:
        """Keep why each job waits, and tell watchers where it changed.

        Far down a long queue only a new word is told: `behind job 17` becoming `behind job 18` ten thousand times is
        no news, and whoever looks at one job gets its sentence as it is then.
        """
        before, self._waiting = self._waiting, dict(reasons)
        resources = self._view.resources()
        for place, (job_id, reason) in enumerate(reasons.items()):
            was = before.get(job_id)
            if was != reason and (place < TOLD_IN_FULL or was is None or was[0] != reason[0]):
                self._announce(self._unfinished[job_id], resources)

    # --- what happens to a job ----------------------------------------------------------------------------------------

    def _see_through(self, row: JobRow, coroutine: Coroutine[object, object, None]) -> None:
        self._background(self._watched(row.id, coroutine), name=f"job-{row.id}")

    async def _watched(self, job_id: int, coroutine: Coroutine[object, object, None]) -> None:
        """See a claimed job to its end, through whatever the disk does meanwhile: it is never left unwatched."""
        retry = _Retry(f"job={job_id}")
        while True:
            try:
                await coroutine
                break
            except Exception as error:  # noqa: BLE001 - the rim of one job's task: the others go on, and so does this one
                await retry.after(error)
            row = self._unfinished.get(job_id)
            if row is None or row.status.state is JobState.PENDING:
                break
            coroutine = self._runner.resume(row)
        self.wake()

    async def _carry_out_stop(self, row: JobRow, by: str) -> None:
        """Tell the shim of a wish that is stored; on a full disk again and again, as long as the job is there."""
        retry = _Retry(f"job={row.id} stop")
        while row.id in self._unfinished:
            try:
                await self._runner.stop(row, why="cancel", by=by)
                break
            except RecordError as error:
                await retry.after(error)

    def _background(self, coroutine: Coroutine[object, object, None], *, name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _apply(self, job_id: int, event: Event) -> JobRow:
        row = await self._store.call(steps.apply_event, self._config, job_id, event)
        self._keep(row)
        return row

    def _keep(self, row: JobRow) -> None:
        if row.status.state.is_final:
            self._unfinished.pop(row.id, None)
            self._waiting.pop(row.id, None)
            self._hold_gpus()
        else:
            self._unfinished[row.id] = row
        self._announce(row)

    def _hold_gpus(self) -> None:
        self._view.hold(self.held_by().keys())

    def _announce(self, row: JobRow, resources: Resources | None = None) -> None:
        job = self._wire(row, resources)
        for listener in self._listeners:
            listener(job)

    async def _write_claim(self, row: JobRow, attempt: AttemptDir) -> None:
        account = await asyncio.to_thread(account_of, row.uid)
        await self._store.call(steps.prepare, self._config, row, account, attempt, _indexes(self._view.resources()))

    # --- looking things up --------------------------------------------------------------------------------------------

    async def _row(self, job_id: int) -> JobRow:
        row = self._unfinished.get(job_id)
        if row is not None:
            return row
        with as_api_error():
            return await self._store.call(JobStore.get, job_id)

    def _wire(self, row: JobRow, resources: Resources | None = None, *, log_bytes: int | None = None) -> Job:
        resources = resources or self._view.resources()
        return to_wire(
            row,
            self._config.name,
            waiting=self._waiting.get(row.id),
            note=self._limits_note(row),
            gpu_indexes=_indexes(resources),
            log_bytes=log_bytes,
            simulated=bool(row.spec.gpus) and resources.simulated,
        )

    def _limits_note(self, row: JobRow) -> str | None:
        """What was asked for and is not kept to here: a limit is never ignored in silence."""
        asked = [flag for flag, said in (("--mem", row.spec.memory_bytes), ("-c", row.spec.cpus_said)) if said]
        if self._launcher.enforces_limits or not asked:
            return None
        return f"{' and '.join(asked)} is not enforced on this node: its jobs do not run in systemd units"

    def _attempt(self, row: JobRow) -> AttemptDir:
        return attempt_dir(self._config.state_dir, row.id, row.status.attempt)

    def _count(self, state: JobState) -> int:
        return sum(row.status.state is state for row in self._unfinished.values())


class _Retry:
    """A pause that grows from 1 to 30 s, and one line in the log whenever the reason is a new one."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = ""
        self._pause_s = 0.5

    async def after(self, error: Exception) -> None:
        """Say it, and wait."""
        if str(error) != self._said:
            logger.error("%s: %s; trying again", self._what, error, exc_info=not isinstance(error, StokerError))
            self._said = str(error)
        self._pause_s = min(self._pause_s * 2, 30.0)
        await asyncio.sleep(self._pause_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPieces:
    """See `agent.engine.base.LogSlice`."""

    chunks: tuple[LogChunk, ...]
    end: int


def _read_log(attempt: AttemptDir, offset: int, limit: int) -> LogPieces:
    """In a thread: a disk that hangs must not hang the loop."""
    pieces = logread.read(attempt, offset, limit)
    chunks = tuple(LogChunk(offset=piece.offset, data=piece.data) for piece in pieces)
    return LogPieces(chunks=chunks, end=logread.size(attempt))


def _indexes(resources: Resources) -> dict[str, int]:
    return {gpu.uuid: gpu.index for gpu in resources.gpus}


def _now() -> int:
    return int(time.time())
