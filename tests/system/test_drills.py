"""Fault drills as an operator runs them, by `stoker-agent simulate` or by the file, seen with `stoker incidents`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from agent.gpu.simulated import FAULTS_FILE
from tests.fakes.daemons import Box, activate_evaluation, wait_until

FAULTS = {
    0: ("lost", "gpu_lost"),
    1: ("hung", "gpu_hung"),
    2: ("hot", "thermal_throttle"),
    3: ("xid", "xid"),
    4: ("ecc", "ecc"),
    5: ("throttled", "power_throttle"),
    6: ("idle", "held_idle"),
}
"""Which GPU falls ill of what; GPU 7 is well."""
NOTIFY = """#!/bin/sh
body=$(cat)
printf '%s\\n' "$body" >> {told}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Box]:
    """Eight GPUs, on which nothing has to last; the command takes down what it is told."""
    made, hook = Box(tmp_path), tmp_path / "notify"
    hook.write_text(NOTIFY.format(told=tmp_path / "told"))
    hook.chmod(0o755)
    kinds: tuple[str, ...] = (
        "thermal_throttle",
        "power_throttle",
        "held_idle",
        "straggler",
        "hung_collective",
        "memory_leaked",
    )
    kinds += ("gpu_missing", "gpu_exchanged", "link_degraded")
    over = "[health.clear_s]\n" + "".join(
        f"{each} = 2\n" for each in ("gpu_lost", "gpu_hung", "gpu_missing", "gpu_exchanged", "link_degraded")
    )
    with made.config.open("a") as config:
        config.write(
            f'[hooks]\nnotify_command = "{hook}"\n[health.for_s]\n' + "".join(f"{each} = 1\n" for each in kinds) + over
        )
    try:
        made.agent.start()
        made.hub.start()
        activate_evaluation(made)
        yield made
    finally:
        made.close()


def run(lab: Box, entry: str, *words: str) -> str:
    command = [sys.executable, "-c", f"import sys; from {entry} as main; sys.exit(main())", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "TZ": "UTC"})
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def stoker(lab: Box, *words: str) -> str:
    return run(lab, "tui.__main__ import main", "--socket", str(lab.hub.socket), *words)


def simulate(lab: Box, gpu: int | str, fault: str) -> str:
    return run(lab, "agent.__main__ import agent_main", "--config", str(lab.config), "simulate", "gpu", str(gpu), fault)


def incidents(lab: Box) -> list[dict[str, Any]]:
    return list(json.loads(stoker(lab, "incidents", "--json")))


def kinds(lab: Box) -> set[tuple[int, str]]:
    return {(each["gpu_index"], each["kind"]) for each in incidents(lab)}


def told(lab: Box) -> list[dict[str, Any]]:
    path = lab.root / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def begin(lab: Box, gpus: int) -> JobRef:
    with lab.agent.client() as client:
        script = f"#!/bin/sh\n#SBATCH --gpus={gpus}\nsleep 600\n"
        asked = SubmitRequest(
            script=script, script_name="job.sh", work_dir=str(lab.work_dir), env={"PATH": os.environ["PATH"]}
        )
        job = JobRef(id=client.submit(asked, f"drill-{gpus}").job.id)
        wait_until(lambda: client.job(job).state is JobState.RUNNING, "the job runs")
    return job


def test_each_fault_that_is_simulated_is_an_incident_and_mended_by_ok(lab: Box) -> None:
    job = begin(lab, 8)
    for gpu, (fault, _) in FAULTS.items():
        simulate(lab, gpu, fault)
    wanted = {(gpu, kind) for gpu, (_, kind) in FAULTS.items()}
    wait_until(lambda: wanted <= kinds(lab), f"all of {wanted} are opened")
    assert not {kind for gpu, kind in kinds(lab) if gpu == 7}
    assert {each["job_id"] for each in incidents(lab)} == {job.id}
    grave = {gpu for gpu, (fault, _) in FAULTS.items() if fault in ("lost", "hung", "xid", "ecc")}

    def drained() -> set[int]:
        with lab.agent.client() as client:
            return {gpu.index for gpu in client.node().gpus if gpu.drain}

    wait_until(lambda: drained() == grave, "what is critical is drained, and nothing else")
    heard = {(each["incident"]["gpu_index"], each["incident"]["kind"]) for each in told(lab)}
    assert {(0, "gpu_lost"), (1, "gpu_hung"), (3, "xid"), (4, "ecc")} <= heard
    assert "held_idle" not in {kind for _, kind in heard}, "what is worth knowing only is not sent"
    xid = next(each for each in incidents(lab) if each["kind"] == "xid")
    seen = json.loads(stoker(lab, "incidents", "ack", str(xid["id"]), "--json"))
    assert seen["acknowledged_by"]
    over = json.loads(stoker(lab, "incidents", "clear", str(xid["id"]), "--json"))
    assert (over["id"], over["cleared_at"] is not None, bool(over["cleared_by"])) == (xid["id"], True, True)
    assert xid["id"] not in {each["id"] for each in incidents(lab)}
    for gpu in FAULTS:
        simulate(lab, gpu, "ok")

    def healthy() -> bool:
        with lab.agent.client() as client:
            return {gpu.state.value for gpu in client.node().gpus} == {"ok"} and 1 not in drained()

    wait_until(healthy, "all answer, and the one that only hung is given out again", 120)
    with lab.agent.client() as client:
        assert client.job(job).state is JobState.RUNNING, "no fault ended the job"


def test_ranks_that_wait_for_one_another_and_memory_that_nobody_holds(lab: Box) -> None:
    job = begin(lab, 4)
    with lab.agent.client() as client:
        gpus = wait_until(lambda: [gpu for gpu in client.node().gpus if gpu.job_id], "it holds GPUs")
        held = [gpu.index for gpu in gpus]
    (free, *_) = set(range(8)) - set(held)
    words = ",".join(map(str, held))
    assert simulate(lab, words, "collective") == f"simulated GPUs {words.replace(',', ', ')} are now collective\n"
    simulate(lab, free, "leaked")
    wanted = {(held[0], "hung_collective"), (free, "memory_leaked")}
    wait_until(lambda: wanted <= kinds(lab), f"{wanted} are opened", 90)
    assert {each["job_id"] for each in incidents(lab) if each["kind"] == "hung_collective"} == {job.id}


def test_gpus_that_are_gone_or_others_than_at_install(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: len(client.inventory()) == 8, "the node's GPUs are remembered")
        before = {gpu.index: gpu.uuid for gpu in client.node().gpus}
        simulate(lab, 2, "missing")
        wait_until(lambda: (2, "gpu_missing") in kinds(lab), "it is missed", 90)
        simulate(lab, 5, "exchanged")
        simulate(lab, 7, "narrow")
        wanted = {(2, "gpu_missing"), (4, "gpu_exchanged"), (6, "link_degraded")}
        wait_until(lambda: wanted <= kinds(lab), f"{wanted} are opened: those behind the missing one moved up", 90)
        simulate(lab, "all", "ok")
        wait_until(lambda: {gpu.index: gpu.uuid for gpu in client.node().gpus} == before, "all are there again", 90)
    wait_until(lambda: not kinds(lab), "all is over", 150)


def test_a_straggler_by_the_file(lab: Box) -> None:
    begin(lab, 4)
    with lab.agent.client() as client:
        held = wait_until(lambda: [gpu.index for gpu in client.node().gpus if gpu.job_id], "it holds GPUs")
    (lab.state_dir / FAULTS_FILE).write_text(json.dumps({str(held[1]): "straggler"}))
    wait_until(lambda: (held[1], "straggler") in kinds(lab), "it is found", 90)
    (line,) = [each for each in stoker(lab, "incidents").splitlines() if "straggler" in each]
    assert "the whole job waits for it" in line
    assert "selftest" in line
