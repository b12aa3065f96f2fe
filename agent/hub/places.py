"""Places for the answers that are passed on from one node: on which connection each runs, and how many a user may hold.

Over a Unix socket every answer has a connection of its own, and only their number is bounded. Over ssh each is a
session of one connection, and sshd allows 10 of them (MaxSessions): when the first connection is full, spare ones take
the rest. Pure but for counting: connections are known here by their index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from agent.hub.errors import NodeBusyError

SSH_ROOM = (5, 8, 8, 8)
"""Answers on each connection. The first also carries the link's stream and the hub's own calls: all stay below 10, as
sshd counts a session for a moment longer than we do."""
UNIX_ROOM = (100,)
"""A followed log costs the hub a thread and two descriptors, and nothing else bounds them."""
RESERVED = 4
"""Places that logs leave free, so that whoever follows cannot keep anybody from asking or cancelling."""
LASTING_PER_USER = 10
"""Logs of one node that a user may read at once, so that nobody can take them all."""


class Places:
    """The places of one node."""

    def __init__(self, name: str, room: Sequence[int]) -> None:
        self._name = name
        self._free = list(room)
        self._lasting: Counter[str] = Counter()
        self.lasting_max = sum(room) - RESERVED
        """Answers that may be long at work, all users together."""

    @contextmanager
    def take(self, user: str, *, lasting: bool) -> Iterator[int]:
        """Hold a place while an answer is passed on to `user`; on which connection.

        Args:
            user: who reads it.
            lasting: whether it goes on until its reader has enough, as a log does.

        Raises:
            NodeBusyError: there is none.
        """
        if lasting:
            self._check_lasting(user)
        connection = next((index for index, free in enumerate(self._free) if free), None)
        if connection is None:
            raise NodeBusyError(f"{self._name} is answering as many as it can at once; try again in a moment")
        self._free[connection] -= 1
        self._lasting[user] += lasting
        try:
            yield connection
        finally:
            self._free[connection] += 1
            self._lasting[user] -= lasting

    def _check_lasting(self, user: str) -> None:
        if self._lasting[user] >= LASTING_PER_USER:
            raise NodeBusyError(f"{user} reads {LASTING_PER_USER} logs of {self._name} already; close one")
        if self._lasting.total() >= self.lasting_max:
            raise NodeBusyError(
                f"{self.lasting_max} logs of {self._name} are being read already; try again when one is closed"
            )
