"""Who is calling: the Unix account at the other end of the socket, and what it may do.

Rules kept here: the kernel's word (SO_PEERCRED) is the only identity; a missing peer is refused; a request may name
another user only when the peer is an account that `act_for` lists (the hub's); nothing is allowed by default.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, replace

from aiohttp import web

from agent.api.errors import ApiError
from agent.api.types import SUDO_HEADER
from agent.config import Config, Mode
from agent.server.accounts import ADMIN_GROUP, Account, Accounts

USER_HEADER = "Stoker-User"

_UCRED = struct.Struct("3i")
"""unix(7) `struct ucred`: pid, uid, gid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """On whose behalf a request is served."""

    uid: int
    user: str
    admin: bool
    """May act on everybody's jobs and on the node."""
    trusted: bool
    """Is root, the daemon's own account or the hub's: may hand out leases."""
    behind: str | None = None
    """An account that root names as its own before `sudo`: its word alone, so persons are counted by it, no more."""

    def require_admin(self, what: str) -> None:
        """Refuse an ordinary user.

        Raises:
            ApiError: 403, saying who could.
        """
        if not self.admin:
            raise ApiError(
                403,
                "forbidden",
                f"{what} is for admins, and {self.user} is not in group {ADMIN_GROUP}; ask an admin of this machine",
            )

    def require_owner(self, uid: int, what: str) -> None:
        """Refuse anyone but the owner and admins.

        Raises:
            ApiError: 403.
        """
        if uid != self.uid and not self.admin:
            raise ApiError(403, "forbidden", f"{what} belongs to another user; only its owner and admins may do that")


class Access:
    """The access rules of one daemon."""

    def __init__(self, config: Config, accounts: Accounts | None = None) -> None:
        self._mode = config.mode
        self._own_uid = os.geteuid()
        self._act_for = config.act_for
        self._accounts = accounts or Accounts()

    async def caller(self, request: web.Request) -> Caller:
        """Identify the request's caller.

        Raises:
            ApiError: 403 when the peer is unknown, not allowed here, or names a user it may not act for.
        """
        peer = await self._accounts.by_uid(peer_uid(request))
        if self._mode is Mode.USER and peer.uid not in (self._own_uid, 0):
            own = (await self._accounts.by_uid(self._own_uid)).name
            raise ApiError(
                403, "forbidden", f"this is the user-mode service of {own}; {peer.name} has to start an own one"
            )
        named = request.headers.get(USER_HEADER)
        if named is None:
            trusted = peer.uid in (0, self._own_uid) or peer.name in self._act_for
            return replace(self._caller(peer, trusted=trusted), behind=await self._behind(request, peer))
        account = await self._accounts.by_name(named)
        if account is None:
            raise ApiError(
                403, "unknown_user", f"user {named!r} does not exist on this node; create the account here too"
            )
        if peer.uid not in (0, account.uid) and peer.name not in self._act_for:
            raise ApiError(403, "forbidden", f"{peer.name} may not act for {named}; node.act_for does not list it")
        # Whoever is acted for gets no more than the account's own rights: leases stay between hub and node.
        return self._caller(account, trusted=False)

    async def _behind(self, request: web.Request, peer: Account) -> str | None:
        said = request.headers.get(SUDO_HEADER) if peer.uid == 0 else None
        if said is None:
            return None
        try:
            account = await self._accounts.by_name(said)
        except ApiError:  # nothing hangs on it
            return None
        return None if account is None else account.name

    def _caller(self, account: Account, *, trusted: bool) -> Caller:
        own = self._mode is Mode.USER and account.uid == self._own_uid
        admin = account.uid == 0 or own or account.in_admin_group
        return Caller(uid=account.uid, user=account.name, admin=admin, trusted=trusted)


def peer_uid(request: web.Request) -> int:
    """The uid at the other end of the socket, as it was when it connected. unix(7) SO_PEERCRED.

    Raises:
        ApiError: 403 when there is no peer to ask for: fail closed.
    """
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        raise ApiError(403, "forbidden", "the caller's account is unknown; connect through the Unix socket")
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError as error:
        raise ApiError(403, "forbidden", "the caller's account is unknown; connect through the Unix socket") from error
    _, uid, _ = _UCRED.unpack(raw)
    if uid < 0:
        raise ApiError(403, "forbidden", "the caller's account has no uid here; connect from the same user namespace")
    return int(uid)


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
