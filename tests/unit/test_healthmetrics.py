"""Incidents as metrics: what is open goes when it is over, and what was is counted for good."""

from __future__ import annotations

import msgspec

from agent.api.health import Incident, IncidentKind, Severity
from agent.telemetry.healthmetrics import Tally, health_families
from agent.telemetry.metrictext import openmetrics
from agent.telemetry.openmetrics import More
from tests.fakes.openmetrics import Series, names, parsed, value


def incident(number: int = 1, kind: IncidentKind = IncidentKind.XID, **more: object) -> Incident:
    given = {
        "id": number,
        "node": "n1",
        "kind": kind,
        "severity": Severity.CRITICAL,
        "gpu_uuid": "GPU-0",
        "gpu_index": 0,
        "code": 79,
        "what": "w",
        "advice": "a",
        "opened_at": 900 + number,
        "seen_at": 950,
    }
    return msgspec.convert({**given, **more}, Incident)


def xid() -> More:
    """A page with an XID that came after the agent began."""
    tally = Tally()
    tally.look([])
    tally.look([incident()])
    return More(incidents=[incident()], tally=tally)


def page(known: list[Incident], tally: Tally) -> Series:
    tally.look(known)
    return parsed(openmetrics(health_families(known, tally)))


def test_an_open_incident_has_a_series_that_goes_with_it() -> None:
    tally = Tally()
    labels = {"kind": "xid", "severity": "critical", "gpu": "0", "uuid": "GPU-0", "job_id": "", "user": ""}
    series = page([incident(), incident(2)], tally)
    assert value(series, "stoker_incident_opened_timestamp_seconds", acknowledged="no", **labels) == 901
    assert value(series, "stoker_incidents_open", severity="critical") == 2
    assert value(series, "stoker_incidents_open", severity="info") == 0
    series = page([incident(cleared_at=999), incident(2, acknowledged_at=5)], tally)
    assert value(series, "stoker_incident_opened_timestamp_seconds", acknowledged="yes", **labels) == 902
    assert value(series, "stoker_incidents_open", severity="critical") == 0, "nobody is called for what is acknowledged"
    series = page([incident(cleared_at=999), incident(2, cleared_at=999)], tally)
    assert "stoker_incident_opened_timestamp_seconds" not in names(series)


def test_the_counters_begin_at_zero_with_the_agent_and_never_fall() -> None:
    tally = Tally()
    series = page([incident(1), incident(2, IncidentKind.ECC, cleared_at=1)], tally)
    assert {value(series, "stoker_incidents_total", kind=kind) for kind in IncidentKind} == {0}
    assert "stoker_gpu_xid_errors_total" not in names(series)
    of_gpu = {"gpu": "0", "uuid": "GPU-0", "code": "79"}

    series = page([incident(1, count=3), incident(3), incident(4, IncidentKind.ECC)], tally)
    assert value(series, "stoker_incidents_total", kind="xid") == 1
    assert value(series, "stoker_incidents_total", kind="ecc") == 1
    assert value(series, "stoker_gpu_xid_errors_total", **of_gpu) == 3, "two more of the old one, one new"

    series = page([incident(5, code=31, gpu_index=None, gpu_uuid=None, count=2)], tally)  # the others are forgotten
    assert value(series, "stoker_incidents_total", kind="xid") == 2
    assert value(series, "stoker_gpu_xid_errors_total", **of_gpu) == 3
    assert value(series, "stoker_gpu_xid_errors_total", gpu="", uuid="", code="31") == 2


def test_looking_twice_counts_once() -> None:
    tally = Tally()
    tally.look([])
    tally.look([incident()])
    series = page([incident()], tally)
    assert value(series, "stoker_incidents_total", kind="xid") == 1
    assert value(series, "stoker_gpu_xid_errors_total", gpu="0", uuid="GPU-0", code="79") == 1
