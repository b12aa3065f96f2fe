"""Notices: what jobs asked to be told of is seen and written down; `courier` delivers it.

Rules kept here: how a job was when it was last told of is on disk until its end has been told, so what happened while
nobody watched is told after a restart; nothing here ever holds up a job.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec

from agent.api.types import FINAL_STATES, Job
from agent.config import Config
from agent.engine.courier import Courier, guarded
from agent.engine.shelf import Shelf
from agent.jobs import notice
from agent.jobs.notice import Told

LOOK_S = 5.0
"""How often time limits are looked at."""
_ENDED_AT_MOST = 10_000


class Jobs(Protocol):
    """What the teller asks of the engine."""

    async def recent_jobs(self, ids: Collection[int]) -> list[Job]:
        """These jobs, and all that have not ended, of those that anybody is to be told of."""
        ...

    async def running_jobs(self) -> list[Job]:
        """Jobs that start, run or end, of those that anybody is to be told of."""
        ...

    async def tasks(self, array_job_id: int) -> list[Job]:
        """All tasks of an array."""
        ...

    async def mail_user(self, job_id: int) -> str | None:
        """Whom the job named with `--mail-user`."""
        ...


class Notices:
    """Sees what happens to jobs, and makes the notices of it."""

    def __init__(self, config: Callable[[], Config], shelf: Shelf, jobs: Jobs, courier: Courier) -> None:
        self._config = config
        self._courier = courier
        self._shelf = shelf
        self._jobs = jobs
        self._told: dict[int, Told] = {}
        self._arrays: dict[int, str] = {}
        """Arrays told of as a whole → the last event told."""
        self._limits: set[str] = set()
        self._ended: OrderedDict[int, int] = OrderedDict()
        """Jobs whose end was told lately → the attempt: an ended job that is announced again is no news."""
        self._changed: asyncio.Queue[Job] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tell what happened while nobody did, and go on from there."""
        self._told = {each.job_id: each for each in await self._shelf.all("told", Told)}
        for job in await self._jobs.recent_jobs(self._told.keys()):
            self.observe(job)
        self._task = asyncio.create_task(self._tell(), name="notices")

    async def stop(self) -> None:
        """Stop telling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def observe(self, job: Job) -> None:
        """A job was added or changed. Cheap: most jobs asked for nothing."""
        before = self._told.get(job.id)
        wants = bool(job.mail_types) or self._config().hooks.notify_all
        if before is None and (not (wants and self._is_heard()) or self._ended.get(job.id) == job.attempt):
            return
        if before is not None and (before.state, before.attempt, before.reason) == (job.state, job.attempt, job.reason):
            return
        self._changed.put_nowait(job)

    async def _tell(self) -> None:
        clock = asyncio.get_running_loop().time
        look_at = clock() + LOOK_S
        while True:
            try:
                async with asyncio.timeout_at(look_at):
                    job = await self._changed.get()
                await guarded(self._tell_change(job))
            except TimeoutError:
                await guarded(self._tell_limits())
                look_at = clock() + LOOK_S

    async def _tell_change(self, job: Job) -> None:
        before = self._told.get(job.id) or Told(job_id=job.id)
        events = notice.changes(before, job)
        if job.array_job_id is not None and "ARRAY_TASKS" not in job.mail_types:
            events = await self._of_array(job, events)
        told = Told(
            job_id=job.id,
            state=job.state,
            attempt=job.attempt,
            began=job.started_at is not None,
            reason=job.reason,
        )
        await self._keep(job, events, told)

    async def _of_array(self, job: Job, events: Sequence[str]) -> tuple[str, ...]:
        """The events of the array as a whole that this task's make; each once."""
        assert job.array_job_id is not None
        known = self._arrays.get(job.array_job_id)
        if "BEGIN" in events and known is None:
            self._arrays[job.array_job_id] = "BEGIN"
            return ("BEGIN",)
        if job.state in FINAL_STATES and known not in ("END", "FAIL"):
            ended = notice.array_end(await self._jobs.tasks(job.array_job_id))
            if ended is not None:
                self._arrays[job.array_job_id] = ended
                return (ended,)
        return ()

    async def _tell_limits(self) -> None:
        now = int(time.time())
        for job in await self._jobs.running_jobs():
            passed = notice.limits_passed(job, now)
            fresh = [event for event in passed if f"{job.id}-{job.attempt}-{event}" not in self._limits]
            self._limits.update(f"{job.id}-{job.attempt}-{event}" for event in fresh)
            if fresh:
                await self._keep(job, fresh[-1:], self._told.get(job.id))

    async def _keep(self, job: Job, events: Sequence[str], told: Told | None) -> None:
        hooks = self._config().hooks
        asked = notice.wanted(events, job.mail_types, everything=hooks.notify_all) if self._is_heard() else ()
        to = await self._jobs.mail_user(job.id) if asked else None
        made = [notice.tell(job, event, int(time.time()), to) for event in asked]
        put: list[tuple[str, str | int, msgspec.Struct]] = [("notice", each.id, each) for each in made]
        drop: list[tuple[str, str | int]] = []
        if told is not None and told.state in FINAL_STATES:
            drop.append(("told", job.id))
            self._limits = {each for each in self._limits if not each.startswith(f"{job.id}-")}
        elif told is not None:
            put.append(("told", job.id, told))
        await self._shelf.change(put, drop)
        if told is not None:
            self._remember(told)
        if made:
            self._courier.take(made)

    def _remember(self, told: Told) -> None:
        if told.state in FINAL_STATES:
            self._told.pop(told.job_id, None)
            self._ended[told.job_id] = told.attempt
            while len(self._ended) > _ENDED_AT_MOST:
                self._ended.popitem(last=False)
        else:
            self._told[told.job_id] = told

    def _is_heard(self) -> bool:
        hooks = self._config().hooks
        return hooks.notify_command is not None or hooks.notify_url is not None
