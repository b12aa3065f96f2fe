"""The client over real Unix sockets: against a real HTTP server, and against one that says the wrong thing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.client import Client
from agent.api.errors import ApiError, AwayError, ConnectError, DeadlineError, ProtocolError, TransportError
from agent.api.refs import JobRef
from agent.api.stream import LINE_MAX_BYTES
from agent.api.types import (
    Heartbeat,
    Hello,
    JobState,
    JobUpdate,
    LogChunk,
    NodeUpdate,
    SubmitRequest,
)
from agent.api.unix import UnixTransport
from tests.fakes.agent import fake_agent
from tests.fakes.rawserver import STREAM_HEAD, Talk, chunk, http, raw_server, read_request

HELLO = msgspec.json.encode(Hello(api=1, version="0", server="agent", cluster="c"))
REQUEST = SubmitRequest(script="#!/bin/sh\n", script_name="a.sh", work_dir="/")


@pytest.fixture(scope="module")
def agent_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("agent") / "a.sock"
    with fake_agent(path):
        yield path


@pytest.fixture
def client(agent_socket: Path) -> Iterator[Client]:
    with Client(UnixTransport(agent_socket)) as made:
        yield made


def against(tmp_path: Path, talk: Talk, **limits: Any) -> Iterator[Client]:
    with raw_server(tmp_path / "s", talk), Client(UnixTransport(tmp_path / "s"), **limits) as made:
        yield made


class TestCalls:
    def test_each_answer_becomes_its_type(self, client: Client) -> None:
        assert client.hello().server == "agent"
        assert client.node().name == "n1"
        assert [status.name for status in client.nodes()] == ["n1"]
        assert client.job(JobRef(id=1)).state is JobState.RUNNING
        assert client.jobs(user="nobody") == []
        assert client.metrics() == "# EOF\n"
        assert client.put_lease("t").seq == client.lease().seq

    def test_a_repeated_key_is_the_same_job(self, client: Client) -> None:
        first, second = client.submit(REQUEST, "k1"), client.submit(REQUEST, "k1")
        assert (first.created, second.created) == (True, False)
        assert first.job.id == second.job.id
        assert client.cancel(JobRef(id=first.job.id)).state is JobState.CANCELLED

    def test_a_piece_of_the_log_knows_where_it_stands(self, client: Client) -> None:
        piece = client.log(JobRef(id=1), offset=10, limit=5)
        assert (piece.offset, piece.end, piece.data) == (10, 1024, bytes(range(10, 15)))

    def test_a_refusal_carries_the_servers_sentence(self, client: Client) -> None:
        with pytest.raises(ApiError, match="no such job") as caught:
            client.job(JobRef(id=999))
        assert (caught.value.status, caught.value.code) == (404, "not_found")

    def test_calls_from_many_threads_do_not_mix(self, client: Client) -> None:
        offsets: list[int] = []

        def ask(first: int) -> None:
            for offset in range(first, first + 40):
                piece = client.log(JobRef(id=1), offset=offset, limit=1)
                assert piece.data == bytes([offset % 256])
                offsets.append(piece.offset)

        threads = [threading.Thread(target=ask, args=(i * 100,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(offsets) == 240

    def test_a_raw_request_passes_refusals_and_bytes_through(self, client: Client) -> None:
        refused = client.request_raw("GET", "/v1/jobs/999", headers={})
        assert refused.status == 404
        assert b"not_found" in refused.read()
        whole = client.request_raw("GET", "/v1/jobs/1/log?offset=1020", headers={"Stoker-User": "eve"})
        assert whole.header("stoker-log-end") == "1024"
        assert whole.read() == bytes(range(252, 256))
        assert whole.read() == b""
        whole.close()
        assert client.hello()  # closing a finished answer leaves its kept connection alone

    def test_a_forged_header_is_not_sent(self, client: Client) -> None:
        with pytest.raises(ValueError, match="control character"):
            client.request_raw("GET", "/v1/hello", headers={"Stoker-User": "eve\r\nStoker-User: root"})


class TestConnecting:
    def test_no_socket(self, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match=r"there is no socket .*nothing"):
            Client(UnixTransport(tmp_path / "nothing")).hello()

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_what_is_no_socket_is_said_so_and_not_waited_for(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "s"
        path.mkdir() if kind == "folder" else path.touch()
        with pytest.raises(ConnectError, match=r"/s is no socket; name the hub's or the agent's") as caught:
            Client(UnixTransport(path)).hello()
        assert not isinstance(caught.value, AwayError)

    def test_where_the_name_tells_no_service_none_is_made_up(self, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match="start the service that listens there, or name another socket"):
            Client(UnixTransport(tmp_path / "nothing")).hello()

    def test_nobody_listening(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "s"))
        with pytest.raises(ConnectError, match="nobody listens"):
            Client(UnixTransport(tmp_path / "s")).hello()

    def test_a_full_backlog_is_late_not_absent(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
            busy.bind(str(tmp_path / "s"))
            busy.listen(0)
            first.connect(str(tmp_path / "s"))
            with pytest.raises(DeadlineError, match="does not accept"):
                Client(UnixTransport(tmp_path / "s"), timeout_s=0.2).hello()


class TestDeadlines:
    def test_a_silent_server(self, tmp_path: Path) -> None:
        def mute(sock: socket.socket, _: int) -> None:
            read_request(sock)
            sock.recv(1)

        for client in against(tmp_path, mute, timeout_s=0.2):
            began = time.monotonic()
            with pytest.raises(DeadlineError, match=r"within 0\.2 s"):
                client.hello()
            assert time.monotonic() - began < 15

    def test_dripping_bytes_does_not_put_the_deadline_off(self, tmp_path: Path) -> None:
        stop = threading.Event()

        def drip(sock: socket.socket, _: int) -> None:
            read_request(sock)
            while not stop.wait(0.02):
                sock.sendall(b"X")

        for client in against(tmp_path, drip, timeout_s=0.3):
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                client.hello()
            assert time.monotonic() - began < 15
            stop.set()

    def test_a_server_that_takes_nothing(self, tmp_path: Path) -> None:
        stop = threading.Event()
        big = SubmitRequest(script="#" * 5_000_000, script_name="a", work_dir="/")

        def deaf(_: socket.socket, __: int) -> None:
            stop.wait(10)

        for client in against(tmp_path, deaf, timeout_s=0.3):
            with pytest.raises(DeadlineError):
                client.submit(big, "k")
            stop.set()


WRONG = {
    "html": http(b"<html><body>Welcome", "200 OK"),
    "html error": http(b"<html>Bad Gateway", "502 Bad Gateway"),
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "binary": bytes(range(128, 256)) * 10,
    "other json": http(b'{"a": 1}'),
    "wrong type": http(b'{"type":"hello","api":"one","version":"0","server":"agent","cluster":"c"}'),
    "invalid utf-8": http(b'{"type":"hello","version":"\xff\xfe"}'),
    "deep json": http(b"[" * 100_000),
    "cut body": http(b'{"type":"hello"}')[:-4],
    "cut head": b"HTTP/1.1 200 OK\r\nContent-Len",
    "endless header": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "status text": b"HTTP/1.1 OK\r\n\r\n",
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_not_ours(tmp_path: Path, name: str) -> None:
    def talk(sock: socket.socket, _: int) -> None:
        read_request(sock)
        sock.sendall(WRONG[name])

    for client in against(tmp_path, talk, timeout_s=5):
        with pytest.raises(ProtocolError) as caught:
            client.hello()
        assert str(caught.value).isprintable()  # bytes of a stranger never reach the screen raw


def test_a_log_answer_without_its_offsets_is_not_ours(tmp_path: Path) -> None:
    def talk(sock: socket.socket, _: int) -> None:
        read_request(sock)
        sock.sendall(http(b"data"))

    for client in against(tmp_path, talk):
        with pytest.raises(ProtocolError, match="Stoker-Log-Offset"):
            client.log(JobRef(id=1))


class TestKeptConnections:
    def test_one_connection_serves_call_after_call(self, tmp_path: Path) -> None:
        numbers: list[int] = []

        def talk(sock: socket.socket, number: int) -> None:
            while read_request(sock):
                numbers.append(number)
                sock.sendall(http(HELLO))

        for client in against(tmp_path, talk):
            for _ in range(5):
                client.hello()
        assert numbers == [0] * 5

    @pytest.mark.parametrize("repeatable", [True, False])
    def test_a_server_that_closes_after_the_request_gets_it_again_only_if_that_is_safe(
        self, tmp_path: Path, repeatable: bool
    ) -> None:
        requests: list[bytes] = []

        def talk(sock: socket.socket, number: int) -> None:
            while request := read_request(sock):
                requests.append(request)
                if number == 0 and len(requests) == 2:
                    return  # closed with the request taken and no answer: it may have been carried out
                sock.sendall(http(HELLO))

        for client in against(tmp_path, talk):
            client.hello()
            if repeatable:
                assert client.hello().cluster == "c"
                assert len(requests) == 3
            else:
                with pytest.raises(TransportError, match="without an answer"):
                    client.activate("document")
                assert len(requests) == 2

    def test_a_connection_closed_while_idle_is_not_used(self, tmp_path: Path) -> None:
        closed = threading.Event()
        requests: list[bytes] = []

        def talk(sock: socket.socket, number: int) -> None:
            requests.append(read_request(sock))
            sock.sendall(http(HELLO))
            if number == 0:
                sock.shutdown(socket.SHUT_RDWR)
                closed.set()
            else:
                read_request(sock)

        for client in against(tmp_path, talk):
            client.hello()
            assert closed.wait(5)
            with pytest.raises(ProtocolError):  # a Hello is no licence, but the call went through, once
                client.activate("document")
        assert [request[:4] for request in requests] == [b"GET ", b"POST"]


class TestStreams:
    def test_watch_says_hello_then_everything(self, client: Client) -> None:
        with client.watch() as stream:
            kinds = [type(next(stream)) for _ in range(3)]
            assert kinds == [Hello, NodeUpdate, JobUpdate]

    def test_heartbeats_are_swallowed_or_passed_on(self, client: Client) -> None:
        with client.follow_log(JobRef(id=1), heartbeats=True) as stream:
            assert isinstance(next(stream), Hello)
            first = next(stream)
            assert isinstance(first, LogChunk)
            assert first.data == bytes(range(256)) * 4
            assert isinstance(next(stream), Heartbeat)

    def test_close_from_another_thread_ends_the_iteration(self, client: Client) -> None:
        with client.follow_log(JobRef(id=1)) as stream:
            next(stream), next(stream)
            threading.Timer(0.1, stream.close).start()
            began = time.monotonic()
            assert list(stream) == []
            assert time.monotonic() - began < 12, "that is no silence of 15 s"

    def test_silence_is_a_deadline(self, tmp_path: Path) -> None:
        stop = threading.Event()

        def talk(sock: socket.socket, _: int) -> None:
            read_request(sock)
            sock.sendall(STREAM_HEAD + chunk(HELLO + b"\n"))
            while not stop.wait(0.05):
                sock.sendall(chunk(b" "))  # bytes, but never a message

        for client in against(tmp_path, talk, silence_s=0.4):
            stream = client.watch()
            assert isinstance(next(stream), Hello)
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                next(stream)
            assert time.monotonic() - began >= 0.4
            stop.set()

    def stream_of(self, tmp_path: Path, body: bytes) -> Iterator[Client]:
        def talk(sock: socket.socket, _: int) -> None:
            read_request(sock)
            sock.sendall(STREAM_HEAD + body)

        yield from against(tmp_path, talk, silence_s=5)

    def test_lines_cut_at_any_byte_are_whole_again(self, tmp_path: Path) -> None:
        beat = msgspec.json.encode(Heartbeat(time=1.0))
        data = HELLO + b"\n" + beat + b"\n" + HELLO + b"\n"
        body = b"".join(chunk(bytes([byte])) for byte in data) + chunk(b"")
        for client in self.stream_of(tmp_path, body):
            kinds = [type(message) for message in client.watch(heartbeats=True)]
            assert kinds == [Hello, Heartbeat, Hello]

    @pytest.mark.parametrize(
        "body",
        [
            chunk(HELLO + b'\n{"type":"heart'),  # cut off
            chunk(HELLO + b'\n{"type":"heart') + chunk(b""),  # ended in order, within a message
            chunk(HELLO + b"\nnot json\n"),
            chunk(HELLO + b'\n{"type":"node","status":5}\n'),
            chunk(HELLO + b"\n") + b"garbage\r\n",
            chunk(HELLO + b"\n" + b"[" * 50_000 + b"\n"),
        ],
    )
    def test_a_broken_stream_is_a_protocol_error(self, tmp_path: Path, body: bytes) -> None:
        for client in self.stream_of(tmp_path, body):
            stream = client.watch()
            assert isinstance(next(stream), Hello)
            with pytest.raises(ProtocolError):
                next(stream)

    def test_a_huge_line_is_given_up(self, tmp_path: Path) -> None:
        body = chunk(HELLO + b"\n") + chunk(b"x" * (LINE_MAX_BYTES + 1))
        for client in self.stream_of(tmp_path, body):
            stream = client.watch()
            next(stream)
            with pytest.raises(ProtocolError, match="bytes"):
                next(stream)

    def test_a_message_of_a_newer_server_is_skipped(self, tmp_path: Path) -> None:
        body = chunk(b'{"type":"weather","sun":true}\n' + HELLO + b"\n") + chunk(b"")
        for client in self.stream_of(tmp_path, body):
            assert [type(message) for message in client.watch()] == [Hello]

    def test_a_newer_protocol_is_refused(self, tmp_path: Path) -> None:
        body = chunk(b'{"type":"hello","api":99,"version":"9.9","server":"hub","cluster":"c"}\n')
        for client in self.stream_of(tmp_path, body):
            with pytest.raises(ProtocolError, match=r"upgrade this program to 9\.9"):
                next(client.watch())
