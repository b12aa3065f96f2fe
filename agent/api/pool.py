"""A few connections kept open for the next call, and the rule when a call may be tried twice.

A kept connection may have been closed by a server that restarted meanwhile. The call is then made once more on a fresh
one, but only where that cannot do a thing twice: nothing had been sent, or twice equals once for that call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import msgspec

from agent.api.answer import Answer
from agent.api.transport import Transport
from agent.api.wire import BrokenError, Wire, exchange

KEPT = 2
"""Connections kept idle: enough for a screen that asks while it submits; over ssh each is a session of the server."""
KEPT_S = 60.0
"""Servers of ours close an idle connection after 75 s."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    repeatable: bool
    """Whether the server may see it twice without harm."""


class Pool:
    """Connections over one transport; safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._where = transport.describe()
        self._lock = threading.Lock()
        self._idle: list[tuple[Wire, float]] = []
        self._closed = False

    def send(self, call: Call, timeout_s: float) -> tuple[Wire, Answer]:
        """Make the call; the caller reads the body and then gives the wire back, or closes it.

        Raises:
            TransportError: no answer came.
        """
        deadline = time.monotonic() + timeout_s
        kept = self._take()
        if kept is not None:
            try:
                return kept, _on(kept, call, deadline)
            except BrokenError as error:
                if error.sent and not call.repeatable:
                    raise
        fresh = Wire(self._transport.open(max(0.001, deadline - time.monotonic())), self._where)
        return fresh, _on(fresh, call, deadline)

    def give_back(self, wire: Wire) -> None:
        """Keep a connection whose answer was read to its end."""
        with self._lock:
            if not self._closed and len(self._idle) < KEPT:
                self._idle.append((wire, time.monotonic()))
                return
        wire.conn.close()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is given back."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for wire, _ in idle:
            wire.conn.close()

    def _take(self) -> Wire | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                wire, since = self._idle.pop()
            if time.monotonic() - since < KEPT_S and not wire.conn.is_stale():
                return wire
            wire.conn.close()


def _on(wire: Wire, call: Call, deadline: float) -> Answer:
    left_s = max(0.001, deadline - time.monotonic())
    try:
        return exchange(wire, call.method, call.path, call.headers, call.body, left_s)
    except BaseException:  # an interrupted call too: its late answer must not meet the next one
        wire.conn.close()
        raise
