"""The host each second: a real /proc against psutil, and recorded ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.telemetry.host import HostReader, read_totals

MIB = 1024**2
MEMORY = "MemTotal: {total} kB\nMemFree: 300 kB\nMemAvailable: {available} kB\nBuffers: 1 kB\nCached: 2 kB\n"
SWAP = "SwapCached: 0 kB\nSwapTotal: 900 kB\nSwapFree: 650 kB\nDirty: 4 kB\n"
NET = "Inter-| Receive | Transmit\n face |bytes packets|bytes packets\n"


@contextmanager
def reading(root: Path = Path("/")) -> Iterator[HostReader]:
    reader = HostReader(root)
    try:
        yield reader
    finally:
        reader.close()


def machine(root: Path, *disks: str, **files: str) -> None:
    """A /proc and the disks of /sys/block; what is written again is read by a descriptor that is open already."""
    known = {"stat": "cpu  100 0 100 700 100 0 0 0 50 0\n", "meminfo": MEMORY.format(total=1000, available=400) + SWAP}
    for name, content in (known | files).items():
        path = root / "proc" / ("1/net/dev" if name == "net" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for disk in disks:
        (root / "sys/block" / disk).mkdir(parents=True)


def disk(name: str, read: int, written: int) -> str:
    return f"   8       0 {name} 1 2 {read} 4 5 6 {written} 8 9 10 11\n"


def test_it_is_what_psutil_says_of_this_machine() -> None:
    with reading() as reader:
        now, memory, swap, totals = time.monotonic(), psutil.virtual_memory(), psutil.swap_memory(), read_totals()
        host, began = reader.read(now), time.monotonic()
        assert (host.memory_total_bytes, host.swap_used_bytes // MIB) == (memory.total, swap.used // MIB)
        assert abs(host.memory_used_bytes - (memory.total - memory.available)) < 256 * MIB
        while (later := reader.read(now := now + 1)).cpu_percent in (None, 0.0):
            assert time.monotonic() < began + 60, "this loop itself keeps a CPU busy"
        assert 0 < (later.cpu_percent or 0.0) <= 100
        is_there = [later.disk_read_bytes_per_s is not None, later.network_send_bytes_per_s is not None]
        assert is_there == [totals["disk_read"] is not None, totals["network_sent"] is not None]


def test_who_asks_soon_after_another_hears_the_same_of_the_same_span(tmp_path: Path) -> None:
    machine(tmp_path)
    with reading(tmp_path) as reader:
        machine(tmp_path, stat="cpu  300 0 200 1300 200 0 0 0 150 0\n")  # 300 busy of 1000; guests are not twice in it
        first = reader.read(10.0)
        machine(tmp_path, stat="cpu  301 0 200 1300 200 0 0 0 150 0\n")
        assert reader.read(10.4) is first
        assert first.cpu_percent == 30.0
        assert reader.read(10.9).cpu_percent == 100.0
        assert reader.read(11.9).cpu_percent is None, "no tick has passed"


def test_disks_without_their_parts_and_links_without_the_loopback(tmp_path: Path) -> None:
    parts = [f"sda{number}" for number in range(1, 600)]  # more than one reading of the file gives

    def counters(times: int) -> None:
        disks = [disk("sda", 1000 * times, 10 * times), *(disk(part, 7, 7) for part in parts), disk("cciss/c0d0", 4, 6)]
        links = f"    lo: 9999 1 0 0 0 0 0 0 9999 1\n  eth0: {500 * times} 1 0 0 0 0 0 0 {70 * times} 1\n ib0:1 1 0\n"
        machine(tmp_path, diskstats="".join(disks), net=NET + links)

    (tmp_path / "sys/block/cciss!c0d0").mkdir(parents=True)
    (tmp_path / "sys/block/sda").mkdir()
    counters(1)
    with reading(tmp_path) as reader:
        assert reader.read(1.0).disk_read_bytes_per_s is None, "nothing yet to compare with"
        counters(3)
        host = reader.read(3.0)
        assert (host.disk_read_bytes_per_s, host.disk_write_bytes_per_s) == (512_000.0, 5_120.0)
        assert (host.network_receive_bytes_per_s, host.network_send_bytes_per_s) == (500.0, 70.0)
        counters(2)
        fell = reader.read(4.0)
        assert (fell.disk_read_bytes_per_s, fell.network_receive_bytes_per_s) == (None, None)
        counters(3)
        assert reader.read(5.0).network_receive_bytes_per_s == 500.0


def test_a_machine_without_disk_link_or_numbers_of_its_cpus(tmp_path: Path) -> None:
    machine(tmp_path, stat="", diskstats="", net="")
    with reading(tmp_path) as reader:
        reader.read(1.0)
        host = reader.read(2.0)
    assert (host.cpu_percent, host.disk_read_bytes_per_s, host.network_send_bytes_per_s) == (None, None, None)
    assert (host.memory_total_bytes, host.memory_used_bytes, host.swap_used_bytes) == (1024_000, 614_400, 256_000)


def test_a_container_that_says_more_is_available_than_there_is(tmp_path: Path) -> None:
    machine(tmp_path, meminfo=MEMORY.format(total=1000, available=5000) + SWAP)
    with reading(tmp_path) as reader:
        assert reader.read(1.0).memory_available_bytes == 300 * 1024


@pytest.mark.parametrize("meminfo", ["", SWAP, "MemTotal: 5 kB\n", MEMORY.format(total=1000, available=0) + SWAP])
def test_a_kernel_that_says_it_otherwise_is_left_to_psutil(tmp_path: Path, meminfo: str) -> None:
    machine(tmp_path, meminfo=meminfo)
    with reading(tmp_path) as reader:
        assert reader.read(1.0).memory_total_bytes == psutil.virtual_memory().total
