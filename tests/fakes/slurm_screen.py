"""Slurm's commands before the jobs that a real Slurm was recorded with, at the moment of the recording."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.queue import JobStep
from agent.api.types import JobState, LinkState, NodeStatus
from tests.fakes.agent import node
from tests.fakes.slurm_queue import FakeQueue, job, serving
from tui.slurm import __main__ as slurm
from tui.slurm import ask
from tui.slurm import job as jobs_as

DATA = Path(__file__).parents[1] / "data" / "slurm"
SUBMITTED = 1_795_325_090
"""2026-11-22T05:24:50Z, when the recorded jobs were handed in."""
RUN: dict[str, Any] = {"started_at": SUBMITTED, "attempt": 1, "gpu_indexes": ()}


class Screen:
    """Runs commands against the fake queue at a fixed time."""

    def __init__(self, queue: FakeQueue, capsys: pytest.CaptureFixture[str]) -> None:
        self.queue = queue
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        code = slurm.main(["stoker-slurm", *words])
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def lines(self, *words: str) -> list[str]:
        code, out, err = self.run(*words)
        assert (code, err) == (0, "")
        return out.splitlines()


def recorded(name: str) -> list[str]:
    """The lines that Slurm printed."""
    return (DATA / f"{name}.txt").read_text().splitlines()[1:-1]


def host(**more: Any) -> NodeStatus:
    mebi = 2**20
    known = node(
        "n1", cpu_count=8, memory_total_bytes=20_000 * mebi, memory_available_bytes=21_997 * mebi, load_1m=0.48
    )
    return NodeStatus(name="n1", link=LinkState.UP, age_s=0.0, node=msgspec.structs.replace(known, **more))


def the_jobs() -> list[Any]:
    """The recorded jobs as the agent would tell them."""
    hour = 3600
    array: dict[str, Any] = {"array_job_id": 3, "array_text": "3-9%2", "priority": 56}
    waits: dict[str, Any] = {"reason": "JobArrayTaskLimit", **array}
    paths = [{"output_path": f"/home/alice/slurm-{name}.out"} for name in ("1", "2", "3_3", "3_4")]
    return [
        job(1, JobState.RUNNING, name="train", tasks=2, gpus=2, time_limit_s=600, comment="hi", priority=62,
            **RUN | paths[0]),
        job(2, JobState.RUNNING, gpus=1, time_limit_s=93_840, priority=56, **RUN | paths[1]),
        job(9, JobState.RUNNING, array_task_id=3, **array, **RUN | paths[2]),
        job(10, JobState.RUNNING, array_task_id=4, **array, **RUN | paths[3]),
        *(job(6 + task, array_task_id=task, **waits) for task in range(5, 10)),
        job(4, reason="Dependency", dependency="afterok:2(unfulfilled)", priority=56),
        job(5, name="averyverylongjobname", reason="JobHeldUser", held=True, nice=5, partition="short",
            time_limit_s=600, priority=0),
        job(6, reason="Resources", gpus=8, priority=56),
        job(7, reason="BeginTime", begin_at=SUBMITTED + hour, time_limit_s=hour, priority=56),
    ]  # fmt: skip


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Screen]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: SUBMITTED + 2.0)
    monkeypatch.setattr(jobs_as, "uid", lambda user: {"root": 0}.get(user, 1001))
    monkeypatch.setattr(jobs_as, "group", lambda user: (user, 1001))
    monkeypatch.setattr(ask, "me", lambda: "alice")
    queue = FakeQueue(the_jobs(), [host()])
    with tempfile.TemporaryDirectory(prefix="stk-") as folder, serving(queue, Path(folder) / "s") as path:
        monkeypatch.setenv("STOKER_SOCKET", str(path))
        yield Screen(queue, capsys)
    monkeypatch.undo()
    time.tzset()


def ended_jobs() -> list[Any]:
    """The jobs of the recorded `sacct -a -P`."""
    ended = {"started_at": SUBMITTED, "ended_at": SUBMITTED + 6, "attempt": 1}
    array: dict[str, Any] = {"array_job_id": 3, "array_text": "3-9%2"}
    cancelled = {"signal": 15, "detail": "cancelled by root", **ended}
    told: list[tuple[str, dict[str, Any]]] = [
        ("bash", {"exit_code": 0}), ("bash", {"exit_code": 1}), ("bash", {"signal": 15, "cancelled": True}),
        ("nope", {"exit_code": 2}), ("bash", {"signal": 9}), ("hostname", {"exit_code": 0}),
    ]  # fmt: skip
    steps = tuple(
        JobStep(id=number, name=name, tasks=2, cpus=2, started_at=SUBMITTED + 1.2, ended_at=SUBMITTED + 3.9, **end)
        for number, (name, end) in enumerate(told)
    )
    return [
        job(1, JobState.FAILED, name="train", tasks=2, gpus=2, exit_code=3, comment="hi", time_limit_s=600, priority=62,
            **ended),
        job(6, JobState.RUNNING, gpus=8, **RUN),
        job(11, JobState.FAILED, account="root", exit_code=1, ended_at=SUBMITTED, started_at=SUBMITTED, attempt=1),
        job(9, JobState.RUNNING, array_task_id=3, **array, **RUN),
        job(10, JobState.CANCELLED, array_task_id=4, **array, **cancelled),
        job(12, JobState.COMPLETED, tasks=2, exit_code=0, steps=steps, **ended),
    ]  # fmt: skip


def comparable(lines: list[str]) -> list[str]:
    """But for jobs of srun alone, which are none here."""
    of_srun = {"11.batch", "3_7", "3_7.batch"}
    return [line for line in lines if line.split("|")[0].split(" ")[0] not in of_srun]
