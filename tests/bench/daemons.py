"""Memory of the daemons with eight simulated GPUs, new and idle, after twenty jobs, and after a restart.

RSS counts what processes share once for each; PSS gives each its part. Beside the agent stand its children: the sampler
and, where jobs are no units, the fork server.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import psutil

from agent.api.types import SubmitRequest
from tests.bench.table import Row, compiled_once
from tests.fakes.daemons import Box, box, wait_final

_SETTLE_S = 3.0
_IDLE_S = 20.0


def rows() -> list[Row]:
    """Agent, its children and hub."""
    with compiled_once(), tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        with box(Path(folder) / "first"):
            pass  # it compiles what the measured ones load
        with box(Path(folder) / "measured") as made:
            time.sleep(_SETTLE_S)
            found = _memory("agent, new and idle", made.agent.pid, 60)
            found += _idle_cpu(made.agent.pid)
            _run_some_jobs(made)
            found += _memory("agent after 20 jobs", made.agent.pid, 60)
            made.agent.stop()
            made.agent.start()
            time.sleep(_SETTLE_S)
            found += _memory("agent, started again", made.agent.pid, 60)
            for child in psutil.Process(made.agent.pid).children():
                is_sampler = "sampler" in child.cmdline()
                found += _memory("its sampler" if is_sampler else "its fork server", child.pid, 40 if is_sampler else 0)
            found += _memory("hub", made.hub.pid, 60)
    return found


def _memory(name: str, pid: int, aim_mb: int) -> list[Row]:
    held = psutil.Process(pid).memory_full_info()
    return [
        Row(name=f"{name}: RSS", value=held.rss / 1e6, unit="MB", aim=f"≤ {aim_mb}" if aim_mb else ""),
        Row(name=f"{name}: PSS", value=held.pss / 1e6, unit="MB"),
    ]


def _idle_cpu(agent: int) -> list[Row]:
    """What agent and sampler spend while nothing happens: eight GPUs a second, taken in, judged and kept."""
    pids = {"agent": agent, "its sampler": child_of(agent, "sampler")}
    before = {name: cpu_ms(pid) for name, pid in pids.items()}
    time.sleep(_IDLE_S)
    return [
        Row(
            name=f"{name}, idle, a second with five samples",
            value=(cpu_ms(pid) - before[name]) / _IDLE_S,
            unit="CPU ms",
        )
        for name, pid in pids.items()
    ]


def child_of(pid: int, word: str) -> int:
    """The child whose command has the word."""
    return next(each.pid for each in psutil.Process(pid).children() if word in each.cmdline())


def cpu_ms(pid: int) -> float:
    """Of all threads; schedstat counts nanoseconds, where stat counts ticks of 10 ms."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def _run_some_jobs(made: Box) -> None:
    body = SubmitRequest(
        script="#!/bin/sh\n#SBATCH --gpus=1 --output=/dev/null\ntrue\n",
        script_name="true.sh",
        work_dir=str(made.work_dir),
        env={"PATH": os.environ["PATH"]},
    )
    with made.hub.client() as client:
        ids = [client.submit(body, f"warm-{number}").job.id for number in range(20)]
        for job_id in ids:
            wait_final(client, job_id)
