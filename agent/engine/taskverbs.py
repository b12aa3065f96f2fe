"""The same asked of some of an array's tasks in one go, and what became of each of them.

Rules kept here: every task named is accounted for: done, or refused as the call for it alone would be; one refusal does
not keep the others from it; the tasks that are alike after it are told of together.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.tasks import TaskGroup, TasksRefused, TasksReply, TasksRequest, TaskVerb
from agent.api.types import JobState
from agent.engine import verbs
from agent.engine.base import Asker
from agent.engine.core import Core
from agent.engine.verbs import Verbs
from agent.jobs import arrays, machine
from agent.jobs.grammar import GrammarError
from agent.jobs.row import JobRow

_Why = tuple[int, str, str]
"""Status, code and message of a refusal."""


class TaskVerbs:
    """See above."""

    def __init__(self, core: Core, asked: Verbs) -> None:
        self._core = core
        self._verbs = asked

    async def ask(self, verb: TaskVerb, array: JobRef, asker: Asker, request: TasksRequest) -> TasksReply:
        """See `Engine.ask_tasks`."""
        rows = await self._named(array, asker, _numbers(request.tasks))
        refused = {task: _why_not(verb, row, asker) for task, row in rows.items()}
        todo = [row for task, row in rows.items() if refused[task] is None and row is not None]
        done = {row.array_task_id or 0: row for row in await self._do(verb, todo, asker, request)} if todo else {}
        for row in todo:
            task = row.array_task_id or 0
            if task not in done:
                left = await self._core.row(JobRef(id=row.id))
                if left.status.state.is_final and verb is TaskVerb.CANCEL:
                    done[task] = left  # it ended at that moment: what was wished is so
                else:
                    refused[task] = _changed(left, "it has changed meanwhile")
        if verb is TaskVerb.CANCEL:
            done |= {task: row for task, row in rows.items() if row is not None and row.status.state.is_final}
        return TasksReply(done=self._groups(done), refused=_refusals(refused))

    async def _named(self, array: JobRef, asker: Asker, tasks: Set[int]) -> dict[int, JobRow | None]:
        """Each task's row, in order; nothing for one that the array does not have.

        Raises:
            ApiError: 404, 403.
        """
        first = await self._core.row(array)
        verbs.require_owner(first, asker)
        if array.task is not None or first.array_job_id != first.id:
            raise ApiError(404, "no_such_job", f"there is no array {array.local}; see stoker jobs")
        found = {row.array_task_id or 0: row for row in self._core.jobs.of_array(first.id)}
        if not tasks <= found.keys():
            found = {row.array_task_id or 0: row for row in await self._core.rows(array)} | found
        return {task: found.get(task) for task in sorted(tasks)}

    async def _do(self, verb: TaskVerb, rows: list[JobRow], asker: Asker, request: TasksRequest) -> list[JobRow]:
        try:
            if verb is TaskVerb.HOLD:
                return await self._verbs.amended(rows, asker, "Held", verbs.hold_by(rows[0], asker))
            if verb is TaskVerb.RELEASE:
                return await self._verbs.amended(rows, asker, "Released", verbs.released)
            if verb is TaskVerb.REQUEUE:
                return await self._verbs.requeued(rows, asker, hold=request.hold)
            return await self._verbs.wished(rows, machine.CancelAsked(by=asker.user, reason=request.reason))
        except ApiError as error:
            if error.code != "changed":
                raise
            return []  # none of them is as it was

    def _groups(self, done: Mapping[int, JobRow]) -> tuple[TaskGroup, ...]:
        alike: dict[object, list[int]] = {}
        for task, row in sorted(done.items()):
            spec = row.spec if row.status.state is JobState.PENDING else None
            asks = spec and (spec.held, spec.nice, spec.priority)
            alike.setdefault((row.status.state, asks), []).append(task)
        return tuple(
            TaskGroup(tasks=arrays.show(tasks), job=self._core.wire(done[tasks[0]])) for tasks in alike.values()
        )


def _why_not(verb: TaskVerb, row: JobRow | None, asker: Asker) -> _Why | None:
    """Why it cannot be done to a task as it is now."""
    if row is None:
        return 404, "no_such_job", "the array has no such task"
    waits = row.status.state is JobState.PENDING
    if verb is TaskVerb.REQUEUE and waits:
        return _changed(row, verbs.WAITS)
    if verb in (TaskVerb.HOLD, TaskVerb.RELEASE) and not machine.waits(row.status):
        return _changed(row, verbs.NOT_HELD if verb is TaskVerb.HOLD else verbs.NOT_RELEASED)
    if verb is TaskVerb.RELEASE and row.spec.held == "admin" and not asker.admin:
        return 403, "forbidden", verbs.ADMINS_HOLD
    return None


def _changed(row: JobRow, why: str) -> _Why:
    return 409, "changed", f"{row.status.state}: {why}"


def _refusals(refused: Mapping[int, _Why | None]) -> tuple[TasksRefused, ...]:
    alike: dict[_Why, list[int]] = {}
    for task, why in sorted(refused.items()):
        if why is not None:
            alike.setdefault(why, []).append(task)
    return tuple(
        TasksRefused(tasks=arrays.show(tasks), status=status, code=code, message=message)
        for (status, code, message), tasks in alike.items()
    )


def _numbers(text: str) -> frozenset[int]:
    """Read `3,5-7`.

    Raises:
        ApiError: 400, it is no list of tasks.
    """
    try:
        return frozenset(arrays.array(text).tasks)
    except GrammarError as error:
        raise ApiError(400, "bad_tasks", f"{text[:40]!r} {error}", "$.tasks") from None
