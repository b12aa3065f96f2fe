"""One thread a node: connects, reads the node's watch stream, and connects again when it ends.

Rules kept here: the thread decides nothing but when to try again; what it hears it delivers, stamped with the monotonic
time, to whoever keeps the state (the fleet). It ends within moments of `stop`, also while it waits for a dead node.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from agent.api.client import Client
from agent.api.errors import StokerError
from agent.api.stream import Stream
from agent.api.types import NodeUpdate, WatchMessage
from agent.hub.linkstate import Backoff, Gone

Deliver = Callable[[str, WatchMessage | Gone, float], None]
"""Takes what node NAME said, or that its link is gone, and the monotonic time of it; called in the link's thread."""

STEADY_S = 10.0
"""A connection that lasted this long was a good one: the next attempt comes soon again."""

_log = logging.getLogger(__name__)


class NodeLink:
    """The link to one node."""

    def __init__(
        self,
        name: str,
        client: Client,
        hang_up: Callable[[], None],
        deliver: Deliver,
        admission: threading.Semaphore,
        backoff: Backoff,
    ) -> None:
        self._name = name
        self._client = client
        self._hang_up = hang_up
        """Ends all connections to the node."""
        self._deliver = deliver
        self._admission = admission
        """Held while connecting: sshd turns away what is over its MaxStartups, and handshakes cost CPU."""
        self._backoff = backoff
        self._stop = threading.Event()
        self._stream: Stream[WatchMessage] | None = None
        self._thread = threading.Thread(target=self._run, name=f"link {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end; `join` waits for it."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            reason = self._listen()
            if self._stop.is_set():
                return
            # What else is asked of the node is as dead; the next attempt must not wait for it.
            self._hang_up()
            now = time.monotonic()
            if now - began >= STEADY_S:
                self._backoff.reset()
            wait_s = self._backoff.next_s()
            _log.info("node=%s lost, next attempt in %.1f s: %s", self._name, wait_s, reason)
            self._deliver(self._name, Gone(at=now, reason=reason, retry_at=now + wait_s), now)
            self._stop.wait(wait_s)

    def _listen(self) -> str:
        """Deliver what the node says until it ends; why it ended."""
        try:
            with self._admission:
                if self._stop.is_set():
                    return "the hub stops"
                stream = self._client.watch(heartbeats=True)
            with stream:
                self._stream = stream
                for message in stream:
                    if self._stop.is_set():
                        break
                    self._check_name(message)
                    self._deliver(self._name, message, time.monotonic())
        except StokerError as error:
            return str(error)
        except Exception:  # noqa: BLE001 — the rim of the thread: a fault at one node must not end its link for ever
            _log.exception("node=%s: the link failed", self._name)
            return "the hub failed at this node's link; its log has the reason"
        finally:
            self._stream = None
        return f"the agent at {self._client.where} ended the stream; it stops or restarts"

    def _check_name(self, message: WatchMessage) -> None:
        if isinstance(message, NodeUpdate) and message.status.name != self._name:
            raise StokerError(
                f"the agent at {self._client.where} calls itself {message.status.name!r} and the hub's configuration "
                f"{self._name!r}; give both the same name"
            )
