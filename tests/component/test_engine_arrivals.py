"""Records that come into a folder are heard of at once, and by time where the kernel gives no watch."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.engine.arrivals import Arrivals


def move_in(folder: Path, name: str) -> None:
    (folder / ".tmp").write_text("x")
    (folder / ".tmp").rename(folder / name)


@pytest.mark.parametrize("kernel", [True, False])
def test_a_file_renamed_into_a_watched_folder_sets_its_event_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    async def test() -> None:
        made = Arrivals()
        if kernel:
            made.start()
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        with made.of(one) as first, made.of(two) as second:
            move_in(one, "started")
            async with asyncio.timeout(60):
                await first.wait()
            if kernel:
                assert not second.is_set()
                (two / "written").write_text("no rename")
                first.clear()
                move_in(one, "exit")  # what came before it would have been heard before it
                async with asyncio.timeout(60):
                    await first.wait()
                assert not second.is_set()
        made.stop()

    asyncio.run(test())


def test_a_folder_watched_twice_is_heard_of_twice(tmp_path: Path) -> None:
    async def test() -> None:
        made = Arrivals()
        made.start()
        with made.of(tmp_path) as first, made.of(tmp_path) as second:
            move_in(tmp_path, "exit")
            async with asyncio.timeout(60):
                await first.wait()
                await second.wait()
        made.stop()

    asyncio.run(test())


def test_nothing_is_left_open(tmp_path: Path) -> None:
    async def test() -> None:
        made = Arrivals()
        made.start()
        with made.of(tmp_path):
            pass
        made.stop()

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asyncio.run(test())
    assert len(os.listdir("/proc/self/fd")) <= before + 1
