"""The agent as the unit that is installed, under a real systemd: it hangs, or the kernel kills it. Rows 12, 15 and 18.

The unit is the product's own but for its program, its folders and a shorter watchdog.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent
from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from tests.fakes.daemons import Box, activate_evaluation, wait_final, wait_until
from tests.fakes.sysd_ns import Systemd, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HOUSE = Path(agent.__file__).parents[1]
UNIT = HOUSE / "agent/units/stoker-agent.service"
AGENT = "stoker-agent.service"
WATCHDOG_S = 2


class Machine:
    """A booted systemd with the agent's unit in it, and seats for its GPUs."""

    def __init__(self, systemd: Systemd, lab: Box) -> None:
        self.systemd, self.lab = systemd, lab

    def show(self, unit: str, name: str) -> str:
        return self.systemd.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def agent_pid(self) -> str:
        """Of a running one; empty otherwise."""
        state = self.systemd.run("systemctl", "show", "-P", "MainPID,ActiveState", AGENT).stdout.split()
        return state[0] if state[1:] == ["active"] else ""

    def kill(self, name: str) -> None:
        self.systemd.run("systemctl", "kill", "--kill-who=main", f"--signal={name}", AGENT)

    def submit(self, script: str, *flags: str) -> int:
        request = SubmitRequest(
            script=f"#!/bin/sh\n{script}\n",
            script_name="job.sh",
            flags=("--output=/dev/null", *flags),
            work_dir=str(self.lab.work_dir),
            env={"PATH": os.environ["PATH"]},
        )
        with self.lab.agent.client() as client:
            return client.submit(request, f"key-{time.monotonic_ns()}").job.id

    def runs(self, job_id: int) -> bool:
        with self.lab.agent.client() as client:
            return client.job(JobRef(id=job_id)).state is JobState.RUNNING


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    lab = Box(tmp_path_factory.mktemp("unit"), gpus=2, mode="system")
    try:
        lab.agent.start()
        lab.hub.start()
        activate_evaluation(lab)
        lab.hub.stop()
        lab.agent.stop()
        lab.config.write_text(lab.config.read_text().replace('launcher = "fork"', 'launcher = "auto"'))
        with Systemd(share=[lab.root, lab.run_dir]) as systemd:
            _install(systemd, lab)
            yield Machine(systemd, lab)
    finally:
        lab.close()


def _install(systemd: Systemd, lab: Box) -> None:
    units = systemd.root / "etc/systemd/system"
    text = re.sub(r"stoker-agent\.socket", "", UNIT.read_text())
    (units / AGENT).write_text(text.replace("Requires=\n", ""))
    (units / f"{AGENT}.d").mkdir()
    (units / f"{AGENT}.d" / "test.conf").write_text(
        f"[Service]\nExecStart=\nExecStart={sys.executable} -I -c "
        f"'import sys; sys.path.insert(0, \"{HOUSE}\"); from agent.__main__ import agent_main; sys.exit(agent_main())' "
        f"run --config {lab.config}\nReadWritePaths=\nReadWritePaths={lab.root} {lab.run_dir}\n"
        f"PrivateTmp=no\nProtectHome=no\nWatchdogSec={WATCHDOG_S}s\n"
    )
    systemd.run("systemctl", "daemon-reload")
    done = systemd.run("systemctl", "start", AGENT, check=False)
    assert done.returncode == 0, systemd.run("journalctl", "-u", AGENT, "-o", "cat").stdout


@pytest.mark.parametrize("signal_name", ["STOP", "KILL"], ids=["row_12_it_hangs", "row_18_it_is_killed"])
def test_rows_12_and_18_an_agent_that_hangs_or_is_killed_comes_back_and_its_jobs_never_notice(
    machine: Machine, signal_name: str
) -> None:
    """SIGSTOP for a hang; SIGKILL is what the kernel sends to an agent above MemoryMax."""
    go = machine.lab.root / f"go-{signal_name}"
    os.mkfifo(go)
    job = machine.submit(f"read x < {go}; echo after; exit 6", "--gpus=1")
    wait_until(lambda: machine.runs(job), "the job runs")
    who = json.loads((machine.lab.state_dir / f"jobs/{job}/1/started").read_text())
    unit = who["cgroup"].split("/")[-2]
    before, keeper = machine.agent_pid(), machine.show(unit, "MainPID")
    assert before
    assert keeper not in ("", "0")
    shim = f"/proc/{who['shim_pid']}/cmdline"
    assert "shim.py" in machine.systemd.run("cat", shim).stdout
    machine.kill(signal_name)
    wait_until(lambda: machine.agent_pid() not in ("", before), "another agent is up")
    assert machine.show(unit, "MainPID") == keeper
    assert "shim.py" in machine.systemd.run("cat", shim).stdout
    assert machine.runs(job)
    go.write_text("\n")
    with machine.lab.agent.client() as client:
        assert wait_final(client, job).exit_code == 6
        assert client.log(JobRef(id=job), 0, None).data == b"after\n"


def test_rows_12_and_18_the_limits_of_the_unit_are_those_promised(machine: Machine) -> None:
    """That the kernel keeps MemoryHigh and TasksMax is its own promise; here they are read back from PID 1."""
    assert "WatchdogSec=30s" in UNIT.read_text().splitlines(), "and a second and a start: within 40 s"
    shown = {name: machine.show(AGENT, name) for name in ("MemoryHigh", "MemoryMax", "TasksMax", "Restart", "KillMode")}
    assert shown == {
        "MemoryHigh": str(384 << 20),
        "MemoryMax": str(768 << 20),
        "TasksMax": "256",
        "Restart": "always",
        "KillMode": "process",
    }


def test_row_64_a_reload_by_systemctl_is_a_hup(machine: Machine) -> None:
    before = machine.agent_pid()
    machine.systemd.run("systemctl", "reload", AGENT)
    said = "the configuration was read again"
    wait_until(lambda: said in machine.systemd.run("journalctl", "-u", AGENT, "-o", "cat").stdout, "it was read again")
    assert machine.agent_pid() == before
