"""One sitting at the cluster: the state, the link that feeds it, and the calls a screen may make.

Rules kept here: screens read `cluster` and call this; only `drain` changes the state, on the screen's thread; calls
that wait for the server (`submit`, `plan`, `ask`) are for worker threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TypeVar

from agent.api.hostkeys import UnknownHostError, remember
from agent.api.refs import JobRef
from agent.api.types import Plan, SubmitReply, SubmitRequest
from tui import arrays, safe
from tui.client import ClusterClient
from tui.cluster import Cluster, JobKey
from tui.inbox import Inbox, LogInbox
from tui.links import Follower, Watcher
from tui.traces import Traces

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where time comes from; tests hold it still."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    zone: tzinfo | None = None
    """Of the times of day; `None` is this machine's."""

    def time_of_day(self, unix_s: float) -> str:
        """`12:04:31`."""
        return datetime.fromtimestamp(unix_s, self.zone).strftime("%H:%M:%S")

    def moment(self, unix_s: float) -> str:
        """`12:04:31` today, `20 Nov 12:04` on another day."""
        then, now = (datetime.fromtimestamp(each, self.zone) for each in (unix_s, self.wall()))
        return then.strftime("%H:%M:%S" if then.date() == now.date() else "%d %b %H:%M")

    def date(self, unix_s: float) -> str:
        """`2027-03-31 12:04`: for what may be years away."""
        return datetime.fromtimestamp(unix_s, self.zone).strftime("%Y-%m-%d %H:%M")


class Session:
    """The state and its link."""

    def __init__(self, opener: Callable[[], ClusterClient], where: str, clock: Clock) -> None:
        self.cluster = Cluster()
        self.traces = Traces()
        self.where = where
        self.clock = clock
        self._inbox = Inbox()
        self._watcher = Watcher(opener, self._inbox, clock.monotonic)

    def start(self) -> None:
        """Begin to watch. Called after the first frame: opening may import the ssh code."""
        self._watcher.start()

    def stop(self) -> None:
        """End the link."""
        self._watcher.stop()

    def drain(self) -> bool:
        """Take what has arrived into the state; whether there was anything that is to be drawn at once."""
        urgent = [self.cluster.apply(item, arrived) for item, arrived in self._inbox.drain()]
        return any(urgent)

    def wall(self) -> float:
        """The server's clock where it is known, else ours."""
        known = self.cluster.wall(self.clock.monotonic())
        return self.clock.wall() if known is None else known

    def retry(self) -> None:
        """Try the link again now."""
        self._watcher.retry_now()

    @property
    def question(self) -> UnknownHostError | None:
        """A host key that the operator has to judge."""
        return self._watcher.question

    def accept(self, question: UnknownHostError) -> None:
        """Remember the host's key and go on.

        Raises:
            StokerError: known_hosts cannot be written.
        """
        remember(question)
        self._watcher.retry_now()

    def ref(self, key: JobKey) -> JobRef:
        """A job's name on the wire."""
        job = self.cluster.job(key)
        return JobRef(id=key[1], node=key[0]) if job is None else arrays.ref(job)

    def follow(self, key: JobKey, inbox: LogInbox) -> Follower:
        """A thread, not yet started, that puts the job's log into `inbox`."""
        ref = self.ref(key)
        return Follower(lambda: self._watcher.client, ref, inbox, self.clock.monotonic)

    def submit(self, request: SubmitRequest, key: str) -> SubmitReply:
        """Hand in a job; blocks."""
        return safe.clean(self._watcher.client.submit(request, key))

    def plan(self, request: SubmitRequest) -> Plan:
        """What a submit would do; blocks."""
        return safe.clean(self._watcher.client.plan(request))

    def ask(self, work: Callable[[ClusterClient], T]) -> T:
        """Ask the server for anything else; blocks. What it says is made safe."""
        return safe.clean(work(self._watcher.client))
