"""The sampler's child process: killed, frozen, none at all, or stuck, it is replaced or told of, and none is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from agent.api.types import GpuState
from agent.gpu import child as child_module
from agent.gpu.child import ChildKeeper
from agent.gpu.sampler import CHILD_ARGV
from agent.gpu.simulated import inject
from tests.fakes.nvml import NvmlStandIn
from tests.fakes.sampler import FAST, gpu, pid_of, sampling, states, view_when, with_library
from tests.fakes.sampler import nvml as nvml

# --- the child --------------------------------------------------------------------------------------------------------


def test_a_killed_child_is_replaced_and_its_values_only_age_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path) as sampler:
            view = await view_when(sampler, lambda view: len(view.gpus) == 8)
            pid = pid_of(sampler)
            os.kill(pid, signal.SIGKILL)
            last = sampler.view()
            view = await view_when(sampler, lambda view: "was ended by signal 9" in (view.reason or ""))
            assert [reading for reading, _ in view.gpus] == [reading for reading, _ in last.gpus]
            assert all(new[1] > old[1] for new, old in zip(view.gpus, last.gpus, strict=True))
            view = await view_when(sampler, lambda view: view.reason is None and gpu(view, 0)[1] < 0.1)
            assert pid_of(sampler) != pid
            assert gpu(view, 0)[0].sampled_at > gpu(last, 0)[0].sampled_at

    asyncio.run(scenario())


def test_a_frozen_child_makes_its_gpus_hung_and_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 8)
            pid = pid_of(sampler)
            os.kill(pid, signal.SIGSTOP)
            begun = time.monotonic()
            view = await view_when(sampler, lambda view: set(states(view)) == {GpuState.HUNG})
            assert time.monotonic() - begun < 30
            assert "not read for more than" in (gpu(view, 0)[0].reason or "")
            await view_when(sampler, lambda view: "was silent for" in (view.reason or ""))
            await view_when(sampler, lambda view: set(states(view)) == {GpuState.OK})
            assert not Path(f"/proc/{pid}").exists()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("print('no frame')", "wrote something that is no frame"),
        ("print('x' * 9_000_000)", "wrote something that is no frame"),
        ("print('{}')", "wrote something that is no frame"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.close(1); os.close(0); import time; time.sleep(60)", "closed its output"),
    ],
)
def test_a_child_that_is_none_is_complained_about_and_tried_again(tmp_path: Path, script: str, complaint: str) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path, child_argv=(sys.executable, "-I", "-c", script)) as sampler:
            view = await view_when(sampler, lambda view: complaint in (view.reason or ""))
            assert "started again in" in (view.reason or "")
            assert view.gpus == ()

    asyncio.run(scenario())


def test_a_program_that_does_not_exist_is_a_complaint(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path, child_argv=("/nonexistent/python",)) as sampler:
            await view_when(sampler, lambda view: "cannot be started" in (view.reason or ""))

    asyncio.run(scenario())


def test_stopping_leaves_no_process_though_a_gpu_hangs(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.write("gpus 2", "hang * gpu=1")

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            await view_when(sampler, lambda view: len(view.gpus) == 2)
            pid = pid_of(sampler)
        assert not Path(f"/proc/{pid}").exists()

    asyncio.run(scenario())


def test_the_child_ends_with_its_agent_though_a_gpu_hangs(tmp_path: Path) -> None:
    """`kill -9` of the agent: nobody tells the child, its input just ends."""
    inject(tmp_path, "0", "hung", count=8)
    agent = (
        "import asyncio, sys; from pathlib import Path; from agent.config import GpuTable;"
        "from agent.gpu.sampler import Sampler\n"
        "async def main():\n"
        "    s = Sampler(GpuTable(source='simulated', period_s=0.1), node_name='n1', state_dir=Path(sys.argv[1]),"
        " child_argv=sys.argv[2:])\n"
        "    await s.start()\n"
        "    while not s.view().gpus: await s.wait_change(1)\n"
        "    print(s.child_pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )

    async def scenario() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", agent, str(tmp_path), *CHILD_ARGV, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        child = os.pidfd_open(int(await asyncio.wait_for(process.stdout.readline(), 60)))
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(child, ended.set)
        process.kill()
        await asyncio.wait_for(ended.wait(), 60)
        asyncio.get_running_loop().remove_reader(child)
        os.close(child)
        await process.wait()

    asyncio.run(scenario())


def test_two_children_stuck_in_the_kernel_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that SIGKILL does not end cannot be had without a sick driver; here the signal is not sent."""
    kill = asyncio.subprocess.Process.kill
    monkeypatch.setattr(asyncio.subprocess.Process, "kill", lambda _: None)
    monkeypatch.setattr(child_module, "END_WAIT_S", 0.1)
    one_frame = (
        "import os, time\n"
        'print(\'{"source": "none", "reason": "%d", "gpus": []}\' % os.getpid(), flush=True)\n'
        "time.sleep(60)"
    )
    pids: asyncio.Queue[int] = asyncio.Queue()
    held_back = asyncio.Event()

    async def scenario() -> None:
        keeper = ChildKeeper(
            (sys.executable, "-I", "-c", one_frame),
            silence_s=0.2,
            on_frame=lambda frame: pids.put_nowait(int(frame.reason or "0")),
            on_trouble=lambda reason: held_back.set() if "stuck in the driver" in reason else None,
        )
        task = asyncio.create_task(keeper.run())
        first, second = [await asyncio.wait_for(pids.get(), 60) for _ in range(2)]
        await asyncio.wait_for(held_back.wait(), 60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pids.get(), 1.0)
        os.kill(first, signal.SIGKILL)
        await asyncio.wait_for(pids.get(), 60)
        os.kill(second, signal.SIGKILL)
        monkeypatch.setattr(asyncio.subprocess.Process, "kill", kill)
        task.cancel()
        await asyncio.wait([task])
        await keeper.end()

    asyncio.run(scenario())


@pytest.mark.parametrize("argv", [[], ["{"], ["{}"], ["[]", "[]"]])
def test_the_child_refuses_arguments_that_are_none(argv: list[str]) -> None:
    async def scenario() -> None:
        child = await asyncio.create_subprocess_exec(*CHILD_ARGV, *argv, stderr=asyncio.subprocess.PIPE)
        _, said = await asyncio.wait_for(child.communicate(), 60)
        assert child.returncode == os.EX_USAGE
        assert b"the agent starts the sampler" in said
        assert b"Traceback" not in said

    asyncio.run(scenario())


def test_many_waiters_are_all_woken_and_patience_ends_quietly(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path) as sampler:
            await asyncio.wait_for(asyncio.gather(*(sampler.wait_change(30) for _ in range(5))), 60)
        begun = time.monotonic()
        await sampler.wait_change(0.05)
        assert time.monotonic() - begun < 30

    asyncio.run(scenario())
