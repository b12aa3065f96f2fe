"""Prepaid hours and pay-per-use carried through by the real programs: vendor's desk, hub, agent, jobs; the clock moves.

Each licence is bound by request and answer, as a buyer does it; what nodes obey comes to them over the hub's own link.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, LicenceStage, LinkState, SubmitRequest
from licensing import paseto, usage_file
from tests.fakes.daemons import Box, wait_final, wait_until
from tests.fakes.shifted import Shifted

DEVELOPMENT = Path(__file__).parents[2] / "licensing" / "development"
_LICENSE = "import sys; from agent.__main__ import license_main; sys.exit(license_main())"
HOUR = 3600
DAY = 24 * HOUR
GPUS = 4


class Trade:
    """A buyer's machine and a vendor's desk, with one clock."""

    def __init__(self, root: Path) -> None:
        self.clock = Shifted(root)
        self.box = Box(root / "box", gpus=GPUS)
        self.box.agent.prelude, self.box.hub.prelude = self.clock.agent, self.clock.hub
        self.root = root
        self.papers = 0
        self.sent = 0

    def start(self) -> None:
        self.box.agent.start()
        self.box.hub.start()

    def licence(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`stoker-license …`, by the moved clock."""
        env = {**os.environ, "STOKER_CONFIG": str(self.box.config), "STOKER_DESK": str(self.root / "desk")}
        ran = subprocess.run(
            [sys.executable, "-c", f"{self.clock.program}{_LICENSE}", *words],
            env=env, capture_output=True, text=True, timeout=60, cwd=self.root,
        )  # fmt: skip
        assert code is None or ran.returncode == code, (words, ran.returncode, ran.stdout, ran.stderr)
        return ran

    def paper(self, kind: str) -> str:
        self.papers += 1
        return str(self.root / f"{self.papers}.{kind}")

    def desk(self, *words: str) -> str:
        """A file that the vendor's desk writes."""
        to = self.paper("licence")
        signs = ("--issuer-key", str(DEVELOPMENT / "DEVELOPMENT-issuer.key"),
                 "--issuer-cert", str(DEVELOPMENT / "DEVELOPMENT-issuer.cert"))  # fmt: skip
        self.licence("vendor", *words, *signs, "-o", to)
        return to

    def take(self, file: str) -> None:
        """The buyer installs a file of the vendor's; whatever stage it leads to."""
        assert self.licence("import-response", file, code=None).returncode in (0, 3, 4)

    def bind(self, *terms: str) -> None:
        """A voucher, a request, an answer; for a machine that shows no marks, as a container does."""
        (self.root / "desk").mkdir()
        self.take(self.desk("issue", "--voucher", "--customer", "Lab", "--id", "acme", "--seats", "4",
                            "--days", "300", "--vm", *terms))  # fmt: skip
        request = self.paper("request")
        self.licence("export-request", "-o", request)
        self.take(self.desk("activate", request))

    def submit(self, hub: Client, script: str, gpus: int = 1) -> Job:
        self.sent += 1
        request = SubmitRequest(
            script=f"#!/bin/sh\n#SBATCH --gpus={gpus}\n{script}\n", script_name="j.sh", work_dir=str(self.box.work_dir),
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        return hub.submit(request, f"key-{self.sent}").job

    def stage(self) -> tuple[str, str | None]:
        told = json.loads(self.licence("status", "--json", code=None).stdout)
        return told["stage"], told["code"]


@pytest.fixture
def trade(tmp_path: Path) -> Iterator[Trade]:
    made = Trade(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.box.close()


def running(hub: Client, job: Job) -> None:
    wait_until(lambda: hub.job(JobRef(id=job.id)).state is JobState.RUNNING, "it runs")


def stands(hub: Client, stage: LicenceStage, code: str | None) -> None:
    wait_until(lambda: (hub.licence().stage, hub.licence().code) == (stage, code), f"{stage} {code}")


def held(hub: Client, job: Job, *parts: str) -> None:
    """It waits, and says all that its user needs."""
    wait_until(lambda: hub.job(JobRef(id=job.id)).reason == "License", "it is held")
    found = hub.job(JobRef(id=job.id))
    assert found.state is JobState.PENDING
    said = found.detail or ""
    for part in (*parts, "held in the queue since", "Running jobs go on to their end"):
        assert part in said, said


def test_prepaid_hours_are_counted_and_spent_and_bought_again(trade: Trade) -> None:
    trade.bind("--plan", "prepaid", "--gpu-hours", "40")
    gate, order = trade.root / "go", trade.root / "order"
    os.mkfifo(gate)
    with trade.box.hub.client() as hub, trade.box.agent.client() as agent:
        wait_until(lambda: all(gpu.seated for gpu in agent.node().gpus), "seats")
        long = trade.submit(hub, f"read x < {gate}", gpus=2)
        running(hub, long)
        assert hub.licence().stage is LicenceStage.ACTIVE

        def left() -> float:
            return (hub.licence().prepaid_gpu_seconds_left or 0) / HOUR

        for ahead_h, stage, code, hours_left in (
            (10, LicenceStage.ACTIVE, None, 20),
            (8, LicenceStage.NOTICE, "LIC-402", 4),
            (3, LicenceStage.GRACE, "LIC-433", -2),
        ):
            trade.clock.ahead(ahead_h * HOUR)
            stands(hub, stage, code)
            wait_until(lambda: abs(left() - hours_left) < 0.1, f"{hours_left} GPU-hours left")  # noqa: B023
        assert wait_final(hub, trade.submit(hub, "true").id).state is JobState.COMPLETED, "new jobs start in grace"

        trade.clock.ahead(HOUR + HOUR // 2)
        stands(hub, LicenceStage.RESTRICTED, "LIC-434")
        wait_until(lambda: agent.licence().stage is LicenceStage.RESTRICTED, "the node is told, days before its lease")
        waiting = [trade.submit(hub, f"echo {number} >> {order}", gpus=GPUS - 2) for number in range(3)]
        held(hub, waiting[0], "LIC-434", "40 prepaid GPU-hours", "stoker-license activate FILE")
        assert trade.stage() == ("RESTRICTED", "LIC-434")
        assert hub.job(JobRef(id=long.id)).state is JobState.RUNNING
        trade.box.agent.kill()
        trade.box.agent.start()
        wait_until(lambda: agent.licence().code == "LIC-434", "it knows it still")
        wait_until(lambda: hub.nodes()[0].link is LinkState.UP, "the hub has it again")

        trade.take(trade.desk("amend", "acme", "--gpu-hours", "80"))
        assert [wait_final(hub, each.id).state for each in waiting] == [JobState.COMPLETED] * 3
        assert order.read_text().split() == ["0", "1", "2"], "in order"
        stands(hub, LicenceStage.ACTIVE, None)
        gate.write_text("\n")
        assert wait_final(hub, long.id).state is JobState.COMPLETED, "never touched"


def silent_s(agent: Client) -> float | None:
    """What the node's page says of its hub."""
    lines = [line for line in agent.metrics().splitlines() if line.startswith("lic_hub_unreachable_seconds ")]
    return float(lines[0].split()[1]) if lines else None


def test_a_node_tells_for_how_long_its_hub_was_not_heard(trade: Trade) -> None:
    with trade.box.agent.client() as agent:
        assert silent_s(agent) is None, "nothing without a licence"
        trade.bind("--plan", "yearly")
        wait_until(lambda: all(gpu.seated for gpu in agent.node().gpus), "seats")
        wait_until(lambda: (silent_s(agent) or 9) < 2, "it is asked for its ledger again and again")
        trade.box.hub.stop()
        wait_until(lambda: (silent_s(agent) or 0) > 3, "nobody asks")


def test_a_revocation_imported_at_the_hub_holds_new_jobs_of_a_node_in_contact(trade: Trade) -> None:
    trade.bind("--plan", "yearly")
    gate = trade.root / "go"
    os.mkfifo(gate)
    with trade.box.hub.client() as hub, trade.box.agent.client() as agent:
        wait_until(lambda: all(gpu.seated for gpu in agent.node().gpus), "seats")
        long = trade.submit(hub, f"read x < {gate}")
        running(hub, long)
        trade.licence("vendor", "revoke", "acme", "--reason", "unpaid")
        trade.take(trade.desk("crl"))
        wait_until(lambda: agent.licence().code == "LIC-430", "the node is told")
        waiting = trade.submit(hub, "true")
        held(hub, waiting, "LIC-430", "(unpaid)", "stoker-license activate FILE")
        trade.take(trade.desk("issue", "--site", hub.licence().site_key or "", "--customer", "Lab", "--id", "acme-2",
                              "--seats", "4", "--days", "300", "--vm", "--plan", "yearly"))  # fmt: skip
        assert wait_final(hub, waiting.id).state is JobState.COMPLETED
        gate.write_text("\n")
        assert wait_final(hub, long.id).state is JobState.COMPLETED


def counted_ms(agent: Client) -> int:
    """What runs on the node now, as of its last heartbeat."""
    return agent.usage_rows().heads[0].open_gpu_ms


def month_after(at: int) -> int:
    """When the next month begins, in UTC."""
    day = datetime.fromtimestamp(at, UTC)
    return int(datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC).timestamp())


def verdicts(trade: Trade, *files: str) -> tuple[int, list[str]]:
    """What the buyer's command says; the vendor's says the same."""
    buyer = trade.licence("usage", "verify", *files, code=None)
    vendor = trade.licence("vendor", "verify-usage", *files, code=None)
    assert buyer.returncode == vendor.returncode, (buyer.stdout, vendor.stdout)
    said = [
        [line for line in each.stdout.splitlines() if line.split(" ")[0] in ("wrong", "fork", "the")]
        for each in (buyer, vendor)
    ]
    assert said[0] == said[1]
    return buyer.returncode, said[0]


def test_pay_per_use_from_the_jobs_to_the_receipt_and_back(trade: Trade) -> None:
    now = int(datetime.now(UTC).timestamp())
    trade.clock.ahead(month_after(now) - now + 10 * DAY)  # the eleventh of a month, wherever the year stands
    due = datetime.fromtimestamp(month_after(now) + 50 * DAY, UTC)
    trade.bind("--plan", "pay-per-use", "--report-by", f"{due:%Y-%m-%d}")
    with trade.box.hub.client() as hub, trade.box.agent.client() as agent:
        wait_until(lambda: all(gpu.seated for gpu in agent.node().gpus), "seats")
        gate = trade.root / "go"
        os.mkfifo(gate)
        long = trade.submit(hub, f"read x < {gate}", gpus=2)
        running(hub, long)
        trade.clock.ahead(5 * HOUR)
        wait_until(lambda: counted_ms(agent) >= 36_000_000, "ten GPU-hours are counted")
        counted = counted_ms(agent)
        wait_until(
            lambda: counted_ms(agent) > counted, "and more: no end is believed before the last heartbeat but one"
        )
        gate.write_text("\n")
        assert wait_final(hub, long.id).state is JobState.COMPLETED
        first_due = hub.licence().report_by

        trade.clock.ahead(28 * DAY)
        stands(hub, LicenceStage.ACTIVE, None)
        trade.clock.ahead(14 * DAY)
        stands(hub, LicenceStage.GRACE, "LIC-431")
        assert wait_final(hub, trade.submit(hub, "true").id).state is JobState.COMPLETED, "grace"
        trade.clock.ahead(31 * DAY)
        stands(hub, LicenceStage.RESTRICTED, "LIC-432")
        wait_until(lambda: agent.licence().stage is LicenceStage.RESTRICTED, "the node knows it by its dates")
        waiting = trade.submit(hub, "true")
        held(hub, waiting, "LIC-432", "stoker-license usage export")

        report = trade.paper("usage")
        begun = datetime.fromtimestamp(month_after(now), UTC)
        trade.licence("usage", "export", "--month", f"{begun:%Y-%m}", "--rows", "-o", report)
        usage = usage_file.read(Path(report).read_text()).usage
        assert 36_000_000 <= usage.gpu_ms < 37_000_000
        assert verdicts(trade, report) == (0, ["the reports hold"])
        receipt = trade.desk("receipt", report)
        trade.take(receipt)
        assert (hub.licence().report_by or 0) > (first_due or 0)
        assert hub.licence().stage is not LicenceStage.RESTRICTED
        assert wait_final(hub, waiting.id).state is JobState.COMPLETED, "lifted"
        trade.take(receipt)
        assert trade.licence("audit", "verify").returncode == 0


def content(agent: Client) -> bytes:
    """What was signed of the lease that a node holds."""
    return paseto.split((agent.lease().lease or "").split("~")[-1]).payload


def test_a_node_that_comes_back_is_renewed_before_its_eight_hours(trade: Trade) -> None:
    trade.bind("--plan", "yearly")
    with trade.box.hub.client() as hub, trade.box.agent.client() as agent:
        wait_until(lambda: all(gpu.seated for gpu in agent.node().gpus), "seats")
        wait_until(lambda: b'"rev":2' in content(agent), "the lease is that of the bound licence")
        before = agent.lease()
        trade.clock.ahead(3 * HOUR)
        wait_final(hub, trade.submit(hub, "true").id)
        assert agent.lease().seq == before.seq, "a third of a day is not over"
    trade.box.agent.stop()
    trade.box.agent.start()
    with trade.box.agent.client() as agent:
        wait_until(lambda: agent.lease().seq == before.seq + 1, "reached again, it has a newer lease")
        assert (agent.lease().expires_at or 0) - (before.expires_at or 0) >= 3 * HOUR


def test_who_looks_at_the_nodes_is_told_that_the_licence_ends(trade: Trade) -> None:
    trade.bind("--plan", "yearly")

    def said(*more: str) -> str:
        env = {**os.environ, "STOKER_SOCKET": str(trade.box.hub.socket)}
        code = "import sys; from tui.__main__ import main; sys.exit(main())"
        ran = subprocess.run(
            [sys.executable, "-c", code, "nodes", *more],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "n1" in ran.stdout
        return ran.stderr

    with trade.box.hub.client() as hub:
        assert said() == ""
        for days, stage, code in ((280, LicenceStage.NOTICE, "LIC-402"), (25, LicenceStage.GRACE, "LIC-403")):
            trade.clock.ahead(days * DAY)
            stands(hub, stage, code)
            line = said()
            assert line.startswith(f"stoker: licence {stage} {code}: "), line
            assert (line.count("\n"), "Run: stoker-license activate FILE" in line) == (1, True)
        assert said("--json") == "", "a program asks for the licence itself"
