"""The textfile for node_exporter: whole or not at all, readable for all, and what cannot be written is said once."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from agent.telemetry import textfile as module
from agent.telemetry.textfile import Textfile, replace
from tests.fakes.disk import fill, tmpfs


def textfile(path: Path, text: str = "a 1\n") -> Textfile:
    async def page() -> str:
        return text

    return Textfile(path, 3600, page, "metrics.textfile")


def test_it_is_written_readable_for_all_and_gone_at_an_orderly_end(tmp_path: Path) -> None:
    path = tmp_path / "stoker.prom"
    (tmp_path / ".stoker.prom.abc.tmp").write_text("half")

    async def live() -> None:
        made = textfile(path)
        task = asyncio.create_task(made.serve())
        while not made.written_at:
            await asyncio.sleep(0)
        assert path.read_text() == "a 1\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert list(tmp_path.iterdir()) == [path], "what an earlier end left half written is gone"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    before = os.umask(0o077)
    try:
        asyncio.run(live())
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_an_orderly_end_overtakes_does_not_bring_the_file_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun, go_on, ended = tmp_path / "stoker.prom", threading.Event(), threading.Event(), threading.Event()

    def slow(where: Path, text: str) -> None:
        """A disk that takes its time."""
        begun.set()
        assert go_on.wait(60)
        replace(where, text)
        ended.set()

    monkeypatch.setattr(module, "replace", slow)

    async def live() -> None:
        task = asyncio.create_task(textfile(path).serve())
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)
        assert await asyncio.to_thread(ended.wait, 60)

    asyncio.run(live())
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, pages = tmp_path / "stoker.prom", {f"{letter * 200_000}\n" for letter in "ab"}
    replace(path, sorted(pages)[0])
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        for page in sorted(pages):
            replace(path, page)
    stop.set()
    reader.join()
    assert seen <= pages


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda folder: folder / "no" / "x.prom",
            "there is no folder {folder}/no: make it, or change metrics.textfile",
        ),
        (lambda folder: _put(folder / "file", "").joinpath("x.prom"), "{folder}/file is no folder"),
        (lambda folder: _make(folder / "x.prom"), "it is a folder: metrics.textfile has to name a file in it"),
        (
            lambda folder: _pipe(folder / "x.prom"),
            "a device, and not a plain file: metrics.textfile has to name a file",
        ),
    ],
)
def test_what_cannot_be_written_is_told_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, made: object, said: str
) -> None:
    path = made(tmp_path)  # type: ignore[operator]
    each = textfile(path)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            asyncio.run(each.write_once())
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"cannot write the metrics to {path}: ")
    assert said.format(folder=tmp_path) in caplog.messages[0]
    assert each.errors == 3
    assert not list(tmp_path.glob("**/.*.tmp"))


def test_what_is_no_plain_file_is_neither_replaced_nor_taken_away(tmp_path: Path) -> None:
    """As root `/dev/null` would be, for all programs of the machine."""
    path = _pipe(tmp_path / "x.prom")

    async def act() -> None:
        task = asyncio.create_task((each := textfile(path)).serve())
        async with asyncio.timeout(20):
            while not each.errors:
                await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(act())
    assert path.is_fifo()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk_keeps_the_old_page_and_is_told_again_when_it_has_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        path = disk / "stoker.prom"
        replace(path, "old 1\n")
        ballast = fill(disk)
        each = textfile(path, "new 1\n" * 20_000)
        with caplog.at_level(logging.INFO):
            asyncio.run(each.write_once())
            assert path.read_text() == "old 1\n"
            ballast.unlink()
            asyncio.run(each.write_once())
        assert path.read_text().startswith("new 1\n")
        assert [message.split(": ")[-1] for message in caplog.messages] == [
            "make room; it is tried again",
            f"the metrics are written to {path} again",
        ]
        assert list(disk.glob(".*.tmp")) == []


def _put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _make(path: Path) -> Path:
    path.mkdir()
    return path
