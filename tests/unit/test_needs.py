"""Which features of a licence a job needs at its start: ordinary scripts need none."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from agent import config as configuration
from agent.config import Config
from agent.config.tables import QosTable
from agent.engine.needs import needs_of
from agent.jobs.machine import Status
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec

SPEC = JobSpec(name="j", script_name="j.sh", submit_dir="/w", work_dir="/w")


@pytest.fixture
def config() -> Config:
    made = configuration.load(None, environ={"HOME": "/tmp"})
    return msgspec.structs.replace(made, qos=(QosTable(name="normal"), QosTable(name="high", preempts=("normal",))))


def row(spec: JobSpec = SPEC, **fields: object) -> JobRow:
    values = {"id": 1, "folder_id": 1, "user": "ada", "uid": 1, "key": None, "digest": "", "submitted_at": 1}
    made = JobRow(**values, spec=spec, status=Status(requeue=False))  # type: ignore[arg-type]
    return replace(made, **fields)  # type: ignore[arg-type]


def test_an_ordinary_job_needs_nothing(config: Config) -> None:
    ordinary = msgspec.structs.replace(
        SPEC, account="lab", partition="gpu,debug", gpus=8, exclusive=True, begin_at=9, deadline_at=99, time_limit_s=5,
        qos="normal",
    )  # fmt: skip
    assert needs_of(config, row(ordinary, array_job_id=1, array_task_id=0)) == ()
    assert needs_of(config, row()) == ()


def test_what_needs_a_feature(config: Config) -> None:
    assert needs_of(config, row(msgspec.structs.replace(SPEC, qos="high"))) == ("qos",)
    assert needs_of(config, row(msgspec.structs.replace(SPEC, reservation="course"))) == ("reservations",)
    assert needs_of(config, row(cron_id=3)) == ("recurring",)
    both = msgspec.structs.replace(SPEC, qos="high", reservation="course")
    assert needs_of(config, row(both)) == ("qos", "reservations")


def test_a_default_qos_that_preempts_is_one_that_is_sold(config: Config) -> None:
    pushy = (QosTable(name="normal", preempts=("low",)), QosTable(name="low"))
    assert needs_of(msgspec.structs.replace(config, qos=pushy), row()) == ()
    scheduler = msgspec.structs.replace(config.scheduler, preempt="qos")
    assert needs_of(msgspec.structs.replace(config, qos=pushy, scheduler=scheduler), row()) == ("qos",)
