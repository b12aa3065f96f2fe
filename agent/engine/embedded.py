"""The embedded engine: one node's queue. This is the front; each part behind it is one noun.

    core      rules, store, the jobs that have not ended, who is told          queue    snapshot → decide → act
    runs      one attempt seen through                                         facts    rows and readings → the snapshot
    verbs, update   what is asked of jobs      plan   what a submit would do   awaiting dependencies
    arrange   drains, reservations             history   what is known of jobs share    GPU time charged
    accounts  what jobs make of their GPUs     oversight  idle and greedy jobs: warned, stopped

Rules kept here: a submit is answered when the job is on disk; a claim is stored before anything is launched; a wish to
end a job is stored before anything is signalled; what is kept in memory is a copy of the store's rows and nothing else.
All methods run on the event loop; the SQLite file is the store thread's.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Mapping

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
from agent.api.types import CancelRequest, Job, JobReport, JobState, Plan, SubmitRequest, TaskResult
from agent.config import Config
from agent.engine.accept import ResourceView
from agent.engine.accounts import Accounts, Readings
from agent.engine.arrange import Arrangements
from agent.engine.awaiting import Awaiting
from agent.engine.base import Asker
from agent.engine.clerks import Clerks
from agent.engine.core import Core, now
from agent.engine.facts import Facts
from agent.engine.history import History, LogPieces
from agent.engine.incidents import Incidents
from agent.engine.intake import Intake
from agent.engine.launch import Launcher
from agent.engine.oversight import Oversight
from agent.engine.plan import Planner
from agent.engine.policy import queue_rules
from agent.engine.prepare import prepare
from agent.engine.progress import Progress
from agent.engine.queue import Queue
from agent.engine.reconcile import reconcile
from agent.engine.records import AttemptDir, RecordDiskError, RecordError
from agent.engine.recovery import Recovery
from agent.engine.retry import Retry
from agent.engine.room import Room
from agent.engine.runs import Runner
from agent.engine.share import FairShare
from agent.engine.stepverbs import StepVerbs
from agent.engine.taskverbs import TaskVerbs
from agent.engine.update import Updates
from agent.engine.upkeep import Upkeep
from agent.engine.usage import Metering
from agent.engine.verbs import Verbs
from agent.jobs.filters import JobFilter
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore
from agent.jobs.tally import QueueTally, tally
from agent.step import tools

logger = logging.getLogger(__name__)


class EmbeddedEngine:
    """See `agent.engine.base.Engine`."""

    def __init__(
        self,
        config: Config,
        *,
        view: ResourceView,
        launcher: Launcher,
        boot_id: str,
        gpus: Readings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`gpus`: by whose readings it is measured what jobs make of their GPUs; `None`: it is not.

        `clock`: Unix seconds, by which the queue decides and use is charged.
        """
        self._core = core = Core(config, view, enforces_limits=launcher.enforces_limits, clock=clock)
        self._launcher = launcher
        self._arrangements = Arrangements(core)
        self._runner = Runner(
            config.state_dir,
            boot_id,
            launcher,
            prepare=self._prepare,
            apply=core.apply,
            hook_failed=self._arrangements.drains.hook_failed,
        )
        self._facts = Facts(core, self._arrangements, Awaiting(core), Progress(core))
        self._share = FairShare(core, self._facts)
        self._queue = Queue(core, self._facts, see_through=self._run, carry_out=self._stop)
        room = Room(core)
        self._verbs = Verbs(core, self._runner, carry_out=self._stop, room=room)
        self._task_verbs = TaskVerbs(core, self._verbs)
        self._step_verbs = StepVerbs(core, self._runner, self._verbs)
        self._updates = Updates(core, self._verbs, self._runner, self._arrangements)
        self._intake = Intake(core, self._arrangements, room)
        self._planner = Planner(core, self._facts, self._intake)
        self._history = History(core)
        self.clerks = Clerks(core, self._intake)
        """Recurring jobs and notices."""
        self._upkeep = Upkeep(core)
        self.metering = Metering(core)
        """What is counted of GPU time, for the licence and for people."""
        self._accounts = Accounts(core, gpus)
        self._oversight = Oversight(core, self._accounts, self._verbs)
        self.incidents = Incidents(core, self._arrangements.drains, self._accounts, self.clerks.courier)
        """What is wrong with the GPUs."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the store, take up what runs, begin to serve the queue; with a disk that takes no writes only to tell.

        Raises:
            StoreError: the store cannot be opened.
        """
        core, config = self._core, self._core.config
        self._runner.start()
        await self._launcher.start()
        suspect = await core.store.open(config.state_dir / "agent.db", now=now(), scratch=config.run_dir)
        if core.store.read_only is None:
            await core.store.read(reconcile, config.state_dir, damaged=suspect, now=now())
            await self.metering.adopt()
        await self._take_up()
        await self._accounts.load()
        await self._oversight.load()
        await self.incidents.load()
        self._background(self._accounts.serve(), name="accounts")
        self._background(self._oversight.serve(), name="oversight")
        self._background(self.incidents.serve(), name="incidents")
        self._background(self._queue.serve(), name="queue")
        self._background(self._share.serve(), name="fair-share")
        self._background(self.metering.serve(), name="metering")
        self._background(self._upkeep.back_up_regularly(), name="backup")
        self._background(self._upkeep.forget_regularly(), name="retention")
        if core.store.read_only is not None:
            self._background(Recovery(core, self._take_up_late).serve(), name="recovery")
        await self.clerks.start()

    async def _take_up(self) -> None:
        """What the store knows: at the start, and again when a store that could only be read can be written."""
        core = self._core
        await asyncio.to_thread(_install_tools, core.config)
        await self._arrangements.load()
        await self._share.load()
        active = await core.store.read(JobStore.active)
        rows = [*active, *await core.store.read(JobStore.pending)]
        unfinished = {row.id for row in rows}
        ended = [await core.store.read(JobStore.get, each.id) for each in core.jobs if each.id not in unfinished]
        for row in [*rows, *ended]:
            core.keep(row, tell=row.id in core.jobs)
        left = await self._upkeep.set_aside([row.id for row in active])
        watched = {task.get_name() for task in self._tasks}
        for row in active:
            if f"job-{row.id}" not in watched:
                self._see_through(row, self._runner.resume(row))
        core.hold_gpus()
        self._background(self._upkeep.remove_left(left), name="leftovers")

    async def _take_up_late(self) -> None:
        await self.metering.adopt()
        await self._take_up()

    async def stop(self) -> None:
        """Stop serving; running jobs go on without us."""
        await self.clerks.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._accounts.store()
        self._runner.close()
        await self._launcher.stop()
        await self._core.store.close()

    def reload(self, config: Config) -> None:
        """Let other rules hold from now on; what runs is not touched."""
        self._core.config = config
        self._facts.reload()
        self._core.wake()

    # --- jobs ---------------------------------------------------------------------------------------------------------

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
        """See `Engine.submit`."""
        return await self._intake.submit(request, user=user, uid=uid, key=key, admin=admin, cron_id=cron_id)

    async def plan(self, request: SubmitRequest, *, user: str, uid: int, admin: bool = False) -> Plan:
        """See `Engine.plan`."""
        return await self._planner.plan(request, user=user, uid=uid, admin=admin)

    async def cancel(self, ref: JobRef, asker: Asker, request: CancelRequest) -> Job:
        """See `Engine.cancel`."""
        return await self._verbs.cancel(ref, asker, request)

    async def hold(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.hold`."""
        return await self._verbs.hold(ref, asker)

    async def release(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.release`."""
        return await self._verbs.release(ref, asker)

    async def requeue(self, ref: JobRef, asker: Asker, request: RequeueRequest) -> Job:
        """See `Engine.requeue`."""
        return await self._verbs.requeue(ref, asker, request)

    async def ask_tasks(self, verb: TaskVerb, array: JobRef, asker: Asker, request: TasksRequest) -> TasksReply:
        """See `Engine.ask_tasks`."""
        return await self._task_verbs.ask(verb, array, asker, request)

    async def top(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.top`."""
        return await self._verbs.top(ref, asker)

    async def signal(self, ref: JobRef, asker: Asker, request: SignalRequest) -> Job:
        """See `Engine.signal`."""
        return await self._verbs.signal(ref, asker, request)

    async def signal_step(self, ref: JobRef, step: int, asker: Asker, request: SignalRequest) -> Job:
        """See `Engine.signal_step`."""
        return await self._step_verbs.signal_step(ref, step, asker, request)

    async def start_step(self, ref: JobRef, asker: Asker, request: StepRequest) -> Job:
        """See `Engine.start_step`."""
        return await self._step_verbs.start_step(ref, asker, request)

    async def update(self, ref: JobRef, asker: Asker, request: UpdateRequest) -> Job:
        """See `Engine.update`."""
        return await self._updates.update(ref, asker, request)

    async def job(self, ref: JobRef) -> Job:
        """See `Engine.job`."""
        return await self._history.job(ref)

    async def jobs(self, wanted: JobFilter, *, steps: bool = False) -> list[Job]:
        """See `Engine.jobs`."""
        return await self._history.jobs(wanted, steps=steps)

    async def recent(self, ended: int) -> list[Job]:
        """See `Engine.recent`."""
        return await self._history.recent(ended)

    async def report(self, ref: JobRef) -> JobReport:
        """See `Engine.report`."""
        return await self._history.report(ref)

    async def results(self, ref: JobRef) -> list[TaskResult]:
        """See `Engine.results`."""
        return await self._history.results(ref)

    async def owner(self, ref: JobRef) -> int:
        """See `Engine.owner`."""
        return (await self._core.row(ref)).uid

    async def read_log(
        self, ref: JobRef, offset: int, limit: int, *, since: int | None = None, grep: bytes | None = None
    ) -> LogPieces:
        """See `Engine.read_log`."""
        return await self._history.read_log(ref, offset, limit, since=since, grep=grep)

    async def job_counts(self) -> dict[JobState, int]:
        """See `Engine.job_counts`."""
        return await self._core.store.read(JobStore.counts)

    def queue_tally(self) -> QueueTally:
        """See `Engine.queue_tally`."""
        return tally(self._core.jobs.pending(), self._core.decision.reasons)

    # --- around the queue ---------------------------------------------------------------------------------------------

    def rules(self) -> QueueRules:
        """See `Engine.rules`."""
        resources, drained = self._core.view.resources(), self._arrangements.drains.node()
        names, states = [gpu.name for gpu in resources.gpus], self._arrangements.partitions.states()
        return queue_rules(self._core.config, names, drained=drained is not None, states=states)

    async def shares(self) -> list[Share]:
        """See `Engine.shares`."""
        return await self._share.shares()

    def all_incidents(self) -> list[Incident]:
        """See `Engine.all_incidents`."""
        return self.incidents.all(over=True)

    def open_incidents(self) -> list[Incident]:
        """See `Engine.open_incidents`."""
        return self.incidents.all()

    def drains(self) -> list[Drain]:
        """See `Engine.drains`."""
        return self._arrangements.drains.all()

    async def drain(self, request: DrainRequest, asker: Asker) -> DrainChange:
        """See `Engine.drain`."""
        return await self._arrangements.drains.drain(request, asker)

    async def resume(self, request: DrainRequest, asker: Asker) -> DrainChange:
        """See `Engine.resume`."""
        return await self._arrangements.drains.resume(request, asker)

    @property
    def arrangements(self) -> Arrangements:
        """For the health checks: their drains have an owner of their own."""
        return self._arrangements

    def reservations(self) -> list[Reservation]:
        """See `Engine.reservations`."""
        return self._arrangements.reservations()

    async def reserve(self, request: ReservationRequest, asker: Asker) -> Reservation:
        """See `Engine.reserve`."""
        return await self._arrangements.reserve(request, asker)

    async def update_reservation(self, name: str, request: ReservationUpdate, asker: Asker) -> Reservation:
        """See `Engine.update_reservation`."""
        return await self._arrangements.update_reservation(name, request, asker)

    async def update_partition(self, name: str, request: PartitionUpdate, asker: Asker) -> QueueRules:
        """See `Engine.update_partition`."""
        await self._arrangements.update_partition(name, request, asker)
        return self.rules()

    async def unreserve(self, name: str, asker: Asker) -> list[Reservation]:
        """See `Engine.unreserve`."""
        return await self._arrangements.unreserve(name, asker)

    # --- for the node's view ------------------------------------------------------------------------------------------

    def held_by(self) -> dict[str, tuple[int, ...]]:
        """See `Engine.held_by`."""
        return self._core.jobs.holders()

    def pids(self) -> Mapping[int, int]:
        """See `Engine.pids`."""
        return self._accounts.pids

    def counts(self) -> tuple[int, int]:
        """See `Engine.counts`."""
        return self._core.jobs.counts()

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._core.wake()

    def listen(self, listener: Callable[[Job], None]) -> None:
        """See `Engine.listen`."""
        self._core.listen(listener)

    # --- seeing jobs through ------------------------------------------------------------------------------------------

    async def _prepare(self, row: JobRow, attempt: AttemptDir) -> None:
        if self._core.store.owes(row.folder_id):  # no fault of the job's, and mended by the next transaction
            raise RecordDiskError(f"the submission of job {row.id} could not be written yet; see the disk of the state")
        await asyncio.to_thread(prepare, self._core.config, row, attempt, self._core.view.resources())

    def _run(self, row: JobRow) -> None:
        self._see_through(row, self._runner.run(row))

    def _stop(self, row: JobRow) -> None:
        self._background(self._carry_out_stop(row), name=f"stop-{row.id}")

    def _see_through(self, row: JobRow, coroutine: Coroutine[object, object, None]) -> None:
        self._background(self._watched(row, coroutine), name=f"job-{row.id}")

    async def _watched(self, row: JobRow, coroutine: Coroutine[object, object, None]) -> None:
        """See a claimed job to its end, through whatever the disk does meanwhile: it is never left unwatched."""
        retry = Retry(f"job={row.id}")
        while True:
            try:
                await coroutine
                break
            except Exception as error:  # noqa: BLE001 - the rim of one job's task: the others go on, and so does this one
                await retry.after(error)
            left = self._core.jobs.get(row.id)
            if left is None or left.status.state is JobState.PENDING or left.status.attempt != row.status.attempt:
                break  # ended, or another run of it has begun, which is seen through by a task of its own
            coroutine = self._runner.resume(left)
        self._core.hold_gpus()
        self._core.wake()

    async def _carry_out_stop(self, row: JobRow) -> None:
        """Tell the shim of a wish that is stored; on a full disk again and again, as long as the job is there."""
        retry = Retry(f"job={row.id} stop")
        while (left := self._core.jobs.get(row.id)) is not None and left.status.state is JobState.COMPLETING:
            try:
                await self._runner.stop(left)
                break
            except RecordError as error:
                await retry.after(error)

    def _background(self, coroutine: Coroutine[object, object, None], *, name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _install_tools(config: Config) -> None:
    """Put `srun` and Slurm's other names into the folder that goes first on a job's PATH; jobs start without it too."""
    try:
        tools.install(tools.folder(config.state_dir), sys.executable, config.agent_socket)
    except OSError as error:
        logger.warning("srun and Slurm's other names are not in jobs' PATH: %s", error)
