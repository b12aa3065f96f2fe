"""A job's row: what is known of a job, and the columns it is kept in."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from agent.api.types import JobState
from agent.jobs.machine import Status
from agent.jobs.spec import JobSpec

COLUMNS: dict[str, type] = {
    "id": int,
    "user": str,
    "uid": int,
    "key": str,
    "digest": str,
    "submitted_at": int,
    "spec": str,
    "spec_sha256": str,
    "revision": int,
    "state": str,
    "reason": str,
    "detail": str,
    "attempt": int,
    "gpu_uuids": str,
    "started_at": int,
    "ended_at": int,
    "exit_code": int,
    "signal": int,
    "cancelled_by": str,
}
"""Of the table `jobs`. `spec` and `gpu_uuids` are JSON."""

NULLABLE = frozenset({"key", "reason", "detail", "started_at", "ended_at", "exit_code", "signal", "cancelled_by"})
STATUS_COLUMNS = tuple(field.name for field in fields(Status) if field.name != "requeue")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """All that the store knows of a job: who asked for what, and what has become of it."""

    id: int
    user: str
    uid: int
    key: str | None
    """The idempotency key it was submitted with."""
    digest: str
    """Of the request that came with the key: a retry must be the same."""
    submitted_at: int
    spec: JobSpec
    status: Status
    revision: int = 0
    """Goes up with every event; guards an `apply` that was decided on an older view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One line of a job's history."""

    at: int
    event: str
    """Name of the event, `Submitted` first."""
    state: JobState
    """The state it led to."""
    detail: str | None = None

    def __str__(self) -> str:
        return f"{self.event} at {self.at} -> {self.state}" + (f" ({self.detail})" if self.detail else "")


def spec_columns(spec: JobSpec) -> dict[str, Any]:
    """The columns that hold a spec; written once."""
    body = msgspec.json.encode(spec)
    return {"spec": body.decode(), "spec_sha256": hashlib.sha256(body).hexdigest()}


def status_columns(status: Status) -> dict[str, Any]:
    """The columns that change with every event."""
    values = {name: getattr(status, name) for name in STATUS_COLUMNS}
    return {**values, "state": str(status.state), "gpu_uuids": msgspec.json.encode(status.gpu_uuids).decode()}


def spec_is_sound(spec: str, sha256: str) -> bool:
    """Whether a stored spec is what was written."""
    return hashlib.sha256(spec.encode()).hexdigest() == sha256


def read_row(row: sqlite3.Row) -> JobRow:
    """Make a `JobRow` of a line of `SELECT * FROM jobs`."""
    spec = msgspec.json.decode(row["spec"], type=JobSpec)
    status = Status(
        state=JobState(row["state"]),
        reason=row["reason"],
        detail=row["detail"],
        requeue=spec.requeue,
        attempt=row["attempt"],
        gpu_uuids=msgspec.json.decode(row["gpu_uuids"], type=tuple[str, ...]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        signal=row["signal"],
        cancelled_by=row["cancelled_by"],
    )
    return JobRow(
        id=row["id"],
        user=row["user"],
        uid=row["uid"],
        key=row["key"],
        digest=row["digest"],
        submitted_at=row["submitted_at"],
        spec=spec,
        status=status,
        revision=row["revision"],
    )
