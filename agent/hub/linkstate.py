"""What the hub believes of a link to a node, without clock, thread or I/O.

`handle(event)` and `tick(now)` say whether the state changed. Times are monotonic seconds. A node that says nothing for
3 s is STALE, for 15 s LOST; a link that broke is LOST at once. LOST stays LOST, with its reason, through every attempt
to connect again: only a message of the node ends it.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from agent.api.stream import SILENCE_S, STALE_S
from agent.api.types import LinkState

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 60.0
RETRY_HERE_S = 4.0
"""Where the node's socket is on this machine: an attempt costs nothing, and whoever started its agent waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The node said something, if only a heartbeat."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The link broke, or could not be made."""

    at: float
    reason: str
    """A sentence: what failed and what to do."""
    retry_at: float


class _Word(enum.Enum):
    """What an event or the clock says."""

    HEARD = enum.auto()
    QUIET = enum.auto()
    SILENT = enum.auto()
    GONE = enum.auto()


_MOVES = {
    (LinkState.CONNECTING, _Word.HEARD): LinkState.UP,
    (LinkState.CONNECTING, _Word.GONE): LinkState.LOST,
    (LinkState.UP, _Word.HEARD): LinkState.UP,
    (LinkState.UP, _Word.QUIET): LinkState.STALE,
    (LinkState.UP, _Word.SILENT): LinkState.LOST,
    (LinkState.UP, _Word.GONE): LinkState.LOST,
    (LinkState.STALE, _Word.HEARD): LinkState.UP,
    (LinkState.STALE, _Word.QUIET): LinkState.STALE,
    (LinkState.STALE, _Word.SILENT): LinkState.LOST,
    (LinkState.STALE, _Word.GONE): LinkState.LOST,
    (LinkState.LOST, _Word.HEARD): LinkState.UP,
    (LinkState.LOST, _Word.GONE): LinkState.LOST,
}
"""Silence moves nothing that is not up: a node never heard is CONNECTING until its first attempt fails."""


class Link:
    """State of one link."""

    def __init__(self, now: float) -> None:
        self.state = LinkState.CONNECTING
        self.reason: str | None = None
        """Why it is not up, in a sentence."""
        self._heard_at = now
        """Last word of the node; before the first, when we began to wait for it."""
        self._retry_at: float | None = None

    def handle(self, event: Heard | Gone) -> bool:
        """Take an event in; whether the state changed."""
        if isinstance(event, Heard):
            self._heard_at = max(self._heard_at, event.at)
            self._retry_at = None
            return self._move(_Word.HEARD, None)
        self._retry_at = event.retry_at
        return self._move(_Word.GONE, event.reason)

    def tick(self, now: float) -> bool:
        """Let the clock speak; whether the state changed."""
        silence_s = now - self._heard_at
        if silence_s >= SILENCE_S:
            return self._move(_Word.SILENT, f"no word from it for {SILENCE_S:.0f} s; the hub connects again")
        if silence_s >= STALE_S:
            return self._move(_Word.QUIET, f"no word from it for over {STALE_S:.0f} s")
        return False

    def age_s(self, now: float) -> float:
        """Seconds since the node's last word."""
        return max(0.0, now - self._heard_at)

    def retry_in_s(self, now: float) -> float | None:
        """Seconds until the next attempt to connect; None when none is waited for."""
        return max(0.0, self._retry_at - now) if self._retry_at is not None else None

    def _move(self, word: _Word, reason: str | None) -> bool:
        to = _MOVES.get((self.state, word))
        if to is None:
            return False
        changed = to is not self.state
        self.state = to
        self.reason = reason
        return changed


class Backoff:
    """Waits between attempts: full jitter, so that a hub that restarts does not call all nodes in the same instant."""

    def __init__(self, jitter: random.Random, *, first_s: float = RETRY_FIRST_S, max_s: float = RETRY_MAX_S) -> None:
        self._jitter = jitter
        self._first_s = first_s
        self._max_s = max_s
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """Seconds to wait before the next attempt: up to a ceiling that doubles each time."""
        wait_s = self._jitter.uniform(0, self._ceiling_s)
        self._ceiling_s = min(self._max_s, self._ceiling_s * 2)
        return wait_s

    def reset(self) -> None:
        """Begin again at the first ceiling: the last connection was a good one."""
        self._ceiling_s = self._first_s
