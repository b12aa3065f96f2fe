"""How a job goes over the wire."""

from __future__ import annotations

from collections.abc import Mapping

from agent.api import types
from agent.jobs import environ
from agent.jobs.row import JobRow


def to_wire(
    row: JobRow,
    node: str,
    *,
    waiting: tuple[str, str] | None = None,
    note: str | None = None,
    gpu_indexes: Mapping[str, int] | None = None,
    log_bytes: int | None = None,
    simulated: bool = False,
) -> types.Job:
    """A job as its users see it.

    Args:
        row: the job.
        node: this node's name.
        waiting: reason and detail of a pending job, from the scheduler's last pass; wins over the stored ones.
        note: told of a job that runs and has nothing else to tell.
        gpu_indexes: NVML index of each GPU by UUID, as of now; a GPU that is not there is left out.
        log_bytes: length of everything the job wrote.
        simulated: the GPUs held are simulated ones.
    """
    spec, status = row.spec, row.status
    pending = status.state is types.JobState.PENDING
    reason, detail = waiting if waiting and pending else (status.reason, status.detail)
    names = environ.pattern_names(spec, job_id=row.id, user=row.user, node=node)
    if status.state is types.JobState.RUNNING and detail is None:
        detail = note
    began = status.attempt > 0
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
        gpu_indexes=tuple(sorted(gpu_indexes[uuid] for uuid in status.gpu_uuids if uuid in gpu_indexes))
        if gpu_indexes
        else (),
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
        output_path=environ.output_path(spec, names) if began else None,
        error_path=environ.error_path(spec, names) if began else None,
        log_bytes=log_bytes,
        simulated=simulated,
    )
