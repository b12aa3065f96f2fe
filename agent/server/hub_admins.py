"""Who uses admin verbs, noticed at the hub as they are answered: the licence counts such persons, and refuses none.

A verb that a node carries out counts by its address, once the node has allowed it. Root counts as the account that it
says was behind `sudo`, where there is such an account: a wrong word changes a count, and nothing that is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from agent.hub.seats import Seats
from agent.server.base import caller_of

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


def count_admins(app: web.Application, seats: Seats) -> None:
    """Have those counted who were allowed an admin verb."""

    @web.middleware
    async def noticed(request: web.Request, handler: _Handler) -> web.StreamResponse:
        answer = await handler(request)
        if answer.status < 400 and is_admin_verb(request.method, request.path):
            caller = caller_of(request)
            await seats.note_admin(caller.behind or caller.user)
        return answer

    app.middlewares.append(noticed)
