"""Months as the usage addresses are asked for them: `2026-11`, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from aiohttp import web

from agent.api.errors import ApiError

_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])")


def month_asked(request: web.Request, now: int) -> str:
    """The query's month, or the present one.

    Raises:
        ApiError: 400, it is none.
    """
    asked = request.query.get("month")
    if asked is None:
        return f"{datetime.fromtimestamp(now, UTC):%Y-%m}"
    if not _MONTH.fullmatch(asked):
        raise ApiError(400, "bad_query", f"month={asked[:40]!r} is no month; write it as 2026-11", "month")
    return asked


def span_of(month: str) -> tuple[int, int]:
    """First second of a month, and the first after it."""
    year, number = (int(each) for each in month.split("-"))
    ends = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(datetime(year, number, 1, tzinfo=UTC).timestamp()), int(ends.timestamp())


def month_before(now: int) -> str:
    """The last whole month."""
    begins, _ = span_of(f"{datetime.fromtimestamp(now, UTC):%Y-%m}")
    return f"{datetime.fromtimestamp(begins - 1, UTC):%Y-%m}"
