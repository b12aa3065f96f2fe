"""Blocking calls to one node, made from the event loop.

Each node has workers of its own, so that one which hangs uses up nobody else's. Short calls and streams are apart: a
followed log holds a worker for hours. Over ssh a stream is a session of the one connection (sshd's MaxSessions is 10),
which is where the number of streams comes from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.api.client import Client, RawAnswer
from agent.api.errors import ApiError, DeadlineError, TransportError

CALL_WORKERS = 3
STREAMS = 5
"""With the link's own stream and kept connections within 10 sessions."""
WAITING_MAX = 32

_T = TypeVar("_T")


class NodeCalls:
    """Calls to one node; used from the event loop."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.client = client
        self._short = ThreadPoolExecutor(CALL_WORKERS, thread_name_prefix=f"call {name}")
        self._long = ThreadPoolExecutor(STREAMS, thread_name_prefix=f"stream {name}")
        self._waiting = 0
        self._streams = 0

    async def call(self, work: Callable[[Client], _T]) -> _T:
        """Do `work` with the node's client in a worker.

        Raises:
            ApiError: the node's own, 502/504 when it does not answer, 503 when too many already wait for it.
        """
        if self._waiting >= WAITING_MAX:
            raise ApiError(
                503, "node_busy", f"{self.name} is slow and {WAITING_MAX} calls wait for it; try again later"
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._short, work, self.client)
        except TransportError as error:
            raise unreachable(self.name, error) from error
        finally:
            self._waiting -= 1

    def begin_stream(self) -> None:
        """Take a stream's place; `end_stream` gives it back.

        Raises:
            ApiError: 503, all are taken.
        """
        if self._streams >= STREAMS:
            raise ApiError(503, "node_busy", f"{STREAMS} logs of {self.name} are followed already; close one")
        self._streams += 1

    def end_stream(self) -> None:
        """Give a stream's place back."""
        self._streams -= 1

    async def next_piece(self, answer: RawAnswer) -> bytes:
        """The next bytes of a stream that has its place; empty at its end.

        Raises:
            TransportError: it broke, or the node went silent.
        """
        return await asyncio.get_running_loop().run_in_executor(self._long, answer.read)

    def close(self) -> None:
        """End what runs by closing its connections, and let the workers go."""
        self.client.close()
        for workers in (self._short, self._long):
            workers.shutdown(wait=False, cancel_futures=True)


def unreachable(name: str, error: TransportError) -> ApiError:
    """What the hub answers when the node does not."""
    late = isinstance(error, DeadlineError)
    return ApiError(504 if late else 502, "node_unreachable", f"{name} does not answer: {error}")
