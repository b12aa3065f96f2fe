"""Addresses of what runs beside the queue: recurring jobs, and notices that are not delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from agent.api.errors import ApiError
from agent.api.types import CronRequest
from agent.server.base import caller_of, json_response, key_of, read_body

if TYPE_CHECKING:
    from agent.engine.courier import Courier
    from agent.engine.cron import CronKeeper


class ClerkRoutes:
    """The handlers."""

    def __init__(self, node: str, *, cron: CronKeeper, courier: Courier) -> None:
        self._node = node
        self._cron = cron
        self._courier = courier

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the addresses below `root`."""
        router.add_get(f"{root}/cron", self._list)
        router.add_post(f"{root}/cron", self._add)
        router.add_delete(f"{root}/cron/{{id:\\d{{1,12}}}}", self._remove)
        router.add_get(f"{root}/notices", self._undelivered)
        router.add_post(f"{root}/notices/retry", self._retry)

    async def _list(self, _: web.Request) -> web.Response:
        return json_response(self._cron.all())

    async def _add(self, request: web.Request) -> web.Response:
        caller, key = caller_of(request), key_of(request)
        asked = await read_body(request, CronRequest)
        if asked.request.node not in (None, self._node):
            raise ApiError(404, "unknown_node", f"this is {self._node}, not {asked.request.node}", "$.request.node")
        return json_response(await self._cron.add(asked, user=caller.user, uid=caller.uid, key=key), status=201)

    async def _remove(self, request: web.Request) -> web.Response:
        cron_id = int(request.match_info["id"])
        caller_of(request).require_owner(self._cron.owner(cron_id), f"recurring job {cron_id}")
        return json_response(await self._cron.remove(cron_id))

    async def _undelivered(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("reading undelivered notices")
        return json_response(await self._courier.undelivered())

    async def _retry(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("sending notices again")
        return json_response(await self._courier.retry())
