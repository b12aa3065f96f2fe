"""The way to a server on this machine: a Unix socket."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from agent.api.errors import AwayError, ConnectError, DeadlineError


class UnixConn:
    """One connection to a Unix socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.recv_into = sock.recv_into
        self.sendall = sock.sendall
        self.settimeout = sock.settimeout

    def is_stale(self) -> bool:
        """An idle connection on which something can be read was closed, or is out of step."""
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """End it. The shutdown comes first: closing alone would leave a reader in another thread waiting."""
        with contextlib.suppress(OSError):  # already ended by the other side; the descriptor is still ours to close
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


MARK_S = 20.0
_LATELY_S = 60.0
_WHERE = "node.run_dir of the configuration says where it is"
"""A restart takes seconds; a daemon that was not marked for so long is not just restarting."""


def is_account_name(text: str) -> bool:
    """Whether an account may be called so, of names that others tell; those of a domain have @ or a backslash."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,255}", text) is not None


def _behind_root(environ: Mapping[str, str]) -> str | None:
    name = environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    return name if is_account_name(name) and name != "root" else None


class UnixTransport:
    """The server that listens on `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.behind = _behind_root(os.environ)

    def open(self, timeout_s: float) -> UnixConn:
        """Connect.

        Raises:
            AwayError: nobody listens, and somebody did a moment ago.
            ConnectError: nobody has for longer, or no permission. Both say which, and what to do.
            DeadlineError: the server's backlog is full and stays so.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(os.fspath(self._path))
        except OSError as error:
            sock.close()
            # A full backlog is EAGAIN on a socket with a timeout: the server lives but does not accept.
            if isinstance(error, TimeoutError | BlockingIOError):
                raise DeadlineError(
                    f"{self._path} does not accept connections within {timeout_s:g} s; its service hangs or is "
                    "overloaded: look into its log, or restart it"
                ) from error
            kind = AwayError if _may_come_back(self._path, error) else ConnectError
            raise kind(_explain(self._path, error)) from error
        return UnixConn(sock)

    def describe(self) -> str:
        """The socket's path."""
        return str(self._path)

    def close(self) -> None:
        """Nothing is shared between connections."""


def lately_served(path: Path) -> bool:
    """Whether a daemon had its socket at `path` within the last minute: then it may be restarting.

    One that ends takes its socket away, which changes the folder; one that runs marks the socket now and then (`mark`).
    """
    now = time.time()
    for each in (path, path.parent):
        with contextlib.suppress(OSError):
            if abs(now - each.stat().st_mtime) < _LATELY_S:
                return True
    return False


def mark(path: Path) -> None:
    """A daemon's sign that it is alive, for callers that come when it no longer is; at least every `MARK_S`."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _may_come_back(path: Path, error: OSError) -> bool:
    lost = isinstance(error, ConnectionRefusedError | FileNotFoundError)
    return lost and not _is_other(path) and lately_served(path)


def _is_other(path: Path) -> bool:
    """Whether a folder or a file is there that can never be listened on."""
    try:
        return not stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _explain(path: Path, error: OSError) -> str:
    if _is_other(path):
        return f"{path} is no socket; name the hub's or the agent's: {_WHERE}"
    if path.name in ("agent.sock", "hub.sock"):
        service = f"stoker-{path.stem}"
        start = f"start {service} (systemctl start {service}, or as an ordinary user: {service} run)"
    else:
        start = "start the service that listens there"
    if isinstance(error, FileNotFoundError):
        return f"there is no socket {path}: {start}, or name another socket; {_WHERE}"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on {path}, its service has stopped: {start}; its log tells the reason"
    if isinstance(error, PermissionError):
        return f"you may not connect to {path}; ask an admin of this machine to let your account use it"
    return f"cannot connect to {path}: {error.strerror or error}"
