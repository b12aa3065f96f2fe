"""Fault matrix rows 22 to 24: the disk of the state folder is full or turns read-only, under an engine and an agent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.queue import DrainRequest, ReservationRequest
from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from agent.engine import procs
from agent.engine.records import AttemptDir
from tests.fakes import disk
from tests.fakes.daemons import Box, DaemonError, activate_evaluation, wait_final, wait_until
from tests.fakes.disk import fill
from tests.fakes.engines import Gate, Gpus, begin, ended, engine, look, make_config, run, submit, until, who

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state folder on a tmpfs of 6 MiB."""
    folder = tmp_path / "state"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A state folder on an ext4 of its own, which can be made to fail."""
    lacking = disk.why_no_ext4()
    if lacking is not None:
        pytest.skip(lacking)
    with disk.ext4(tmp_path / "state") as folder:
        yield folder


def break_down(folder: Path) -> None:
    """What the kernel does to an ext4 with `errors=remount-ro` on an error of the disk: read-only under open files."""
    subprocess.run(["mount", "-o", "remount,abort", str(folder)], check=True)


def request(script: str) -> SubmitRequest:
    return SubmitRequest(
        script=f"#!/bin/sh\n{script}\n",
        script_name="job.sh",
        flags=("--output=/dev/null",),
        work_dir="/",
        env={"PATH": os.environ["PATH"]},
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_row_23_an_agent_starts_on_a_full_disk_and_is_well_once_there_is_room(
    tmp_path: Path, small_disk: Path, number: int
) -> None:
    """It knows its jobs, takes up the running one, refuses new ones with the reason, and needs no second start."""
    made, gate = Box(tmp_path, gpus=1), tmp_path / "go"
    os.mkfifo(gate)
    try:
        made.agent.start()
        made.hub.start()
        activate_evaluation(made)
        with made.agent.client() as client:
            job = client.submit(request(f"read x < {gate}; exit 6"), "a").job
            wait_until(lambda: client.job(JobRef(id=job.id)).state is JobState.RUNNING, "the job runs")
        made.hub.stop()
        made.agent.kill(number)
        ballast = fill(small_disk)
        made.agent.start()
        with made.agent.client() as client:
            assert client.job(JobRef(id=job.id)).state is JobState.RUNNING
            with pytest.raises(
                ApiError, match=r"No space left.*; free or mend it|disk of the state folder is full"
            ) as caught:
                client.submit(request("true"), "b")
            assert (caught.value.status, caught.value.code) == (503, "not_stored")
            ballast.unlink()
            gate.write_text("\n")
            assert wait_final(client, job.id).exit_code == 6
            assert wait_final(client, client.submit(request("true"), "b").job.id).state is JobState.COMPLETED
    finally:
        made.close()


def test_row_23_a_first_start_on_a_full_disk_is_refused_with_the_reason(tmp_path: Path, small_disk: Path) -> None:
    """There is no queue to show yet; the service manager tries again."""
    made = Box(tmp_path, gpus=1)
    try:
        ballast = fill(small_disk)
        for _ in range(2):  # the second time there is an empty file, which the first one left
            with pytest.raises(DaemonError, match=r"cannot use .*: .*; see whether the disk is full or read-only"):
                made.agent.start()
            made.agent.log.unlink()
            (small_disk / "agent.db").touch()
        ballast.unlink()
        made.agent.start()
    finally:
        made.close()


def test_row_24_on_a_read_only_disk_reads_go_on_and_no_outcome_is_made_up(
    tmp_path: Path, ext4: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shim of a job that ends keeps the outcome until it can be written; that is never on an aborted ext4."""

    async def test() -> None:
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path), Gpus()) as made:
            job = await begin(made, f"echo early; {gate.script}; exit 6", "--gpus=2")
            attempt = AttemptDir(ext4 / "jobs" / str(job.id) / "1")
            async with asyncio.timeout(60):
                while (started := attempt.read_started()) is None or not (attempt.path / "log").stat().st_size:
                    await asyncio.sleep(0.02)
            break_down(ext4)
            try:
                with pytest.raises(ApiError, match="Read-only file system") as caught:
                    await submit(made, "true")
                assert caught.value.status == 503
                await gate.open()
                async with asyncio.timeout(60):
                    while procs.read_stat(started.job_pid) is not None:
                        await asyncio.sleep(0.02)
                now = await look(made, job.id)
                assert (now.state, now.exit_code) == (JobState.RUNNING, None), "not told before it is stored"
                log = await made.read_log(JobRef(id=job.id), 0, 100)
                assert b"".join(each.data for each in log.chunks) == b"early\n"
                assert [each.id for each in await made.recent(10)] == [job.id]
                assert procs.start_ticks(started.shim_pid) == started.shim_start, "it waits with the outcome"
            finally:
                procs.signal_exact(started.shim_pid, started.shim_start, signal.SIGKILL)

    run(test)
    said = [each.message for each in caplog.records if each.levelno >= logging.ERROR]
    assert any("Read-only file system" in each for each in said), "the alarm"


def seated(made: Box) -> None:
    """Agent and hub started, seats handed out, the hub stopped: its state is on the same disk."""
    made.agent.start()
    made.hub.start()
    activate_evaluation(made)
    made.hub.stop()


def refused(client: Client, why: str) -> None:
    """Whatever would write is refused with what failed, on what, and what to do."""
    asked: list[Callable[[], object]] = [
        lambda: client.submit(request("true"), "refused"),
        lambda: client.requeue(JobRef(id=1)),
        lambda: client.drain(DrainRequest(reason="x")),
        lambda: client.resume(DrainRequest()),
        lambda: client.reserve(ReservationRequest(duration="1:00", users=("ada",))),
    ]
    for ask in asked:
        with pytest.raises(
            ApiError, match=rf"agent\.db cannot be written: {why}; .*Make room on its disk or"
        ) as caught:
            ask()
        assert (caught.value.status, caught.value.code) == (503, "not_stored")


def tree(folder: Path) -> dict[str, bytes]:
    """All files as they are; `.probe` comes and goes."""
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file() and each.name != ".probe"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_row_24_an_agent_started_on_a_read_only_disk_serves_reads_and_recovers_without_a_restart(
    tmp_path: Path, ext4: Path, number: int
) -> None:
    """Also what only the -wal of a killed agent has is shown."""
    made = Box(tmp_path, gpus=1)
    try:
        seated(made)
        with made.agent.client() as client:
            done = client.submit(request("echo said"), "a").job
            wait_final(client, done.id)
            held = client.submit(msgspec.structs.replace(request("true"), flags=("--hold",)), "b").job
        made.agent.kill(number)
        subprocess.run(["mount", "-o", "remount,ro", str(ext4)], check=True)
        before = tree(ext4)
        made.agent.start()
        with made.agent.client() as client:
            assert client.job(JobRef(id=done.id)).state is JobState.COMPLETED
            assert [each.id for each in client.jobs()] == [held.id, done.id]
            assert client.log(JobRef(id=done.id), 0, None).data == b"said\n"
            assert [each.event for each in client.report(JobRef(id=done.id)).events][-1] == "Ended"
            assert client.job(JobRef(id=held.id)).held
            node = client.node()
            assert len(node.gpus) == 1
            assert node.drain is not None and "cannot be written: Read-only file system" in node.drain.reason
            refused(client, "Read-only file system")
            assert tree(ext4) == before, "nothing was touched"
            subprocess.run(["mount", "-o", "remount,rw", str(ext4)], check=True)
            wait_until(lambda: client.node().drain is None, "it has noticed")
            client.release(JobRef(id=held.id))
            assert wait_final(client, held.id).state is JobState.COMPLETED
            assert wait_final(client, client.submit(request("true"), "c").job.id).state is JobState.COMPLETED
        made.agent.stop()
        made.agent.start()
        with made.agent.client() as client:
            assert {each.id for each in client.jobs(state="COMPLETED")} == {1, 2, 3}
    finally:
        made.close()


def test_row_24_a_job_runs_on_under_an_agent_that_was_started_on_a_disk_that_failed(tmp_path: Path, ext4: Path) -> None:
    """Shown as it is stored; its outcome waits in its shim, and none is made up."""
    made, gate = Box(tmp_path, gpus=1), tmp_path / "go"
    os.mkfifo(gate)
    started = None
    try:
        seated(made)
        with made.agent.client() as client:
            job = client.submit(request(f"echo early; read x < {gate}; echo late; exit 6"), "a").job
            wait_until(lambda: client.log(JobRef(id=job.id), 0, None).data == b"early\n", "the job runs")
            wait_until(lambda: client.job(JobRef(id=job.id)).state is JobState.RUNNING, "that is stored")
        started = AttemptDir(ext4 / "jobs" / str(job.id) / "1").read_started()
        assert started is not None
        made.agent.kill()
        break_down(ext4)
        made.agent.start()
        with made.agent.client() as client:
            assert client.job(JobRef(id=job.id)).state is JobState.RUNNING
            assert client.log(JobRef(id=job.id), 0, None).data == b"early\n"
            with pytest.raises(ApiError, match="Read-only file system"):
                client.cancel(JobRef(id=job.id))
            assert procs.start_ticks(started.job_pid) == started.job_start, "left alone"
            gate.write_text("\n")
            wait_until(lambda: procs.read_stat(started.job_pid) is None, "the job has ended")
            assert client.job(JobRef(id=job.id)).state is JobState.RUNNING, "not told before it is stored"
            assert procs.start_ticks(started.shim_pid) == started.shim_start, "it waits with the outcome"
            wait_until(lambda: made.agent.process is not None and made.agent.process.poll() is None, "the agent lives")
    finally:
        if started is not None:
            procs.signal_exact(started.shim_pid, started.shim_start, signal.SIGKILL)
        made.close()


def test_row_24_an_agent_started_on_a_disk_without_room_for_a_file_serves_reads_and_recovers(
    tmp_path: Path, ext4: Path
) -> None:
    """ENOSPC at the open: there is no inode left for the -wal."""
    made = Box(tmp_path, gpus=1)
    try:
        seated(made)
        with made.agent.client() as client:
            done = client.submit(request("true"), "a").job
            wait_final(client, done.id)
        made.agent.stop()
        (crowd := ext4 / "crowd").mkdir()
        with contextlib.suppress(OSError):
            for number in range(100_000):
                (crowd / str(number)).touch()
        made.agent.start()
        with made.agent.client() as client:
            assert client.job(JobRef(id=done.id)).state is JobState.COMPLETED
            refused(client, "No space left on device")
            shutil.rmtree(crowd)
            wait_until(lambda: client.node().drain is None, "it has noticed")
            assert wait_final(client, client.submit(request("true"), "b").job.id).state is JobState.COMPLETED
    finally:
        made.close()


def test_row_24_a_damaged_database_on_a_read_only_disk_is_shown_from_its_backup_and_left_alone(
    tmp_path: Path, ext4: Path
) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config) as made:
            job = await submit(made, "true", "--hold")
            await made._core.store.back_up()
        path = ext4 / "agent.db"
        path.write_bytes(b"no database" * 1000)
        subprocess.run(["mount", "-o", "remount,ro", str(ext4)], check=True)
        async with engine(config) as made:
            assert (await look(made, job.id)).held
            with pytest.raises(ApiError, match="Read-only file system"):
                await submit(made, "true")
            assert path.read_bytes().startswith(b"no database")
            assert not list(ext4.glob("*.damaged-*"))
            subprocess.run(["mount", "-o", "remount,rw", str(ext4)], check=True)
            async with asyncio.timeout(60):
                while made.drains():
                    await asyncio.sleep(0.05)
            assert list(ext4.glob("*.damaged-*"))
            await made.release(JobRef(id=job.id), who())
            assert (await until(made, job.id, ended)).state is JobState.COMPLETED

    run(test)


def test_row_24_a_first_start_on_a_read_only_disk_is_refused_with_the_reason(tmp_path: Path, ext4: Path) -> None:
    """There is nothing to show."""
    made = Box(tmp_path, gpus=1)
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(ext4)], check=True)
        with pytest.raises(DaemonError, match=r"cannot use the state folder .*[Rr]ead-only"):
            made.agent.start()
    finally:
        made.close()
