"""submitit's own SlurmExecutor, unchanged, on our names: real agent, real jobs, real `srun` inside of them."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.api.types import JobState
from agent.engine.address import reachable
from agent.step import tools
from tests.fakes.daemons import Box, box, wait_final, wait_until

submitit = pytest.importorskip("submitit", reason="the test extra is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def machine() -> Iterator[Box]:
    """A box with an agent; its jobs import this file, so the checkout is on their path."""
    with tempfile.TemporaryDirectory(prefix="stk-sub-") as folder:
        names = Path(folder) / "bin"
        with box(Path(folder) / "box", gpus=4) as made, pytest.MonkeyPatch.context() as patch:
            tools.install(names, sys.executable)
            _as_outside(names)
            patch.setenv("PATH", f"{names}:{os.environ['PATH']}")
            patch.setenv("STOKER_SOCKET", str(made.agent.socket))
            patch.setenv("PYTHONPATH", str(ROOT))
            yield made


def _as_outside(names: Path) -> None:
    """Outside of a job `srun` and `scontrol` are the full program, as install.sh links them."""
    for name in ("srun", "scontrol"):
        (names / name).write_text(f'#!/bin/sh\nexec {sys.executable} -I -m tui.slurm {name} "$@"\n')


@pytest.fixture
def executor(machine: Box, tmp_path: Path) -> Any:
    made = submitit.SlurmExecutor(folder=tmp_path / "log")
    made.update_parameters(time=5, cpus_per_task=1, job_name="sub")
    submitit.SlurmJob.watcher.clear()
    return made


def double(number: int) -> int:
    return 2 * number


def ranks() -> tuple[int, int, str, str]:
    env = submitit.JobEnvironment()
    return env.global_rank, env.num_tasks, env.hostnames[0], os.environ["CUDA_VISIBLE_DEVICES"]


def fail() -> None:
    raise ValueError("a sentence that only this function says")


def sleep(path: str) -> None:
    Path(path).write_text("runs")
    time.sleep(300)


class Counter:
    """Counts how often it was started; the first time it waits to be preempted."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.starts = 0

    def __call__(self) -> int:
        self.starts += 1
        (self.folder / f"start-{self.starts}").write_text("runs")
        if self.starts == 1:
            time.sleep(300)
        return self.starts

    def checkpoint(self) -> Any:
        return submitit.helpers.DelayedSubmission(self)


def _ends_as(job: Any, state: str) -> bool:
    """The result is there a moment before the job has ended, for sacct too."""
    return wait_until(lambda: bool(job.get_info().get("State") == state), f"sacct tells of {job.job_id}: {state}")


def test_a_function_comes_back(executor: Any) -> None:
    job = executor.submit(double, 21)
    assert job.result() == 42
    assert _ends_as(job, "COMPLETED")
    assert job.state == "COMPLETED"
    assert "Job completed successfully" in job.stdout()
    assert executor.affinity() > 0


def test_an_array_comes_back(executor: Any) -> None:
    executor.update_parameters(array_parallelism=2)
    jobs = executor.map_array(double, [1, 2, 3, 4])
    assert [job.result() for job in jobs] == [2, 4, 6, 8]
    assert len({job.job_id.partition("_")[0] for job in jobs}) == 1
    assert all(_ends_as(job, "COMPLETED") for job in jobs)


def test_a_folder_that_is_named_by_the_job_is_made_in_time(machine: Box, tmp_path: Path) -> None:
    """submitit makes it once sbatch has told it the id: by then our job has begun."""
    named = submitit.SlurmExecutor(folder=tmp_path / "log" / "%j")
    named.update_parameters(time=5, cpus_per_task=1, array_parallelism=4)
    submitit.SlurmJob.watcher.clear()
    assert [job.result() for job in named.map_array(double, [1, 2, 3])] == [2, 4, 6]


def test_ranks_and_gpus(executor: Any, machine: Box) -> None:
    executor.update_parameters(ntasks_per_node=2, gpus_per_node=2, nodes=1)
    told = executor.submit(ranks).results()
    host = reachable(machine.name)  # which torch.distributed is given as its MASTER_ADDR
    assert [each[:3] for each in told] == [(0, 2, host), (1, 2, host)]
    assert all(len(each[3].split(",")) == 2 for each in told)


def test_a_failure_brings_its_traceback(executor: Any) -> None:
    job = executor.submit(fail)
    with pytest.raises(submitit.core.utils.FailedJobError, match="a sentence that only this function says"):
        job.result()
    assert "ValueError" in job.exception().args[0]
    assert _ends_as(job, "FAILED")


def test_cancelling(executor: Any, tmp_path: Path) -> None:
    job = executor.submit(sleep, str(tmp_path / "runs"))
    wait_until((tmp_path / "runs").exists, "it runs")
    wait_until(lambda: job.get_info().get("State") == "RUNNING", "sacct tells that it runs")
    job.cancel()
    wait_until(lambda: job.get_info().get("State", "").startswith("CANCELLED by "), "sacct tells that it was cancelled")
    assert job.done(force_check=True)


def test_a_preempted_job_saves_itself_and_goes_on(executor: Any, machine: Box, tmp_path: Path) -> None:
    job = executor.submit(Counter(str(tmp_path)))
    wait_until((tmp_path / "start-1").exists, "its first start")
    job._interrupt()
    wait_until((tmp_path / "start-2").exists, "its second start", 60)
    assert job.result() == 2
    with machine.agent.client() as client:
        stored = wait_final(client, int(job.job_id))
    assert (stored.state, stored.attempt) == (JobState.COMPLETED, 2)
