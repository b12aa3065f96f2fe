"""The engine's own house: a verified backup every hour, jobs forgotten that ended long enough ago, leftovers removed.

Rules kept here: none of it is on the event loop or, but for single steps, on the store's thread; what fails is said and
done again the next time; a job is forgotten in memory, on disk and in the store in the order that `retention` asks for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from agent.api.errors import StokerError
from agent.engine import tmpdir
from agent.engine.core import Core, now
from agent.jobs import retention
from agent.jobs.store import JobStore

_DAY_S = 86_400
_RETENTION_S = 3600.0
_REMOVE_S = 600.0
_AT_ONCE = 50
"""Submissions that are forgotten in one go."""

logger = logging.getLogger(__name__)


class Upkeep:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def back_up_regularly(self) -> None:
        """Renew the backup until cancelled. The first one soon: the last agent may have had no time for its own."""
        wait_s = 60.0
        while True:
            await asyncio.sleep(min(wait_s, self._core.config.history.backup_s))
            wait_s = self._core.config.history.backup_s
            try:
                held = await self._core.store.back_up()
                logger.info("backup of the job store renewed: %d jobs", held)
            except (StokerError, OSError) as error:
                logger.error("the job store could not be backed up, the last backup stands: %s", error)

    async def set_aside(self, running: Collection[int]) -> list[str]:
        """Temporary folders that crashes left, out of the way of new jobs. Before the queue is served."""
        jobs_dir = self._core.config.state_dir / "jobs"
        return await asyncio.to_thread(tmpdir.set_aside, str(jobs_dir), set(running))

    async def remove_left(self, folders: Collection[str]) -> None:
        """Remove what `set_aside` found."""
        for folder in folders:
            problem = await asyncio.to_thread(tmpdir.remove, folder, _REMOVE_S)
            if problem is not None:
                logger.warning("%s; the next start of the agent tries again", problem)

    async def forget_regularly(self) -> None:
        """Forget old jobs, and charges that count no more, until cancelled."""
        while True:
            try:
                await self.forget_old(now())
                half_life_s = self._core.config.scheduler.half_life_s
                await self._core.store.call(JobStore.forget_charges, now(), half_life_s)
            except (StokerError, OSError) as error:
                logger.error("old jobs could not be forgotten: %s", error)
            await asyncio.sleep(_RETENTION_S)

    async def forget_old(self, at: int) -> int:
        """Forget what ended more than `history.keep_days` ago; how many jobs.

        Raises:
            StoreError, OSError: some are left; the next call goes on.
        """
        keep_days = self._core.config.history.keep_days
        if keep_days is None:
            return 0
        store, count = self._core.store, 0
        while doomed := await store.read(retention.due, before=at - keep_days * _DAY_S, limit=_AT_ONCE):
            await asyncio.to_thread(retention.remove_folders, self._core.config.state_dir, doomed)
            ids = [job_id for ids in doomed.values() for job_id in ids]
            gone = await store.call(JobStore.forget, ids)
            count += gone
            if not gone:
                break
        return count
