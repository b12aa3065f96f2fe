"""What the hub passes on to a node and back: answers, streams, refusals, as they came."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.errors import ApiError, TransportError
from agent.api.refs import JobRef
from agent.api.types import (
    LinkState,
    LogChunk,
)
from agent.hub.fleet import CALL_TIMEOUT_S
from agent.hub.places import LASTING_PER_USER
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of, running_hub
from tests.fakes.hub_cluster import Cluster, wait_until
from tests.fakes.hub_cluster import cluster as cluster


class TestPassThrough:
    def test_answers_and_refusals_come_as_the_node_gave_them(self, cluster: Cluster) -> None:
        assert cluster.client.node("n2").name == "n2"
        with pytest.raises(ApiError, match="no such job; see stoker jobs") as caught:
            cluster.client.job(JobRef(id=999, node="n1"))
        assert (caught.value.status, caught.value.code) == (404, "not_found")
        piece = cluster.client.log(JobRef(id=1, node="n1"), offset=1000)
        assert (piece.offset, piece.end, piece.data) == (1000, 1024, (bytes(range(256)) * 4)[1000:])

    def test_the_callers_own_word_for_who_he_is_is_replaced(self, cluster: Cluster) -> None:
        headers = {"Stoker-User": "nosuchuser-for-tests"}
        answer = cluster.client.request_raw("GET", "/v1/nodes/n1/node", headers=headers)
        assert answer.status == 403
        answer.close()
        assert all(each["Stoker-User"] != "nosuchuser-for-tests" for each in cluster.seen("n1")["seen"])

    def test_an_odd_path_is_passed_as_it_was_sent(self, cluster: Cluster) -> None:
        assert cluster.client.request_raw("GET", "/v1/nodes/n1/a%20b%2Fc?b=%20c&d", headers={}).status == 404
        assert "GET /v1/a%20b%2Fc?b=%20c&d" in [each["what"] for each in cluster.seen("n1")["seen"]]
        assert cluster.client.request_raw("GET", "/v1/nodes/n1/a%0d%0aX:%20y", headers={}).status == 404

    def test_a_followed_log_streams_and_ends_upstream_with_its_reader(self, cluster: Cluster) -> None:
        with cluster.client.follow_log(JobRef(id=1, node="n1"), offset=1000) as stream:
            next(stream)
            chunk = next(stream)
            assert isinstance(chunk, LogChunk)
            assert chunk.data == (bytes(range(256)) * 4)[1000:]
            assert cluster.seen("n1")["streams"] == 1
        wait_until(lambda: cluster.seen("n1")["streams"] == 0)

    def test_a_node_that_dies_in_a_stream_cuts_it_short(self, cluster: Cluster) -> None:
        with cluster.client.follow_log(JobRef(id=1, node="n1")) as stream:
            next(stream), next(stream)
            cluster.agents["n1"].kill()
            with pytest.raises(TransportError):
                list(stream)

    def test_streams_are_counted_and_short_calls_go_on(self, cluster: Cluster) -> None:
        with ExitStack() as stack:
            for _ in range(LASTING_PER_USER):
                next(stack.enter_context(cluster.client.follow_log(JobRef(id=1, node="n1"))))
            for way in ("nodes/n1", "nodes/n1/nodes/n1"):
                answer = cluster.client.request_raw("GET", f"/v1/{way}/jobs/1/lo%67?follow=1", headers={})
                assert (answer.status, answer.read()[:20]) == (503, b'{"code":"node_busy",'), way
            with pytest.raises(ApiError, match="reads 10 logs of n1 already"):
                cluster.client.follow_log(JobRef(id=1, node="n1"))
            assert cluster.client.node("n1").name == "n1"
            with cluster.client.follow_log(JobRef(id=1, node="n2")):
                pass

    @pytest.mark.parametrize("query", ["follow=1", "limit=8000000"])
    def test_a_reader_that_takes_nothing_is_cut_off(self, tmp_path: Path, query: str) -> None:
        sockets = {"n1": tmp_path / "n1.sock"}
        config = hub_config(tmp_path, nodes_of(sockets))
        with (
            fake_agent(sockets["n1"], "n1", log_bytes=8_000_000),
            running_hub(config, write_deadline_s=0.5) as client,
            ExitStack() as stack,
        ):
            wait_until(lambda: client.nodes()[0].link is LinkState.UP)
            idle = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(LASTING_PER_USER)]
            for sock in idle:
                sock.connect(str(config.hub_socket))
                sock.sendall(f"GET /v1/nodes/n1/jobs/1/log?{query} HTTP/1.1\r\nHost: s\r\n\r\n".encode())
            for sock in idle:
                assert is_hung_up(sock)
            assert client.log(JobRef(id=1, node="n1"), limit=10).data == bytes(range(10))

    def test_a_hanging_node_takes_no_worker_of_another(self, cluster: Cluster) -> None:
        os.kill(cluster.agents["n1"].pid, signal.SIGSTOP)
        try:
            blocked = [threading.Thread(target=ask_in_vain, args=(cluster.client,), daemon=True) for _ in range(12)]
            for thread in blocked:
                thread.start()
            began = time.monotonic()
            for _ in range(20):
                assert cluster.client.node("n2").name == "n2"
            assert time.monotonic() - began < CALL_TIMEOUT_S, "none of them waited for the one that hangs"
        finally:
            os.kill(cluster.agents["n1"].pid, signal.SIGCONT)
        for thread in blocked:
            thread.join(60)


def is_hung_up(sock: socket.socket) -> bool:
    """Wait, without reading, until the other end has closed the connection."""
    poll = select.poll()
    poll.register(sock, 0)  # a hang-up is told unasked
    return bool(poll.poll(20_000))


def ask_in_vain(client: Client) -> None:
    try:
        client.node("n1")
    except (ApiError, TransportError):
        return
