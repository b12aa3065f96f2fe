"""`GET /v1/usage` for the cluster, and the report of it: `POST /v1/usage/export`.

Everybody may see everybody's sums, as everybody sees everybody's jobs. Names stay on the site: sums by user are made of
the nodes' own rows, and the report is made of the hub's ledger, which knows none.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable

from aiohttp import web

from agent.api.errors import ApiError
from agent.api.types import LinkState
from agent.api.usage import UsageExport, UsageFile, UsageMonth, UsageSum
from agent.hub.fleet import Fleet, Member
from agent.hub.metering import Metering
from agent.hub.seats import Seats
from agent.server.base import caller_of, json_response, read_body
from agent.server.months import month_asked, month_before, span_of
from agent.server.usage_routes import by_asked

LIST_WAIT_S = 5.0
_MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")


class HubUsage:
    """The handlers."""

    def __init__(self, fleet: Fleet, seats: Seats, metering: Metering) -> None:
        self._fleet = fleet
        self._seats = seats
        self._metering = metering

    def add_routes(self, app: web.Application) -> None:
        """Put the addresses on `app`."""
        app.router.add_get("/v1/usage", self._month)
        app.router.add_post("/v1/usage/export", self._export)

    async def _month(self, request: web.Request) -> web.Response:
        """All nodes' sums put together; a node that does not answer is named."""
        month, by = month_asked(request, int(time.time())), by_asked(request)

        async def of(member: Member) -> UsageMonth | None:
            try:
                async with asyncio.timeout(LIST_WAIT_S):
                    return await member.calls.call(lambda client: client.usage(month, by))
            except (TimeoutError, ApiError):
                return None

        members = self._fleet.members()
        up = [each for each in members if each.link.state is LinkState.UP]
        answers = dict(zip((each.name for each in up), await asyncio.gather(*map(of, up)), strict=True))
        heard = [each for each in answers.values() if each is not None]
        told = UsageMonth(
            month=month,
            by=by,
            sums=_joined(each for answer in heard for each in answer.sums),
            nodes=tuple(sorted(name for name, answer in answers.items() if answer is not None)),
            silent=tuple(sorted(each.name for each in members if answers.get(each.name) is None)),
        )
        return json_response(told)

    async def _export(self, request: web.Request) -> web.Response:
        caller_of(request).require_admin("closing and signing a month's usage")
        asked, now = await read_body(request, UsageExport), int(time.time())
        month = asked.month or month_before(now)
        if not _MONTH.fullmatch(month):
            raise ApiError(400, "bad_query", f"{month[:40]!r} is no month; write it as 2026-11", "$.month")
        await self._metering.fetch_all()
        begins, ends = span_of(month)
        name, text = await self._seats.with_licence(
            lambda licence: licence.usage_export(begins, ends, now, rows=asked.rows)
        )
        return json_response(UsageFile(name=name, text=text))


def _joined(sums: Iterable[UsageSum]) -> tuple[UsageSum, ...]:
    found: dict[str, UsageSum] = {}
    for each in sums:
        known = found.get(each.name, UsageSum(name=each.name, gpu_ms=0, jobs=0))
        found[each.name] = UsageSum(name=each.name, gpu_ms=known.gpu_ms + each.gpu_ms, jobs=known.jobs + each.jobs)
    return tuple(sorted(found.values(), key=lambda each: (-each.gpu_ms, each.name)))
