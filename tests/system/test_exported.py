"""`--csv` and `--follow` through a real agent and hub, read back as spreadsheets and programs do."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.api.refs import JobRef
from agent.api.types import JobState, NodeStatus, SubmitRequest
from tests.fakes.daemons import Box, box, wait_until
from tests.system.test_history import measured
from tests.system.test_prometheus import simulate

pytestmark = pytest.mark.xdist_group("exported")

HOSTILE = '=cmd|"calc",x;y'
MAIN = "import sys; from tui.__main__ import main; sys.exit(main())"
ENV = {**os.environ, "TZ": "Europe/Berlin"}


def shows(status: NodeStatus, job_id: int) -> bool:
    """Whether what the hub last heard of a node has the job, and the GPU that it holds."""
    node = status.node
    return node is not None and node.jobs_running == 1 and any(gpu.job_id == job_id for gpu in node.gpus)


@pytest.fixture(scope="module")
def lab() -> Iterator[Box]:
    with (
        tempfile.TemporaryDirectory(prefix="stk-csv-") as folder,
        box(Path(folder) / "box", gpus=3, history="hour") as made,
    ):
        with made.agent.client() as client:
            request = SubmitRequest(
                script="#!/bin/sh\n#SBATCH --gres=gpu:1\nsleep 600\n",
                script_name="s",
                flags=(f"--job-name={HOSTILE}",),
                work_dir=str(made.work_dir),
            )
            job = client.submit(request, "one").job
            wait_until(lambda: client.job(JobRef(id=job.id)).state is JobState.RUNNING, "it runs")
            wait_until(lambda: any(gpu.job_id == job.id for gpu in client.node().gpus), "its GPU is its own")
        with made.hub.client() as client:
            wait_until(lambda: shows(client.nodes()[0], job.id), "the hub has heard of it")
        yield made


def stoker(lab: Box, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "--socket", str(lab.hub.socket), *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENV,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def table(text: str) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text), strict=True)
    found = list(rows)
    assert all(None not in row and None not in row.values() for row in found), "each row has every column"
    return found


def test_gpus_as_a_table_with_units_and_whose_they_are(lab: Box) -> None:
    rows = table(stoker(lab, "gpus", "--csv"))
    assert [(row["node"], row["gpu"], row["state"]) for row in rows] == [("n1", str(i), "ok") for i in range(3)]
    assert 10_000 < int(rows[0]["power_mw"]) < 1_000_000
    assert all(row["time"].endswith("Z") for row in rows), "the same everywhere, whatever the time zone"
    (held,) = (row for row in rows if row["job_id"])
    assert held["job_name"] == f"'{HOSTILE}", "a spreadsheet must not run it"
    assert held["user"]
    (one,) = table(stoker(lab, "gpus", "n1:1", "--csv"))
    assert one["gpu"] == "1"


def test_nodes_as_a_table(lab: Box) -> None:
    (row,) = table(stoker(lab, "nodes", "--csv"))
    assert (row["node"], row["link"], row["gpus"], row["gpus_held"], row["jobs_running"]) == ("n1", "up", "3", "1", "1")
    assert int(row["memory_total_bytes"]) > 10**8


def test_a_gpu_that_hangs_has_no_values_and_its_history_a_gap(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: measured(client.history("power_mw", gpu="2")), "it is kept")
        simulate(lab, "2", "hung")
        wait_until(lambda: client.node().gpus[2].state == "hung", "it hangs")
        hung = int(time.time())
        wait_until(
            lambda: measured(client.history("power_mw", gpu="0", since=hung + 2, until=hung + 60, points=60)),
            "the others go on",
        )
    row = table(stoker(lab, "gpus", "n1:2", "--csv"))[0]
    assert (row["state"], row["power_mw"], row["memory_used_bytes"]) == ("hung", "", "")
    assert float(row["age_s"]) > 0
    past = table(stoker(lab, "gpus", "n1:2", "--history", "5m", "--metric", "power", "--csv"))
    assert set(past[0]) == {
        "time",
        "node",
        "gpu",
        "uuid",
        "seconds",
        "power_mw_least",
        "power_mw_mean",
        "power_mw_most",
    }
    gaps = [row for row in past if not row["power_mw_mean"]]
    kept = [row for row in past if row["power_mw_mean"]]
    assert gaps and kept
    assert all(not row["power_mw_least"] and not row["power_mw_most"] for row in gaps)
    assert all(
        float(row["power_mw_least"]) <= float(row["power_mw_mean"]) <= float(row["power_mw_most"]) for row in kept
    )
    assert (kept[0]["node"], kept[0]["gpu"], kept[0]["seconds"]) == ("n1", "2", "1")
    simulate(lab, "2", "ok")
    (host,) = {row["uuid"] for row in table(stoker(lab, "nodes", "--history", "1m", "--csv"))}
    assert host == ""


def test_following_gives_each_reading_once_as_json_lines(lab: Box) -> None:
    with following(lab, "gpus", "n1:0", "--follow", "--json") as lines:
        found = [json.loads(next(lines)) for _ in range(3)]
    assert [(each["node"], each["index"]) for each in found] == [("n1", 0)] * 3
    assert len({each["sampled_at"] for each in found}) == 3
    assert all(each["time"] > 10**9 for each in found)


def test_following_as_csv_tells_a_hung_gpu_once_and_goes_on_over_a_restart(lab: Box) -> None:
    with following(lab, "gpus", "-f", "--csv") as lines:
        header = next(lines)
        rows = (table(header + line)[0] for line in lines)
        simulate(lab, "1", "hung")
        seen: list[dict[str, str]] = []
        for row in rows:
            seen.append(row)
            if row["gpu"] == "1" and row["state"] == "hung":
                break
        assert row["power_mw"] == ""
        later = [next(rows) for _ in range(4)]
        assert "1" not in {row["gpu"] for row in later}, "nothing new is known of it"
        lab.hub.kill()
        lab.hub.start()
        started = time.time()
        assert any(_unix(row["time"]) > started for row in rows)
    simulate(lab, "1", "ok")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gpus", "--follow"), "say either --json or --csv; stoker alone is the screen"),
        (("gpus", "--follow", "--json", "--csv"), "two forms"),
        (("gpus", "--csv", "--json"), "--csv and --json are two forms; say one of them"),
        (("nodes", "--csv", "--json"), "--csv and --json are two forms; say one of them"),
        (("gpus", "--history", "1h", "--csv", "--json"), "--csv and --json are two forms; say one of them"),
        (("gpus", "--history", "1h", "-f", "--csv"), "say one of them"),
        (("gpus", "n9", "-f", "--csv"), "'n9' is no node"),
    ],
)
def test_what_does_not_go_together(lab: Box, words: tuple[str, ...], said: str) -> None:
    assert said in stoker(lab, *words, code=1)


@contextmanager
def following(lab: Box, *words: str) -> Iterator[Iterator[str]]:
    """The lines of a command that goes on; it ends by SIGINT, as by Ctrl-C, without a traceback."""
    command = [sys.executable, "-c", MAIN, "--socket", str(lab.hub.socket), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
    assert process.stdout is not None and process.stderr is not None
    try:
        yield iter(process.stdout.readline, "")
    finally:
        process.send_signal(2)
        _, said = process.communicate(timeout=30)
        assert "Traceback" not in said


def _unix(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()
