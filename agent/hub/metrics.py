"""The hub's OpenMetrics page: is each node there, what is free, and the licence. GPUs are on their node's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.api.types import Licence, LicenceStage, LinkState, NodeStatus
from agent.hub.placement import free_gpus
from agent.telemetry.openmetrics import gauge, page


def render(statuses: Sequence[NodeStatus], licence: Licence | None) -> str:
    """The page; nothing of a licence while there is none, so that nobody is woken by a site that never bought one."""
    parts = [_nodes(statuses)]
    if licence is not None and licence.licence_id is not None:
        parts.append(_licence(licence))
    return page(*parts)


def of_licence(licence: Licence) -> str:
    """The licence's part alone, as a page of its own: what `stoker-license status --metrics` prints."""
    return page(_licence(licence)) if licence.licence_id is not None else page()


def _nodes(statuses: Sequence[NodeStatus]) -> Iterator[str]:
    links = [
        ({"node": status.name, "state": state.value}, int(status.link is state))
        for status in statuses
        for state in LinkState
    ]
    yield from gauge("stoker_node_link", "1 for the state of the hub's link to the node, 0 for the others.", links)
    ages = [(_of(status), status.age_s) for status in statuses]
    yield from gauge("stoker_node_age_seconds", "Time since the node's last word.", ages, "seconds")
    up = [(_of(status), status.node) for status in statuses if status.link is LinkState.UP and status.node is not None]
    gpus = [(where, len(node.gpus)) for where, node in up]
    yield from gauge("stoker_node_gpus", "GPUs of a node that is up.", gpus)
    free = [(where, free_gpus(node)) for where, node in up]
    yield from gauge("stoker_node_gpus_free", "GPUs on which a new job could start now.", free)
    running = [(where, node.jobs_running) for where, node in up]
    yield from gauge("stoker_node_jobs_running", "Jobs that run.", running)
    pending = [(where, node.jobs_pending) for where, node in up]
    yield from gauge("stoker_node_jobs_pending", "Jobs that wait.", pending)


def _licence(licence: Licence) -> Iterator[str]:
    counts = {"total": licence.seats_total, "used": licence.seats_used}
    counts |= {"borrowed": licence.seats_borrowed, "overdraft": licence.seats_overdraft}
    seats = [({"unit": "gpu", "state": state}, count) for state, count in counts.items()]
    yield from gauge("lic_seats", "Seats of the licence.", seats)
    stages = [({"stage": stage.value}, int(licence.stage is stage)) for stage in LicenceStage]
    yield from gauge("lic_stage", "1 for the stage the licence is in, 0 for the others.", stages)
    for name, text, when in (
        ("expires", "Unix time at which the licence expires.", licence.expires_at),
        ("grace_ends", "Unix time from which new jobs are held.", licence.restricted_at),
        ("report_by", "Unix time by which a usage report must be acknowledged.", licence.report_by),
    ):
        yield from gauge(f"lic_{name}_timestamp", text, [({}, when)])
    text, left = "Prepaid GPU-seconds not used yet; below 0 in grace.", licence.prepaid_gpu_seconds_left
    yield from gauge("lic_prepaid_gpu_seconds_left", text, [({}, left)])


def _of(status: NodeStatus) -> Mapping[str, str]:
    return {"node": status.name}
