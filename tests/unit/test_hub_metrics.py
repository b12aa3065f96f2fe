"""The hub's metrics page, read back by Prometheus's own OpenMetrics parser."""

from __future__ import annotations

import msgspec
import pytest

from agent import __version__
from agent.api.health import Incident, IncidentKind, Severity
from agent.api.types import ForkedNode, GpuState, Licence, LicenceStage, LinkState, NodeStatus
from agent.hub.metrics import families
from agent.telemetry.metrictext import openmetrics
from tests.fakes.agent import node
from tests.fakes.openmetrics import names, parsed, value

NODES = [
    NodeStatus(name="n1", link=LinkState.UP, age_s=0.5, node=node("n1", 4)),
    NodeStatus(name="n2", link=LinkState.LOST, age_s=90.0, reason="cable pulled", node=node("n2", 8)),
]


def render(statuses: list[NodeStatus], licence: Licence | None) -> str:
    return openmetrics(families(statuses, licence, "lab", 1000.0))


def test_a_node_that_is_away_shows_its_link_and_age_and_no_old_values() -> None:
    series = parsed(render(NODES, None))
    states = {state: value(series, "stoker_node_link", node="n2", state=state) for state in LinkState}
    assert states == {**dict.fromkeys(LinkState, 0), LinkState.LOST: 1}
    assert value(series, "stoker_node_age_seconds", node="n2") == 90
    assert value(series, "stoker_node_gpus_free", node="n1") == 4
    assert {name for name, labels in series if ("node", "n2") in labels} == {
        "stoker_node_link",
        "stoker_node_age_seconds",
    }


def test_the_licence_as_the_licensing_design_names_it() -> None:
    licence = Licence(
        stage=LicenceStage.GRACE,
        message="m",
        licence_id="L1",
        seats_total=8,
        seats_used=5,
        expires_at=1_800_000_000,
        restricted_at=1_801_000_000,
    )
    series = parsed(render(NODES, licence))
    assert value(series, "lic_seats", unit="gpu", state="total") == 8
    assert value(series, "lic_seats", unit="gpu", state="used") == 5
    stages = {stage: value(series, "lic_stage", stage=stage) for stage in LicenceStage}
    assert stages == {**dict.fromkeys(LicenceStage, 0), LicenceStage.GRACE: 1}
    assert value(series, "lic_expires_timestamp") == 1_800_000_000
    assert value(series, "lic_grace_ends_timestamp") == 1_801_000_000


def test_every_metric_that_the_design_lists_is_there_for_a_licence_that_has_it() -> None:
    """`lic_hub_unreachable_seconds` is a node's own, and on its page."""
    licence = Licence(
        stage=LicenceStage.ACTIVE, message="m", licence_id="L1", seats_total=8, seats_used=9, seats_borrowed=2,
        seats_overdraft=1, expires_at=1, restricted_at=2, report_by=3, prepaid_gpu_seconds_left=-4, clock_rollbacks=5,
        epoch=1, epoch_heard=2, forked=(ForkedNode(node="n2", of="n1", seq=3, since=4),),
    )  # fmt: skip
    series = parsed(render(NODES, licence))
    states = ("total", "used", "borrowed", "overdraft")
    seats = {state: value(series, "lic_seats", unit="gpu", state=state) for state in states}
    assert seats == {"total": 8, "used": 9, "borrowed": 2, "overdraft": 1}
    told = [
        value(series, name)
        for name in (
            "lic_expires_timestamp",
            "lic_grace_ends_timestamp",
            "lic_report_by_timestamp",
            "lic_prepaid_gpu_seconds_left",
            "lic_clock_rollback_total",
            "lic_hub_superseded",
            "lic_nodes_forked",
        )
    ]
    assert told == [1, 2, 3, -4, 5, 1, 1]


@pytest.mark.parametrize("licence", [None, Licence(stage=LicenceStage.RESTRICTED, message="no licence")])
def test_without_a_licence_there_is_nothing_to_raise_an_alarm(licence: Licence | None) -> None:
    assert not {name for name in names(parsed(render(NODES, licence))) if name.startswith("lic_")}


def test_incidents_states_and_held_gpus_of_each_node_are_counted_and_it_says_whose_hub_it_is() -> None:
    own = node("n1", 4)
    held = [
        msgspec.structs.replace(own.gpus[0], job_id=3),
        msgspec.structs.replace(own.gpus[1], state=GpuState.LOST),
        *own.gpus[2:],
    ]
    incident = Incident(
        id=1, node="n1", kind=IncidentKind.ECC, severity=Severity.CRITICAL, what="w", advice="a", opened_at=1, seen_at=1
    )
    ill = msgspec.structs.replace(own, gpus=tuple(held), incidents=(incident,))
    series = parsed(render([NodeStatus(name="n1", link=LinkState.UP, age_s=0.5, node=ill)], None))
    assert value(series, "stoker_node_gpus_held", node="n1") == 1
    assert value(series, "stoker_node_gpu_states", node="n1", state="lost") == 1
    assert value(series, "stoker_node_gpu_states", node="n1", state="ok") == 3
    assert value(series, "stoker_node_incidents_open", node="n1", severity="critical") == 1
    assert value(series, "stoker_node_incidents_open", node="n1", severity="info") == 0
    assert value(series, "stoker_hub_info", cluster="lab", version=__version__) == 1
    assert value(series, "stoker_hub_page_timestamp_seconds") == 1000
