"""What nodes and jobs say never acts on the terminal: every foreign text on a screen is looked at as it is drawn."""

from __future__ import annotations

import asyncio
import unicodedata
from typing import Any

import pytest

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import GpuProcess, JobState, Licence, LicenceStage, LinkState, LogChunk, NodeStatus
from tests.fakes.cluster import FakeCluster
from tests.fakes.values import gpu, job, node, up
from tests.screens.stage import LARGE, SMALL, stage
from tui.screens.job import JobScreen

EVIL = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m\x1bPq\x1b\\\u202egnp.exe\u2066\u200b\ufeff\ud800\x00\r\n\t"
    "[bold red]x[/] [@click=app.quit]y[/] $primary {x} \U0001f1e9\U0001f1ea\u0301\u0336日本"
)
ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def hostile() -> FakeCluster:
    """Evil in every text that the wire has."""
    process = GpuProcess(pid=1, user=EVIL, command=EVIL)
    gpus = (
        gpu(0, name=EVIL, job=1),
        gpu(1, state="hung", reason=EVIL, name=EVIL),
        gpu(2, processes=(process,), uuid=EVIL),
    )
    statuses = [
        up(node(EVIL, gpus, gpu_reason=EVIL, version=EVIL, mode=EVIL, stage=EVIL, driver_version=EVIL)),
        NodeStatus(name="lost" + EVIL, link=LinkState.LOST, age_s=99.0, reason=EVIL),
    ]
    texts: dict[str, Any] = {
        "name": EVIL,
        "user": EVIL,
        "reason": EVIL,
        "detail": EVIL,
        "work_dir": EVIL,
        "output_path": EVIL,
    }
    jobs = [job(1, node=EVIL, **texts), job(2, JobState.PENDING, node=EVIL, **texts), job(3, JobState.FAILED, **texts)]
    jobs.append(job(4, **texts))
    licence = Licence(
        stage=LicenceStage.RESTRICTED, code=EVIL, message=EVIL, fix=EVIL, customer=EVIL, plan=EVIL, licence_id=EVIL
    )
    cluster = FakeCluster(statuses, jobs, licence)
    cluster.logs["n1", 4] = (EVIL.replace("\ud800", "") + "\n").encode() * 3 + b"\xff\xfe\x9b2J\n" + b"\x1b[?1049l" * 9
    return cluster


def acting(lines: list[str]) -> list[str]:
    """The characters on a screen that a terminal would obey or hide."""
    return [char for line in lines for char in line if unicodedata.category(char) in ACTING]


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_screen_lets_anything_through(size: tuple[int, int]) -> None:
    async def run() -> None:
        async with stage(hostile(), size) as on:
            health = ("4", "o", "5", "s", "2 enter tab enter", "l", "escape i", "escape v")
            walks = ("1", "2", "j", "k enter", "escape 3", "j", "X", "n", "space X", "escape", "k k k enter")
            for keys in (*health, *walks):
                await on.press(*keys.split())
                lines = on.lines()
                assert acting(lines) == [], keys
                assert len(lines) == size[1] and any("owned" not in line for line in lines)
            assert isinstance(on.app.screen, JobScreen)

    asyncio.run(run())


def test_no_log_lets_anything_through() -> None:
    async def run() -> None:
        async with stage(hostile(), job=JobRef(id=4)) as on:
            await on.until(lambda: on.sees("[@click=app.quit]"), "the log's markup is shown and not read")
            on.cluster.follows[-1].push(LogChunk(offset=10_000_000, data=b"\x1b[6n\x1b]52;c;AAAA\x07tail"))
            await on.until(lambda: on.sees("tail"), "more of it")
            assert acting(on.lines()) == []

    asyncio.run(run())


def test_a_hostile_refusal_is_shown_and_obeyed_by_nobody() -> None:
    async def run() -> None:
        async with stage(hostile()) as on:
            on.cluster.refusal = ApiError(403, EVIL, EVIL, EVIL)
            await on.press("3", "X", "y")
            await on.until(lambda: on.sees("Cancel: refused"), "refused")
            assert acting(on.lines()) == []
            assert not on.app._exit

    asyncio.run(run())


def test_the_bytes_that_reach_a_terminal_hold_none_of_it() -> None:
    """Not only the text of the strips: what the compositor renders for a terminal."""

    async def run() -> str:
        async with stage(hostile(), LARGE) as on:
            await on.press("2")
            return on.app.export_screenshot()

    drawn = asyncio.run(run())
    assert "\x1b" not in drawn and "\x9b" not in drawn and "\u202e" not in drawn
