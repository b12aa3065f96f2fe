"""The embedded engine with its real store, shims and child processes; only the GPUs it is told of are made up."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, JobState
from agent.engine.launch import ForkLauncher
from agent.jobs.filters import JobFilter
from agent.jobs.store import JobStore
from tests.fakes.disk import fill
from tests.fakes.engines import Gpus, begin, ended, engine, make_config, run, running, submit, until, who


def test_a_launch_that_fails_fails_the_job_with_the_reason_and_frees_its_gpus(tmp_path: Path) -> None:
    async def test() -> None:
        view = Gpus()
        async with engine(make_config(tmp_path), view, ForkLauncher(python="/nowhere/python")) as made:
            job = await until(made, (await submit(made, "true", "--gpus=2")).id, ended)
            assert (job.state, job.reason) == (JobState.FAILED, "JobLaunchFailure")
            assert "/nowhere/python" in (job.detail or "")
            assert view.held == frozenset()
            assert made.held_by() == {}

    run(test)


def test_a_job_claimed_before_a_crash_and_never_launched_runs_once(tmp_path: Path) -> None:
    async def test() -> None:
        config, marks = make_config(tmp_path), tmp_path / "marks"
        view = Gpus(licence_hold="not yet")
        async with engine(config, view) as made:
            job = await submit(made, f"echo $SLURM_RESTART_COUNT >> {marks}", "--gpus=1")
        store = JobStore.open(config.state_dir / "agent.db", now=1)
        store.claim(job.id, attempt=1, gpu_uuids=["GPU-1"], now=1)  # the crash is between this and the claim file
        store.close()
        async with engine(config, view) as made:
            after = await until(made, job.id, ended)
        assert (after.state, after.attempt, after.gpu_uuids) == (JobState.COMPLETED, 1, ("GPU-1",))
        assert marks.read_text() == "0\n"

    run(test)


def test_a_cancel_stored_before_a_crash_is_carried_out_after_it(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config) as made:
            job = await begin(made, "exec sleep 600", "--gpus=1")
        store = JobStore.open(config.state_dir / "agent.db", now=1)
        from agent.jobs.machine import CancelAsked

        store.apply(job.id, CancelAsked(by="ada", reason="enough"), 1)  # the crash is before the shim is told
        store.close()
        async with engine(config) as made:
            after = await until(made, job.id, ended)
        assert after.state is JobState.CANCELLED
        assert "ada" in (after.detail or "")
        assert "enough" in (after.detail or "")

    run(test)


def test_cancelling_a_waiting_job_a_second_time_or_an_ended_one_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true")
            first = await made.cancel(JobRef(id=job.id), who("ada"), CancelRequest())
            second = await made.cancel(JobRef(id=job.id), who("bob"), CancelRequest())
            assert first.state is JobState.CANCELLED
            assert second == first
            with pytest.raises(ApiError, match="no job 99") as caught:
                await made.cancel(JobRef(id=99), who("ada"), CancelRequest())
            assert caught.value.status == 404

    run(test)


def test_the_queue_says_why_and_moves_on_when_gpus_come_free(tmp_path: Path) -> None:
    async def test() -> None:
        gate = tmp_path / "go"
        os.mkfifo(gate)
        view = Gpus()
        async with engine(make_config(tmp_path), view) as made:
            await begin(made, f"read x < {gate}", "--gpus=2")
            head = await submit(made, "true", "--gpus=2")
            behind = await submit(made, "true", "--gpus=2")
            told = await until(made, behind.id, lambda job: job.reason is not None)
            assert told.reason == "Priority"
            assert f"job {head.id}" in (told.detail or "")
            assert (await made.job(JobRef(id=head.id))).reason == "Resources"
            assert made.counts() == (1, 2)
            assert view.held == {"GPU-0", "GPU-1"}
            await asyncio.to_thread(gate.write_text, "\n")
            assert (await until(made, behind.id, ended)).state is JobState.COMPLETED
            assert (await made.job(JobRef(id=head.id))).state is JobState.COMPLETED
            assert view.held == frozenset()

    run(test)


def test_an_ill_gpu_is_not_given_out(tmp_path: Path) -> None:
    async def test() -> None:
        view = Gpus(ill={0})
        async with engine(make_config(tmp_path), view) as made:
            one = await until(made, (await submit(made, "true", "--gpus=1")).id, ended)
            assert one.gpu_uuids == ("GPU-1",)
            both = await submit(made, "true", "--gpus=2")
            waiting = await until(made, both.id, lambda job: job.reason is not None)
            assert waiting.reason == "ReqNodeNotAvail"
            view.ill.clear()
            made.wake()
            assert (await until(made, both.id, ended)).state is JobState.COMPLETED

    run(test)


@pytest.mark.parametrize(
    ("view", "flags", "code", "says"),
    [
        (Gpus(count=8), ["--gpus=9"], "cannot_run", "asks for 9 GPUs; n1 has 8"),
        (Gpus(count=0), ["--gpus=1"], "cannot_run", "n1 has none (there is no driver)"),
        (Gpus(cpu_count=2), ["-c", "3"], "cannot_run", "asks for 3 CPUs; n1 has 2"),
        (Gpus(), ["--mem=1T"], "cannot_run", "asks for 1,024.0 GiB of memory; n1 has 16.0 GiB"),
        (Gpus(), ["--gpus=h100:1"], "cannot_run", "Test GPU"),
        (Gpus(), ["--tiem=3"], "bad_option", "--time"),
    ],
)
def test_what_no_waiting_helps_is_refused_at_submit(
    tmp_path: Path, view: Gpus, flags: list[str], code: str, says: str
) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), view) as made:
            with pytest.raises(ApiError) as caught:
                await submit(made, "true", *flags)
            assert (caught.value.status, caught.value.code) == (400, code)
            assert says in caught.value.message
            assert await made.jobs(JobFilter(limit=10)) == []

    run(test)


def test_a_limit_that_is_not_enforced_is_said_so(tmp_path: Path) -> None:
    async def test() -> None:
        gate = tmp_path / "go"
        os.mkfifo(gate)
        async with engine(make_config(tmp_path)) as made:
            job = await until(made, (await submit(made, f"read x < {gate}", "--mem=1G")).id, running)
            assert "--mem is not enforced on this node" in (job.detail or "")
            await asyncio.to_thread(gate.write_text, "\n")
            assert (await until(made, job.id, ended)).detail is None
            both = await until(made, (await submit(made, f"read x < {gate}", "--mem=1G", "-c2")).id, running)
            assert "--mem and -c are not enforced on this node" in (both.detail or "")
            await asyncio.to_thread(gate.write_text, "\n")
            await until(made, both.id, ended)

    run(test)


def test_a_full_queue_refuses_and_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path, max_pending=2), Gpus(licence_hold="not yet")) as made:
            await submit(made, "true")
            kept = await submit(made, "true", key="mine")
            with pytest.raises(ApiError, match=r"jobs\.max_pending") as caught:
                await submit(made, "true")
            assert caught.value.status == 429
            assert (await submit(made, "true", key="mine")).id == kept.id, "a retry is no new job"

    run(test)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state folder on a file system of 6 MiB."""
    folder = tmp_path / "state"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root, to mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_job_that_ends_on_a_full_disk_is_told_when_there_is_room_again(tmp_path: Path, small_disk: Path) -> None:
    async def test() -> None:
        gate = tmp_path / "go"
        os.mkfifo(gate)
        view = Gpus()
        async with engine(make_config(tmp_path), view) as made:
            job = await begin(made, f"read x < {gate}; exit 6", "--gpus=2")
            ballast = fill(small_disk)
            await asyncio.to_thread(gate.write_text, "\n")
            with pytest.raises(ApiError) as caught:
                await submit(made, "true")
            assert caught.value.status == 503
            assert (await made.job(JobRef(id=job.id))).id == job.id, "reading goes on"
            ballast.unlink()
            assert (await until(made, job.id, ended)).exit_code == 6
            assert view.held == frozenset()
            assert (await until(made, (await submit(made, "true")).id, ended)).state is JobState.COMPLETED

    run(test)


def test_a_job_whose_turn_comes_on_a_full_disk_runs_when_there_is_room_again(tmp_path: Path, small_disk: Path) -> None:
    async def test() -> None:
        view = Gpus(licence_hold="not yet")
        async with engine(make_config(tmp_path), view) as made:
            job = await submit(made, "true", "--gpus=1")
            cancelled = await submit(made, "true", "--gpus=1")
            ballast = fill(small_disk)
            view.licence_hold = None
            made.wake()
            with pytest.raises(ApiError) as caught:
                await made.cancel(JobRef(id=cancelled.id), who("ada"), CancelRequest())
            assert caught.value.status == 503
            ballast.unlink()
            made.wake()
            assert (await until(made, job.id, ended)).state is JobState.COMPLETED
            assert (await until(made, cancelled.id, ended)).state is JobState.COMPLETED, "a refused cancel is none"

    run(test)
