"""Who uses the GPUs, on the screen: processes of all nodes with their jobs, sorted, filtered, ended by their job."""

from __future__ import annotations

import pytest

from agent.api.refs import JobRef
from agent.api.types import GpuProcess, JobUpdate
from tests.fakes.cluster import FakeCluster
from tests.fakes.values import GIB, NOW, evaluation, gpu, job, node, up
from tests.screens.stage import LARGE, SMALL, Stage, play
from tests.screens.test_hostile import EVIL, acting
from tui.screens.gpu import GpuScreen
from tui.screens.processes import ProcessesScreen
from tui.widgets.table import Table


def process(pid: int, user: str, gib: float, sm: int, **more: object) -> GpuProcess:
    values = {"command": f"python train{pid}.py", "started_at": NOW - pid, **more}
    return GpuProcess(pid=pid, user=user, memory_used_bytes=int(gib * GIB), sm_percent=sm, **values)  # type: ignore[arg-type]


def shared() -> FakeCluster:
    """A job's two processes, one GPU shared by two jobs, a stranger, a desktop, a job that shows no process."""
    n1 = (
        gpu(0, job=1, job_ids=(1,), processes=(process(10, "alice", 40, 90),)),
        gpu(1, job=1, job_ids=(1, 2), processes=(process(11, "alice", 8, 20), process(20, "bob", 12, 70))),
        gpu(2, processes=(process(66, "mallory", 2, 99), process(5, "root", 0.1, 0, kind="graphics"))),
    )
    n2 = (gpu(0, node="n2", job=3, job_ids=(3,)),)
    jobs = [job(1, user="alice", name="llama"), job(2, user="bob", name="vit"), job(3, user="carol", node="n2")]
    return FakeCluster([up(node("n1", n1)), up(node("n2", n2))], jobs, evaluation())


def listed(on: Stage) -> list[str]:
    """Pid and user of each line."""
    lines = [line[2:].split() for line in on.lines()[3:12]]
    return [f"{words[0]} {words[1]}" for words in lines if len(words) > 2]


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: f"{size[0]}x{size[1]}")
def test_each_process_has_its_job_and_strangers_say_so(size: tuple[int, int]) -> None:
    async def scene(on: Stage) -> None:
        await on.press("5")
        pids = [line.split()[0] for line in listed(on)[:6]]
        assert pids == ["10", "20", "11", "66", "5", "–"]
        assert on.sees("! no job") and on.sees("5 processes of 4 users, 1 of no job")
        assert any("20" in line and "2 vit" in line for line in on.lines()), "of two jobs on a GPU the user's own"

    play(scene, shared(), size)


def test_sorted_turned_and_filtered_by_key() -> None:
    async def scene(on: Stage) -> None:
        await on.press("5", "s")
        assert on.sees("sorted by SM") and listed(on)[0] == "66 mallory"
        await on.press("s")
        assert listed(on)[:3] == ["10 alice", "11 alice", "20 bob"]
        await on.press("o")
        assert on.sees("turned round") and listed(on)[0] == "5 root"
        await on.press("slash", *"alice", "enter")
        assert on.sees("GPU users 2 of 6")

    play(scene, shared(), LARGE)


def test_from_a_process_to_its_gpu_its_job_and_its_end() -> None:
    async def scene(on: Stage) -> None:
        await on.press("5", "enter")
        assert isinstance(on.app.screen, GpuScreen) and on.sees("python train10.py"), "above the values"
        await on.press("escape", "b")
        assert "Jobs ▸ 1" in on.lines()[0]
        await on.press("escape", "X")
        assert on.sees("Cancel job 1?")
        await on.press("y")
        await on.until(lambda: on.sees("asked for"), "done")

    calls = play(scene, shared(), LARGE).calls
    assert ("cancel", JobRef(id=1, node="n1")) in calls


def test_a_stranger_is_not_ours_to_end() -> None:
    async def scene(on: Stage) -> None:
        await on.press("5")
        on.app.screen.query_one(Table).select(("n1", "GPU-n1-2", 66))
        await on.press("X")
        await on.until(lambda: on.sees("ask mallory, or on n1: kill 66"), "what to do instead")
        await on.press("b")
        await on.until(lambda: on.sees("It is no job's."), "nor a job to go to")
        assert isinstance(on.app.screen, ProcessesScreen)

    assert not [call for call in play(scene, shared(), LARGE).calls if call[0] == "cancel"]


def test_hostile_commands_act_on_nothing_and_nobody_at_all_is_said() -> None:
    evil = gpu(0, processes=(GpuProcess(pid=1, user=EVIL, command=EVIL, kind=EVIL),))
    cluster = FakeCluster([up(node("n1", (evil,)))], [], evaluation())

    async def scene(on: Stage) -> None:
        await on.press("5")
        assert on.sees("[bold red]") and acting(on.lines()) == []
        on.cluster.say(JobUpdate(job=job(1, name=EVIL)))
        await on.press("X", "b", "n")
        assert acting(on.lines()) == []

    play(scene, cluster, LARGE)

    async def empty(on: Stage) -> None:
        await on.press("5")
        assert on.sees("no process is seen on any GPU, and no job holds one")
        await on.press("X", "b", "n", "enter", "s")

    play(empty, FakeCluster([up(node("n1", (gpu(0),)))], [], evaluation()), SMALL)
