"""By which name a job's own programs reach its node.

`MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)` stands in most scripts that start torchrun, and
torch waits for half an hour for a name that nobody knows. A node that is called as its machine is needs no look; one
that `node.name` calls otherwise (the demo's is `demo`) is told by a name that the machine can look up.
"""

from __future__ import annotations

import socket
import threading
import time

LOOKUP_S = 2.0
"""A resolver that says nothing for so long does not know the name."""

AGAIN_S = 60.0
"""For so long an answer stands; then the name is looked up again, behind the back of who asks."""


class Lookups:
    """What the resolver said of names. Only who asks for a name first waits for it; later the last answer is given
    while a thread looks again, so a resolver that hangs holds up one start and no other.
    """

    def __init__(self, again_s: float = AGAIN_S) -> None:
        self._again_s = again_s
        self._lock = threading.Lock()
        self._looks: dict[str, _Look] = {}

    def reachable(self, node: str) -> str:
        """`node` if it is the machine's name or one that can be looked up, else the machine's name, else localhost."""
        machine = socket.gethostname()
        if node in (machine, machine.partition(".")[0]):
            return node
        return next((name for name in (node, machine) if self._is_known(name)), "localhost")

    def _is_known(self, name: str) -> bool:
        with self._lock:
            look = self._looks.get(name)
            if look is None or (look.done.is_set() and time.monotonic() - look.begun >= self._again_s):
                look = self._looks[name] = _Look(name, look.known if look else None)
        if look.before is None:
            look.done.wait(max(0.0, look.begun + LOOKUP_S - time.monotonic()))
            return look.known
        return look.known if look.done.is_set() else look.before


class _Look:
    """One question to the resolver, asked in a thread of its own: getaddrinfo(3) has no time limit."""

    def __init__(self, name: str, before: bool | None) -> None:
        self.before = before
        """What was known before; `None`: it is asked for the first time."""
        self.known = False
        self.begun = time.monotonic()
        self.done = threading.Event()
        threading.Thread(target=self._ask, args=(name,), name="name lookup", daemon=True).start()

    def _ask(self, name: str) -> None:
        try:
            self.known = bool(socket.getaddrinfo(name, None))
        except (OSError, UnicodeError):
            pass
        finally:
            self.done.set()


_lookups = Lookups()


def reachable(node: str) -> str:
    """See `Lookups.reachable`. May wait `LOOKUP_S` for each of two names, once: call it in a thread."""
    return _lookups.reachable(node)
