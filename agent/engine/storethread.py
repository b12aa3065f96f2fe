"""The job store behind the event loop: one named thread owns the SQLite file and makes all calls, in order.

Rules kept here: what a write returned is on disk when its caller hears of it; writes that wait while the disk is busy
share the next flush (group commit); when one fails, all are made again, each a part of its own that can fail alone;
when the disk refuses the whole, each is made again by itself, so that nobody is told of another's fault; reads are in
no transaction, so that they go on where nothing can be written any more.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from agent.engine.folderflush import FolderFlush
from agent.jobs import apart
from agent.jobs.backup import backup_path
from agent.jobs.errors import (
    GpuHeldError,
    KeyConflictError,
    NewerSchemaError,
    NoSuchJobError,
    StaleJobError,
    StoreError,
    StoreLockedError,
)
from agent.jobs.readonly import refusal, why_not_writable
from agent.jobs.store import JobStore

_MOST_AT_ONCE = 128
"""Calls that are answered together: more would let the first of them wait for work that is not its own."""

_NO_FAULT_OF_THE_DISK = (NoSuchJobError, KeyConflictError, StaleJobError, GpuHeldError)

_P = ParamSpec("_P")
_T = TypeVar("_T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """Something to do on the thread, and who waits for it."""

    act: Callable[[], Any]
    answer: asyncio.Future[Any]
    writes: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a call gave, or the error it raised."""

    value: Any = None
    error: BaseException | None = None


class _Refused(Exception):  # noqa: N818 - no fault that anybody is told of: it only leads out of a transaction
    """The disk refused a part, and with it perhaps all before it."""


class StoreThread:
    """Runs functions of the store on thread `job-store`."""

    def __init__(self) -> None:
        self._waiting: deque[_Call | None] = deque()
        self._some = threading.Condition()
        self._store: JobStore | None = None
        self._path: Path | None = None
        self._thread: threading.Thread | None = None
        self._backup: asyncio.Future[int] | None = None
        self._closing = False
        self._flush = FolderFlush()

    async def open(self, path: Path, *, now: int, scratch: Path | None = None) -> bool:
        """Open the store; whether the job folders may know more than it does. Where its disk takes no writes it is
        opened to be read: see `read_only`, `reopen`.

        Args:
            path: the file.
            now: Unix seconds.
            scratch: a folder on another disk, for a copy of a store that cannot be written; by default the system's.

        Raises:
            StoreError: it is held by another process, newer than we are, or cannot be opened.
        """

        def run() -> bool:
            self._store = _open(path, now=now, scratch=scratch or Path(tempfile.gettempdir()))
            self._store.put_off = self._flush.put
            return self._store.suspect

        self._path = path
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, args=(loop,), name="job-store", daemon=True)
        self._thread.start()
        self._flush.start()
        suspect: bool = await self._ask(run, writes=False)
        return suspect

    @property
    def read_only(self) -> str | None:
        """Why nothing can be changed, and what to do; `None` while everything can."""
        return None if self._store is None else self._store.read_only

    def owes(self, folder_id: int) -> bool:
        """Whether a row is stored and its job's folder could not be written yet: its disk refuses."""
        return self._opened().owes(folder_id)

    async def reopen(self, bring_up: Callable[[JobStore], object], *, now: int) -> bool:
        """Open a store that could only be read to be written again, if its disk takes writes by now.

        Args:
            bring_up: what has to happen to it before anybody else uses it.
            now: Unix seconds.

        Returns:
            Whether it can be written from now on.

        Raises:
            StoreError: its disk takes writes, and still it cannot be opened or brought up; it can be read as before.
        """

        def run() -> bool:
            before, path = self._opened(), self._path
            assert path is not None, "it was opened"
            why = why_not_writable(path.parent)
            if why is not None:
                before.read_only = refusal(path, why)
                return False
            store = JobStore.open(path, now=now)
            store.put_off = self._flush.put
            try:
                bring_up(store)
            except BaseException:
                store.close()
                raise
            self._store = store
            before.close()
            return True

        done: bool = await self._ask(run, writes=False)
        return done

    async def call(self, act: Callable[Concatenate[JobStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """`act(store, …)` on the thread, in a transaction. What it raises is raised here, and undone there.

        `act` is made a second time when the disk refused the first, or another one that shared its flush failed: what
        is undone in the store must leave nothing in memory either (`Database.if_undone`).
        """
        value: _T = await self._ask(lambda: act(self._opened(), *args, **kwargs), writes=True)
        return value

    async def read(self, act: Callable[Concatenate[JobStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The same for what changes nothing, or sees to its own transactions: a backup, retention."""
        value: _T = await self._ask(lambda: act(self._opened(), *args, **kwargs), writes=False)
        return value

    async def back_up(self) -> int:
        """Renew the verified backup, in a thread of its own beside ours and a process; how many jobs it holds.

        Raises:
            StoreError: the last backup stands.
        """
        held = sum((await self.read(JobStore.counts)).values())

        def stop() -> bool:
            return self._closing

        def verify(path: Path) -> int:
            return apart.verify(path, stop)

        self._backup = asyncio.ensure_future(
            asyncio.to_thread(self._opened().back_up, at_least=held, stop=stop, verify=verify)
        )
        return await asyncio.shield(self._backup)

    async def close(self) -> None:
        """Finish what is under way, close the file, end the thread."""
        if self._thread is None:
            return
        self._closing = True
        if self._backup is not None:
            await asyncio.wait([self._backup])
        await asyncio.to_thread(self._flush.stop)

        def run() -> None:
            if self._store is not None:
                self._store.close()

        await self._ask(run, writes=False)
        self._put(None)
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    async def _ask(self, act: Callable[[], Any], *, writes: bool) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(_Call(act, answer, writes))
        # Shielded: a caller that goes away must not leave us not knowing whether the act was done.
        return await asyncio.shield(answer)

    def _put(self, call: _Call | None) -> None:
        with self._some:
            self._waiting.append(call)
            self._some.notify()

    def _opened(self) -> JobStore:
        assert self._store is not None, "the store is open between open() and close()"
        return self._store

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while calls := self._next():
            writes = [call for call in calls if call.writes]
            self._answer(loop, writes, self._write(writes))
            for call in calls:
                if not call.writes:
                    self._answer(loop, [call], [_do(call)])

    def _next(self) -> list[_Call]:
        """All that wait, up to a bound; nothing at the end."""
        with self._some:
            while not self._waiting:
                self._some.wait()
            calls: list[_Call] = []
            while self._waiting and len(calls) < _MOST_AT_ONCE:
                call = self._waiting[0]
                if call is None:
                    break
                calls.append(call)
                self._waiting.popleft()
            return calls

    def _write(self, calls: Sequence[_Call]) -> list[_Outcome]:
        """Make the calls with one flush."""
        if not calls:
            return []
        store = self._opened()
        if len(calls) == 1:
            return [self._write_alone(store, calls[0])]
        try:
            with store.transaction():
                return [_Outcome(value=call.act()) for call in calls]
        except Exception:  # noqa: BLE001 - whose it is is found out, and told, by making each a part of its own
            return self._write_in_parts(store, calls)

    def _write_in_parts(self, store: JobStore, calls: Sequence[_Call]) -> list[_Outcome]:
        """The same where one of them failed, and shall fail alone."""
        outcomes: list[_Outcome] = []
        try:
            with store.transaction():
                for call in calls:
                    outcomes.append(_do_part(store, call))
        except (_Refused, StoreError):
            return [self._write_alone(store, call) for call in calls]
        return outcomes

    def _write_alone(self, store: JobStore, call: _Call) -> _Outcome:
        try:
            with store.transaction():
                return _Outcome(value=call.act())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            return _Outcome(error=error)

    def _answer(self, loop: asyncio.AbstractEventLoop, calls: Sequence[_Call], outcomes: Sequence[_Outcome]) -> None:
        if not calls:
            return
        try:
            loop.call_soon_threadsafe(_settle, calls, outcomes)
        except RuntimeError:  # the loop was closed before us: nobody is left who waits
            logger.debug("%d answers of the job store had nobody to hear them", len(calls))


def _open(path: Path, *, now: int, scratch: Path) -> JobStore:
    """To be written, or where its disk refuses that, to be read."""
    something = backup_path(path).exists() or (path.exists() and path.stat().st_size > 0)
    try:
        return JobStore.open(path, now=now)
    except (StoreLockedError, NewerSchemaError):
        raise
    except StoreError:
        why = why_not_writable(path.parent)
        if why is None or not something:
            raise  # rights are wrong; or it is a first start, and there is nothing to show
        logger.error("store=%s cannot be written: %s; it is shown as it is, and nothing is changed", path, why)
        return JobStore.open_read_only(path, scratch=scratch, why=why)


def _do(call: _Call) -> _Outcome:
    try:
        return _Outcome(value=call.act())
    except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
        return _Outcome(error=error)


def _do_part(store: JobStore, call: _Call) -> _Outcome:
    """One call within the common transaction.

    Raises:
        _Refused: SQLite itself refused. After some faults it has rolled back everything by then.
    """
    try:
        with store.transaction():
            return _Outcome(value=call.act())
    except BaseException as error:
        if isinstance(error, StoreError) and not isinstance(error, _NO_FAULT_OF_THE_DISK):
            raise _Refused from error
        return _Outcome(error=error)


def _settle(calls: Sequence[_Call], outcomes: Sequence[_Outcome]) -> None:
    """On the loop: one hop for all of them."""
    for call, outcome in zip(calls, outcomes, strict=True):
        if call.answer.done():
            continue
        if outcome.error is not None:
            call.answer.set_exception(outcome.error)
        else:
            call.answer.set_result(outcome.value)
