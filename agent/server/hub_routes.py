"""The hub's addresses: the same as an agent's, for the whole cluster, and `/v1/nodes/NAME/…` passed on to that node.

Rules kept here: the loop never blocks, nodes are called from their own workers; a node decides who may do what, told by
`Stoker-User` whom the hub acts for.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from aiohttp import web

from agent import __version__
from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import (
    API_VERSION,
    ActivateRequest,
    Hello,
    Job,
    JobUpdate,
    Licence,
    LicenceAsk,
    LicenceOrder,
    LicenceRelease,
    LicenceUpdate,
    LinkState,
    NodeUpdate,
    Wire,
)
from agent.config import Config
from agent.hub import metrics
from agent.hub.fleet import Fleet, Member
from agent.hub.seats import Seats
from agent.server.admins import count_admins
from agent.server.base import caller_of, json_response, metrics_response, query_int, read_body
from agent.server.feed import Feed
from agent.server.hub_find import member_with
from agent.server.hub_queues import HubQueues, looking_again
from agent.server.hub_submit import HubSubmit
from agent.server.job_routes import query_filter
from agent.server.passthrough import pass_on
from agent.server.stream import WRITE_DEADLINE_S, serve_watch
from agent.telemetry.metrictext import Family, plain
from agent.telemetry.textfile import Textfile

LIST_WAIT_S = 3.0
"""A list waits this long for a node, then shows what was last heard of it."""
LIST_DEFAULT, LIST_MAX = 1000, 10_000
HISTORY_DEFAULT, HISTORY_MAX = 200, 1000
"""Rows of the licence's trail."""
JOB_FILTERS = ("since", "until", "before", "array", "cron", "name", "account", "partition", "qos", "id", "steps")
"""Of `GET /v1/jobs`, for the nodes to apply."""


class HubService:
    """The handlers."""

    def __init__(
        self,
        config: Config,
        *,
        fleet: Fleet,
        seats: Seats,
        feed: Feed,
        write_deadline_s: float = WRITE_DEADLINE_S,
    ) -> None:
        """`write_deadline_s` is how long the reader of a node's answer may take nothing."""
        self._fleet = fleet
        self._seats = seats
        self._feed = feed
        self._hello = Hello(api=API_VERSION, version=__version__, server="hub", cluster=config.cluster)
        self._submit = HubSubmit(config.hub_state_dir / "hub.db", fleet, write_deadline_s=write_deadline_s)
        self._pass_on = partial(pass_on, write_deadline_s=write_deadline_s)
        self._queues = HubQueues(fleet)
        self._table = config.metrics
        self._textfile: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the placements, and begin to publish.

        Raises:
            StokerError: `hub.db` cannot be used.
        """
        await self._submit.start()
        self._fleet.listen(self._feed.publish)
        if self._table.hub_textfile is not None:
            textfile = Textfile(
                self._table.hub_textfile, self._table.interval_s, self._plain_metrics, "metrics.hub_textfile"
            )
            self._textfile = asyncio.create_task(textfile.serve(), name="metrics-textfile")

    async def stop(self) -> None:
        """Close the placements, and take the textfile away."""
        if self._textfile is not None:
            self._textfile.cancel()
            await asyncio.gather(self._textfile, return_exceptions=True)
        await self._submit.stop()

    def add_routes(self, app: web.Application) -> None:
        """Put the addresses on `app`, and count who uses those that are for admins."""
        count_admins(app, lambda _, name: self._seats.note_admin(name))
        app.router.add_get("/v1/hello", self._get_hello)
        app.router.add_get("/v1/nodes", self._get_nodes)
        app.router.add_get("/v1/watch", self._watch)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/v1/jobs", self._get_jobs)
        app.router.add_post("/v1/jobs", self._submit.submit)
        app.router.add_get("/v1/licence", self._get_licence)
        app.router.add_post("/v1/licence", self._activate)
        app.router.add_get("/v1/licence/history", self._get_history)
        app.router.add_post("/v1/licence/request", self._ask_vendor)
        app.router.add_post("/v1/licence/release", self._give_back)
        app.router.add_post("/v1/licence/order", self._order)
        app.router.add_post("/v1/jobs/plan", self._submit.plan)
        app.router.add_route("*", "/v1/jobs/{ref:\\d{1,12}(_\\d{1,9})?}{rest:(/.*)?}", self._bare_job)
        self._queues.add_routes(app)
        app.router.add_route("*", "/v1/nodes/{name}/{rest:.+}", self._node)

    # --- the cluster --------------------------------------------------------------------------------------------------

    async def _get_hello(self, _: web.Request) -> web.Response:
        return json_response(self._hello)

    async def _get_nodes(self, _: web.Request) -> web.Response:
        return json_response(self._fleet.statuses())

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return metrics_response(request, await self._families())

    async def _families(self) -> list[Family]:
        licence = await self._licence_if_any()
        return list(metrics.families(self._fleet.statuses(), licence, self._hello.cluster, round(time.time(), 3)))

    async def _plain_metrics(self) -> str:
        return plain(await self._families())

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        return await serve_watch(request, self._feed, self._full_state)

    async def _full_state(self) -> list[Wire]:
        licence = await self._licence_if_any()
        return [
            self._hello,
            *(NodeUpdate(status=status) for status in self._fleet.statuses()),
            *(JobUpdate(job=job) for job in self._fleet.jobs()),
            *([LicenceUpdate(licence=licence)] if licence is not None else []),
        ]

    async def _licence_if_any(self) -> Licence | None:
        """The licence, or nothing where it cannot be read: logged there, and nodes and jobs are shown all the same."""
        try:
            return await self._seats.licence()
        except ApiError:
            return None

    async def _get_licence(self, _: web.Request) -> web.Response:
        return json_response(await self._seats.licence())

    async def _get_history(self, request: web.Request) -> web.Response:
        limit = query_int(request, "limit", HISTORY_DEFAULT, least=1) or HISTORY_DEFAULT
        return json_response(await self._seats.history(min(limit, HISTORY_MAX)))

    async def _activate(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("activating a licence")
        body = await read_body(request, ActivateRequest)
        return json_response(await self._seats.activate(body.document))

    async def _ask_vendor(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("asking the vendor for a licence")
        body = await read_body(request, LicenceAsk)
        return json_response(await self._seats.ask_vendor(body.want))

    async def _give_back(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("giving a licence back")
        body = await read_body(request, LicenceRelease)
        return json_response(await self._seats.give_back(body.to))

    async def _order(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("ordering seats")
        body = await read_body(request, LicenceOrder)
        return json_response(await self._seats.order(body))

    async def _node(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        calls = self._fleet.calls(name)
        # The path as it was sent, not as it was decoded: /v1/nodes/NAME/REST.
        path = f"/v1/{request.rel_url.raw_path.split('/', 4)[4]}"
        return await self._pass_on(request, calls, path, on_status=looking_again(self._fleet, name, path))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def _get_jobs(self, request: web.Request) -> web.Response:
        limit = min(query_int(request, "limit", LIST_DEFAULT, least=1) or LIST_DEFAULT, LIST_MAX)
        user, states = request.query.get("user"), request.query.get("state")
        wanted = query_filter(request)
        more = {name: request.query[name] for name in JOB_FILTERS if name in request.query}

        async def of(member: Member) -> list[Job]:
            if member.link.state is LinkState.UP:
                try:
                    async with asyncio.timeout(LIST_WAIT_S):
                        return await member.calls.call(lambda client: client.jobs(states, user, limit, **more))
                except (TimeoutError, ApiError):
                    pass  # it stays in the list with what was last heard; its link will show what is wrong
            return member.last_heard(wanted)

        lists = await asyncio.gather(*(of(member) for member in self._fleet.members()))
        jobs = [job for each in lists for job in each]
        jobs.sort(key=lambda job: (job.submitted_at, job.node, job.id), reverse=True)
        return json_response(jobs[:limit])

    async def _bare_job(self, request: web.Request) -> web.StreamResponse:
        member = await member_with(self._fleet, JobRef.parse(request.match_info["ref"]))
        return await self._pass_on(request, self._fleet.calls(member.name), request.rel_url.raw_path)
