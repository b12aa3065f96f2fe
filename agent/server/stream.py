"""NDJSON streams: one line is one JSON object is one write, and a heartbeat a second while there is nothing to say."""

from __future__ import annotations

import asyncio
import time
import weakref

import msgspec
from aiohttp import web

from agent.api.types import Heartbeat, Wire

HEARTBEAT_S = 1.0
WRITE_DEADLINE_S = 15.0
"""A reader that takes nothing for this long is gone, or no use to anyone."""

STREAMS: web.AppKey[weakref.WeakSet[asyncio.Task[object]]] = web.AppKey("streams", weakref.WeakSet)
"""Tasks of the handlers that stream."""

_encoder = msgspec.json.Encoder()


def keep_streams(app: web.Application) -> None:
    """Let `app` have streams, and end them first when it stops."""
    streams: weakref.WeakSet[asyncio.Task[object]] = weakref.WeakSet()
    app[STREAMS] = streams
    app.on_shutdown.append(_end_streams)


async def _end_streams(app: web.Application) -> None:
    for task in list(app[STREAMS]):
        task.cancel()


class NdjsonStream:
    """An answer that stays open; made by `open`."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    @classmethod
    async def open(cls, request: web.Request) -> NdjsonStream:
        """Send the headers. The handler ends, cancelled, when the server stops: a stream would else hold it up."""
        task = asyncio.current_task()
        if task is not None:
            request.app[STREAMS].add(task)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        return cls(response)

    async def send(self, *messages: Wire) -> None:
        """Write messages, all in one write.

        Raises:
            ConnectionResetError: the reader is gone, or has taken nothing for `WRITE_DEADLINE_S`.
        """
        data = b"".join(_encoder.encode(each) + b"\n" for each in messages)
        try:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await self._response.write(data)
        except TimeoutError as error:
            raise ConnectionResetError("the reader of the stream takes nothing") from error

    async def heartbeat(self) -> None:
        """Say that we are alive."""
        await self.send(Heartbeat(time=time.time()))

    async def finish(self) -> web.StreamResponse:
        """End the answer in order."""
        await self._response.write_eof()
        return self._response

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns."""
        return self._response
