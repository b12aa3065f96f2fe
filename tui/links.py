"""The threads that talk to the server for the screen: one that watches, one for each log that is open.

Rules kept here: a link thread puts into its inbox and does nothing else, it never touches a widget and never writes to
the terminal; every text is made safe before it is put; a broken link is retried with jitter within `MOST_PAUSE_S`, for
as long as the screen is open, and only a server that refuses us is left alone for longer; that a try is under way is
told; stopping closes the stream, which wakes the thread.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from agent.api.errors import ApiError, AuthError, ConnectError, HostKeyError, StokerError, VersionError
from agent.api.hostkeys import UnknownHostError
from agent.api.refs import JobRef
from agent.api.types import (
    LogChunk,
    LogEnd,
)
from tui import safe
from tui.client import ClusterClient, LogStream, WatchStream
from tui.cluster import LinkDown
from tui.inbox import Inbox, LogInbox
from tui.outage import is_outage

TAIL_BYTES = 512 * 1024
"""How far back the log screen begins in a log that is longer."""
OPERATOR_WAIT_S = 3600.0
"""How long the link waits for an answer to a question (an unknown host key) before it tries again."""

MOST_PAUSE_S = 5.0
"""Between two tries of a server that is away."""
REFUSED_PAUSE_S = 30.0
"""After a server refused us (a key that it does not take): asked more often, what guards an sshd may lock us out."""

_LOG = logging.getLogger(__name__)


def jittered(attempt: int) -> float:
    """Seconds to wait after failure number `attempt`: jitter from 0.5 s up to `MOST_PAUSE_S`.

    A hub that is back is there for all screens within this: one try costs a server less than a second of a watch does.
    """
    return random.uniform(0.5, min(MOST_PAUSE_S, 2.0 ** min(attempt, 5)))  # noqa: S311 - spreads, guards nothing


class Watcher(threading.Thread):
    """Opens the client and follows `/v1/watch`, for ever."""

    def __init__(
        self,
        opener: Callable[[], ClusterClient],
        inbox: Inbox,
        clock: Callable[[], float],
        delay: Callable[[int], float] = jittered,
    ) -> None:
        super().__init__(name="link-watch", daemon=True)
        self._opener = opener
        self._inbox = inbox
        self._clock = clock
        self._delay = delay
        self._client: ClusterClient | None = None
        self._stream: WatchStream | None = None
        self._ending = threading.Event()
        self._wake = threading.Event()
        self._failures = 0
        self._refused = False
        self.question: UnknownHostError | None = None
        """A host key that the operator has to judge before the link can go on."""

    @property
    def client(self) -> ClusterClient:
        """The client, for calls from other threads.

        Raises:
            ConnectError: it has not been opened yet.
        """
        if self._client is None:
            raise ConnectError("there is no connection yet; wait for the link, or look at its reason in the top line")
        return self._client

    def run(self) -> None:
        """Watch, and on every end wait a little and watch again."""
        while not self._ending.is_set():
            reason = self._watch_once()
            if self._ending.is_set():
                return
            self._failures += 1
            wait_s = self._pause_s()
            now = self._clock()
            self._inbox.put(LinkDown(reason=reason, retry_at=None if self.question else now + wait_s), now)
            self._wake.wait(wait_s)
            self._wake.clear()
            now = self._clock()  # now, also where the wait was cut short
            self._inbox.put(LinkDown(reason=reason, retry_at=now), now)

    def _pause_s(self) -> float:
        if self.question:
            return OPERATOR_WAIT_S
        return REFUSED_PAUSE_S if self._refused else self._delay(self._failures)

    def retry_now(self) -> None:
        """Cut the present wait short: the operator asked, or answered the question."""
        self.question = None
        self._wake.set()

    def stop(self) -> None:
        """End the thread; its stream and client are closed. May be called from any thread."""
        self._ending.set()
        self._wake.set()
        if self._stream is not None:
            self._stream.close()
        if self._client is not None:
            self._client.close()

    def _watch_once(self) -> str:
        """Follow one stream to its end; why it ended, as a safe sentence."""
        self._refused = False
        try:
            self._client = self._client or self._opener()
            self._stream = self._client.watch(heartbeats=True)
            for message in self._stream:
                self._inbox.put(safe.clean_read(message, self._stream.line), self._clock())
                self._failures = 0
                if self._ending.is_set():
                    break
        except UnknownHostError as error:
            self.question = error
            return safe.text(str(error))
        except StokerError as error:
            self._refused = isinstance(error, AuthError | HostKeyError | VersionError)
            return safe.text(str(error))
        except Exception as error:  # noqa: BLE001 - the rim of a thread: it must not die silently
            _LOG.exception("the watch link failed")
            return f"internal error in the link: {safe.text(repr(error))}"
        return "the server ended the stream; it may be restarting"


class Follower(threading.Thread):
    """Follows one job's log until its end, across broken links."""

    def __init__(
        self,
        client: Callable[[], ClusterClient],
        ref: JobRef,
        inbox: LogInbox,
        clock: Callable[[], float],
        delay: Callable[[int], float] = jittered,
    ) -> None:
        super().__init__(name=f"link-log-{ref}", daemon=True)
        self._client = client
        self._ref = ref
        self._inbox = inbox
        self._clock = clock
        self._delay = delay
        self._stream: LogStream | None = None
        self._ending = threading.Event()
        self._offset: int | None = None

    def run(self) -> None:
        """Follow, and after a break go on where it broke."""
        failures = 0
        while not self._ending.is_set():
            reason = self._follow_once()
            if reason is None or self._ending.is_set():
                return
            failures += 1
            wait_s = self._delay(failures)
            self._inbox.put(LinkDown(reason=reason, retry_at=self._clock() + wait_s))
            self._ending.wait(wait_s)

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        if self._stream is not None:
            self._stream.close()

    def _follow_once(self) -> str | None:
        """Follow one stream; why it broke, or `None` when nothing is left to follow."""
        try:
            return self._read(self._client())
        except ApiError as error:
            if is_outage(error):  # of a hub that has just come back, and is not linked with the job's node yet
                return safe.text(str(error))
            self._inbox.put(LinkDown(reason=safe.text(str(error)), retry_at=None))
            return None
        except StokerError as error:
            return safe.text(str(error))
        except Exception as error:  # noqa: BLE001 - the rim of a thread: it must not die silently
            _LOG.exception("the log link of job %s failed", self._ref)
            return f"internal error in the link: {safe.text(repr(error))}"

    def _read(self, client: ClusterClient) -> str | None:
        if self._offset is None:
            self._offset = max(0, client.log(self._ref, offset=0, limit=1).end - TAIL_BYTES)
        self._stream = client.follow_log(self._ref, self._offset, heartbeats=True)
        for message in self._stream:
            if isinstance(message, LogEnd):
                self._inbox.put(safe.clean(message))
                return None
            if isinstance(message, LogChunk):
                self._offset = message.offset + len(message.data)
                self._inbox.put(message)
            if self._ending.is_set():
                break
        return "the server ended the log before the job did"
