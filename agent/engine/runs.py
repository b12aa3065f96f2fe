"""One attempt seen through: launched, watched, its outcome told. The same code runs after a restart of the agent.

Rules kept here: the claim is on disk before anything is launched; what happens to the job is only what its records say;
an attempt that never ran is launched again with the same folder and claim, so that two shims can never both run it;
before an attempt is given up for failed, its `stop` is on disk, so that a shim that comes late runs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from agent.api.errors import StokerError
from agent.api.types import JobState
from agent.engine import watch
from agent.engine.claims import attempt_dir
from agent.engine.launch import Launcher
from agent.engine.records import (
    AttemptDir,
    Ended,
    Exit,
    Found,
    Lost,
    NeverRan,
    Rebooted,
    RecordDiskError,
    RecordError,
    Started,
    recover,
)
from agent.jobs import machine
from agent.jobs.errors import StoreError
from agent.jobs.machine import Event
from agent.jobs.row import JobRow

LAUNCHES_AT_MOST = 3
"""Launches of one attempt whose shim never comes; past that the fault is not a passing one."""

START_DEADLINE_S = 10.0
"""How long a launched shim may take to be seen; some 15 ms are usual, a machine that swaps takes longer."""

logger = logging.getLogger(__name__)

Apply = Callable[[int, Event], Awaitable[JobRow]]
"""Stores what happened to a job and gives its row as it is then."""

Prepare = Callable[[JobRow, AttemptDir], Awaitable[None]]
"""Writes the claim of a row's current attempt, unless it is there already.

Raises:
    RecordDiskError: the disk refuses.
    StokerError: the job can never be started, its account has gone for example; it fails with this sentence.
"""


class Runner:
    """Brings claimed jobs to their end."""

    def __init__(self, state_dir: Path, boot_id: str, launcher: Launcher, *, prepare: Prepare, apply: Apply) -> None:
        self._state_dir = state_dir
        self._boot_id = boot_id
        self._launcher = launcher
        self._prepare = prepare
        self._apply = apply

    async def run(self, row: JobRow) -> None:
        """Launch a claimed job and see it through; returns when its outcome is stored.

        Raises:
            RecordDiskError, StoreError: the disk refuses; `resume` takes the job up again.
        """
        attempt = attempt_dir(self._state_dir, row.id, row.status.attempt)
        for _ in range(LAUNCHES_AT_MOST):
            try:
                await self._prepare(row, attempt)
                await self._launcher.launch(row.id, attempt)
            except (RecordDiskError, StoreError):
                raise  # no fault of the job: the caller tries again when the disk is well
            except StokerError as error:
                if await self._launch_failed(row, attempt, str(error)):
                    return
            row = await self._follow(row, attempt)
            if row.status.state is not JobState.CONFIGURING:
                return
        await self._launch_failed(row, attempt, f"its supervisor did not come in {LAUNCHES_AT_MOST} launches")

    async def resume(self, row: JobRow) -> None:
        """Take up a claimed job again, after a restart of the agent or a fault of the disk; see `run`."""
        attempt = attempt_dir(self._state_dir, row.id, row.status.attempt)
        if row.status.state is JobState.COMPLETING:
            await self.stop(row, why="cancel", by=row.status.cancelled_by or "stoker")
        if row.status.state is JobState.CONFIGURING and isinstance(await self._recover(attempt), NeverRan):
            await self.run(row)
            return
        row = await self._follow(row, attempt)
        if row.status.state is JobState.CONFIGURING:
            await self.run(row)

    async def stop(self, row: JobRow, *, why: Literal["cancel", "limit", "preempt"], by: str) -> None:
        """Ask the current attempt to end; the wish is on disk when this returns, and waits for a shim that is late.

        Raises:
            RecordError: the wish cannot be stored.
        """
        attempt = attempt_dir(self._state_dir, row.id, row.status.attempt)
        await watch.stop(attempt, why, by)

    async def _follow(self, row: JobRow, attempt: AttemptDir) -> JobRow:
        """Watch a launched attempt to its end and store what its records say."""
        patience_s = START_DEADLINE_S
        if row.status.state is JobState.COMPLETING and row.status.started_at is None:
            patience_s = 0.0  # cancelled before it had a shim: there is none to be patient for
        await watch.wait_begun(attempt, patience_s)
        row = await self._note_start(row, attempt)
        found = await watch.wait_end(attempt, self._boot_id, start_timeout_s=0.0)
        match found:
            case Ended(exit=end):
                row = await self._note_start(row, attempt)
                return await self._apply(row.id, machine.Ended(outcome=_outcome(end)))
            case NeverRan():
                return await self._apply(row.id, machine.NeverRan())
            case Rebooted():
                return await self._apply(row.id, machine.Rebooted())
            case Lost():
                return await self._apply(row.id, machine.Lost())

    async def _note_start(self, row: JobRow, attempt: AttemptDir) -> JobRow:
        if row.status.started_at is not None:
            return row
        started = await asyncio.to_thread(_started, attempt)
        return row if started is None else await self._apply(row.id, machine.Started(at=started.at))

    async def _recover(self, attempt: AttemptDir) -> Found:
        """In a thread: killing what is left of a lost run takes its time."""
        return await asyncio.to_thread(recover, attempt, self._boot_id)

    async def _launch_failed(self, row: JobRow, attempt: AttemptDir, sentence: str) -> bool:
        """Give an attempt up, unless a shim came after all: then False, and its records tell the rest.

        Asked before the stop is written as well: a launcher that was only slow to answer must not cost a healthy job.
        """
        if not isinstance(await self._recover(attempt), NeverRan):
            return False
        await self.stop(row, why="cancel", by="stoker")
        if not isinstance(await self._recover(attempt), NeverRan):
            return False
        await self._apply(row.id, machine.Ended(outcome=machine.launch_failed(sentence, int(time.time()))))
        return True


def _started(attempt: AttemptDir) -> Started | None:
    """Who runs it; a damaged record tells nothing here, and `recover` makes the run a lost one."""
    try:
        return attempt.read_started()
    except RecordError as error:
        logger.warning("%s", error)
        return None


def _outcome(end: Exit) -> machine.Outcome:
    return machine.outcome_of(
        code=end.code, signal=end.signal, why=end.why, ended_at=end.ended_at, oom=end.oom, detail=end.detail
    )
