"""What may be asked of jobs on a screen: to which it applies, what it does to them, and how the server is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.api.refs import JobRef
from agent.api.tasks import TaskVerb
from agent.api.types import Job, JobState
from tui import arrays, inonego, safe, units
from tui.client import ClusterClient
from tui.cluster import ArrayKey, Key, job_key

Ask = Callable[[ClusterClient, JobRef, str], Job]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing the server is asked about: a job, a task, or a whole array."""

    ref: JobRef
    jobs: tuple[Job, ...]
    """Those that it is about, to be named in a question."""

    @property
    def label(self) -> str:
        """Its name on its node."""
        return self.ref.local


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAction:
    """One verb."""

    name: str
    title: str
    """Begins the question: `Hold 3 jobs?`."""
    applies: Callable[[Job], bool]
    nothing: str
    """Said where it applies to none."""
    effect: Callable[[Sequence[Job]], list[str]]
    """What it will do, in lines."""
    ask: Ask
    together: TaskVerb | None = None
    """How tasks of one array are asked with one call."""
    asks_for: str | None = None
    """What has to be typed, where a yes is not enough."""


def targets(keys: Iterable[Key], jobs: Sequence[Job], applies: Callable[[Job], bool]) -> list[Target]:
    """What of `keys` an action applies to, as `jobs` are now."""
    known = {job_key(job): job for job in jobs}
    found = []
    for key in keys:
        if isinstance(key, ArrayKey):
            tasks = tuple(each for each in tasks_of(key, jobs) if applies(each))
            ref = JobRef(id=key.id, node=key.node)
        else:
            tasks = tuple(job for job in [known.get(key)] if job is not None and applies(job))
            ref = arrays.ref(tasks[0]) if tasks else JobRef(id=key[1])
        if tasks:
            found.append(Target(ref=ref, jobs=tasks))
    return found


def tasks_of(key: ArrayKey, jobs: Iterable[Job]) -> list[Job]:
    """The tasks of an array, in their order."""
    tasks = [job for job in jobs if (job.node, job.array_job_id) == (key.node, key.id)]
    return sorted(tasks, key=lambda job: (job.array_task_id or 0, job.id))


def singly(target: Target, applies: Callable[[Job], bool]) -> list[Target]:
    """Some tasks of an array, each to be asked about by its own name."""
    return [Target(ref=arrays.ref(job), jobs=(job,)) for job in target.jobs if applies(job)]


def carry_out(client: ClusterClient, action: JobAction, targets: Iterable[Target], typed: str) -> Iterator[str]:
    """Ask the server; yields what became of each, `17_[3-9] CANCELLED`. The first refusal ends it.

    Raises:
        StokerError: the refusal.
    """
    refs = [target.ref for target in targets]
    parts: list[JobRef | inonego.Tasks] = inonego.parts(refs) if action.together else [*refs]
    while parts:
        part = parts.pop(0)
        if isinstance(part, JobRef):
            yield _became(part.local, action.ask(client, part, typed))
            continue
        reply = inonego.ask(client, action.together, part) if action.together else None
        if reply is None:
            parts[:0] = part.refs
            continue
        for group in reply.done:
            yield _became(inonego.name(JobRef(id=part.array.id), group.tasks), group.job)
        for refused in reply.refused:
            raise inonego.refusal(refused)


def _became(label: str, job: Job) -> str:
    return f"{label} {safe.text(job.state.value)}"


def is_waiting(job: Job) -> bool:
    """Whether it has not begun."""
    return job.state is JobState.PENDING


def is_active(job: Job) -> bool:
    """Whether it has not ended."""
    return not job.state.is_final


def _it(jobs: Sequence[Job]) -> str:
    return "It" if len(jobs) == 1 else "They"


def _cancelled(jobs: Sequence[Job]) -> list[str]:
    running = sum(not is_waiting(job) for job in jobs)
    lines = []
    if running:
        verb = "gets" if running == 1 else "get"
        lines.append(f"{units.count(running, 'running job')} {verb} SIGTERM, and after a while SIGKILL")
        lines.append("with every process started. What is not saved by then is lost.")
    if running < len(jobs):
        lines.append(f"{units.count(len(jobs) - running, 'waiting job')} will not start.")
    return lines


def _requeued(jobs: Sequence[Job]) -> list[str]:
    running = sum(is_active(job) for job in jobs)
    lines = []
    if running:
        verb = "is asked to save and stop, and waits" if running == 1 else "are asked to save and stop, and wait"
        lines.append(f"{units.count(running, 'running job')} {verb} in the queue again.")
    if running < len(jobs):
        lines.append(f"{units.count(len(jobs) - running, 'ended job')} will run once more, from the beginning.")
    return lines


ACTIONS: dict[str, JobAction] = {
    each.name: each
    for each in (
        JobAction(
            name="cancel",
            title="Cancel",
            applies=is_active,
            nothing="There is nothing to cancel: the job has ended.",
            effect=_cancelled,
            ask=lambda client, ref, _: client.cancel(ref),
            together=TaskVerb.CANCEL,
        ),
        JobAction(
            name="hold",
            title="Hold",
            applies=lambda job: is_waiting(job) and not job.held,
            nothing="There is nothing to hold: only a job that waits, and is not held, can be.",
            effect=lambda jobs: [f"{_it(jobs)} will not start before a release (U)."],
            ask=lambda client, ref, _: client.hold(ref),
            together=TaskVerb.HOLD,
        ),
        JobAction(
            name="release",
            title="Release",
            applies=lambda job: is_waiting(job) and job.held,
            nothing="There is nothing to release: the job is not held.",
            effect=lambda jobs: [f"{_it(jobs)} may start when the turn comes."],
            ask=lambda client, ref, _: client.release(ref),
            together=TaskVerb.RELEASE,
        ),
        JobAction(
            name="requeue",
            title="Requeue",
            applies=lambda job: not is_waiting(job),
            nothing="There is nothing to requeue: the job waits already.",
            effect=_requeued,
            ask=lambda client, ref, _: client.requeue(ref),
            together=TaskVerb.REQUEUE,
        ),
        JobAction(
            name="top",
            title="Put first",
            applies=is_waiting,
            nothing="Only a job that waits can be put first.",
            effect=lambda _: ["Before your other waiting jobs; on an admin's word before everybody's."],
            ask=lambda client, ref, _: client.top(ref),
        ),
        JobAction(
            name="nice",
            title="Renice",
            applies=is_waiting,
            nothing="Only a job that waits has a nice value to change.",
            effect=lambda _: ["It is taken off the priority: more waits longer, less than it has is for admins."],
            ask=lambda client, ref, typed: client.update(ref, {"Nice": typed}),
            asks_for="nice",
        ),
    )
}
