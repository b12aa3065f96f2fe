"""A real OpenSSH server on loopback, in a process of its own: own host keys, own authorized_keys, own port.

As root it needs the privilege separation folder `/run/sshd`, which is made; as an ordinary user it serves that user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.ports import free_port

USER = pwd.getpwuid(os.geteuid()).pw_name


@dataclass(slots=True)
class Sshd:
    """A running server."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def target(self) -> str:
        """What a user would type."""
        return f"{USER}@127.0.0.1:{self.port}"

    @property
    def host_key(self) -> str:
        """The ed25519 host key as in known_hosts, without the name."""
        return " ".join((self.folder / "host_ed25519.pub").read_text().split()[:2])

    @property
    def known_hosts_line(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.host_key}\n"

    @property
    def identity(self) -> Path:
        """A private key that the server accepts."""
        return self.folder / "user_ed25519"

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def pids(self) -> list[int]:
        """The listener and all of its sessions."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in task.read_text().split()]
        return found

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Everything of the server stopped by SIGSTOP: TCP stays healthy and nobody answers."""
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the session of a test before, just ending
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def cut(self) -> None:
        """Kill every session, not the listener."""
        for pid in self.pids()[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def sshd(
    folder: Path, *, forced: str | None = None, settings: Sequence[str] = (), host_keys: Sequence[str] = ("ed25519",)
) -> Iterator[Sshd]:
    """Start a server in `folder`; `forced` is the forced command of the accepted key."""
    program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs sshd and ssh-keygen: install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder.mkdir(exist_ok=True)
    for kind in host_keys:
        make_key(folder / f"host_{kind}", kind)
    make_key(folder / "user_ed25519")
    authorize(folder, forced)
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(_config(folder, port, host_keys) + "".join(f"{line}\n" for line in settings))
    argv = [program, "-D", "-f", str(config), "-E", str(folder / "log"), *_lenient(program, config)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    server = Sshd(folder, port, process)
    try:
        _await_port(server)
        yield server
    finally:
        for pid in reversed(server.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(60)


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> None:
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True, timeout=60)


def authorize(folder: Path, forced: str | None = None) -> None:
    """(Re)write authorized_keys: the user's key, with `forced` as its only command."""
    options = f'restrict,command="{forced}" ' if forced else ""
    (folder / "authorized_keys").write_text(options + (folder / "user_ed25519.pub").read_text())
    (folder / "authorized_keys").chmod(0o600)


def _lenient(program: str, config: Path) -> list[str]:
    """From 9.8 on sshd turns a source away that often fails to log in, as tests do; an older one knows no such word."""
    option = ["-o", "PerSourcePenalties=no"]
    tried = subprocess.run([program, "-t", "-f", str(config), *option], capture_output=True, timeout=60)
    return [] if tried.returncode else option


def _config(folder: Path, port: int, host_keys: Sequence[str]) -> str:
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        *(f"HostKey {folder}/host_{kind}" for kind in host_keys),
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"PidFile {folder}/pid",
        "StrictModes no",  # the folder lies below /tmp, which anyone may write to
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "PermitUserRC no",
        "MaxStartups 1000",  # else some of many connections at once are dropped, by chance
        "LogLevel VERBOSE",
        f"SetEnv HOME={folder}",  # a session starts without the account's own .bashrc, whatever that does or waits for
    ]
    return "".join(f"{line}\n" for line in lines)


def _await_port(server: Sshd) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"sshd did not start: {server.log()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1) as sock:
            if sock.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    raise RuntimeError("sshd did not listen within 60 s")
