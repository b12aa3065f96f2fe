"""How a job goes over the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from agent.api import types
from agent.api.queue import JobUsage, PriorityParts
from agent.jobs import dependency, environ
from agent.jobs.row import JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a waiting job stands, by the scheduler's last word."""

    why: tuple[str, str] | None = None
    """Slurm's word and the sentence; wins over the stored ones."""
    priority: PriorityParts | None = None
    expected_start_at: int | None = None
    awaited: str | None = None
    """What of its dependency is still awaited; `None`: not judged yet, or fulfilled."""
    fulfilled: bool = False
    """Nothing of it is."""


OF_ROW = ("id", "user", "submitted_at", "array_job_id", "array_task_id", "cron_id", "revision")
OF_STATUS = ("state", "gpu_uuids", "started_at", "ended_at", "exit_code", "signal", "attempt")
OF_SPEC = (
    *("name", "gpus", "cpus_per_task", "memory_bytes", "time_limit_s", "requeue", "work_dir", "account", "partition"),
    *("qos", "comment", "tasks", "shards", "exclusive", "reservation", "begin_at", "deadline_at", "nice", "submit_dir"),
    "mail_types",
)
"""Fields that have the same name, type and meaning in `types.Job`."""

_SAME = (*OF_ROW, *OF_STATUS, *OF_SPEC)
_of_row, _of_status, _of_spec = attrgetter(*OF_ROW), attrgetter(*OF_STATUS), attrgetter(*OF_SPEC)


def to_wire(
    row: JobRow,
    node: str,
    *,
    standing: Standing | None = None,
    note: str | None = None,
    gpu_indexes: Mapping[str, int] | None = None,
    log_bytes: int | None = None,
    simulated: bool = False,
    usage: JobUsage | None = None,
) -> types.Job:
    """A job as its users see it.

    Args:
        row: the job.
        node: this node's name.
        standing: of a job that waits.
        note: told of a job that runs and has nothing else to tell.
        gpu_indexes: NVML index of each GPU by UUID, as of now; a GPU that is not there is left out.
        log_bytes: length of everything the job wrote.
        simulated: the GPUs held are simulated ones.
        usage: what it made of its GPUs.
    """
    pending = row.status.state is types.JobState.PENDING
    output, error = _paths(row, node)
    return types.Job(
        **dict(zip(_SAME, (*_of_row(row), *_of_status(row.status), *_of_spec(row.spec)), strict=True)),
        **_place(row, (standing or Standing()) if pending else Standing(), note),
        node=node,
        gpu_indexes=_indexes(row, gpu_indexes or {}),
        output_path=output,
        error_path=error,
        log_bytes=log_bytes,
        simulated=simulated,
        array_text=row.spec.array.text if row.spec.array else None,
        sweep=_sweep(row),
        command=row.spec.script_name,
        usage=usage,
    )


def _place(row: JobRow, standing: Standing, note: str | None) -> dict[str, Any]:
    """Why a job waits, for what, and from where in the queue; what there is to tell of one that runs or ended."""
    pending, held = row.status.state is types.JobState.PENDING, row.spec.held is not None
    reason, detail = standing.why or (row.status.reason, row.status.detail)
    if row.status.state is types.JobState.RUNNING and detail is None:
        detail = note
    priority = standing.priority.total if standing.priority else None
    return {
        "reason": reason,
        "detail": detail,
        "dependency": _awaited(row, standing) if pending else None,
        "held": held,
        "priority": 0 if held and pending else priority,
        "priority_parts": standing.priority,
        "expected_start_at": standing.expected_start_at,
    }


def _paths(row: JobRow, node: str) -> tuple[str | None, str | None]:
    """The output's files, once it began."""
    if not row.status.attempt:
        return None, None
    array = None
    if row.array_job_id is not None and row.array_task_id is not None:
        array = environ.ArrayTask(job_id=row.array_job_id, task_id=row.array_task_id)
    names = environ.pattern_names(row.spec, job_id=row.id, user=row.user, node=node, array=array)
    return environ.output_path(row.spec, names), environ.error_path(row.spec, names)


def _indexes(row: JobRow, indexes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sorted(indexes[uuid] for uuid in row.status.gpu_uuids if uuid in indexes))


def _sweep(row: JobRow) -> dict[str, str]:
    return row.spec.sweep_values(row.array_task_id) if row.spec.sweep and row.array_task_id is not None else {}


def _awaited(row: JobRow, standing: Standing) -> str | None:
    if row.spec.dependency is None or standing.fulfilled:
        return None
    return standing.awaited or dependency.text(row.spec.dependency)
