"""The account database, asked off the event loop and remembered for a minute.

A directory server that does not answer must hang neither the loop nor more than the calls that need its word: look-ups
run on threads of their own, with a deadline.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from agent.api.errors import ApiError

ADMIN_GROUP = "stoker-admin"
KEPT_S = 60.0
"""How long an answer is trusted: so long may a change of groups take to show."""
DEADLINE_S = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One Unix account."""

    uid: int
    name: str
    """Its number where it has no name."""
    in_admin_group: bool


class Accounts:
    """Look-ups by uid and by name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="accounts")
        self._kept: dict[int | str, tuple[float, Account | None]] = {}

    async def by_uid(self, uid: int) -> Account:
        """The account with this uid; one without a name has no groups and no rights.

        Raises:
            ApiError: 503 when the account database does not answer.
        """
        found = await self._ask(uid, lambda: _by_uid(uid))
        return found or Account(uid=uid, name=str(uid), in_admin_group=False)

    async def by_name(self, name: str) -> Account | None:
        """The account of this name, `None` when there is none.

        Raises:
            ApiError: 503 when the account database does not answer.
        """
        return await self._ask(name, lambda: _by_name(name))

    async def _ask(self, key: int | str, look_up: Callable[[], Account | None]) -> Account | None:
        kept = self._kept.get(key)
        if kept is not None and self._clock() - kept[0] < KEPT_S:
            return kept[1]
        try:
            async with asyncio.timeout(DEADLINE_S):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except TimeoutError as error:
            raise ApiError(
                503, "no_accounts", f"the account database did not answer within {DEADLINE_S:.0f} s; see nsswitch.conf"
            ) from error
        if len(self._kept) >= _KEPT_AT_MOST:
            self._kept.clear()
        self._kept[key] = (self._clock(), found)
        return found


_KEPT_AT_MOST = 10_000
"""A caller may name any user: what is remembered stays bounded."""


def _by_uid(uid: int) -> Account | None:
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        return None


def _by_name(name: str) -> Account | None:
    try:
        return _account(pwd.getpwnam(name))
    except (KeyError, ValueError):
        return None


def _account(found: pwd.struct_passwd) -> Account:
    try:
        admins = grp.getgrnam(ADMIN_GROUP).gr_gid
    except KeyError:
        admins = None
    in_group = admins is not None and admins in os.getgrouplist(found.pw_name, found.pw_gid)
    return Account(uid=found.pw_uid, name=found.pw_name, in_admin_group=in_group)
