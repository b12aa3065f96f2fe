"""The job store behind the event loop: one named thread owns the SQLite file and makes all calls, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from agent.jobs.store import JobStore

_P = ParamSpec("_P")
_T = TypeVar("_T")


class StoreThread:
    """Runs functions of the store on thread `job-store`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job-store")
        self._store: JobStore | None = None

    async def open(self, path: Path, *, now: int) -> bool:
        """Open the store; whether it had to be made anew because the file was damaged.

        Raises:
            StoreError: it is held by another process, newer than we are, or cannot be opened.
        """

        def run() -> bool:
            self._store = JobStore.open(path, now=now)
            return self._store.damaged is not None

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    async def call(self, act: Callable[Concatenate[JobStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """`act(store, …)` on the thread. What it raises is raised here."""

        def run() -> _T:
            assert self._store is not None, "the store is open between open() and close()"
            return act(self._store, *args, **kwargs)

        # Shielded: a caller that goes away must not leave us not knowing whether the act was done.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, run))

    async def close(self) -> None:
        """Finish what is under way, close the file, end the thread."""

        def run() -> None:
            if self._store is not None:
                self._store.close()

        await asyncio.get_running_loop().run_in_executor(self._executor, run)
        self._executor.shutdown(wait=True)
