"""The sampler end to end: the agent's side, a real child process, and the simulated or the NVML source below it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from agent.api.queue import LinkGrade
from agent.api.types import GpuSource, GpuState
from agent.config import GpuTable
from agent.gpu.sampler import CHILD_ARGV, GpuView, Sampler
from agent.gpu.simulated import inject
from tests.fakes.nvml import NvmlStandIn, mig_uuid, uuid
from tests.fakes.sampler import FAST, gpu, pid_of, sampling, states, view_when, with_library
from tests.fakes.sampler import nvml as nvml

# --- the simulated source ---------------------------------------------------------------------------------------------


def test_before_and_without_a_child_the_view_says_why_it_is_empty(tmp_path: Path) -> None:
    async def scenario() -> None:
        sampler = Sampler(FAST, node_name="n1", state_dir=tmp_path, child_argv=CHILD_ARGV)
        assert sampler.view() == GpuView(
            source=GpuSource.NONE, reason="the sampler is starting", driver_version=None, gpus=()
        )
        async with sampling(GpuTable(source="none"), tmp_path) as none:
            assert none.view().reason == "gpu.source is none in the configuration"
            assert none.child_pid is None

    asyncio.run(scenario())


def test_held_gpus_become_busy_and_still_are_in_the_next_child(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path) as sampler:
            view = await view_when(sampler, lambda view: len(view.gpus) == 8)
            assert view.source is GpuSource.SIMULATED
            assert view.reason is None
            held = gpu(view, 5)[0].uuid
            sampler.hold([held])
            await view_when(sampler, lambda view: (gpu(view, 5)[0].utilization_percent or 0) > 0)
            os.kill(pid_of(sampler), signal.SIGKILL)
            await view_when(sampler, lambda view: view.reason is not None)
            view = await view_when(sampler, lambda view: view.reason is None and gpu(view, 5)[1] < 0.1)
            assert (gpu(view, 5)[0].utilization_percent or 0) > 80
            assert gpu(view, 4)[0].utilization_percent == 0

    asyncio.run(scenario())


def test_what_jobs_hold_is_told_after_a_stop_in_the_middle_of_telling(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path) as sampler:
            view = await view_when(sampler, lambda view: len(view.gpus) == 8)
            sampler.hold([gpu(view, 5)[0].uuid])
            await sampler.stop()
            sampler.hold([gpu(view, 6)[0].uuid])
            await sampler.start()
            await view_when(sampler, lambda view: (gpu(view, 6)[0].utilization_percent or 0) > 0)
            sampler.hold([gpu(view, 7)[0].uuid])
            await view_when(sampler, lambda view: (gpu(view, 7)[0].utilization_percent or 0) > 0)

    asyncio.run(scenario())


def test_faults_of_the_simulated_source_are_states_of_the_view(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 8)
            inject(tmp_path, "2", "lost", count=8)
            inject(tmp_path, "6", "hung", count=8)
            before = int(time.time())
            view = await view_when(
                sampler, lambda view: (gpu(view, 2)[0].state, gpu(view, 6)[0].state) == (GpuState.LOST, GpuState.HUNG)
            )
            for index in (2, 6):
                ill, age_s = gpu(view, index)
                assert before <= (ill.state_since or 0) <= time.time()
                assert str(index) in (ill.reason or "")
                assert ill.memory_total_bytes is not None  # the last values stay
                assert age_s > gpu(view, 0)[1]
            assert states(view).count(GpuState.OK) == 6
            inject(tmp_path, "2", "ok", count=8)
            inject(tmp_path, "6", "ok", count=8)
            await view_when(sampler, lambda view: set(states(view)) == {GpuState.OK})

    asyncio.run(scenario())


# --- NVML -------------------------------------------------------------------------------------------------------------


def test_one_hung_gpu_is_named_within_3_s_and_the_others_stay_under_2_s_old(tmp_path: Path, nvml: NvmlStandIn) -> None:
    """The gate of the telemetry design, at the period of a real node."""
    nvml.write("gpus 8")

    def others_are_fresh(view: GpuView) -> bool:
        return all(age_s < 2.0 and each.state is GpuState.OK for each, age_s in view.gpus if each.index != 3)

    async def scenario() -> None:
        async with sampling(with_library(nvml, period_s=1.0), tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 8)
            nvml.write("gpus 8", "hang * gpu=3")
            view = await view_when(
                sampler, lambda view: gpu(view, 3)[0].state is GpuState.HUNG and others_are_fresh(view)
            )
            ill, age_s = gpu(view, 3)
            assert (ill.state, ill.uuid) == (GpuState.HUNG, uuid(3))
            assert age_s > 2.0  # its values are the old ones and say so
            assert states(view).count(GpuState.OK) == 7
            since = ill.state_since
            view = await view_when(sampler, lambda view: gpu(view, 3)[1] > age_s + 1.5 and others_are_fresh(view))
            assert gpu(view, 3)[0].state_since == since
            nvml.write("gpus 8")
            await view_when(sampler, lambda view: gpu(view, 3)[0].state is GpuState.OK)

    asyncio.run(scenario())


def test_all_gpus_but_one_may_hang(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.write("gpus 8")

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 8)
            nvml.write("gpus 8", *(f"hang * gpu={index}" for index in range(7)))
            view = await view_when(sampler, lambda view: states(view).count(GpuState.HUNG) == 7)
            assert gpu(view, 7)[0].state is GpuState.OK
            await view_when(sampler, lambda view: gpu(view, 7)[1] < 0.5 and gpu(view, 0)[1] > 2.0)
            nvml.write("gpus 8")
            await view_when(sampler, lambda view: states(view).count(GpuState.OK) == 8)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetSamples",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetProcessUtilization",
        "nvmlGpmSampleGet",
        "nvmlGpmMetricsGet",
    ],
)
def test_whichever_call_hangs_only_its_gpu_does(tmp_path: Path, nvml: NvmlStandIn, function: str) -> None:
    usual = ("gpus 2", "process gpu=1 pid=1 memory=1", "rings")
    nvml.write(*usual)

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 2)
            nvml.write(*usual, f"hang {function} gpu=1")
            view = await view_when(sampler, lambda view: gpu(view, 1)[0].state is GpuState.HUNG)
            assert gpu(view, 0)[0].state is GpuState.OK
            nvml.write(*usual)
            await view_when(sampler, lambda view: gpu(view, 1)[0].state is GpuState.OK)

    asyncio.run(scenario())


def test_a_gpu_lost_from_the_start_is_shown_though_nothing_is_known_of_it(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.write("gpus 2", "fail * gpu=1 code=15")

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            view = await view_when(sampler, lambda view: len(view.gpus) == 2)
            ill = gpu(view, 1)[0]
            assert (ill.uuid, ill.state, ill.memory_total_bytes) == ("unknown:1", GpuState.LOST, None)

    asyncio.run(scenario())


def test_a_gpu_that_hung_before_a_restart_keeps_its_name_age_and_since(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.write("gpus 2")

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 2)
            nvml.write("gpus 2", "hang * gpu=1")
            ill, age_s = gpu(await view_when(sampler, lambda view: GpuState.HUNG in states(view)), 1)
            os.kill(pid_of(sampler), signal.SIGKILL)
            await view_when(sampler, lambda view: view.reason is not None)
            view = await view_when(sampler, lambda view: view.reason is None and gpu(view, 1)[1] > age_s + 2)
            again = gpu(view, 1)[0]
            assert (again.uuid, again.state, again.state_since) == (ill.uuid, GpuState.HUNG, ill.state_since)
            assert gpu(view, 0)[0].state is GpuState.OK

    asyncio.run(scenario())


def test_a_start_of_the_driver_that_never_ends_is_said_and_survived(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.write("hang nvmlInitWithFlags gpu=*")

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            view = await view_when(sampler, lambda view: "has not come up" in (view.reason or ""))
            assert (view.source, view.gpus) == (GpuSource.NONE, ())
            assert sampler.none_found() is None, "it is not known yet"
            nvml.write("gpus 4")
            await view_when(sampler, lambda view: len(view.gpus) == 4)

    asyncio.run(scenario())


@pytest.mark.parametrize(("source", "shown"), [("auto", GpuSource.NONE), ("nvml", GpuSource.NVML)])
def test_the_driver_may_vanish_and_come_back(tmp_path: Path, nvml: NvmlStandIn, source: str, shown: GpuSource) -> None:
    nvml.write("gpus 2")

    async def scenario() -> None:
        async with sampling(with_library(nvml, source=source), tmp_path) as sampler:
            first = await view_when(sampler, lambda view: len(view.gpus) == 2)
            assert (first.source, first.driver_version) == (GpuSource.NVML, "550.54.15")
            pid = pid_of(sampler)
            nvml.write("fail * gpu=* code=9")
            view = await view_when(sampler, lambda view: "modprobe nvidia" in (view.reason or ""))
            assert (view.source, view.gpus) == (shown, ())
            assert "modprobe nvidia" in (sampler.none_found() or "")
            nvml.write("gpus 3", "driver 575.1")
            view = await view_when(sampler, lambda view: len(view.gpus) == 3)
            assert sampler.none_found() is None
            assert (view.source, view.reason, view.driver_version) == (GpuSource.NVML, None, "575.1")
            assert pid_of(sampler) != pid  # a new driver needs a new process

    asyncio.run(scenario())


def test_mig_instances_are_shown_beside_their_gpu_and_are_as_ill_as_it_even_to_a_new_child(
    tmp_path: Path, nvml: NvmlStandIn
) -> None:
    parts = [f"mig gpu=0 slot={slot} profile=1g.10gb total=10737418240 used={slot + 1}" for slot in range(2)]
    nvml.write("gpus 2", *parts)

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            view = await view_when(sampler, lambda view: len(view.gpus) == 4)
            assert [reading.index for reading, _ in view.gpus] == [0, 1, 100, 101]
            assert gpu(view, 0)[0].divided
            assert gpu(view, 101)[0].uuid == mig_uuid(0, 1)
            nvml.write("gpus 2", *parts, "hang * gpu=0")
            ill = await view_when(sampler, lambda view: states(view).count(GpuState.HUNG) == 3)
            assert {reading.index for reading, _ in ill.gpus if reading.state is GpuState.OK} == {1}
            os.kill(pid_of(sampler), signal.SIGKILL)
            await view_when(sampler, lambda view: view.reason is not None)
            view = await view_when(sampler, lambda view: view.reason is None and gpu(view, 1)[1] < 0.5)
            assert [reading.index for reading, _ in view.gpus] == [0, 1, 100, 101]
            assert gpu(view, 100)[0].memory_used_bytes == 1  # what the child before knew
            await view_when(sampler, lambda view: gpu(view, 100)[0].state is GpuState.HUNG)
            nvml.write("gpus 2", parts[1])
            view = await view_when(sampler, lambda view: set(states(view)) == {GpuState.OK} and len(view.gpus) == 3)
            assert [reading.index for reading, _ in view.gpus] == [0, 1, 101]

    asyncio.run(scenario())


def test_links_and_place_come_through_the_child(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.write("gpus 2", *(f"link gpu={index} link={link} to=switch" for index in range(2) for link in range(18)))

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            view = await view_when(sampler, lambda view: len(view.gpus) == 2 and bool(gpu(view, 1)[0].links))
            assert gpu(view, 1)[0].links == {uuid(0): LinkGrade.NVLINK + 17}
            assert gpu(view, 1)[0].minor == 1

    asyncio.run(scenario())


def test_processes_get_user_and_command(tmp_path: Path, nvml: NvmlStandIn) -> None:
    me = os.getpid()
    nvml.write(f"process gpu=0 pid={me} memory=4096", "process gpu=0 pid=4194304 memory=1")

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            await view_when(sampler, lambda view: bool(view.gpus) and gpu(view, 0)[0].processes[0].user is not None)
            mine, ghost = gpu(sampler.view(), 0)[0].processes
            assert (mine.pid, mine.memory_used_bytes) == (me, 4096)
            assert "python" in (mine.command or "")
            assert (ghost.pid, ghost.user, ghost.command) == (4194304, None, None)

    asyncio.run(scenario())


@pytest.mark.parametrize("fast_s", [0.05, None])
def test_peaks_of_a_board_without_rings_are_seen_where_the_configuration_asks_for_it(
    tmp_path: Path, nvml: NvmlStandIn, fast_s: float | None
) -> None:
    """`gpu.fast_s` on and off, through configuration, child and frames."""
    settings = msgspec.structs.replace(with_library(nvml, period_s=0.4), fast_s=fast_s)

    async def scenario() -> None:
        async with sampling(settings, tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 1)
            read_at = gpu(sampler.view(), 0)[0].sampled_at
            view = await view_when(sampler, lambda view: gpu(view, 0)[0].sampled_at > read_at + 0.8)
            assert bool(gpu(view, 0)[0].spreads) is (fast_s is not None)

    asyncio.run(scenario())


def test_no_library_at_all_is_a_reason_not_a_failure(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(GpuTable(source="auto", library=str(tmp_path / "none.so")), tmp_path) as sampler:
            view = await view_when(sampler, lambda view: "cannot be loaded" in (view.reason or ""))
            assert (view.source, view.gpus) == (GpuSource.NONE, ())

    asyncio.run(scenario())
