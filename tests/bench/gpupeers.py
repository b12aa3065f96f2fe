"""What it costs to watch GPUs: our sampler process, nvitop's collector and gpustat, in turn in one run, each on the
same stand-in library with the same GPUs and processes.

The peers are no requirement of ours. Install them beside, and name that Python:

    python -m venv PEERS && PEERS/bin/pip install nvitop==1.7.2 gpustat==1.1.1
    STOKER_BENCH_PEERS=PEERS/bin/python python -m tests.bench gpupeers

Each is a process of its own with a live process on each GPU, and says when it has taken a sample. CPU is the kernel's
count in nanoseconds of all its threads. Ours reads some seventy values a GPU, nvitop's collector about twenty, gpustat
about ten; nvitop's and ours name the processes, gpustat too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from agent.gpu.frames import ChildSpec
from agent.gpu.sampler import CHILD_ARGV
from tests.bench.daemons import cpu_ms
from tests.bench.table import Row
from tests.fakes.nvml import NvmlStandIn

COUNTS = (1, 8, 16)
WATCHED_S = 10.0
SETTLE_S = 2.5
STARTS = 5
PEERS_VARIABLE = "STOKER_BENCH_PEERS"

_NVITOP = """
import sys, time
from nvitop import Device, ResourceMetricCollector
period = float(sys.argv[1])
collector = ResourceMetricCollector(Device.all(), interval=period)
with collector(tag="bench"):
    while True:
        assert any("gpu_utilization" in name for name in collector.collect())
        print(flush=True)
        time.sleep(period)
"""
_GPUSTAT = """
import sys, time
import gpustat
period = float(sys.argv[1])
begin = time.monotonic()
while True:
    assert len(list(gpustat.GPUStatCollection.new_query())) > 0
    print(flush=True)
    begin = max(begin + period, time.monotonic())
    time.sleep(begin - time.monotonic() if begin > time.monotonic() else 0)
"""


def rows() -> list[Row]:
    """CPU of a sample, memory, start; and a tenth of a second between two samples at eight GPUs."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        standin = NvmlStandIn(Path(folder), patch, ("PEERS",))
        patch.setenv("LD_LIBRARY_PATH", str(standin.library.parent))
        with _users(max(COUNTS)) as pids:
            for count in COUNTS:
                _describe(standin, count, pids)
                for name, command in _commands(standin, 1.0).items():
                    found += _watched(f"{name}, {count} GPUs", command, 1.0, full=count == 8)
            _describe(standin, 8, pids)
            for name, command in _commands(standin, 0.1).items():
                found += _watched(f"{name}, 8 GPUs, 10 Hz", command, 0.1, full=False)
    return found


def _commands(standin: NvmlStandIn, period_s: float) -> dict[str, list[str]]:
    spec = ChildSpec(
        source="nvml",
        period_s=period_s,
        library=str(standin.library),
        simulated_count=0,
        node_name="bench",
        state_dir="/nonexistent",
    )
    found = {"Stoker": [*CHILD_ARGV, msgspec.json.encode(spec).decode()]}
    python = os.environ.get(PEERS_VARIABLE)
    if python is None:
        print(f"no peers: {PEERS_VARIABLE} names no Python that has nvitop and gpustat", file=sys.stderr)
        return found
    for name, script in (("nvitop collector", _NVITOP), ("gpustat", _GPUSTAT)):
        found[name] = [python, "-c", script, str(period_s)]
    return found


def _describe(standin: NvmlStandIn, count: int, pids: list[int]) -> None:
    standin.write(
        f"gpus {count}",
        "rings",
        *(f"process gpu={gpu} pid={pid} memory=1073741824" for gpu, pid in enumerate(pids[:count])),
        *(f"link gpu={gpu} link={link} to=switch" for gpu in range(count) for link in range(18)),
    )


def _watched(name: str, command: list[str], period_s: float, *, full: bool) -> Iterator[Row]:
    starts = [_start_s(command) for _ in range(STARTS)] if full else []
    with _running(command) as child:
        samples = _Lines(child)
        samples.wait(1)
        time.sleep(SETTLE_S)  # what the start itself costs is another row
        cpu, begun, lines = cpu_ms(child.pid), time.monotonic(), samples.count()
        time.sleep(WATCHED_S)
        spent, passed, taken = cpu_ms(child.pid) - cpu, time.monotonic() - begun, samples.count() - lines
        rss = psutil.Process(child.pid).memory_info().rss / 2**20
    aim = "≤ 0.5" if name == "Stoker, 8 GPUs" else ""
    yield Row(name=f"{name}: a sample", value=spent / max(taken, 1), unit="CPU ms", aim=aim)
    if period_s < 1:
        aim = "≤ 1" if name.startswith("Stoker") else ""
        yield Row(
            name=f"{name}: {taken / passed:.1f} samples/s", value=spent / passed / 10, unit="% of a core", aim=aim
        )
    if full:
        ours = name.startswith("Stoker")
        middle = sorted(starts)[len(starts) // 2]
        spread = f"{min(starts):.3g} – {max(starts):.3g}"
        yield Row(name=f"{name}: first sample", value=middle, unit="s", aim="≤ 0.3" if ours else "", spread=spread)
        yield Row(name=f"{name}: RSS", value=rss, unit="MiB", aim="< 40" if ours else "")


def _start_s(command: list[str]) -> float:
    begun = time.perf_counter()
    with _running(command) as child:
        _Lines(child).wait(1)
        return time.perf_counter() - begun


class _Lines:
    """Samples that a process has said it took; ours writes a frame a line."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        self._fd = child.stdout.fileno()
        self._count = 0
        os.set_blocking(self._fd, False)

    def count(self) -> int:
        while True:
            try:
                read = os.read(self._fd, 1 << 20)
            except BlockingIOError:
                return self._count
            if not read:
                raise RuntimeError("the process ended; it said why above")
            self._count += read.count(b"\n")

    def wait(self, number: int) -> None:
        """Until there are so many."""
        until = time.monotonic() + 60
        while self.count() < number:
            assert time.monotonic() < until, "no sample within a minute"
            time.sleep(0.001)


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    # A pipe that takes all frames of the time in which nobody reads.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=1 << 20) as child:
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def _users(count: int) -> Iterator[list[int]]:
    """Processes that stand for those on the GPUs."""
    sleepers = [subprocess.Popen(["sleep", "3600"]) for _ in range(count)]
    try:
        yield [each.pid for each in sleepers]
    finally:
        for each in sleepers:
            each.kill()
            each.wait()
