"""The usage ledger kept up: a heartbeat while anything runs, and what is told of the ledger.

Rules kept here: the heartbeat goes to disk once a minute, and an idle node writes nothing. A node whose store takes no
writes meters nothing, and starts nothing either.
"""

from __future__ import annotations

import asyncio
import logging

from agent.api.errors import StokerError
from agent.api.usage import UsageBy, UsageHead, UsageRows, UsageSum
from agent.engine.accept import as_api_error
from agent.engine.core import Core
from agent.engine.metering import adopt, read_tick
from agent.jobs.store import JobStore

BEAT_S = 60.0
"""How much a crash of the node can lose."""

ROWS_AT_ONCE = 5000

logger = logging.getLogger(__name__)


class Metering:
    """The heartbeat, and what is told of the ledger. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._adopted = False

    async def adopt(self) -> None:
        """Take up what the store knows; a disk that refuses keeps nobody from starting, it is tried again."""
        try:
            await self._core.store.call(adopt, self._core.config, self._core.view.resources())
            self._adopted = True
        except StokerError as error:
            logger.warning("the usage ledger is not taken up: %s", error)

    async def serve(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                if not self._adopted:
                    await self.adopt()
                await self.beat()
            except StokerError as error:  # the next one counts the time as well
                logger.warning("usage is not counted up to now: %s", error)

    async def beat(self) -> None:
        """Count what runs up to now; nothing is written where nothing runs.

        Raises:
            StoreError: not stored.
        """
        if self._core.jobs.holders():
            await self._core.store.call(JobStore.meter_beat, read_tick())

    async def head(self) -> UsageHead:
        """How far the ledger has come.

        Raises:
            ApiError: it cannot be read.
        """
        with as_api_error():
            return await self._core.store.read(JobStore.meter_head)

    async def rows(self, chain: str, after: int) -> UsageRows:
        """Rows for the hub, at most `ROWS_AT_ONCE`.

        Raises:
            ApiError: they cannot be read.
        """
        with as_api_error():
            return await self._core.store.read(JobStore.meter_rows, chain, after, ROWS_AT_ONCE)

    async def sums(self, begins: int, ends: int, by: UsageBy) -> list[UsageSum]:
        """GPU time from `begins` up to `ends`, or up to the last heartbeat where that is later.

        Raises:
            ApiError: it cannot be read.
        """
        with as_api_error():
            return await self._core.store.read(JobStore.meter_sums, begins, ends, by)
