"""By which name a job's own programs reach its node.

`MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)` stands in most scripts that start torchrun, and
torch waits for half an hour for a name that nobody knows. A node that is called as its machine is needs no look; one
that `node.name` calls otherwise (the demo's is `demo`) is told by a name that the machine can look up.
"""

from __future__ import annotations

import functools
import socket
import threading

LOOKUP_S = 2.0
"""A resolver that says nothing for so long does not know the name."""


@functools.lru_cache(maxsize=8)
def reachable(node: str) -> str:
    """`node` where it is the machine's name or one that can be looked up, else the machine's name, else localhost."""
    machine = socket.gethostname()
    if node in (machine, machine.partition(".")[0]):
        return node
    return next((name for name in (node, machine) if _is_known(name)), "localhost")


def _is_known(name: str) -> bool:
    found: list[object] = []

    def look() -> None:
        try:
            found.extend(socket.getaddrinfo(name, None))
        except (OSError, UnicodeError):
            return

    asking = threading.Thread(target=look, name="name lookup", daemon=True)
    asking.start()
    asking.join(LOOKUP_S)
    return bool(found)
