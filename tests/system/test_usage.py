"""Usage on a running node and hub: what ran is what is counted, though agent and hub are killed all the time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.types import Job, SubmitRequest
from licensing import usage_rows
from licensing.store import Ledger
from licensing.usage_book import UsageBook
from tests.fakes.daemons import Box, box, wait_final

JOBS = 12


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def command(lab: Box, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of ours, on the hub's machine."""
    entry = {
        "stoker": "import sys; from tui.__main__ import main; sys.exit(main())",
        "stoker-license": "import sys; from agent.__main__ import license_main as m; sys.exit(m())",
    }[program]
    env = {**os.environ, "STOKER_CONFIG": str(lab.config), "STOKER_SOCKET": str(lab.run_dir / "hub.sock")}
    return subprocess.run(
        [sys.executable, "-c", entry, *words], env=env, check=False, capture_output=True, text=True, timeout=60
    )


def submit(lab: Box, number: int, seconds: float) -> int:
    script = f"#!/bin/sh\n#SBATCH --gpus={1 + number % 2}\nsleep {seconds}\n"
    env = {"PATH": os.environ["PATH"]}
    request = SubmitRequest(script=script, script_name="j.sh", work_dir=str(lab.work_dir), env=env)
    with lab.agent.client() as client:
        return client.submit(request, f"k{number}").job.id


def counted(lab: Box) -> tuple[dict[str, int], int]:
    """Per job outside of the site, and in all; the chain holds."""
    with lab.agent.client() as client:
        (head,) = client.usage_rows().heads
        told = client.usage_rows(head.chain)
    sums: dict[str, int] = defaultdict(int)
    for row in usage_rows.verified(told.rows, 1, told.before, head.head):
        assert row is not None
        assert row.node == "n1"
        sums[row.job] += row.gpu_ms
    assert sum(sums.values()) == head.gpu_ms
    return sums, head.gpu_ms


def expected(jobs: list[Job]) -> list[int]:
    """As the jobs' own records say."""
    return sorted(1000 * len(job.gpu_uuids) * ((job.ended_at or 0) - (job.started_at or 0)) for job in jobs)


def test_what_ran_is_what_is_counted_while_agent_and_hub_are_killed(lab: Box) -> None:
    dice = random.Random(5)
    ids = [submit(lab, number, dice.choice((0, 0.3, 1.2, 2.5))) for number in range(JOBS)]
    for _ in range(6):
        lab.agent.kill()
        lab.agent.start()
        lab.hub.kill()
        lab.hub.start()
    with lab.agent.client() as client:
        jobs = [wait_final(client, job_id) for job_id in ids]
    sums, total = counted(lab)
    assert sorted(sums.values()) == expected(jobs)

    told = json.loads(command(lab, "stoker", "usage", "--by", "user", "--json").stdout)
    assert [(each["gpu_ms"], each["jobs"]) for each in told["sums"]] == [(total, JOBS)]
    as_csv = command(lab, "stoker", "usage", "--by", "model", "--csv").stdout.splitlines()
    assert as_csv[1].split(",")[2:] == [f"{total / 1000:.3f}", str(JOBS)]
    as_table = command(lab, "stoker", "usage", "--by", "account")
    assert as_table.returncode == 0, as_table.stderr
    assert as_table.stdout.splitlines()[0].split() == ["ACCOUNT", "GPU-HOURS", "SHARE", "JOBS"]
    hub_has_it_once(lab, total)


def hub_has_it_once(lab: Box, total: int) -> None:
    """A report fetches what there is; the hub is killed after it and told of everything again."""
    for _ in range(2):
        made = command(lab, "stoker-license", "usage", "export", "-o", "-")
        assert made.returncode == 0, made.stderr
        lab.hub.kill()
        lab.hub.start()
    lab.hub.stop()
    ledger = Ledger(lab.root / "state" / "hub" / "licence.db")
    ledger.open()
    book = UsageBook(ledger)
    assert book.used_ms() == total
    assert book.verify() == sum(branch.seq for branch in book.branches())
    ledger.close()


def test_a_month_is_reported_and_the_report_verifies(lab: Box) -> None:
    report = lab.root / "last.usage"
    made = command(lab, "stoker-license", "usage", "export", "--rows", "-o", str(report))
    assert made.returncode == 0, made.stderr
    again = command(lab, "stoker-license", "usage", "export", "--rows", "-o", "-")
    assert again.stdout == report.read_text(), "closed once"
    without = command(lab, "stoker-license", "usage", "export", "-o", str(report))
    assert (without.returncode, len(report.read_text()) < len(again.stdout)) == (0, True), "a report is replaced by one"
    report.write_text(again.stdout)
    other = lab.root / "acme.licence"
    other.write_text("another file")
    refused = command(lab, "stoker-license", "usage", "export", "-o", str(other))
    assert (refused.returncode, "is not overwritten" in refused.stderr) == (5, True), refused.stderr
    assert other.read_text() == "another file"
    early = command(lab, "stoker-license", "usage", "export", "--month", "2026-01", "-o", "-")
    assert (early.returncode, "2026-01 was not closed by itself" in early.stderr) == (0, True), early.stderr
    checked = command(lab, "stoker-license", "usage", "verify", str(report))
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "the reports hold")
    report.write_text(report.read_text().replace("nodes", "modes"))
    changed = command(lab, "stoker-license", "usage", "verify", str(report))
    assert changed.returncode == 5
    assert str(report) in changed.stderr


def test_a_month_that_is_not_over_is_not_closed(lab: Box) -> None:
    with lab.agent.client() as client:
        month = client.usage().month
    refused = command(lab, "stoker-license", "usage", "export", "--month", month, "-o", str(lab.root / "x"))
    assert refused.returncode == 64
    assert "is not over" in refused.stderr
    assert not (lab.root / "x").exists()
