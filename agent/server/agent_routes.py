"""The agent's addresses: this node, its jobs, its lease. The hub answers the same ones for the whole cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aiohttp import web

from agent import __version__
from agent.api.errors import ApiError
from agent.api.types import (
    API_VERSION,
    FINAL_STATES,
    CancelRequest,
    Hello,
    JobState,
    JobUpdate,
    LeaseGrant,
    LicenceUpdate,
    LinkState,
    LogEnd,
    NodeStatus,
    NodeUpdate,
    SubmitReply,
    SubmitRequest,
    Wire,
)
from agent.config import Config
from agent.server.base import caller_of, json_response, key_of, query_int, query_states, read_body
from agent.server.feed import Feed
from agent.server.node_view import NodeView
from agent.server.stream import HEARTBEAT_S, NdjsonStream, serve_watch
from agent.telemetry import openmetrics

if TYPE_CHECKING:
    from agent.engine.base import Engine
    from agent.gate import NodeGate
    from agent.gpu.sampler import Sampler

_log = logging.getLogger(__name__)

SNAPSHOT_S = 1.0
LICENCE_TIME_S = 60.0
RECENT_JOBS = 200
"""Jobs a new watcher is told of at once: all that have not ended, then the newest that have."""

MAX_HELD = 10_000
"""More jobs than can ever run at once on one node: a bound for the metrics' list."""

LOG_ANSWER_BYTES = 8 * 1024 * 1024
"""Most of a log that one answer carries; a reader asks on from where it ended."""

_LOG_PIECE_BYTES = 256 * 1024
_LOG_POLL_S = 0.2
"""How often a followed log is looked at: a file grows without an event that aiohttp could await."""


class AgentService:
    """The handlers and the one-second beat that publishes the node's snapshot."""

    def __init__(self, config: Config, *, engine: Engine, sampler: Sampler, gate: NodeGate) -> None:
        self._config = config
        self._engine = engine
        self._gate = gate
        self._view = NodeView(config, sampler=sampler, gate=gate, engine=engine)
        self._feed = Feed()
        self._hello = Hello(api=API_VERSION, version=__version__, server="agent", cluster=config.name)
        self._gate_lock = asyncio.Lock()
        self._beats: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to publish."""
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

    def add_routes(self, app: web.Application) -> None:
        """Put the addresses on `app`, each also under this node's own name, as a hub would have it."""
        own = f"/v1/nodes/{self._config.name}"
        app.router.add_get("/v1/nodes", self._get_nodes)
        app.router.add_get("/metrics", self._get_metrics)
        for root in ("/v1", own):
            app.router.add_get(f"{root}/hello", self._get_hello)
            app.router.add_get(f"{root}/node", self._get_node)
            app.router.add_get(f"{root}/watch", self._watch)
            app.router.add_get(f"{root}/jobs", self._get_jobs)
            app.router.add_post(f"{root}/jobs", self._submit)
            app.router.add_get(f"{root}/jobs/{{id:\\d+}}", self._get_job)
            app.router.add_post(f"{root}/jobs/{{id:\\d+}}/cancel", self._cancel)
            app.router.add_get(f"{root}/jobs/{{id:\\d+}}/log", self._get_log)
            app.router.add_get(f"{root}/licence", self._get_licence)
            app.router.add_post(f"{root}/licence", self._post_licence)
            app.router.add_get(f"{root}/lease", self._get_lease)
            app.router.add_put(f"{root}/lease", self._put_lease)

    # --- the node -----------------------------------------------------------------------------------------------------

    async def _get_hello(self, _: web.Request) -> web.Response:
        return json_response(self._hello)

    async def _get_node(self, _: web.Request) -> web.Response:
        return json_response(self._view.snapshot())

    async def _get_nodes(self, _: web.Request) -> web.Response:
        return json_response([self._status()])

    async def _get_metrics(self, _: web.Request) -> web.Response:
        unfinished = frozenset(JobState) - FINAL_STATES
        jobs = await self._engine.jobs(states=unfinished, user=None, limit=self._config.jobs.max_pending + MAX_HELD)
        text = openmetrics.render(self._view.snapshot(), jobs, await self._engine.job_counts())
        return web.Response(body=text.encode(), headers={"Content-Type": openmetrics.CONTENT_TYPE})

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

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def _get_jobs(self, request: web.Request) -> web.Response:
        limit = query_int(request, "limit", 1000, least=1) or 1000
        user = request.query.get("user")
        return json_response(await self._engine.jobs(states=query_states(request), user=user, limit=min(limit, 10_000)))

    async def _submit(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        key = key_of(request)
        body = await read_body(request, SubmitRequest)
        if body.node not in (None, self._config.name):
            raise ApiError(404, "unknown_node", f"this is {self._config.name}, not {body.node}", "$.node")
        job, created = await self._engine.submit(body, user=caller.user, uid=caller.uid, key=key)
        return json_response(SubmitReply(job=job, created=created), status=201 if created else 200)

    async def _get_job(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.job(_job_id(request)))

    async def _cancel(self, request: web.Request) -> web.Response:
        asked = await read_body(request, CancelRequest) if request.can_read_body else CancelRequest()
        job_id = await self._own_job(request, "job")
        return json_response(await self._engine.cancel(job_id, by=caller_of(request).user, reason=asked.reason))

    async def _get_log(self, request: web.Request) -> web.StreamResponse:
        job_id = await self._own_job(request, "the log of job")
        offset = query_int(request, "offset", 0) or 0
        if request.query.get("follow") in ("1", "true"):
            return await self._follow(request, job_id, offset)
        limit = query_int(request, "limit", LOG_ANSWER_BYTES) or 0
        read = await self._engine.read_log(job_id, offset, min(limit, LOG_ANSWER_BYTES))
        start = read.chunks[0].offset if read.chunks else offset
        headers = {"Stoker-Log-Offset": str(start), "Stoker-Log-End": str(read.end)}
        # A gap ends the answer: its bytes are one run from the start offset; the reader asks on from there.
        return web.Response(body=_first_run(read.chunks), headers=headers, content_type="application/octet-stream")

    async def _follow(self, request: web.Request, job_id: int, offset: int) -> web.StreamResponse:
        stream = await NdjsonStream.open(request)
        try:
            await stream.send(self._hello)
            silent_since = time.monotonic()
            while True:
                job = await self._engine.job(job_id)  # before the read: what a job wrote before its end is then seen
                read = await self._engine.read_log(job_id, offset, _LOG_PIECE_BYTES)
                if read.chunks:
                    await stream.send(*read.chunks)
                    offset = read.chunks[-1].offset + len(read.chunks[-1].data)
                    silent_since = time.monotonic()
                elif job.state.is_final:
                    await stream.send(LogEnd(job=job))
                    return await stream.finish()
                else:
                    if time.monotonic() - silent_since >= HEARTBEAT_S:
                        await stream.heartbeat()
                        silent_since = time.monotonic()
                    await asyncio.sleep(_LOG_POLL_S)
        except ConnectionResetError:
            return stream.response

    async def _own_job(self, request: web.Request, what: str) -> int:
        job_id = _job_id(request)
        caller_of(request).require_owner(await self._engine.owner(job_id), f"{what} {job_id}")
        return job_id

    # --- licence ------------------------------------------------------------------------------------------------------

    async def _get_licence(self, _: web.Request) -> web.Response:
        return json_response(self._gate.licence(_now()))

    async def _post_licence(self, _: web.Request) -> web.Response:
        raise ApiError(
            409, "not_the_hub", "licences are held by the hub, and this is an agent; send the licence to stoker-hub"
        )

    async def _get_lease(self, request: web.Request) -> web.Response:
        self._require_hub(request)
        return json_response(self._gate.lease_reply(_now()))

    async def _put_lease(self, request: web.Request) -> web.Response:
        self._require_hub(request)
        grant = await read_body(request, LeaseGrant)
        async with self._gate_lock:  # verified and brought to disk in a thread, one at a time
            reply = await asyncio.to_thread(self._gate.accept, grant.token, _now())
        self._engine.wake()
        return json_response(reply)

    def _require_hub(self, request: web.Request) -> None:
        if not caller_of(request).trusted:
            raise ApiError(403, "forbidden", "leases are between the hub and the node; node.act_for names the hub")


def _now() -> int:
    return int(time.time())


def _job_id(request: web.Request) -> int:
    return int(request.match_info["id"][:12])


def _first_run(chunks: object) -> bytes:
    run = bytearray()
    end: int | None = None
    for chunk in chunks:  # type: ignore[attr-defined]
        if end is not None and chunk.offset != end:
            break
        run += chunk.data
        end = chunk.offset + len(chunk.data)
    return bytes(run)
