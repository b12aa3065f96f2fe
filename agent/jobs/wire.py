"""How a job goes over the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    steps: Sequence[JobStep] = (),
    priority: int | None = None,
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
        steps: what `srun` started in it.
        priority: of a job that has started, what it was then.
    """
    spec, status = row.spec, row.status
    pending = status.state is types.JobState.PENDING
    standing = (standing or Standing()) if pending else Standing()
    reason, detail = standing.why or (status.reason, status.detail)
    if status.state is types.JobState.RUNNING and detail is None:
        detail = note
    output, error, read_from = _paths(row, node)
    held = spec.held is not None
    return types.Job(
        id=row.id,
        node=node,
        name=spec.name,
        user=row.user,
        state=status.state,
        reason=reason,
        detail=detail,
        gpus=spec.gpus,
        gpu_uuids=status.gpu_uuids,
        gpu_indexes=_indexes(row, gpu_indexes or {}),
        cpus_per_task=spec.cpus_per_task,
        memory_bytes=spec.memory_bytes,
        time_limit_s=spec.time_limit_s,
        submitted_at=row.submitted_at,
        started_at=status.started_at,
        ended_at=status.ended_at,
        exit_code=status.exit_code,
        signal=status.signal,
        attempt=status.attempt,
        requeue=spec.requeue,
        work_dir=spec.work_dir,
        output_path=output,
        error_path=error,
        log_bytes=log_bytes,
        simulated=simulated,
        account=spec.account,
        partition=spec.partition,
        qos=spec.qos,
        comment=spec.comment,
        tasks=spec.tasks,
        shards=spec.shards,
        exclusive=spec.exclusive,
        array_job_id=row.array_job_id,
        array_task_id=row.array_task_id,
        array_text=spec.array.text if spec.array else None,
        sweep=_sweep(row),
        dependency=_awaited(row, standing) if pending else None,
        reservation=spec.reservation,
        begin_at=spec.begin_at,
        deadline_at=spec.deadline_at,
        held=held,
        nice=spec.nice,
        priority=(0 if held else standing.priority.total)
        if standing.priority
        else (0 if pending and held else None if pending else priority),
        priority_parts=standing.priority,
        expected_start_at=standing.expected_start_at,
        cron_id=row.cron_id,
        command=spec.script_path or spec.script_name,
        args=_shown(spec.args),
        submit_dir=spec.submit_dir,
        mail_types=spec.mail_types,
        mail_user=spec.mail_user,
        memory_per_cpu_bytes=spec.memory_per_cpu_bytes,
        features=spec.features,
        licenses=dict(spec.licenses),
        ntasks_per_node=spec.ntasks_per_node,
        input_path=read_from,
        kill_on_invalid_dep=spec.kill_on_invalid_dep,
        wckey=spec.wckey,
        steps=tuple(steps),
        revision=row.revision,
        usage=usage,
    )


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
