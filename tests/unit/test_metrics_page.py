"""docs/metrics.md is true: every metric of agent and hub is in its tables as the code has it, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from agent.api.health import IncidentKind
from agent.api.types import Job, JobState, Licence, LicenceStage, LinkState, NodeStatus, SeatHolder
from agent.config.tables import MetricsTable
from agent.hub import metrics
from agent.jobs.tally import QueueTally
from agent.telemetry.healthmetrics import Tally
from agent.telemetry.host import OwnUse
from agent.telemetry.metrictext import Family
from agent.telemetry.openmetrics import More, families
from tests.unit.test_healthmetrics import incident
from tests.unit.test_openmetrics import FULL, gpu, job, node

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
TEXT = PAGE.read_text(encoding="utf-8")
USAGE = {
    "gpu_seconds": 1.0,
    "gpu_busy_seconds": 1.0,
    "utilization_percent": 1.0,
    "memory_peak_bytes": 1,
    "host_memory_peak_bytes": 1,
    "cpu_seconds": 1.0,
    "energy_kwh": 1.0,
    "idle_s": 1.0,
}


def everything() -> list[Family]:
    """Pages on which each metric has something to show."""
    processes = ({"pid": 1, "memory_used_bytes": 1, "sm_percent": 1},)
    held = gpu(job_id=17, job_ids=(17,), mig_parent="GPU-9", mig_profile="1g.10gb", **{**FULL, "processes": processes})
    jobs: list[Job] = [job(usage=USAGE), job(18, JobState.PENDING)]
    tally = Tally()
    tally.look([])
    tally.look([incident(kind=IncidentKind.XID)])
    more = More(
        queue=QueueTally(reasons={"Resources": 1}, oldest_at=1),
        incidents=[incident()],
        tally=tally,
        totals=dict.fromkeys(("disk_read", "disk_written", "network_received", "network_sent", "swap_used"), 1),
        own=OwnUse(cpu_seconds=1.0, resident_bytes=1),
        silent_s=0.0,
        hub_silent_s=1.0,
        textfile=(1.0, 0),
        process_ids=True,
    )
    licence = Licence(
        stage=LicenceStage.ACTIVE,
        message="m",
        licence_id="L",
        expires_at=1,
        restricted_at=1,
        report_by=1,
        prepaid_gpu_seconds_left=1,
        holders=(SeatHolder(node="n1", gpu_uuids=("a",), until=1),),
    )
    up = NodeStatus(name="n1", link=LinkState.UP, age_s=0.0, node=node(held))
    return [*families(node(held), jobs, {}, more), *metrics.families([up], licence, "lab", 0.0)]


def row(family: Family) -> str:
    """The line of the page that tells of a metric."""
    labels = {label: None for given, value in family.samples if value is not None for label in given}
    assert labels or any(value is not None for _, value in family.samples), f"{family.name} is nowhere shown"
    named = ", ".join(f"`{label}`" for label in labels)
    return f"| `{family.sample_name}` | {family.kind} | {named} | {family.help} |"


def test_every_metric_is_on_the_page_as_the_code_has_it_and_no_other() -> None:
    told = re.findall(r"^\| `(?:stoker|lic)_.*$", TEXT, re.MULTILINE)
    wanted = [row(family) for family in everything()]
    assert sorted(told) == sorted(wanted), "docs/metrics.md and the code differ; the line has to be as in the code"


def test_the_settings_are_on_the_page() -> None:
    for key in MetricsTable.__struct_fields__:
        assert f"`{key}`" in TEXT or f"{key} = " in TEXT
