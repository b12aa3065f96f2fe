"""Arrays in lists: how a task is named, and how the tasks of an array stand on one line. Pure.

Rules kept here: as squeue(1) does it, waiting tasks of an array are one line `17_[3-9%2]` and running ones a line each;
tasks that have ended alike are one line too, since an array of a thousand would fill the history.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from agent.api.errors import StokerError
from agent.api.refs import JobRef
from agent.api.types import Job, JobState

MOST_TASKS = 10_000
"""Tasks that one word of a command line may name."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list: a job, or several tasks of one array in the same state."""

    jobs: tuple[Job, ...]
    """In the order of their tasks; the first one stands for all."""

    @property
    def first(self) -> Job:
        """The job that the line tells of."""
        return self.jobs[0]

    @property
    def label(self) -> str:
        """`17`, `17_3`, `17_[3-9%2]`."""
        if len(self.jobs) == 1:
            return label(self.first)
        tasks = ranges([job.array_task_id for job in self.jobs if job.array_task_id is not None])
        limit = limit_of(self.first) if self.first.state is JobState.PENDING else None
        return f"{self.first.array_job_id}_[{tasks}{f'%{limit}' if limit else ''}]"


def label(job: Job) -> str:
    """How a job is named on its node: `17`, a task `17_3`."""
    if job.array_job_id is None or job.array_task_id is None:
        return str(job.id)
    return f"{job.array_job_id}_{job.array_task_id}"


def ref(job: Job) -> JobRef:
    """The job's name on the wire. A first task's own id would mean the whole array."""
    if job.array_job_id is None or job.array_task_id is None:
        return JobRef(id=job.id, node=job.node)
    return JobRef(id=job.array_job_id, task=job.array_task_id, node=job.node)


def collapse(jobs: Iterable[Job]) -> list[Line]:
    """Put tasks together that are alike, each group where its first job stood."""
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        alike = job.array_job_id is not None and (job.state is JobState.PENDING or job.state.is_final)
        key: object = (job.node, job.array_job_id, job.state, job.reason) if alike else (job.node, "job", job.id)
        groups.setdefault(key, []).append(job)
    return [
        Line(jobs=tuple(sorted(each, key=lambda job: (job.array_task_id or 0, job.id)))) for each in groups.values()
    ]


def singly(jobs: Iterable[Job]) -> list[Line]:
    """A line for each job."""
    return [Line(jobs=(job,)) for job in jobs]


def limit_of(job: Job) -> int | None:
    """Most tasks of its array at a time, `2` of `0-9%2`."""
    match = re.search(r"%([0-9]{1,9})\Z", job.array_text or "")
    return int(match[1]) if match else None


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as Slurm writes them: `0-3,6`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def refs(text: str) -> list[JobRef]:
    """Read what names jobs on a command line: `17`, `17_3`, `17_[1-5,8]`, `17_[0-8:2]`, each with `NODE:` before it.

    Raises:
        StokerError: it names none.
    """
    match = re.fullmatch(r"(.*)_\[([^\[\]]*)\]", text)
    if match is None:
        return [JobRef.parse(text)]
    whole = JobRef.parse(match[1])
    if whole.task is not None:
        raise StokerError(f"{text!r} names tasks of a task; write 17_[1-5]")
    return [JobRef(id=whole.id, task=task, node=whole.node) for task in _tasks(match[2], text)]


def numbers(text: str) -> list[int]:
    """Read what a server wrote: `0-3,6`, `0-30:3`."""
    return _tasks(text, text, most=None)


def _tasks(inside: str, text: str, most: int | None = MOST_TASKS) -> list[int]:
    found: dict[int, None] = {}
    for part in inside.partition("%")[0].split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?", part.strip())
        if match is None:
            raise StokerError(f"{text!r} is not a list of tasks; write 17_[1-5], 17_[1,3] or 17_[0-8:2]")
        low, high, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if high < low or step < 1:
            raise StokerError(f"{text!r}: {part} counts down or stands still; write the lower number first")
        if most is not None and (high - low) // step + len(found) >= most:
            raise StokerError(f"{text!r} names more than {most} tasks; write {text.partition('_')[0]} for all")
        found.update(dict.fromkeys(range(low, high + 1, step)))
    return list(found)
