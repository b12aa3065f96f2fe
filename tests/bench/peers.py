"""What ours is compared with: first come, first served, and plain EASY backfill in that order.

Written from the papers, apart from ours: whole GPUs that are all alike, and nothing else. Both see the same `Snapshot`.
"""

from __future__ import annotations

from agent.jobs.schedule import Decision, Running, Snapshot, Start, Waiting

NEVER = 1 << 60


def fifo(snapshot: Snapshot, now: int) -> Decision:
    """Jobs start in the order of their ids; the first that does not fit holds up all behind it."""
    free = _free(snapshot)
    starts = []
    for job in sorted(snapshot.waiting, key=lambda each: each.id):
        if job.demand.gpus > len(free):
            break
        starts.append(_start(job, free))
    return Decision(starts=tuple(starts))


def easy(snapshot: Snapshot, now: int) -> Decision:
    """As `fifo`; behind the first that does not fit, jobs start that do not delay it (Lifka, 1995)."""
    free = _free(snapshot)
    ends = [(_end(job), len(job.gpu_uuids)) for job in snapshot.running]
    starts: list[Start] = []
    waiting = sorted(snapshot.waiting, key=lambda each: each.id)
    while waiting and waiting[0].demand.gpus <= len(free):
        job = waiting.pop(0)
        starts.append(_start(job, free))
        ends.append((now + (job.time_limit_s or NEVER), job.demand.gpus))
    if not waiting:
        return Decision(starts=tuple(starts))
    shadow, extra = _shadow(waiting[0].demand.gpus, len(free), ends)
    for job in waiting[1:]:
        if not free:
            break
        count = job.demand.gpus
        short = now + (job.time_limit_s or NEVER) <= shadow
        if count <= len(free) and (short or count <= extra):
            starts.append(_start(job, free))
            extra -= 0 if short else count
    return Decision(starts=tuple(starts))


def _shadow(needed: int, free: int, ends: list[tuple[int, int]]) -> tuple[int, int]:
    """When the first in line can start by the limits, and how many GPUs are then left beside it."""
    for at in sorted({end for end, _ in ends}):
        there = free + sum(count for end, count in ends if end <= at)  # all that end at that time, not the first alone
        if there >= needed:
            return at, there - needed
    return NEVER, 0


def _free(snapshot: Snapshot) -> list[str]:
    held = {uuid for job in snapshot.running for uuid in job.gpu_uuids}
    return [gpu.uuid for gpu in snapshot.gpus if gpu.uuid not in held]


def _start(job: Waiting, free: list[str]) -> Start:
    chosen = tuple(free[: job.demand.gpus])
    del free[: job.demand.gpus]
    return Start(job_id=job.id, gpu_uuids=chosen)


def _end(job: Running) -> int:
    return NEVER if job.time_limit_s is None else job.started_at + job.time_limit_s
