"""The usage of a month on the screen: how to get there, other lists and months, and a server that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent.api.errors import ApiError
from agent.api.usage import UsageBy, UsageMonth, UsageSum
from tests.fakes.cluster import FakeCluster
from tests.fakes.licences import HOUR_MS, licence_lab
from tests.screens.stage import LARGE, SMALL, Stage, stage

Scene = Callable[[Stage], Awaitable[None]]


def act(scene: Scene, size: tuple[int, int] = SMALL, cluster: FakeCluster | None = None) -> None:
    async def run() -> None:
        async with stage(cluster or licence_lab(), size) as on:
            await scene(on)

    asyncio.run(run())


async def opened(on: Stage, *keys: str) -> None:
    await on.press(*keys)
    await on.until(lambda: on.sees("carol"), "the sums are here")


def test_it_is_reached_from_the_licence_and_from_anywhere_and_left_again() -> None:
    async def scene(on: Stage) -> None:
        await opened(on, "6", "u")
        assert on.screen_name == "UsageScreen"
        assert on.sees("941.6 GPU-hours on 3 nodes, by 5 users")
        assert on.sees("58.4 GPU-hours left")
        assert on.sees("gpu-b2 did not answer, and is not counted in")
        await on.press("escape")
        assert on.screen_name == "LicenceScreen"
        await opened(on, "3", "7")
        await on.press("7")
        await on.press("escape")
        assert on.screen_name == "JobsScreen", "opened once"

    act(scene)


def test_the_next_list_is_shown_where_there_is_room_for_one() -> None:
    async def scene(on: Stage) -> None:
        await opened(on, "7")
        assert not on.sees("vision")
        await on.press("s")
        assert on.sees("vision") and on.sees("(none)") and not on.sees("carol")
        await on.press("s")
        assert on.sees("NVIDIA H100 80GB HBM3")
        await on.press("s")
        assert on.sees("carol")

    act(scene)


def test_all_lists_are_shown_where_there_is_room() -> None:
    async def scene(on: Stage) -> None:
        await opened(on, "7")
        assert on.sees("vision") and on.sees("NVIDIA H100 80GB HBM3")
        await on.press("s", "slash", *"visi", "enter")
        assert on.sees("Accounts 1 of 3 with “visi”")

    act(scene, LARGE)


def test_other_months_are_asked_for_and_none_after_this_one() -> None:
    cluster = licence_lab()
    told = UsageMonth(
        month="2026-10", by=UsageBy.USER, nodes=("gpu-a1",), sums=(UsageSum(name="old", gpu_ms=HOUR_MS, jobs=1),)
    )
    cluster.the_usage["2026-10", UsageBy.USER] = told

    async def scene(on: Stage) -> None:
        await opened(on, "7")
        await on.press("l")
        assert on.sees("2026-11 (UTC), up to now")
        await on.press("h")
        await on.until(lambda: on.sees("1.00 GPU-hours on 1 node, by 1 user"), "the month before")
        assert on.sees("2026-10 (UTC)") and not on.sees("up to now") and not on.sees("carol")
        assert ("usage", ("2026-10", "account")) in on.cluster.calls
        await on.press("l")
        assert on.sees("carol")

    act(scene, cluster=cluster)


def test_a_server_that_refuses_is_quoted_and_what_came_before_stays() -> None:
    async def scene(on: Stage) -> None:
        await opened(on, "7")
        on.cluster.refusal = ApiError(503, "store", "the ledger cannot be read")
        await on.pass_seconds(31)
        await on.until(lambda: on.sees("not known now: the ledger cannot be read"), "the reason")
        assert on.sees("carol")
        on.cluster.refusal = ApiError(404, "not_found", "no such address")
        await on.pass_seconds(31)
        await on.until(lambda: on.sees("this server counts none"), "an older server")

    act(scene)


def test_a_name_from_outside_acts_on_nothing() -> None:
    cluster = licence_lab()
    evil = UsageMonth(month="2026-11", by=UsageBy.USER, sums=(UsageSum(name="carol\x1b[2J[red]", gpu_ms=9, jobs=1),))
    cluster.the_usage["2026-11", UsageBy.USER] = evil

    async def scene(on: Stage) -> None:
        await opened(on, "7")
        assert not any("\x1b" in line for line in on.lines())
        assert on.sees("[red]")

    act(scene, cluster=cluster)
