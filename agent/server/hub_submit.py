"""A submit to the hub: given to one node, and to the same one each time it is repeated.

Rules kept here: what no node would take is refused before a node is chosen; a job goes where the jobs are that it
waits for; an array or a sweep is judged by the chosen node's own rules before it is noted anywhere; a submit's node is
on disk before the submit is passed on; a node that surely did not store it leaves the key free for another; while it
may have, a repetition asks the same node, which answers with the job it made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from agent.api.client import Client
from agent.api.decode import decode
from agent.api.errors import ApiError
from agent.api.types import KEY_HEADER, ErrorBody, SubmitRequest
from agent.hub.dependence import node_of
from agent.hub.errors import NodeUnreachableError
from agent.hub.fleet import Fleet
from agent.hub.placement import place
from agent.hub.store import PlacementStore
from agent.jobs import dependency, parse
from agent.jobs.errors import SpecError, StoreError
from agent.jobs.spec import JobSpec
from agent.server.base import caller_of, key_of, read_body
from agent.server.hub_find import jobs_numbered, names_away
from agent.server.passthrough import pass_on
from agent.server.peer import USER_HEADER, Caller

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class HubSubmit:
    """The handler of `POST /v1/jobs`, and thread `hub-store`, which owns the placements."""

    def __init__(self, path: Path, fleet: Fleet, *, write_deadline_s: float) -> None:
        self._path = path
        self._fleet = fleet
        self._pass_on = partial(pass_on, write_deadline_s=write_deadline_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hub-store")
        self._store: PlacementStore | None = None

    async def start(self) -> None:
        """Open the placements.

        Raises:
            StoreError: `hub.db` cannot be used.
        """
        run = asyncio.get_running_loop().run_in_executor
        self._store = await run(self._thread, PlacementStore.open, self._path, int(time.time()))

    async def stop(self) -> None:
        """Close the placements."""
        if self._store is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown()

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Serve one."""
        caller = caller_of(request)
        key = key_of(request)
        body = await read_body(request, SubmitRequest)
        node = await self._placed(caller, key, body)

        async def on_status(status: int) -> None:
            if 400 <= status < 500 and status != 409:  # 409 says that the node stored another request under this key
                await self._take_back(caller.uid, key)

        try:
            if body.node not in (None, node):
                raise _key_reused(node, body.node)
            calls = self._fleet.calls(node)
            forwarded = msgspec.json.encode(msgspec.structs.replace(body, node=node))
            return await self._pass_on(request, calls, "/v1/jobs", forwarded, on_status=on_status)
        except NodeUnreachableError:
            raise  # it may have been stored
        except ApiError:
            await self._take_back(caller.uid, key)  # nothing was sent
            raise

    async def plan(self, request: web.Request) -> web.StreamResponse:
        """Serve a dry run: asked of the node that a submit would go to now; nothing is noted."""
        body = await read_body(request, SubmitRequest)
        node = await self._choose(body, parsed(body), caller_of(request).user)
        forwarded = msgspec.json.encode(msgspec.structs.replace(body, node=node))
        return await self._pass_on(request, self._fleet.calls(node), "/v1/jobs/plan", forwarded)

    async def _placed(self, caller: Caller, key: str, body: SubmitRequest) -> str:
        """The node of this submit: the one it was sent to before, or the best one now; noted when this returns."""
        uid = caller.uid
        node = await self._in_store(lambda store: store.find(uid, key))
        if node is None:
            spec = parsed(body)
            chosen = node = await self._choose(body, spec, caller.user)
            if spec.array is not None:
                await self._judge(chosen, body, caller.user)
        place = node
        return await self._in_store(lambda store: store.add(uid, key, place, int(time.time())))

    async def _choose(self, body: SubmitRequest, spec: JobSpec, user: str) -> str:
        """The node that is named; else the one whose jobs it waits for; else the best one."""
        named = body.node or next(iter(spec.nodelist), None)
        if named is None and spec.dependency is not None and len(self._fleet.members()) > 1:
            known = await jobs_numbered(self._fleet, dependency.referenced(spec.dependency))
            named = node_of(spec, user, known, self._fleet.jobs(), names_away(self._fleet))
        if named is not None:
            return self._fleet.calls(named).name  # whether the job fits is for the node to say
        return place(spec, self._fleet.statuses(), self._fleet.gpus_asked())

    async def _judge(self, node: str, body: SubmitRequest, user: str) -> None:
        """Have the node plan what many jobs hang on: what it would refuse is refused with nothing noted.

        Raises:
            ApiError: the node's own refusal. That it cannot be asked is for the submit itself to find out.
        """
        asked = msgspec.json.encode(msgspec.structs.replace(body, node=node))
        headers = {"Content-Type": "application/json", USER_HEADER: user}

        def plan(client: Client) -> tuple[int, bytes]:
            answer = client.request_raw("POST", "/v1/jobs/plan", headers=headers, body=asked)
            try:
                return answer.status, b"".join(iter(answer.read, b""))
            finally:
                answer.close()

        try:
            status, told = await self._fleet.calls(node).call(plan)
        except ApiError as error:
            _log.info("node=%s cannot judge an array first: %s", node, error)
            return
        if 400 <= status < 500 and status not in (404, 405):  # an agent before the plan knows no such address
            raise _refusal(status, told)

    async def _take_back(self, uid: int, key: str) -> None:
        try:
            await self._in_store(lambda store: store.take_back(uid, key))
        except ApiError as error:  # the caller is to hear why the job was refused, and not this
            _log.warning("a placement stays: %s", error)

    async def _in_store(self, work: Callable[[PlacementStore], _T]) -> _T:
        store = self._store
        assert store is not None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, store)
        except StoreError as error:
            raise ApiError(503, "not_stored", f"the hub cannot note where the job goes: {error}") from error


def parsed(body: SubmitRequest) -> JobSpec:
    """The job, as every node will read it.

    Raises:
        ApiError: no node would take it.
    """
    try:
        return parse.parse(body, now=int(time.time()))
    except SpecError as error:
        raise ApiError(400, "bad_option", error.message, error.field) from error


def _refusal(status: int, told: bytes) -> ApiError:
    try:
        said = decode(told, ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ApiError(status, "refused", "the node refused it, and not in words of ours; see its log")
    return ApiError(status, said.code, said.message, said.field)


def _key_reused(used_on: str, asked: str | None) -> ApiError:
    message = f"this {KEY_HEADER} was used for a job on {used_on}; use a new one for {asked}"
    return ApiError(409, "key_reused", message, KEY_HEADER)
