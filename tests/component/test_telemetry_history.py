"""The node's history behind its thread: real files, a folder that refuses, what outlives a stop."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.telemetry import history
from agent.telemetry.bucket import Spread
from agent.telemetry.history import History, Sample
from agent.telemetry.lookback import Lookback, look_back
from agent.telemetry.ringfile import Tier

METRICS = ("power_w", "temperature_c")
GPU = "GPU-0b1d2c3e-0000-1111-2222-333344445555"
SMALL = tuple(Tier(width_s=width, rows=256) for width in (1, 10, 60, 600))
T0 = 1_800_000_000


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[History]:
    made = History(folder, "boot-1", SMALL)
    made.start()
    try:
        yield made
    finally:
        await made.stop()


async def told(made: History, series: str = GPU, since: int = T0, until: int = T0 + 10) -> list[Spread | None]:
    found = await made.look_back(series, "power_w", since=since, until=until, points=until - since, now=until)
    return [] if found is None else found.spreads


async def until(made: History, holds: Sequence[Spread | None]) -> None:
    """The thread has no event for one sample: it is asked."""
    give_up = time.monotonic() + 60
    while await told(made) != holds:
        assert time.monotonic() < give_up, await told(made)
        await asyncio.sleep(0.005)


def test_what_is_noted_is_told_and_outlives_a_stop(tmp_path: Path) -> None:
    spread = (1.0, 2.0, 3.0)
    wanted = [spread if second in (2, 3) else None for second in range(10)]

    async def act() -> None:
        async with kept(tmp_path / "history") as made:
            for second in (2, 3):
                made.note([Sample(GPU, METRICS, T0 + second, (spread, None))])
            await until(made, wanted)
        async with kept(tmp_path / "history") as made:
            await until(made, wanted)
            assert made.series() == (GPU,)
            assert await made.look_back(GPU, "nonsense", since=T0, until=T0 + 1, points=1, now=T0) is None
            assert await told(made, "GPU-unknown") == []

    asyncio.run(act())


def test_a_name_that_is_no_file_name_is_not_kept(tmp_path: Path) -> None:
    async def act() -> None:
        async with kept(tmp_path / "history") as made:
            for name in ("../evil", "", ".hidden", "a/b", "a\0b", "x" * 200):
                made.note([Sample(name, METRICS, T0, (None, None))])
            made.note([Sample(GPU, METRICS, T0, ((1.0, 1.0, 1.0), None))])
            await until(made, [(1.0, 1.0, 1.0), *[None] * 9])
            assert made.series() == (GPU,)

    asyncio.run(act())
    assert sorted(path.name for path in tmp_path.rglob("*")) == [f"{GPU}.ring", "history"]


def test_a_folder_that_refuses_costs_the_history_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history").write_text("in the way")

    async def act() -> None:
        async with kept(tmp_path / "history") as made:
            for second in range(3):
                made.note([Sample(GPU, METRICS, T0 + second, ((1.0, 1.0, 1.0), None))])
            give_up = time.monotonic() + 60
            while made.problem is None and time.monotonic() < give_up:
                await asyncio.sleep(0.005)
            assert made.problem is not None
            assert await told(made) == []

    asyncio.run(act())
    assert len([record for record in caplog.records if "no history of" in record.message]) == 1


def test_a_disk_that_hangs_holds_up_nobody_and_what_is_too_much_is_counted(tmp_path: Path) -> None:
    """Simulated: the file is a FIFO that nobody reads, at whose opening the thread hangs as at a dead disk."""
    (tmp_path / "history").mkdir()
    os.mkfifo(tmp_path / "history" / f"{GPU}.ring")

    async def act() -> None:
        made = History(tmp_path / "history", "boot-1", SMALL)
        made.start()
        began = time.monotonic()
        for second in range(5000):
            made.note([Sample(GPU, METRICS, T0 + second, (None, None))])
        assert time.monotonic() - began < 15
        assert made.dropped >= 5000 - 4096
        await made.stop()
        assert time.monotonic() - began < 30

    asyncio.run(act())


def test_files_of_gpus_long_gone_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "FILES_KEPT", 2)

    async def act() -> None:
        for age, name in enumerate(("GPU-a", "GPU-b", "GPU-c")):
            async with kept(tmp_path / "history") as made:
                made.note([Sample(name, METRICS, T0, (None, None))])
            os.utime(tmp_path / "history" / f"{name}.ring", (T0 + age, T0 + age))
        async with kept(tmp_path / "history"):
            pass

    asyncio.run(act())
    assert sorted(path.stem for path in (tmp_path / "history").iterdir()) == ["GPU-b", "GPU-c"]


def test_files_make_room_while_the_agent_runs_but_not_those_of_gpus_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "FILES_KEPT", 2)
    folder = tmp_path / "history"

    async def act() -> None:
        async with kept(folder) as made:
            for name in ("GPU-a", "GPU-b", "GPU-c"):
                made.note([Sample(name, METRICS, T0, ((1.0, 1.0, 1.0), None))])
            made.note([Sample(GPU, METRICS, T0, ((1.0, 1.0, 1.0), None))])
            await until(made, [(1.0, 1.0, 1.0), *[None] * 9])
            assert len(made.series()) == 4, "all are there"
            monkeypatch.setattr(history, "_THERE_S", -1.0)
            made.note([Sample("GPU-d", METRICS, T0, ((1.0, 1.0, 1.0), None))])
            give_up = time.monotonic() + 60
            while "GPU-d" not in made.series() or len(made.series()) > 2:
                assert time.monotonic() < give_up
                await asyncio.sleep(0.005)

    asyncio.run(act())
    assert len(found := sorted(path.stem for path in folder.iterdir())) == 2
    assert "GPU-d" in found


def test_who_looks_back_while_the_file_is_closed_never_reads_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> list[object]:
        made, closed = History(tmp_path / "history", "boot-1", SMALL), threading.Event()
        made.start()
        made.note([Sample(GPU, METRICS, T0, ((1.0, 1.0, 1.0), None))])
        await until(made, [(1.0, 1.0, 1.0), *[None] * 9])
        begun, look = threading.Event(), look_back

        def late(*given: Any, **more: Any) -> Lookback:
            begun.set()
            assert closed.wait(60)
            return look(*given, **more)

        monkeypatch.setattr(history, "look_back", late)
        asked = asyncio.create_task(told(made))
        assert await asyncio.to_thread(begun.wait, 60)
        await made.stop()
        others = [os.open("/dev/zero", os.O_RDONLY) for _ in range(64)]  # takes every number that became free
        closed.set()
        try:
            return list(await asked)
        finally:
            for each in others:
                os.close(each)

    assert asyncio.run(act()) == []


def test_a_file_that_cannot_be_read_costs_its_own_past_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "history"
    folder.mkdir()
    (folder / "GPU-elsewhere.ring").symlink_to(tmp_path / "other")  # not followed: ELOOP, as EIO of a bad sector
    (folder / "GPU-folder.ring").mkdir()

    async def act() -> None:
        async with kept(folder) as made:
            made.note([Sample(GPU, METRICS, T0, ((1.0, 1.0, 1.0), None))])
            await until(made, [(1.0, 1.0, 1.0), *[None] * 9])
            assert made.series() == (GPU,)

    asyncio.run(act())
    told_of = [record.message for record in caplog.records if "cannot read the history" in record.message]
    assert [name for name in ("GPU-elsewhere", "GPU-folder") if any(name in line for line in told_of)] == [
        "GPU-elsewhere",
        "GPU-folder",
    ]
