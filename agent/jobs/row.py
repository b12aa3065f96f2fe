"""A job's row: what is known of a job, and the columns it is kept in."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec

from agent.api.decode import decode
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
    "folder_id": int,
    "array_job_id": int,
    "array_task_id": int,
    "cron_id": int,
    "eligible_at": int,
    "spec_sha256": str,
    "name": str,
    "account": str,
    "partition": str,
    "qos": str,
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
    "wish": str,
}
"""Of the table `jobs`. `gpu_uuids` is JSON; the spec itself is in `specs`, once for all jobs that have the same.
`partition` is what the job is listed under: all that it names while it waits, the one that it was given since."""

STATUS_COLUMNS = tuple(field.name for field in fields(Status) if field.name not in ("requeue", "partition"))
SPEC_COLUMNS = ("spec_sha256", "name", "account", "partition", "qos")
_ALWAYS = {
    *("id", "user", "uid", "digest", "submitted_at", "folder_id", "spec_sha256", "name"),
    *("revision", "state", "attempt", "gpu_uuids"),
}
NULLABLE = frozenset(COLUMNS) - _ALWAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """All that the store knows of a job: who asked for what, and what has become of it."""

    id: int
    user: str
    uid: int
    key: str | None
    """The idempotency key it was submitted with; of an array, the first task's."""
    digest: str
    """Of the request that came with the key: a retry must be the same."""
    submitted_at: int
    spec: JobSpec
    """What it asks for now; all tasks of an array share one object until one of them is changed."""
    status: Status
    revision: int = 0
    """Goes up with every change; guards an `apply` that was decided on an older view."""
    folder_id: int
    """Where its script, spec and environment are: `jobs/FOLDER_ID`; its own id, or that of its array's first task."""
    array_job_id: int | None = None
    """Id of the array's first task; `None` for a job that is no array."""
    array_task_id: int | None = None
    cron_id: int | None = None
    """The recurring job that made it."""
    eligible_at: int | None = None
    """From when on it counts as waiting: its submit, its `--begin`, or when its dependency was fulfilled; `None` until
    then."""

    @property
    def partition(self) -> str | None:
        """All that it names, with commas, while it waits; then the one it was given."""
        return self.status.partition or self.spec.partition

    @property
    def names_several(self) -> bool:
        """Partitions, of which it is given one."""
        return "," in (self.spec.partition or "")


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


def encode_spec(spec: JobSpec) -> tuple[str, str]:
    """A spec as it is kept, and its digest, by which it is found."""
    body = msgspec.json.encode(spec)
    return body.decode(), hashlib.sha256(body).hexdigest()


def decode_spec(body: str) -> JobSpec:
    """A spec as it was kept."""
    return decode(body, JobSpec)


def spec_columns(row: JobRow, sha256: str) -> dict[str, Any]:
    """The columns that tell of a spec; the last four are there to be looked for."""
    spec = row.spec
    return {
        "spec_sha256": sha256,
        "name": spec.name,
        "account": spec.account,
        "partition": row.partition,
        "qos": spec.qos,
    }


def status_columns(row: JobRow) -> dict[str, Any]:
    """The columns that change with every event."""
    status = row.status
    values = {name: getattr(status, name) for name in STATUS_COLUMNS}
    gpu_uuids = msgspec.json.encode(status.gpu_uuids).decode()
    return {**values, "state": str(status.state), "gpu_uuids": gpu_uuids, "partition": row.partition}


def job_columns(row: JobRow, sha256: str) -> dict[str, Any]:
    """All columns of a row."""
    names = ("id", "user", "uid", "key", "digest", "submitted_at", "revision", "folder_id")
    more = ("array_job_id", "array_task_id", "cron_id", "eligible_at")
    return {
        **{name: getattr(row, name) for name in (*names, *more)},
        **spec_columns(row, sha256),
        **status_columns(row),
    }


def columns_of(rows: Sequence[JobRow], sha256: str) -> Iterator[dict[str, Any]]:
    """All columns of the rows of one submission, just made, which differ in who they are alone."""
    common = job_columns(rows[0], sha256)
    for row in rows:
        yield {**common, "id": row.id, "key": row.key, "array_task_id": row.array_task_id}


def eligible_at(spec: JobSpec, submitted_at: int) -> int | None:
    """From when on a job ages, as far as that is known when it is taken in."""
    return None if spec.dependency is not None else max(submitted_at, spec.begin_at or 0)


def new_rows(
    first_id: int,
    spec: JobSpec,
    *,
    user: str,
    uid: int,
    key: str | None,
    digest: str,
    submitted_at: int,
    cron_id: int | None = None,
) -> list[JobRow]:
    """The rows of a submission: one, or one for each task of its array, with ids that follow each other."""
    tasks: Sequence[int | None] = spec.array.tasks if spec.array else (None,)
    status, counts_from = Status(requeue=spec.requeue), eligible_at(spec, submitted_at)
    return [
        JobRow(
            id=first_id + place,
            user=user,
            uid=uid,
            key=None if place else key,
            digest=digest,
            submitted_at=submitted_at,
            spec=spec,
            status=status,
            folder_id=first_id,
            array_job_id=first_id if spec.array else None,
            array_task_id=task,
            cron_id=cron_id,
            eligible_at=counts_from,
        )
        for place, task in enumerate(tasks)
    ]


def spec_is_sound(spec: str, sha256: str) -> bool:
    """Whether a stored spec is what was written."""
    return hashlib.sha256(spec.encode()).hexdigest() == sha256


def read_row(row: sqlite3.Row | Mapping[str, Any], spec: JobSpec) -> JobRow:
    """Make a `JobRow` of a line of `SELECT * FROM jobs` and the spec it names."""
    gpu_uuids = row["gpu_uuids"]
    status = Status(
        state=JobState(row["state"]),
        reason=row["reason"],
        detail=row["detail"],
        requeue=spec.requeue,
        attempt=row["attempt"],
        gpu_uuids=() if gpu_uuids == "[]" else decode(gpu_uuids, tuple[str, ...]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        signal=row["signal"],
        cancelled_by=row["cancelled_by"],
        wish=row["wish"],
        partition=row["partition"] if row["partition"] != spec.partition else None,
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
        folder_id=row["folder_id"],
        array_job_id=row["array_job_id"],
        array_task_id=row["array_task_id"],
        cron_id=row["cron_id"],
        eligible_at=row["eligible_at"],
    )


def amended(row: JobRow, spec: JobSpec, now: int) -> JobRow:
    """The row with another spec. It ages anew if it may begin at another time, or waits for another job."""
    status, eligible = replace(row.status, requeue=spec.requeue), row.eligible_at
    if (row.spec.begin_at, row.spec.dependency) != (spec.begin_at, spec.dependency):
        eligible = eligible_at(spec, now if row.spec.dependency is not None else row.submitted_at)
    return replace(row, spec=spec, status=status, revision=row.revision + 1, eligible_at=eligible)
