"""Jobs that hold GPUs and use none, and jobs that take more of a shared GPU than their part: warned, then stopped.

What is decided is decided elsewhere (`agent.telemetry.reaper`, `agent.telemetry.sharing`); here it is carried out. A
warning is a line in the job's history and in the log, and is remembered over a restart of the agent. A stop is a cancel
by `stoker`, with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from agent.api.errors import ApiError, StokerError
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, GpuReading, JobState
from agent.engine.accounts import Accounts
from agent.engine.base import Asker
from agent.engine.core import Core
from agent.engine.shelf import Shelf
from agent.engine.verbs import Verbs
from agent.jobs.row import JobRow
from agent.telemetry import reaper, sharing
from agent.telemetry.reaper import Lift, Nothing, Stop, Warn
from agent.telemetry.sharing import Overuse

KIND = "warned"
"""Of what stands on the shelf for a job that was warned because it is idle."""
STEP_S = 5.0
WHO = Asker(user="stoker", uid=0, admin=True)

logger = logging.getLogger(__name__)


class Warned(msgspec.Struct, frozen=True, kw_only=True):
    """A warning that holds."""

    job_id: int
    attempt: int
    at: float
    sentence: str = "its GPUs were not used; unless they are, the job is stopped"


class Oversight:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, accounts: Accounts, verbs: Verbs) -> None:
        self._core = core
        self._accounts = accounts
        self._verbs = verbs
        self._shelf = Shelf(core.store)
        self._warned: dict[int, Warned] = {}
        self._warned_at: dict[int, float] = {}
        """When, by the monotonic clock: a wall clock that is set meanwhile shortens nobody's grace."""
        self._over_share: set[int] = set()
        """Jobs that were warned because of the memory they hold."""

    async def load(self) -> None:
        """Remember who was warned.

        Raises:
            StoreError: it cannot be read.
        """
        found = await self._shelf.all(KIND, Warned)
        self._warned = {each.job_id: each for each in found if self._holds(each)}
        ago_s = {each.job_id: max(0.0, time.time() - each.at) for each in self._warned.values()}
        self._warned_at = {job_id: time.monotonic() - each for job_id, each in ago_s.items()}
        for each in self._warned.values():
            self._core.warnings[each.job_id] = self._told(each)
        if over := [(KIND, each.job_id) for each in found if each.job_id not in self._warned]:
            try:
                await self._shelf.change((), over)
            except StokerError as error:
                logger.warning("warnings of runs that are over stay on the shelf: %s", error)

    async def serve(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            try:
                await self.look(self._accounts.readings(), time.time())
            except StokerError as error:
                logger.error("idle or greedy jobs are not warned: %s; trying again", error)
            except Exception:  # the rim of a loop that must live
                logger.exception("looking for idle or greedy jobs failed; it goes on")
            await asyncio.sleep(STEP_S)

    async def look(self, readings: Sequence[GpuReading], now: float) -> None:
        """Judge every running job once.

        Raises:
            StoreError: what was decided is not stored; the next look decides again.
        """
        await self._forget()
        for row in self._core.jobs.active():
            if row.status.state is JobState.RUNNING:
                await self._judge_idle(row, now)
        await self._watch_shards(readings)

    async def _judge_idle(self, row: JobRow, now: float) -> None:
        warned_at = self._warned_at.get(row.id)
        verdict = reaper.judge(
            self._accounts.activity(row.id),
            self._core.config.reaper,
            qos=row.spec.qos or "",
            warned_at=now - (time.monotonic() - warned_at) if warned_at is not None else None,
            now=now,
        )
        match verdict:
            case Warn():
                await self._warn(row, verdict, now)
            case Lift(sentence):
                told = self._core.warnings.pop(row.id, None)  # before the note: it tells watchers of the job
                try:
                    await self._note(row, "IdleLifted", sentence)
                except StokerError:
                    if told is not None:
                        self._core.warnings[row.id] = told
                    raise
                await self._drop(row.id)
            case Stop(sentence):
                await self._stop(row, sentence)
            case Nothing():
                return

    async def _warn(self, row: JobRow, verdict: Warn, now: float) -> None:
        """A note that cannot be stored warns nobody: the next look tries again."""
        warned = Warned(job_id=row.id, attempt=row.status.attempt, at=now, sentence=verdict.lasting)
        self._core.warnings[row.id] = self._told(warned)  # before the note: it tells watchers of the job
        try:
            await self._note(row, "IdleWarned", verdict.sentence)
        except StokerError:
            del self._core.warnings[row.id]
            raise
        self._warned[row.id] = warned
        self._warned_at[row.id] = time.monotonic()
        await self._shelf.change([(KIND, row.id, warned)])

    def _told(self, warned: Warned) -> tuple[str, int]:
        return warned.sentence, int(warned.at + self._core.config.reaper.grace_s)

    async def _watch_shards(self, readings: Sequence[GpuReading]) -> None:
        jobs = self._core.config.jobs
        rows = {row.id: row for row in self._core.jobs.active() if row.spec.shards}
        if not rows or jobs.shard_memory == "off":
            return
        found = sharing.overuse(
            readings,
            self._core.jobs.holders(),
            shards={row.id: row.spec.shards for row in rows.values()},
            shards_per_gpu=jobs.shards_per_gpu,
            pids=self._accounts.pids,
        )
        for each in found:
            if jobs.shard_memory == "stop" and rows[each.job_id].status.state is JobState.RUNNING:
                await self._stop(rows[each.job_id], each.sentence)
            else:
                await self._warn_of_share(rows[each.job_id], each)

    async def _warn_of_share(self, row: JobRow, overuse: Overuse) -> None:
        """Once a run: the job's user sees it, and so do those who share with it."""
        if row.id not in self._over_share:
            await self._note(row, "OverShare", overuse.sentence)
            self._over_share.add(row.id)

    async def _note(self, row: JobRow, event: str, sentence: str) -> None:
        logger.warning("job=%d %s: %s", row.id, event, sentence)
        known = self._core.jobs.get(row.id) or row  # it may have been changed since this look began
        by = f"{WHO.user}: {sentence}"
        await self._core.amend(row.id, known.spec, event=event, by=by, revision=known.revision)

    async def _stop(self, row: JobRow, sentence: str) -> None:
        logger.warning("job=%d is stopped: %s", row.id, sentence)
        try:
            await self._verbs.cancel(JobRef(id=row.id), WHO, CancelRequest(reason=sentence))
        except ApiError as error:
            logger.error("job=%d could not be stopped: %s", row.id, error)

    async def _forget(self) -> None:
        """Warnings of runs that are over."""
        self._over_share &= {row.id for row in self._core.jobs.active()}
        for job_id in [each.job_id for each in self._warned.values() if not self._holds(each)]:
            await self._drop(job_id)

    async def _drop(self, job_id: int) -> None:
        del self._warned[job_id], self._warned_at[job_id]
        self._core.warnings.pop(job_id, None)
        await self._shelf.change((), [(KIND, job_id)])

    def _holds(self, warned: Warned) -> bool:
        row = self._core.jobs.get(warned.job_id)
        return row is not None and row.status.state is JobState.RUNNING and row.status.attempt == warned.attempt
