"""Reading the configuration again on an admin's word: what `scontrol reconfigure` asks for. The same as SIGHUP."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from agent.api.errors import ApiError, StokerError
from agent.api.queue import Reloaded
from agent.server.base import caller_of, json_response


class ReloadRoutes:
    """The handler."""

    def __init__(self, read_again: Callable[[], list[str]]) -> None:
        """`read_again` gives the settings that need a restart."""
        self._read_again = read_again

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the address below `root`."""
        router.add_post(f"{root}/reload", self._reload)

    async def _reload(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("reading the configuration again")
        try:
            differ = self._read_again()
        except StokerError as error:
            raise ApiError(409, "bad_config", str(error)) from error
        return json_response(Reloaded(need_restart=tuple(differ)))
