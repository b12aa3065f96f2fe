"""The host beside its GPUs: CPU, memory, load, boot id. psutil and /proc."""

from __future__ import annotations

import os
import resource
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnUse:
    """What this process takes itself."""

    cpu_seconds: float
    """getrusage(2), user and system."""
    resident_bytes: int
    """/proc/self/statm."""


def read_own() -> OwnUse:
    """What this process takes now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return OwnUse(
        cpu_seconds=round(used.ru_utime + used.ru_stime, 3), resident_bytes=pages * os.sysconf("SC_PAGE_SIZE")
    )


def read_totals() -> dict[str, int | None]:
    """Bytes since boot that disks and network took and gave, and the swap in use; `None`: there is no such thing."""
    counts = _counters()
    return {
        "disk_read": counts["disk_read_bytes_per_s"],
        "disk_written": counts["disk_write_bytes_per_s"],
        "network_received": counts["network_receive_bytes_per_s"],
        "network_sent": counts["network_send_bytes_per_s"],
        "swap_used": psutil.swap_memory().used,
    }


class HostRates:
    """What flows: bytes a second between two readings. The first reading has nothing yet to compare with."""

    def __init__(self) -> None:
        self._at = 0.0
        self._before: dict[str, int] = {}

    def read(self, now: float) -> dict[str, float | None]:
        """Bytes a second by metric, and the swap in use; psutil `disk_io_counters`, `swap_memory`.

        A counter that fell (a disk was taken out, an interface went) tells nothing once. The loopback is left out.
        """
        counts = {name: count for name, count in _counters().items() if count is not None}
        passed = now - self._at
        rates: dict[str, float | None] = dict.fromkeys(_FLOWS)
        for name, count in counts.items():
            before = self._before.get(name)
            if before is not None and count >= before and passed > 0:
                rates[name] = (count - before) / passed
        self._at, self._before = now, counts
        return {**rates, "swap_used_bytes": float(psutil.swap_memory().used)}


_FLOWS = (
    "disk_read_bytes_per_s",
    "disk_write_bytes_per_s",
    "network_receive_bytes_per_s",
    "network_send_bytes_per_s",
)


def _counters() -> dict[str, int | None]:
    disk = psutil.disk_io_counters(nowrap=False)  # None on a host without a disk of its own
    received, sent = _network()
    return {
        "disk_read_bytes_per_s": disk.read_bytes if disk else None,
        "disk_write_bytes_per_s": disk.write_bytes if disk else None,
        "network_receive_bytes_per_s": received,
        "network_send_bytes_per_s": sent,
    }


def _network() -> tuple[int | None, int | None]:
    """Bytes received and sent by the host's interfaces but the loopback: PID 1's, for the agent's unit has none of
    its own. proc_pid_net(5).
    """
    try:
        lines = Path("/proc/1/net/dev").read_text(encoding="ascii", errors="replace").splitlines()[2:]
    except OSError:
        return None, None
    rows = [(name.strip(), rest.split()) for name, _, rest in (line.partition(":") for line in lines)]
    links = [fields for name, fields in rows if name != "lo" and len(fields) > 8]
    if not links:
        return None, None
    return sum(int(fields[0]) for fields in links), sum(int(fields[8]) for fields in links)


def read_boot_id() -> str:
    """The kernel's id of this boot: a process recorded under another one is gone. random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
