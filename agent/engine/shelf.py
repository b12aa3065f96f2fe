"""The shelf behind the event loop: small durable things, put and dropped together on the store's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from agent.engine.storethread import StoreThread
from agent.jobs.store import JobStore

_T = TypeVar("_T", bound=msgspec.Struct)


class Shelf:
    """See `agent.jobs.shelf`."""

    def __init__(self, store: StoreThread) -> None:
        self._store = store

    async def all(self, kind: str, type_: type[_T]) -> list[_T]:
        """Everything of a kind, in the order in which it was first put there."""
        return list((await self._store.read(JobStore.all, kind, type_)).values())

    async def change(
        self, put: Sequence[tuple[str, str | int, msgspec.Struct]], drop: Sequence[tuple[str, str | int]] = ()
    ) -> None:
        """Put and drop things of (kind, key): all or none, and on disk when this returns.

        Raises:
            StoreError: nothing was changed.
        """
        await self._store.call(_change, put, drop)

    async def next_number(self, kind: str) -> int:
        """A number for a new thing of a kind; never the same again.

        Raises:
            StoreError: not stored.
        """
        return await self._store.call(JobStore.next_number, kind)


def _change(
    store: JobStore, put: Sequence[tuple[str, str | int, msgspec.Struct]], drop: Sequence[tuple[str, str | int]]
) -> None:
    with store.transaction():
        for kind, key, value in put:
            store.put(kind, key, value)
        for kind, key in drop:
            store.drop(kind, key)
