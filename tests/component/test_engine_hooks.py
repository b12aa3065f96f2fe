"""The site's programs around a job before the real engine: what it means for node and job when one fails."""

from __future__ import annotations

from pathlib import Path

from agent.api.queue import DrainOwner, DrainRequest
from agent.api.refs import JobRef
from agent.api.types import JobState
from agent.config.tables import HooksTable
from tests.fakes.engines import (
    ended,
    engine,
    make_config,
    run,
    submit,
    told,
    until,
    waiting,
    who,
)


def hook(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_prolog_that_fails_drains_the_node_and_holds_the_job_until_both_are_given_back(tmp_path: Path) -> None:
    """As Slurm does: the next job would only meet the same fault."""
    prolog = hook(tmp_path / "prolog", f"test -e {tmp_path}/mended")
    config = make_config(tmp_path, tables={"hooks": HooksTable(prolog=prolog)})

    async def test() -> None:
        async with engine(config) as made:
            job = await submit(made, "true")
            held = await until(made, job.id, told("JobHeldAdmin"))
            assert held.detail is not None
            assert held.detail.startswith(f"the prolog {prolog} ended with 1")
            assert held.detail.endswith(f"stoker resume n1, stoker release {job.id}")
            drains = made.drains()
            assert [(each.gpu_uuid, each.owner, each.by) for each in drains] == [(None, DrainOwner.CHECK, "stoker")]
            assert drains[0].reason.startswith(f"Prolog error: job {job.id}: the prolog {prolog} ended with 1")
            other = await submit(made, "true")
            waits = await until(made, other.id, waiting)
            assert "the node is drained: Prolog error" in (waits.detail or "")
        async with engine(config) as made:
            (tmp_path / "mended").touch()
            await made.release(JobRef(id=job.id), who())
            assert (await until(made, job.id, waiting)).reason == waits.reason, "the drain outlives the agent"
            assert (await made.resume(DrainRequest(), who())).drains == ()
            for each in (job, other):
                assert (await until(made, each.id, ended)).state is JobState.COMPLETED

    run(test)


def test_an_epilog_that_fails_drains_the_node_and_leaves_the_jobs_outcome_alone(tmp_path: Path) -> None:
    epilog = hook(tmp_path / "epilog", "exit 7")
    config = make_config(tmp_path, tables={"hooks": HooksTable(epilog=epilog)})

    async def test() -> None:
        async with engine(config) as made:
            job = await submit(made, "exit 0")
            assert (await until(made, job.id, ended)).state is JobState.COMPLETED
            (drain,) = made.drains()
            assert (drain.owner, drain.reason) == (
                DrainOwner.CHECK,
                f"Epilog error: job {job.id}: the epilog {epilog} ended with 7",
            )
            await made.resume(DrainRequest(), who())
            await made.drain(DrainRequest(reason="fan"), who("ada"))
            await made.arrangements.drains.hook_failed(job.id, "Epilog", "again")
            assert [(each.reason, each.owner) for each in made.drains()] == [("fan", DrainOwner.PERSON)]

    run(test)


def test_a_task_epilog_that_fails_is_the_jobs_own_affair(tmp_path: Path) -> None:
    tables = {"hooks": HooksTable(task_epilog=hook(tmp_path / "te", "exit 7"))}

    async def test() -> None:
        async with engine(make_config(tmp_path, tables=tables)) as made:
            job = await submit(made, "exit 0")
            assert "task_epilog" in ((await until(made, job.id, ended)).detail or "")
            assert made.drains() == []

    run(test)
