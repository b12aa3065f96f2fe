"""The agent is killed while it works, and nothing is lost, doubled or mistold. Fault matrix rows 1–6, 13, 14, 44."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.api.client import Client
from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from tests.fakes.daemons import Box, box, wait_final, wait_until
from tests.fakes.ordeal import Ordeal


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def request(script: str, work_dir: Path, *flags: str, name: str = "job.sh") -> SubmitRequest:
    return SubmitRequest(
        script=script, script_name=name, flags=flags, work_dir=str(work_dir), env={"PATH": os.environ["PATH"]}
    )


def processes_of(marker: str) -> list[int]:
    """Living processes that carry `marker` in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and (
                marker in " ".join(process.cmdline()) or marker in process.environ().values()
            ):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_a_hundred_jobs_while_the_agent_is_killed_at_random(lab: Box) -> None:
    """Rows 1 to 5, 43: nothing is lost, run twice, mistold, or torn in its log."""
    found = Ordeal(lab, jobs=100, seed=20260101).run(least_kills=5, pause_s=(0.05, 1.2), deadline_s=50)
    assert found.kills >= 5
    assert found.jobs == 100
    assert not found.faults, found.faults[:3]


def test_a_running_job_outlives_the_agent_with_code_and_whole_log(lab: Box) -> None:
    gate = lab.root / "go"
    os.mkfifo(gate)
    script = f"#!/bin/sh\n#SBATCH --gpus=2\necho before\nread word < {gate}\necho after $word\nexit 7\n"
    with lab.agent.client() as client:
        job = client.submit(request(script, lab.work_dir), "k").job
        wait_until(lambda: _in_state(client, job.id, JobState.RUNNING), "the job runs")
        held = client.job(JobRef(id=job.id)).gpu_uuids
    lab.agent.kill()
    gate.write_text("alone\n")
    lab.agent.start()
    with lab.agent.client() as client:
        ended = wait_final(client, job.id)
        log = client.log(JobRef(id=job.id), 0, None).data
    assert (ended.state, ended.exit_code) == (JobState.FAILED, 7)
    assert ended.gpu_uuids == held
    assert len(held) == 2
    assert log == b"before\nafter alone\n"


def test_a_job_that_daemonises_leaves_nothing_after_cancel(lab: Box) -> None:
    marker = f"stray-{os.getpid()}-{time.monotonic_ns()}"
    stray = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "time.sleep(600)\n"
    )
    script = (
        f"#!/bin/sh\n#SBATCH --gpus=1\nfor i in 1 2 3; do {sys.executable} -c '{stray}' {marker}; done\n"
        f"env -i setsid {sys.executable} -c '{stray}' {marker}\necho started\nsleep 600 # {marker}\n"
    )
    with lab.agent.client() as client:
        job = client.submit(request(script, lab.work_dir), "k").job
        wait_until(lambda: b"started" in client.log(JobRef(id=job.id), 0, None).data, "the job has its strays")
        assert len(processes_of(marker)) >= 4
        client.cancel(JobRef(id=job.id))
        ended = wait_final(client, job.id)
    assert ended.state is JobState.CANCELLED
    assert processes_of(marker) == []


def test_a_cancel_survives_the_agents_death(lab: Box) -> None:
    script = "#!/bin/sh\n#SBATCH --gpus=1\ntrap '' TERM\necho up\nwhile :; do sleep 0.2; done\n"
    with lab.agent.client() as client:
        job = client.submit(request(script, lab.work_dir), "k").job
        wait_until(lambda: b"up" in client.log(JobRef(id=job.id), 0, None).data, "the job runs")
        client.cancel(JobRef(id=job.id))
    lab.agent.kill()
    lab.agent.start()
    with lab.agent.client() as client:
        assert wait_final(client, job.id).state is JobState.CANCELLED


def test_a_second_agent_on_the_same_state_is_refused_by_name(lab: Box) -> None:
    entry = "import sys; from agent.__main__ import agent_main as main; sys.exit(main())"
    second = subprocess.run(
        [sys.executable, "-c", entry, "run", "--config", str(lab.config)], capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 1
    assert f"pid {lab.agent.pid}" in second.stderr


def test_sigterm_stops_the_agent_and_not_the_job(lab: Box) -> None:
    gate = lab.root / "go"
    os.mkfifo(gate)
    with lab.agent.client() as client:
        job = client.submit(request(f"#!/bin/sh\nread x < {gate}\n", lab.work_dir), "k").job
        wait_until(lambda: _in_state(client, job.id, JobState.RUNNING), "the job runs")
    lab.agent.kill(signal.SIGTERM)
    lab.agent.start()
    gate.write_text("\n")
    with lab.agent.client() as client:
        assert wait_final(client, job.id).state is JobState.COMPLETED


def _in_state(client: Client, job_id: int, state: JobState) -> bool:
    return client.job(JobRef(id=job_id)).state is state
