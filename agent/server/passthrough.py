"""A request passed on to a node, and its answer passed back as it comes: nothing is collected, streams stay streams.

Rules kept here: of the caller's headers only those below travel on; the caller's name is the hub's word, never the
caller's; an answer holds a place at its node until it is over, and one whose reader takes nothing is over; when the
caller goes away the node's answer is closed, and when anything fails in the middle the caller's connection is cut, so
that a short answer cannot be taken for a whole one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote

from aiohttp import web

from agent.api.call import RawAnswer
from agent.api.errors import ApiError, TransportError
from agent.api.types import KEY_HEADER
from agent.hub.calls import NodeCalls
from agent.server.base import BODY_DEADLINE_S, caller_of
from agent.server.peer import USER_HEADER
from agent.server.stream import STREAMS, WRITE_DEADLINE_S

_REQUEST_HEADERS = ("Accept", "Content-Type", KEY_HEADER)
_ANSWER_HEADERS = ("Content-Type", "Content-Length", "Cache-Control", "Stoker-Log-Offset", "Stoker-Log-End")
_LASTING = ("/log", "/watch")
"""How addresses end whose answers go on until their reader has enough."""
_STREAM = "application/x-ndjson"

_log = logging.getLogger(__name__)


async def pass_on(
    request: web.Request,
    calls: NodeCalls,
    path: str,
    body: bytes | None = None,
    *,
    on_status: Callable[[int], Awaitable[None]] | None = None,
    write_deadline_s: float = WRITE_DEADLINE_S,
) -> web.StreamResponse:
    """Ask the node the same at `path` (the query travels along), on behalf of the caller.

    Args:
        request: the caller's.
        calls: to the node.
        path: as it stands in a URL.
        body: sent on instead of the caller's, where the hub has changed it.
        on_status: told the answer's status before the caller hears of it.
        write_deadline_s: how long a reader may take nothing.

    Raises:
        NodeBusyError, ApiError: nothing was sent: no place is free, or the caller's body does not arrive.
        NodeUnreachableError: the node does not answer.
    """
    content = await _read(request) if body is None else body
    user = caller_of(request).user
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    headers[USER_HEADER] = user
    target = f"{path}?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else path
    lasting = unquote(path).endswith(_LASTING)
    with calls.places.take(user, lasting=lasting) as connection:
        answer = await calls.call(
            lambda client: client.request_raw(request.method, target, headers=headers, body=content), connection
        )
        try:
            if on_status is not None:
                await on_status(answer.status)
            if (answer.header("Content-Type") or "").startswith(_STREAM):
                request.app[STREAMS].add_current()
            return await _pass_back(
                request, answer, partial(calls.next_piece, answer, lasting=lasting), write_deadline_s
            )
        finally:
            answer.close()


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await request.read()
    except TimeoutError as error:
        raise ApiError(408, "slow_body", f"the body did not arrive within {BODY_DEADLINE_S:.0f} s") from error


async def _pass_back(
    request: web.Request, answer: RawAnswer, next_piece: Callable[[], Awaitable[bytes]], write_deadline_s: float
) -> web.StreamResponse:
    kept = {name: value for name in _ANSWER_HEADERS if (value := answer.header(name)) is not None}
    response = web.StreamResponse(status=answer.status, headers=kept)
    await response.prepare(request)
    try:
        while piece := await next_piece():
            async with asyncio.timeout(write_deadline_s):
                await response.write(piece)
        async with asyncio.timeout(write_deadline_s):
            await response.write_eof()
    except ConnectionResetError:
        return response  # the caller has gone
    except TimeoutError:
        _cut(request, f"its reader has taken nothing for {write_deadline_s:.0f} s")
    except (TransportError, ApiError) as error:
        _cut(request, str(error))
    return response


def _cut(request: web.Request, why: str) -> None:
    _log.info("%s %s ended early: %s", request.method, request.path, why)
    if request.transport is not None:
        request.transport.abort()
