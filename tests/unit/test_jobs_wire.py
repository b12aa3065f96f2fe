"""A job as it goes over the wire: what has a name of its own there is told as it is kept."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from agent.api.types import Job, JobState
from agent.jobs.machine import Status
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.wire import OF_ROW, OF_SPEC, OF_STATUS, to_wire

VALUES: dict[Any, Any] = {int: 7, str: "word", bool: True, tuple[str, ...]: ("word",)}
OTHERS = {"priority"}
"""Means something else there: what the scheduler made of it."""

TOLD = [(kind, name) for kind, names in ((JobRow, OF_ROW), (Status, OF_STATUS), (JobSpec, OF_SPEC)) for name in names]


def alike(kind: type) -> list[str]:
    """Fields that a job on the wire has under the same name and of the same type."""
    names = [each.name for each in (fields(kind) if is_dataclass(kind) else msgspec.structs.fields(kind))]
    ours, theirs = get_type_hints(kind), get_type_hints(Job)
    return [
        name for name in names if name in theirs.keys() - OTHERS and theirs[name] in (ours[name], ours[name] | None)
    ]


def unlike_its_default(kind: type, name: str) -> Any:
    hint = get_type_hints(kind)[name]
    return next((VALUES[each] for each in (hint, *get_args(hint)) if each in VALUES), None)


@pytest.mark.parametrize(("kind", "name"), TOLD)
def test_what_is_told_as_it_stands_is_of_the_same_type(kind: type, name: str) -> None:
    assert name in alike(kind)


def test_everything_that_is_kept_as_it_would_be_told_is_told() -> None:
    given = {name: unlike_its_default(JobSpec, name) for name in alike(JobSpec)}
    given = {name: value for name, value in given.items() if value is not None}
    spec = JobSpec(**{"script_name": "s", **given})
    facts = {name: unlike_its_default(Status, name) for name in alike(Status) if name != "gpu_uuids"}
    status = Status(**facts | {"state": JobState.FAILED, "gpu_uuids": ("GPU-a",)})
    known = {name: unlike_its_default(JobRow, name) for name in alike(JobRow)}
    row = JobRow(**known | {"uid": 1, "key": None, "digest": "d", "spec": spec, "status": status, "folder_id": 7})
    told = to_wire(row, "n1")
    assert len(given) > 15
    for kept, names in ((spec, given), (status, alike(Status)), (row, known)):
        assert {name: getattr(told, name) for name in names} == {name: getattr(kept, name) for name in names}
