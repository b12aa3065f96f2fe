"""500 trivial jobs through the real agent: submitted one by one on one connection, each a script that does nothing.

What a repeat leaves is deleted after the last one: for 5 s after a file is deleted ext4 does not use its inode again,
and steps over each such one whenever a file is made (`recently_deleted`): 3 ms of the 18 of a job in the next repeat.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from agent.api.client import Client
from agent.api.types import JobState, SubmitRequest
from tests.bench.table import Row, compiled_once, row_of
from tests.fakes.daemons import Box, box, wait_until

JOBS = 500
REPEATS = 3


def rows() -> list[Row]:
    """Jobs a second from the first submit to the last outcome, and the submits alone."""
    submits, totals, cpu_ms = [], [], []
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as name:
        for number in range(REPEATS):
            folder = Path(name, str(number))
            folder.mkdir()
            with box(folder, hub=True) as made:
                before_s = _cpu_s(made)
                submit_s, total_s = _five_hundred(made)
                submits.append(JOBS / submit_s)
                totals.append(JOBS / total_s)
                cpu_ms.append(1000 * (_cpu_s(made) - before_s) / JOBS)
    return [
        _row(f"{JOBS} trivial jobs, submitted and finished", totals, "≥ 100"),
        _row(f"{JOBS} submits alone, one connection, while jobs run", submits, ""),
        row_of("CPU of agent and fork server for one of them, without its shim", cpu_ms, "ms"),
        *_long_queue(),
    ]


def _cpu_s(made: Box) -> float:
    """CPU seconds of the agent and its fork server, of user and kernel."""
    agent = psutil.Process(made.agent.pid)
    parts = [agent, *(each for each in agent.children() if "--serve" in each.cmdline())]
    return sum(each.cpu_times().user + each.cpu_times().system for each in parts)


def _long_queue() -> list[Row]:
    """Ten thousand that wait: taken in at once, and what the agent then needs."""
    body = SubmitRequest(
        script="#!/bin/sh\n#SBATCH --gpus=8 --begin=now+1day --array=0-9999 --output=/dev/null\nexit 0\n",
        script_name="wait.sh",
        work_dir="/",
        env={"PATH": os.environ["PATH"]},
    )
    with (
        compiled_once(),
        tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder,
        box(Path(folder), hub=False) as made,
    ):
        agent = psutil.Process(made.agent.pid)
        with made.agent.client(timeout_s=60) as client:
            begin, before = time.perf_counter(), sum(agent.cpu_times()[:2])
            client.submit(body, "long")
            took_s, cpu_s = time.perf_counter() - begin, sum(agent.cpu_times()[:2]) - before
            page_ms = statistics.median(_page_ms(client) for _ in range(21))
        held = agent.memory_full_info()
    return [
        Row(name="10,000 jobs taken in by one submit", value=took_s, unit="s", aim="< 1"),
        Row(name="10,000 jobs taken in by one submit", value=cpu_s, unit="CPU s of the agent"),
        Row(name="a page of 100 of them", value=page_ms, unit="ms", aim="< 50"),
        Row(name="agent with 10,000 waiting: RSS", value=held.rss / 1e6, unit="MB", aim="≤ 150"),
        Row(name="agent with 10,000 waiting: PSS", value=held.pss / 1e6, unit="MB"),
    ]


def _page_ms(client: Client) -> float:
    begin = time.perf_counter()
    client.jobs(limit=100)
    return (time.perf_counter() - begin) * 1000


def _five_hundred(made: Box) -> tuple[float, float]:
    body = SubmitRequest(
        script="#!/bin/sh\n#SBATCH --gpus=1 --output=/dev/null\nexit 0\n",
        script_name="true.sh",
        work_dir=str(made.work_dir),
        env={"PATH": os.environ["PATH"]},
    )
    begin = time.perf_counter()
    with made.agent.client() as client:
        for number in range(JOBS):
            client.submit(body, f"bench-{number}")
        submitted = time.perf_counter() - begin
        open_ones = "PENDING,CONFIGURING,RUNNING,COMPLETING"
        wait_until(lambda: not client.jobs(state=open_ones, limit=1), "all have ended", 300)
        total = time.perf_counter() - begin
        done = client.jobs(state=JobState.COMPLETED, limit=JOBS)
    assert len(done) == JOBS, f"only {len(done)} of {JOBS} COMPLETED"
    return submitted, total


def _row(name: str, values: list[float], aim: str) -> Row:
    spread = f"{min(values):.3g} – {max(values):.3g}"
    return Row(name=name, value=statistics.median(values), unit="jobs/s", aim=aim, spread=spread)
