"""`GET /metrics` of the agent: the page is put together here, for the address and for the textfile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from agent.api.types import FINAL_STATES, JobState
from agent.jobs.filters import JobFilter
from agent.server.base import metrics_response
from agent.telemetry import openmetrics
from agent.telemetry.healthmetrics import Tally
from agent.telemetry.host import read_own, read_totals
from agent.telemetry.metrictext import Family, plain
from agent.telemetry.textfile import Textfile

if TYPE_CHECKING:
    from agent.api.health import Incident
    from agent.config import Config
    from agent.engine.base import Engine
    from agent.gpu.sampler import Sampler
    from agent.server.node_view import NodeView

MAX_HELD = 10_000
"""More jobs than can ever run at once on one node: a bound for the list of jobs."""


class MetricsRoutes:
    """The handler, and the textfile where one is asked for."""

    def __init__(
        self,
        config: Config,
        *,
        view: NodeView,
        engine: Engine,
        sampler: Sampler,
        incidents: Callable[[], Sequence[Incident]],
        hub_silent_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`incidents` gives those that are open and those that were; `hub_silent_s` is `None` without a lease."""
        self._hub_silent_s = hub_silent_s
        self._config = config
        self._view = view
        self._engine = engine
        self._sampler = sampler
        self._incidents = incidents
        self._tally = Tally()
        self._textfile: Textfile | None = None
        self._beat: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to count incidents, and to write the textfile."""
        self._tally.look(self._incidents())
        table = self._config.metrics
        if table.textfile is not None:
            self._textfile = Textfile(table.textfile, table.interval_s, self._plain, "metrics.textfile")
            self._beat = asyncio.create_task(self._textfile.serve(), name="metrics-textfile")

    async def stop(self) -> None:
        """Take the textfile away."""
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the address below `root`: so a hub passes a node's page on."""
        router.add_get(f"{root}/metrics", self.answer)

    async def answer(self, request: web.Request) -> web.Response:
        """The page as OpenMetrics or in the older text format, whichever is asked for."""
        return metrics_response(request, await self.families())

    async def families(self) -> list[Family]:
        """All metrics now."""
        held = frozenset(JobState) - FINAL_STATES - {JobState.PENDING}  # who waits is counted, not listed
        jobs = await self._engine.jobs(JobFilter(states=held, limit=MAX_HELD))
        counts = await self._engine.job_counts()
        return list(openmetrics.families(self._view.snapshot(), jobs, counts, self._more()))

    def _more(self) -> openmetrics.More:
        incidents = self._incidents()
        self._tally.look(incidents)
        textfile = self._textfile
        return openmetrics.More(
            queue=self._engine.queue_tally(),
            incidents=incidents,
            tally=self._tally,
            totals=read_totals(),
            own=read_own(),
            silent_s=round(self._sampler.silent_s(), 3),
            textfile=None if textfile is None else (round(textfile.written_at, 3), textfile.errors),
            hub_silent_s=None if (silent := self._hub_silent_s()) is None else round(silent, 3),
            process_ids=self._config.metrics.process_ids,
        )

    async def _plain(self) -> str:
        return plain(await self.families())
