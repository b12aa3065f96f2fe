"""One attempt seen through: launched, watched, its outcome told. The same code runs after a restart of the agent.

Rules kept here: the claim is whole before anything is launched; what happens to the job is only what its records say;
an attempt that never ran is launched again with the same folder and claim, so that two shims can never both run it;
before an attempt is given up for failed, its `stop` is on disk, so that a shim that comes late runs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from agent.api.errors import StokerError
from agent.api.types import JobState
from agent.engine import watch
from agent.engine.arrivals import Arrivals, Came
from agent.engine.claims import attempt_dir
from agent.engine.ends import end_event, told_state
from agent.engine.found import Ended, Found, Lost, NeverRan, Rebooted, recover
from agent.engine.launch import Launcher
from agent.engine.records import AttemptDir, Exit, RecordDiskError, RecordError, Started
from agent.jobs import machine
from agent.jobs.errors import StoreError
from agent.jobs.machine import Event
from agent.jobs.row import JobRow

LAUNCHES_AT_MOST = 3
"""Launches of one attempt whose shim never comes; past that the fault is not a passing one."""

_FIRST_LOOK_S = 0.05
"""How long the first records are waited for before they are looked for: they take 5 to 20 ms, and are told of."""

_SHORT_S = 0.25
"""How long a job that has begun is expected to end at once, as most of them do that fail."""

logger = logging.getLogger(__name__)


class Apply(Protocol):
    """Stores what happened to a job, all of it with one flush, and gives its row as it is then."""

    def __call__(self, job_id: int, *events: Event) -> Awaitable[JobRow]:
        """See above."""
        ...


Prepare = Callable[[JobRow, AttemptDir], Awaitable[None]]
"""Writes the claim of a row's current attempt, unless it is there already.

Raises:
    RecordDiskError: the disk refuses.
    StokerError: the job can never be started, its account has gone for example; it fails with this sentence.
"""


class HookFailed(Protocol):
    """Takes the node out of service, durably: its prolog or epilog failed. Done again, it changes nothing."""

    def __call__(self, job_id: int, hook: Literal["Prolog", "Epilog"], problem: str) -> Awaitable[None]:
        """See above.

        Raises:
            StoreError: not stored.
        """
        ...


Why = Literal["cancel", "limit", "preempt"]


class Runner:
    """Brings claimed jobs to their end."""

    def __init__(
        self,
        state_dir: Path,
        boot_id: str,
        launcher: Launcher,
        *,
        prepare: Prepare,
        apply: Apply,
        hook_failed: HookFailed,
    ) -> None:
        self._hook_failed = hook_failed
        self._state_dir = state_dir
        self._boot_id = boot_id
        self._launcher = launcher
        self._prepare = prepare
        self._apply = apply
        self._arrivals = Arrivals()

    def start(self) -> None:
        """Begin to hear of records."""
        self._arrivals.start()

    def close(self) -> None:
        """Hear of nothing any more; what runs goes on."""
        self._arrivals.stop()

    async def run(self, row: JobRow) -> None:
        """Launch a claimed job and see it through; returns when its outcome is stored.

        Raises:
            RecordDiskError, StoreError: the disk refuses; `resume` takes the job up again.
        """
        attempt = self.attempt(row)
        for _ in range(LAUNCHES_AT_MOST):
            launched = await self._launch(row, attempt)
            if launched is None or launched.status.state is not JobState.CONFIGURING:
                return
            row = launched
        await self._launch_failed(row, attempt, f"its supervisor did not come in {LAUNCHES_AT_MOST} launches")

    async def resume(self, row: JobRow) -> None:
        """Take up a claimed job again, after a restart of the agent or a fault of the disk; see `run`."""
        attempt = self.attempt(row)
        if row.status.state is JobState.COMPLETING:
            await self.stop(row)
        if row.status.state is JobState.CONFIGURING and isinstance(await self._recover(attempt), NeverRan):
            await self.run(row)
            return
        row = await self._follow(row, attempt)
        if row.status.state is JobState.CONFIGURING:
            await self.run(row)

    async def stop(self, row: JobRow) -> None:
        """Tell the current attempt of the wish that is stored for it; it is on disk when this returns, and waits for
        a shim that is late.

        Raises:
            RecordError: the wish cannot be stored.
        """
        await watch.stop(self.attempt(row), _why(row), row.status.cancelled_by or "stoker")

    def attempt(self, row: JobRow) -> AttemptDir:
        """The record folder of a row's current attempt."""
        return attempt_dir(self._state_dir, row.id, row.status.attempt)

    async def _launch(self, row: JobRow, attempt: AttemptDir) -> JobRow | None:
        """Launch and watch; `None` when the job failed because it could not be launched."""
        try:
            await self._prepare(row, attempt)
            with self._arrivals.of(attempt.path) as came:  # from before the launch: no record comes unheard
                await self._launcher.launch(row.id, attempt)
                await _begun(came)
                return await self._watch(row, attempt, came)
        except (RecordDiskError, StoreError):
            raise  # no fault of the job: the caller tries again when the disk is well
        except StokerError as error:
            if await self._launch_failed(row, attempt, str(error)):
                return None
        return await self._follow(row, attempt)

    async def _follow(self, row: JobRow, attempt: AttemptDir) -> JobRow:
        """Watch an attempt that was launched before to its end."""
        if not await asyncio.to_thread(attempt.path.is_dir):
            return await self._never_ran(row)  # not even its folder came to be
        with self._arrivals.of(attempt.path) as came:
            return await self._watch(row, attempt, came)

    async def _watch(self, row: JobRow, attempt: AttemptDir, came: asyncio.Event) -> JobRow:
        """See an attempt to its end and store what its records say."""
        patience_s = watch.START_TIMEOUT_S
        if row.status.state is JobState.COMPLETING and row.status.started_at is None:
            patience_s = 0.0  # cancelled before it had a shim: there is none to be patient for
        seen = await _first_records(attempt, came, patience_s)
        row = await self._note_start(row, seen)
        if seen.end is None and row.status.started_at is not None:
            seen = await _soon(attempt, came)
        if seen.end is None:
            return await self._see_out(row, attempt, came)
        return await self._end(row, seen)

    async def _see_out(self, row: JobRow, attempt: AttemptDir, came: asyncio.Event) -> JobRow:
        """Until the end, however long it takes: told by the exit record, or by the death of whoever should write it."""
        dead = asyncio.create_task(watch.wait_end(attempt, self._boot_id, start_timeout_s=0.0), name=f"watch-{row.id}")
        try:
            while not dead.done():
                came.clear()
                seen = await asyncio.to_thread(_records, attempt)
                row = await self._note_start(row, seen)
                if seen.end is not None:
                    return await self._end(row, seen)
                await _either(dead, came)
            found = await dead
        finally:
            dead.cancel()
        match found:
            case Ended(exit=end):
                seen = await asyncio.to_thread(_records, attempt)
                return await self._end(row, replace(seen, end=end))
            case NeverRan():
                return await self._never_ran(row)
            case Rebooted():
                return await self._apply(row.id, machine.Rebooted())
            case Lost():
                return await self._apply(row.id, machine.Lost())

    async def _never_ran(self, row: JobRow) -> JobRow:
        """No record tells of a run; of one that was seen to start, somebody took the records away."""
        began = row.status.started_at is not None
        return await self._apply(row.id, machine.Lost() if began else machine.NeverRan())

    async def _note_start(self, row: JobRow, seen: Seen) -> JobRow:
        if row.status.started_at is not None or seen.started is None or seen.end is not None:
            return row  # where the end is there as well, both are stored together
        return await self._apply(row.id, machine.Started(at=seen.started.at))

    async def _end(self, row: JobRow, seen: Seen) -> JobRow:
        assert seen.end is not None, "asked only once the exit record was read"
        event = end_event(seen.end, seen.started, self._boot_id, seen.result_state)
        events: list[Event] = [event]
        if row.status.started_at is None and seen.started is not None and not isinstance(event, machine.PrologFailed):
            events.insert(0, machine.Started(at=seen.started.at))
        # Before the job goes on: nothing starts on the node between the two, and a crash there does both again.
        if isinstance(event, machine.PrologFailed):
            await self._hook_failed(row.id, "Prolog", event.detail)
        elif seen.end.epilog is not None:
            await self._hook_failed(row.id, "Epilog", seen.end.epilog)
        return await self._apply(row.id, *events)

    async def _recover(self, attempt: AttemptDir) -> Found:
        """In a thread: killing what is left of a lost run takes its time."""
        return await asyncio.to_thread(recover, attempt, self._boot_id)

    async def _launch_failed(self, row: JobRow, attempt: AttemptDir, sentence: str) -> bool:
        """Give an attempt up, unless a shim came after all: then False, and its records tell the rest.

        Asked before the stop is written as well: a launcher that was only slow to answer must not cost a healthy job.
        """
        if not isinstance(await self._recover(attempt), NeverRan):
            return False
        await watch.stop(attempt, "cancel", "stoker")
        if not isinstance(await self._recover(attempt), NeverRan):
            return False
        await self._apply(row.id, machine.Ended(outcome=machine.launch_failed(sentence, int(time.time()))))
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an attempt's folder tells at one moment."""

    started: Started | None = None
    end: Exit | None = None
    result_state: str | None = None
    """What the job says of its own end, in this attempt; it is believed before its exit code."""


async def _first_records(attempt: AttemptDir, came: asyncio.Event, patience_s: float) -> Seen:
    """Until the attempt has begun (or ended already), at most `patience_s`."""
    give_up_at = time.monotonic() + patience_s
    while True:
        came.clear()
        seen = await asyncio.to_thread(_records, attempt)
        left_s = give_up_at - time.monotonic()
        if seen != Seen() or left_s <= 0:
            return seen
        await _within(came, left_s)


async def _begun(came: Came) -> None:
    """Until the job has begun, and ended if it is one of the shortest: both are then read and stored together."""
    await _within(came, _FIRST_LOOK_S)
    if came.files == 1:
        came.clear()
        await _within(came, _FIRST_LOOK_S)


async def _soon(attempt: AttemptDir, came: asyncio.Event) -> Seen:
    """The end of a short job: most of what a short job costs us would be to set up the wait for a long one."""
    await _within(came, _SHORT_S)
    came.clear()
    return await asyncio.to_thread(_records, attempt)


async def _within(came: asyncio.Event, time_s: float) -> None:
    try:
        async with asyncio.timeout(time_s):
            await came.wait()
    except TimeoutError:
        return


async def _either(dead: asyncio.Task[Any], came: asyncio.Event) -> None:
    """Until the run is over or a record came."""
    arrival = asyncio.create_task(came.wait())
    try:
        await asyncio.wait({dead, arrival}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        arrival.cancel()


def _records(attempt: AttemptDir) -> Seen:
    """The records; a damaged one tells nothing here, and `recover` makes the run a lost one."""
    try:
        started, end = attempt.read_started(), attempt.read_exit()
        files = attempt.path.parent / "files"
        return Seen(started=started, end=end, result_state=told_state(files, started) if end else None)
    except RecordDiskError:
        raise
    except RecordError as error:
        logger.warning("%s", error)
        return Seen()


def _why(row: JobRow) -> Why:
    """What the stop file says of a stored wish: a requeue is a preemption to the job, which saves and ends."""
    return "cancel" if row.status.wish in (None, "cancel") else "preempt"
