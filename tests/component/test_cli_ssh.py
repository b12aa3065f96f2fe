"""`stoker -H` before a real sshd: a host never seen is asked about on a terminal, and only there."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.agent import fake_agent
from tests.fakes.daemons import wait_until
from tests.fakes.rawcall import call
from tests.fakes.sshd import Sshd, sshd

ENTRY = "import sys; from tui.__main__ import main; sys.exit(main())"
HOUSE = Path(__file__).parents[2]
DEADLINE_S = 60.0


@dataclass
class Laptop:
    """A home with an ssh configuration that knows the host `lab`, and no host key yet."""

    home: Path
    server: Sshd
    agent: Path
    """Socket of the agent behind it."""

    @property
    def known_hosts(self) -> Path:
        return self.home / ".ssh" / "known_hosts"

    @property
    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(HOUSE)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", ENTRY, "-H", "lab", *words]
        return subprocess.run(argv, env=self.environ, capture_output=True, text=True, input="yes\n", timeout=DEADLINE_S)

    def answer(self, typed: bytes, *words: str) -> tuple[int, str]:
        """Run on a terminal and type an answer when asked; the exit code and all that was shown."""
        outer, inner = pty.openpty()
        argv = [sys.executable, "-c", ENTRY, "-H", "lab", *words]
        child = subprocess.Popen(
            argv, stdin=inner, stdout=inner, stderr=inner, env=self.environ, start_new_session=True
        )
        os.close(inner)
        shown, end = b"", time.monotonic() + DEADLINE_S
        try:
            while time.monotonic() < end and select.select([outer], [], [], DEADLINE_S)[0]:
                shown += os.read(outer, 4096)
                if typed and b"Type yes" in shown:
                    os.write(outer, typed)
                    typed = b""
        except OSError:
            pass  # EIO: the other side has ended
        finally:
            os.close(outer)
        return child.wait(timeout=DEADLINE_S), shown.decode()


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    run_dir = Path(tempfile.mkdtemp(prefix="stk-", dir="/tmp"))
    config = tmp_path / "stoker.toml"
    config.write_text(f'[node]\nname = "n1"\nmode = "user"\nstate_dir = "{tmp_path}/state"\nrun_dir = "{run_dir}"\n')
    dial = tmp_path / "dial"
    entry = "import sys; from agent.__main__ import agent_main as m; sys.exit(m())"
    command = f"exec {sys.executable} -c '{entry}' --config {config} dial-stdio"
    dial.write_text(f"#!/bin/sh\ncd {HOUSE}\n{command}\n")
    dial.chmod(0o755)
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    with fake_agent(run_dir / "agent.sock"), sshd(tmp_path / "sshd", forced=str(dial)) as server:
        user = server.target.partition("@")[0]
        (home / ".ssh" / "config").write_text(
            f"Host lab\n  HostName 127.0.0.1\n  Port {server.port}\n  User {user}\n  IdentityFile {server.identity}\n"
        )
        yield Laptop(home, server, run_dir / "agent.sock")


def test_without_a_terminal_an_unknown_host_is_refused_whatever_is_piped_in(laptop: Laptop) -> None:
    done = laptop.run("nodes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "SHA256:" in done.stderr
    assert "no terminal to ask on" in done.stderr and str(laptop.known_hosts) in done.stderr
    assert not laptop.known_hosts.exists()


def test_on_a_terminal_yes_saves_the_key_and_goes_on(laptop: Laptop) -> None:
    code, shown = laptop.answer(b"yes\n", "nodes")
    assert code == 0
    assert "SHA256:" in shown and "8 simulated" in shown
    assert laptop.server.host_key in laptop.known_hosts.read_text()
    again = laptop.run("jobs")
    assert (again.returncode, again.stderr) == (0, ""), "known from now on"


@pytest.mark.parametrize("typed", [b"no\n", b"\n", b"y\n", b"\x04"])
def test_anything_but_yes_means_no(laptop: Laptop, typed: bytes) -> None:
    code, shown = laptop.answer(typed, "nodes")
    assert code == 1
    assert "not trusted; nothing was sent" in shown
    assert not laptop.known_hosts.exists()


def test_a_changed_key_is_refused_without_a_question(laptop: Laptop) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS"
    laptop.known_hosts.write_text(f"[127.0.0.1]:{laptop.server.port} {other}\n")
    code, shown = laptop.answer(b"yes\n", "nodes")
    assert code == 1
    assert "Type yes" not in shown
    assert laptop.known_hosts.read_text().count("\n") == 1


def test_following_outlives_a_cut_of_the_ssh_connection(laptop: Laptop) -> None:
    laptop.known_hosts.write_text(laptop.server.known_hosts_line)
    argv = [sys.executable, "-c", ENTRY, "-H", "lab", "logs", "-f", "1"]
    child = subprocess.Popen(argv, env=laptop.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    assert len(child.stdout.read(1024)) == 1024, "all that the job has written"
    laptop.server.cut()
    assert b"the link is lost, trying again" in child.stderr.readline()
    wait_until(lambda: "offset=1024" in str(call(laptop.agent, "GET", "/v1/seen")), "it goes on from the last byte")
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=DEADLINE_S) == (b"", b"")
    assert child.returncode == 130
