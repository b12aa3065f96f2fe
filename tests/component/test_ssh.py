"""The ssh transport against a real sshd on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api import hostkeys
from agent.api.client import Client
from agent.api.errors import AuthError, ConnectError, DeadlineError, HostKeyError, ProtocolError, TransportError
from agent.api.hostkeys import HostKey, KnownHosts, PinnedKey, UnknownHostError
from agent.api.refs import JobRef
from agent.api.ssh import SshTransport
from agent.api.sshconfig import HostConfig
from tests.fakes.agent import fake_agent
from tests.fakes.sshd import USER, Sshd, make_key, sshd

ROOT = Path(__file__).parents[2]


def bridge(path: Path) -> str:
    """The remote command: what `stoker-agent dial-stdio` runs, without its configuration."""
    code = f"import sys; sys.path.insert(0, '{ROOT}'); from agent.api.bridge import dial_stdio; "
    return f"{sys.executable} -I -c \"{code}sys.exit(dial_stdio('{path}'))\""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture(scope="module")
def agent_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("agent") / "agent.sock"
    with fake_agent(path):
        yield path


def host(server: Sshd, **more: object) -> HostConfig:
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": USER,
        "key_name": "127.0.0.1",
        "identity_files": (server.identity,),
        "identities_only": True,
    }
    return HostConfig(**(values | more))  # type: ignore[arg-type]


def pinned(server: Sshd) -> PinnedKey:
    return PinnedKey(HostKey.parse(server.host_key), "the test")


def transport(server: Sshd, *dial: str, **more: object) -> SshTransport:
    return SshTransport(host(server, **more), pinned(server), dial=dial)


class TestStreams:
    def test_calls_and_a_stream_share_one_connection(self, server: Sshd, agent_socket: Path) -> None:
        before = server.log().count("Accepted publickey")
        with Client(transport(server, bridge(agent_socket))) as client, client.follow_log(JobRef(id=1)) as stream:
            next(stream)
            assert client.job(JobRef(id=1)).name == "train.sh"
            assert client.hello().server == "agent"
            next(stream)
        assert server.log().count("Accepted publickey") == before + 1

    def test_bytes_pass_unchanged_in_both_directions(self, server: Sshd, tmp_path: Path) -> None:
        data = bytes(range(256)) * 20_000
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "echo"))
            listener.listen()
            threading.Thread(target=echo, args=(listener,), daemon=True).start()
            way = transport(server, bridge(tmp_path / "echo"))
            conn = way.open(60)
            conn.settimeout(60)
            writer = threading.Thread(target=conn.sendall, args=(data,))
            writer.start()
            received = bytearray()
            buffer = memoryview(bytearray(65536))
            while len(received) < len(data):
                count = conn.recv_into(buffer)
                assert count
                received += buffer[:count]
            writer.join(60)
            way.close()
        assert received == data

    def test_close_from_another_thread_wakes_the_reader(self, server: Sshd, agent_socket: Path) -> None:
        with Client(transport(server, bridge(agent_socket))) as client, client.follow_log(JobRef(id=1)) as stream:
            next(stream), next(stream)
            threading.Timer(0.1, stream.close).start()
            began = time.monotonic()
            assert list(stream) == []
            assert time.monotonic() - began < 30

    def test_what_a_login_shell_prints_first_is_dropped(self, server: Sshd, agent_socket: Path) -> None:
        noisy = f"echo Welcome to this machine; echo and to its stderr >&2; {bridge(agent_socket)}"
        with Client(transport(server, noisy)) as client:
            assert client.hello().server == "agent"

    def test_a_cut_connection_is_made_again(self, server: Sshd, agent_socket: Path) -> None:
        with Client(transport(server, bridge(agent_socket))) as client:
            with client.watch() as stream:
                next(stream)
                server.cut()
                with pytest.raises(TransportError):
                    for _ in stream:
                        pass
            assert client.hello().server == "agent"

    def test_the_hub_is_tried_first_then_the_agent(self, server: Sshd, tmp_path: Path, agent_socket: Path) -> None:
        way = transport(server, "stoker-not-installed dial-stdio", bridge(tmp_path / "hub.sock"), bridge(agent_socket))
        with Client(way) as client:
            assert client.hello().server == "agent"

    def test_sessions_beyond_the_servers_limit_are_refused_in_words(self, tmp_path: Path, agent_socket: Path) -> None:
        with sshd(tmp_path / "d", settings=["MaxSessions 2"]) as server:
            way = transport(server, bridge(agent_socket))
            kept = [way.open(60), way.open(60)]
            with pytest.raises(ConnectError, match="MaxSessions"):
                way.open(60)
            assert not any(conn.is_stale() for conn in kept)
            way.close()


def echo(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        while piece := sock.recv(65536):
            sock.sendall(piece)


class TestHostKeys:
    def known(self, server: Sshd, tmp_path: Path, *lines: str) -> SshTransport:
        file = tmp_path / "known_hosts"
        file.write_text("".join(lines))
        return SshTransport(host(server), KnownHosts([file]), dial=("exec false",))

    def test_an_unknown_host_shows_its_fingerprint_and_is_known_once_remembered(
        self, server: Sshd, tmp_path: Path
    ) -> None:
        before = server.log().count("Accepted publickey")
        way = self.known(server, tmp_path)
        with pytest.raises(UnknownHostError) as caught:
            way.open(60)
        told = subprocess.run(
            ["ssh-keygen", "-lf", server.folder / "host_ed25519.pub"], capture_output=True, text=True, check=True
        )
        assert caught.value.fingerprint == told.stdout.split()[1]
        assert not caught.value.known
        assert server.log().count("Accepted publickey") == before  # nothing of ours was sent before the key was judged
        hostkeys.remember(caught.value)
        with pytest.raises(ConnectError, match="ended with status 1"):  # past the host key, at the command
            way.open(60)

    def test_a_changed_key_is_refused_with_both_fingerprints_and_the_line(self, server: Sshd, tmp_path: Path) -> None:
        make_key(tmp_path / "old")
        old = HostKey.parse((tmp_path / "old.pub").read_text())
        way = self.known(server, tmp_path, "# a comment\n", f"[127.0.0.1]:{server.port} {old}\n")
        with pytest.raises(HostKeyError) as caught:
            way.open(60)
        new = HostKey.parse(server.host_key)
        for shown in (old.fingerprint, new.fingerprint, "known_hosts:2"):
            assert shown in str(caught.value)
        assert caught.value.known

    def test_a_revoked_key_is_refused_though_it_is_listed(self, server: Sshd, tmp_path: Path) -> None:
        way = self.known(server, tmp_path, server.known_hosts_line, f"@revoked * {server.host_key}\n")
        with pytest.raises(HostKeyError, match="revoked by"):
            way.open(60)

    def test_a_known_type_is_asked_for_though_another_is_preferred(self, tmp_path: Path) -> None:
        with sshd(tmp_path / "d", host_keys=("ed25519", "rsa")) as server:
            rsa = HostKey.parse((server.folder / "host_rsa.pub").read_text())
            way = self.known(server, tmp_path, f"[127.0.0.1]:{server.port} {rsa}\n")
            with pytest.raises(ConnectError, match="ended with status 1"):
                way.open(60)

    def test_a_pin_that_does_not_fit_is_refused(self, server: Sshd, tmp_path: Path) -> None:
        make_key(tmp_path / "other")
        pin = PinnedKey(HostKey.parse((tmp_path / "other.pub").read_text()), "hub.nodes n2 in stoker.toml")
        with pytest.raises(HostKeyError, match=r"hub.nodes n2 in stoker.toml pins SHA256") as caught:
            SshTransport(host(server), pin).open(60)
        assert HostKey.parse(server.host_key).fingerprint in str(caught.value)


class TestErrors:
    def test_a_wrong_key_names_what_was_tried(self, server: Sshd, tmp_path: Path) -> None:
        make_key(tmp_path / "mine")
        make_key(tmp_path / "locked", passphrase="secret")
        files = (tmp_path / "mine", tmp_path / "locked", tmp_path / "absent")
        with pytest.raises(AuthError) as caught:
            transport(server, "x", identity_files=files).open(60)
        assert f"tried: {tmp_path / 'mine'}" in str(caught.value)
        assert f"ssh-add {tmp_path / 'locked'}" in str(caught.value)

    def test_no_key_at_all_says_where_it_looked(self, server: Sshd, tmp_path: Path) -> None:
        with pytest.raises(AuthError, match="no key to offer"):
            transport(server, "x", identity_files=(tmp_path / "absent",)).open(60)

    def test_a_key_of_the_ssh_agent_is_used(
        self, server: Sshd, agent_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keeper = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "keys"], stdout=subprocess.DEVNULL)
        try:
            environ = os.environ | {"SSH_AUTH_SOCK": str(tmp_path / "keys")}
            wait_for(tmp_path / "keys")
            subprocess.run(["ssh-add", "-q", server.identity], env=environ, check=True, timeout=60)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "keys"))
            with Client(transport(server, bridge(agent_socket), identity_files=(), identities_only=False)) as client:
                assert client.hello().server == "agent"
        finally:
            keeper.kill()
            keeper.wait(60)

    def test_a_name_that_does_not_resolve(self, server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")  # where no name server can be reached
        with pytest.raises(ConnectError, match=r"cannot resolve nowhere.invalid"):
            transport(server, "x", host="nowhere.invalid").open(60)

    def test_a_port_nobody_listens_on(self, server: Sshd) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectError, match="refuses connections"):
                transport(server, "x", port=unused.getsockname()[1]).open(60)

    def test_a_port_that_never_speaks(self, server: Sshd) -> None:
        with socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            mute.listen()
            began = time.monotonic()
            with pytest.raises(DeadlineError, match="does not speak ssh"):
                transport(server, "x", port=mute.getsockname()[1]).open(0.5)
            assert time.monotonic() - began < 30

    def test_a_port_that_speaks_something_else(self, server: Sshd) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()

            def answer() -> None:
                sock, _ = other.accept()
                with sock:
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            threading.Thread(target=answer, daemon=True).start()
            with pytest.raises(TransportError, match=r"handshake|ssh version"):
                transport(server, "x", port=other.getsockname()[1]).open(60)

    def test_a_command_that_is_not_there(self, server: Sshd) -> None:
        with pytest.raises(ConnectError, match="there is no command stoker-not-installed; install Stoker there"):
            transport(server, "stoker-not-installed dial-stdio").open(60)

    def test_a_daemon_that_is_not_there(self, server: Sshd, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match=r"stoker-agent does not answer at .*agent.sock.*start the service"):
            transport(server, bridge(tmp_path / "agent.sock")).open(60)

    def test_a_command_that_says_nothing(self, server: Sshd, agent_socket: Path) -> None:
        way = transport(server, "sleep 60")
        with pytest.raises(DeadlineError, match="does not connect to its daemon"):
            way.open(1)
        way.close()

    def test_a_server_with_only_a_cipher_that_we_lack(self, tmp_path: Path) -> None:
        with (
            sshd(tmp_path / "d", settings=["Ciphers chacha20-poly1305@openssh.com"]) as server,
            pytest.raises(ProtocolError, match=r"no cipher in common.*aes128-gcm.*chacha20-poly1305 is not among them"),
        ):
            transport(server, "x").open(60)

    def test_nothing_is_logged_on_stderr(self, server: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
        before = set(threading.enumerate())
        way = transport(server, "stoker-not-installed dial-stdio")
        with pytest.raises(ConnectError):
            way.open(60)
        way.close()
        with pytest.raises(AuthError):
            transport(server, "x", identity_files=()).open(60)
        with server.frozen(), pytest.raises(DeadlineError):
            transport(server, "x").open(0.2)
        for thread in set(threading.enumerate()) - before:
            thread.join(60)  # paramiko's threads complain when they end
            assert not thread.is_alive(), thread.name
        assert capfd.readouterr().err == ""


class TestForcedCommand:
    def test_whatever_is_asked_for_the_servers_line_decides(self, tmp_path: Path, agent_socket: Path) -> None:
        script = tmp_path / "dial"
        script.write_text(f"#!/bin/sh\nexec {bridge(agent_socket)}\n")
        script.chmod(0o755)
        with sshd(tmp_path / "d", forced=str(script)) as server, Client(transport(server, "cat /etc/passwd")) as client:
            assert client.hello().server == "agent"


class TestFrozen:
    """SIGSTOP of every sshd process: the connection stays healthy, keep-alives of TCP are answered, nobody is there."""

    def test_a_call_on_a_new_channel_ends_at_its_deadline(self, server: Sshd, agent_socket: Path) -> None:
        way = transport(server, bridge(agent_socket))
        with Client(way, timeout_s=60) as client:
            client.hello()
            with server.frozen():
                began = time.monotonic()
                with pytest.raises(DeadlineError):
                    way.open(0.5)
                assert time.monotonic() - began < 30
            assert client.hello().server == "agent"  # connected anew

    def test_a_stream_is_silent_and_then_lost(self, server: Sshd, agent_socket: Path) -> None:
        way = transport(server, bridge(agent_socket))
        with Client(way, silence_s=1.0) as client, client.watch() as stream:
            next(stream)
            with server.frozen():
                with pytest.raises(DeadlineError):
                    for _ in stream:
                        pass
                began = time.monotonic()
                client.close()  # nothing that shuts down may wait for the dead
                assert time.monotonic() - began < 8

    def test_a_connection_that_freezes_in_the_handshake(self, server: Sshd) -> None:
        with server.frozen():
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                transport(server, "x").open(0.5)
            assert time.monotonic() - began < 30


class TestUserConfig:
    def test_alias_port_key_and_known_hosts_come_from_the_users_files(
        self, server: Sshd, agent_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "home"
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "config").write_text(
            f"Include {home}/.ssh/extra\nHost head\n  HostName 127.0.0.1\n  Port {server.port}\n  User {USER}\n"
        )
        (home / ".ssh" / "extra").write_text(f"IdentityFile {server.identity}\n")
        (home / ".ssh" / "known_hosts").write_text(server.known_hosts_line)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
        way = SshTransport.for_user("head", dial=(bridge(agent_socket),), environ=environ)
        assert way.describe() == f"{USER}@[127.0.0.1]:{server.port}"
        with Client(way) as client:
            assert client.hello().server == "agent"

    def test_a_jump_host_and_a_proxy_command_lead_there(self, server: Sshd, agent_socket: Path, tmp_path: Path) -> None:
        relay = tmp_path / "relay.py"
        relay.write_text(RELAY)
        proxy = (sys.executable, str(relay), str(server.port))
        with Client(transport(server, bridge(agent_socket), proxy=proxy)) as client:
            assert client.hello().server == "agent"
        with pytest.raises(ConnectError, match="cannot run the proxy command /nowhere"):
            transport(server, "x", proxy=("/nowhere",)).open(60)


RELAY = """
import os, select, socket, sys
far = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    ready = select.select([0, far], [], [])[0]
    if 0 in ready:
        data = os.read(0, 65536)
        if not data:
            break
        far.sendall(data)
    if far in ready:
        data = far.recv(65536)
        if not data:
            break
        os.write(1, data)
"""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
