"""When the hub fetches usage: each minute from all, and nothing that goes wrong once ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.api.types import LinkState
from agent.hub.linkstate import Link
from agent.hub.metering import Metering

DEADLINE_S = 60.0


@dataclass
class Calls:
    """A node that counts how often it is asked, and has no rows."""

    asked: int = 0

    async def call(self, _: Callable[[Any], Any]) -> Any:
        self.asked += 1
        raise RuntimeError("the node answers nonsense")


@dataclass
class Member:
    name: str
    calls: Calls = field(default_factory=Calls)
    link: Link = field(default_factory=lambda: Link(0.0))

    def __post_init__(self) -> None:
        self.link.state = LinkState.UP


@dataclass
class Fleet:
    nodes: list[Member]

    def members(self) -> list[Member]:
        return self.nodes


class Seats:
    """Refuses in a way that nobody foresaw, and counts how often."""

    renewed: Callable[[str], None] | None = None
    failed = 0

    async def with_licence(self, _: Callable[[Any], Any]) -> Any:
        self.failed += 1
        raise ValueError("not foreseen")


async def _run(condition: Callable[[Seats, list[Member]], bool], renewing: str | None) -> None:
    nodes, seats = [Member("n1"), Member("n2")], Seats()
    metering = Metering(Fleet(nodes), seats, fetch_s=0.05)  # type: ignore[arg-type]
    metering.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition(seats, nodes):
                if renewing is not None:
                    assert seats.renewed is not None
                    seats.renewed(renewing)
                await asyncio.sleep(0.001)
    finally:
        await metering.stop()


def test_all_are_asked_though_one_takes_leases_all_the_time() -> None:
    asyncio.run(_run(lambda _, nodes: nodes[1].calls.asked >= 3, "n1"))


def test_an_unforeseen_fault_is_logged_and_the_next_round_comes() -> None:
    asyncio.run(_run(lambda seats, _: seats.failed >= 3, None))


class Licence:
    """Takes what it is told to forget."""

    def __init__(self) -> None:
        self.pruned: list[int] = []

    def usage_prune(self, now: int, kept_s: int) -> int:
        self.pruned.append(kept_s)
        return 0

    def __getattr__(self, _: str) -> Callable[..., list[object]]:
        return lambda *_: []


class Ready(Seats):
    """Hands the licence out."""

    def __init__(self) -> None:
        self.licence = Licence()

    async def with_licence(self, work: Callable[[Any], Any]) -> Any:
        return work(self.licence)

    def offer(self) -> None:
        """Nothing is offered here."""


@pytest.mark.parametrize(("kept_s", "wanted"), [(800 * 86_400, {800 * 86_400}), (None, set())])
def test_old_rows_are_forgotten_each_round_where_it_is_said_how_old(kept_s: int | None, wanted: set[int]) -> None:
    async def scene() -> set[int]:
        nodes, seats = [Member("n1")], Ready()
        metering = Metering(Fleet(nodes), seats, kept_s=kept_s, fetch_s=0.01)  # type: ignore[arg-type]
        metering.start()
        try:
            async with asyncio.timeout(DEADLINE_S):
                while nodes[0].calls.asked < 3:
                    await asyncio.sleep(0.001)
        finally:
            await metering.stop()
        return set(seats.licence.pruned)

    assert asyncio.run(scene()) == wanted
