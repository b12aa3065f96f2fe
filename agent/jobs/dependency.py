"""`--dependency`: reading it, judging it, and showing it as Slurm does.

Rules kept here: judging is pure, of facts that the caller looked up; a job that is requeued or preempted and waits
again has not ended; once an array is meant as a whole, all of its tasks count. Source: sbatch(1), `--dependency`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.api.types import JobState
from agent.jobs.grammar import GrammarError
from agent.jobs.spec import Dependency, DependencySpec

SINGLETON = "singleton"
_KINDS = ("after", "afterany", "afternotok", "afterok", "aftercorr", SINGLETON)
_ELSEWHERE = {"afterburstbuffer": "no burst buffer", "expand": "no job that can grow"}
_MAX_ID = 2**63 - 1
_MAX_DELAY_MIN = 0x7FFF_FFFF // 60
_ADVICE = "write KIND:JOB[:JOB…] with KIND one of after, afterany, afternotok, afterok and aftercorr, or singleton"

_TARGET = re.compile(r"\s*(\d{1,18})(?:_(\d{1,9}|\*))?(?:\+(\d{1,10}))?", re.ASCII)


# --- reading ----------------------------------------------------------------------------------------------------------


def dependency(text: str) -> DependencySpec | None:
    """Read `--dependency`; `None` for an empty one or `0`, which sbatch takes for none.

    Raises:
        GrammarError: it is not a list of conditions.
    """
    if text.strip() in ("", "0"):
        return None
    if "?" in text and "," in text:
        raise GrammarError("joins conditions by , and by ?; use either , (all of them) or ? (any of them)")
    conditions = [each for part in re.split(r"[,?]", text) for each in _conditions(part)]
    return DependencySpec(conditions=tuple(dict.fromkeys(conditions)), any_of="?" in text)


def _conditions(part: str) -> list[Dependency]:
    kind, colon, targets = part.partition(":")
    if re.fullmatch(r"\d+", kind, re.ASCII) and not colon:
        return [_target("afterany", kind)]  # sbatch's old form: a bare id
    kind = kind.lower()
    if kind == SINGLETON and not colon:
        return [Dependency(kind=SINGLETON)]
    if kind in _ELSEWHERE:
        raise GrammarError(f"asks for {kind}, but this node has {_ELSEWHERE[kind]}; {_ADVICE}")
    if kind not in _KINDS or kind == SINGLETON or not targets:
        raise GrammarError(f"is not a dependency; {_ADVICE}")
    return [_target(kind, target) for target in targets.split(":")]


def _target(kind: str, text: str) -> Dependency:
    match = _TARGET.fullmatch(text)
    if match is None or not 0 < int(match[1]) <= _MAX_ID:
        raise GrammarError(f"is not a dependency: {text[:40]!r} is no job; write a job's number, such as 17 or 17_3")
    if match[3] and kind != "after":
        raise GrammarError(f"gives {kind} a delay; +MINUTES goes with after alone")
    delay_min = int(match[3] or 0)
    if delay_min > _MAX_DELAY_MIN:
        raise GrammarError(f"has a delay of more than {_MAX_DELAY_MIN} minutes")
    task = None if match[2] in (None, "*") else int(match[2])
    return Dependency(kind=kind, job_id=int(match[1]), task_id=task, delay_s=delay_min * 60)


# --- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What counts about a job, or one task of an array."""

    state: JobState
    started_at: int | None = None
    """Of its latest run; `None` while it never ran."""
    ended_at: int | None = None
    """What counts as an end is the state; this tells when it was cancelled, for `after`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a judgement is made of."""

    now: int
    tasks: Mapping[int, Mapping[int | None, TaskFacts]] = field(default_factory=dict)
    """By the id that was asked for: for a job under `None`, for an array each task under its number. A job that is not
    in it is forgotten: it ended long ago, and how is not known any more."""
    own_task_id: int | None = None
    """The waiting job's own number in its array, for `aftercorr`."""
    older_namesake: int | None = None
    """An older job of the same user and name that has not ended, for `singleton`."""


@dataclass(frozen=True, slots=True)
class Satisfied:
    """It may start."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Not yet."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Never:
    """No longer possible."""

    sentence: str


Judgement = Satisfied | Waits | Never
Step = tuple[int, DependencySpec | None]
"""A job, and what it waits for."""


def referenced(spec: DependencySpec) -> tuple[int, ...]:
    """The ids it names, each once, in order: at submit each must be a job of this node."""
    return tuple(dict.fromkeys(each.job_id for each in spec.conditions if each.job_id is not None))


def is_circular(spec: DependencySpec, own: Collection[int], waiting: Callable[[Dependency], Iterable[Step]]) -> bool:
    """Whether jobs with the ids `own` would wait for themselves, by way of others; slurmctld refuses it as well.

    Args:
        spec: what they are to depend on.
        own: their ids.
        waiting: the jobs that a condition means and that have not ended: id, and what it depends on itself.
    """
    todo, seen = list(spec.conditions), set()
    while todo:
        condition = todo.pop()
        if condition in seen:
            continue
        seen.add(condition)
        for job_id, further in waiting(condition):
            if job_id in own:
                return True
            todo += further.conditions if further is not None else ()
    return False


def judge(spec: DependencySpec, facts: Facts) -> Judgement:
    """Whether the dependency lets the job start."""
    judged = [_judge(each, facts) for each in spec.conditions]
    if spec.any_of:
        return _first(judged, Satisfied) or _first(judged, Waits) or judged[0]
    return _first(judged, Never) or _first(judged, Waits) or Satisfied()


def look_again_at(spec: DependencySpec, facts: Facts) -> int | None:
    """The next moment at which time alone may satisfy a condition: the end of an `after`'s delay."""
    due = [
        began + condition.delay_s
        for condition in spec.conditions
        if condition.kind == "after" and condition.delay_s
        for began in map(_began_at, _targets(condition, facts).values())
        if began is not None
    ]
    return min((at for at in due if at > facts.now), default=None)


def _first(judged: list[Judgement], kind: type[Judgement]) -> Judgement | None:
    return next((each for each in judged if isinstance(each, kind)), None)


def _judge(condition: Dependency, facts: Facts) -> Judgement:
    if condition.kind == SINGLETON:
        older = facts.older_namesake
        return Satisfied() if older is None else Waits(f"waits until job {older} of the same name and user has ended")
    tasks = _targets(condition, facts)
    what = _name(condition)
    if not tasks:
        return _judge_forgotten(condition, what)
    return _JUDGES[condition.kind](condition, facts, tasks, what)


def _targets(condition: Dependency, facts: Facts) -> Mapping[int | None, TaskFacts]:
    """The tasks that a condition is about; empty when nothing is known of them."""
    if condition.job_id is None:
        return {}
    tasks = facts.tasks.get(condition.job_id, {})
    if condition.task_id is not None:
        return {condition.task_id: tasks[condition.task_id]} if condition.task_id in tasks else {}
    return tasks


def _judge_forgotten(condition: Dependency, what: str) -> Judgement:
    """Of a job that was forgotten only this is known: it existed at submit, so by now it has started and ended."""
    if condition.kind in ("after", "afterany"):
        return Satisfied()
    return Never(f"{what} is no longer on record, so nobody can tell how it ended")


def _judge_after(condition: Dependency, facts: Facts, tasks: Mapping[int | None, TaskFacts], what: str) -> Judgement:
    """Begun, or cancelled before: then there is nothing left to wait for. The delay is counted from then."""
    for task in tasks.values():
        began = _began_at(task)
        if began is None:
            return Waits(f"waits until {what} has started")
        if facts.now < began + condition.delay_s:
            return Waits(f"waits until {condition.delay_s // 60} minutes after the start of {what}")
    return Satisfied()


def _judge_afterany(_: Dependency, __: Facts, tasks: Mapping[int | None, TaskFacts], what: str) -> Judgement:
    return Satisfied() if all(map(_ended, tasks.values())) else Waits(f"waits until {what} has ended")


def _judge_afterok(_: Dependency, __: Facts, tasks: Mapping[int | None, TaskFacts], what: str) -> Judgement:
    failed = next((task for task in tasks.values() if _ended(task) and not _ok(task)), None)
    if failed is not None:
        return Never(f"{what} ended {failed.state.value}, and the dependency asks for its success")
    return Satisfied() if all(map(_ended, tasks.values())) else Waits(f"waits until {what} has succeeded")


def _judge_afternotok(_: Dependency, __: Facts, tasks: Mapping[int | None, TaskFacts], what: str) -> Judgement:
    """Of an array: once all of it has ended and any task failed."""
    if not all(map(_ended, tasks.values())):
        return Waits(f"waits until {what} has failed")
    if all(map(_ok, tasks.values())):
        return Never(f"{what} succeeded, and the dependency asks for its failure")
    return Satisfied()


def _judge_aftercorr(
    condition: Dependency, facts: Facts, tasks: Mapping[int | None, TaskFacts], what: str
) -> Judgement:
    """After the success of the task with the own number; where either is no array, as `afterok`."""
    own = facts.own_task_id
    if own is None or None in tasks or condition.task_id is not None:
        return _judge_afterok(condition, facts, tasks, what)
    if own not in tasks:
        return Never(f"{what} has no task {own} that this task could follow")
    return _judge_afterok(condition, facts, {own: tasks[own]}, f"{what}_{own}")


_JUDGES: dict[str, Callable[[Dependency, Facts, Mapping[int | None, TaskFacts], str], Judgement]] = {
    "after": _judge_after,
    "afterany": _judge_afterany,
    "afternotok": _judge_afternotok,
    "afterok": _judge_afterok,
    "aftercorr": _judge_aftercorr,
}


def _ended(task: TaskFacts) -> bool:
    return task.state.is_final


def _began_at(task: TaskFacts) -> int | None:
    """When it started, or was cancelled before it could."""
    if task.started_at is not None:
        return task.started_at
    return (task.ended_at or 0) if task.state.is_final else None


def _ok(task: TaskFacts) -> bool:
    return task.state is JobState.COMPLETED


def _name(condition: Dependency) -> str:
    return f"job {condition.job_id}" + ("" if condition.task_id is None else f"_{condition.task_id}")


# --- showing ----------------------------------------------------------------------------------------------------------


class _Word(Enum):
    UNFULFILLED = "unfulfilled"
    FAILED = "failed"


def text(spec: DependencySpec, facts: Facts | None = None) -> str | None:
    """What Slurm shows: `afterok:17(unfulfilled),singleton(unfulfilled)`; `None` once nothing is left to wait for.

    Conditions that are satisfied are left out. Without facts it is the plain text, which `dependency` reads back.
    """
    joint = "?" if spec.any_of else ","
    if facts is None:
        return joint.join(map(_plain, spec.conditions))
    if isinstance(judge(spec, facts), Satisfied):
        return None
    shown = []
    for each in spec.conditions:
        judged = _judge(each, facts)
        if not isinstance(judged, Satisfied):
            word = _Word.FAILED if isinstance(judged, Never) else _Word.UNFULFILLED
            shown.append(f"{_shown(each, facts)}({word.value})")
    return joint.join(shown)


def _plain(condition: Dependency) -> str:
    if condition.job_id is None:
        return condition.kind
    task = "" if condition.task_id is None else f"_{condition.task_id}"
    delay = f"+{condition.delay_s // 60}" if condition.delay_s else ""
    return f"{condition.kind}:{condition.job_id}{task}{delay}"


def _shown(condition: Dependency, facts: Facts) -> str:
    """A whole array is shown as `17_*`."""
    tasks = _targets(condition, facts)
    if condition.task_id is None and tasks and None not in tasks:
        return _plain(condition).replace(f":{condition.job_id}", f":{condition.job_id}_*")
    return _plain(condition)
