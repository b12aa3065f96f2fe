"""What watchers are told: the latest message per key, so that a slow watcher skips states but never falls behind.

One `Feed` a server; it lives on the event loop and is only touched there. Keys are `("node", name)`,
`("job", node, id)` and `("licence",)`; memory is bounded by the number of keys, not by the number of changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from agent.api.types import Wire


class Subscription:
    """One watcher's unread messages, latest value per key, in order of first change."""

    def __init__(self) -> None:
        self._unread: dict[Hashable, Wire] = {}
        self._changed = asyncio.Event()

    def put(self, key: Hashable, message: Wire) -> None:
        """Note a message, replacing an unread one of the same key."""
        self._unread[key] = message
        self._changed.set()

    async def take(self, timeout_s: float) -> list[Wire]:
        """All unread messages; empty when none came within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return []
        self._changed.clear()
        unread, self._unread = self._unread, {}
        return list(unread.values())


class Feed:
    """Fans messages out to its subscriptions."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def publish(self, key: Hashable, message: Wire) -> None:
        """Tell every watcher."""
        for each in self._subscriptions:
            each.put(key, message)

    def subscribe(self) -> Subscription:
        """Begin to watch; end with `unsubscribe`."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a watcher."""
        self._subscriptions.discard(subscription)
