"""The agent's addresses: this node, its jobs, its lease. The hub answers the same ones for the whole cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from aiohttp import web

from agent import __version__
from agent.api.errors import ApiError
from agent.api.types import (
    API_VERSION,
    Hello,
    JobUpdate,
    LeaseGrant,
    LeaseRefusal,
    LeaseReply,
    LicenceUpdate,
    LinkState,
    NodeIdentity,
    NodeStatus,
    NodeUpdate,
    Wire,
)
from agent.api.usage import UsageHead
from agent.config import Config
from agent.server.base import caller_of, json_response, read_body
from agent.server.feed import Feed
from agent.server.hubcontact import HubContact
from agent.server.job_routes import JobRoutes
from agent.server.metrics_routes import MetricsRoutes
from agent.server.node_view import NodeView
from agent.server.queue_routes import QueueRoutes
from agent.server.stream import serve_watch

if TYPE_CHECKING:
    from agent.engine.base import Engine
    from agent.gate import NodeGate
    from agent.gpu.sampler import Sampler
    from agent.telemetry.host import HostReader

_log = logging.getLogger(__name__)

SNAPSHOT_S = 1.0
LICENCE_TIME_S = 60.0
RECENT_JOBS = 200
"""Jobs a new watcher is told of at once: all that have not ended, then the newest that have."""


class Routes(Protocol):
    """Further addresses of a part of the agent: recurring jobs, notices."""

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put them below `root`."""
        ...


class AgentService:
    """The handlers and the one-second beat that publishes the node's snapshot."""

    def __init__(
        self,
        config: Config,
        *,
        engine: Engine,
        sampler: Sampler,
        gate: NodeGate,
        host: HostReader,
        more: Sequence[Routes] = (),
        usage: Callable[[], Awaitable[UsageHead]] | None = None,
        contact: HubContact | None = None,
    ) -> None:
        """`usage` tells where the usage ledger stands, for the hub to hear with each lease."""
        self._contact = contact or HubContact()
        self._config = config
        self._engine = engine
        self._gate = gate
        self._view = NodeView(config, sampler=sampler, gate=gate, engine=engine, host=host)
        self._feed = Feed()
        self._hello = Hello(api=API_VERSION, version=__version__, server="agent", cluster=config.name)
        self._jobs = JobRoutes(config, engine, self._hello)
        self._queue = QueueRoutes(engine)
        self._metrics = MetricsRoutes(
            config,
            view=self._view,
            engine=engine,
            sampler=sampler,
            incidents=engine.all_incidents,
            hub_silent_s=lambda: self._contact.silent_s() if gate.lease_id is not None else None,
        )
        self._more = [self._metrics, *more]
        self._usage = usage
        self._gate_lock = asyncio.Lock()
        self._beats: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to publish."""
        await self._metrics.start()
        self._engine.listen(lambda job: self._feed.publish(("job", job.node, job.id), JobUpdate(job=job)))
        self._beats = [
            asyncio.create_task(self._publish_snapshots(), name="snapshots"),
            asyncio.create_task(self._keep_time(), name="licence-time"),
        ]

    async def stop(self) -> None:
        """Stop publishing."""
        for beat in self._beats:
            beat.cancel()
        await asyncio.gather(*self._beats, return_exceptions=True)
        await self._metrics.stop()

    def add_routes(self, app: web.Application) -> None:
        """Put the addresses on `app`, each also under this node's own name, as a hub would have it."""
        own = f"/v1/nodes/{self._config.name}"
        app.router.add_get("/v1/nodes", self._get_nodes)
        app.router.add_get("/metrics", self._metrics.answer)
        for root in ("/v1", own):
            app.router.add_get(f"{root}/hello", self._get_hello)
            app.router.add_get(f"{root}/node", self._get_node)
            app.router.add_get(f"{root}/watch", self._watch)
            self._jobs.add(app.router, root)
            self._queue.add(app.router, root)
            for each in self._more:
                each.add(app.router, root)
            app.router.add_get(f"{root}/licence", self._get_licence)
            app.router.add_post(f"{root}/licence", self._post_licence)
            app.router.add_get(f"{root}/lease", self._get_lease)
            app.router.add_put(f"{root}/lease", self._put_lease)
            app.router.add_delete(f"{root}/lease", self._give_back_lease)
            app.router.add_put(f"{root}/lease/refusal", self._put_refusal)
            app.router.add_post(f"{root}/lease/identity", self._renew_identity)

    # --- the node -----------------------------------------------------------------------------------------------------

    async def _get_hello(self, _: web.Request) -> web.Response:
        return json_response(self._hello)

    async def _get_node(self, _: web.Request) -> web.Response:
        return json_response(self._view.snapshot())

    async def _get_nodes(self, _: web.Request) -> web.Response:
        return json_response([self._status()])

    def _status(self) -> NodeStatus:
        return NodeStatus(name=self._config.name, link=LinkState.UP, age_s=0.0, node=self._view.snapshot())

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        return await serve_watch(request, self._feed, self._full_state)

    async def _full_state(self) -> list[Wire]:
        jobs = await self._engine.recent(RECENT_JOBS)
        licence = LicenceUpdate(licence=self._gate.licence(_now()))
        return [
            self._hello,
            NodeUpdate(status=self._status()),
            licence,
            *(JobUpdate(job=job) for job in jobs),
        ]

    async def _publish_snapshots(self) -> None:
        while True:
            try:
                self._feed.publish(("node", self._config.name), NodeUpdate(status=self._status()))
                self._feed.publish(("licence",), LicenceUpdate(licence=self._gate.licence(_now())))
            except Exception:  # noqa: BLE001 - the rim of a loop that must live; a missed beat shows as age
                _log.exception("a snapshot could not be made")
            await asyncio.sleep(SNAPSHOT_S)

    async def _keep_time(self) -> None:
        """Let the gate bring to disk, off the loop, how far time has come: a clock set back must gain nothing."""
        while True:
            await asyncio.sleep(LICENCE_TIME_S)
            async with self._gate_lock:
                await asyncio.to_thread(self._gate.tick, _now())

    # --- licence ------------------------------------------------------------------------------------------------------

    async def _get_licence(self, _: web.Request) -> web.Response:
        return json_response(self._gate.licence(_now()))

    async def _post_licence(self, _: web.Request) -> web.Response:
        raise ApiError(
            409, "not_the_hub", "licences are held by the hub, and this is an agent; send the licence to stoker-hub"
        )

    async def _get_lease(self, request: web.Request) -> web.Response:
        self._require_hub(request)
        return json_response(await self._with_usage(self._gate.lease_reply(_now())))

    async def _put_lease(self, request: web.Request) -> web.Response:
        self._require_hub(request)
        grant = await read_body(request, LeaseGrant)
        async with self._gate_lock:  # verified and brought to disk in a thread, one at a time
            reply = await asyncio.to_thread(self._gate.accept, grant.token, _now())
        self._engine.wake()
        return json_response(await self._with_usage(reply))

    async def _with_usage(self, reply: LeaseReply) -> LeaseReply:
        """A ledger that cannot be read costs nobody a lease."""
        try:
            return msgspec.structs.replace(reply, usage=await self._usage()) if self._usage is not None else reply
        except ApiError as error:
            _log.warning("the hub is not told where the usage ledger stands: %s", error)
            return reply

    async def _give_back_lease(self, request: web.Request) -> web.Response:
        self._require_hub(request)
        async with self._gate_lock:
            word = await asyncio.to_thread(self._gate.give_back, _now())
        self._engine.wake()
        return json_response(LeaseGrant(token=word))

    async def _put_refusal(self, request: web.Request) -> web.Response:
        self._require_hub(request)
        refusal = await read_body(request, LeaseRefusal)
        self._gate.hear(refusal.code, refusal.message, refusal.fix)
        return json_response(self._gate.lease_reply(_now()))

    async def _renew_identity(self, request: web.Request) -> web.Response:
        self._require_hub(request)
        async with self._gate_lock:
            key = await asyncio.to_thread(self._gate.renew_identity, _now())
        self._engine.wake()
        return json_response(NodeIdentity(key=key))

    def _require_hub(self, request: web.Request) -> None:
        if not caller_of(request).trusted:
            raise ApiError(403, "forbidden", "leases are between the hub and the node; node.act_for names the hub")
        self._contact.heard()


def _now() -> int:
    return int(time.time())
