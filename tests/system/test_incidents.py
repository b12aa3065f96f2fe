"""Incidents through the real agent and hub: a simulated GPU is lost, is drained, told of, acknowledged, and mended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.health import IncidentKind
from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from tests.fakes.daemons import Box, box, wait_final, wait_until
from tests.fakes.shell import stoker


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path, gpus=2, more="[health.clear_s]\ngpu_lost = 2\n") as made:
        yield made


def simulate(lab: Box, gpu: str, fault: str) -> None:
    program = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"
    subprocess.run(
        [sys.executable, "-c", program, "--config", str(lab.config), "simulate", "gpu", gpu, fault],
        check=True,
        capture_output=True,
        timeout=60,
    )


def request(lab: Box, command: str) -> SubmitRequest:
    return SubmitRequest(
        script=f"#!/bin/sh\n#SBATCH --gpus=1\n{command}\n",
        script_name="job.sh",
        work_dir=str(lab.work_dir),
        env={"PATH": os.environ["PATH"]},
    )


def test_a_lost_gpu_from_the_incident_to_the_mended_node(lab: Box) -> None:
    """Row 33: a GPU is lost; jobs on others run on, nothing new starts there, and the operator is told what to do."""
    assert stoker(lab, "incidents") == "No incident is open\n"
    with lab.agent.client() as client:
        other = client.submit(request(lab, "sleep 600"), "other").job
        held = wait_until(lambda: client.job(JobRef(id=other.id)).gpu_uuids, "it holds a GPU")
        free = next(gpu for gpu in client.node().gpus if gpu.uuid not in held).index
        wait_until(client.inventory, "the node's GPUs are remembered")
        simulate(lab, str(free), "lost")
        wait_until(lambda: client.node().incidents, "the incident is opened")
        (found,) = client.incidents()
        assert (found.kind, found.gpu_index, found.node) == (IncidentKind.GPU_LOST, free, "n1")
        wait_until(lambda: client.node().gpus[free].drain, "it is drained")
        waiting = client.submit(request(lab, "true"), "waits").job
    listed = stoker(lab, "incidents")
    assert "gpu_lost" in listed
    assert "critical" in listed
    assert f"stoker-agent simulate gpu {free} ok" in listed
    wait_until(lambda: f"! simulated GPU {free} is lost" in stoker(lab, "nodes"), "the hub has heard of it")
    assert "acknowledged; it stays open" in stoker(lab, "incidents", "acknowledge", str(found.id))
    assert "seen by" in stoker(lab, "incidents")
    wait_until(lambda: "! simulated" not in stoker(lab, "nodes"), "who has seen it is not told again")
    assert stoker(lab, "incidents", "acknowledge", "99", code=1).startswith("stoker: no incident 99 is open")
    lab.agent.kill()
    lab.agent.start()
    with lab.agent.client() as client:
        assert [each.id for each in client.incidents()] == [found.id]
        simulate(lab, str(free), "ok")
        wait_until(lambda: client.node().gpus[free].state == "ok", "it answers again")
        assert client.node().gpus[free].drain, "a lost GPU is held until somebody has looked at it"
        client.resume(DrainRequest(gpu=str(free)))
        assert wait_final(client, waiting.id).state is JobState.COMPLETED
        wait_until(lambda: not client.incidents(), "it is over", deadline_s=90)
        (over,) = client.incidents(over=True)
        assert over.cleared_at is not None
        client.cancel(JobRef(id=other.id))
        assert wait_final(client, other.id).state is JobState.CANCELLED
    with lab.hub.client() as client:
        wait_until(lambda: client.nodes()[0].link == "up", "the hub has found the agent again")
    (told,) = json.loads(stoker(lab, "incidents", "list", "--all", "--json"))
    assert told["id"] == found.id
