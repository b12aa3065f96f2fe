"""What the agent asks of a running job's shim, besides to stop: to pass a signal on, to keep another
time limit, to start a step.

Each is a file `ask.N` in the attempt's folder, durable before the shim is told (SIGUSR1). The shim takes them in the
order of N and removes each one before it acts: an ask is acted on once, whether the agent dies, tells it twice, or
tells it after a restart. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os

from agent.engine.folder import Folder

_PREFIX = "ask."


class Asks:
    """The asks of one attempt, as its shim sees them."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._taken: set[str] = set()
        """Names that the disk refused to remove."""

    def take(self) -> list[dict[str, object]]:
        """What is asked and was not before, in order; damaged ones are dropped."""
        asks = []
        for name in sorted(self._names(), key=_number):
            try:
                ask = self._folder.read(name)
            except (OSError, ValueError):
                ask = None
            self._remove(name)
            if ask is not None:
                asks.append(ask)
        return asks

    def _names(self) -> list[str]:
        try:
            names = os.listdir(self._folder.fd)  # noqa: PTH208
        except OSError:
            return []
        return [each for each in names if is_ask(each) and each not in self._taken]

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._folder.fd)
        except OSError:
            self._taken.add(name)


def is_ask(name: str) -> bool:
    """Whether a file of the attempt's folder is one."""
    return name.startswith(_PREFIX) and name[len(_PREFIX) :].isdecimal()


def _number(name: str) -> int:
    return int(name[len(_PREFIX) :])
