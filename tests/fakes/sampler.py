"""Running the real sampler, process and all, from a test."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agent.config import GpuTable
from agent.gpu.sampler import CHILD_ARGV, GpuView, Sampler


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


async def view_when(sampler: Sampler, wanted: Callable[[GpuView], bool], timeout_s: float = 20.0) -> GpuView:
    """The first view that is as wanted. Looks at each news and 20 times a second, since ages grow without news."""
    until = time.monotonic() + timeout_s
    while True:
        view = sampler.view()
        if wanted(view):
            return view
        assert time.monotonic() < until, f"not seen within {timeout_s} s; last seen: {view}"
        await sampler.wait_change(0.05)
