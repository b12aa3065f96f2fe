"""A second hub takes over a site: two real hubs, two real agents, one state folder that is copied.

hub A ──► agents n1, n2 ◄── hub B       B has A's folder; nodes take only what the higher epoch gives
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from licensing.document import Lease, decode
from licensing.paseto import split
from tests.fakes.daemons import Box, wait_final, wait_until
from tests.fakes.vendor import EVALUATION_FILE

EXIT_HELD = 4
_LICENSE = "import sys; from agent.__main__ import license_main; sys.exit(license_main())"


@dataclass
class Lab:
    """Machines `n1` with hub A, `n2`, and the standby's."""

    a: Box
    n2: Box
    b: Box

    def epochs(self) -> list[int]:
        """Of the leases that the nodes hold."""
        found = []
        for each in (self.a, self.n2):
            with each.agent.client() as agent:
                token = agent.lease().lease
                found.append(decode(Lease, split(token).payload).epoch if token else 0)
        return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    found = Lab(Box(tmp_path / "a", "n1", gpus=2), Box(tmp_path / "n2", "n2", gpus=2), Box(tmp_path / "b", "b"))
    nodes = "".join(
        f'[[hub.nodes]]\nname = "{each.name}"\nsocket = "{each.agent.socket}"\n' for each in (found.a, found.n2)
    )
    for each in (found.a, found.b):
        with each.config.open("a", encoding="utf-8") as config:
            config.write(nodes)
    try:
        for each in (found.a, found.n2):
            each.agent.start()
        found.a.hub.start()
        yield found
    finally:
        for each in (found.b, found.a, found.n2):
            each.close()


def license_program(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "STOKER_CONFIG": str(box.config)}
    return subprocess.run(
        [sys.executable, "-c", _LICENSE, *words], env=env, check=False, capture_output=True, text=True, timeout=60
    )


def submission(box: Box, text: str) -> SubmitRequest:
    env = {"PATH": os.environ["PATH"]}
    return SubmitRequest(script=f"#!/bin/sh\n{text}\n", script_name="job.sh", work_dir=str(box.work_dir), env=env)


def test_a_hub_that_goes_on_beside_the_one_that_leads_hears_of_it(lab: Lab) -> None:
    """Nobody stopped it, and none of its leases is due for hours."""
    lab.a.hub.stop()
    lab.a.hub.prelude = "import agent.hub.seats as seats; seats.HEAR_AGAIN_S = seats.OFFER_S = 0.3\n"
    lab.a.hub.start()
    with lab.a.hub.client() as hub:
        hub.activate(EVALUATION_FILE.read_text(encoding="ascii"))
        wait_until(lambda: hub.licence().seats_used == 4, "both nodes have their seats")
        wait_until(lambda: lab.epochs() == [1, 1], "and their leases")
        lab.a.hub.stop()
        shutil.copytree(lab.a.state_dir / "hub", lab.b.state_dir / "hub")
        lab.a.hub.start()
        wait_until(lambda: all(each.node for each in hub.nodes()), "it sees them again")
        lab.b.hub.start()
        assert license_program(lab.b, "standby", "promote").returncode == 0
        wait_until(lambda: lab.epochs() == [2, 2], "the nodes have leases of the standby")
        wait_until(lambda: hub.licence().epoch_heard == 2, "the hub that went on hears that it does not lead")
        status = license_program(lab.a, "status")
        assert (status.returncode, "LIC-424: a hub of epoch 2 took over" in status.stdout) == (EXIT_HELD, True)


def test_a_standby_takes_over_and_the_hub_before_it_is_not_heard(lab: Lab) -> None:
    gate = lab.a.root / "go"
    os.mkfifo(gate)
    with lab.a.hub.client() as hub:
        hub.activate(EVALUATION_FILE.read_text(encoding="ascii"))
        wait_until(lambda: hub.licence().seats_used == 4, "both nodes have their seats")
        running = hub.submit(submission(lab.a, f"#SBATCH --gpus=1\nread x < {gate}"), "a").job
        wait_until(lambda: hub.job(JobRef(id=running.id)).state is JobState.RUNNING, "a job runs")
    assert lab.epochs() == [1, 1]

    lab.a.hub.kill()
    shutil.copytree(lab.a.state_dir / "hub", lab.b.state_dir / "hub")
    lab.b.hub.start()
    promoted = license_program(lab.b, "standby", "promote")
    assert promoted.returncode == 0, promoted.stderr
    assert "epoch 2" in promoted.stdout
    wait_until(lambda: lab.epochs() == [2, 2], "the nodes have leases of the standby")

    lab.a.hub.start()
    with lab.a.hub.client() as hub, lab.b.hub.client() as standby:
        wait_until(lambda: hub.licence().epoch_heard == 2, "the hub before it hears that it does not lead")
        looked = license_program(lab.a, "doctor")
        assert (looked.returncode, "standby promote" in looked.stdout) == (EXIT_HELD, True), looked.stdout
        status = license_program(lab.a, "status")
        assert status.returncode == EXIT_HELD, status.stdout
        assert "LIC-424: a hub of epoch 2 took over" in status.stdout, status.stdout
        wait_until(lambda: "LIC-424" in lab.a.hub.log.read_text(), "it says so in its log")
        assert lab.epochs() == [2, 2]
        assert (standby.licence().epoch, standby.licence().seats_used) == (2, 4)
        assert "a hub of epoch" not in license_program(lab.b, "status").stdout

        wait_until(lambda: len(standby.nodes()) == 2 and all(each.node for each in standby.nodes()), "it sees them")
        new = standby.submit(submission(lab.a, "#SBATCH --gpus=1\ntrue"), "b").job
        assert wait_final(standby, new.id, new.node).state is JobState.COMPLETED
        gate.write_text("\n")
        assert wait_final(standby, running.id, running.node).state is JobState.COMPLETED, "what ran before ran on"
