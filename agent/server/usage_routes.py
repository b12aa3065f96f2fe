"""`GET /v1/usage`: GPU time of a month by user, account or model; and the ledger's rows for the hub.

Everybody may see everybody's sums, as everybody sees everybody's jobs. The rows are between the hub and the node.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from agent.api.errors import ApiError
from agent.api.usage import UsageBy, UsageMonth
from agent.server.admins import Admins
from agent.server.base import caller_of, json_response, query_int
from agent.server.hubcontact import HubContact
from agent.server.months import month_asked, span_of

if TYPE_CHECKING:
    from agent.engine.usage import Metering


class UsageRoutes:
    """The handlers."""

    def __init__(self, node: str, metering: Metering, contact: HubContact, admins: Admins) -> None:
        self._admins = admins
        self._contact = contact
        self._node = node
        self._metering = metering

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the addresses below `root`."""
        router.add_get(f"{root}/usage", self._month)
        router.add_get(f"{root}/usage/rows", self._rows)

    async def _month(self, request: web.Request) -> web.Response:
        """`?month=2026-11&by=user|account|model`; this month and `user` when left out."""
        month, by = month_asked(request, int(time.time())), by_asked(request)
        sums = await self._metering.sums(*span_of(month), by)
        return json_response(UsageMonth(month=month, by=by, sums=tuple(sums), nodes=(self._node,)))

    async def _rows(self, request: web.Request) -> web.Response:
        """`?chain=&after=`: rows of a chain after a number."""
        if not caller_of(request).trusted:
            raise ApiError(403, "forbidden", "rows are between the hub and the node; node.act_for names the hub")
        self._contact.heard()
        chain, after = request.query.get("chain", ""), query_int(request, "after", 0)
        rows = await self._metering.rows(chain, after or 0)
        admins = self._admins.recent()
        told = msgspec.structs.replace(rows, admins=tuple(admins), admins_ago_s=tuple(admins.values()))
        return json_response(told)


def by_asked(request: web.Request) -> UsageBy:
    """What is summed by.

    Raises:
        ApiError: 400, with what there is.
    """
    asked = request.query.get("by", UsageBy.USER)
    known = [str(each) for each in UsageBy]
    if asked not in known:
        raise ApiError(400, "bad_query", f"by={asked[:40]!r} is not known: {', '.join(known)}", "by")
    return UsageBy(asked)
