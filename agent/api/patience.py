"""How long a command bears with a server that is away: an agent or hub that restarts is back within seconds.

Rules kept here: nothing is waited for where waiting cannot help (a wrong path, no permission, a refusal); a call is
made again only if it surely was not carried out, or may be carried out twice; it is said once that there is a wait, and
for how long. An interrupt ends it at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from agent.api.errors import ApiError, AwayError, StokerError
from agent.api.wire import BrokenError

BEAR_FOR_S = 10.0
_PAUSE_S = 0.2

_NOT_SENT = frozenset({"no_node", "node_lost", "node_connecting", "node_busy"})
"""Codes with which a hub says that the node behind it is away, and that nothing was sent there."""

_T = TypeVar("_T")


class UnsentInterrupt(KeyboardInterrupt):
    """The user did not want to wait longer, and nothing was sent."""


class Patience:
    """One command's; used up by its first outage that lasts."""

    def __init__(self, tell: Callable[[str], None], *, for_s: float = BEAR_FOR_S) -> None:
        """`tell` shows a sentence to whoever waits."""
        self._tell = tell
        self._for_s = for_s
        self._until: float | None = None

    def over(self, work: Callable[[], _T], *, repeatable: bool, changes: bool = False) -> _T:
        """Do `work`, again for a while if nobody answers.

        Args:
            work: one call.
            repeatable: it may be carried out twice.
            changes: it is worth a wait that a node behind the server comes back; what only looks is told at once.

        Raises:
            StokerError: the last one, when the time is up or waiting is no use.
        """
        while True:
            try:
                result = work()
            except StokerError as error:
                if not (_may_pass(error, repeatable, changes) and self._bears(error)):
                    raise
            else:
                self._until = None
                return result

    def _bears(self, error: StokerError) -> bool:
        """Wait a little; `False` once the time is up."""
        try:
            return self._waits(error)
        except KeyboardInterrupt as interrupt:
            if isinstance(error, BrokenError) and error.sent:
                raise
            raise UnsentInterrupt from interrupt

    def _waits(self, error: StokerError) -> bool:
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._for_s
            self._tell(f"{error}\nit may be restarting: trying again for up to {self._for_s:.0f} s (Ctrl-C ends this)")
        if now >= self._until:
            return False
        time.sleep(_PAUSE_S)
        return True


def _may_pass(error: StokerError, repeatable: bool, changes: bool) -> bool:
    if isinstance(error, AwayError):
        return True
    if isinstance(error, BrokenError):
        return repeatable or not error.sent
    if isinstance(error, ApiError) and changes:
        return (error.status == 503 and error.code in _NOT_SENT) or (error.status == 502 and repeatable)
    return False
