"""One of eight GPUs hangs, or is lost, for five minutes: what becomes of the others, of the API, of jobs and of memory.

The real agent in a process of its own, its sampler, and NVML calls on the stand-in library; a job on the sick GPU, one
on another. Each row is told for the hanging GPU and for the lost one. `STOKER_BENCH_HANG_S` makes it shorter.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from agent.api.client import Client
from agent.api.refs import JobRef
from agent.api.types import GpuState, Job, JobState, SubmitRequest
from tests.bench.table import Row
from tests.fakes.daemons import Box, box, wait_until
from tests.fakes.nvml import NvmlStandIn

GPUS, SICK = 8, 3
LASTS_S = float(os.environ.get("STOKER_BENCH_HANG_S", "300"))
SETTLE_S = 20.0
"""Before memory is looked at: buffers grow to their size within the first seconds."""
ASK_S = 0.05
"""Between two questions to the API."""
FAULTS = {"is well": "", "hangs": f"hang * gpu={SICK}", "is lost": f"fail * gpu={SICK} code=15"}
"""What grows while all are well is no fault's doing: accounts and curves of new jobs fill up."""


@dataclass
class Seen:
    """What was seen while it lasted."""

    named_s: float | None = None
    oldest_s: float = 0.0
    took_s: list[float] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Bytes of the agent and of its sampler, every 5 s."""
    samplers: set[int] = field(default_factory=set)
    ended: int = 0
    """Jobs that did not run on."""


def rows() -> list[Row]:
    """See the module."""
    found = []
    for words, fault in FAULTS.items():
        found += list(_rows(words, _watch(fault)))
    return found


def _watch(fault: str) -> Seen:
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        standin = NvmlStandIn(Path(folder), patch)
        usual = (f"gpus {GPUS}", "rings", *(f"process gpu={gpu} pid={gpu + 1} memory=1" for gpu in range(GPUS)))
        standin.write(f"gpus {GPUS}", "rings")
        lives = box(Path(folder) / "box", library=standin.library, history="days")  # as a node's is kept
        with lives as lab, lab.agent.client() as client:
            jobs = [_start(lab, client, number) for number in range(GPUS)]
            time.sleep(SETTLE_S)
            standin.write(*usual, fault)
            seen = _look(lab, client, time.monotonic())
            seen.ended = sum(client.job(JobRef(id=job.id)).state is not JobState.RUNNING for job in jobs)
            standin.write(*usual)
            wait_until(lambda: {gpu.state for gpu in client.node().gpus} == {GpuState.OK}, "it is well again")
            for job in jobs:
                client.cancel(JobRef(id=job.id))
            return seen


def _start(lab: Box, client: Client, number: int) -> Job:
    script = "#!/bin/sh\n#SBATCH --gpus=1\nsleep 3600\n"
    asked = SubmitRequest(
        script=script, script_name="job.sh", work_dir=str(lab.work_dir), env={"PATH": os.environ["PATH"]}
    )
    job = client.submit(asked, f"bench-{number}").job
    wait_until(lambda: client.job(JobRef(id=job.id)).state is JobState.RUNNING, "the job runs")
    return job


def _look(lab: Box, client: Client, begun: float) -> Seen:
    seen = Seen()
    look_at = begun + SETTLE_S
    while (now := time.monotonic()) < begun + LASTS_S:
        gpus = client.node().gpus
        seen.took_s.append(time.monotonic() - now)
        seen.oldest_s = max([seen.oldest_s, *(gpu.age_s for gpu in gpus if gpu.index != SICK)])
        if seen.named_s is None and any(gpu.index == SICK and gpu.state is not GpuState.OK for gpu in gpus):
            seen.named_s = time.monotonic() - begun
        if now >= look_at:
            look_at += 5
            agent = psutil.Process(lab.agent.pid)
            (sampler,) = (child for child in agent.children() if "sampler" in child.cmdline())
            seen.memory.append((agent.memory_info().rss, sampler.memory_info().rss))
            seen.samplers.add(sampler.pid)
        time.sleep(ASK_S)
    return seen


def _rows(words: str, seen: Seen) -> Iterator[Row]:
    took = sorted(seen.took_s)
    what = f"one of {GPUS} GPUs {words} for {LASTS_S:.0f} s"
    if seen.named_s is not None:
        yield Row(name=f"{what}: named after", value=seen.named_s, unit="s", aim="≤ 3")
    yield Row(
        name=f"{'…' if seen.named_s else what + ':'} oldest value of the others",
        value=seen.oldest_s,
        unit="s",
        aim="< 2",
    )
    p99 = took[int(len(took) * 0.99)] * 1e3
    spread = f"{took[0] * 1e3:.1f} – {took[-1] * 1e3:.1f}"
    yield Row(name=f"… GET /v1/node, p99 of {len(took)}", value=p99, unit="ms", aim="< 1000", spread=spread)
    for name, values in zip(("agent", "sampler"), zip(*seen.memory, strict=True), strict=True):
        first, middle, last = (values[number] / 2**20 for number in (0, len(values) // 2, -1))
        grown = f"{first:.1f} → {middle:.1f} → {last:.1f}"
        yield Row(
            name=f"… memory of the {name}, growth in the second half", value=last - middle, unit="MiB", spread=grown
        )
    yield Row(name="… sampler processes, in all", value=float(len(seen.samplers)), unit="", aim="1")
    yield Row(name=f"… of {GPUS} jobs, ended", value=float(seen.ended), unit="jobs", aim="0")
