"""Fault matrix rows 8, 9, 10, 17 and 29 as the queue's user sees them: what a run that was cut off is told as."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.api.types import Job, JobState
from agent.config import Config
from agent.engine import procs
from agent.engine.embedded import EmbeddedEngine
from agent.engine.found import Ended, recover
from agent.engine.launch import SHIM, ForkLauncher, shim_command
from agent.engine.records import AttemptDir, Started
from tests.component.test_shim_oom import HOG, MakeCgroup, make_cgroup  # noqa: F401 - a fixture
from tests.fakes.attempts import Bench, finish
from tests.fakes.engines import Gpus, begin, crash, ended, engine, exists, make_config, run, submit, until


@asynccontextmanager
async def booted(config: Config, boot_id: str) -> AsyncIterator[EmbeddedEngine]:
    """An engine on a machine that has booted anew."""
    made = EmbeddedEngine(config, view=Gpus(), launcher=ForkLauncher(), boot_id=boot_id)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def started(config: Config, job: Job) -> Started:
    record = AttemptDir(config.state_dir / "jobs" / str(job.id) / "1").read_started()
    assert record is not None
    return record


def cut_power(who: Started) -> None:
    """Shim and job are gone in one moment: the shim is stopped first, so that it can write nothing."""
    os.kill(who.shim_pid, signal.SIGSTOP)
    os.kill(who.job_pid, signal.SIGKILL)
    os.kill(who.shim_pid, signal.SIGKILL)


@pytest.mark.parametrize("agent_dies", [False, True], ids=["row_8", "row_9"])
def test_rows_8_and_9_a_job_whose_shim_is_killed_is_a_node_failure_and_nothing_of_it_is_left(
    tmp_path: Path, agent_dies: bool
) -> None:
    async def test() -> None:
        config, marker = make_config(tmp_path), f"6{os.getpid()}.{int(agent_dies)}"
        async with engine(config) as made:
            job = await begin(made, f"setsid sleep {marker} & sleep {marker}; exit 0", "--gpus=1")
            who = started(config, job)
            if agent_dies:
                await crash(made)
            assert procs.signal_exact(who.shim_pid, who.shim_start, signal.SIGKILL)
            if not agent_dies:
                _lost(await until(made, job.id, ended))
                assert made.held_by() == {}
        async with engine(config) as made:
            _lost(await until(made, job.id, ended))
            assert made.held_by() == {}
        assert subprocess.run(["pgrep", "-f", f"^sleep {marker}$"], capture_output=True).stdout == b""

    run(test)


def _lost(job: Job) -> None:
    assert (job.state, job.reason, job.exit_code) == (JobState.NODE_FAIL, "Lost", None)


@pytest.mark.parametrize("requeue", [False, True])
def test_row_10_after_a_reboot_only_who_asked_for_it_runs_again(tmp_path: Path, requeue: bool) -> None:
    async def test() -> None:
        config, marks = make_config(tmp_path), tmp_path / "marks"
        script = f"echo $JOB_ATTEMPT >> {marks}; [ $JOB_ATTEMPT = 2 ] || exec sleep 600"
        async with engine(config) as made:
            job = await begin(made, script, "--gpus=1", "--requeue" if requeue else "--no-requeue")
            await exists(marks)
            await crash(made)
            cut_power(started(config, job))
        async with booted(config, "the next boot") as made:
            after = await until(made, job.id, ended)
            if requeue:
                assert (after.state, after.attempt) == (JobState.COMPLETED, 2)
            else:
                assert (after.state, after.reason) == (JobState.NODE_FAIL, "NodeReboot")
        assert marks.read_text().split() == (["1", "2"] if requeue else ["1"])

    run(test)


class InCgroup(ForkLauncher):
    """Launches from within a memory cgroup, as a unit with MemoryMax would."""

    def __init__(self, cgroup: Path) -> None:
        super().__init__()
        self._cgroup = cgroup

    async def launch(self, job_id: int, attempt: AttemptDir) -> None:
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        command = ["/bin/sh", "-c", enter, str(self._cgroup), *shim_command(sys.executable), str(attempt.path)]
        child = await asyncio.create_subprocess_exec(*command)
        assert await child.wait() == 0


def test_row_17_a_job_out_of_memory_is_told_so_while_others_run_on(
    tmp_path: Path,
    make_cgroup: MakeCgroup,  # noqa: F811
) -> None:
    async def test() -> None:
        gate = tmp_path / "go"
        async with engine(make_config(tmp_path)) as made:
            other = await begin(made, f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 3")
        async with engine(make_config(tmp_path), launcher=InCgroup(make_cgroup("stoker-job-"))) as made:
            job = await submit(made, f"exec {sys.executable} -c '{HOG}'", "--gpus=1")
            after = await until(made, job.id, ended)
            assert (after.state, after.reason) == (JobState.OUT_OF_MEMORY, "OutOfMemory")
            assert (await made.job_counts())[JobState.RUNNING] == 1
            gate.touch()
            assert (await until(made, other.id, ended)).exit_code == 3

    run(test)


JUMPY_SHIM = """
import os, runpy, sys, time
real, offset, path = time.time, {offset}, {jump!r}
time.time = lambda: real() + (offset if os.path.exists(path) else 0)
sys.argv = [{shim!r}, {attempt!r}]
runpy.run_path({shim!r}, run_name="__main__")
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield Bench(tmp_path)


@pytest.mark.parametrize("offset_s", [86_400, -3600])
def test_row_29_a_time_limit_is_kept_through_a_jump_of_the_clock(bench: Bench, tmp_path: Path, offset_s: int) -> None:
    """The shim's `time.time` jumps once the job runs; the kernel's clock cannot be set for a test."""
    jump = tmp_path / "jump"
    attempt = bench.attempt(f"touch {jump}; trap '' TERM; while :; do sleep 0.05; done", time_limit_s=1, grace_s=0.3)
    code = JUMPY_SHIM.format(offset=offset_s, jump=str(jump), shim=str(SHIM), attempt=str(attempt.path))
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], env={}, start_new_session=True):
        pass
    record = finish(attempt)
    assert 1.2 <= time.monotonic() - began < 15
    assert (record.why, record.signal) == ("limit", signal.SIGKILL)
    assert 1.2 <= record.run_s < 10
    assert abs(record.ended_at - time.time() - offset_s) < 60, "it did jump"
    with contextlib.suppress(FileNotFoundError):
        jump.unlink()
    assert isinstance(recover(attempt, procs.boot_id()), Ended)
