"""Notices: what jobs asked to be told of is seen and written down; `courier` delivers it.

Rules kept here: how a job was when it was last told of is on disk until its end has been told, so what happened while
nobody watched is told after a restart, and what was told is not told again; a notice and that it was made are stored
together; what is kept in memory is bounded by the queue and by `_ENDED_AT_MOST`; nothing here ever holds up a job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import msgspec

from agent.api.errors import StokerError
from agent.api.types import FINAL_STATES, Job, JobState
from agent.config import Config
from agent.engine import message
from agent.engine.courier import Courier, guarded
from agent.engine.shelf import Shelf
from agent.jobs import notice
from agent.jobs.notice import Told, ToldArray

LOOK_S = 5.0
"""How often time limits are looked at."""
_ENDED_AT_MOST = 10_000
_ENDS = ("END", "FAIL")

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Jobs(Protocol):
    """What the teller asks of the engine."""

    async def recent_jobs(self, ids: Collection[int]) -> list[Job]:
        """These jobs, and all that have not ended, of those that anybody is to be told of."""
        ...

    async def running_jobs(self) -> list[Job]:
        """Jobs that start, run or end, of those that anybody is to be told of."""
        ...

    async def tasks(self, array_job_id: int) -> list[Job]:
        """All tasks of an array; while some have not ended, one of those is enough."""
        ...

    async def requeued_since(self, job_id: int, at: int) -> bool:
        """Whether an ended job was asked to run again at a time (Unix seconds) or later."""
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
        """Of jobs that have not ended, or whose end is not told yet; as on disk."""
        self._arrays: dict[int, ToldArray] = {}
        """Arrays of which something is still to be told, as on disk."""
        self._open_tasks: Counter[int] = Counter()
        """Array told of as a whole → how many of its tasks are in `_told`."""
        self._ended: OrderedDict[int, int] = OrderedDict()
        """Jobs whose end was told lately → the attempt: an ended job that is announced again is no news."""
        self._arrays_ended: OrderedDict[int, ToldArray] = OrderedDict()
        """Arrays whose end was told lately."""
        self._old_news = 0
        """Unix seconds: of a job that ended before then and of which nothing is known, all was told. An end that
        happened while no agent ran is no such: how the job was before it is on disk."""
        self._changed: asyncio.Queue[Job] = asyncio.Queue()
        self._again: dict[int, Job] = {}
        """What could not be kept, as on a full disk: tried again at the next look."""
        self._task: asyncio.Task[None] | None = None

    async def start(self, listen: Callable[[Callable[[Job], None]], None] = lambda _: None) -> None:
        """Tell what happened while nobody did, and go on from there.

        Args:
            listen: has `observe` called with every job from then on that is added or changed.
        """
        self._old_news = int(time.time())
        for each in await self._shelf.all("told", Told):
            self._set_told(each)
        self._arrays = {each.array_job_id: each for each in await self._shelf.all("told-array", ToldArray)}
        listen(self.observe)
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
        if before is None:
            wants = bool(job.mail_types) or self._config().hooks.notify_all
            if not (wants and self._is_heard()):
                return
        elif (before.state, before.attempt, before.reason) == (job.state, job.attempt, job.reason):
            return
        self._changed.put_nowait(job)

    def _is_old_news(self, job: Job) -> bool:
        """Of a job of which nothing is known, once all that came before it has been told of."""
        if job.state not in FINAL_STATES:
            return False
        long_ago = job.ended_at is not None and job.ended_at < self._old_news
        return long_ago or self._ended.get(job.id) == job.attempt

    # --- telling ------------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        clock = asyncio.get_running_loop().time
        look_at = clock() + LOOK_S
        while True:
            if clock() >= look_at:  # also while changes come without a pause: a queue that has one never waits
                for job in list(self._again.values()):
                    await self._tell_or_later(job)
                await guarded(self._tell_limits())
                look_at = clock() + LOOK_S
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at):
                    job = await self._changed.get()
                await self._tell_or_later(job)

    async def _tell_or_later(self, job: Job) -> None:
        self._again.pop(job.id, None)
        try:
            await self._tell_change(job)
        except StokerError as error:
            logger.error("job=%d: what is to be told of it cannot be kept: %s; trying again", job.id, error)
            self._again[job.id] = job
        except Exception:  # the rim of a loop that must live
            logger.exception("job=%d: what is to be told of it could not be made", job.id)

    async def _tell_change(self, job: Job) -> None:
        before = self._told.get(job.id)
        if before is None and self._is_old_news(job):
            return
        before = before or await self._before(job)
        events, array = notice.changes(before, job), None
        if job.array_job_id is not None and "ARRAY_TASKS" not in job.mail_types:
            events, array = await self._of_array(job, events)
        told = _told_of(job, limit=before.limit if before.attempt == job.attempt else None)
        await self._keep(job, events, told, array)

    async def _before(self, job: Job) -> Told:
        """How a job was of which nothing is known: it is new, or it had ended and was asked for again."""
        ended_before = self._ended.get(job.id) == job.attempt
        if job.state is JobState.PENDING and job.attempt > 0:
            ended_before = ended_before or await self._jobs.requeued_since(job.id, self._old_news)
        if ended_before:
            return Told(job_id=job.id, state=JobState.COMPLETED, attempt=job.attempt, began=True)
        return Told(job_id=job.id)

    async def _of_array(self, job: Job, events: Sequence[str]) -> tuple[tuple[str, ...], ToldArray | None]:
        """The events of the array as a whole that this task's make, each once; and what it was told of then."""
        assert job.array_job_id is not None
        array_id = job.array_job_id
        known = self._arrays.get(array_id) or self._arrays_ended.get(array_id)
        if job.state not in FINAL_STATES:
            if known is not None and known.event in _ENDS and "REQUEUE" in events:
                return (), msgspec.structs.replace(known, event="BEGIN")  # it goes on, and will end again
            if known is None and "BEGIN" in events:
                return ("BEGIN",), ToldArray(array_job_id=array_id, event="BEGIN")
            return (), None
        if known is not None and known.event in _ENDS:
            return (), None
        tasks = await self._jobs.tasks(array_id)
        ended, attempts = notice.array_end(tasks), sum(each.attempt for each in tasks)
        if ended is None:
            if known is None and "BEGIN" in events:
                return ("BEGIN",), ToldArray(array_job_id=array_id, event="BEGIN")
            return (), None
        is_news = known is None or known.attempts is None or attempts > known.attempts
        begun = ("BEGIN",) if known is None and "BEGIN" in events else ()  # all of it was over before we looked
        told = ToldArray(array_job_id=array_id, event=ended, attempts=attempts)
        return ((*begun, ended) if is_news else ()), told

    async def _tell_limits(self) -> None:
        now = int(time.time())
        for job in await self._jobs.running_jobs():
            before = self._told.get(job.id) or _told_of(job)
            passed = notice.limits_passed(job, now, before.limit if before.attempt == job.attempt else None)
            if passed and before.attempt == job.attempt:
                await self._keep(job, passed[-1:], msgspec.structs.replace(before, limit=passed[-1]))

    # --- keeping ------------------------------------------------------------------------------------------------------

    async def _keep(self, job: Job, events: Sequence[str], told: Told, array: ToldArray | None = None) -> None:
        """What is told, and that it is: both on disk, or neither."""
        hooks = self._config().hooks
        asked = notice.wanted(events, job.mail_types, everything=hooks.notify_all) if self._is_heard() else ()
        to = await self._jobs.mail_user(job.id) if asked else None
        made = [message.of_job(job, event, int(time.time()), to) for event in asked]
        put: list[tuple[str, str | int, msgspec.Struct]] = [("notice", each.id, each) for each in made]
        drop: list[tuple[str, str | int]] = []
        if told.state in FINAL_STATES:
            drop.append(("told", job.id))
        else:
            put.append(("told", job.id, told))
        over = self._is_over(told, array)
        if over is not None:
            drop.append(("told-array", over))
        elif array is not None:
            put.append(("told-array", array.array_job_id, array))
        await self._shelf.change(put, drop)
        self._remember(told, array, over)
        if made:
            self._courier.take(made)

    def _is_over(self, told: Told, array: ToldArray | None) -> int | None:
        """The array of which nothing is to be told any more once `told` and `array` hold."""
        if told.array_job_id is None or told.state not in FINAL_STATES:
            return None
        array = array or self._arrays.get(told.array_job_id)
        left = self._open_tasks[told.array_job_id] - (told.job_id in self._told)
        return told.array_job_id if array is not None and array.event in _ENDS and left <= 0 else None

    def _remember(self, told: Told, array: ToldArray | None, over: int | None) -> None:
        self._set_told(told)
        if told.state in FINAL_STATES:
            _push(self._ended, told.job_id, told.attempt)
        else:
            self._ended.pop(told.job_id, None)
        if array is not None:
            self._arrays[array.array_job_id] = array
            self._arrays_ended.pop(array.array_job_id, None)
            if array.event in _ENDS:
                _push(self._arrays_ended, array.array_job_id, array)
        if over is not None:
            self._arrays.pop(over, None)

    def _set_told(self, told: Told) -> None:
        """Take it in place of what was known of the job; one that has ended is let go."""
        before = self._told.pop(told.job_id, None)
        if before is not None and before.array_job_id is not None:
            self._open_tasks[before.array_job_id] -= 1
            if not self._open_tasks[before.array_job_id]:
                del self._open_tasks[before.array_job_id]
        if told.state in FINAL_STATES:
            return
        self._told[told.job_id] = told
        if told.array_job_id is not None:
            self._open_tasks[told.array_job_id] += 1

    def _is_heard(self) -> bool:
        hooks = self._config().hooks
        return hooks.notify_command is not None or hooks.notify_url is not None


def _told_of(job: Job, limit: str | None = None) -> Told:
    whole = job.array_job_id if "ARRAY_TASKS" not in job.mail_types else None
    return Told(
        job_id=job.id,
        state=job.state,
        attempt=job.attempt,
        began=job.started_at is not None,
        reason=job.reason,
        limit=limit,
        array_job_id=whole,
    )


def _push(lately: OrderedDict[int, _T], key: int, value: _T) -> None:
    lately[key] = value
    lately.move_to_end(key)
    while len(lately) > _ENDED_AT_MOST:
        lately.popitem(last=False)
