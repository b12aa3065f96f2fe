"""What sampling eight GPUs costs: the readers alone, the whole sampler process, its start and its memory."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from agent.config import GpuTable
from agent.gpu.base import GpuReader
from agent.gpu.nvml import NvmlReader
from agent.gpu.sampler import Sampler
from agent.gpu.simulated import SimulatedReader
from tests.bench.table import Row, row_of
from tests.fakes.nvml import NvmlStandIn
from tests.fakes.sampler import sampling, view_when

GPUS = 8
BATCHES, SAMPLES_A_BATCH = 15, 100
WATCHED_S = 8.0
"""How long the whole process is watched, for each source."""
STARTS = 7


def rows() -> list[Row]:
    """CPU ms a sample, first sample, resident memory; for the simulated source and for NVML on the stand-in."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        standin = NvmlStandIn(Path(folder), patch)
        links = (f"link gpu={gpu} link={link} to=switch" for gpu in range(GPUS) for link in range(18))
        standin.write(
            f"gpus {GPUS}", "rings", *(f"process gpu={each} pid={each + 1} memory=1" for each in range(GPUS)), *links
        )
        simulated = SimulatedReader(GPUS, node_name="bench", state_dir=Path(folder))
        found = [
            row_of("read 8 simulated GPUs, in process", _read_ms(simulated), "CPU ms", "≤ 0.5"),
            row_of("read 8 stand-in GPUs, in process", _read_ms(NvmlReader(str(standin.library))), "CPU ms", "≤ 0.5"),
        ]
        for words, settings in (
            ("8 simulated", GpuTable(source="simulated", simulated_count=GPUS)),
            ("8 stand-in", GpuTable(source="nvml", library=str(standin.library))),
        ):
            found += asyncio.run(_process_rows(words, settings, Path(folder)))
        return found


def _read_ms(reader: GpuReader) -> list[float]:
    """CPU ms of one sample of all GPUs, one figure a batch."""
    every, clock = [*range(reader.open().count)], itertools.count()

    def batch() -> float:
        begun = time.process_time()
        for now in map(float, itertools.islice(clock, SAMPLES_A_BATCH)):
            ready = [*reader.ready(every, now)]
            ready += [index for index in every if index not in ready and reader.check(index, now)]
            sweep = reader.sweep(ready, now, now) if ready else None
            swept = [] if sweep is None else sweep.indexes
            if sweep is not None:
                sweep.ask()
                assert sweep.fold() is not None
            for index in (index for index in every if index not in swept):
                reader.read(index, now, now)
        return (time.process_time() - begun) * 1000 / SAMPLES_A_BATCH

    batch()  # the first finds out what is supported
    return [batch() for _ in range(BATCHES)]


async def _process_rows(words: str, settings: GpuTable, folder: Path) -> list[Row]:
    starts = [await _first_sample_s(settings, folder) for _ in range(STARTS)]
    async with sampling(settings, folder) as sampler:
        await view_when(sampler, lambda view: len(view.gpus) == GPUS)
        await asyncio.sleep(2)  # let the start's own cost pass
        costs = [await _process_ms(sampler) for _ in range(int(WATCHED_S))]
        assert sampler.child_pid is not None
        rss = psutil.Process(sampler.child_pid).memory_info().rss / 1024**2
    return [
        Row(
            name=f"whole sampler process, {words} GPUs, 1 Hz",
            value=statistics.mean(costs),
            unit="CPU ms a sample",
            aim="≤ 0.5",
            spread=f"{min(costs):.3g} – {max(costs):.3g}",
        ),
        row_of(f"start to first sample, {words} GPUs", starts, "s", "≤ 0.3"),
        Row(name=f"sampler process RSS, {words} GPUs", value=rss, unit="MiB", aim="< 40"),
    ]


async def _first_sample_s(settings: GpuTable, folder: Path) -> float:
    begun = time.perf_counter()
    async with sampling(settings, folder) as sampler:
        await view_when(sampler, lambda view: len(view.gpus) == GPUS)
        return time.perf_counter() - begun


async def _process_ms(sampler: Sampler) -> float:
    """CPU ms that the sampler process spends from one frame to the next, wake-ups and writing included."""
    begun = _cpu_ms(sampler)
    await sampler.wait_change(5)
    return _cpu_ms(sampler) - begun


def _cpu_ms(sampler: Sampler) -> float:
    """Of all threads, in ms: /proc/PID/task/TID/schedstat counts nanoseconds, where stat counts 10 ms ticks."""
    tasks = Path(f"/proc/{sampler.child_pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
