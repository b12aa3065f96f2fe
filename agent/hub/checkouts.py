"""The one writer of the seat ledger: leases asked for at the same time are granted with one flush of the disk.

What waits while the thread is at work is its next batch, up to `MAX_BATCH`, in the order of its coming: nobody is
overtaken, and one that asks alone waits for nobody. Each gets its own answer or its own error.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from agent.gate import MAX_BATCH, Ask, NoSeat

Answer = str | NoSeat | None
"""A lease, none and why, or nothing due."""


class Batch(Protocol):
    """Answers several with one flush of the disk, from the ledger's own thread. Raises `ApiError`: for all of them."""

    async def __call__(self, asks: Sequence[Ask], now: int) -> Sequence[Answer | Exception]:
        """An outcome for each."""


class Checkouts:
    """The queue before the writer; used from the event loop."""

    def __init__(self, answer: Batch, clock: Callable[[], float] = time.time) -> None:
        self._answer = answer
        self._clock = clock
        self._waiting: deque[tuple[Ask, asyncio.Future[Answer]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def lease(self, ask: Ask) -> Answer:
        """The lease to hand over now; `None` when the one that the node has will do.

        Raises:
            ApiError: refused, or the ledger cannot be written.
        """
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, done))
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="checkouts")
        return await done

    async def _work(self) -> None:
        """Until nobody waits any more; the next one who asks starts it again."""
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                asked = [each for each in batch if not each[1].done()]  # who was cancelled meanwhile asks no more
                self._tell(asked, await self._outcomes([ask for ask, _ in asked]))
        finally:
            self._task = None

    async def _outcomes(self, asks: Sequence[Ask]) -> Sequence[Answer | Exception]:
        try:
            return await self._answer(asks, int(self._clock()))
        except Exception as error:  # noqa: BLE001 - the rim: it is raised again at each of those who wait
            return [error for _ in asks]

    @staticmethod
    def _tell(asked: Sequence[tuple[Ask, asyncio.Future[Answer]]], outcomes: Sequence[Answer | Exception]) -> None:
        for (_, done), outcome in zip(asked, outcomes, strict=True):
            if done.done():
                continue
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
