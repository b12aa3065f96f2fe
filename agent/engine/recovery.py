"""A node whose store could not be written when the agent started: shown as drained, and taken into service when it can.

Rules kept here: until the store is open to be written nothing is told that is not in it; from then on everything goes
on as after a start, in the same order: folders and rows brought together, what is arranged, the jobs, the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agent.api.errors import StokerError
from agent.engine.core import Core, now
from agent.engine.reconcile import reconcile
from agent.jobs.store import JobStore

LOOK_S = 2.0
"""How often it is tried whether the disk takes writes again."""

logger = logging.getLogger(__name__)


class Recovery:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, go_on: Callable[[], Awaitable[None]]) -> None:
        """`go_on` takes up what the store knows, once it can be written."""
        self._core = core
        self._go_on = go_on

    async def serve(self) -> None:
        """Until the store can be written; then go on."""
        said = ""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if self._core.store.read_only is not None:
                    await self._core.store.reopen(self._bring_up, now=now())
                if self._core.store.read_only is None:
                    await self._go_on()
                    break
            except (StokerError, OSError) as error:
                if str(error) != said:
                    said = str(error)
                    logger.error("the job store's disk takes writes, and still it cannot be used: %s", said)
        self._core.wake()
        logger.warning("the job store can be written again: new jobs are taken, and outcomes stored")

    def _bring_up(self, store: JobStore) -> None:
        """On the store's thread."""
        reconcile(store, self._core.config.state_dir, damaged=store.suspect, now=now())
