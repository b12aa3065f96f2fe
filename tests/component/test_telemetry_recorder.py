"""From the sampler's readings to the history: a real sampler process on the stand-in library, real files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import cast

import pytest

from agent.api.telemetry import GPU_METRICS
from agent.api.types import GpuReading, GpuSource
from agent.config import GpuTable
from agent.gpu.sampler import GpuView, Sampler
from agent.telemetry.bucket import Spread
from agent.telemetry.history import History
from agent.telemetry.host import HostReader
from agent.telemetry.lookback import look_back
from agent.telemetry.recorder import Recorder
from agent.telemetry.ringfile import RingFile, Tier, row_bytes
from tests.fakes.nvml import NvmlStandIn, uuid
from tests.fakes.sampler import sampling

TIERS = tuple(Tier(width_s=width, rows=256) for width in (1, 10, 60, 600))


async def first_kept(history: History, metric: str) -> Spread:
    """The first second of which something is known."""
    give_up = time.monotonic() + 30
    while True:
        now = int(time.time())
        found = await history.look_back(uuid(0), metric, since=now - 60, until=now + 1, points=61, now=now)
        known = [spread for spread in found.spreads if spread is not None] if found else []
        if known:
            return known[0]
        assert time.monotonic() < give_up, metric
        await asyncio.sleep(0.02)


def test_a_peak_that_only_the_drivers_ring_saw_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = NvmlStandIn(tmp_path, monkeypatch)
    ring = [(1000, 100_000), (21_000, 690_000), (41_000, 80_000)]
    nvml.write("value gpu=0 power_mw=101000", *(f"sample gpu=0 ring=0 at={at} value={mw}" for at, mw in ring))

    async def scenario() -> tuple[Spread, Spread]:
        history = History(tmp_path / "history", "boot-1", TIERS)
        history.start()
        async with sampling(GpuTable(source="nvml", library=str(nvml.library)), tmp_path) as sampler:
            host = HostReader()
            task = asyncio.create_task(Recorder(sampler, history, host, period_s=1.0).serve())
            found = await first_kept(history, "power_mw"), await first_kept(history, "temperature_c")
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            host.close()
        await history.stop()
        return found

    power, temperature = asyncio.run(scenario())
    assert power == (80_000.0, 290_000.0, 690_000.0)
    assert temperature == (40.0, 40.0, 40.0)


class Readings:
    """A sampler's view, with moments of the test's own."""

    def __init__(self) -> None:
        self.at = 0.0

    def view(self) -> GpuView:
        reading = GpuReading(index=0, uuid=uuid(0), name="H100", sampled_at=self.at, power_mw=int(self.at) % 1000)
        return GpuView(source=GpuSource.NVML, reason=None, driver_version=None, gpus=((reading, 0.0),))


def test_a_clock_that_is_set_back_leaves_no_gap_from_then_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        history = History(tmp_path / "history", "boot-1", TIERS)
        history.start()
        readings = Readings()
        host = HostReader()
        recorder = Recorder(cast("Sampler", readings), history, host, period_s=1.0)
        for at in (early + 100, early + 101, early + 1, early + 2, early + 3):
            readings.at = at
            recorder.note(at)
            recorder.note(at)  # nothing new
        host.close()
        await history.stop()

    early = 1_800_000_000
    asyncio.run(scenario())
    ring = RingFile.open(tmp_path / "history" / f"{uuid(0)}.ring", tuple(GPU_METRICS), "boot-1", TIERS)
    found = look_back(ring, "power_mw", since=early, until=early + 4, points=4, now=early + 4)
    ring.close()
    assert found.spreads == [None, *((each, each, each) for each in (1.0, 2.0, 3.0))]


def test_twenty_metrics_fill_a_row_and_what_an_older_version_kept_is_carried_over(tmp_path: Path) -> None:
    names = tuple(GPU_METRICS)
    older = names[:7]
    assert (len(names), row_bytes(len(names)), row_bytes(len(names) + 1)) == (20, 256, 512)
    path, at = tmp_path / f"{uuid(0)}.ring", 1_800_000_000
    ring = RingFile.open(path, older, "boot-1", TIERS)
    ring.add(at, [(1.0, 2.0, 3.0)] * len(older))
    ring.close()
    newer = RingFile.open(path, names, "boot-1", TIERS)
    told = {name: newer.columns(0, name, at, at).most[0] for name in names}
    newer.close()
    assert [name for name, value in told.items() if value == 3.0] == list(older)
    assert all(value != value for name, value in told.items() if name not in older)
