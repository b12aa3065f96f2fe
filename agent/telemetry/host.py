"""The host beside its GPUs: CPU, memory, load, boot id. psutil and /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One reading of the host."""

    cpu_count: int
    cpu_percent: float
    """Busy share of all CPUs since the reading before, 0–100. psutil `cpu_percent`."""
    load_1m: float
    """getloadavg(3)."""
    memory_total_bytes: int
    memory_available_bytes: int
    """/proc/meminfo `MemAvailable`."""


def read_host() -> Host:
    """Read the host; never blocks. The first call's `cpu_percent` is 0, there is nothing yet to compare with."""
    memory = psutil.virtual_memory()
    return Host(
        cpu_count=len(os.sched_getaffinity(0)),
        cpu_percent=psutil.cpu_percent(interval=None),
        load_1m=os.getloadavg()[0],
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
    )


def read_boot_id() -> str:
    """The kernel's id of this boot: a process recorded under another one is gone. random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
