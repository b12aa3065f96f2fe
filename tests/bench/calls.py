"""What each call to the driver takes: wall and CPU time of the calls that a second, ten seconds and an hour make.

On the stand-in, and with `STOKER_BENCH_NVML=` (empty: where the loader finds it; or a path) on the own driver of the
node: one command fills the table in docs/benchmarks.md on a machine with a GPU. Each call is made on every GPU in turn;
the first round, in which the driver may wake a board, is a figure of its own.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.gpu.nvml import NvmlReader
from agent.gpu.nvml_device import Device
from agent.gpu.nvml_facts import read_limits
from agent.gpu.sieve import Sieve
from tests.bench.table import Row
from tests.fakes.nvml import NvmlStandIn

LIBRARY_VARIABLE = "STOKER_BENCH_NVML"
ROUNDS = 50
GPUS = 8

_Act = Callable[[], object]


def rows() -> list[Row]:
    """Microseconds a call and GPU."""
    if LIBRARY_VARIABLE in os.environ:
        return list(_rows(NvmlReader(os.environ[LIBRARY_VARIABLE] or None)))
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        standin = NvmlStandIn(Path(folder), patch)
        links = (f"link gpu={gpu} link={link} to=switch" for gpu in range(GPUS) for link in range(18))
        standin.write(
            f"gpus {GPUS}", "rings", *(f"process gpu={gpu} pid={gpu + 1} memory=1" for gpu in range(GPUS)), *links
        )
        return list(_rows(NvmlReader(str(standin.library))))


def _rows(reader: NvmlReader) -> Iterator[Row]:
    begun = time.perf_counter()
    inventory = reader.open()
    yield Row(name=f"nvmlInit, {inventory.count} GPUs", value=(time.perf_counter() - begun) * 1e3, unit="ms")
    firsts = []
    for index in range(inventory.count):
        begun = time.perf_counter()
        reader.read(index, time.time(), time.monotonic())
        firsts.append((time.perf_counter() - begun) * 1e3)
    yield Row(name="first reading of a GPU", value=statistics.median(firsts), unit="ms", spread=_spread(firsts))
    acts = [_acts(reader._devices[index], index) for index in range(inventory.count)]
    for name in acts[0]:
        yield from _timed(name, [each[name] for each in acts])
    yield from _timed("whole reading", [_whole(reader, index) for index in range(inventory.count)])


def _acts(device: Device, index: int) -> dict[str, _Act]:
    """Each by the name of its call, made as the sampler makes it, with kept arguments."""
    sieve, later = Sieve(), 1e9
    found: dict[str, _Act] = {}
    for question in device._plain._calls:
        function, args = question.func, question.args
        name = getattr(function, "__name__", "a function that this driver has not")
        found[f"{name}{f' {args[1]}' if len(args) > 2 else ''}"] = question
    found["nvmlDeviceGetFieldValues, those of each second"] = lambda: device._fields.often(later)
    found["nvmlDeviceGetFieldValues, all"] = lambda: device._fields.all(later)
    for name, ring in (
        ("power", device._rings[0]),
        ("load", device._rings[1]),
        ("memory load", device._rings[2]),
    ):
        found[f"nvmlDeviceGetSamples, {name}"] = lambda ring=ring: ring.get(later, sieve, 1e9)  # type: ignore[misc]
    found["nvmlGpmSampleGet and nvmlGpmMetricsGet"] = _gpm(device, sieve)
    found["nvmlDeviceGetComputeRunningProcesses"] = lambda: device._processes.compute.get(later)
    found["nvmlDeviceGetGraphicsRunningProcesses"] = lambda: device._processes._graphics.get(later)
    found["nvmlDeviceGetProcessUtilization"] = lambda: device._processes.use._tell(time.time(), later, sieve)
    for name, call in device._seldom.named.items():
        found[f"every 10 s: {name}"] = lambda call=call: call.number(later)  # type: ignore[misc]
    found["every 10 s: nvmlDeviceGetMigMode"] = lambda: device._seldom.mig.number(later)
    found["each hour: limits, eleven calls"] = lambda: read_limits(index, device.handle)
    return found


def _gpm(device: Device, sieve: Sieve) -> _Act:
    clock = iter(range(1, 1_000_000))
    return lambda: device._gpm.get(1e9 + next(clock), sieve)


def _whole(reader: NvmlReader, index: int) -> _Act:
    return lambda: reader.read(index, time.time(), time.monotonic())


def _timed(name: str, acts: list[_Act]) -> Iterator[Row]:
    walls, cpus = [], []
    for _ in range(ROUNDS):
        time.sleep(0.02)  # as the sampler does: a call, and then a pause in which the driver may rest
        wall, cpu = time.perf_counter(), time.thread_time()
        for act in acts:
            with contextlib.suppress(Exception):
                act()
        cpus.append((time.thread_time() - cpu) / len(acts) * 1e6)
        walls.append((time.perf_counter() - wall) / len(acts) * 1e6)
    yield Row(name=name, value=statistics.median(walls), unit="µs", spread=_spread(walls))
    yield Row(name=f"{name}: CPU", value=statistics.median(cpus), unit="CPU µs", spread=_spread(cpus))


def _spread(values: list[float]) -> str:
    return f"{min(values):.3g} – {max(values):.3g}"
