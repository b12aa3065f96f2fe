"""What users ask of jobs: end, hold, release, requeue, top, signal. One rule for all: who may, which jobs, what then.

Rules kept here: a wish is stored before anything is signalled; what cannot happen to a job as it is now is refused with
how it is now; of an array all tasks are asked that it makes sense for, and it is refused only when there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from agent.api import signals
from agent.api.errors import ApiError
from agent.api.queue import RequeueRequest, SignalRequest
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, Job, JobState
from agent.engine import watch
from agent.engine.accept import as_api_error
from agent.engine.base import Asker
from agent.engine.core import Core, conflict
from agent.engine.room import Room
from agent.engine.runs import Runner
from agent.jobs import machine
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec

AT_ONCE = 500
"""Tasks of an array that are changed in one go: other calls wait for no more than these."""

WAITS = "a waiting job cannot be requeued"
NOT_HELD = "only a waiting job can be held"
NOT_RELEASED = "only a waiting job can be released"
ADMINS_HOLD = "is held by an admin; ask one to release it"

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
        if not todo:
            return self._core.wire(rows[0])
        event = machine.CancelAsked(by=asker.user, reason=request.reason)
        try:
            return self._first(rows=todo, changed=await self.wished(todo, event))
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
            raise conflict(rows[0], WAITS)
        return self._first(rows=todo, changed=await self.requeued(todo, asker, hold=request.hold))

    async def hold(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.hold`."""
        rows = await self.own(ref, asker)
        todo = [row for row in rows if machine.waits(row.status)]
        if not todo:
            raise conflict(rows[0], NOT_HELD)
        return await self.amend(todo, asker, "Held", hold_by(rows[0], asker))

    async def release(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.release`."""
        rows = await self.own(ref, asker)
        todo = [row for row in rows if machine.waits(row.status)]
        if not todo:
            raise conflict(rows[0], NOT_RELEASED)
        if not asker.admin and any(row.spec.held == "admin" for row in todo):
            raise ApiError(403, "forbidden", f"job {todo[0].id} {ADMINS_HOLD}")
        return await self.amend(todo, asker, "Released", released)

    async def top(self, ref: JobRef, asker: Asker) -> Job:
        """See `Engine.top`."""
        rows = await self.own(ref, asker)
        todo = [row for row in rows if row.status.state is JobState.PENDING]
        if not todo:
            raise conflict(rows[0], "only a waiting job can be put on top")
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
            raise conflict(rows[0], "only a running job can be signalled")
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
            raise conflict(rows[0], "it has changed since you looked at it")
        return rows

    async def amend(self, rows: Sequence[JobRow], asker: Asker, event: str, change: Change) -> Job:
        """Change what each asks for, many at a time; the answer is the first.

        Raises:
            ApiError: 409 when the only one is not as it was.
        """
        changed = await self.amended(rows, asker, event, change)
        return self._core.wire(next(iter(changed), rows[0]))

    async def amended(self, rows: Sequence[JobRow], asker: Asker, event: str, change: Change) -> list[JobRow]:
        """Change what each asks for, many at a time; one that waits no more is left out.

        Raises:
            ApiError: 409 when the only one is not as it was.
        """
        changed: list[JobRow] = []
        with as_api_error():
            if len(rows) == 1:
                row, spec = rows[0], change(rows[0].spec)
                if spec != row.spec:
                    row = await self._core.amend(row.id, spec, event=event, by=asker.user, revision=row.revision)
                changed.append(row)
            for part in _shares(rows if len(rows) > 1 else ()):
                changed += await self._core.amend_each(part, change, event=event, by=asker.user)
        self._core.wake()
        return changed

    async def requeued(self, rows: Sequence[JobRow], asker: Asker, *, hold: bool) -> list[JobRow]:
        """Let jobs that do not wait wait again, with `hold` until they are released; the queue must have room for all.

        Raises:
            ApiError: 429.
        """
        ended = sum(row.status.state.is_final for row in rows)
        user, qos = rows[0].user, rows[0].spec.qos  # of an array: its first task's
        if ended:
            self._room.check(ended, user, qos)
        with self._room.taken(ended, user, qos):
            if hold:
                with as_api_error():
                    for part in _shares(rows):
                        change = hold_by(rows[0], asker)
                        await self._core.amend_each(part, change, event="Held", by=asker.user, waiting=False)
            return await self.wished(rows, machine.RequeueAsked(by=asker.user, reason=None))

    async def wished(self, rows: Sequence[JobRow], event: machine.Event) -> list[JobRow]:
        """Store what is wished of each, then tell the shims; one to which it cannot happen any more is left out."""
        changed: list[JobRow] = []
        with as_api_error():
            for part in _shares(rows):
                for row in await self._core.apply_each(part, event):
                    changed.append(row)
                    if row.status.state is JobState.COMPLETING:
                        self._carry_out(row)
        self._core.wake()
        return changed

    def _first(self, *, rows: Sequence[JobRow], changed: Sequence[JobRow]) -> Job:
        if not changed:
            raise conflict(rows[0], "it has changed meanwhile, and so have all its tasks")
        return self._core.wire(changed[0])

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


def _shares(rows: Sequence[JobRow]) -> Iterator[list[int]]:
    """Ids, as many as are changed in one go."""
    for begin in range(0, len(rows), AT_ONCE):
        yield [row.id for row in rows[begin : begin + AT_ONCE]]


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


def hold_by(row: JobRow, asker: Asker) -> Change:
    """Hold in the asker's name; what an admin holds stays an admin's."""
    who = _holder(row, asker)
    return lambda spec: spec if spec.held == "admin" else replace(spec, held=who)


def released(spec: JobSpec) -> JobSpec:
    """Without a hold."""
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
