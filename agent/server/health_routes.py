"""The addresses of incidents and of the inventory: what is wrong, what was, what is there by right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from agent.server.base import json_response
from agent.server.job_routes import asker_of

if TYPE_CHECKING:
    from agent.engine.incidents import Incidents


class HealthRoutes:
    """The handlers."""

    def __init__(self, incidents: Incidents) -> None:
        self._incidents = incidents

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the addresses below `root`."""
        router.add_get(f"{root}/incidents", self._list)
        router.add_get(f"{root}/inventory", self._inventory)
        router.add_post(f"{root}/inventory/accept", self._accept)
        router.add_post(f"{root}/incidents/{{id:\\d{{1,12}}}}/acknowledge", self._acknowledge)
        router.add_post(f"{root}/incidents/{{id:\\d{{1,12}}}}/clear", self._clear)

    async def _inventory(self, _: web.Request) -> web.Response:
        return json_response(self._incidents.inventory())

    async def _accept(self, request: web.Request) -> web.Response:
        return json_response(await self._incidents.accept(asker_of(request)))

    async def _list(self, request: web.Request) -> web.Response:
        """`?over=1` gives those that are over as well."""
        return json_response(self._incidents.all(over=request.query.get("over") in ("1", "true")))

    async def _acknowledge(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        return json_response(await self._incidents.acknowledge(number, asker_of(request)))

    async def _clear(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        return json_response(await self._incidents.clear(number, asker_of(request)))
