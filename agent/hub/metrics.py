"""The hub's metrics: is each node there, what is free, what is wrong, and the licence.

GPUs are on their node's page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from agent import __version__
from agent.api.health import Severity
from agent.api.types import GpuState, Licence, LicenceStage, LinkState, Node, NodeStatus
from agent.hub.placement import free_gpus
from agent.telemetry.metrictext import Family, counter, gauge, info, openmetrics

_SEATS = (
    "Seats of the licence, by unit: gpu, and how many of node and admin are used; their total where it limits them."
)

_Up = Sequence[tuple[Mapping[str, str], Node]]


def families(statuses: Sequence[NodeStatus], licence: Licence | None, cluster: str, now: float) -> Iterator[Family]:
    """Everything; nothing of a licence while there is none, so that nobody is woken by a site that never bought one.

    Args:
        statuses: the nodes.
        licence: `None` where it cannot be read.
        cluster: the cluster's name.
        now: Unix seconds.
    """
    yield info("stoker_hub", "The hub that answers.", [{"version": __version__, "cluster": cluster}])
    yield gauge("stoker_hub_page_timestamp_seconds", "When this page was made, Unix time.", [({}, now)], "seconds")
    yield from _nodes(statuses)
    yield from _licence(licence if licence is not None and licence.licence_id is not None else None)


def of_licence(licence: Licence) -> str:
    """The licence's part alone, as a page of its own: what `stoker-license status --metrics` prints."""
    return openmetrics(_licence(licence) if licence.licence_id is not None else ())


def _nodes(statuses: Sequence[NodeStatus]) -> Iterator[Family]:
    links = [
        ({"node": status.name, "state": state.value}, int(status.link is state))
        for status in statuses
        for state in LinkState
    ]
    yield gauge("stoker_node_link", "1 for the state of the hub's link to the node, 0 for the others.", links)
    ages = [({"node": status.name}, status.age_s) for status in statuses]
    yield gauge("stoker_node_age_seconds", "Time since the node's last word.", ages, "seconds")
    up = [
        ({"node": status.name}, status.node)
        for status in statuses
        if status.link is LinkState.UP and status.node is not None
    ]
    yield from _gpus(up)
    for name, text, counts in (
        ("jobs_running", "Jobs that run.", [(where, node.jobs_running) for where, node in up]),
        ("jobs_pending", "Jobs that wait.", [(where, node.jobs_pending) for where, node in up]),
        (
            "drained",
            "1 if the whole node takes no new job.",
            [(where, int(node.drain is not None)) for where, node in up],
        ),
    ):
        yield gauge(f"stoker_node_{name}", text, counts)
    open_ = [
        ({**where, "severity": severity.value}, sum(each.severity is severity for each in node.incidents))
        for where, node in up
        for severity in Severity
    ]
    yield gauge("stoker_node_incidents_open", "Incidents that are open, acknowledged ones too.", open_)


def _gpus(up: _Up) -> Iterator[Family]:
    """GPUs of the nodes that are up, counted."""
    yield gauge("stoker_node_gpus", "GPUs of a node that is up.", [(where, len(node.gpus)) for where, node in up])
    free = [(where, free_gpus(node)) for where, node in up]
    yield gauge("stoker_node_gpus_free", "GPUs on which a new job could start now.", free)
    held = [(where, sum(gpu.job_id is not None for gpu in node.gpus)) for where, node in up]
    yield gauge("stoker_node_gpus_held", "GPUs that jobs hold.", held)
    counted = [(where, Counter(gpu.state.value for gpu in node.gpus)) for where, node in up]
    states = [({**where, "state": state.value}, count[state.value]) for where, count in counted for state in GpuState]
    yield gauge("stoker_node_gpu_states", "GPUs of a node that is up, by state.", states)


def _licence(licence: Licence | None) -> Iterator[Family]:
    counts = {}
    if licence is not None:
        counts = {"total": licence.seats_total, "used": licence.seats_used}
        counts |= {"borrowed": licence.seats_borrowed, "overdraft": licence.seats_overdraft}
    seats = [({"unit": "gpu", "state": state}, count) for state, count in counts.items()]
    for each in licence.units if licence is not None else ():
        seats.append(({"unit": each.unit, "state": "used"}, each.used))
        if each.limit is not None:
            seats.append(({"unit": each.unit, "state": "total"}, each.limit))
    yield gauge("lic_seats", _SEATS, seats)
    stages = [] if licence is None else [({"stage": each.value}, int(licence.stage is each)) for each in LicenceStage]
    yield gauge("lic_stage", "1 for the stage the licence is in, 0 for the others.", stages)
    held = [] if licence is None else [({"node": each.node}, len(each.gpu_uuids)) for each in licence.holders]
    yield gauge("lic_seats_held", "Seats that a node holds.", held)
    for name, text, when in (
        ("expires", "Unix time at which the licence expires.", None if licence is None else licence.expires_at),
        ("grace_ends", "Unix time from which new jobs are held.", None if licence is None else licence.restricted_at),
        (
            "report_by",
            "Unix time by which a usage report must be acknowledged.",
            None if licence is None else licence.report_by,
        ),
    ):
        yield gauge(f"lic_{name}_timestamp", text, [({}, when)])
    left = None if licence is None else licence.prepaid_gpu_seconds_left
    text = "Prepaid GPU-seconds not used yet; below 0 in grace."
    yield gauge("lic_prepaid_gpu_seconds_left", text, [({}, left)])
    superseded = None if licence is None else int(licence.epoch_heard > licence.epoch)
    text = "1 if another hub of this site took over and this one gives no leases (LIC-424)."
    yield gauge("lic_hub_superseded", text, [({}, superseded)])
    text = "Nodes that show the identity of another machine and get no further lease (LIC-423)."
    yield gauge("lic_nodes_forked", text, [({}, None if licence is None else len(licence.forked))])
    text = "Times since the hub's start that its clock was seen behind what was signed and seen."
    yield counter("lic_clock_rollback", text, [({}, None if licence is None else licence.clock_rollbacks)])
