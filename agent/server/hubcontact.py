"""When the hub was heard last: it asks each node for its lease, or for its usage ledger, at least once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable


class HubContact:
    """Counts from the agent's start until the hub is heard for the first time. Lives on the event loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._heard_at = monotonic()

    def heard(self) -> None:
        """It asked something that only a hub asks."""
        self._heard_at = self._monotonic()

    def silent_s(self) -> float:
        """For how long it has not."""
        return max(0.0, self._monotonic() - self._heard_at)
