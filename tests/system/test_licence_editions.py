"""What an edition holds back, through the real programs: new jobs that need a feature, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.queue import ReservationRequest
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from tests.fakes.daemons import Box, wait_final, wait_until

DEVELOPMENT = Path(__file__).parents[2] / "licensing" / "development"
ENTRIES = {
    "stoker": "import sys; from tui.__main__ import main; sys.exit(main())",
    "stoker-license": "import sys; from agent.__main__ import license_main as m; sys.exit(m())",
}
QOS = '[[qos]]\nname = "normal"\n[[qos]]\nname = "high"\npriority = 100\n'


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    made.config.write_text(made.config.read_text() + QOS)
    try:
        made.agent.start()
        made.hub.start()
        yield made
    finally:
        made.close()


def run(lab: Box, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of ours, as its user starts it."""
    env = {**os.environ, "STOKER_CONFIG": str(lab.config), "STOKER_SOCKET": str(lab.run_dir / "hub.sock")}
    return subprocess.run(
        [sys.executable, "-c", ENTRIES[program], *words],
        env=env, capture_output=True, text=True, timeout=60, cwd=lab.work_dir,
    )  # fmt: skip


def sold(lab: Box, edition: str, rev: int) -> None:
    """Install a voucher of this edition."""
    to = str(lab.root / f"{edition}.voucher")
    issued = run(
        lab, "stoker-license", "vendor", "issue", "--voucher", "--customer", "Lab", "--plan", "yearly", "--seats", "8",
        "--days", "90", "--id", "lic-lab", "--rev", str(rev), "--edition", edition,
        "--issuer-key", str(DEVELOPMENT / "DEVELOPMENT-issuer.key"),
        "--issuer-cert", str(DEVELOPMENT / "DEVELOPMENT-issuer.cert"), "-o", to,
    )  # fmt: skip
    assert issued.returncode == 0, issued.stderr
    taken = run(lab, "stoker-license", "activate", to)
    assert taken.returncode in (0, 3), taken.stderr


def submit(lab: Box, *words: str) -> tuple[Job, str]:
    """`stoker submit`; the job and what the user was told."""
    ran = run(lab, "stoker", "--json", "submit", *words)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    with lab.hub.client() as hub:
        return hub.job(JobRef(id=told["id"])), ran.stderr


def test_a_locked_feature_holds_the_jobs_that_need_it_until_it_is_bought(lab: Box) -> None:
    sold(lab, "standard", 1)
    gates, order = [lab.root / f"go.{task}" for task in (0, 1)], lab.root / "order"
    for gate in gates:
        os.mkfifo(gate)
    with lab.hub.client() as hub, lab.agent.client() as agent:
        wait_until(lambda: all(gpu.seated for gpu in agent.node().gpus), "seats")
        plain, said = submit(lab, "--gpus=1", "--account=x", "--partition=main", "--array=0-1",
                             "--wrap", f"read x < {lab.root}/go.$SLURM_ARRAY_TASK_ID")  # fmt: skip
        assert said == ""
        wait_until(lambda: hub.job(JobRef(id=plain.id)).state is JobState.RUNNING, "an ordinary array runs")

        high, said = submit(lab, "--gpus=1", "--qos=high", "--wrap", f"echo high >> {order}")
        for part in (
            "LIC-450: it names a QOS beside the default",
            "qos is not part of the licence lic-lab (standard); edition team and above has it",
            "Without --qos it starts",
            "Running jobs go on to their end",
            "Run: stoker-license activate FILE",
        ):
            assert part in said, said
        assert (high.state, high.reason) == (JobState.PENDING, "License")
        hub.reserve(ReservationRequest(name="course", duration="1:00:00", accounts=("x",), gpus="=6,7"))
        reserved, said = submit(lab, "--gpus=1", "--time=5", "--reservation=course", "--account=x", "--wrap",
                                f"echo reserved >> {order}")  # fmt: skip
        assert "reservations is not part of the licence" in said

        dry = run(lab, "stoker", "submit", "--dry-run", "--qos=high", "--wrap", "true")
        assert (dry.returncode, "LIC-450" in dry.stderr, "LIC-450" in dry.stdout) == (0, True, True), dry.stderr
        dry = run(lab, "stoker", "--json", "submit", "--dry-run", "--qos=high", "--wrap", "true")
        planned = json.loads(dry.stdout)
        assert (planned["job"]["reason"], "LIC-450" in planned["job"]["detail"]) == ("License", True)
        cron = run(lab, "stoker", "submit", "--cron", "@yearly", "--wrap", "true")
        assert cron.returncode == 0
        assert "recurring is not part of it; edition team and above has it" in cron.stderr
        ordinary = submit(lab, "--gpus=1", "--qos=normal", "--wrap", "true")[0]
        assert wait_final(hub, ordinary.id).state is JobState.COMPLETED, "others go by"
        told = run(lab, "stoker-license", "status")
        assert "edition    standard: the basis" in told.stdout
        assert "locked     qos, reservations, recurring: edition team and above" in told.stdout
        assert [each["feature"] for each in json.loads(run(lab, "stoker-license", "status", "--json").stdout)["locked"]
                ] == ["qos", "reservations", "recurring", "slurm", "training"]  # fmt: skip
        assert hub.job(JobRef(id=high.id)).reason == hub.job(JobRef(id=reserved.id)).reason == "License"

        sold(lab, "team", 2)
        assert [wait_final(hub, each.id).state for each in (high, reserved)] == [JobState.COMPLETED] * 2
        assert hub.job(JobRef(id=plain.id)).state is JobState.RUNNING, "never touched"
        for gate in gates:
            gate.write_text("\n")
        assert wait_final(hub, plain.id).state is JobState.COMPLETED


def test_the_evaluation_opens_everything(lab: Box) -> None:
    from tests.fakes.daemons import activate_evaluation

    activate_evaluation(lab)
    with lab.hub.client() as hub:
        assert hub.licence().locked == ()
        high, said = submit(lab, "--gpus=1", "--qos=high", "--wrap", "true")
        assert said == ""
        assert wait_final(hub, high.id).state is JobState.COMPLETED
