"""A licence from the vendor's desk to its end, through the real programs: what it holds, and what it never touches."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from agent.api.types import JobState, LicenceStage, SubmitRequest
from tests.fakes.daemons import Box, box, wait_final, wait_until

DEVELOPMENT = Path(__file__).parents[2] / "licensing" / "development"
_LICENSE = "import sys; from agent.__main__ import license_main; sys.exit(license_main())"
EXIT_RESTRICTED = 4


@pytest.fixture
def unlicensed(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path, voucher=False) as made:
        yield made


def license_program(made: Box, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "STOKER_CONFIG": str(made.config)}
    return subprocess.run(
        [sys.executable, "-c", _LICENSE, *words], env=env, capture_output=True, text=True, timeout=60, cwd=made.root
    )


def issue(made: Box, name: str, *, ends_in_s: float) -> Path:
    """A voucher of the development vendor that ends so soon."""
    path = made.root / name
    issued = license_program(
        made, "vendor", "issue", "--voucher", "--customer", "Lab", "--plan", "yearly", "--seats", "8",
        "--expires-at", str(int(time.time() + ends_in_s)), "--issuer-key", str(DEVELOPMENT / "DEVELOPMENT-issuer.key"),
        "--issuer-cert", str(DEVELOPMENT / "DEVELOPMENT-issuer.cert"), "-o", str(path),
    )  # fmt: skip
    assert issued.returncode == 0, issued.stderr
    return path


def submission(made: Box, text: str) -> SubmitRequest:
    return SubmitRequest(
        script=text, script_name="job.sh", work_dir=str(made.work_dir), env={"PATH": os.environ["PATH"]}
    )


def test_hub_and_agent_sign_and_verify_without_the_library_of_encrypted_key_files(tmp_path: Path) -> None:
    """It would be 8 MB of each for as long as they run."""
    with box(tmp_path) as made:  # its seats are handed out: a lease was signed and verified
        for daemon in (made.hub, made.agent):
            files = Path(f"/proc/{daemon.pid}/maps").read_text()
            assert "/nacl/" in files
            assert "/cryptography/" not in files


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which another account can be behind")
def test_who_asks_a_nodes_own_agent_for_an_admin_verb_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with box(tmp_path) as made, made.hub.client() as hub:
        monkeypatch.setenv("SUDO_USER", "daemon")
        with made.agent.client() as agent:
            agent.drain(DrainRequest(reason="a new fan"))
        with contextlib.suppress(ApiError):  # no month is over; but the nodes are asked what they have
            hub.export_usage("2020-01")
        (names,) = (each.names for each in hub.licence().units if each.unit == "admin")
        assert names == ("daemon", "root"), "root took the voucher, before"


@pytest.mark.parametrize("asks", ["--gpus=1", "--job-name=cpu-only"])
def test_an_expired_voucher_holds_new_jobs_and_leaves_running_ones_alone(unlicensed: Box, asks: str) -> None:
    made, gate = unlicensed, unlicensed.root / "go"
    os.mkfifo(gate)
    ends = time.time() + 12
    activated = license_program(made, "activate", str(issue(made, "short.licence", ends_in_s=12)))
    assert activated.returncode in (0, 3), activated.stderr
    with made.hub.client() as hub:
        running = hub.submit(submission(made, f"#!/bin/sh\n#SBATCH --gpus=1\nread x < {gate}\necho done\n"), "a").job
        wait_until(lambda: hub.job(JobRef(id=running.id)).state is JobState.RUNNING, "it starts before the end", 12)
        wait_until(lambda: hub.licence().stage is LicenceStage.RESTRICTED, "the voucher has ended", 20)
        assert time.time() >= ends - 2, "whole seconds are rounded, on both sides"
        with made.agent.client() as agent:
            wait_until(lambda: agent.licence().stage is LicenceStage.RESTRICTED, "the node, which decides, knows it")
        wait_until(lambda: time.time() > ends + 2, "the second in which it ended is over")
        held = hub.submit(submission(made, f"#!/bin/sh\n#SBATCH {asks}\ntrue\n"), "b").job
        wait_until(lambda: hub.job(JobRef(id=held.id)).reason == "License", "it waits for the licence")
        told = hub.job(JobRef(id=held.id))
        assert told.state is JobState.PENDING
        assert "LIC-4" in (told.detail or "")
        assert "stoker-license activate" in (told.detail or "")

        status = license_program(made, "status", "--json")
        assert status.returncode == EXIT_RESTRICTED
        assert json.loads(status.stdout)["stage"] == "RESTRICTED"

        gate.write_text("\n")
        assert wait_final(hub, running.id).state is JobState.COMPLETED
        assert hub.job(JobRef(id=held.id)).state is JobState.PENDING

        renewed = license_program(made, "activate", str(issue(made, "good.licence", ends_in_s=86400 * 40)))
        assert renewed.returncode in (0, 3), renewed.stderr
        assert wait_final(hub, held.id).state is JobState.COMPLETED, "a good licence lifts the hold without a restart"


def test_a_file_that_is_no_licence_changes_nothing(unlicensed: Box) -> None:
    bad = unlicensed.root / "bad.licence"
    bad.write_bytes(os.urandom(3000))
    refused = license_program(unlicensed, "activate", str(bad))
    assert refused.returncode == 5
    assert str(bad) in refused.stderr
    with unlicensed.hub.client() as hub:
        assert hub.licence().licence_id is None


def test_a_node_gives_its_seats_back_and_is_adopted(unlicensed: Box) -> None:
    made = unlicensed
    assert license_program(made, "activate", str(issue(made, "some.licence", ends_in_s=86400 * 40))).returncode == 0
    with made.hub.client() as hub:
        wait_until(lambda: hub.licence().seats_used > 0, "its node holds seats")
        name = hub.licence().holders[0].node
        forced = license_program(made, "release", name, "--force")
        assert (forced.returncode, f"{name} is up" in forced.stderr) == (64, True), forced.stderr
        released = license_program(made, "release", name)
        assert released.returncode == 0, released.stderr
        assert (hub.licence().seats_used, hub.licence().resting) == (0, (name,))
        held = hub.submit(submission(made, "#!/bin/sh\n#SBATCH --gpus=1\ntrue\n"), "c").job
        wait_until(lambda: "LIC-422" in (hub.job(JobRef(id=held.id)).detail or ""), "it waits, and says why")
        adopted = license_program(made, "node", "adopt", name)
        assert (adopted.returncode, adopted.stdout) == (0, f"{name} gets seats again\n"), adopted.stderr
        assert wait_final(hub, held.id).state is JobState.COMPLETED
        gone = license_program(made, "release", "nobody")
        assert (gone.returncode, "'nobody' is no node of this hub" in gone.stderr) == (64, True), gone.stderr
