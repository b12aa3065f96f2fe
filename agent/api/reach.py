"""A socket to an ssh server: a TCP connection, or the child process that a ProxyJump or ProxyCommand asks for."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Sequence

from agent.api.errors import ConnectError, DeadlineError
from agent.api.sshconfig import HostConfig

_REAP_S = 1.0


def reach(host: HostConfig, deadline: float) -> socket.socket:
    """Connect; `deadline` in monotonic seconds.

    The name is looked up without it, the resolver takes none: its own limits (resolv.conf(5) `timeout`) hold there.

    Raises:
        ConnectError: cannot resolve, refused, no route, or the proxy cannot be run.
        DeadlineError: no answer in time.
    """
    return _through(host.proxy) if host.proxy else _tcp(host, deadline)


def left_s(deadline: float) -> float:
    """Seconds until the deadline, never quite 0: to many calls that would mean for ever, or not at all."""
    return max(0.001, deadline - time.monotonic())


def _tcp(host: HostConfig, deadline: float) -> socket.socket:
    at = f"{host.host} port {host.port}"
    try:
        found = socket.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectError(f"cannot resolve {host.host}; check the name, and that DNS or /etc/hosts has it") from error
    last: OSError | None = None
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left_s(deadline))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    if isinstance(last, ConnectionRefusedError):
        raise ConnectError(f"{at} refuses connections; is its ssh server running, and is the port right?") from last
    if isinstance(last, TimeoutError):
        raise DeadlineError(f"{at} does not answer; is the machine up, and does a firewall let ssh through?") from last
    raise ConnectError(f"cannot connect to {at}: {last.strerror if last else 'it has no address'}") from last


def _through(command: Sequence[str]) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            child = subprocess.Popen(
                list(command),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise ConnectError(f"cannot run the proxy command {command[0]}: {error.strerror}") from error
    return _ProxySocket(ours, child)


class _ProxySocket(socket.socket):
    """A socket that ends the proxy's process with itself."""

    def __init__(self, sock: socket.socket, child: subprocess.Popen[bytes]) -> None:
        super().__init__(fileno=sock.detach())
        self._child = child

    def close(self) -> None:
        super().close()
        self._child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_REAP_S)
