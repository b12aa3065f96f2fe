"""A job as it goes over the wire: what is told under its own name is told as it is kept."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from agent.api.types import Job
from agent.jobs.machine import Status
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.wire import OF_ROW, OF_SPEC, OF_STATUS

TOLD = [(kind, name) for kind, names in ((JobRow, OF_ROW), (Status, OF_STATUS), (JobSpec, OF_SPEC)) for name in names]


@pytest.mark.parametrize(("kind", "name"), TOLD)
def test_a_field_of_the_same_name_is_of_the_same_type_or_may_be_absent_besides(kind: type, name: str) -> None:
    kept = get_type_hints(kind)[name]
    assert get_type_hints(Job)[name] in (kept, kept | None)


def test_no_field_is_told_of_twice() -> None:
    assert len({name for _, name in TOLD}) == len(TOLD)
