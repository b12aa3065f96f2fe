"""What is asked before something is done to jobs, nodes and GPUs: every target is named, with what it does to it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.api.types import Job
from tui import arrays, jobrows, safe, units
from tui.actions import JobAction, Target, is_waiting
from tui.screens.dialogs import Choice, Question, Typed
from tui.spans import Role, Span

_LISTED = 12
"""Targets named one by one in a question; the rest is counted."""

Lines = list[list[Span]]


def ask(action: JobAction, targets: Sequence[Target], wall: float) -> Question | Typed:
    """The question before an action: a yes, or what has to be typed for it."""
    what = _counted(targets)
    lines = [[], *_named(targets, wall), [], *_effect(action, targets), []]
    if action.asks_for is not None:
        return Typed(f"{action.title} {what}", lines, label=action.asks_for, hint="100, or -100", check=_whole)
    return Question(f"{action.title} {what}?", lines, yes=f"{action.title} {what}", no="Leave as it is")


def ask_how_many(target: Target, wall: float) -> Choice:
    """Before an array is cancelled: all of it, or what waits."""
    waiting = sum(is_waiting(job) for job in target.jobs)
    running = len(target.jobs) - waiting
    lines: Lines = [
        [],
        *_named([target], wall),
        [],
        [
            (
                f"  {units.count(len(target.jobs), 'task')} have not ended: {running} running, {waiting} waiting.",
                Role.TEXT,
            )
        ],
        [("  Running ones get SIGTERM, and after a while SIGKILL.", Role.WARN)],
        [("  Waiting ones will not start.", Role.WARN)],
        [],
    ]
    choices = [("all", f"All {len(target.jobs)}")]
    choices += [("waiting", f"The {waiting} that wait")] if waiting and running else []
    return Choice(f"Cancel how many of array {target.label}?", lines, choices, no="None")


def ask_drain(node: str, gpu: int | None, jobs: Sequence[Job], wall: float) -> Typed:
    """Before a node or a GPU is drained: the reason."""
    what = f"GPU {gpu} of {node}" if gpu is not None else f"node {node}"
    targets = [Target(ref=arrays.ref(job), jobs=(job,)) for job in jobs]
    running = (
        f"  {units.count(len(jobs), 'job')} running there will go on to the end:" if jobs else "  Nothing runs there."
    )
    lines: Lines = [
        [],
        [(running, Role.TEXT)],
        *_named(targets, wall),
        [("  No new job will start there.", Role.WARN)],
        [],
    ]
    return Typed(f"Drain {what}", lines, label="reason", hint="memory errors, new power supply, …")


def ask_resume(node: str, gpu: int | None, said: str) -> Question:
    """Before a drain is undone: who drained it, and why."""
    what = f"GPU {gpu} of {node}" if gpu is not None else f"node {node}"
    lines: Lines = [[], [(f"  It is {said}", Role.TEXT)], [("  Jobs will start there again.", Role.WARN)], []]
    return Question(f"Resume {what}?", lines, yes=f"Resume {what}", no="Leave it drained")


def _named(targets: Sequence[Target], wall: float) -> Lines:
    lines: Lines = []
    for target in targets[:_LISTED]:
        job = target.jobs[0]
        ran = jobrows.run_time_s(job, wall)
        done = f" {units.elapsed(ran)}" if ran is not None else ""
        lines.append([(f"  {target.label:>6} ", Role.STRONG)])
        lines[-1].append((f"{safe.fit(job.name, 20)} {safe.fit(job.user, 10)} ", Role.TEXT))
        if len(target.jobs) > 1:
            lines[-1] += [*jobrows.array_state(target.jobs), (f"  tasks on {job.node}", Role.DIM)]
        else:
            lines[-1].append((f"{job.state.value}{done} on {job.node}", Role.DIM))
    if len(targets) > _LISTED:
        lines.append([(f"         and {len(targets) - _LISTED} more", Role.STRONG)])
    return lines


def _effect(action: JobAction, targets: Sequence[Target]) -> Lines:
    jobs = [job for target in targets for job in target.jobs]
    return [[(f"  {line}", Role.WARN)] for line in action.effect(jobs)]


def _counted(targets: Sequence[Target]) -> str:
    if len(targets) > 1:
        tasks = sum(len(target.jobs) for target in targets)
        return units.count(tasks, "job")
    whole = len(targets[0].jobs) > 1 and targets[0].ref.task is None
    return (
        f"array {targets[0].label}, {units.count(len(targets[0].jobs), 'task')}" if whole else f"job {targets[0].label}"
    )


def _whole(text: str) -> str | None:
    return None if re.fullmatch(r"[+-]?[0-9]{1,10}", text) else "a whole number such as 100 or -100"
