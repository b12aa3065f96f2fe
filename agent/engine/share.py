"""The fair share kept up: running jobs are charged every few minutes, and who is due how much is told.

Rules kept here: the store has the truth; in memory is what it said last, read again whenever something was charged.
Between two charges all use decays alike, so the order of the queue does not need it to be worked out anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from agent.api.errors import StokerError
from agent.api.queue import Share
from agent.api.types import JobState
from agent.engine import charges
from agent.engine.accept import as_api_error
from agent.engine.core import Core
from agent.engine.facts import Facts
from agent.engine.policy import shares_of
from agent.jobs.row import JobRow
from agent.jobs.schedule.fairshare import standings

CHARGE_S = 300.0
"""How often running jobs are charged."""

_REFRESH_S = 0.5
"""How soon after the end of a job its use counts: not once for each of a hundred that end in a second."""

logger = logging.getLogger(__name__)


class FairShare:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, facts: Facts) -> None:
        self._core = core
        self._facts = facts
        self._changed = asyncio.Event()
        core.on_keep(self._keep)

    async def load(self) -> None:
        """Read what was used.

        Raises:
            StoreError: it cannot be read.
        """
        self._facts.usage = await self._core.store.read(charges.usage, self._core.config, int(self._core.clock()))

    async def serve(self) -> None:
        """Charge and read until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + CHARGE_S
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
                await asyncio.sleep(_REFRESH_S)
            except TimeoutError:
                due = loop.time() + CHARGE_S
                await self._attempt(self.charge_running())
            self._changed.clear()
            await self._attempt(self.load())
            self._core.wake()

    async def charge_running(self) -> None:
        """Charge what runs for what it used since the last time.

        Raises:
            StoreError: nothing was charged.
        """
        await self._core.store.call(charges.charge_running, self._core.config, int(self._core.clock()))

    async def shares(self) -> list[Share]:
        """See `Engine.shares`."""
        with as_api_error():
            await self.load()
        config, usage = self._core.config, self._facts.usage
        due = shares_of(config.accounts)
        pairs = {(row.spec.account or "", row.user) for row in self._core.jobs}
        found = standings(pairs, usage, due)
        shares = {(account.name, user): count for account in config.accounts for user, count in account.users.items()}
        return [
            Share(
                account=account,
                user=user,
                shares=shares.get((account, user), 1),
                shares_norm=standing.shares_norm,
                usage_gpu_s=usage.get((account, user), 0.0),
                usage_norm=standing.usage_norm,
                fairshare=standing.factor,
            )
            for (account, user), standing in sorted(found.items())
        ]

    def _keep(self, row: JobRow) -> None:
        if row.status.attempt and not self._holds(row):
            self._changed.set()

    def _holds(self, row: JobRow) -> bool:
        return not row.status.state.is_final and row.status.state is not JobState.PENDING

    async def _attempt(self, work: Awaitable[None]) -> None:
        try:
            await work
        except StokerError as error:  # the next time includes it
            logger.warning("the fair share is not up to date: %s", error)
