"""A whole array in full: `stoker show 20` and `stoker report 20`, where 20 is an array and no task of it is named."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from agent.api.errors import StokerError
from agent.api.refs import JobRef
from agent.api.types import Job
from tui import arrays, pages, plain, printed, safe, tables, units
from tui.verbs.call import Call


def tasks(call: Call, ref: JobRef, first: Job) -> list[Job]:
    """All tasks in order where the name is an array's own; none where it is a job's, or one task's.

    Args:
        call: to the server.
        ref: what the user named.
        first: what the server knows by that name.
    """
    return pages.tasks_of(call.client, first) if ref.task is None and first.array_job_id == ref.id else []


def show(call: Call, of: Sequence[Job]) -> int:
    """Print everything about each task, as `scontrol show job` does; the history of one has `stoker show 20_3`."""
    if call.json:
        plain.as_json(of, call.out)
        return 0
    now = time.time()
    for job in safe.clean(of):
        plain.facts(printed.job_facts(job, now), call.out)
        print(file=call.out)
    print(f"{_sum(of)}; the history of one: stoker show {_first(of)}", file=call.out)
    return 0


def report(call: Call, of: Sequence[Job], *, html: bool) -> int:
    """Print the account of each task in a line, and of all of them together.

    Raises:
        StokerError: a page was asked for.
    """
    if html:
        named = _name(of)
        raise StokerError(
            f"a page tells of one task, and these are {named}; write: stoker report {_first(of)} --html …"
        )
    if call.json:
        plain.as_json([call.client.report(arrays.ref(job)) for job in of], call.out)
        return 0
    now, clean = time.time(), safe.clean(of)
    lines = [tables.task_line(job, now) for job in clean]
    plain.table(tables.TASK_TITLES, [*lines, tables.tasks_line(clean, now)], call.out)
    print(f"\n{_sum(of)}; the account of one: stoker report {_first(of)}", file=call.out)
    return 0


def _sum(of: Sequence[Job]) -> str:
    states = Counter(safe.text(job.state.value) for job in of)
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    return f"Array {of[0].array_job_id}: {units.count(len(of), 'task')}, {told}"


def _name(of: Sequence[Job]) -> str:
    return f"{of[0].array_job_id}_[{arrays.ranges([job.array_task_id or 0 for job in of])}]"


def _first(of: Sequence[Job]) -> str:
    return arrays.label(of[0])
