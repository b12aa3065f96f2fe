"""Resident memory of the daemons with eight simulated GPUs, after a few seconds of work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil

from agent.api.types import SubmitRequest
from tests.bench.table import Row
from tests.fakes.daemons import Box, box, wait_final

_MIB = 1024 * 1024


def rows() -> list[Row]:
    """Agent, sampler child and hub, MiB."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, box(Path(folder)) as made:
        _run_some_jobs(made)
        agent = psutil.Process(made.agent.pid)
        assert made.hub.process is not None
        hub = psutil.Process(made.hub.process.pid)
        children = [child for child in agent.children() if "sampler" in child.cmdline()]
        return [
            Row(name="agent RSS", value=agent.memory_info().rss / _MIB, unit="MiB", aim="≤ 60"),
            Row(
                name="sampler child RSS",
                value=sum(c.memory_info().rss for c in children) / _MIB,
                unit="MiB",
                aim="< 40",
            ),
            Row(name="hub RSS", value=hub.memory_info().rss / _MIB, unit="MiB", aim="≤ 60"),
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
