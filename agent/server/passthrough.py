"""A request passed on to a node, and its answer passed back as it comes: nothing is collected, streams stay streams.

Rules kept here: of the caller's headers only those below travel on; the caller's name is the hub's word, never the
caller's; when the caller goes away the node's answer is closed, and when the node fails in the middle the caller's
connection is cut, so that a short answer cannot be taken for a whole one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from agent.api.client import KEY_HEADER, RawAnswer
from agent.api.errors import ApiError, TransportError
from agent.hub.calls import NodeCalls
from agent.server.base import BODY_DEADLINE_S, caller_of
from agent.server.peer import USER_HEADER
from agent.server.stream import STREAMS

_REQUEST_HEADERS = ("Content-Type", KEY_HEADER)
_ANSWER_HEADERS = ("Content-Type", "Content-Length", "Cache-Control", "Stoker-Log-Offset", "Stoker-Log-End")
_STREAM = "application/x-ndjson"

_log = logging.getLogger(__name__)


async def pass_on(request: web.Request, calls: NodeCalls, path: str, body: bytes | None = None) -> web.StreamResponse:
    """Ask the node the same at `path` (the query travels along), on behalf of the caller.

    Sent on is the caller's body, or `body` where the hub has changed it.

    Raises:
        ApiError: the node does not answer, or the caller's body does not arrive.
    """
    content = await _read(request) if body is None else body
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    headers[USER_HEADER] = caller_of(request).user
    target = f"{path}?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else path
    answer = await calls.call(lambda client: client.request_raw(request.method, target, headers=headers, body=content))
    try:
        if (answer.header("Content-Type") or "").startswith(_STREAM):
            return await _pass_stream(request, calls, answer)
        return await _pass_back(request, answer, lambda: calls.call(lambda _: answer.read()))
    finally:
        answer.close()


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await request.read()
    except TimeoutError as error:
        raise ApiError(408, "slow_body", f"the body did not arrive within {BODY_DEADLINE_S:.0f} s") from error


async def _pass_stream(request: web.Request, calls: NodeCalls, answer: RawAnswer) -> web.StreamResponse:
    request.app[STREAMS].add_current()
    calls.begin_stream()
    try:
        return await _pass_back(request, answer, lambda: calls.next_piece(answer))
    finally:
        calls.end_stream()


async def _pass_back(
    request: web.Request, answer: RawAnswer, next_piece: Callable[[], Awaitable[bytes]]
) -> web.StreamResponse:
    kept = {name: value for name in _ANSWER_HEADERS if (value := answer.header(name)) is not None}
    response = web.StreamResponse(status=answer.status, headers=kept)
    await response.prepare(request)
    try:
        while piece := await next_piece():
            await response.write(piece)
        await response.write_eof()
    except ConnectionResetError:
        return response  # the caller has gone
    except (TransportError, ApiError) as error:
        _log.info("%s %s ended early: %s", request.method, request.path, error)
        if request.transport is not None:
            request.transport.abort()
    return response
