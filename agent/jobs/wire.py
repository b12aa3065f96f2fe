"""How a job goes over the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from agent.api import types
from agent.api.queue import JobStep, JobUsage, PriorityParts
from agent.jobs import dependency, environ
from agent.jobs.row import JobRow

_ARGS_MOST = 1000
"""Characters of a script's words that are shown."""


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
    *("name", "gpus", "cpus_per_task", "memory_bytes", "time_limit_s", "requeue", "work_dir", "account"),
    *("qos", "comment", "tasks", "shards", "exclusive", "reservation", "begin_at", "deadline_at", "nice", "submit_dir"),
    *("mail_types", "mail_user", "memory_per_cpu_bytes", "features", "ntasks_per_node", "kill_on_invalid_dep", "wckey"),
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
    warning: tuple[str, int] | None = None,
    steps: Sequence[JobStep] = (),
    started_with: int | None = None,
    node_cpus: int = 1,
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
        warning: what it is stopped for, and when, while it runs.
        steps: what `srun` started in it.
        started_with: the priority that a job which has started had then.
        node_cpus: CPUs of this node, as of now.
    """
    pending = row.status.state is types.JobState.PENDING
    warned = warning if row.status.state is types.JobState.RUNNING else None
    output, error, read_from = _paths(row, node)
    return types.Job(
        **dict(zip(_SAME, (*_of_row(row), *_of_status(row.status), *_of_spec(row.spec)), strict=True)),
        **_place(row, (standing or Standing()) if pending else Standing(), note, started_with),
        node=node,
        partition=row.partition,
        cpus=max(row.spec.cpus, node_cpus) if row.spec.exclusive and _holds_or_held(row) else row.spec.cpus,
        gpu_indexes=_indexes(row, gpu_indexes or {}),
        output_path=output,
        error_path=error,
        log_bytes=log_bytes,
        simulated=simulated,
        array_text=row.spec.array.text if row.spec.array else None,
        sweep=_sweep(row),
        command=row.spec.script_path or row.spec.script_name,
        args=_shown(row.spec.args),
        licenses=dict(row.spec.licenses),
        input_path=read_from,
        steps=tuple(steps),
        usage=usage,
        warning=warned[0] if warned else None,
        stops_at=warned[1] if warned else None,
        again=_again(row),
    )


def _holds_or_held(row: JobRow) -> bool:
    """Whether it was given what it asked for; one that waits to run again was, and is not now."""
    state = row.status.state
    return row.status.started_at is not None if state.is_final else state is not types.JobState.PENDING


def _place(row: JobRow, standing: Standing, note: str | None, started_with: int | None) -> dict[str, Any]:
    """Why a job waits, for what, and from where in the queue; what there is to tell of one that runs or ended."""
    pending, held = row.status.state is types.JobState.PENDING, row.spec.held is not None
    reason, detail = standing.why or (row.status.reason, row.status.detail)
    if row.status.state is types.JobState.RUNNING and detail is None:
        detail = note
    if row.status.state is types.JobState.COMPLETING:
        detail = _ending(row)
    priority = standing.priority.total if standing.priority else None if pending else started_with
    return {
        "reason": reason,
        "detail": detail,
        "dependency": _awaited(row, standing) if pending else None,
        "held": held,
        "priority": 0 if held and pending else priority,
        "priority_parts": standing.priority,
        "expected_start_at": standing.expected_start_at,
    }


def _ending(row: JobRow) -> str | None:
    """Why a job that was asked to end does so, and what becomes of it then."""
    status = row.status
    back = status.wish == "requeue" or (status.wish == "preempt" and (status.requeue or status.started_at is None))
    then = "when it has stopped it waits to run again" if back else "it ends as PREEMPTED, and does not run again"
    if status.wish not in ("requeue", "preempt"):
        return status.detail
    return f"{status.detail}; {then}" if status.detail else then


def _again(row: JobRow) -> str | None:
    """Why a job that waits was put back."""
    status = row.status
    if status.state is not types.JobState.PENDING or not status.attempt or status.reason is None:
        return None
    return f"{status.reason}: {status.detail}" if status.detail else status.reason


def _shown(args: Sequence[str]) -> tuple[str, ...]:
    """The script's words, as many as belong into a line: a list of jobs is no place for a megabyte."""
    room = _ARGS_MOST
    shown: list[str] = []
    for word in args:
        room -= len(word) + 1
        if room < 0:
            return (*shown, "…")
        shown.append(word)
    return tuple(shown)


def _paths(row: JobRow, node: str) -> tuple[str, str, str | None]:
    """The files of output, errors and input."""
    array = None
    if row.array_job_id is not None and row.array_task_id is not None:
        array = environ.ArrayTask(job_id=row.array_job_id, task_id=row.array_task_id)
    names = environ.pattern_names(row.spec, job_id=row.id, user=row.user, node=node, array=array)
    return (
        environ.output_path(row.spec, names),
        environ.error_path(row.spec, names),
        environ.input_path(row.spec, names),
    )


def _indexes(row: JobRow, indexes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sorted(indexes[uuid] for uuid in row.status.gpu_uuids if uuid in indexes))


def _sweep(row: JobRow) -> dict[str, str]:
    return row.spec.sweep_values(row.array_task_id) if row.spec.sweep and row.array_task_id is not None else {}


def _awaited(row: JobRow, standing: Standing) -> str | None:
    if row.spec.dependency is None or standing.fulfilled:
        return None
    return standing.awaited or dependency.text(row.spec.dependency)
