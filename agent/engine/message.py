"""A notice: one message on its way to the command and the URL of `[hooks]`, of a job or of an incident. Pure.

`courier` delivers them, `notices` makes those of jobs, `incidents` those of what is wrong with the node. A receiver
tells them apart by `event`: what is of an incident begins with `INCIDENT_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from agent.api.health import Incident, Severity
from agent.api.types import Job
from agent.jobs.notice import sentence

SEVERITIES = (Severity.INFO, Severity.WARNING, Severity.CRITICAL)
"""From the least."""
_ADMINS = "admins"
"""Whom an incident's notice is for, where a job's has a name."""


class IncidentEvent(StrEnum):
    """What is told of an incident."""

    OPENED = "INCIDENT_OPENED"
    WORSE = "INCIDENT_WORSE"
    """Graver than it was."""
    ACKNOWLEDGED = "INCIDENT_ACKNOWLEDGED"
    CLEARED = "INCIDENT_CLEARED"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One message on its way. It is of a job or of an incident."""

    id: str
    """`JOB-ATTEMPT-EVENT` or `incident-NUMBER-EVENT`: the same event is the same notice."""
    event: str
    at: int
    job: Job | None = None
    incident: Incident | None = None
    mail_user: str | None = None
    text: str
    tries: int = 0
    next_at: int = 0
    """Not tried before, Unix seconds."""
    error: str | None = None
    """Of the last try."""

    @property
    def to(self) -> str:
        """Whom it is for."""
        return self.mail_user or (self.job.user if self.job is not None else _ADMINS)

    def body(self, cluster: str) -> bytes:
        """The JSON that the command reads and the URL is sent."""
        about = {"job": self.job} if self.job is not None else {"incident": self.incident}
        head = {"event": self.event, "id": self.id, "time": self.at, "cluster": cluster}
        return msgspec.json.encode({**head, "mail_user": self.to, "text": self.text, **about})

    def environ(self) -> dict[str, str]:
        """What the command is told beside."""
        found = {"STOKER_EVENT": self.event}
        if self.job is not None:
            found["STOKER_JOB_ID"] = str(self.job.id)
        if self.incident is not None:
            found |= {"STOKER_INCIDENT_ID": str(self.incident.id), "STOKER_SEVERITY": self.incident.severity.value}
        return found


def of_job(job: Job, event: str, at: int, mail_user: str | None = None) -> Notice:
    """The message of a job's event."""
    number = f"{job.id}-{job.attempt}-{event}"
    return Notice(id=number, event=event, at=at, job=job, mail_user=mail_user, text=sentence(job, event))


def of_incident(incident: Incident, event: IncidentEvent, at: int) -> Notice:
    """The message of an incident's event. One that gets worse twice is told of twice."""
    last = f"-{incident.severity}" if event is IncidentEvent.WORSE else ""
    number = f"incident-{incident.id}-{event.removeprefix('INCIDENT_')}{last}"
    return Notice(id=number, event=event.value, at=at, incident=incident, text=_of_incident(incident, event))


def wants(incident: Incident, least: str) -> bool:
    """Whether one so grave is told of, where `hooks.notify_incidents` names the least severity, or `off`."""
    return least in SEVERITIES and _rank(incident.severity) >= _rank(Severity(least))


def worse(before: Severity, now: Severity) -> bool:
    """Whether an incident became graver."""
    return _rank(now) > _rank(before)


def _rank(severity: Severity, among: Sequence[Severity] = SEVERITIES) -> int:
    return among.index(severity) if severity in among else 0


def _of_incident(incident: Incident, event: IncidentEvent) -> str:
    whose = f"incident {incident.id} on {incident.node}"
    hit = f", job {incident.job_id} of {incident.user}" if incident.job_id is not None else ""
    if event is IncidentEvent.CLEARED:
        return f"{whose} is over: {incident.what}"
    if event is IncidentEvent.ACKNOWLEDGED:
        return f"{whose} was seen by {incident.acknowledged_by}: {incident.what}"
    again = " got worse" if event is IncidentEvent.WORSE else ""
    return f"{whose}{again} ({incident.severity}{hit}): {incident.what}; {incident.advice}"
