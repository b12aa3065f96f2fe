"""A small agent for tests of client and hub: the API of one node, kept in memory, in a process of its own.

It answers like an agent whose jobs run for ever; its processes are forked from one that is loaded (`nursery`).
Job 1 exists from the start. `GET /v1/seen` tells which requests came, with the headers that matter. A script may hold
`fake: refuse STATUS` (it is not stored) or `fake: drop` (it is, and the connection ends without an answer).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from agent.api.decode import decode
from agent.api.types import (
    API_VERSION,
    Gpu,
    GpuSource,
    Hello,
    Job,
    JobState,
    JobUpdate,
    LeaseRefusal,
    LeaseReply,
    LicenceStage,
    LinkState,
    LogChunk,
    Node,
    NodeStatus,
    NodeUpdate,
    SubmitReply,
    SubmitRequest,
)
from agent.gpu.frames import UNKNOWN_UUID
from agent.server.stream import STREAMS, NdjsonStream, Streams
from licensing.ed25519 import PrivateKey
from tests.fakes import nursery
from tests.fakes.queue import FakeQueue, answer, refuse

BEAT_S = 0.2


def job(number: int, node: str, state: JobState = JobState.RUNNING, **more: Any) -> Job:
    values: dict[str, Any] = {"name": "train.sh", "user": "alice", "submitted_at": number, "work_dir": "/w"} | more
    return Job(id=number, node=node, state=state, **values)


def node(name: str, gpus: int = 8, **more: Any) -> Node:
    values: dict[str, Any] = {
        "version": "0",
        "time": time.time(),
        "boot_id": "b",
        "mode": "user",
        "key": key_of(name),
        "gpu_source": GpuSource.SIMULATED,
        "cpu_count": 1,
        "memory_total_bytes": 64 * 2**30,
        "memory_available_bytes": 32 * 2**30,
        "gpus": tuple(Gpu(index=i, uuid=f"GPU-{name}-{i}", name="S", sampled_at=0.0, seated=True) for i in range(gpus)),
    }
    return Node(name=name, **(values | more))


def key_of(name: str) -> str:
    """Every fake agent has a key of its own: two under one key are a clone to the hub."""
    private = PrivateKey(hashlib.sha256(f"fake agent {name}".encode()).digest())
    return private.public.raw.hex()


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What sets one fake agent apart."""

    name: str = "n1"
    gpus: int = 8
    gpu_name: str = "S"
    unread: int = 0
    """How many of the GPUs were never read."""
    cpus: int = 1
    log_bytes: int = 1024
    jobs: tuple[Job, ...] = ()
    """Beside job 1."""
    says_refused: bool = True
    """Whether it says what refusal it shows; an agent of before does not, and takes none back."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of it is told."""

    path: str
    traits: Traits


class FakeAgent:
    def __init__(self, traits: Traits) -> None:
        self.name = traits.name
        made = node(traits.name, traits.gpus, cpu_count=traits.cpus)
        self.node = msgspec.structs.replace(made, gpus=tuple(_as_described(gpu, traits) for gpu in made.gpus))
        self.jobs = {1: job(1, traits.name)} | {each.id: each for each in traits.jobs}
        self.queue = FakeQueue(self)
        self.keys: dict[str, int] = {}
        self.log = bytes(range(256)) * (traits.log_bytes // 256)
        self.lease_seq = 0
        self.says_refused = traits.says_refused
        self.refusals: list[LeaseRefusal] = []
        self.seen: list[dict[str, str]] = []
        self.streams = 0

    def app(self) -> web.Application:
        @web.middleware
        async def note(request: web.Request, handler: Any) -> web.StreamResponse:
            wanted = ("Stoker-User", "Idempotency-Key")
            self.seen.append(
                {"what": f"{request.method} {request.raw_path}"} | {h: request.headers.get(h, "") for h in wanted}
            )
            return await handler(request)  # type: ignore[no-any-return]

        app = web.Application(middlewares=[note])
        app[STREAMS] = Streams()
        add = app.router.add_route
        add("GET", "/v1/seen", self.get_seen)
        add("GET", "/v1/hello", self.get_hello)
        add("GET", "/v1/nodes", self.get_nodes)
        add("GET", "/v1/watch", self.watch)
        add("GET", "/v1/jobs", self.get_jobs)
        add("POST", "/v1/jobs", self.submit)
        for root in ("/v1", f"/v1/nodes/{self.name}"):
            add("GET", f"{root}/node", self.get_node)
            add("GET", root + r"/jobs/{id:\d+(?:_\d+)?}", self.get_job)
            add("POST", root + r"/jobs/{id:\d+(?:_\d+)?}/cancel", self.cancel)
            add("GET", root + r"/jobs/{id:\d+(?:_\d+)?}/log", self.get_log)
        self.queue.add_routes(add)
        add("GET", "/v1/lease", self.get_lease)
        add("PUT", "/v1/lease", self.put_lease)
        add("PUT", "/v1/lease/refusal", self.put_refusal)
        add("GET", "/metrics", self.get_metrics)
        return app

    @property
    def hello(self) -> Hello:
        return Hello(api=API_VERSION, version="0", server="agent", cluster=self.name)

    async def get_seen(self, _: web.Request) -> web.Response:
        return answer({"seen": self.seen, "streams": self.streams, "refusals": self.refusals})

    async def get_hello(self, _: web.Request) -> web.Response:
        return answer(self.hello)

    async def get_node(self, _: web.Request) -> web.Response:
        return answer(self.node)

    def status(self) -> NodeStatus:
        return NodeStatus(name=self.name, link=LinkState.UP, age_s=0.0, node=self.node)

    async def get_nodes(self, _: web.Request) -> web.Response:
        return answer([self.status()])

    async def watch(self, request: web.Request) -> web.StreamResponse:
        stream = await NdjsonStream.open(request)
        await stream.send(self.hello, NodeUpdate(status=self.status()), *(JobUpdate(job=j) for j in self.jobs.values()))
        told = len(self.jobs)
        while True:
            await asyncio.sleep(BEAT_S)
            new = list(self.jobs.values())[told:]
            told += len(new)
            await stream.send(NodeUpdate(status=self.status()), *(JobUpdate(job=j) for j in new))

    async def get_jobs(self, request: web.Request) -> web.Response:
        return answer(self.queue.matching(dict(request.query)))

    async def submit(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        body = msgspec.json.decode(await request.read(), type=SubmitRequest)
        if body.node not in (None, self.name):
            return refuse(404, "unknown_node", f"this is {self.name}")
        if told := re.search(r"fake: refuse (\d+)", body.script):
            return refuse(int(told[1]), "refused", "the fake agent was told to refuse")
        created = key not in self.keys
        if created:
            number = max(self.jobs) + 1
            self.keys[key] = number
            self.jobs[number] = job(number, self.name, user=request.headers.get("Stoker-User", "alice"))
            self.queue.asked.append({"verb": "submit", "body": msgspec.to_builtins(body)})
        if "fake: drop" in body.script and request.transport is not None:
            request.transport.abort()
        return answer(SubmitReply(job=self.jobs[self.keys[key]], created=created), 201 if created else 200)

    async def get_job(self, request: web.Request) -> web.Response:
        found = self.queue.find(request.match_info["id"])
        return answer(found) if found else refuse(404, "not_found", "no such job; see stoker jobs")

    async def cancel(self, request: web.Request) -> web.Response:
        found = self.queue.find(request.match_info["id"])
        if found is None:
            return refuse(404, "no_such_job", "no such job; see stoker jobs")
        self.jobs[found.id] = msgspec.structs.replace(found, state=JobState.CANCELLED)
        return answer(self.jobs[found.id])

    async def get_log(self, request: web.Request) -> web.StreamResponse:
        offset = int(request.query.get("offset", "0"))
        if request.query.get("follow") == "1":
            return await self.follow(request, offset)
        limit = int(request.query.get("limit", "1048576"))
        headers = {"Stoker-Log-Offset": str(offset), "Stoker-Log-End": str(len(self.log))}
        return web.Response(body=self.log[offset : offset + limit], headers=headers)

    async def follow(self, request: web.Request, offset: int) -> web.StreamResponse:
        self.streams += 1
        try:
            stream = await NdjsonStream.open(request)
            await stream.send(self.hello, LogChunk(offset=offset, data=self.log[offset:]))
            while True:
                await asyncio.sleep(BEAT_S)
                await stream.heartbeat()
        finally:
            self.streams -= 1

    async def get_lease(self, _: web.Request) -> web.Response:
        return answer(self.lease())

    def lease(self) -> LeaseReply:
        refused = self.refusals[-1].code if self.refusals and self.says_refused else ""
        return LeaseReply(seq=self.lease_seq, expires_at=None, stage=LicenceStage.ACTIVE, refused=refused)

    async def put_refusal(self, request: web.Request) -> web.Response:
        self.refusals.append(decode(await request.read(), LeaseRefusal))
        return answer(self.lease())

    async def put_lease(self, request: web.Request) -> web.Response:
        self.lease_seq += 1
        return answer(LeaseReply(seq=self.lease_seq, expires_at=99, stage=LicenceStage.ACTIVE))

    async def get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(text="# EOF\n")


@contextmanager
def fake_agent(path: Path, name: str = "n1", gpus: int = 8, **more: Any) -> Iterator[nursery.Child]:
    """A fake agent in a process of its own, listening on `path` when this returns; `more` are `Traits`."""
    order = Order(path=str(path), traits=Traits(name=name, gpus=gpus, **more))
    child = nursery.born(__name__, msgspec.json.encode(order).decode())
    try:
        yield child
    finally:
        child.kill()
        child.wait(timeout=60)
        child.close()


def live(order: str, ready: Callable[[], None]) -> None:
    """A fake agent's whole life."""
    asyncio.run(_live(msgspec.json.decode(order, type=Order), ready))


def _as_described(gpu: Gpu, traits: Traits) -> Gpu:
    uuid = f"{UNKNOWN_UUID}{gpu.index}" if gpu.index < traits.unread else gpu.uuid
    return msgspec.structs.replace(gpu, name=traits.gpu_name, uuid=uuid)


async def _live(order: Order, ready: Callable[[], None]) -> None:
    runner = web.AppRunner(FakeAgent(order.traits).app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    Path(order.path).unlink(missing_ok=True)
    await web.UnixSite(runner, order.path).start()
    ready()
    await asyncio.Event().wait()
