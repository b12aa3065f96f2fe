"""The hub's OpenMetrics page: is each node there, what is free, and the licence. A GPU's values are on its node's page.

Labels hold names that the configuration has checked (letters, digits, `._-`) and our own words: nothing to escape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.api.types import Licence, LicenceStage, LinkState, NodeStatus
from agent.hub.placement import free_gpus

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_Samples = Sequence[tuple[str, float | None]]
"""Labels in braces, or nothing, and the value; one without a value is left out."""


def render(statuses: Sequence[NodeStatus], licence: Licence | None) -> str:
    """The page; nothing of a licence while there is none, so that nobody is woken by a site that never bought one."""
    lines = list(_nodes(statuses))
    if licence is not None and licence.licence_id is not None:
        lines += _licence(licence)
    return "\n".join([*lines, "# EOF", ""])


def _nodes(statuses: Sequence[NodeStatus]) -> Iterator[str]:
    links = [
        (f'{{node="{status.name}",state="{state}"}}', int(status.link is state))
        for status in statuses
        for state in LinkState
    ]
    yield from _gauge("stoker_node_link", "1 for the state of the hub's link to the node, 0 for the others.", links)
    ages = [(_of(status), status.age_s) for status in statuses]
    yield from _gauge("stoker_node_age_seconds", "Time since the node's last word.", ages)
    up = [(_of(status), status.node) for status in statuses if status.link is LinkState.UP and status.node is not None]
    gpus = [(where, len(node.gpus)) for where, node in up]
    yield from _gauge("stoker_node_gpus", "GPUs of a node that is up.", gpus)
    free = [(where, free_gpus(node)) for where, node in up]
    yield from _gauge("stoker_node_gpus_free", "GPUs on which a new job could start now.", free)
    running = [(where, node.jobs_running) for where, node in up]
    yield from _gauge("stoker_node_jobs_running", "Jobs that run.", running)
    pending = [(where, node.jobs_pending) for where, node in up]
    yield from _gauge("stoker_node_jobs_pending", "Jobs that wait.", pending)


def _licence(licence: Licence) -> Iterator[str]:
    seats = [('{unit="gpu",state="total"}', licence.seats_total), ('{unit="gpu",state="used"}', licence.seats_used)]
    yield from _gauge("lic_seats", "Seats of the licence.", seats)
    stages = [(f'{{stage="{stage}"}}', int(licence.stage is stage)) for stage in LicenceStage]
    yield from _gauge("lic_stage", "1 for the stage the licence is in, 0 for the others.", stages)
    yield from _gauge("lic_expires_timestamp", "Unix time at which the licence expires.", [("", licence.expires_at)])
    grace = [("", licence.restricted_at)]
    yield from _gauge("lic_grace_ends_timestamp", "Unix time from which new jobs are held.", grace)


def _gauge(name: str, text: str, samples: _Samples) -> Iterator[str]:
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return
    yield f"# TYPE {name} gauge"
    yield f"# HELP {name} {text}"
    for labels, value in known:
        yield f"{name}{labels} {value}"


def _of(status: NodeStatus) -> str:
    return f'{{node="{status.name}"}}'
