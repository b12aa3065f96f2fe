"""The addresses around the queue: what a submit may name, the fair share, drains and reservations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from agent.api.queue import DrainChange, DrainRequest, PartitionUpdate, ReservationRequest, ReservationUpdate
from agent.server.base import json_response, read_body
from agent.server.job_routes import asker_of

if TYPE_CHECKING:
    from agent.engine.base import Engine


class QueueRoutes:
    """The handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the addresses below `root`."""
        router.add_get(f"{root}/partitions", self._rules)
        router.add_get(f"{root}/shares", self._shares)
        router.add_get(f"{root}/reservations", self._reservations)
        router.add_post(f"{root}/reservations", self._reserve)
        router.add_post(f"{root}/reservations/{{name}}", self._update_reservation)
        router.add_delete(f"{root}/reservations/{{name}}", self._unreserve)
        router.add_post(f"{root}/partitions/{{name}}", self._update_partition)
        router.add_post(f"{root}/drain", self._drain)
        router.add_post(f"{root}/resume", self._resume)

    async def _rules(self, _: web.Request) -> web.Response:
        return json_response(self._engine.rules())

    async def _shares(self, _: web.Request) -> web.Response:
        return json_response(await self._engine.shares())

    async def _reservations(self, _: web.Request) -> web.Response:
        return json_response(self._engine.reservations())

    async def _reserve(self, request: web.Request) -> web.Response:
        asked = await read_body(request, ReservationRequest)
        return json_response(await self._engine.reserve(asked, asker_of(request)), status=201)

    async def _update_reservation(self, request: web.Request) -> web.Response:
        asked, name = await read_body(request, ReservationUpdate), request.match_info["name"]
        return json_response(await self._engine.update_reservation(name, asked, asker_of(request)))

    async def _update_partition(self, request: web.Request) -> web.Response:
        asked, name = await read_body(request, PartitionUpdate), request.match_info["name"]
        return json_response(await self._engine.update_partition(name, asked, asker_of(request)))

    async def _unreserve(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.unreserve(request.match_info["name"], asker_of(request)))

    async def _drain(self, request: web.Request) -> web.Response:
        asked = await read_body(request, DrainRequest)
        return _changed(asked, await self._engine.drain(asked, asker_of(request)))

    async def _resume(self, request: web.Request) -> web.Response:
        asked = await read_body(request, DrainRequest) if request.can_read_body else DrainRequest()
        return _changed(asked, await self._engine.resume(asked, asker_of(request)))


def _changed(asked: DrainRequest, change: DrainChange) -> web.Response:
    return json_response(change if asked.tell else change.drains)
