"""Riding out an outage of the agent, the hub or the way to them: told once, tried again until there is an answer.

Rules kept here: while the answer to a call may still come, it is asked for; what is known to be final (a refusal, a
changed host key, a newer protocol) is raised at once; a server that was never reached is given up after `REACH_FOR_S`,
because its address may simply be wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from agent.api.errors import ApiError, AuthError, HostKeyError, StokerError, TransportError, VersionError
from tui import plain

REACH_FOR_S = 30.0
"""How long a server is tried that never answered."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 15.0

T = TypeVar("T")


class Bridge:
    """One command's way over the outages it meets."""

    def __init__(self, what: str) -> None:
        """`what` begins the sentences: `waiting for job 17`."""
        self._what = what
        self._reached = False
        self._failures = 0
        self._began = time.monotonic()

    def over(self, work: Callable[[], T]) -> T:
        """Do `work`, again and again while no answer comes.

        Raises:
            StokerError: the answer was no, or the server was never reached.
        """
        while True:
            try:
                result = work()
            except StokerError as error:
                self._outlast(error)
            else:
                self.answered()
                return result

    def answered(self) -> None:
        """The link holds; the next time that it is lost is told again."""
        self._reached, self._failures = True, 0

    def _outlast(self, error: StokerError) -> None:
        """Wait before the next try, or raise the error where no waiting helps."""
        self._reached = self._reached or isinstance(error, ApiError)
        if not self._may_pass(error):
            raise error
        if not self._failures:
            plain.complain(f"{self._what}: the link is lost, trying again until it is back: {error}")
        time.sleep(min(_LAST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures, 10)))
        self._failures += 1

    def _may_pass(self, error: StokerError) -> bool:
        if isinstance(error, ApiError):
            return is_outage(error)
        if isinstance(error, HostKeyError | VersionError) or not isinstance(error, TransportError):
            return False
        if self._reached:
            return True
        return not isinstance(error, AuthError) and time.monotonic() - self._began < REACH_FOR_S


def is_outage(error: ApiError) -> bool:
    """Whether a server says that it, or the node behind it, cannot answer now."""
    return error.status >= 500 or error.status in (408, 429)
