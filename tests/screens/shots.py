"""The screens that are kept as pictures: how to get there, and the text that must be on them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from agent.api.refs import JobRef
from agent.api.telemetry import MetricHistory
from tests.fakes.cluster import FakeCluster
from tests.fakes.lab import lab
from tests.fakes.values import NOW
from tests.screens.stage import Stage
from tui.cluster import ArrayKey
from tui.screens.overview import OverviewScreen
from tui.widgets.logview import LogView
from tui.widgets.table import Table

Steps = Callable[[Stage], Awaitable[None]]


def pictured_lab() -> FakeCluster:
    """The laboratory, with a log that a training job would write."""
    cluster = lab()
    lines = [_line(number) for number in range(150)]
    lines[140] = "11:05:20 WARN NCCL: slow link mlx5_2, 61 % of the others"
    bars = [f"saving checkpoint  {share}%|{'#' * (share // 10):<10}|" for share in (40, 60)]
    cluster.logs["gpu-a1", 41] = "\n".join([*lines, "\r".join(bars)]).encode()
    return cluster


def _line(number: int) -> str:
    loss = 1.92 * math.exp(-number / 400)
    time, speed = f"11:0{3 + number // 60}:{number % 60:02}", 411_900 + number * 7 % 90
    return f"{time} step={18200 + number} loss={loss:.4f} lr=2.1e-5 tok/s={speed}"


async def overview(on: Stage) -> None:
    screen = on.app.base_screen()
    assert isinstance(screen, OverviewScreen)
    for second in range(590):
        screen.chart.add(52 + 30 * math.sin(second / 70) + 10 * math.sin(second / 13))
    await on.settle()


async def nodes(on: Stage) -> None:
    await on.press("2", "j")


async def node(on: Stage) -> None:
    await on.press("2", "j", "enter")


async def jobs(on: Stage) -> None:
    await on.press("3", "j", "j", "j")


async def job(on: Stage) -> None:
    await on.press("3", "j", "enter")
    await on.until(lambda: on.app.screen.query_one(LogView).line_count == 151, "the log is here")
    await on.settle()


async def search(on: Stage) -> None:
    await job(on)
    await on.press("slash", "w", "a", "r", "n", "enter")


async def cancel(on: Stage) -> None:
    await on.press("3", "space", "space", "space", "space", "X")


async def submit(on: Stage) -> None:
    await on.press("S")
    await on.press(*"train", "enter")
    await on.press(*"--gres=gpu:2")


async def help_screen(on: Stage) -> None:
    await on.press("question_mark")


async def queue(on: Stage) -> None:
    await on.press("3", "j", "j", "j")


async def array(on: Stage) -> None:
    await on.press("3")
    on.app.screen.query_one("#queue", Table).select(ArrayKey("gpu-a1", 50))
    await on.press("enter", "space")


async def details(on: Stage) -> None:
    await on.press("3")
    on.app.screen.query_one("#queue", Table).select(("gpu-a1", 44))
    await on.press("enter")
    await on.until(lambda: ("report", JobRef(id=44, node="gpu-a1")) in on.cluster.calls, "asked")
    await on.settle()


async def used(on: Stage) -> None:
    await on.press("3")
    on.app.screen.query_one("#queue", Table).select(("gpu-a1", 42))
    await on.press("enter", "i")
    await on.until(lambda: on.sees("attempt 1 on GPUs"), "the history")


async def hold(on: Stage) -> None:
    await on.press("3")
    on.app.screen.query_one("#queue", Table).select(("gpu-a1", 44))
    await on.press("space")
    on.app.screen.query_one("#queue", Table).select(ArrayKey("gpu-a1", 50))
    await on.press("space", "H")


async def how_many(on: Stage) -> None:
    await on.press("3")
    on.app.screen.query_one("#queue", Table).select(ArrayKey("gpu-a1", 50))
    await on.press("X")


async def drain(on: Stage) -> None:
    await node_with_drains(on)
    on.app.screen.query_one("#gpus", Table).focus()
    await on.press("j", "D", *"fan is loud")


async def node_with_drains(on: Stage) -> None:
    await on.press("2")
    await on.press("enter")
    await on.until(lambda: on.sees("reserved course"), "the reservation")


async def drained(on: Stage) -> None:
    await on.press("2", "j", "j")


async def preview(on: Stage) -> None:
    await submit(on)
    await on.press("f3")
    await on.until(lambda: on.sees("Preview, nothing is stored"), "the answer")


async def incidents(on: Stage) -> None:
    await on.press("4", "j", "j")


async def inventory(on: Stage) -> None:
    await on.press("4", "i")
    await on.until(lambda: on.sees("x missing"), "the answer")


async def processes(on: Stage) -> None:
    await on.press("5")


async def gpu_page(on: Stage) -> None:
    on.cluster.past["utilization_percent"] = _past()
    await on.press("4", "j", "j", "enter")
    await on.until(lambda: on.sees("gaps 10%"), "the past")


async def host(on: Stage) -> None:
    await on.press("2", "enter", "i")
    await on.until(lambda: on.sees("keeps no history"), "the answer")
    await on.settle()


def _past() -> MetricHistory:
    """A wave with peaks and a gap."""
    means = [None if 30 <= at < 36 else 55 + 35 * math.sin(at / 9) for at in range(60)]
    band = [[None if mean is None else min(100.0, mean + more) for mean in means] for more in (-8.0, 0.0, 9.0)]
    least, mean, most = (tuple(each) for each in band)
    return MetricHistory(
        node="gpu-a2", series="GPU", metric="utilization_percent", unit="%", begin=NOW - 600, width_s=10,
        least=least, mean=mean, most=most,
    )  # fmt: skip


async def licence(on: Stage) -> None:
    await on.press("6")
    await on.until(lambda: on.sees("History 6"), "the history")
    await on.settle()


async def usage(on: Stage) -> None:
    await on.press("6", "u")
    await on.until(lambda: on.sees("carol"), "the sums")
    await on.settle()


SHOTS: dict[str, Steps] = {
    "overview": overview,
    "nodes": nodes,
    "node": node,
    "jobs": jobs,
    "job": job,
    "search": search,
    "cancel": cancel,
    "submit": submit,
    "help": help_screen,
}
QUEUE_SHOTS: dict[str, Steps] = {
    "queue": queue,
    "array": array,
    "details": details,
    "used": used,
    "hold": hold,
    "how-many": how_many,
    "drain": drain,
    "reserved": node_with_drains,
    "drained": drained,
    "preview": preview,
}
"""Those of the deeper queue (`queue_lab`)."""
HEALTH_SHOTS: dict[str, Steps] = {
    "incidents": incidents,
    "inventory": inventory,
    "processes": processes,
    "gpu": gpu_page,
    "host": host,
    "trouble": overview,
}
"""Those of the laboratory with incidents (`health_lab`)."""
LICENCE_SHOTS: dict[str, Steps] = {"licence": licence, "usage": usage}
"""Those of a licence in its last tenth (`licence_lab`)."""
HELD_SHOTS: dict[str, Steps] = {"licence-held": licence, "usage-spent": usage}
"""Those of one that is spent (`spent_lab`)."""
MOVED_SHOTS: dict[str, Steps] = {"licence-moved": licence}
"""Those of one on another machine (`moved_lab`): a reason that is longer than its place."""
