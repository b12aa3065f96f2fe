"""Which waiting jobs start now, on which GPUs, and why the others wait. Pure: facts in, decision out.

Rules kept here:
0. While the licence allows no new job, none starts, with GPUs or without (`License`): all keep their places.
1. Jobs that ask for GPUs start in the order they came. The first one that must wait for others to end (`Resources`)
   holds up all GPU jobs behind it (`Priority`): nothing overtakes it, so it cannot starve.
2. A job that no waiting helps steps aside and holds up nobody: too few seats (`License`), or too few healthy GPUs of
   its type (`ReqNodeNotAvail`). It keeps its place and is the first again once a person has mended that.
3. Jobs without GPUs are a line of their own, in order, bounded by the node's CPUs; they wait for no GPU and take no
   seat. GPU jobs are not charged for CPUs: a free GPU shall never wait for one.
4. A GPU is given only if it is healthy, seated, held by no job and used by no foreign process; lower indexes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.jobs.grammar import matches_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job in the queue."""

    id: int
    gpus: int
    gpu_type: str | None = None
    cpus: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What counts about one GPU."""

    uuid: str
    index: int
    name: str
    healthy: bool = True
    seated: bool = True
    held_by: int | None = None
    """Id of the job that has it."""
    foreign: str | None = None
    """Who uses it outside the queue: `pid 4711 of ada`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision is made of."""

    waiting: Sequence[Waiting]
    """In the order in which they are served."""
    gpus: Sequence[GpuFacts]
    cpu_count: int
    cpus_used: int = 0
    """CPUs of the running jobs that hold no GPU."""
    licence_hold: str | None = None
    """Why no new job may start at all, with the command that helps; `None` while the licence allows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Claim these GPUs for this job and launch it."""

    job_id: int
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now."""

    starts: tuple[Start, ...]
    reasons: Mapping[int, tuple[str, str]]
    """For every job that stays: Slurm's word, and the sentence."""


def decide(snapshot: Snapshot) -> Decision:
    """One pass over the queue. The same snapshot always gives the same decision."""
    if snapshot.licence_hold is not None:
        return Decision(starts=(), reasons={job.id: ("License", snapshot.licence_hold) for job in snapshot.waiting})
    gpu_line, cpu_line = _GpuLine(snapshot), _CpuLine(snapshot)
    for job in snapshot.waiting:
        (gpu_line if job.gpus else cpu_line).serve(job)
    return Decision(
        starts=tuple(sorted([*gpu_line.starts, *cpu_line.starts], key=lambda start: start.job_id)),
        reasons={**gpu_line.reasons, **cpu_line.reasons},
    )


@dataclass(slots=True, kw_only=True)
class _Line:
    """Jobs served in order until one must wait."""

    starts: list[Start] = field(default_factory=list)
    reasons: dict[int, tuple[str, str]] = field(default_factory=dict)
    behind: tuple[str, str] | None = None
    """What jobs are told once one before them must wait."""

    def hold_up(self, job: Waiting, detail: str) -> None:
        self.reasons[job.id] = ("Resources", detail)
        self.behind = ("Priority", f"behind job {job.id} in the queue")


class _CpuLine(_Line):
    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._count = snapshot.cpu_count
        self._used = snapshot.cpus_used

    def serve(self, job: Waiting) -> None:
        if self.behind is not None:
            self.reasons[job.id] = self.behind
        # A job larger than the node (its CPUs went offline after the submit) still runs once it is alone.
        elif self._used == 0 or self._used + job.cpus <= self._count:
            self._used += job.cpus
            self.starts.append(Start(job_id=job.id, gpu_uuids=()))
        else:
            free = max(0, self._count - self._used)
            self.hold_up(job, f"asks for {_many(job.cpus, 'CPU')}; {free} of {self._count} free")


class _GpuLine(_Line):
    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._gpus = sorted(snapshot.gpus, key=lambda gpu: gpu.index)
        self._given: set[str] = set()
        self._obstacles: dict[tuple[int, str | None], tuple[str, str] | None] = {}

    def serve(self, job: Waiting) -> None:
        kind = (job.gpus, job.gpu_type)
        if kind not in self._obstacles:
            self._obstacles[kind] = self._obstacle(job)
        reason = self._obstacles[kind] or self.behind
        if reason is not None:
            self.reasons[job.id] = reason
            return
        free = [gpu.uuid for gpu in self._suited(job) if self._is_free(gpu)]
        if len(free) < job.gpus:
            self.hold_up(job, self._shortage(job, len(free)))
            return
        chosen = tuple(free[: job.gpus])
        self._given.update(chosen)
        self.starts.append(Start(job_id=job.id, gpu_uuids=chosen))

    def _obstacle(self, job: Waiting) -> tuple[str, str] | None:
        """What no waiting helps against."""
        suited = self._suited(job)
        healthy = [gpu for gpu in suited if gpu.healthy]
        asked = f"asks for {_many(job.gpus, 'GPU')}{f' of type {job.gpu_type}' if job.gpu_type else ''}"
        if len(healthy) < job.gpus:
            ill = ", ".join(str(gpu.index) for gpu in suited if not gpu.healthy)
            also = f"; GPU {ill} needs attention" if ill else ""
            return "ReqNodeNotAvail", f"{asked}, and the node has {len(healthy)} that can be used{also}"
        seated = sum(gpu.seated for gpu in healthy)
        if seated < job.gpus:
            return "License", f"{asked}, and seats cover {seated} of {len(healthy)}; see: stoker-license status"
        return None

    def _suited(self, job: Waiting) -> list[GpuFacts]:
        return [gpu for gpu in self._gpus if job.gpu_type is None or matches_type(job.gpu_type, gpu.name)]

    def _is_free(self, gpu: GpuFacts) -> bool:
        usable = gpu.healthy and gpu.seated and gpu.held_by is None and gpu.foreign is None
        return usable and gpu.uuid not in self._given

    def _shortage(self, job: Waiting, free: int) -> str:
        suited = self._suited(job)
        holders = sorted({gpu.held_by for gpu in suited if gpu.held_by is not None})
        started = [start.job_id for start in self.starts]
        parts = [f"asks for {_many(job.gpus, 'GPU')}; {free} of {len(suited)} free"]
        if holders or started:
            parts.append(f"held by {_jobs([*holders, *started])}")
        parts += [f"GPU {gpu.index} is used outside the queue by {gpu.foreign}" for gpu in suited if gpu.foreign]
        return ", ".join(parts)


def _jobs(ids: Sequence[int]) -> str:
    shown = ", ".join(str(each) for each in ids[:4])
    more = f" and {len(ids) - 4} more" if len(ids) > 4 else ""
    return f"job{'' if len(ids) == 1 else 's'} {shown}{more}"


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
