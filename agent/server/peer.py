"""Who is calling: the Unix account at the other end of the socket, and what it may do.

Rules kept here: the kernel's word (SO_PEERCRED) is the only identity; a missing peer is refused; a request may name
another user only when the peer is an account that `act_for` lists (the hub's); nothing is allowed by default.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from agent.api.errors import ApiError
from agent.config import Config, Mode

ADMIN_GROUP = "stoker-admin"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The access rules of one daemon, resolved once at its start."""

    mode: Mode
    own_uid: int
    act_for_uids: frozenset[int]

    @classmethod
    def of(cls, config: Config) -> Access:
        """Resolve the accounts that `config.act_for` names; one that does not exist is left out, it cannot call."""
        uids = set()
        for name in config.act_for:
            try:
                uids.add(pwd.getpwnam(name).pw_uid)
            except KeyError:
                continue
        return cls(mode=config.mode, own_uid=os.geteuid(), act_for_uids=frozenset(uids))

    def caller(self, request: web.Request) -> Caller:
        """Identify the request's caller.

        Raises:
            ApiError: 403 when the peer is unknown, not allowed here, or names a user it may not act for.
        """
        uid = peer_uid(request)
        if self.mode is Mode.USER and uid not in (self.own_uid, 0):
            raise ApiError(
                403,
                "forbidden",
                f"this is the user-mode service of {user_name(self.own_uid)}; {user_name(uid)} has to start an own one",
            )
        trusted = uid in (0, self.own_uid) or uid in self.act_for_uids
        named = request.headers.get(USER_HEADER)
        if named is None:
            return Caller(uid=uid, user=user_name(uid), admin=_is_admin(uid, self), trusted=trusted)
        return self._on_behalf(uid, named)

    def _on_behalf(self, uid: int, named: str) -> Caller:
        try:
            account = pwd.getpwnam(named)
        except (KeyError, ValueError) as error:
            raise ApiError(
                403, "unknown_user", f"user {named!r} does not exist on this node; create the account here too"
            ) from error
        if uid not in self.act_for_uids and uid != account.pw_uid and uid != 0:
            raise ApiError(403, "forbidden", f"{user_name(uid)} may not act for {named}; node.act_for does not list it")
        return Caller(uid=account.pw_uid, user=named, admin=_is_admin(account.pw_uid, self), trusted=False)


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


def user_name(uid: int) -> str:
    """The account's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_admin(uid: int, access: Access) -> bool:
    if uid == 0 or (access.mode is Mode.USER and uid == access.own_uid):
        return True
    try:
        account = pwd.getpwuid(uid)
        group = grp.getgrnam(ADMIN_GROUP)
    except KeyError:
        return False
    return group.gr_gid in os.getgrouplist(account.pw_name, account.pw_gid)


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
Identify = Callable[[web.Request], Caller]
