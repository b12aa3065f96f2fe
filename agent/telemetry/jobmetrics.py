"""Jobs as metrics: the accounts of those that hold something now, and what waits and why.

A series is there while its job holds GPUs or CPUs, and is gone with it: there are never more than the node runs at a
time. Waiting jobs are counted, not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agent.api.queue import JobUsage
from agent.api.types import Job, JobState
from agent.jobs.tally import QueueTally
from agent.telemetry.metrictext import Family, Value, counter, gauge, info, scaled

_J_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class _Figure:
    """One figure of an account: its name without `stoker_job_`, its unit, what it is, and where it comes from."""

    name: str
    unit: str
    help: str
    of: Callable[[JobUsage], Value]


_SUMS = (
    _Figure("gpu_seconds", "seconds", "GPUs held times seconds.", lambda u: u.gpu_seconds),
    _Figure("gpu_busy_seconds", "seconds", "Seconds of GPU in which a kernel ran.", lambda u: u.gpu_busy_seconds),
    _Figure("energy_joules", "joules", "Energy of its GPUs.", lambda u: scaled(u.energy_kwh, _J_PER_KWH)),
    _Figure("cpu_seconds", "seconds", "CPU time of its processes.", lambda u: u.cpu_seconds),
)
_STATES = (
    _Figure(
        "gpu_utilization_ratio", "ratio", "Mean over the run so far.", lambda u: scaled(u.utilization_percent, 1e-2)
    ),
    _Figure("gpu_memory_peak_bytes", "bytes", "Highest sum over its GPUs.", lambda u: u.memory_peak_bytes),
    _Figure("host_memory_peak_bytes", "bytes", "Highest on the host.", lambda u: u.host_memory_peak_bytes),
    _Figure("idle_seconds", "seconds", "How long none of its GPUs did anything, up to now.", lambda u: u.idle_s),
)


def job_families(jobs: Sequence[Job]) -> Iterator[Family]:
    """The accounts of the jobs that run."""
    running = [(job, {"job_id": str(job.id), "user": job.user}) for job in jobs if job.state is not JobState.PENDING]
    yield info("stoker_job", "What a running job is.", [{**labels, **_what(job)} for job, labels in running])
    held = [(labels, len(job.gpu_uuids)) for job, labels in running]
    yield gauge("stoker_job_gpus", "GPUs that a running job holds.", held)
    accounts = [(job.usage, labels) for job, labels in running if job.usage is not None]
    for figures, write in ((_SUMS, counter), (_STATES, gauge)):
        for figure in figures:
            samples = [(labels, figure.of(usage)) for usage, labels in accounts]
            yield write(f"stoker_job_{figure.name}", figure.help, samples, figure.unit)


def queue_families(queue: QueueTally, now: float) -> Iterator[Family]:
    """What waits: how many for each reason, and for how long the oldest could have started."""
    samples = [({"reason": reason}, count) for reason, count in sorted(queue.reasons.items())]
    yield gauge("stoker_queue_jobs", "Waiting jobs by Slurm's reason.", samples)
    oldest = 0.0 if queue.oldest_at is None else max(0.0, now - queue.oldest_at)
    yield gauge(
        "stoker_queue_oldest_seconds", "Longest wait of a job that is not held.", [({}, round(oldest, 3))], "seconds"
    )


def _what(job: Job) -> dict[str, str]:
    return {
        "name": job.name,
        "account": job.account or "",
        "partition": job.partition or "",
        "qos": job.qos or "",
    }
