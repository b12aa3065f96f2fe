"""What is asked of some tasks of an array together: done to those that it can be done to, and told of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.tasks import TasksRequest, TaskVerb
from agent.engine.base import Asker
from agent.jobs.filters import JobFilter
from tests.fakes.engines import Gpus, engine, make_config, run, submit, who


def test_tasks_are_asked_together_and_each_is_accounted_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            first = await submit(made, "true", "--array=0-9")
            array, own, admin = JobRef(id=first.id), who(admin=False), Asker(user="boss", uid=1, admin=True)

            async def ask(verb: TaskVerb, tasks: str, by: Asker = own, **more: Any) -> list[tuple[object, ...]]:
                reply = await made.ask_tasks(verb, array, by, TasksRequest(tasks=tasks, **more))
                done = [(each.tasks, each.job.state.value, each.job.held) for each in reply.done]
                return [*done, *((each.tasks, each.status, each.message) for each in reply.refused)]

            pending = "PENDING"
            assert await ask(TaskVerb.CANCEL, "0,9") == [("0,9", "CANCELLED", False)]
            assert await ask(TaskVerb.HOLD, "3-5,8-12") == [
                ("3-5,8", pending, True),
                ("9", 409, "CANCELLED: only a waiting job can be held"),
                ("10-12", 404, "the array has no such task"),
            ]
            listed = {job.array_task_id: job.held for job in await made.jobs(JobFilter(array=first.id))}
            assert {task for task, held in listed.items() if held} == {3, 4, 5, 8}
            assert await ask(TaskVerb.HOLD, "1", admin) == [("1", pending, True)]
            assert await ask(TaskVerb.RELEASE, "1,3") == [
                ("3", pending, False),
                ("1", 403, "is held by an admin; ask one to release it"),
            ]
            assert await ask(TaskVerb.REQUEUE, "0,2,9", hold=True) == [
                ("0,9", pending, True),
                ("2", 409, "PENDING: a waiting job cannot be requeued"),
            ]
            assert await ask(TaskVerb.CANCEL, "0-9") == [("0-9", "CANCELLED", True)]
            for ref, asker, status in ((JobRef(id=first.id + 3), own, 404), (array, Asker(user="eve", uid=1), 403)):
                with pytest.raises(ApiError) as refused:
                    await made.ask_tasks(TaskVerb.HOLD, ref, asker, TasksRequest(tasks="1"))
                assert refused.value.status == status

    run(test)
