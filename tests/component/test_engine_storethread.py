"""The job store's thread: writes that wait share a flush, and each answers for itself alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from agent.engine.folderflush import FolderFlush
from agent.engine.storethread import StoreThread
from agent.jobs import folder, ledger
from agent.jobs.errors import NoSuchJobError, StoreError
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore


class Thing(msgspec.Struct, frozen=True):
    """Something for the shelf."""

    number: int


def run(test: Callable[[StoreThread], Awaitable[None]], tmp_path: Path) -> None:
    async def opened() -> None:
        thread = StoreThread()
        await thread.open(tmp_path / "agent.db", now=1)
        try:
            async with asyncio.timeout(60):
                await test(thread)
        finally:
            await thread.close()

    asyncio.run(opened())


def put(store: JobStore, number: int) -> int:
    store.put("thing", number, Thing(number))
    return number


def take_in(store: JobStore, state_dir: Path, key: str) -> None:
    spec = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/")
    ledger.take_in(store, state_dir, spec, user="ada", uid=1, key=key, digest="d", now=5, env={}, script="#!/bin/sh\n")


@contextmanager
def busy(thread: StoreThread) -> Iterator[None]:
    """What is asked inside waits until the end of the block: so it is served together."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: JobStore) -> None:
        begun.set()
        go_on.wait(60)

    task = asyncio.ensure_future(thread.read(hold))
    try:
        yield
    finally:
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        task.add_done_callback(lambda done: done.result())


def test_writes_that_wait_share_one_flush_and_are_all_stored(tmp_path: Path) -> None:
    async def test(thread: StoreThread) -> None:
        commits: list[str] = []
        await thread.read(lambda store: store._connection.set_trace_callback(commits.append))
        with busy(thread):
            asked = [asyncio.ensure_future(thread.call(put, number)) for number in range(50)]
            await asyncio.sleep(0)
        assert await asyncio.gather(*asked) == list(range(50))
        assert commits.count("COMMIT") == 1
        assert not any(each.startswith("SAVEPOINT") for each in commits), "a part each only once one has failed"
        assert len(await thread.read(JobStore.all, "thing", Thing)) == 50

    run(test, tmp_path)


def test_one_that_fails_undoes_only_itself(tmp_path: Path) -> None:
    def fail(store: JobStore) -> None:
        put(store, 99)
        store.get(12345)

    async def test(thread: StoreThread) -> None:
        with busy(thread):
            before, bad, after = (
                asyncio.ensure_future(each) for each in (thread.call(put, 1), thread.call(fail), thread.call(put, 2))
            )
            await asyncio.sleep(0)
        assert (await before, await after) == (1, 2)
        with pytest.raises(NoSuchJobError):
            await bad
        assert set(await thread.read(JobStore.all, "thing", Thing)) == {"1", "2"}

    run(test, tmp_path)


def test_what_the_disk_refuses_is_told_to_who_asked_for_it_and_the_others_are_stored(tmp_path: Path) -> None:
    def refused(store: JobStore) -> None:
        put(store, 99)
        store._connection.execute("ROLLBACK")  # as SQLite does by itself after SQLITE_FULL or SQLITE_IOERR
        raise StoreError("the disk is full")

    async def test(thread: StoreThread) -> None:
        with busy(thread):
            asked = [
                asyncio.ensure_future(each) for each in (thread.call(put, 1), thread.call(refused), thread.call(put, 2))
            ]
            await asyncio.sleep(0)
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert told[0] == 1
        assert isinstance(told[1], StoreError)
        assert told[2] == 2
        assert set(await thread.read(JobStore.all, "thing", Thing)) == {"1", "2"}

    run(test, tmp_path)


def test_a_caller_that_goes_away_does_not_undo_what_it_asked_for(tmp_path: Path) -> None:
    async def test(thread: StoreThread) -> None:
        with busy(thread):
            asked = asyncio.ensure_future(thread.call(put, 7))
            await asyncio.sleep(0)
            asked.cancel()
        assert set(await thread.read(JobStore.all, "thing", Thing)) == {"7"}

    run(test, tmp_path)


def test_a_backup_is_made_beside_the_work_and_given_up_at_the_close(tmp_path: Path) -> None:
    async def test(thread: StoreThread) -> None:
        await thread.call(put, 1)
        assert await thread.back_up() == 0
        assert (tmp_path / "agent.db.backup").exists()

    run(test, tmp_path)


def test_submissions_are_brought_to_the_disk_beside_and_all_of_them_before_it_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    real = folder.flush

    def flush(folders: Sequence[Path]) -> None:
        assert threading.current_thread().name == "job-folders"
        flushed.extend(folders)
        real(folders)

    monkeypatch.setattr(folder, "flush", flush)

    async def test(thread: StoreThread) -> None:
        await asyncio.gather(*(thread.call(take_in, tmp_path, f"k{number}") for number in range(5)))

    run(test, tmp_path)
    assert sorted(each.name for each in flushed) == ["1", "2", "3", "4", "5"]


def test_a_folder_that_the_disk_refuses_stays_promised_and_takes_no_other_along(tmp_path: Path) -> None:
    """Refused for real: there is a folder where `spec` should be a file that can be read."""
    brought: list[str] = []
    flush = FolderFlush()
    for name in ("1", "2", "3", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec").write_text("{}")
        flush.put(tmp_path / name, partial(brought.append, name))
    (tmp_path / "2" / "spec").unlink()
    (tmp_path / "2" / "spec").symlink_to("/dev/null")
    shutil.rmtree(tmp_path / "gone")
    flush.start()
    flush.stop()
    assert brought == ["1", "3", "gone"], "whoever was forgotten since needs no flush"


@pytest.mark.parametrize(("what", "told"), [("2/spec", ["1", "3"]), ("2", ["1", "3"]), (".", [])])
def test_a_flush_that_failed_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, told: list[str]
) -> None:
    """As Linux does it: the disk's fault is told once, and the next fsync says that all is well."""
    brought: list[str] = []
    faulty, real = (tmp_path / what).resolve(), os.fsync
    told_of: list[Path] = []

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path == faulty and not told_of:
            told_of.append(path)
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    flush = FolderFlush()
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec").write_text("{}")
        flush.put(tmp_path / name, partial(brought.append, name))
    flush.start()
    flush.stop()
    assert told_of == [faulty]
    assert brought == told


def test_the_thread_of_the_folders_lives_on_whatever_becomes_of_one(tmp_path: Path) -> None:
    failed, brought = threading.Event(), threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("a fault of ours")

    flush = FolderFlush()
    flush.start()
    for name, done in (("1", fail), ("2", brought.set)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec").write_text("{}")
        flush.put(tmp_path / name, done)
        assert (failed if done is fail else brought).wait(30), name
    flush.stop()
