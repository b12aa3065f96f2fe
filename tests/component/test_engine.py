"""The embedded engine with its real store, shims and child processes; only the GPUs it is told of are made up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent import config as configuration
from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, Job, JobState, SubmitRequest
from agent.engine.accept import Resources
from agent.engine.base import Asker
from agent.engine.embedded import EmbeddedEngine
from agent.engine.launch import ForkLauncher, Launcher
from agent.jobs.filters import JobFilter
from agent.jobs.schedule import GpuFacts
from agent.jobs.store import JobStore
from agent.telemetry.host import read_boot_id

DEADLINE_S = 30.0


@dataclass
class Gpus:
    """A node's facts, as a test wants them."""

    count: int = 2
    cpu_count: int = 4
    memory_total_bytes: int = 2**34
    licence_hold: str | None = None
    ill: set[int] = field(default_factory=set)
    held: frozenset[str] = frozenset()

    def resources(self) -> Resources:
        facts = (
            GpuFacts(uuid=f"GPU-{i}", index=i, name="Test GPU", healthy=i not in self.ill) for i in range(self.count)
        )
        return Resources(
            gpus=tuple(facts),
            no_gpus="there is no driver" if not self.count else None,
            simulated=False,
            cpu_count=self.cpu_count,
            memory_total_bytes=self.memory_total_bytes,
            licence_hold=self.licence_hold,
        )

    def hold(self, uuids: Collection[str]) -> None:
        self.held = frozenset(uuids)


def make_config(tmp_path: Path, **jobs: int) -> configuration.Config:
    made = configuration.load(None, environ={"HOME": str(tmp_path)})
    return msgspec.structs.replace(
        made,
        state_dir=tmp_path / "state",
        allow_root_jobs=True,
        name="n1",
        jobs=msgspec.structs.replace(made.jobs, grace_s=1, **jobs),
    )


@asynccontextmanager
async def engine(
    config: configuration.Config, view: Gpus | None = None, launcher: Launcher | None = None
) -> AsyncIterator[EmbeddedEngine]:
    config.state_dir.mkdir(parents=True, exist_ok=True)
    made = EmbeddedEngine(config, view=view or Gpus(), launcher=launcher or ForkLauncher(), boot_id=read_boot_id())
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def submit(made: EmbeddedEngine, script: str, *flags: str, key: str | None = None) -> Job:
    request = SubmitRequest(
        script=f"#!/bin/sh\n{script}\n",
        script_name="job.sh",
        flags=("--output=/dev/null", *flags),
        work_dir="/",
        env={"PATH": os.environ["PATH"]},
    )
    job, _ = await made.submit(request, user="me", uid=os.geteuid(), key=key or f"key-{time.monotonic_ns()}")
    return job


def who(name: str = "me", *, admin: bool = True) -> Asker:
    return Asker(user=name, uid=os.geteuid(), admin=admin)


async def until(made: EmbeddedEngine, job_id: int, right: Callable[[Job], bool]) -> Job:
    """The job once it is as wanted: told by the engine, not asked for again and again."""
    told: asyncio.Queue[Job] = asyncio.Queue()
    made.listen(told.put_nowait)
    job = await made.job(JobRef(id=job_id))
    async with asyncio.timeout(DEADLINE_S):
        while not right(job):
            heard = await told.get()
            job = heard if heard.id == job_id else job
    return job


def ended(job: Job) -> bool:
    return job.state.is_final


def running(job: Job) -> bool:
    return job.state is JobState.RUNNING


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await test()

    asyncio.run(bounded())


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
            job = await submit(made, "exec sleep 600", "--gpus=1")
            await until(made, job.id, running)
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
            holder = await submit(made, f"read x < {gate}", "--gpus=2")
            await until(made, holder.id, running)
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


def fill(folder: Path) -> Path:
    """Take the last byte of the disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


def test_a_job_that_ends_on_a_full_disk_is_told_when_there_is_room_again(tmp_path: Path, small_disk: Path) -> None:
    async def test() -> None:
        gate = tmp_path / "go"
        os.mkfifo(gate)
        view = Gpus()
        async with engine(make_config(tmp_path), view) as made:
            job = await submit(made, f"read x < {gate}; exit 6", "--gpus=2")
            await until(made, job.id, running)
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
