"""The page of a GPU and of a host: values, their state, the past, and the way to job and node."""

from __future__ import annotations

import msgspec
import pytest

from agent.api.queue import DrainRequest
from agent.api.telemetry import MetricHistory
from agent.api.types import GpuProcess, LinkState, NodeStatus, NodeUpdate
from tests.fakes.cluster import FakeCluster
from tests.fakes.lab import A1, A2, health_lab
from tests.fakes.values import GIB, NOW, evaluation, gpu, node, up
from tests.screens.stage import LARGE, SMALL, Stage, play
from tests.screens.test_hostile import EVIL, acting
from tui.screens.gpu import GpuScreen
from tui.widgets.past import Past
from tui.widgets.table import Table


async def at(on: Stage, key: tuple[str, str]) -> None:
    """On the page of a GPU, by way of its node."""
    await on.press("2")
    on.app.screen.query_one("#nodes", Table).select(key[0])
    await on.press("enter")
    table = on.app.screen.query_one("#gpus", Table)
    table.focus()
    table.select(key)
    await on.press("enter")
    assert isinstance(on.app.screen, GpuScreen)


def past_of(metric: str, *means: float | None, unit: str = "%") -> MetricHistory:
    return MetricHistory(
        node="gpu-a1", series="GPU", metric=metric, unit=unit, begin=NOW - 60 * len(means), width_s=60,
        least=means, mean=means, most=means,
    )  # fmt: skip


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: f"{size[0]}x{size[1]}")
def test_what_matters_is_in_sight(size: tuple[int, int]) -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a1", A1[0]))
        assert on.sees("● ok") and on.sees("97%  71/80G  66°C  652 W"), "the essentials"
        assert on.sees("41 alice llama-ft-70b"), "and whose it is"
        assert on.sees("Utilisation") and on.sees("Power")
        await on.press("b")
        assert "Jobs ▸ 41" in on.lines()[0]
        await on.press("escape", "n")
        assert "Nodes ▸ gpu-a1" in on.lines()[0]

    play(scene, health_lab(), size)


def test_a_hung_gpu_says_since_when_and_what_is_wrong() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", A2[7]))
        assert on.sees("! hung since 11:05:26 (74 s): the driver does not answer; the values are those of")
        assert on.sees("! critical  GPU 7 has not answered since 11:05:26; end its jobs")
        assert on.sees("Values, as last read")
        await on.press("left_square_bracket")
        assert on.sees("GPU 6 of gpu-a2") and on.sees("● ok")
        await on.press("right_square_bracket", "right_square_bracket")
        assert on.sees("GPU 0 of gpu-a2"), "round to the first"

    play(scene, health_lab(), LARGE)


def test_the_past_is_asked_for_drawn_and_changed_by_key() -> None:
    cluster = health_lab()
    cluster.past["utilization_percent"] = past_of("utilization_percent", 10.0, None, 90.0)
    cluster.past["power_mw"] = past_of("power_mw", 70_000.0, 600_000.0, unit="mW")

    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a1", A1[0]))
        await on.until(lambda: on.sees("least 10%, mean 50%, most 90%; gaps 33%"), "the picture")
        assert on.sees("last 10 min") and any("█·█" in line for line in on.lines()), "the gap is a gap"
        await on.press("l")
        await on.until(lambda: on.sees("the fake cluster keeps none"), "why there is no picture")
        for _ in range(12):
            if on.app.screen.query_one(Past).metric == "power_mw":
                break
            await on.press("l")
        await on.until(lambda: on.sees("power, last 10 min: least 70 W, mean 335 W"), "another metric")
        for span in ("1 h", "6 h", "2 d", "30 d", "1 y", "1 y"):
            await on.press("plus")
            await on.until(lambda span=span: on.sees(f"last {span}: least 70 W"), span)  # type: ignore[misc]
        await on.press("minus")
        await on.until(lambda: on.sees("last 30 d: least"), "and back")

    play(scene, cluster, LARGE)
    assert ("history", ("power_mw", A1[0], "gpu-a1")) in cluster.calls


def test_a_gpu_is_drained_from_its_page() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a1", A1[0]))
        await on.press("D", *"loud", "enter")
        await on.until(lambda: on.sees("* drained by root: loud"), "told")
        await on.press("U", "y")
        await on.until(lambda: not on.sees("drained by root"), "undone")

    asked = [call for call in play(scene, health_lab(), LARGE).calls if call[0] in ("drain", "resume")]
    assert asked == [
        ("drain", ("gpu-a1", DrainRequest(gpu=A1[0], reason="loud"))),
        ("resume", ("gpu-a1", DrainRequest(gpu=A1[0]))),
    ]


def test_a_node_that_is_lost_and_a_gpu_that_goes_are_told_of() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a1", A1[0]))
        described = on.cluster.statuses["gpu-a1"].node
        assert described is not None
        on.cluster.say(NodeUpdate(status=NodeStatus(name="gpu-a1", link=LinkState.LOST, age_s=95.0, node=described)))
        await on.until(lambda: on.sees("x the node is lost since 95 s"), "lost")
        on.cluster.say(NodeUpdate(status=up(msgspec.structs.replace(described, gpus=described.gpus[1:]))))
        await on.until(lambda: on.sees(f"gpu-a1 tells of no GPU {A1[0]} now"), "gone")
        await on.press("b", "n")

    play(scene, health_lab(), LARGE)


def test_processes_and_hostile_words_on_the_page() -> None:
    process = GpuProcess(
        pid=4242, user=EVIL, command=EVIL, memory_used_bytes=3 * GIB, sm_percent=41, started_at=NOW - 60
    )
    bad = gpu(0, processes=(process,), name=EVIL, reason=EVIL, ill=(EVIL,), throttle=(EVIL,))
    cluster = FakeCluster([up(node("n1", (bad, gpu(1))))], [], evaluation())

    async def scene(on: Stage) -> None:
        await at(on, ("n1", "GPU-n1-0"))
        assert on.sees("4242") and on.sees("3.0 GiB") and on.sees("41%") and on.sees("11:05:40")
        assert on.sees("[bold red]x[/]"), "markup is text"
        assert acting(on.lines()) == []

    play(scene, cluster, LARGE)


def test_the_host_and_the_links() -> None:
    cluster = health_lab()
    cluster.past["cpu_percent"] = past_of("cpu_percent", 31.0)
    cluster.past["disk_read_bytes_per_s"] = past_of("disk_read_bytes_per_s", 12.0 * 2**20, None, unit="B/s")

    async def scene(on: Stage) -> None:
        await on.press("2", "enter", "i")
        await on.until(lambda: on.sees("disk read 12.0 MiB/s"), "from the history")
        assert on.sees("CPU 31% of 64   load 12.4") and on.sees("Links between the GPUs")
        assert on.sees("cpu, last 10 min: least 31%")
        await on.press("escape", "v")
        assert "Inventory" in on.lines()[0]

    play(scene, cluster, LARGE)
