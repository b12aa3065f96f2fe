"""Puts the application on a stage of a fixed size before a cluster in memory, with its clock held still.

The tick is called by the test (`tick`), so nothing depends on when a timer fires. What arrives from the link thread is
waited for by its effect, with a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC

from textual.pilot import Pilot

from agent.api.refs import JobRef
from tests.fakes.cluster import FakeCluster
from tests.fakes.lab import lab
from tests.fakes.values import NOW
from tui.app import StokerApp
from tui.session import Clock

SMALL, LARGE = (80, 24), (160, 45)
DEADLINE_S = 60.0


@dataclass
class Hands:
    """The hands of the clock; a test moves them."""

    monotonic: float = 100.0
    wall: float = float(NOW)

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.monotonic, wall=lambda: self.wall, zone=UTC)


@dataclass
class Stage:
    """A running application."""

    app: StokerApp
    pilot: Pilot[None]
    hands: Hands
    cluster: FakeCluster

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Let the application run until something holds."""
        turns = int(DEADLINE_S / 0.02)
        for _ in range(turns):
            self.app.tick()
            if (screen := self.app.base_screen()) is not None:
                screen.update()  # as when a second has passed: these hands stand still
            await self.pilot.pause()
            if condition():
                return
            await self.pilot.pause(0.02)
        raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}\n" + "\n".join(self.lines()))

    async def press(self, *keys: str) -> None:
        """Press keys and let everything settle."""
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()
        await self.settle()

    async def settle(self) -> None:
        """Draw what is known, twice: the first drawing may change sizes that the second one needs."""
        for _ in range(2):
            self.app.tick()
            if (screen := self.app.base_screen()) is not None:
                screen.update()
            await self.pilot.pause()

    async def pass_seconds(self, seconds: float) -> None:
        """Move both hands on."""
        self.hands.monotonic += seconds
        self.hands.wall += seconds
        await self.settle()

    def lines(self) -> list[str]:
        """What is on the screen, line by line."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    def sees(self, text: str) -> bool:
        """Whether a text is on the screen."""
        return any(text in line for line in self.lines())

    @property
    def screen_name(self) -> str:
        return type(self.app.screen).__name__


@asynccontextmanager
async def stage(
    cluster: FakeCluster,
    size: tuple[int, int] = SMALL,
    *,
    theme: str = "dark",
    job: JobRef | None = None,
    connected: bool = True,
) -> AsyncIterator[Stage]:
    """Start the application before `cluster`; with `connected`, its full state has arrived."""
    hands = Hands()
    cluster.open.clear()  # the first second's point of the chart is taken before anything is known, always
    app = StokerApp(cluster.client, "memory", clock=hands.clock(), theme=theme, job=job)
    async with app.run_test(size=size, notifications=True) as pilot:
        made = Stage(app, pilot, hands, cluster)
        await made.settle()
        cluster.open.set()
        if connected:
            known = app.session.cluster
            await made.until(
                lambda: len(known.jobs()) == len(cluster.all_jobs) and known.wall(100.0) is not None,
                "the state is here",
            )
        await made.settle()
        yield made


def play(
    scene: Callable[[Stage], Awaitable[None]],
    cluster: FakeCluster | None = None,
    size: tuple[int, int] = SMALL,
    **options: object,
) -> FakeCluster:
    """Act a scene before a cluster."""
    before = cluster or lab()

    async def run() -> None:
        async with stage(before, size, **options) as on:  # type: ignore[arg-type]
            await scene(on)

    asyncio.run(run())
    return before
