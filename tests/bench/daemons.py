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


def rows() -> list[Row]:
    """Agent, its children and hub."""
    with compiled_once(), tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        with box(Path(folder) / "first"):
            pass  # it compiles what the measured ones load
        with box(Path(folder) / "measured") as made:
            time.sleep(_SETTLE_S)
            found = _memory("agent, new and idle", made.agent.pid, 60)
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
