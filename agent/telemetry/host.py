"""The host beside its GPUs: CPU, memory, load, what disks and network move, boot id. /proc, and psutil.

What is read each second is read by kept descriptors, at a fourth of what psutil takes for the same. psutil reads what
is asked for now and then, and what a kernel says in another way than those we know.
"""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

_FRESH_S = 0.5
"""For so long one reading serves all who ask."""
_PIECE_BYTES = 16384
_SECTOR_BYTES = 512
"""Of /proc/diskstats, whatever the disk's own are."""
_MEMORY = re.compile(rb"MemTotal: +(\d+) kB\nMemFree: +(\d+) kB\nMemAvailable: +(\d+) kB\n")
_SWAP = re.compile(rb"\nSwapTotal: +(\d+) kB\nSwapFree: +(\d+) kB\n")
_FLOWS = (
    "disk_read_bytes_per_s",
    "disk_write_bytes_per_s",
    "network_receive_bytes_per_s",
    "network_send_bytes_per_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One reading of the host."""

    cpu_percent: float | None
    """Busy share of all CPUs since the reading before, 0–100; as psutil's `cpu_percent`."""
    load_1m: float
    """getloadavg(3)."""
    memory_total_bytes: int
    memory_available_bytes: int
    """/proc/meminfo `MemAvailable`."""
    swap_used_bytes: int
    disk_read_bytes_per_s: float | None
    """All disks, since the reading before; `None`: the first reading, or a counter that fell. So are the next three."""
    disk_write_bytes_per_s: float | None
    network_receive_bytes_per_s: float | None
    """All interfaces but the loopback."""
    network_send_bytes_per_s: float | None

    @property
    def memory_used_bytes(self) -> int:
        """What is not available."""
        return self.memory_total_bytes - self.memory_available_bytes


class HostReader:
    """Reads the host for all who ask: two readers, each with its own span, would be twice the work."""

    def __init__(self, root: Path = Path("/")) -> None:
        proc, self._blocks = root / "proc", root / "sys/block"
        self._stat, self._meminfo = _ProcFile(proc / "stat"), _ProcFile(proc / "meminfo")
        self._diskstats, self._network = _ProcFile(proc / "diskstats"), _ProcFile(proc / "1/net/dev")
        self._is_disk: dict[bytes, bool] = {}
        """By name, as far as met: a disk, else a part of one."""
        self._cpu = _cpu_ticks(self._stat.head())
        self._counts: dict[str, int | None] = {}
        self._at = 0.0
        self._last: Host | None = None

    def close(self) -> None:
        """Let go of the descriptors."""
        for each in (self._stat, self._meminfo, self._diskstats, self._network):
            each.close()

    def read(self, monotonic: float) -> Host:
        """The host now, or as it was half a second ago if it was read then; never blocks."""
        if self._last is None or not 0 <= monotonic - self._at < _FRESH_S:
            self._last = self._read(monotonic)
        return self._last

    def _read(self, now: float) -> Host:
        total, available, swap_used = _memory(self._meminfo.head())
        flows = self._flows(now)
        return Host(
            cpu_percent=self._cpu_percent(),
            load_1m=os.getloadavg()[0],
            memory_total_bytes=total,
            memory_available_bytes=available,
            swap_used_bytes=swap_used,
            disk_read_bytes_per_s=flows["disk_read_bytes_per_s"],
            disk_write_bytes_per_s=flows["disk_write_bytes_per_s"],
            network_receive_bytes_per_s=flows["network_receive_bytes_per_s"],
            network_send_bytes_per_s=flows["network_send_bytes_per_s"],
        )

    def _cpu_percent(self) -> float | None:
        before, self._cpu = self._cpu, _cpu_ticks(self._stat.head())
        passed = [max(0, now - then) for now, then in zip(self._cpu, before, strict=False)]
        total = sum(passed)
        return round(100.0 * (total - passed[3] - passed[4]) / total, 1) if total else None

    def _flows(self, now: float) -> dict[str, float | None]:
        """Bytes a second. A counter that fell (a disk was taken out, an interface went) tells nothing once."""
        before, passed = self._counts, now - self._at
        read, written = self._disks()
        received, sent = _network_bytes(self._network.whole())
        self._counts, self._at = dict(zip(_FLOWS, (read, written, received, sent), strict=True)), now
        rates: dict[str, float | None] = {}
        for name, count in self._counts.items():
            was = before.get(name)
            is_known = count is not None and was is not None and count >= was and passed > 0
            rates[name] = (count - was) / passed if is_known else None  # type: ignore[operator]
        return rates

    def _disks(self) -> tuple[int | None, int | None]:
        """Bytes that the disks have given and taken; their partitions are counted with them. proc_diskstats(5)."""
        rows = [line.split() for line in self._diskstats.whole().splitlines()]
        rows = [fields for fields in rows if len(fields) >= 14 and self._counts_as_disk(fields[2])]
        if not rows:
            return None, None
        return _SECTOR_BYTES * sum(int(row[5]) for row in rows), _SECTOR_BYTES * sum(int(row[9]) for row in rows)

    def _counts_as_disk(self, name: bytes) -> bool:
        found = self._is_disk.get(name)
        if found is None:
            found = self._is_disk[name] = (self._blocks / os.fsdecode(name).replace("/", "!")).exists()
        return found


class _ProcFile:
    """A file of /proc, kept open: what it says is made anew at each reading from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def head(self) -> bytes:
        """Its beginning, for a file that is made in one go; nothing where it cannot be read."""
        return self._from(0, 4096)

    def whole(self) -> bytes:
        """All of it, however many lines there are."""
        data = piece = self._from(0, _PIECE_BYTES)
        while piece:
            data += (piece := self._from(len(data), _PIECE_BYTES))
        return data

    def _from(self, at: int, size: int) -> bytes:
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._fd, size, at)
        except OSError:
            self.close()
            return b""

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None


def _cpu_ticks(stat: bytes) -> list[int]:
    """User, nice, system, idle, waiting for disks, interrupts (2), stolen; guests in the first. proc_stat(5)."""
    line = stat.partition(b"\n")[0].split()
    return [int(field) for field in line[1:9]] if len(line) > 5 else []


def _memory(meminfo: bytes) -> tuple[int, int, int]:
    """Bytes in all, available, and of swap in use."""
    memory, swap = _MEMORY.match(meminfo), _SWAP.search(meminfo)
    if memory is None or swap is None or int(memory[3]) == 0:
        known = psutil.virtual_memory()
        return known.total, known.available, psutil.swap_memory().used
    total, free, available = (1024 * int(each) for each in memory.groups())
    return total, available if available <= total else free, 1024 * (int(swap[1]) - int(swap[2]))


def _network_bytes(dev: bytes) -> tuple[int | None, int | None]:
    """Bytes received and sent by the host's interfaces but the loopback: PID 1's, for the agent's unit has none of
    its own. proc_pid_net(5).
    """
    rows = [(name.strip(), rest.split()) for name, _, rest in (line.partition(b":") for line in dev.splitlines()[2:])]
    links = [fields for name, fields in rows if name != b"lo" and len(fields) > 8]
    if not links:
        return None, None
    return sum(int(fields[0]) for fields in links), sum(int(fields[8]) for fields in links)


def memory_total_bytes() -> int:
    """All memory there is. psutil `virtual_memory`."""
    return psutil.virtual_memory().total


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
    disk = psutil.disk_io_counters(nowrap=False)  # None on a host without a disk of its own
    network = _ProcFile(Path("/proc/1/net/dev"))
    received, sent = _network_bytes(network.whole())
    network.close()
    return {
        "disk_read": disk.read_bytes if disk else None,
        "disk_written": disk.write_bytes if disk else None,
        "network_received": received,
        "network_sent": sent,
        "swap_used": psutil.swap_memory().used,
    }


def read_boot_id() -> str:
    """The kernel's id of this boot: a process recorded under another one is gone. random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
