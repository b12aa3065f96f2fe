"""What users ask of jobs: end, hold, release, requeue, top, signal. One rule for all: who may, which jobs, what then.

Rules kept here: a wish is stored before anything is signalled; what cannot happen to a job as it is now is refused with
how it is now; of an array all tasks are asked that it makes sense for, and it is refused only when there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from agent.api import signals
from agent.api.errors import ApiError
from agent.api.queue import RequeueRequest, SignalRequest
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, CancelTasksRequest, Job, JobState
from agent.engine import watch
from agent.engine.accept import as_api_error
from agent.engine.base import Asker
from agent.engine.core import Core, conflict
from agent.engine.room import Room
from agent.engine.runs import Runner
from agent.jobs import arrays, machine
from agent.jobs.grammar import GrammarError
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec

AT_ONCE = 500
"""Tasks of an array that are changed in one go: other calls wait for no more than these."""

Change = Callable[[JobSpec], JobSpec]
"""What a job asks for from now on."""

Stopper = Callable[[JobRow], None]
"""Sees to it that a job's shim is told of the wish that was stored."""


class Verbs:
    """See above."""

    def __init__(self, core: Core, runner: Runner, carry_out: Stopper, room: Room) -> None:
        self._core = core
        self._room = room
        self._runner = runner
        self._carry_out = carry_out

    async def cancel(self, ref: JobRef, asker: Asker, request: CancelRequest) -> Job:
        """See `Engine.cancel`."""
        rows = await self.own(ref, asker, request.revision)
        todo = [row for row in rows if not row.status.state.is_final]
        if isinstance(request, CancelTasksRequest):
            named = _tasks(request.tasks)
            todo = [row for row in todo if row.array_task_id in named]
        if not todo:
            return self._core.wire(rows[0])
        event = machine.CancelAsked(by=asker.user, reason=request.reason)
        try:
            return await self._wish(todo, event)
        except ApiError as error:
            meant, left = {row.id for row in todo}, await self.own(ref, asker)
            if error.code != "changed" or any(row.id in meant and not row.status.state.is_final for row in left):
                raise
            return self._core.wire(left[0])  # what was meant ended at that moment: what was wished is so

    async def requeue(self, ref: JobRef, asker: Asker, request: RequeueRequest) -> Job:
        """See `Engine.requeue`."""
        rows = await self.own(ref, asker, request.revision)
        todo = [row for row in rows if row.status.state is not JobState.PENDING]
        if not todo:
            raise self._refusal(rows[0], "a waiting job cannot be requeued")
        ended = sum(row.status.state.is_final for row in todo)
        user, qos = todo[0].user, todo[0].spec.qos  # of an array: its first task's
        if ended:
            self._room.check(ended, user, qos)
        with self._room.taken(ended, user, qos):
            if request.hold:
                with as_api_error():
                    for row in todo:
                        held = _hold_by(_holder(row, asker))(row.spec)
                        await self._core.amend(row.id, held, event="Held", by=asker.user, revision=row.revision)
            return await self._wish(todo, machine.RequeueAsked(by=asker.user, reason=None))

    async def hold(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.hold`."""
        rows = await self.own(ref, asker)
        todo = [row for row in rows if row.status.state is JobState.PENDING]
        if not todo:
            raise self._refusal(rows[0], "only a waiting job can be held")
        return await self.amend(todo, asker, "Held", _hold_by(_holder(rows[0], asker)))

    async def release(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.release`."""
        rows = await self.own(ref, asker)
        todo = [row for row in rows if row.status.state is JobState.PENDING]
        if not todo:
            raise self._refusal(rows[0], "only a waiting job can be released")
        if not asker.admin and any(row.spec.held == "admin" for row in todo):
            raise ApiError(403, "forbidden", f"job {todo[0].id} is held by an admin; ask one to release it")
        return await self.amend(todo, asker, "Released", _released)

    async def top(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.top`."""
        rows = await self.own(ref, asker)
        todo = [row for row in rows if row.status.state is JobState.PENDING]
        if not todo:
            raise self._refusal(rows[0], "only a waiting job can be put on top")
        if asker.admin:
            priority = self._highest() + 1
            return await self.amend(todo, asker, "Top", lambda spec: replace(spec, priority=priority))
        return await self._before_own(todo, asker)

    async def signal(self, ref: JobRef, asker: Asker, request: SignalRequest) -> Job:
        """See `Engine.signal`."""
        number = signal_number(request.signal)
        rows = await self.own(ref, asker)
        todo = [row for row in rows if row.status.state in (JobState.RUNNING, JobState.COMPLETING)]
        if not todo:
            raise self._refusal(rows[0], "only a running job can be signalled")
        with as_api_error():
            for row in todo:
                await watch.send_signal(self._runner.attempt(row), number, request.batch_only)
        return self._core.wire(todo[0])

    # --- below --------------------------------------------------------------------------------------------------------

    async def own(self, ref: JobRef, asker: Asker, revision: int | None = None) -> list[JobRow]:
        """The rows that a ref means, once the asker may act on them and they are as the asker saw them.

        Raises:
            ApiError: 404, 403, 409.
        """
        row = await self._core.row(ref)
        require_owner(row, asker)
        rows = [row]
        if ref.task is None and row.array_job_id == row.id:
            rows = list(self._core.jobs.of_array(row.id)) or await self._core.rows(ref)
        if revision is not None and revision != rows[0].revision:
            raise self._refusal(rows[0], "it has changed since you looked at it")
        return rows

    async def amend(self, rows: Sequence[JobRow], asker: Asker, event: str, change: Change) -> Job:
        """Change what each asks for, many at a time; the answer is the first.

        Raises:
            ApiError: 409 when the only one is not as it was.
        """
        first: JobRow | None = None
        with as_api_error():
            if len(rows) == 1:
                first, spec = rows[0], change(rows[0].spec)
                if spec != first.spec:
                    revision = first.revision
                    first = await self._core.amend(first.id, spec, event=event, by=asker.user, revision=revision)
            for begin in range(0, len(rows) if len(rows) > 1 else 0, AT_ONCE):
                part = [row.id for row in rows[begin : begin + AT_ONCE]]
                for row in await self._core.amend_each(part, change, event=event, by=asker.user):
                    first = first or row
        self._core.wake()
        return self._core.wire(first or rows[0])

    async def _wish(self, rows: Sequence[JobRow], event: machine.Event) -> Job:
        """Store what is wished of each, then tell the shims."""
        first: JobRow | None = None
        with as_api_error():
            for begin in range(0, len(rows), AT_ONCE):
                part = [row.id for row in rows[begin : begin + AT_ONCE]]
                for row in await self._core.apply_each(part, event):
                    first = first or row
                    if row.status.state is JobState.COMPLETING:
                        self._carry_out(row)
        if first is None:
            raise self._refusal(rows[0], "it has changed meanwhile, and so have all its tasks")
        self._core.wake()
        return self._core.wire(first)

    async def _before_own(self, rows: Sequence[JobRow], asker: Asker) -> Job:
        """As `scontrol top` does for a user: what one job gains in nice, the user's others that were before it lose."""
        ids, totals = {row.id for row in rows}, self._core.decision.priorities
        lowest = min((totals[job_id].total for job_id in ids if job_id in totals), default=1)
        others = [row for row in self._core.jobs.of_user(rows[0].user) if row.id not in ids and row.id in totals]
        above = sorted((row for row in others if totals[row.id].total >= lowest), key=lambda row: -totals[row.id].total)
        above = above[:AT_ONCE]
        if not above:
            return self._core.wire(rows[0])
        gain = totals[above[0].id].total - lowest + 1
        loss = -(-gain * len(rows) // len(above))
        await self.amend(above, asker, "Top", lambda spec: replace(spec, nice=spec.nice + loss))
        return await self.amend(rows, asker, "Top", lambda spec: replace(spec, nice=spec.nice - gain))

    def _highest(self) -> int:
        totals = self._core.decision.priorities.values()
        return max((parts.total for parts in totals), default=1)

    def _refusal(self, row: JobRow, why: str) -> ApiError:
        return conflict(row, why)


def _tasks(text: str) -> frozenset[int]:
    """Read `3,5-7`.

    Raises:
        ApiError: 400, it is no list of tasks.
    """
    try:
        return frozenset(arrays.array(text).tasks)
    except GrammarError as error:
        raise ApiError(400, "bad_tasks", f"{text[:40]!r} {error}", "$.tasks") from None


def require_owner(row: JobRow, asker: Asker) -> None:
    """Own jobs, or all of them for admins.

    Raises:
        ApiError: 403.
    """
    if row.uid != asker.uid and not asker.admin:
        raise ApiError(403, "forbidden", f"job {row.id} belongs to another user; only its owner and admins may do that")


def _holder(row: JobRow, asker: Asker) -> str:
    """An admin's hold on somebody else's job is an admin's; the user's own word does not lift it."""
    return "user" if row.uid == asker.uid else "admin"


def _hold_by(who: str) -> Change:
    return lambda spec: spec if spec.held == "admin" else replace(spec, held=who)


def _released(spec: JobSpec) -> JobSpec:
    return replace(spec, held=None)


def signal_number(text: str) -> int:
    """See `signals.number_of`.

    Raises:
        ApiError: 400, it is none.
    """
    number = signals.number_of(text)
    if number is None:
        known = ", ".join(sorted(signals.NAMES))
        raise ApiError(400, "bad_signal", f"{text[:40]!r} is no signal; known: {known}", "$.signal")
    return number
