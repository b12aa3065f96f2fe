"""The sampler on a real GPU and driver, against what nvidia-smi says of them."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from agent.api.types import GpuSource, GpuState
from agent.config import GpuTable
from agent.gpu.sampler import GpuView
from tests.fakes.sampler import sampling, view_when

pytestmark = pytest.mark.gpu


@pytest.fixture
def smi() -> list[list[str]]:
    """nvidia-smi's rows: index, uuid, name, memory.total in MiB, driver_version, power.limit in W."""
    query = "index,uuid,name,memory.total,driver_version,enforced.power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no NVIDIA GPU: {error}")
    return [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def sampled(tmp_path: Path) -> GpuView:
    """The second reading: the first finds out what is supported."""

    async def scenario() -> GpuView:
        async with sampling(GpuTable(source="auto", period_s=0.5), tmp_path) as sampler:
            first = await view_when(sampler, lambda view: bool(view.gpus), timeout_s=60)
            begun = first.gpus[0][0].sampled_at
            return await view_when(sampler, lambda view: view.gpus[0][0].sampled_at > begun)

    return asyncio.run(scenario())


def test_identity_memory_and_limits_are_as_nvidia_smi_says(smi: list[list[str]], tmp_path: Path) -> None:
    view = sampled(tmp_path)
    assert (view.source, view.reason, view.driver_version) == (GpuSource.NVML, None, smi[0][4])
    for (reading, _), (index, uuid, name, memory_mib, _, limit_w) in zip(view.gpus, smi, strict=True):
        assert (reading.index, reading.uuid, reading.name) == (int(index), uuid, name)
        assert reading.memory_total_bytes is not None
        assert abs(reading.memory_total_bytes / 1024**2 - float(memory_mib)) < 1024
        if reading.power_limit_mw is not None:
            assert abs(reading.power_limit_mw / 1000 - float(limit_w)) < 1


def test_a_gpu_is_well_fresh_and_plausible(smi: list[list[str]], tmp_path: Path) -> None:
    for reading, age_s in sampled(tmp_path).gpus:
        assert (reading.state, reading.reason) == (GpuState.OK, None)
        assert age_s < 2
        assert reading.memory_used_bytes is not None
        assert 0 <= reading.memory_used_bytes <= (reading.memory_total_bytes or 0)
        assert reading.utilization_percent is None or 0 <= reading.utilization_percent <= 100
        assert reading.temperature_c is not None
        assert 0 < reading.temperature_c < 120
        assert reading.memory_utilization_percent is None or 0 <= reading.memory_utilization_percent <= 100
        assert reading.energy_mj is None or reading.energy_mj > 0
        assert reading.minor is not None
        assert reading.mig_parent is not None or Path(f"/dev/nvidia{reading.minor}").exists()


def test_links_are_mutual_and_graded(smi: list[list[str]], tmp_path: Path) -> None:
    async def scenario() -> GpuView:
        async with sampling(GpuTable(source="auto", period_s=0.5), tmp_path) as sampler:
            await view_when(sampler, lambda view: bool(view.gpus), timeout_s=60)
            await asyncio.sleep(2)  # the links are asked for beside the sampling, once
            return sampler.view()

    links = {reading.uuid: reading.links for reading, _ in asyncio.run(scenario()).gpus}
    for uuid, known in links.items():
        for peer, grade in known.items():
            assert links[peer][uuid] == grade
            assert 0 < grade < 100


def test_the_energy_counter_rises_with_power(smi: list[list[str]], tmp_path: Path) -> None:
    async def scenario() -> tuple[GpuView, GpuView]:
        async with sampling(GpuTable(source="auto", period_s=0.5), tmp_path) as sampler:
            first = await view_when(sampler, lambda view: bool(view.gpus), timeout_s=60)
            begun = first.gpus[0][0].sampled_at
            return first, await view_when(sampler, lambda view: view.gpus[0][0].sampled_at > begun + 3)

    first, last = asyncio.run(scenario())
    for (one, _), (other, _) in zip(first.gpus, last.gpus, strict=True):
        if one.energy_mj is None or other.energy_mj is None or other.power_mw is None:
            continue
        drawn_mw = (other.energy_mj - one.energy_mj) / (other.sampled_at - one.sampled_at)
        assert 0.3 * other.power_mw < drawn_mw < 3 * other.power_mw


def test_what_is_read_beside_the_basics_is_plausible(smi: list[list[str]], tmp_path: Path) -> None:
    async def scenario() -> GpuView:
        async with sampling(GpuTable(source="auto", period_s=0.5), tmp_path) as sampler:
            first = await view_when(sampler, lambda view: bool(view.gpus), timeout_s=60)
            begun = first.gpus[0][0].sampled_at
            return await view_when(sampler, lambda view: view.gpus[0][0].sampled_at > begun + 3)

    for reading, _ in asyncio.run(scenario()).gpus:
        assert reading.dropped == 0
        assert reading.throttle is not None
        assert reading.errors is not None
        assert reading.limits is not None
        assert reading.bus is not None
        if reading.bus.pcie_width is not None and reading.limits.pcie_width_max is not None:
            assert 0 < reading.bus.pcie_width <= reading.limits.pcie_width_max
        for least, mean, most in reading.spreads.values():
            assert 0 <= least <= mean <= most
        if (power := reading.spreads.get("power_mw")) is not None and reading.power_mw is not None:
            assert power[0] / 3 < reading.power_mw < power[2] * 3
