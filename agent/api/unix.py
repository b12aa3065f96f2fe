"""The way to a server on this machine: a Unix socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
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


class UnixTransport:
    """The server that listens on `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, timeout_s: float) -> UnixConn:
        """Connect.

        Raises:
            AwayError: no socket in a folder that is there, or nobody listening.
            ConnectError: no such folder, or no permission. Both say which, and what to do.
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


def _may_come_back(path: Path, error: OSError) -> bool:
    """Whether a daemon has its place there: where not even the folder is, none will come."""
    return isinstance(error, ConnectionRefusedError) or (isinstance(error, FileNotFoundError) and path.parent.is_dir())


def _explain(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no socket {path}; is the service started on this machine, and is its run_dir the same?"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on {path}; the service has stopped: start it, or look into its log for the reason"
    if isinstance(error, PermissionError):
        return f"you may not connect to {path}; ask an admin of this machine to let your account use it"
    return f"cannot connect to {path}: {error.strerror or error}"
