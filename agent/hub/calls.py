"""Blocking calls to one node, made from the event loop.

Each node has workers of its own, so that one which hangs uses up nobody else's. Short calls and lasting answers are
apart: a followed log holds a worker for hours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.api.call import RawAnswer
from agent.api.client import Client
from agent.api.errors import TransportError
from agent.hub.errors import NodeBusyError, NodeUnreachableError
from agent.hub.places import Places

CALL_WORKERS = 3
WAITING_MAX = 32

_T = TypeVar("_T")


class NodeCalls:
    """Calls to one node; used from the event loop."""

    def __init__(self, name: str, clients: Sequence[Client], room: Sequence[int]) -> None:
        """`clients` are one for each connection that `room` counts; the first also makes the hub's own calls."""
        self.name = name
        self.places = Places(name, room)
        self._clients = tuple(clients)
        self._short = ThreadPoolExecutor(CALL_WORKERS, thread_name_prefix=f"call {name}")
        self._long = ThreadPoolExecutor(self.places.lasting_max, thread_name_prefix=f"stream {name}")
        self._waiting = 0

    async def call(self, work: Callable[[Client], _T], connection: int = 0) -> _T:
        """Do `work` with the node's client in a worker.

        Raises:
            NodeBusyError: too many already wait for it.
            NodeUnreachableError: it does not answer.
            ApiError: the node's own.
        """
        if self._waiting >= WAITING_MAX:
            raise NodeBusyError(f"{self.name} is slow and {WAITING_MAX} calls wait for it; try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._short, work, self._clients[connection])
        except TransportError as error:
            raise NodeUnreachableError(self.name, error) from error
        finally:
            self._waiting -= 1

    async def next_piece(self, answer: RawAnswer, *, lasting: bool) -> bytes:
        """The next bytes of an answer that has its place; empty at its end.

        Raises:
            ApiError, TransportError: it broke, or the node went silent.
        """
        if not lasting:
            return await self.call(lambda _: answer.read())
        return await asyncio.get_running_loop().run_in_executor(self._long, answer.read)

    def close(self) -> None:
        """End what runs by closing its connections, and let the workers go."""
        for client in self._clients:
            client.close()
        for workers in (self._short, self._long):
            workers.shutdown(wait=False, cancel_futures=True)
