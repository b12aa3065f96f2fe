"""`dial-stdio`: bytes pass, ends are told apart, and nothing spins."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.api.bridge import CONNECTED, NO_SOCKET

ROOT = Path(__file__).parents[2]
CODE = "import sys; from agent.api.bridge import dial_stdio; sys.exit(dial_stdio(sys.argv[1]))"


@contextmanager
def dialled(path: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A bridge and the daemon's end of its connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60)
        child = subprocess.Popen(
            [sys.executable, "-c", CODE, path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            daemon, _ = listener.accept()
            daemon.settimeout(60)
            assert child.stderr is not None
            assert child.stderr.readline() == CONNECTED
            with daemon:
                yield child, daemon
        finally:
            child.kill()
            child.communicate(timeout=60)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_missing_socket_is_a_sentence_and_a_status_of_its_own(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "hub.sock"], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == NO_SOCKET
    assert ran.stderr.decode().splitlines() == [
        f"stoker-hub does not answer at {tmp_path / 'hub.sock'}: No such file or directory"
    ]
    assert ran.stdout == b""


def test_a_finished_stdin_is_half_a_close(tmp_path: Path) -> None:
    with dialled(tmp_path / "s") as (child, daemon):
        assert child.stdin and child.stdout
        child.stdin.write(b"question")
        child.stdin.close()
        child.stdin = None
        received = b""
        while piece := daemon.recv(100):
            received += piece
        assert received == b"question"
        daemon.sendall(b"answer")  # the other direction is still open
        assert child.stdout.read(6) == b"answer"
        daemon.close()
        assert child.stdout.read() == b""
        assert child.wait(60) == 0


def test_the_daemons_end_ends_it_though_stdin_is_open(tmp_path: Path) -> None:
    with dialled(tmp_path / "s") as (child, daemon):
        assert child.stdout

        def say_and_end() -> None:
            daemon.sendall(b"x" * 1_000_000)
            daemon.close()

        writer = threading.Thread(target=say_and_end)
        writer.start()
        assert len(child.stdout.read()) == 1_000_000  # all that was said is out
        assert child.wait(60) == 0
        writer.join(60)


def test_a_reader_that_went_away_ends_it(tmp_path: Path) -> None:
    with dialled(tmp_path / "s") as (child, daemon):
        assert child.stdout
        child.stdout.close()
        assert child.wait(60) == 0  # at once, without a byte of the daemon that could fail to be written
        assert daemon.recv(1) == b""
        child.stdout = None


def test_both_directions_at_once_when_nobody_reads_yet(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    with dialled(tmp_path / "s") as (child, daemon):
        assert child.stdin and child.stdout
        writers = [
            threading.Thread(target=child.stdin.write, args=(data,)),
            threading.Thread(target=daemon.sendall, args=(data,)),
        ]
        for writer in writers:
            writer.start()
        assert child.stdout.read(len(data)) == data
        received = bytearray()
        while len(received) < len(data):
            received += daemon.recv(65536)
        assert received == data
        for writer in writers:
            writer.join(60)


@pytest.mark.parametrize("half_closed", [False, True])
def test_an_idle_bridge_costs_nothing(tmp_path: Path, half_closed: bool) -> None:
    with dialled(tmp_path / "s") as (child, daemon):
        assert child.stdin
        fill(daemon)
        if half_closed:
            child.stdin.close()
            child.stdin = None
            daemon.settimeout(60)
            assert daemon.recv(1) == b""
        before, began = cpu_s(child.pid), time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)  # nothing happens, so it must not end; and to wait for its end must have cost it nothing
        assert cpu_s(child.pid) - before <= 0.1 * (time.monotonic() - began) + 0.02


def fill(daemon: socket.socket) -> None:
    """Send until nothing more is taken: nobody reads stdout, so that this direction is stuck."""
    daemon.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            daemon.sendall(b"x" * 65536)


def test_it_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import agent.api.bridge; print(*sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert not {"asyncio", "msgspec", "json", "pathlib", "typing", "logging", "subprocess"} & set(ran.stdout.split())


def test_the_client_loads_without_ssh_or_an_event_loop() -> None:
    code = "import sys, agent.api.client, agent.api.unix; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert not {"asyncio", "paramiko", "aiohttp", "cryptography", "logging", "subprocess"} & set(ran.stdout.split())
