"""The way to a server on another machine: one ssh connection, and a channel of it for each stream. Door to paramiko.

Rules kept here: the host's key is checked before anything of ours is sent; every wait is bounded by the caller's
deadline, also where paramiko offers none; it logs nowhere, errors are raised. Which keys are offered: `sshauth`.
A channel runs `dial-stdio` on the far machine, which says one line on stderr when it is connected to its daemon.
The figures behind the settings are in the package's README.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import paramiko

from agent.api.bridge import CONNECTED, NO_SOCKET
from agent.api.errors import AwayError, ConnectError, DeadlineError, ProtocolError, TransportError
from agent.api.hostkeys import HostKey, HostKeyPolicy, KnownHosts, host_name
from agent.api.reach import left_s, reach
from agent.api.sshauth import authenticate
from agent.api.sshconfig import HostConfig, Target, resolve

DIAL = ("stoker-hub dial-stdio", "stoker-agent dial-stdio")
"""Remote commands tried in this order: a hub shows its cluster, a bare agent its node."""

_KEX = (
    "mlkem768x25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group14-sha256",
)
"""Fast ones first; the groups at the end cost 25 to 89 ms of CPU and are for servers that know nothing else."""
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_DIGESTS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
_MUTE = "{} accepts connections but does not speak ssh; is its ssh server hung?"
_NOT_FOUND = 127
"""sh(1): the command is not there."""


class SshTransport:
    """The server behind `dial-stdio` on one host; safe to use from several threads."""

    def __init__(self, host: HostConfig, policy: HostKeyPolicy, *, dial: Sequence[str] = DIAL) -> None:
        self._host = host
        self._policy = policy
        self._dial = tuple(dial)
        self.behind = None
        self._connecting = threading.Lock()
        """Held while the connection is made: the others wait for it instead of making their own."""
        self._lock = threading.Lock()
        """Guards `_link` and is never held for long, so that `close` waits for nobody."""
        self._link: _Link | None = None

    @classmethod
    def for_user(
        cls, target: str, *, dial: Sequence[str] = DIAL, environ: Mapping[str, str] | None = None
    ) -> SshTransport:
        """To what a user typed, by the user's ssh_config, keys and known_hosts.

        Raises:
            StokerError: the target or the configuration cannot be used.
        """
        host = resolve(Target.parse(target), os.environ if environ is None else environ, _look_up)
        return cls(host, KnownHosts(host.known_hosts), dial=dial)

    def describe(self) -> str:
        """`user@host`, with the port where it is not 22."""
        return f"{self._host.user}@{host_name(self._host.host, self._host.port)}"

    def open(self, timeout_s: float) -> SshConn:
        """Start the bridge on a channel of the connection, which is made when there is none.

        Raises:
            HostKeyError: before anything was sent; `UnknownHostError` when the user may accept the key.
            AuthError: no key was accepted.
            ConnectError: the host, the command or the daemon is not there; `AwayError` where it is only the daemon.
            DeadlineError: no answer in time.
        """
        deadline = time.monotonic() + timeout_s
        refusals: list[_CommandEndedError] = []
        for command in self._dial:
            try:
                conn = self._dial_with(command, deadline)
            except _CommandEndedError as error:
                refusals.append(error)
                continue
            self._dial = (command,)
            return conn
        kind = AwayError if any(each.is_away for each in refusals) else ConnectError
        raise kind(f"{self.describe()}: {'; '.join(map(str, refusals))}")

    def close(self) -> None:
        """End the connection, and every stream on it."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def _dial_with(self, command: str, deadline: float) -> SshConn:
        link = self._connected(deadline)
        try:
            channel = link.run_command(command, deadline)
        except DeadlineError:
            self._drop(link)  # sshd itself does not answer any more; what else runs on the connection is dead too
            raise
        except (paramiko.SSHException, OSError, EOFError) as error:
            if isinstance(error, paramiko.ChannelException):  # refused by a server that lives: the connection is sound
                raise ConnectError(
                    f"{self.describe()} allows no further session on the connection; close a view, or raise "
                    "MaxSessions in its sshd_config"
                ) from error
            self._drop(link)
            raise ConnectError(f"the ssh connection to {self.describe()} broke; try again") from error
        return _await_bridge(channel, command, self.describe(), deadline)

    def _connected(self, deadline: float) -> _Link:
        if not self._connecting.acquire(timeout=left_s(deadline)):
            raise DeadlineError(f"{self.describe()} is still being connected; try again")
        try:
            with self._lock:
                link = self._link
            if link is None or not link.is_active():
                link = _connect(self._host, self._policy, self.describe(), deadline)
                with self._lock:
                    self._link = link
            return link
        finally:
            self._connecting.release()

    def _drop(self, link: _Link) -> None:
        with self._lock:
            if self._link is link:
                self._link = None
        link.close()


class SshConn:
    """One channel, as a `Conn`."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.settimeout = channel.settimeout

    def recv_into(self, buffer: memoryview) -> int:
        """Read what has come; 0 at the end."""
        data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes | memoryview) -> None:
        """Write everything; as a view, because paramiko copies what is left of `bytes` after each packet (÷ 10)."""
        self._channel.sendall(memoryview(data))  # type: ignore[arg-type]  # typeshed: bytes

    def is_stale(self) -> bool:
        """Whether the channel has ended, or something unasked has come."""
        return bool(self._channel.closed or self._channel.eof_received or self._channel.recv_ready())

    def close(self) -> None:
        """End the channel; its reader sees the end at once."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()


class _CommandEndedError(TransportError):
    """The remote command ended before it was connected to its daemon."""

    is_away = False
    """The command is there, and its daemon is not."""


class _Link(paramiko.Transport):
    """A connection with our settings."""

    # Each transport thread wakes this often to see whether it was closed; 0.1 s, the default, costs a hub of 1000 nodes
    # 30 % of a core. Data and `close` wake it at once in any case.
    _active_check_timeout = 5.0

    def __init__(self, sock: socket.socket, where: str, types: Sequence[str]) -> None:
        super().__init__(sock)
        self.name = f"ssh {where}"
        options = self.get_security_options()
        options.kex = _available(_KEX, options.kex)
        options.ciphers = _available(_CIPHERS, options.ciphers)
        options.digests = _available(_DIGESTS, options.digests)
        options.key_types = _known_first(types, options.key_types)

    def close(self) -> None:
        """End it. Shut down first: a closed socket stays open to the other side while our thread waits in it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        super().close()

    def run_command(self, command: str, deadline: float) -> paramiko.Channel:
        """Run a command on a new channel.

        Raises:
            DeadlineError: the server did not answer.
            SSHException, OSError, EOFError: as paramiko.
        """
        channel: paramiko.Channel | None = None
        with _deadline(deadline, f"the ssh server of {self.name[4:]} does not answer", self.close):
            try:
                channel = self.open_session(timeout=left_s(deadline))
                channel.exec_command(command)
            except (
                BaseException
            ):  # Ctrl-C too: the link is kept for other calls, and a channel that nobody has would stay
                if channel is not None:
                    channel.close()
                raise
        return channel


def _await_bridge(channel: paramiko.Channel, command: str, where: str, deadline: float) -> SshConn:
    """Wait for the bridge's word; what a login shell printed before it is dropped."""
    said = b""
    try:
        while CONNECTED not in said:
            channel.settimeout(left_s(deadline))
            piece = channel.recv_stderr(4096)
            if not piece:
                ended = _CommandEndedError(_why_ended(channel, command, said, deadline))
                ended.is_away = channel.exit_status == NO_SOCKET
                raise ended
            said = (said + piece)[-16384:]
        while channel.recv_ready():
            channel.recv(65536)
    except TimeoutError as error:
        channel.close()
        raise DeadlineError(
            f"`{command}` on {where} does not connect to its daemon in time; the machine is overloaded, or the "
            "command is not Stoker's: try again"
        ) from error
    except BaseException:  # Ctrl-C too: only whoever gets the SshConn would ever close the channel
        channel.close()
        raise
    return SshConn(channel)


def _why_ended(channel: paramiko.Channel, command: str, said: bytes, deadline: float) -> str:
    channel.status_event.wait(left_s(deadline))
    status = channel.exit_status
    last = (said.decode("utf-8", "replace").strip().splitlines() or ["it gave no reason"])[-1]
    program = command.split()[0]
    if status == _NOT_FOUND:
        return f"there is no command {program}; install Stoker there, or put it on the PATH of an ssh command"
    if status == NO_SOCKET:
        return f"{last}; start the service there"
    return f"`{command}` ended with status {status}: {last[:200]!a}"


# --- connecting -------------------------------------------------------------------------------------------------------


def _connect(host: HostConfig, policy: HostKeyPolicy, where: str, deadline: float) -> _Link:
    _silence_paramiko()
    name = host.key_name.lower() if host.has_alias else host_name(host.key_name, host.port)
    sock = reach(host, deadline)
    link = _Link(sock, where, policy.types(name))
    try:
        _handshake(link, where, deadline)
        shown = link.get_remote_server_key()
        policy.check(name, HostKey(type=shown.get_name(), blob=shown.asbytes()))
        authenticate(link, host, where, deadline)
    except BaseException:  # Ctrl-C too: a link that is given to nobody has a thread and a socket that nobody would end
        link.close()
        raise
    return link


def _silence_paramiko() -> None:
    # It reports to its logger, with tracebacks, what it also raises: that must not reach a screen or a service's log.
    # Whoever wants to see it adds a handler to this logger.
    logger = logging.getLogger("paramiko")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # with none at all, Python would print warnings on stderr


def _handshake(link: _Link, where: str, deadline: float) -> None:
    link.banner_timeout = link.handshake_timeout = left_s(deadline)
    try:
        link.start_client(timeout=left_s(deadline))
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise ProtocolError(_explain_incompatible(str(error), where)) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        if left_s(deadline) < 0.05:
            raise DeadlineError(_MUTE.format(where)) from error
        raise ConnectError(
            f"{where} closed the connection during the ssh handshake ({error or 'no reason given'}); if many connect "
            "at once its MaxStartups may be reached: try again"
        ) from error
    if not link.initial_kex_done:
        raise DeadlineError(_MUTE.format(where))


def _explain_incompatible(said: str, where: str) -> str:
    lacks = next((word for word in ("cipher", "mac", "kex", "host key") if word in said), "version")
    ours = {"cipher": _CIPHERS, "mac": _DIGESTS, "kex": _KEX, "host key": ("ssh-ed25519", "ecdsa", "rsa-sha2-512")}
    if lacks == "version":
        return f"{where} does not speak ssh version 2"
    hint = " (chacha20-poly1305 is not among them)" if lacks == "cipher" else ""
    return (
        f"{where} and this program have no {lacks} in common; allow one of {', '.join(ours[lacks])}{hint} "
        "in its sshd_config"
    )


# --- small tools ------------------------------------------------------------------------------------------------------


def _look_up(text: str, host: str) -> dict[str, list[str]]:
    """One host's values of ssh_config text, by paramiko's parser."""
    found = paramiko.SSHConfig.from_text(text).lookup(host)
    return {keyword: value if isinstance(value, list) else [value] for keyword, value in found.items()}


def _available(wanted: Sequence[str], offered: Sequence[str]) -> tuple[str, ...]:
    """Ours in our order, as far as this build of paramiko has them."""
    return tuple(name for name in wanted if name in offered)


def _known_first(types: Sequence[str], offered: Sequence[str]) -> tuple[str, ...]:
    """Ask first for keys of the types known: another one would look like a changed host."""

    def known(algorithm: str) -> bool:
        return algorithm in types or (algorithm.startswith("rsa-sha2-") and "ssh-rsa" in types)

    return tuple(sorted(offered, key=lambda algorithm: not known(algorithm)))


@contextlib.contextmanager
def _deadline(deadline: float, what: str, give_up: Callable[[], None]) -> Iterator[None]:
    """Call `give_up` at the deadline, to end a wait for which paramiko takes no timeout, and tell it as one."""
    timer = threading.Timer(left_s(deadline), give_up)
    timer.name = "ssh deadline"
    timer.daemon = True
    timer.start()
    try:
        yield
    except (paramiko.SSHException, OSError, EOFError) as error:
        if time.monotonic() >= deadline - 0.01:
            raise DeadlineError(f"{what} in time; the machine hangs, or the way to it is cut") from error
        raise
    finally:
        timer.cancel()
