"""All nodes in one place: the latest status and jobs of each, and who wants to hear of changes.

Rules kept here: lives on the event loop; links deliver from their threads into a mailbox that keeps only the newest
value of each thing, so that a burst costs one turn of the loop; a node that hangs or floods delays nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import random
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from msgspec.structs import replace

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.hostkeys import HostKey, PinnedKey
from agent.api.sshconfig import HostConfig, Target
from agent.api.transport import Transport
from agent.api.types import Hello, Job, JobUpdate, LinkState, Node, NodeStatus, NodeUpdate, Wire
from agent.api.unix import UnixTransport
from agent.config import Config, HubNode
from agent.hub.calls import NodeCalls
from agent.hub.link import NodeLink
from agent.hub.linkstate import RETRY_HERE_S, RETRY_MAX_S, Backoff, Gone, Heard, Link
from agent.hub.placement import find, require_answering
from agent.hub.places import SSH_ROOM, UNIX_ROOM
from agent.jobs.filters import JobFilter, matches

CALL_TIMEOUT_S = 8.0
"""Below the 10 s of a client of ours, so that it is told which node hangs."""
TICK_S = 0.5
JOBS_KEPT = 2000
"""Ended jobs remembered of each node, for watchers and for when it is lost; the node itself has them all."""
LOOK_S = 1.0
"""The most that the answer to a change waits for the look at what came of it."""
ON_ITS_WAY_S = 2.0
"""A node's word that is older than the last one by less; by more, its clock was set back."""
HANDSHAKES = 8
"""Connections being made at once."""

_JOIN_S = 2.0

_log = logging.getLogger(__name__)

Listener = Callable[[Hashable, Wire], None]


@dataclass(slots=True, kw_only=True)
class Member:
    """A node of the cluster."""

    name: str
    calls: NodeCalls
    thread: NodeLink
    link: Link
    node: Node | None = None
    jobs: dict[int, Job] = field(default_factory=dict)

    def last_heard(self, wanted: JobFilter) -> list[Job]:
        """Its jobs as far as they are known here, each with the time from which."""
        as_of = int(time.time() - self.link.age_s(time.monotonic()))
        return [replace(job, as_of=as_of) for job in self.jobs.values() if matches(wanted, job)]

    def status(self, now: float) -> NodeStatus:
        """The node as watchers see it."""
        return NodeStatus(
            name=self.name,
            link=self.link.state,
            age_s=round(self.link.age_s(now), 3),
            reason=self.link.reason,
            retry_in_s=self.link.retry_in_s(now),
            node=self.node,
        )


class Fleet:
    """The nodes that the configuration names."""

    def __init__(self, config: Config) -> None:
        admission = threading.Semaphore(HANDSHAKES)
        now = time.monotonic()
        self._members = {node.name: self._member(node, config, admission, now) for node in config.hub_nodes}
        self._listeners: list[Listener] = []
        self._mail: dict[Hashable, tuple[str, Wire | Gone, float]] = {}
        self._mail_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to all nodes."""
        self._loop = asyncio.get_running_loop()
        self._ticker = asyncio.create_task(self._tick(), name="fleet clock")
        for member in self._members.values():
            member.thread.start()

    async def stop(self) -> None:
        """Disconnect; running jobs do not notice."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for member in self._members.values():
            member.thread.stop()
            member.calls.close()
        await asyncio.to_thread(self._join)

    def listen(self, listener: Listener) -> None:
        """Be told of every change: key `("node", name)` or `("job", name, id)`, and the message for watchers."""
        self._listeners.append(listener)

    def statuses(self) -> list[NodeStatus]:
        """All nodes, in the configuration's order."""
        now = time.monotonic()
        return [member.status(now) for member in self._members.values()]

    def jobs(self) -> list[Job]:
        """Jobs as last heard of, oldest first."""
        found = (job for member in self._members.values() for job in member.jobs.values())
        return sorted(found, key=lambda job: (job.submitted_at, job.node, job.id))

    def gpus_asked(self) -> dict[str, int]:
        """GPUs that the unfinished jobs of each node ask for, running or not."""
        return {
            member.name: sum(job.gpus for job in member.jobs.values() if not job.state.is_final)
            for member in self._members.values()
        }

    def members(self) -> list[Member]:
        """All members, in the configuration's order."""
        return list(self._members.values())

    def calls(self, name: str) -> NodeCalls:
        """Calls to the node of that name.

        Raises:
            ApiError: there is no such node (with the one probably meant), or it is lost.
        """
        require_answering(find(name, self.statuses()))
        return self._members[name].calls

    async def look_again(self, name: str) -> None:
        """Take in how a node is now, so that who has just changed it finds that in the next list of nodes.

        A node that does not say so in time is heard of by its link a second later, as always.
        """
        member = self._members[name]
        try:
            async with asyncio.timeout(LOOK_S):
                node = await member.calls.call(Client.node)
        except (ApiError, TimeoutError):
            return
        self._show(member, node)

    # --- what the links deliver ---------------------------------------------------------------------------------------

    def _deliver(self, name: str, message: Wire | Gone, at: float) -> None:
        """In a link's thread: put into the mailbox what is newer than what lies there, and wake the loop once."""
        with self._mail_lock:
            wake = not self._mail
            key = _mail_key(name, message)
            self._mail.pop(key, None)  # to the end: what comes last must be handled last
            self._mail[key] = (name, message, at)
        if wake and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._read_mail)
            except RuntimeError:
                return  # the loop is closed: the hub stops

    def _read_mail(self) -> None:
        with self._mail_lock:
            mail, self._mail = self._mail, {}
        for name, message, at in mail.values():
            try:
                self._handle(self._members[name], message, at)
            except Exception:  # noqa: BLE001 — the rim: what comes behind it in the mailbox must not be lost with it
                _log.exception("node=%s: what it said could not be taken in", name)

    def _handle(self, member: Member, message: Wire | Gone, at: float) -> None:
        if isinstance(message, Gone):
            self._note(member, member.link.handle(message))
            return
        self._note(member, member.link.handle(Heard(at=at)))
        self._take(member, message)

    def _take(self, member: Member, message: Wire) -> None:
        if isinstance(message, Hello):
            # All jobs that have not ended follow; one that is not among them exists no more.
            member.jobs = {id_: job for id_, job in member.jobs.items() if job.state.is_final}
        elif isinstance(message, NodeUpdate):
            self._show(member, message.status.node)
        elif isinstance(message, JobUpdate):
            member.jobs.pop(message.job.id, None)  # to the end: the dict is in order of last change
            member.jobs[message.job.id] = message.job
            self._publish(("job", member.name, message.job.id), message)

    def _show(self, member: Member, node: Node | None) -> None:
        """What was on its way while somebody looked again is not news."""
        if node is None or member.node is None or not 0 < member.node.time - node.time < ON_ITS_WAY_S:
            member.node = node
        self._publish_status(member)

    def _note(self, member: Member, changed: bool) -> None:
        if changed:
            _log.info("node=%s link=%s reason=%s", member.name, member.link.state, member.link.reason)
            self._publish_status(member)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for member in self._members.values():
                try:
                    self._age(member, now)
                except Exception:  # noqa: BLE001 — the rim: without this clock no node would ever be seen as lost
                    _log.exception("node=%s: its link could not be aged", member.name)

    def _age(self, member: Member, now: float) -> None:
        self._note(member, member.link.tick(now))
        if member.link.state is not LinkState.UP:
            self._publish_status(member)  # its age and the next attempt
        _forget_oldest(member)

    def _publish_status(self, member: Member) -> None:
        self._publish(("node", member.name), NodeUpdate(status=member.status(time.monotonic())))

    def _publish(self, key: Hashable, message: Wire) -> None:
        for listener in self._listeners:
            listener(key, message)

    def _member(self, node: HubNode, config: Config, admission: threading.Semaphore, now: float) -> Member:
        room = SSH_ROOM if node.ssh is not None else UNIX_ROOM
        transports = [_transport(node, config) for _ in room]  # none connects before it is used
        clients = [Client(transport, timeout_s=CALL_TIMEOUT_S) for transport in transports]

        def hang_up() -> None:
            for transport in transports:
                transport.close()

        return Member(
            name=node.name,
            calls=NodeCalls(node.name, clients, room),
            thread=NodeLink(node.name, clients[0], hang_up, self._deliver, admission, backoff_of(node)),
            link=Link(now),
        )

    def _join(self) -> None:
        deadline = time.monotonic() + _JOIN_S
        for member in self._members.values():
            member.thread.join(max(0.0, deadline - time.monotonic()))


def backoff_of(node: HubNode) -> Backoff:
    """How long a node is left alone between attempts."""
    jitter = random.Random()  # noqa: S311 — spreads load, keeps no secret
    return Backoff(jitter, max_s=RETRY_HERE_S if node.ssh is None else RETRY_MAX_S)


def _mail_key(name: str, message: Wire | Gone) -> Hashable:
    if isinstance(message, JobUpdate):
        return ("job", name, message.job.id)
    return (type(message), name)


def _forget_oldest(member: Member) -> None:
    excess = len(member.jobs) - JOBS_KEPT
    if excess <= 0:
        return
    ended = [id_ for id_, job in member.jobs.items() if job.state.is_final]
    for id_ in ended[:excess]:
        del member.jobs[id_]


def _transport(node: HubNode, config: Config) -> Transport:
    """The way to a node. paramiko is loaded only where a node needs it: it is a third of a small hub's memory."""
    if node.socket is not None:
        return UnixTransport(node.socket)
    from agent.api.ssh import SshTransport

    assert node.ssh is not None and node.host_key is not None  # the configuration was checked
    target = Target.parse(node.ssh)
    host = HostConfig(
        host=target.host,
        port=target.port or 22,
        user=target.user or pwd.getpwuid(os.geteuid()).pw_name,
        key_name=target.host,
        identity_files=(node.identity_file or config.hub_state_dir / "ssh_key",),
        identities_only=True,
    )
    pinned = PinnedKey(HostKey.parse(node.host_key), f"hub.nodes {node.name} in {config.path}")
    return SshTransport(host, pinned, dial=(node.dial,))
