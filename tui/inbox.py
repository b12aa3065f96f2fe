"""The mailboxes between link threads and the screen: written by threads, emptied by one timer.

Rules kept here: a thread only puts and never touches a widget; one slot per node and per job, in which the newest value
overwrites the older, so a slow terminal never builds a queue; a log is a ring with a cap, and what the cap cuts is
counted. `put` and `drain` hold the lock for a few dictionary operations and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque

from agent.api.types import Heartbeat, Hello, JobUpdate, LicenceUpdate, LogChunk, LogEnd, NodeUpdate, WatchMessage
from tui.cluster import LinkDown

LOG_CAP_BYTES = 4 * 1024 * 1024

Item = WatchMessage | LinkDown


class Inbox:
    """Latest values of the watch stream, each with the monotonic second it arrived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[object, tuple[Item, float]] = {}

    def put(self, item: Item, arrived: float) -> None:
        """Leave a value; called by the link thread."""
        key = _slot(item)
        with self._lock:
            if isinstance(item, Hello):
                self._slots.clear()  # the full state follows; what an older stream said is not newer than that
            self._slots.pop(key, None)  # the order is that of arrival, so the newest goes to the end
            self._slots[key] = item, arrived

    def drain(self) -> list[tuple[Item, float]]:
        """Take everything, oldest first; called by the timer."""
        with self._lock:
            taken, self._slots = self._slots, {}
        return list(taken.values())


class LogInbox:
    """The pieces of one followed log, at most `cap_bytes` waiting."""

    def __init__(self, cap_bytes: int = LOG_CAP_BYTES) -> None:
        self._lock = threading.Lock()
        self._cap = cap_bytes
        self._pieces: deque[LogChunk] = deque()
        self._bytes = 0
        self._news: deque[LogEnd | LinkDown] = deque(maxlen=1)

    def put(self, item: LogChunk | LogEnd | LinkDown) -> None:
        """Leave a piece, the end, or the news that the link broke; called by the log thread."""
        with self._lock:
            if not isinstance(item, LogChunk):
                self._news.append(item)
                return
            self._pieces.append(item)
            self._bytes += len(item.data)
            while self._bytes > self._cap and len(self._pieces) > 1:
                # The reader sees the jump between offsets and says how much was left out.
                self._bytes -= len(self._pieces.popleft().data)

    @property
    def waiting(self) -> bool:
        """Whether there is anything to drain."""
        return bool(self._pieces or self._news)

    def drain(self) -> tuple[list[LogChunk], LogEnd | LinkDown | None]:
        """Take all pieces, and the last piece of news if there is one."""
        with self._lock:
            pieces, self._pieces, self._bytes = list(self._pieces), deque(), 0
            news = self._news.pop() if self._news else None
        return pieces, news


def _slot(item: Item) -> object:
    if isinstance(item, NodeUpdate):
        return "node", item.status.name
    if isinstance(item, JobUpdate):
        return "job", item.job.node, item.job.id
    if isinstance(item, Hello | Heartbeat | LicenceUpdate):
        return type(item)
    return LinkDown
