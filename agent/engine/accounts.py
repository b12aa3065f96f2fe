"""The accounts of jobs kept up: fed with the sampler's readings, stored each minute and at the end, told at any time.

Rules kept here: measuring holds nothing up (readings are what the sampler has, /proc is walked in a thread); an account
is on disk a minute at most after what it tells, and goes on over a restart of the agent; an account that the disk
refuses is kept in memory and stored the next time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from agent.api.errors import StokerError
from agent.api.queue import JobUsage, UsagePoint
from agent.api.types import GpuReading, JobState
from agent.engine.claims import attempt_dir
from agent.engine.core import Core
from agent.engine.records import AttemptDir, RecordError, Started
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore
from agent.telemetry import hostuse
from agent.telemetry.activity import Activity
from agent.telemetry.hostuse import HostUse, Survey
from agent.telemetry.jobusage import JobUsageKeeper

KIND = "account"
"""Of what stands on the shelf for each job that has not ended."""
STEP_S = 1.0
SURVEY_S = 5.0
STORE_S = 60.0

logger = logging.getLogger(__name__)

Told = tuple[JobUsage, tuple[UsagePoint, ...]]


class Readings(Protocol):
    """Who reads the GPUs."""

    def readings(self) -> Sequence[GpuReading]:
        """All GPUs as they were read last; never blocks."""
        ...

    def silent_s(self) -> float:
        """For how long readings are overdue, in seconds; 0 while they come."""
        ...

    def none_found(self) -> str | None:
        """Why there is no GPU; `None` while there are some, and before that is known."""
        ...


class KeptAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a job that has not ended."""

    attempt: int
    account: bytes
    """See `JobUsageKeeper.save`."""


class Accounts:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, gpus: Readings | None) -> None:
        self._core = core
        self._gpus = gpus
        self._keeper = JobUsageKeeper(period_s=core.config.gpu.period_s)
        self._ended: dict[int, Told] = {}
        """Of jobs that have ended, and are not stored yet."""
        self._pids: Mapping[int, int] = {}
        self._shims: dict[tuple[int, int], Started] = {}
        """(job, attempt) → pid of its shim."""
        self._some_ended = asyncio.Event()
        core.on_keep(self._keep)
        core.live_usage = self.live
        core.live_account = self.account

    async def load(self) -> None:
        """Go on where the agent before left off; the rows of all jobs that have not ended are there.

        Raises:
            StoreError: the accounts cannot be read.
        """
        kept = await self._core.store.read(JobStore.all, KIND, KeptAccount)
        for key, each in kept.items():
            row = self._core.jobs.get(int(key))
            if row is None:
                await self._drop(int(key))
                continue
            goes_on = row.status.attempt == each.attempt and row.status.state is not JobState.PENDING
            try:
                self._keeper.restore(row.id, each.account, goes_on=goes_on)
            except msgspec.MsgspecError as error:
                logger.error("job=%d: its account of before is damaged and begins anew: %s", row.id, error)

    async def serve(self) -> None:
        """Measure and store until cancelled."""
        survey_at, store_at = 0.0, time.monotonic() + STORE_S
        while True:
            now = time.monotonic()
            try:
                self._observe()
                if now >= survey_at:
                    survey_at = now + SURVEY_S
                    await self.survey()
                if self._ended or now >= store_at:
                    await self.store(running=now >= store_at)
            except Exception:  # the rim of a loop that must live
                logger.exception("measuring what jobs use failed; it goes on")
            if now >= store_at:
                store_at = now + STORE_S
            await self._pause()

    def live(self, job_id: int) -> Told | None:
        """The account and curve of a job up to now, or at its end if that is not stored yet."""
        return self._ended.get(job_id) or self._keeper.snapshot(job_id)

    def account(self, job_id: int) -> JobUsage | None:
        """As `live`, without the curve."""
        told = self._ended.get(job_id)
        return told[0] if told is not None else self._keeper.usage(job_id)

    def readings(self) -> Sequence[GpuReading]:
        """All GPUs as they were read last."""
        return self._gpus.readings() if self._gpus is not None else ()

    def silent_s(self) -> float:
        """For how long readings are overdue; 0 while they come, or where nobody reads."""
        return self._gpus.silent_s() if self._gpus is not None else 0.0

    def none_found(self) -> str | None:
        """Why there is no GPU; `None` while there are some, before that is known, and where nobody reads."""
        return self._gpus.none_found() if self._gpus is not None else None

    def activity(self, job_id: int) -> Activity | None:
        """How busy a job's GPUs were of late."""
        return self._keeper.activity(job_id)

    @property
    def pids(self) -> Mapping[int, int]:
        """Process id → job, as of the last survey."""
        return self._pids

    def job_of(self, pid: int) -> int | None:
        """Whose process it is: by its cgroup while it lives, else as of the last survey."""
        name = hostuse.job_cgroup(pid) or ""
        number = name.removeprefix(hostuse.JOB_PREFIX).partition("-")[0]
        if name.endswith(".service") and number.isdecimal() and int(number) in self._core.jobs:
            return int(number)
        jobs = {str(shim): job_id for (job_id, _), shim in self._shims.items()}
        return jobs.get(number, self._pids.get(pid))

    async def survey(self) -> None:
        """Find the processes of the jobs, and what they use of the host."""
        rows = [row for row in self._core.jobs.active() if row.status.started_at is not None]
        live = {(row.id, row.status.attempt) for row in rows}
        self._shims = {key: who for key, who in self._shims.items() if key in live}
        attempts = {key: attempt_dir(self._core.config.state_dir, *key) for key in live if key not in self._shims}
        found = await asyncio.to_thread(_survey, self._shims, attempts)
        self._shims, self._pids = found.shims, found.survey.pids
        for job_id, use in found.survey.uses.items():
            if job_id in self._core.jobs:
                self._keeper.observe_host(job_id, use)

    async def store(self, *, running: bool = True) -> None:
        """Store the accounts of jobs that ended, and with `running` those of the others; what fails is said."""
        ended, open_ = dict(self._ended), {}
        for job_id in self._keeper.jobs() if running else ():
            row, told, saved = self._core.jobs.get(job_id), self._keeper.snapshot(job_id), self._keeper.save(job_id)
            if row is not None and told is not None and saved is not None:
                open_[job_id] = (told, KeptAccount(attempt=row.status.attempt, account=saved))
        try:
            await self._core.store.call(_store, ended, open_)
        except StokerError as error:
            logger.error("the accounts of jobs are not stored, and kept for the next time: %s", error)
            return
        for job_id, told in ended.items():
            if self._ended.get(job_id) is told:
                del self._ended[job_id]

    def _observe(self) -> None:
        reaper = self._core.config.reaper
        self._keeper.follow(window_s=reaper.idle_s, idle_percent=reaper.below_percent)
        self._keeper.observe(
            self.readings(),
            self._core.jobs.holders(),
            now=time.time(),
            monotonic=time.monotonic(),
            pids=self._pids,
        )

    async def _pause(self) -> None:
        """Until the next round, or until a job has ended."""
        self._some_ended.clear()
        try:
            async with asyncio.timeout(STEP_S):
                await self._some_ended.wait()
        except TimeoutError:
            return

    def _keep(self, row: JobRow) -> None:
        """A job changed: one that ended has its account closed, one that waits again is not measured meanwhile."""
        if row.status.state is JobState.PENDING:
            self._keeper.pause(row.id)
        elif row.status.state.is_final and (taken := self._keeper.take(row.id)) is not None:
            self._ended[row.id] = taken[:2]
            self._some_ended.set()

    async def _drop(self, job_id: int) -> None:
        """The job ended while no agent ran: what was kept last is its account."""
        try:
            await self._core.store.call(JobStore.drop, KIND, job_id)
        except StokerError as error:
            logger.warning("job=%d: its old account stays on the shelf: %s", job_id, error)


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    shims: dict[tuple[int, int], Started]
    survey: Survey


def _survey(known: Mapping[tuple[int, int], Started], attempts: Mapping[tuple[int, int], AttemptDir]) -> _Found:
    """In a thread: records and /proc are files."""
    shims = dict(known)
    for key, attempt in attempts.items():
        who = _started(attempt)
        if who is not None:
            shims[key] = who
    survey = hostuse.of_trees({job_id: who.shim_pid for (job_id, _), who in shims.items()})
    uses = {**survey.uses}
    for (job_id, attempt_no), who in shims.items():
        own, tree = _of_own(job_id, attempt_no, who), uses.get(job_id)
        if own is not None and tree is not None:
            uses[job_id] = HostUse(
                memory_bytes=tree.memory_bytes if own.memory_bytes is None else own.memory_bytes,
                cpu_seconds=tree.cpu_seconds if own.cpu_seconds is None else own.cpu_seconds,
            )
        elif own is not None:
            uses[job_id] = own
    return _Found(shims=shims, survey=Survey(uses=uses, pids=survey.pids))


def _started(attempt: AttemptDir) -> Started | None:
    try:
        return attempt.read_started()
    except RecordError:
        return None


def _of_own(job_id: int, attempt_no: int, who: Started) -> HostUse | None:
    """From the cgroup that is the job's alone: its own, or its unit's."""
    if who.cgroup is not None:
        return hostuse.of_cgroup(who.cgroup, Path("/"))
    path = hostuse.cgroup_of(who.shim_pid, f"stoker-job-{job_id}-{attempt_no}.service")
    return hostuse.of_cgroup(path) if path is not None else None


def _store(store: JobStore, ended: Mapping[int, Told], open_: Mapping[int, tuple[Told, KeptAccount]]) -> None:
    """On the store's thread, with one flush."""
    with store.transaction():
        for job_id, (usage, curve) in ended.items():
            store.put_usage(job_id, usage, curve)
            store.drop(KIND, job_id)
        for job_id, ((usage, curve), kept) in open_.items():
            store.put_usage(job_id, usage, curve)
            store.put(KIND, job_id, kept)
