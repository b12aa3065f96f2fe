"""What a submit would do, and when: the scheduler asked with a job added that is not there. Nothing is stored."""

from __future__ import annotations

import time
from dataclasses import replace

from agent.api.types import Plan, SubmitRequest
from agent.engine.accept import as_api_error
from agent.engine.core import Core, indexes, now
from agent.engine.facts import Facts
from agent.engine.intake import Intake
from agent.jobs import schedule
from agent.jobs.machine import Status
from agent.jobs.row import JobRow
from agent.jobs.schedule import Decision
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
from agent.jobs.wire import Standing, to_wire

_NOT_YET = 2**62
"""The id of the job that might be: behind all that are there."""


class Planner:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, facts: Facts, intake: Intake) -> None:
        self._core = core
        self._facts = facts
        self._intake = intake

    async def plan(self, request: SubmitRequest, *, user: str, uid: int, admin: bool) -> Plan:
        """See `Engine.plan`."""
        core, at = self._core, now()
        with as_api_error():
            judged = await self._intake.judge(request, user=user, uid=uid, admin=admin)
            row = _row(judged.spec, user, uid, at)
            hold = await self._facts.hold_of(row)
            await self._facts.refresh()
            next_id = await core.store.read(JobStore.next_id)
        waiting = self._facts.waiting_of(replace(row, id=_NOT_YET), hold)
        decision = schedule.decide(self._facts.snapshot(at, more=waiting), at)
        gpu_uuids = next((each.gpu_uuids for each in decision.starts if each.job_id == _NOT_YET), ())
        resources = core.view.resources()
        known = indexes(resources)
        standing = Standing(
            why=decision.reasons.get(_NOT_YET),
            priority=decision.priorities.get(_NOT_YET),
            expected_start_at=decision.expected.get(_NOT_YET),
        )
        return Plan(
            job=to_wire(
                row,
                core.config.name,
                standing=standing,
                gpu_indexes=known,
                simulated=bool(row.spec.gpus or row.spec.shards) and resources.simulated,
            ),
            tasks=judged.tasks,
            starts_at=_starts_at(decision, at),
            gpu_uuids=gpu_uuids,
            gpu_indexes=tuple(sorted(known[uuid] for uuid in gpu_uuids if uuid in known)),
            next_id=next_id,
            sentence=_sentence(decision, gpu_uuids, known, judged.tasks),
        )


def _row(spec: JobSpec, user: str, uid: int, at: int) -> JobRow:
    """The job as it would be; of an array its first task. Its id is 0."""
    array = spec.array
    return JobRow(
        id=0,
        folder_id=0,
        user=user,
        uid=uid,
        key=None,
        digest="",
        submitted_at=at,
        spec=spec,
        status=Status(requeue=spec.requeue),
        array_job_id=0 if array else None,
        array_task_id=array.tasks[0] if array else None,
    )


def _starts_at(decision: Decision, at: int) -> int | None:
    if any(each.job_id == _NOT_YET for each in decision.starts):
        return at
    return decision.expected.get(_NOT_YET)


def _sentence(decision: Decision, gpu_uuids: tuple[str, ...], known: dict[str, int], tasks: int) -> str:
    many = f"the first of its {tasks} tasks " if tasks > 1 else ""
    if any(each.job_id == _NOT_YET for each in decision.starts):
        places = ", ".join(str(known[uuid]) for uuid in gpu_uuids if uuid in known)
        where = f" on GPU {places}" if places else ""
        return f"{many}would start at once{where}"
    victims = next((each.victims for each in decision.preempts if each.job_id == _NOT_YET), ())
    if victims:
        named = ", ".join(str(each) for each in victims)
        return f"{many}would start as soon as job {named} has made way for it"
    if _NOT_YET in decision.expired:
        return f"{many}could not end before its deadline"
    word, why = decision.reasons.get(_NOT_YET, ("Priority", "others are served first"))
    expected = decision.expected.get(_NOT_YET)
    when = (
        f"until {time.strftime('%Y-%m-%d %H:%M', time.localtime(expected))} at the latest"
        if expected
        else ("and when it would start cannot be told")
    )
    return f"{many}would wait {when} ({word}): {why}"
