"""Running the real sampler, process and all, from a test."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.api.types import GpuReading, GpuState
from agent.config import GpuTable
from agent.gpu.sampler import CHILD_ARGV, GpuView, Sampler
from tests.fakes.nvml import NvmlStandIn

FAST = GpuTable(source="simulated", period_s=0.1)


@asynccontextmanager
async def sampling(
    settings: GpuTable, state_dir: Path, child_argv: Sequence[str] = CHILD_ARGV
) -> AsyncIterator[Sampler]:
    """A started sampler, stopped at the end."""
    sampler = Sampler(settings, node_name="n1", state_dir=state_dir, child_argv=child_argv)
    await sampler.start()
    try:
        yield sampler
    finally:
        await sampler.stop()


async def view_when(sampler: Sampler, wanted: Callable[[GpuView], bool], timeout_s: float = 60.0) -> GpuView:
    """The first view that is as wanted. Looks at each news and 20 times a second, since ages grow without news."""
    until = time.monotonic() + timeout_s
    while True:
        view = sampler.view()
        if wanted(view):
            return view
        assert time.monotonic() < until, f"not seen within {timeout_s} s; last seen: {view}"
        await sampler.wait_change(0.05)


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    return NvmlStandIn(tmp_path, monkeypatch)


def with_library(nvml: NvmlStandIn, period_s: float = 0.1, source: str = "auto") -> GpuTable:
    return GpuTable(source=source, period_s=period_s, library=str(nvml.library))


def gpu(view: GpuView, index: int) -> tuple[GpuReading, float]:
    return next(each for each in view.gpus if each[0].index == index)


def states(view: GpuView) -> list[GpuState]:
    return [reading.state for reading, _ in view.gpus]


def pid_of(sampler: Sampler) -> int:
    pid = sampler.child_pid
    assert pid is not None
    return pid
