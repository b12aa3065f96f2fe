"""What every command works with, and how one thing is asked of several jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import msgspec

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import Job
from tui import arrays, inonego, pages, plain, safe
from tui.inonego import Tasks

if TYPE_CHECKING:
    from agent.api.tasks import TasksReply
    from tui.client import ClusterClient

_T = TypeVar("_T")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a command works with."""

    client: ClusterClient
    json: bool = False
    out: TextIO = msgspec.field(default_factory=lambda: sys.stdout)

    def jobs(self, **asked: Any) -> list[Job]:
        """All jobs that match, however many; `asked` as for `Client.jobs`, without a limit."""
        return pages.every(self.client, **asked)

    def listed(self, found: Sequence[_T], titles: Sequence[str], line: Callable[[_T], Sequence[str]]) -> int:
        """Print values: as they came for `--json`, else as a table of `line` of each, made safe; the exit code, 0."""
        if self.json:
            plain.as_json(found, self.out)
        else:
            plain.table(titles, [line(each) for each in safe.clean(found)], self.out)
        return 0


def each(
    call: Call,
    refs: Sequence[JobRef],
    ask: Callable[[JobRef], Job],
    *,
    not_done: str,
    line: Callable[[Job], str],
    together: Callable[[Tasks], TasksReply | None] | None = None,
) -> int:
    """Ask for the same of several jobs, and print a line about each; 1 when one of them was refused.

    Args:
        call: client and output.
        refs: the jobs.
        ask: what to ask for.
        not_done: `job 17 is …: why`, of one that was refused.
        line: what became of a job.
        together: asks it of the tasks of an array in one call; `None` as its answer: the server knows no such call.
    """
    parts = inonego.parts(refs) if together else list(refs)
    answers, failed = [], False
    while parts:
        part = parts.pop(0)
        try:
            if isinstance(part, JobRef):
                job = ask(part)
                answers.append(job)
                if not call.json:
                    print(f"{named(part, job)}: {line(job)}", file=call.out)
            elif (reply := together(part) if together else None) is None:
                parts[:0] = part.refs
            else:
                answers += _told(call, part, reply, not_done=not_done, line=line)
                failed = failed or bool(reply.refused)
        except ApiError as error:
            plain.refuse(error, json=call.json, about=f"job {part} is {not_done}: ")
            failed = True
    if call.json:
        plain.as_json(answers, call.out)
    return int(failed)


def _told(call: Call, tasks: Tasks, reply: TasksReply, *, not_done: str, line: Callable[[Job], str]) -> list[Job]:
    """A line about each group of tasks; for `--json` the jobs themselves."""
    for refused in reply.refused:
        about = f"job {inonego.name(tasks.array, refused.tasks)} is {not_done}: "
        plain.refuse(inonego.refusal(refused), json=call.json, about=about)
    if not call.json:
        for group in reply.done:
            print(f"job {inonego.name(tasks.array, group.tasks)}: {line(group.job)}", file=call.out)
        return []
    done = {number for group in reply.done for number in arrays.numbers(group.tasks)}
    known = pages.tasks_of(call.client, reply.done[0].job) if done else []
    return [job for job in known if job.array_task_id in done]


def named(ref: JobRef, job: Job) -> str:
    """What was asked about: a job, a task, or a whole array, whose answer is its first task."""
    whole = job.array_job_id is not None and ref.task is None and ref.id == job.array_job_id
    return f"{'array' if whole else 'job'} {ref}"
