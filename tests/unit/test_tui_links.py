"""The link threads and their mailboxes, on real threads before a cluster in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.api.errors import ApiError, AuthError, ConnectError, DeadlineError
from agent.api.hostkeys import HostKey, UnknownHostError
from agent.api.refs import JobRef
from agent.api.types import Heartbeat, Hello, JobState, JobUpdate, LogChunk, LogEnd, NodeUpdate
from tests.fakes.cluster import FakeCluster, no_server
from tests.fakes.values import NOW, gpu, job, node, up
from tui import status
from tui.cluster import Cluster, LinkDown
from tui.inbox import Inbox, LogInbox
from tui.links import TAIL_BYTES, Follower, Watcher, jittered

SOON = 60.0


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for another thread's effect; there is no event for what it puts into a mailbox."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Watching:
    """A watcher at work, and the state that it feeds."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.inbox = Inbox()
        self.state = Cluster()
        self.seen: list[object] = []
        self.watcher = Watcher(cluster.client, self.inbox, time.monotonic, lambda attempt: 0.02)
        self.watcher.start()

    def until(self, condition: Callable[[], object]) -> None:
        def drained() -> object:
            for item, arrived in self.inbox.drain():
                self.seen.append(item)
                self.state.apply(item, arrived)
            return condition()

        wait_for(drained)

    def stop(self) -> None:
        self.watcher.stop()
        self.watcher.join(SOON)
        assert not self.watcher.is_alive()


def test_it_watches_breaks_tells_why_and_watches_again() -> None:
    cluster = FakeCluster([up(node("n1", (gpu(0),)))], [job(1)])
    at = Watching(cluster)
    at.until(lambda: at.state.jobs())
    cluster.say(DeadlineError("silent for 15 s"))
    at.until(lambda: LinkDown in map(type, at.seen))
    assert next(each for each in at.seen if isinstance(each, LinkDown)).reason == "silent for 15 s"
    at.until(lambda: len(cluster.watches) == 2 and at.state.link(time.monotonic()).reason is None)
    at.stop()


def test_texts_are_safe_before_they_are_put() -> None:
    cluster = FakeCluster([], [job(1, name="\x1b[2Jevil\nname")])
    at = Watching(cluster)
    at.until(lambda: at.state.jobs())
    assert at.state.jobs()[0].name == "evil↵name"
    cluster.say(ConnectError("\x1b]0;owned\x07gone"))
    at.until(lambda: any(isinstance(each, LinkDown) and each.reason == "gone" for each in at.seen))
    at.stop()


def test_a_server_that_is_missing_is_tried_again_for_ever() -> None:
    cluster = FakeCluster([], [job(1)])
    cluster.down = no_server()
    at = Watching(cluster)
    at.until(lambda: [type(each) for each in at.seen].count(LinkDown) >= 3)
    cluster.down = None
    at.until(lambda: at.state.jobs())
    at.stop()


def test_a_bug_in_the_link_is_told_and_does_not_end_the_thread() -> None:
    cluster = FakeCluster([], [job(1)])
    cluster.down = ZeroDivisionError("oops")
    at = Watching(cluster)
    at.until(lambda: any(isinstance(each, LinkDown) and "internal error" in each.reason for each in at.seen))
    cluster.down = None
    at.until(lambda: at.state.jobs())
    at.stop()


def test_an_unknown_host_waits_for_the_operator(tmp_path: object) -> None:
    key = HostKey.parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS")
    cluster = FakeCluster([], [job(1)])
    cluster.down = UnknownHostError(host="h", key=key, file="/nowhere")  # type: ignore[arg-type]
    at = Watching(cluster)
    at.until(lambda: at.watcher.question is not None and at.seen)
    assert [each.retry_at for each in at.seen if isinstance(each, LinkDown)] == [None]
    cluster.down = None
    at.watcher.retry_now()
    at.until(lambda: at.state.jobs())
    at.stop()


def test_there_is_no_client_before_the_first_connection() -> None:
    gate = threading.Event()
    cluster = FakeCluster()

    def slow() -> object:
        gate.wait(SOON)
        return cluster.client()

    watcher = Watcher(slow, Inbox(), time.monotonic)  # type: ignore[arg-type]
    watcher.start()
    try:
        watcher.client  # noqa: B018 - the access is the test
        raise AssertionError("a client before there was one")
    except ConnectError as error:
        assert "wait for the link" in str(error)
    gate.set()
    wait_for(lambda: cluster.watches)
    watcher.stop()
    watcher.join(SOON)


def test_a_try_that_is_under_way_is_told_until_it_ends() -> None:
    cluster, gate, opened, state, inbox = FakeCluster(), threading.Event(), threading.Event(), Cluster(), Inbox()
    tries = iter([ConnectError("nobody listens")])

    def opener() -> object:
        if error := next(tries, None):
            raise error
        opened.set()
        gate.wait(SOON)
        return cluster.client()

    watcher = Watcher(opener, inbox, time.monotonic, lambda attempt: 3600.0)  # type: ignore[arg-type]

    def words() -> str:
        for item, arrived in inbox.drain():
            state.apply(item, arrived)
        return "".join(text for text, _ in status.trouble(state.link(time.monotonic()), "hub"))

    watcher.start()
    wait_for(lambda: "next try in 1 h" in words() or "next try in 60 min" in words())
    watcher.retry_now()
    assert opened.wait(SOON)
    wait_for(lambda: "trying now · nobody listens" in words())
    gate.set()
    wait_for(lambda: not words())
    watcher.stop()
    watcher.join(SOON)


def test_who_is_refused_asks_seldom() -> None:
    def opener() -> object:
        raise AuthError("no key is taken")

    inbox = Inbox()
    watcher = Watcher(opener, inbox, lambda: 100.0, lambda attempt: 0.02)  # type: ignore[arg-type]
    watcher.start()
    told: list[LinkDown] = []
    while not told:
        told = [item for item, _ in inbox.drain() if isinstance(item, LinkDown)]
    watcher.stop()
    watcher.join(SOON)
    assert told[0].retry_at == 130.0


def test_a_follower_begins_near_the_end_of_a_long_log() -> None:
    cluster = FakeCluster([], [job(1, JobState.COMPLETED)])
    cluster.logs["n1", 1] = b"x" * (TAIL_BYTES + 1000)
    inbox = LogInbox()
    follower = Follower(cluster.client, JobRef(id=1, node="n1"), inbox, time.monotonic)
    follower.start()
    follower.join(SOON)
    pieces, news = inbox.drain()
    assert sum(len(piece.data) for piece in pieces) == TAIL_BYTES
    assert isinstance(news, LogEnd)


def test_a_follower_gives_up_when_refused_and_says_why() -> None:
    cluster = FakeCluster()
    inbox = LogInbox()
    follower = Follower(cluster.client, JobRef(id=9), inbox, time.monotonic)
    follower.start()
    follower.join(SOON)
    assert not follower.is_alive()
    _, news = inbox.drain()
    assert isinstance(news, LinkDown) and "no job 9" in news.reason and news.retry_at is None


def test_a_follower_goes_on_after_a_break_without_a_byte_twice() -> None:
    cluster = FakeCluster([], [job(1)])
    cluster.logs["n1", 1] = b"one"
    inbox = LogInbox()
    follower = Follower(cluster.client, JobRef(id=1), inbox, time.monotonic, lambda attempt: 0.02)
    follower.start()
    data = bytearray()

    def taken(wanted: bytes) -> bool:
        data.extend(b"".join(piece.data for piece in inbox.drain()[0]))
        return bytes(data) == wanted

    wait_for(lambda: taken(b"one"))
    cluster.logs["n1", 1] = b"onetwo"
    cluster.follows[0].push(ApiError(403, "refused", "not yours"))  # a refusal amid the stream is final
    follower.join(SOON)
    assert not follower.is_alive()
    again = Follower(cluster.client, JobRef(id=1), inbox, time.monotonic, lambda attempt: 0.02)
    data.clear()
    again.start()
    wait_for(lambda: taken(b"onetwo"))
    cluster.logs["n1", 1] = b"onetwothree"
    cluster.follows[-1].push(None)
    wait_for(lambda: taken(b"onetwothree"))
    cluster.logs["n1", 1] = b"onetwothreefour"
    cluster.follows[-1].push(ApiError(503, "no_node", "n1 is not linked yet"))  # of a hub that has just come back
    wait_for(lambda: taken(b"onetwothreefour"))
    again.stop()
    again.join(SOON)
    assert not again.is_alive()


def test_the_newest_value_overwrites_and_order_is_that_of_arrival() -> None:
    inbox = Inbox()
    hello = Hello(api=1, version="0", server="hub", cluster="c")
    inbox.put(JobUpdate(job=job(9)), 0.0)
    inbox.put(hello, 1.0)
    for second in range(1000):
        inbox.put(NodeUpdate(status=up(node("n1", ()), float(second))), float(second))
        inbox.put(Heartbeat(time=float(NOW + second)), float(second))
    inbox.put(JobUpdate(job=job(1)), 1000.0)
    items = inbox.drain()
    assert [type(item).__name__ for item, _ in items] == ["Hello", "NodeUpdate", "Heartbeat", "JobUpdate"]
    assert items[1][1] == 999.0
    assert inbox.drain() == []


def test_a_log_that_nobody_reads_is_bounded() -> None:
    inbox = LogInbox(cap_bytes=1000)
    for number in range(100):
        inbox.put(LogChunk(offset=100 * number, data=b"x" * 100))
    assert inbox.waiting
    pieces, _ = inbox.drain()
    assert sum(len(piece.data) for piece in pieces) <= 1000
    assert pieces[-1].offset == 9900, "the newest is kept, the jump tells what was lost"
    assert not inbox.waiting


def test_retries_spread_and_are_bounded() -> None:
    delays = [jittered(attempt) for attempt in range(1, 200)]
    assert all(0.5 <= delay <= 5.0 for delay in delays)
    assert max(jittered(1) for _ in range(50)) <= 2.0
    assert len(set(delays)) > 100
