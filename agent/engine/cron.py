"""Recurring jobs: looked at once in a while, submitted when they are due, as the user who made them.

Rules kept here: what is due is said by `recur.look`; a submit carries a key made of the recurring job and its time, so
a crash between the submit and the note that it was done submits nothing twice; a job of which the last run still waits
or runs is skipped, unless overlap was asked for; a clock that jumps is met within `LOOK_S`, since no sleep is longer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import tzinfo
from typing import Protocol

import msgspec

from agent.api.errors import ApiError
from agent.api.queue import Cron
from agent.api.types import CronRequest, Job, SubmitRequest
from agent.engine.accept import as_api_error
from agent.engine.courier import guarded
from agent.engine.shelf import Shelf
from agent.jobs import recur
from agent.jobs.recur import Fire, Skip, StoredCron

LOOK_S = 10.0
PER_USER = 100
"""Recurring jobs that one user may have."""

logger = logging.getLogger(__name__)


class Queue(Protocol):
    """What is asked of the engine."""

    async def submit(self, request: SubmitRequest, *, user: str, uid: int, key: str, cron_id: int) -> tuple[Job, bool]:
        """See `agent.engine.base.Engine`."""
        ...

    async def plan_check(self, request: SubmitRequest, *, user: str, uid: int) -> str:
        """Whether it could be submitted; the job's name.

        Raises:
            ApiError: as `submit`.
        """
        ...

    async def unfinished(self, job_id: int) -> bool:
        """Whether a job, or a task of the array that it is the first of, waits or runs; False when it is forgotten."""
        ...


class CronKeeper:
    """Has the recurring jobs of a node."""

    def __init__(
        self,
        node: str,
        shelf: Shelf,
        queue: Queue,
        *,
        now: Callable[[], float] = time.time,
        zone: Callable[[], tzinfo] = recur.local_zone,
    ) -> None:
        self._node = node
        self._shelf = shelf
        self._queue = queue
        self._now = now
        self._zone = zone
        self._crons: dict[int, StoredCron] = {}
        self._adding = asyncio.Lock()
        """One at a time: a repetition must find what the first one made."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up what is kept, and begin to look."""
        self._crons = {each.id: each for each in await self._shelf.all("cron", StoredCron)}
        self._task = asyncio.create_task(self._serve(), name="cron")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def all(self) -> list[Cron]:
        """All, in the order of their ids."""
        return [self._wire(each) for each in sorted(self._crons.values(), key=lambda each: each.id)]

    def owner(self, cron_id: int) -> int:
        """The uid that a recurring job belongs to.

        Raises:
            ApiError: 404 when there is none of this id.
        """
        return self._get(cron_id).uid

    async def add(self, asked: CronRequest, *, user: str, uid: int, key: str) -> Cron:
        """Store one; the same key again gives the one made then.

        Raises:
            ApiError: 400 for a schedule or a submit that cannot be, 409 for a key used otherwise, 429 for too many.
        """
        async with self._adding:
            return await self._add(asked, user=user, uid=uid, key=key)

    async def _add(self, asked: CronRequest, *, user: str, uid: int, key: str) -> Cron:
        with as_api_error():
            schedule = recur.check(asked.schedule)
        for each in self._crons.values():
            if (each.uid, each.key) == (uid, key):
                if (each.schedule, each.request) != (schedule, asked.request):
                    raise ApiError(409, "key_conflict", f"the key was used for recurring job {each.id}; use a new one")
                return self._wire(each)
        if sum(each.uid == uid for each in self._crons.values()) >= PER_USER:
            raise ApiError(429, "too_many", f"{user} has {PER_USER} recurring jobs already; remove one: stoker cron")
        name = await self._queue.plan_check(asked.request, user=user, uid=uid)
        made = StoredCron(
            id=await self._shelf.next_number("cron"),
            schedule=schedule,
            name=name,
            user=user,
            uid=uid,
            key=key,
            request=asked.request,
            missed=asked.missed,
            overlap=asked.overlap,
            next_at=recur.next_after(schedule, int(self._now()), self._zone()),
        )
        await self._shelf.change([("cron", made.id, made)])
        self._crons[made.id] = made
        logger.info("cron=%d added user=%s schedule=%r", made.id, user, schedule)
        self._wake.set()
        return self._wire(made)

    async def remove(self, cron_id: int) -> list[Cron]:
        """Delete one; jobs that it made stay.

        Raises:
            ApiError: 404 when there is none of this id.
        """
        self._get(cron_id)
        await self._shelf.change([], [("cron", cron_id)])
        self._crons.pop(cron_id, None)
        logger.info("cron=%d removed", cron_id)
        return self.all()

    async def look(self) -> None:
        """Serve what is due now."""
        for cron in list(self._crons.values()):
            await guarded(self._serve_one(cron))

    # --- below: one look ----------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            self._wake.clear()
            began = self._now()
            await self.look()
            soonest = min((each.next_at for each in self._crons.values()), default=float("inf"))
            # One that was due and still is could not be served: not again before the next look.
            wait_s = LOOK_S if soonest <= began else max(0.0, soonest - self._now())
            try:
                async with asyncio.timeout(min(LOOK_S, wait_s)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _serve_one(self, cron: StoredCron) -> None:
        found = recur.look(cron, int(self._now()), self._zone())
        if isinstance(found, Skip):
            await self._keep(msgspec.structs.replace(cron, next_at=found.next_at, last_note=found.note))
        elif isinstance(found, Fire):
            await self._fire(cron, found)

    async def _fire(self, cron: StoredCron, due: Fire) -> None:
        served = msgspec.structs.replace(cron, next_at=due.next_at, last_at=due.slot)
        still = None if cron.overlap else await self._still_there(cron)
        if still is not None:
            await self._keep(msgspec.structs.replace(served, last_note=f"skipped: job {still} has not ended"))
            return
        try:
            job, _ = await self._queue.submit(
                cron.request, user=cron.user, uid=cron.uid, key=f"cron-{cron.id}-{due.slot}", cron_id=cron.id
            )
        except ApiError as error:
            if error.status >= 500:
                raise  # the disk, most likely: the time stays due, and is tried at the next look
            await self._keep(msgspec.structs.replace(served, last_note=f"refused: {error.message}"))
            return
        note = f"submitted job {job.id}" + (f", {due.note}" if due.note else "")
        await self._keep(msgspec.structs.replace(served, last_job_id=job.id, last_note=note))

    async def _still_there(self, cron: StoredCron) -> int | None:
        last = cron.last_job_id
        return last if last is not None and await self._queue.unfinished(last) else None

    async def _keep(self, cron: StoredCron) -> None:
        if cron.id not in self._crons:
            return  # removed meanwhile
        await self._shelf.change([("cron", cron.id, cron)])
        self._crons[cron.id] = cron
        logger.info("cron=%d %s next_at=%d", cron.id, cron.last_note, cron.next_at)

    def _get(self, cron_id: int) -> StoredCron:
        cron = self._crons.get(cron_id)
        if cron is None:
            raise ApiError(404, "no_such_cron", f"there is no recurring job {cron_id}; `stoker cron` lists them")
        return cron

    def _wire(self, cron: StoredCron) -> Cron:
        return Cron(
            id=cron.id,
            schedule=cron.schedule,
            name=cron.name,
            user=cron.user,
            node=self._node,
            missed=cron.missed,
            overlap=cron.overlap,
            next_at=cron.next_at,
            last_at=cron.last_at,
            last_job_id=cron.last_job_id,
            last_note=cron.last_note,
        )
