"""Fault matrix rows 22 to 24: the disk of the state folder is full or turns read-only, under an engine and an agent."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from agent.engine import procs
from agent.engine.records import AttemptDir
from tests.fakes.daemons import Box, DaemonError, activate_evaluation, wait_final, wait_until
from tests.fakes.disk import fill
from tests.fakes.engines import Gate, Gpus, begin, engine, look, make_config, run, submit

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
    if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
        pytest.skip("needs mkfs.ext4 and a loop device")
    folder, image = tmp_path / "state", tmp_path / "image"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


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
            with pytest.raises(ApiError, match=r"No space left|disk of the state folder is full") as caught:
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
        with pytest.raises(DaemonError, match=r"cannot use .*: .*; see whether the disk is full or read-only"):
            made.agent.start()
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
            async with asyncio.timeout(20):
                while (started := attempt.read_started()) is None or not (attempt.path / "log").stat().st_size:
                    await asyncio.sleep(0.02)
            break_down(ext4)
            try:
                with pytest.raises(ApiError, match="Read-only file system") as caught:
                    await submit(made, "true")
                assert caught.value.status == 503
                await gate.open()
                async with asyncio.timeout(20):
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


def test_row_24_an_agent_on_a_read_only_disk_says_so_and_changes_nothing(tmp_path: Path, ext4: Path) -> None:
    made = Box(tmp_path, gpus=1)
    try:
        made.agent.start()
        made.agent.stop()
        before = (ext4 / "agent.db").read_bytes()
        break_down(ext4)
        with pytest.raises(DaemonError, match=r"[Rr]ead-only"):
            made.agent.start()
        assert (ext4 / "agent.db").read_bytes() == before
        assert not list(ext4.glob("*.damaged-*")), "it is not taken for damage"
    finally:
        made.close()
