"""A port for a program that must be told one: nobody has it now, and no connection that is made meanwhile gets it."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Of these the kernel gives one to each connection, and to whoever binds to 0: also to a neighbour, a moment later."""


def free_port() -> int:
    """Below those, on the loopback."""
    lowest = int(_RANGE.read_text().split()[0])
    for port in random.SystemRandom().sample(range(max(1024, lowest - 16_384), lowest), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("100 ports of the loopback are taken")
