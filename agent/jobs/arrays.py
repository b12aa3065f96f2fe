"""The task numbers of `--array`: reading `1,3-5,7-20:4%3`, and writing them as Slurm shows them.

Rules kept here: as in sbatch, numbers may come in any order and more than once, each makes one task; `%N` at the end
is the most tasks at a time, and `%0` or a bare `%` is no limit. The size is known before any number is written out, so
that `0-999999999` costs nothing. The site's `limits.max_array_size` is for `agent.jobs.rules` to check.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.jobs.grammar import GrammarError
from agent.jobs.spec import ArraySpec

MAX_TASK = 1_000_000
"""Task numbers are below it, whatever the site allows; Slurm's own most for MaxArraySize is 4,000,001."""
MAX_TASKS = 100_000
"""Tasks of one array. Writing them out takes time, and any user may ask for it."""
_STEPPED_TASKS, _STEPPED_SPREAD = 5, 10
"""Slurm shows a step (`0-30:3`) for more tasks than that, with first and last further apart than that."""

_RANGE = re.compile(r"(\d{1,10})(?:-(\d{1,10})(?::(\d{1,10}))?)?", re.ASCII)


def array(text: str) -> ArraySpec:
    """Read `--array`.

    Raises:
        GrammarError: it is no list of task numbers, or holds one that is too large.
    """
    numbers, percent, rest = text.partition("%")
    limit, comma, after = rest.partition(",")
    if percent and limit and not re.fullmatch(r"\d{1,9}", limit, re.ASCII):
        raise GrammarError("is not a list of tasks: after % stands the most tasks at a time, such as 0-9%2")
    if numbers.startswith("[") and numbers.endswith("]"):
        numbers = numbers[1:-1]
    ranges = [_range(part) for part in (numbers + comma + after).split(",") if part]
    if not ranges:
        raise GrammarError("names no task; write task numbers, such as 0-9, 1,3,5 or 0-20:5%2")
    count = sum(map(len, ranges))
    if count > MAX_TASKS:
        raise GrammarError(f"names {count:,} tasks; an array has at most {MAX_TASKS:,}, each named once")
    tasks = tuple(sorted(set().union(*ranges)))
    most = int(limit) if limit and int(limit) else None
    return ArraySpec(tasks=tasks, limit=most, text=show(tasks, most))


def show(tasks: Sequence[int], limit: int | None = None) -> str:
    """Write task numbers (ascending, each once) as Slurm shows them: `1,3-5,7%3`. `array` reads it back."""
    throttle = f"%{limit}" if limit else ""
    step = tasks[1] - tasks[0] if len(tasks) > 1 else 1
    stepped = step > 1 and len(tasks) > _STEPPED_TASKS and tasks[-1] - tasks[0] > _STEPPED_SPREAD
    if stepped and all(tasks[index + 1] - tasks[index] == step for index in range(len(tasks) - 1)):
        return f"{tasks[0]}-{tasks[-1]}:{step}{throttle}"
    runs: list[list[int]] = []
    for task in tasks:
        if runs and runs[-1][-1] == task - 1:
            runs[-1][-1] = task
        else:
            runs.append([task, task])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs) + throttle


def _range(part: str) -> range:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise GrammarError("is not a list of tasks; write task numbers, such as 0-9, 1,3,5 or 0-20:5%2")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    step = 1 if match[3] is None else int(match[3])
    if last < first:
        raise GrammarError(f"is not a list of tasks: {part} ends before it begins")
    if step == 0:
        raise GrammarError(f"is not a list of tasks: {part} has a step of 0")
    if last >= MAX_TASK:
        raise GrammarError(f"has a task number that is too large: {last}; the largest possible is {MAX_TASK - 1}")
    return range(first, last + 1, step)
