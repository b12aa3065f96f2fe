"""From a finding to the incident that is kept of it, and back: values only, nothing is stored or done here."""

from __future__ import annotations

import msgspec

from agent.api.health import Incident, IncidentKind
from agent.telemetry.watch import Finding


def opened(node: str, number: int, finding: Finding, now: int) -> Incident:
    """What a finding opens."""
    return Incident(
        id=number,
        node=node,
        kind=finding.kind,
        severity=finding.severity,
        gpu_uuid=finding.gpu_uuid,
        gpu_index=finding.gpu_index,
        job_id=finding.job_id,
        user=finding.user,
        pid=finding.pid,
        code=finding.code,
        what=finding.what,
        advice=finding.advice,
        opened_at=now,
        seen_at=now,
        count=max(1, finding.times),
    )


def seen_again(incident: Incident, finding: Finding, now: int) -> Incident:
    """An open one, by what is found of it now; only an XID that happens again counts again."""
    return msgspec.structs.replace(
        incident,
        severity=finding.severity,
        job_id=finding.job_id,
        user=finding.user,
        pid=finding.pid,
        what=finding.what,
        advice=finding.advice,
        seen_at=now,
        count=incident.count + (finding.times if finding.kind is IncidentKind.XID else 0),
    )


def finding_of(incident: Incident) -> Finding:
    """What an incident was opened for, to go on from after a restart."""
    return Finding(
        kind=incident.kind,
        severity=incident.severity,
        what=incident.what,
        advice=incident.advice,
        gpu_uuid=incident.gpu_uuid,
        gpu_index=incident.gpu_index,
        job_id=incident.job_id,
        user=incident.user,
        pid=incident.pid,
        code=incident.code,
    )
