"""What works beside the queue, over the same store: notices and recurring jobs. The engine as these see it."""

from __future__ import annotations

from collections.abc import Collection

from agent.api.refs import JobRef
from agent.api.types import Job, SubmitRequest
from agent.engine.accept import as_api_error
from agent.engine.core import Core
from agent.engine.courier import Courier
from agent.engine.cron import CronKeeper
from agent.engine.intake import Intake
from agent.engine.notices import Notices
from agent.engine.shelf import Shelf
from agent.jobs import machine
from agent.jobs.errors import NoSuchJobError
from agent.jobs.filters import JobFilter
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore

_AT_ONCE = 500
"""Jobs asked for in one go."""


class Clerks:
    """The clerks of one engine, started and stopped together."""

    def __init__(self, core: Core, intake: Intake) -> None:
        self._core = core
        self._intake = intake
        shelf = Shelf(core.store)
        self.courier = Courier(lambda: core.config, shelf)
        self.cron = CronKeeper(core.config.name, shelf, self)
        self._notices = Notices(lambda: core.config, shelf, self, self.courier)

    async def start(self) -> None:
        """Begin; the store is open and the engine has its jobs."""
        await self.courier.start()
        await self._notices.start(self._core.listen)
        await self.cron.start()

    async def stop(self) -> None:
        """End."""
        await self.cron.stop()
        await self._notices.stop()
        await self.courier.stop()

    # --- the engine, as notices see it --------------------------------------------------------------------------------

    async def recent_jobs(self, ids: Collection[int]) -> list[Job]:
        """See `notices.Jobs`."""
        known: dict[int, JobRow | None] = {}
        while missing := [each for each in ids if each not in self._core.jobs and each not in known]:
            found = await self._core.store.read(JobStore.find, JobFilter(ids=missing[:_AT_ONCE]))
            known |= dict.fromkeys(missing[:_AT_ONCE]) | {row.id: row for row in found}
        # Nothing is waited for from here on: as these are, so are the jobs when the caller has them.
        ended = [row for job_id, row in known.items() if row is not None and job_id not in self._core.jobs]
        return [self._core.wire(row) for row in [*ended, *filter(self._is_told_of, self._core.jobs)]]

    async def running_jobs(self) -> list[Job]:
        """See `notices.Jobs`."""
        return [self._core.wire(row) for row in self._core.jobs.active() if self._is_told_of(row)]

    async def tasks(self, array_job_id: int) -> list[Job]:
        """See `notices.Jobs`."""
        unfinished = self._core.jobs.of_array(array_job_id)[:1]
        return [self._core.wire(row) for row in unfinished or await self._core.rows(JobRef(id=array_job_id))]

    async def requeued_since(self, job_id: int, at: int) -> bool:
        """See `notices.Jobs`."""
        events = await self._core.store.read(JobStore.history, job_id)
        return any(each.event == machine.RequeueAsked.__name__ and each.at >= at for each in events)

    async def mail_user(self, job_id: int) -> str | None:
        """See `notices.Jobs`."""
        row = await self._row(job_id)
        return row.spec.mail_user if row is not None else None

    # --- the engine, as recurring jobs see it -------------------------------------------------------------------------

    async def submit(self, request: SubmitRequest, *, user: str, uid: int, key: str, cron_id: int) -> tuple[Job, bool]:
        """See `cron.Queue`."""
        return await self._intake.submit(request, user=user, uid=uid, key=key, admin=False, cron_id=cron_id)

    async def plan_check(self, request: SubmitRequest, *, user: str, uid: int) -> str:
        """See `cron.Queue`."""
        with as_api_error():
            judged = await self._intake.judge(request, user=user, uid=uid, admin=False)
        return judged.spec.name

    async def unfinished(self, job_id: int) -> bool:
        """See `cron.Queue`."""
        row = await self._row(job_id)
        if row is None:
            return False
        rows = await self._core.rows(JobRef(id=job_id)) if row.array_job_id == job_id else [row]
        return any(not each.status.state.is_final for each in rows)

    def _is_told_of(self, row: JobRow) -> bool:
        return bool(row.spec.mail_types) or self._core.config.hooks.notify_all

    async def _row(self, job_id: int) -> JobRow | None:
        known = self._core.jobs.get(job_id)
        if known is not None:
            return known
        try:
            return await self._core.store.read(JobStore.get, job_id)
        except NoSuchJobError:
            return None
