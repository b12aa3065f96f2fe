"""How the screens look, as plain text at the smallest size and at a large one.

After a wanted change: `STOKER_UPDATE_SNAPSHOTS=1 pytest tests/screens/test_snapshots.py`, and read the diff.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.cluster import FakeCluster
from tests.fakes.lab import health_lab, queue_lab
from tests.fakes.licences import licence_lab, moved_lab, spent_lab
from tests.screens.shots import (
    HEALTH_SHOTS,
    HELD_SHOTS,
    LICENCE_SHOTS,
    MOVED_SHOTS,
    QUEUE_SHOTS,
    SHOTS,
    licence,
    pictured_lab,
)
from tests.screens.stage import LARGE, SMALL, stage

FOLDER = Path(__file__).parent / "snapshots"
LABS = (
    (pictured_lab, SHOTS),
    (queue_lab, QUEUE_SHOTS),
    (health_lab, HEALTH_SHOTS),
    (licence_lab, LICENCE_SHOTS),
    (spent_lab, HELD_SHOTS),
    (moved_lab, MOVED_SHOTS),
)
ALL = {name: (lab, steps) for lab, shots in LABS for name, steps in shots.items()}
"""Name of a picture: before which cluster, and how to get there."""


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submit form shows files: a home with two of them."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.sh").write_text("#!/bin/sh\n")
    (work / "data").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(work)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", list(ALL))
def test_looks_as_before(name: str, size: tuple[int, int]) -> None:
    async def run() -> list[str]:
        lab, steps = ALL[name]
        async with stage(lab(), size) as on:
            await steps(on)
            return on.lines()

    lines = asyncio.run(run())
    file = FOLDER / f"{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("STOKER_UPDATE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert file.read_text(encoding="utf-8").splitlines() == lines
    assert len(lines) == size[1]


@pytest.mark.parametrize("held", [moved_lab, spent_lab])
def test_the_smallest_screen_says_what_is_held_since_when_what_works_and_what_to_run(
    held: Callable[[], FakeCluster],
) -> None:
    """Without scrolling, however long the reason is."""

    async def run() -> str:
        async with stage(held(), SMALL) as on:
            await licence(on)
            return " ".join(line.strip("│ ") for line in on.lines())

    said, told = asyncio.run(run()), held().the_licence
    assert told is not None
    for words in (
        f"RESTRICTED {told.code}",
        "new jobs wait in the queue with reason License since ",
        "; nothing else",
        "Running jobs go on to their end; login, monitoring, logs, export, drain, stop and every licence command work",
        f"{told.fix} ",
    ):
        assert words in re.sub(r"\s+", " ", said), words
