"""What is wrong with GPUs as metrics: what is open now, and how often each kind has been since the agent began.

A counter has to grow for ever while incidents that are over are forgotten one day, so `Tally` counts them as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from agent.api.health import Incident, IncidentKind, Severity
from agent.telemetry.metrictext import Family, Labels, counter, gauge


class Tally:
    """Counts incidents and XIDs."""

    def __init__(self) -> None:
        self._seen: dict[int, int] | None = None
        """Incident → how often it had been seen; `None` before the first look, which counts nothing."""
        self._newest = 0
        self.opened: Counter[str] = Counter()
        """By kind."""
        self.xids: Counter[tuple[str, str, str]] = Counter()
        """By GPU index, UUID and code."""

    def look(self, known: Sequence[Incident]) -> None:
        """Count what is new; `known` are those that are open and those that were, as far as they are kept."""
        begun = self._seen is not None
        seen = self._seen or {}
        for each in known:
            if begun and each.id > self._newest:
                self.opened[each.kind.value] += 1
            if begun and each.kind is IncidentKind.XID:
                self.xids[_xid(each)] += each.count - seen.get(each.id, each.count if each.id <= self._newest else 0)
        self._seen = {each.id: each.count for each in known}
        self._newest = max([self._newest, *self._seen])


def health_families(known: Sequence[Incident], tally: Tally) -> Iterator[Family]:
    """What is open, and the counts."""
    still = [each for each in known if each.cleared_at is None]
    by_severity = Counter(each.severity.value for each in still if each.acknowledged_at is None)
    counts = [({"severity": severity.value}, by_severity[severity.value]) for severity in Severity]
    yield gauge("stoker_incidents_open", "Incidents that are open and that nobody has acknowledged.", counts)
    since: dict[tuple[tuple[str, str], ...], int] = {}
    for each in still:
        key = tuple(_labels(each).items())
        since[key] = min(each.opened_at, since.get(key, each.opened_at))
    opened = [(dict(key), at) for key, at in since.items()]
    yield gauge(
        "stoker_incident_opened_timestamp_seconds", "When an incident that is open began, Unix time.", opened, "seconds"
    )
    kinds = [({"kind": kind.value}, tally.opened[kind.value]) for kind in IncidentKind]
    yield counter("stoker_incidents", "Incidents opened since the agent began.", kinds)
    xids = [
        ({"gpu": gpu, "uuid": uuid, "code": code}, count) for (gpu, uuid, code), count in sorted(tally.xids.items())
    ]
    yield counter("stoker_gpu_xid_errors", "XIDs of the driver since the agent began.", xids)


def _labels(each: Incident) -> Labels:
    return {
        "kind": each.kind.value,
        "severity": each.severity.value,
        "gpu": "" if each.gpu_index is None else str(each.gpu_index),
        "uuid": each.gpu_uuid or "",
        "job_id": "" if each.job_id is None else str(each.job_id),
        "user": each.user or "",
        "acknowledged": "yes" if each.acknowledged_at is not None else "no",
    }


def _xid(each: Incident) -> tuple[str, str, str]:
    index = "" if each.gpu_index is None else str(each.gpu_index)
    return index, each.gpu_uuid or "", "" if each.code is None else str(each.code)
