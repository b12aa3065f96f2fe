"""On a real terminal: a pty, with the program in a process of its own, before a socket that a real server answers."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.agent import fake_agent

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
MOUSE_OFF = b"\x1b[?1000l"
SHOW_CURSOR = b"\x1b[?25h"
DEADLINE_S = 60.0


class Terminal:
    """A pty with `stoker` on it."""

    def __init__(self, *words: str, env: dict[str, str] | None = None) -> None:
        self.fd, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(inner)
        self.inner = inner
        self.started = time.monotonic()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tui", *words],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **(env or {})},
        )
        self.seen = b""

    def read_until(self, wanted: bytes) -> None:
        end = time.monotonic() + DEADLINE_S
        while wanted not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"{wanted!r} did not come; last was {self.seen[-300:]!r}"
            self.seen += os.read(self.fd, 65536)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def end(self) -> int:
        """Wait for the end, reading on: a full pty would hold the program up."""
        end = time.monotonic() + DEADLINE_S
        while self.child.poll() is None and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.05)[0]:
                self.seen += os.read(self.fd, 65536)
        while select.select([self.fd], [], [], 0)[0]:
            self.seen += os.read(self.fd, 65536)
        return self.child.wait(timeout=1)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self.fd)
        os.close(self.inner)


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    with fake_agent(tmp_path / "a.sock"):
        yield tmp_path / "a.sock"


ENDS = {"q": b"q", "ctrl+c": b"\x03", "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_the_terminal_is_left_as_it_was(socket: Path, end: bytes | int) -> None:
    terminal = Terminal("--socket", str(socket))
    try:
        terminal.read_until(b"train.sh")
        assert ENTER in terminal.seen
        if isinstance(end, bytes):
            terminal.type(end)
        else:
            terminal.child.send_signal(end)
        assert terminal.end() == 0
        tail = terminal.seen[terminal.seen.rindex(ENTER) :]
        assert LEAVE in tail and MOUSE_OFF in tail and SHOW_CURSOR in tail
        assert termios.tcgetattr(terminal.inner)[:4] == terminal.before[:4]
        assert b"Traceback" not in terminal.seen
    finally:
        terminal.close()


def test_the_screen_stays_when_the_server_dies(tmp_path: Path) -> None:
    with fake_agent(tmp_path / "a.sock") as server:
        terminal = Terminal("--socket", str(tmp_path / "a.sock"))
        try:
            terminal.read_until(b"train.sh")
            server.kill()
            terminal.read_until(b"next try")
            terminal.type(b"q")
            assert terminal.end() == 0
        finally:
            terminal.close()


def test_the_job_option_opens_that_job(socket: Path) -> None:
    terminal = Terminal("--socket", str(socket), "--job", "1")
    try:
        terminal.read_until(b"following")
        terminal.type(b"q")
        assert terminal.end() == 0
    finally:
        terminal.close()


def test_without_a_server_it_says_what_to_start(tmp_path: Path) -> None:
    terminal = Terminal(env={"HOME": str(tmp_path), "STOKER_SOCKET": "", "XDG_RUNTIME_DIR": str(tmp_path)})
    try:
        assert terminal.end() == 1
        assert b"hub.sock" in terminal.seen and b"stoker-agent run" in terminal.seen
        assert ENTER not in terminal.seen
    finally:
        terminal.close()


def test_it_ends_though_nobody_reads_its_farewell(socket: Path) -> None:
    terminal = Terminal("--socket", str(socket))
    try:
        terminal.read_until(b"Overview")
        terminal.type(b"312312q")  # what it draws is not read: the pty fills up, as behind a link that hangs
        for _ in range(200):
            terminal.type(b"\x14")
        assert terminal.child.wait(timeout=DEADLINE_S) is not None
    finally:
        terminal.close()
