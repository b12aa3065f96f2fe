"""NDJSON streams: one line is one JSON object is one write, and a heartbeat a second while there is nothing to say."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from agent.api.types import Heartbeat, Wire
from agent.server.feed import Feed

HEARTBEAT_S = 1.0
_GATHER_S = 0.1
"""How long what happens after a message is gathered into the next: a burst is then told in a few writes."""

WRITE_DEADLINE_S = 15.0
"""A reader that takes nothing for this long is gone, or no use to anyone."""

_encoder = msgspec.json.Encoder()


class Streams:
    """The handlers that stream, so that a server that stops can end them first."""

    def __init__(self) -> None:
        self._tasks: weakref.WeakSet[asyncio.Task[object]] = weakref.WeakSet()

    def add_current(self) -> None:
        """Count the handler that calls this among them."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)

    async def end(self, _: web.Application) -> None:
        """Cancel them all."""
        for task in list(self._tasks):
            task.cancel()


STREAMS = web.AppKey("streams", Streams)


class NdjsonStream:
    """An answer that stays open; made by `open`."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    @classmethod
    async def open(cls, request: web.Request) -> NdjsonStream:
        """Send the headers. The handler ends, cancelled, when the server stops: a stream would else hold it up."""
        request.app[STREAMS].add_current()
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


async def serve_watch(
    request: web.Request, feed: Feed, first: Callable[[], Awaitable[Sequence[Wire]]]
) -> web.StreamResponse:
    """Answer with the full state that `first` gives, then with whatever `feed` publishes, until the reader leaves.

    Subscribed before the state is read: a change in between is told twice sooner than not at all.
    """
    subscription = feed.subscribe()
    try:
        stream = await NdjsonStream.open(request)
        try:
            await stream.send(*await first())
            while True:
                messages = await subscription.take(HEARTBEAT_S)
                await (stream.send(*messages) if messages else stream.heartbeat())
                await asyncio.sleep(_GATHER_S)
        except ConnectionResetError:
            return stream.response
    finally:
        feed.unsubscribe(subscription)
