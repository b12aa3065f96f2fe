"""The engine's own house: a backup to go back to, old jobs forgotten, other rules from one moment to the next."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.config.tables import HistoryTable, LimitsTable, PartitionTable
from agent.jobs.filters import JobFilter
from agent.jobs.store import JobStore
from tests.fakes.engines import Gpus, ended, engine, make_config, run, submit, told, until


def test_old_jobs_are_forgotten_with_their_folders_and_their_ids_are_not_given_again(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path, tables={"history": HistoryTable(keep_days=1)})
        async with engine(config) as made:
            jobs = [await submit(made, "true") for _ in range(3)]
            for job in jobs:
                await until(made, job.id, ended)
            assert await made._upkeep.forget_old(int(time.time())) == 0
            assert await made._upkeep.forget_old(int(time.time()) + 2 * 86_400) == 2, "the youngest tells of the ids"
            assert [job.id for job in await made.jobs(JobFilter())] == [jobs[2].id]
            assert not (config.state_dir / "jobs" / str(jobs[0].id)).exists()
            with pytest.raises(ApiError) as caught:
                await made.job(JobRef(id=jobs[0].id))
            assert caught.value.status == 404
            assert (await submit(made, "true")).id == jobs[2].id + 1

    run(test)


def test_charges_that_count_no_more_are_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        long_ago = int(time.time()) - 30 * int(config.scheduler.half_life_s)
        async with engine(config) as made:
            await made._core.store.call(JobStore.charge, "a", "ada", 5.0, long_ago)
        async with engine(config) as made:
            async with asyncio.timeout(30):
                while await made._core.store.read(JobStore.usage_as_of, long_ago, config.scheduler.half_life_s):
                    await asyncio.sleep(0)

    run(test)


def test_a_damaged_database_comes_back_from_the_backup_and_the_folders(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config) as made:
            old = await until(made, (await submit(made, "exit 3")).id, ended)
            await made._core.store.back_up()
            young = await until(made, (await submit(made, "exit 4")).id, ended)
            waits = await submit(made, "true", "--hold", "--array=0-2")
        (config.state_dir / "agent.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
        async with engine(config, Gpus(licence_hold="not yet")) as made:
            known = {job.id: job for job in await made.jobs(JobFilter())}
            assert set(known) == {old.id, young.id, waits.id, waits.id + 1, waits.id + 2}
            assert (known[old.id].exit_code, known[young.id].exit_code) == (3, 4)
            assert known[waits.id + 1].held

    run(test)


def test_other_rules_hold_from_a_reload_on(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config) as made:
            limits = LimitsTable(max_running_per_user=0, max_submit_per_user=1)
            partitions = (PartitionTable(name="other", default=True),)
            made.reload(msgspec.structs.replace(config, limits=limits, partitions=partitions))
            assert [each.name for each in made.rules().partitions] == ["other"]
            job = await submit(made, "true")
            waits = await until(made, job.id, lambda each: each.reason is not None)
            assert "Limit" in (waits.reason or "")
            with pytest.raises(ApiError) as caught:
                await submit(made, "true")
            assert caught.value.status == 429
            made.reload(config)
            await until(made, job.id, ended)

    run(test)


def test_a_dependency_that_is_fulfilled_is_shown_no_more_while_the_job_still_waits(tmp_path: Path) -> None:
    async def test() -> None:
        view = Gpus()
        async with engine(make_config(tmp_path), view) as made:
            first = await until(made, (await submit(made, "true")).id, ended)
            view.licence_hold = "not yet"
            second = await submit(made, "true", f"--dependency=afterok:{first.id}")
            waits = await until(made, second.id, told("License"))
            assert waits.dependency is None

    run(test)


def test_usage_is_kept_apart_from_what_never_began(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config, Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true", "--gpus=2")
            assert (await made.job(JobRef(id=job.id))).usage is None
        store = JobStore.open(config.state_dir / "agent.db", now=1)
        assert store.usage_as_of(int(time.time()), 1000) == {}
        store.close()

    run(test)
