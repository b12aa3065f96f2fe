"""Which server the operator means, and the client for it.

Order: `-H user@host`; `--socket PATH`; `$STOKER_SOCKET`; then in `/run/stoker`, `$XDG_RUNTIME_DIR/stoker` and
`~/.local/state/stoker/run` the hub's socket, and after it the agent's beside it. The first that exists is taken. The
ssh code, and with it paramiko, is imported only when a host is dialled, so `stoker jobs` on a node starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from agent.api.client import Client
from agent.api.errors import AwayError, ConnectError
from agent.api.patience import Patience
from agent.api.unix import UnixTransport, lately_served
from tui import safe

SYSTEM_DIR = Path("/run/stoker")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A server; exactly one of the two is set."""

    socket: Path | None = None
    host: str | None = None
    """`[user@]host[:port]`, as ssh_config may rename it."""

    def open(self, patience: Patience | None = None) -> Client:
        """The client. Over ssh nothing is dialled yet: the first call does that.

        Args:
            patience: with a server that is away; see `Client`.

        Raises:
            StokerError: the host cannot be used as it is written, or as ssh_config says.
        """
        if self.host is None:
            assert self.socket is not None
            return Client(UnixTransport(self.socket), patience=patience)
        from agent.api.ssh import SshTransport

        return Client(SshTransport.for_user(self.host), patience=patience)

    def __str__(self) -> str:
        return safe.text(self.host or str(self.socket))


def choose(host: str | None, socket: str | Path | None, environ: Mapping[str, str]) -> Endpoint:
    """The server meant by the flags and the environment.

    Raises:
        AwayError: nothing was named, and no daemon has a socket on this machine, where one had a moment ago.
        ConnectError: nor had one; both name the places looked at.
    """
    if host is not None:
        return Endpoint(host=host)
    if named := socket or environ.get("STOKER_SOCKET"):
        return Endpoint(socket=Path(named))
    tried = [folder / name for folder in _folders(environ) for name in ("hub.sock", "agent.sock")]
    for path in tried:
        if path.is_socket():
            return Endpoint(socket=path)
    kind = AwayError if any(map(lately_served, tried)) else ConnectError
    raise kind(
        "no Stoker runs on this machine; looked for " + ", ".join(map(str, tried)) + ". "
        "Start one with: systemctl start stoker-agent, or as an ordinary user: stoker-agent run   "
        "or name another: stoker -H user@host, or --socket PATH"
    )


def _folders(environ: Mapping[str, str]) -> list[Path]:
    """Where the daemons put their sockets, as `agent.config` does for the system and for a user's own."""
    home = Path(environ.get("HOME") or "/")
    state = Path(environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "stoker" / "run"
    runtime = environ.get("XDG_RUNTIME_DIR")
    return [SYSTEM_DIR, *([Path(runtime) / "stoker"] if runtime else []), state]
