"""Waiting for the end of a run, asking for it, and whatever else is asked of a running job's shim.

Rules kept here: the wait is on a pidfd, so it costs nothing and ends at once; a process is trusted to be the shim only
when pid and start time agree; a wish to stop is on disk before anything is signalled, so that between a stop and a
start there is no moment in which the stop is lost; an ask is on disk before its shim is told, and told again by the
first wait after a restart, so that it is acted on exactly once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Literal

from agent.engine import procs
from agent.engine.found import Alive, Ended, Lost, NeverRan, Rebooted, recover
from agent.engine.records import Ask, AttemptDir, RecordError, Started, Stop

START_TIMEOUT_S = 10.0
"""How long a launched shim may take to be seen at all. It takes some 15 ms; a machine that swaps takes longer."""

_STEP_S = 0.01
"""Step of the wait between launch and `started`, usually one or two steps long: too short to be worth an inotify."""

_SLOW_STEP_S = 0.5
"""The same when a shim has held its lock without `started` for `START_TIMEOUT_S`: its disk hangs."""


async def wait_end(
    attempt: AttemptDir, boot_id: str, *, start_timeout_s: float = START_TIMEOUT_S
) -> Ended | Lost | Rebooted | NeverRan:
    """Wait until the run is over, however long it runs; what is left of a lost one has been killed by then.

    `NeverRan` is the answer when no shim came within `start_timeout_s`; launching again is safe then.

    Raises:
        RecordError: the records cannot be read.
    """
    loop = asyncio.get_running_loop()
    patience_ends = loop.time() + start_timeout_s
    await asyncio.to_thread(_poke, attempt)  # an agent that died may have stored an ask and told nobody
    while True:
        found = await asyncio.to_thread(recover, attempt, boot_id)  # a disk that hangs must not hang the loop
        if isinstance(found, Alive) and found.started is not None:
            await _process_end(found.started.shim_pid, found.started.shim_start)
        elif isinstance(found, Alive):
            await asyncio.sleep(_STEP_S if loop.time() < patience_ends else _SLOW_STEP_S)
        elif isinstance(found, NeverRan) and loop.time() < patience_ends:
            await asyncio.sleep(_STEP_S)
        else:
            return found


async def stop(attempt: AttemptDir, why: Literal["cancel", "limit", "preempt"], by: str) -> None:
    """Ask for the end: SIGTERM to all of the job, its grace, SIGKILL. Returns at once; `wait_end` sees it through.

    Twice is as good as once. When no shim is there yet the wish waits for it on disk; when it has gone, nothing
    happens.

    Raises:
        RecordError: the wish cannot be stored; nothing was signalled.
    """
    await asyncio.to_thread(
        _store_and_signal, attempt, Stop(why=why, by=by)
    )  # a disk that hangs must not hang the loop


def _store_and_signal(attempt: AttemptDir, wish: Stop) -> None:
    attempt.make()  # a cancel may come before the claim was written: the wish then waits for it in the folder
    attempt.write_stop(wish)
    started = attempt.read_started()
    if started is not None and started.boot_id == procs.boot_id():
        procs.signal_exact(started.shim_pid, started.shim_start, signal.SIGTERM)


async def send_signal(attempt: AttemptDir, number: int, batch_only: bool = False) -> None:
    """Pass a signal on to a running job: to its first process alone, or to all of it but that one. Returns at once.

    With nobody to take it yet, it waits for the job's start; with the job ended, nothing happens.

    Raises:
        RecordError: it cannot be stored, or the job's supervisor is of a version that knows no asks.
    """
    await asyncio.to_thread(_ask, attempt, Ask(do="signal", number=number, batch_only=batch_only))


async def change_limit(attempt: AttemptDir, limit_s: float | None) -> None:
    """Keep a running job to another time limit, counted from its start; `None`: to none. Returns at once.

    One that has passed already ends the job as the old one would have.

    Raises:
        RecordError: as for `send_signal`.
    """
    await asyncio.to_thread(_ask, attempt, Ask(do="limit", limit_s=limit_s))


async def start_step(attempt: AttemptDir, argv: Sequence[str]) -> None:
    """Start one more process in a running job, as its first one was started. Returns at once.

    Raises:
        RecordError: as for `send_signal`.
    """
    await asyncio.to_thread(_ask, attempt, Ask(do="step", argv=tuple(argv)), 2)


def _ask(attempt: AttemptDir, ask: Ask, hears: int = 1) -> None:
    started = attempt.read_started()
    if started is not None and started.hears < hears:
        takes = (
            "signals or limits; cancel the job, or let it end" if hears == 1 else "steps; start the job anew for that"
        )
        raise RecordError(f"the supervisor of {attempt.path} was started by an older version and takes no {takes}")
    attempt.make()
    attempt.write_ask(ask)
    _tell(attempt.read_started() if started is None else started)


def _poke(attempt: AttemptDir) -> None:
    """Tell the shim of asks that it has not taken."""
    try:
        if attempt.path.is_dir() and attempt.has_asks():
            _tell(attempt.read_started())
    except (RecordError, OSError):
        return  # what cannot be read is told by `recover`


def _tell(started: Started | None) -> None:
    """SIGUSR1, to that very process; a shim that is still starting looks for asks by itself."""
    if started is not None and started.hears and started.boot_id == procs.boot_id():
        procs.signal_exact(started.shim_pid, started.shim_start, signal.SIGUSR1)


async def _process_end(pid: int, start: int) -> None:
    """Until that very process has ended."""
    pidfd = procs.open_exact(pid, start)
    if pidfd is None:
        # Dead or dying, and the lock that says so is released a moment later.
        await asyncio.sleep(_STEP_S)
        return
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(pidfd, _settle, ended)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
