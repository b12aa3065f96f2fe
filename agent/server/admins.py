"""Who uses admin verbs, noticed as they are answered: the licence counts such persons, and refuses none.

A verb that a node carries out for the hub counts at the hub by its address, once the node has allowed it; one that
somebody asks the node's own agent for is told to the hub with the node's usage ledger. Root counts as the account that
it says was behind `sudo`, where there is such an account: a wrong word changes a count, and nothing that is allowed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from agent.server.base import caller_of
from agent.server.peer import USER_HEADER

KEPT_S = 86_400.0
"""For how long an agent tells of somebody: a hub that is away for longer does not hear of it."""

_VERBS = {
    "GET": "notices",
    "POST": (
        r"licence|licence/(request|release|order)|usage/export|drain|resume|reload|partitions/[^/]+|reservations"
        r"|reservations/[^/]+|incidents/\d+/(acknowledge|clear)|inventory/accept|notices/retry"
    ),
    "DELETE": "reservations/[^/]+",
}
"""What a server keeps for admins, behind `/v1/` or `/v1/nodes/NAME/`."""
_PATHS = {method: re.compile(rf"/v1/(?:nodes/[^/]+/)?(?:{rest})") for method, rest in _VERBS.items()}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_admin_verb(method: str, path: str) -> bool:
    """Whether this address is for admins alone."""
    pattern = _PATHS.get(method)
    return pattern is not None and pattern.fullmatch(path) is not None


class Admins:
    """Who used admin verbs at this agent lately. Lives on the event loop; an agent that is started again forgets."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last: dict[str, float] = {}

    async def note(self, request: web.Request, name: str) -> None:
        """Somebody did; whom the hub acts for it has counted itself."""
        if USER_HEADER not in request.headers:
            self._last[name] = self._monotonic()

    def recent(self) -> dict[str, int]:
        """Their names, in order, and how many seconds ago each last did: no clock of a node decides who counts."""
        now = self._monotonic()
        self._last = {name: at for name, at in self._last.items() if at > now - KEPT_S}
        return {name: int(now - at) for name, at in sorted(self._last.items())}


def count_admins(app: web.Application, note: Callable[[web.Request, str], Awaitable[None]]) -> None:
    """Have those noted who were allowed an admin verb."""

    @web.middleware
    async def noticed(request: web.Request, handler: _Handler) -> web.StreamResponse:
        answer = await handler(request)
        if answer.status < 400 and is_admin_verb(request.method, request.path):
            caller = caller_of(request)
            await note(request, caller.behind or caller.user)
        return answer

    app.middlewares.append(noticed)
