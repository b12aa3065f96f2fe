"""The job store is damaged or gone while the agent is down: the job folders bring the queue back. Rows 25 and 26."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from tests.fakes.daemons import Box, box, wait_final, wait_until


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path, gpus=2) as made:
        yield made


def submit(client: Client, lab: Box, script: str, key: str, *flags: str) -> int:
    request = SubmitRequest(
        script=f"#!/bin/sh\n{script}\n",
        script_name="job.sh",
        flags=flags,
        work_dir=str(lab.work_dir),
        env={"PATH": os.environ["PATH"]},
    )
    return client.submit(request, key).job.id


def zero_length(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def torn_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(data)


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [zero_length, garbage, torn_page, gone])
def test_the_queue_and_its_history_come_back(lab: Box, damage: Callable[[Path], None]) -> None:
    gate = lab.root / "go"
    os.mkfifo(gate)
    with lab.agent.client() as client:
        done = submit(client, lab, "exit 3", "done", "--gpus=1")
        wait_final(client, done)
        running = submit(client, lab, f"read x < {gate}; exit 5", "running", "--gpus=2")
        wait_until(lambda: client.job(JobRef(id=running)).state is JobState.RUNNING, "it runs")
        waiting = submit(client, lab, "exit 0", "waiting", "--gpus=2")
        cancelled = submit(client, lab, "exit 0", "cancelled", "--gpus=1")
        client.cancel(JobRef(id=cancelled))
        held = client.job(JobRef(id=running)).gpu_uuids
    lab.agent.kill()
    for side in ("-wal", "-shm", "-journal"):
        lab.state_dir.joinpath(f"agent.db{side}").unlink(missing_ok=True)
    damage(lab.state_dir / "agent.db")
    lab.agent.start()
    with lab.agent.client() as client:
        assert wait_final(client, done).exit_code == 3
        assert client.job(JobRef(id=cancelled)).state is JobState.CANCELLED
        assert client.job(JobRef(id=waiting)).state is JobState.PENDING, "its GPUs are still held"
        assert client.job(JobRef(id=running)).gpu_uuids == held
        gate.write_text("\n")
        assert wait_final(client, running).exit_code == 5
        assert wait_final(client, waiting).state is JobState.COMPLETED
        again = submit(client, lab, "exit 0", "waiting", "--gpus=2")
        assert again == waiting, "a retried submit still finds its job"
        assert submit(client, lab, "exit 0", "new") > cancelled, "no id is given out twice"
    assert "taken in again" in lab.agent.log.read_text()
    kept = list(lab.state_dir.glob("agent.db.damaged-*"))
    assert bool(kept) is (damage is not gone), "what was damaged is kept for whoever wants to look"


def test_a_submit_that_cannot_be_stored_is_refused_and_the_agent_goes_on(lab: Box) -> None:
    jobs = lab.state_dir / "jobs"
    jobs.write_text("a file where the folders belong")
    with lab.agent.client() as client:
        with pytest.raises(Exception, match="nothing was changed"):
            submit(client, lab, "exit 0", "k")
        assert client.jobs() == []
        jobs.unlink()
        assert wait_final(client, submit(client, lab, "exit 0", "k")).state is JobState.COMPLETED
