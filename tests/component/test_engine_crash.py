"""The embedded engine cut off between any two steps and started again: rows 1 to 7, 43 and 44 of the fault matrix.

A crash is made by cutting every task where it stands; what the disk and the shims have is all that is left. Whole
daemons are killed in `tests/system/test_survival.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, Job, JobState
from agent.config import Config
from agent.engine.embedded import EmbeddedEngine
from agent.engine.launch import ForkLauncher, Launcher
from agent.engine.records import AttemptDir
from agent.jobs.errors import StoreLockedError
from agent.jobs.machine import PreemptAsked, RequeueAsked
from agent.jobs.store import JobStore
from tests.fakes.engines import (
    Gate,
    Gpus,
    begin,
    crash,
    ended,
    engine,
    exists,
    look,
    make_config,
    run,
    running,
    submit,
    until,
    who,
)


class StuckLauncher(ForkLauncher):
    """Never gets to launch: the crash comes first."""

    def __init__(self, *, launches: bool = False) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self._launches = launches

    async def launch(self, job_id: int, attempt: AttemptDir) -> None:
        if self._launches:
            await super().launch(job_id, attempt)
        self.reached.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def crashing(
    config: Config, view: Gpus | None = None, launcher: Launcher | None = None
) -> AsyncIterator[EmbeddedEngine]:
    """An engine that is cut off at the end of the block."""
    async with engine(config, view, launcher) as made:
        yield made
        await crash(made)


def marks_of(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_row_1_the_queue_is_as_it_was_in_the_same_order(tmp_path: Path) -> None:
    async def test() -> None:
        config, order = make_config(tmp_path), tmp_path / "order"
        async with crashing(config, Gpus(count=1, licence_hold="not yet")) as made:
            jobs = [await submit(made, f"echo {number} >> {order}", "--gpus=1") for number in range(5)]
        async with engine(config, Gpus(count=1)) as made:
            for job in jobs:
                assert (await until(made, job.id, ended)).state is JobState.COMPLETED
        assert marks_of(order) == ["0", "1", "2", "3", "4"]

    run(test)


@pytest.mark.parametrize("launches", [False, True])
def test_rows_2_and_3_a_claimed_job_runs_exactly_once(tmp_path: Path, launches: bool) -> None:
    """row_2: the crash comes between claim and shim. row_3: the shim was started, and nobody saw it."""

    async def test() -> None:
        config, marks = make_config(tmp_path), tmp_path / "marks"
        launcher = StuckLauncher(launches=launches)
        async with crashing(config, launcher=launcher) as made:
            job = await submit(made, f"echo $JOB_ATTEMPT >> {marks}; sleep 0.2; exit 4", "--gpus=1")
            await launcher.reached.wait()
            assert (await look(made, job.id)).state is JobState.CONFIGURING
        async with engine(config) as made:
            after = await until(made, job.id, ended)
            assert (after.state, after.exit_code, after.attempt) == (JobState.FAILED, 4, 1)
        assert marks_of(marks) == ["1"]

    run(test)


@pytest.mark.parametrize("left", [b"", b'{"argv": ["/bi'])
def test_row_11_what_a_power_cut_tore_before_the_start_is_written_anew(tmp_path: Path, left: bytes) -> None:
    """Claim and script are not flushed: `spec` and `started` are, and without `started` nothing was run."""

    async def test() -> None:
        config, marks = make_config(tmp_path), tmp_path / "marks"
        launcher = StuckLauncher()
        async with crashing(config, launcher=launcher) as made:
            job = await submit(made, f"echo $JOB_ATTEMPT >> {marks}", "--gpus=1")
            await launcher.reached.wait()
        folder = config.state_dir / "jobs" / str(job.id)
        for path in (folder / "1" / "claim", folder / "script"):
            path.chmod(0o700)
            path.write_bytes(left)
        async with engine(config) as made:
            assert (await until(made, job.id, ended)).state is JobState.COMPLETED
        assert marks_of(marks) == ["1"]

    run(test)


def test_row_3_many_starts_and_crashes_never_make_a_second_run(tmp_path: Path) -> None:
    async def test() -> None:
        config, marks, gate = make_config(tmp_path), tmp_path / "marks", Gate(tmp_path / "go")
        async with crashing(config, launcher=StuckLauncher(launches=True)) as made:
            job = await submit(made, f"echo $JOB_ATTEMPT >> {marks}; {gate.script}", "--gpus=1")
            await asyncio.sleep(0.01)
        for delay_s in (0.0, 0.005, 0.02, 0.05):
            async with crashing(config):
                await asyncio.sleep(delay_s)  # no event to wait for: anywhere is where a crash comes
        async with engine(config) as made:
            await until(made, job.id, running)
            await gate.open()
            assert (await until(made, job.id, ended)).state is JobState.COMPLETED
        assert marks_of(marks) == ["1"]

    run(test)


def test_row_4_a_running_job_is_adopted_with_its_code_and_its_whole_log(tmp_path: Path) -> None:
    async def test() -> None:
        config, gate = make_config(tmp_path), Gate(tmp_path / "go")
        async with crashing(config) as made:
            job = await submit(made, f"echo before; {gate.script}; echo after; exit 7", "--gpus=1")
            begun = await until(made, job.id, running)
        began = time.monotonic()
        async with engine(config) as made:
            adopted = await until(made, job.id, running)
            assert time.monotonic() - began < 30, "2 s on a machine that is not busy"
            assert adopted.started_at == begun.started_at
            assert made.held_by() == {adopted.gpu_uuids[0]: (job.id,)}
            await gate.open()
            after = await until(made, job.id, ended)
            assert (after.state, after.exit_code) == (JobState.FAILED, 7)
            log = await made.read_log(JobRef(id=job.id), 0, 100)
            assert b"".join(each.data for each in log.chunks) == b"before\nafter\n"

    run(test)


def test_row_5_a_job_that_ended_meanwhile_has_the_outcome_of_its_exit_record(tmp_path: Path) -> None:
    async def test() -> None:
        config, gate = make_config(tmp_path), Gate(tmp_path / "go")
        async with crashing(config) as made:
            job = await begin(made, f"{gate.script}; kill -SEGV $$", "--gpus=1")
        await gate.open()
        record = config.state_dir / "jobs" / str(job.id) / "1" / "exit"
        await exists(record)
        async with engine(config) as made:
            after = await until(made, job.id, ended)
            assert (after.state, after.signal) == (JobState.FAILED, 11)

    run(test)


def test_row_6_a_cancel_is_completed_after_the_restart(tmp_path: Path) -> None:
    """The wish is stored, and the crash comes before the shim is told; see also `test_engine.py`."""

    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config) as made:
            job = await begin(made, "exec sleep 600", "--gpus=1")
            await crash(made)
            asked = await made.cancel(JobRef(id=job.id), who("ada"), CancelRequest(reason="enough"))
            assert asked.state is JobState.COMPLETING
            await crash(made)
        async with engine(config) as made:
            after = await until(made, job.id, ended)
            assert after.state is JobState.CANCELLED
            assert "ada: enough" in (after.detail or "")

    run(test)


@pytest.mark.parametrize("wish", [RequeueAsked(by="ada"), PreemptAsked(for_job=99)])
def test_row_7_a_stored_wish_to_requeue_or_preempt_is_carried_out_after_the_restart(
    tmp_path: Path, wish: RequeueAsked | PreemptAsked
) -> None:
    async def test() -> None:
        config, marks = make_config(tmp_path), tmp_path / "marks"
        async with crashing(config) as made:
            script = f"echo $JOB_ATTEMPT >> {marks}; [ $JOB_ATTEMPT = 2 ] || exec sleep 600"
            job = await begin(made, script, "--gpus=1", "--requeue")
            await exists(marks)
        store = JobStore.open(config.state_dir / "agent.db", now=1)
        store.apply(job.id, wish, int(time.time()))  # the crash is between this and the stop file
        store.close()
        async with engine(config) as made:
            after = await until(made, job.id, ended)
            assert (after.state, after.attempt) == (JobState.COMPLETED, 2)
        assert marks_of(marks) == ["1", "2"]

    run(test)


def test_row_7_a_pass_of_the_scheduler_that_was_cut_is_made_again(tmp_path: Path) -> None:
    async def test() -> None:
        config, marks = make_config(tmp_path), tmp_path / "marks"
        view = Gpus(count=4, licence_hold="not yet")
        async with crashing(config, view) as made:
            jobs = [await submit(made, f"echo {n} >> {marks}", "--gpus=1") for n in range(8)]
        for delay_s in (0.0, 0.002, 0.01):
            async with crashing(config, Gpus(count=4)):
                await asyncio.sleep(delay_s)
        async with engine(config, Gpus(count=4)) as made:
            for job in jobs:
                after = await until(made, job.id, ended)
                assert (after.state, after.attempt) == (JobState.COMPLETED, 1)
        assert sorted(marks_of(marks)) == [str(n) for n in range(8)]

    run(test)


def test_row_43_the_same_key_gives_the_same_job_and_another_body_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config, Gpus(licence_hold="not yet")) as made:
            first = await submit(made, "true", key="k")
            many = await asyncio.gather(*(submit(made, "true", key="k") for _ in range(20)))
            assert {job.id for job in many} == {first.id}
            array = await submit(made, "true", "--array=0-4", key="a")
            assert (await submit(made, "true", "--array=0-4", key="a")).id == array.id
            with pytest.raises(ApiError) as caught:
                await submit(made, "false", key="k")
            assert (caught.value.status, caught.value.code) == (409, "key_conflict")
            assert made.counts() == (0, 6)
        async with engine(config, Gpus(licence_hold="not yet")) as made:
            assert (await submit(made, "true", key="k")).id == first.id, "a retry after the restart"

    run(test)


def test_row_43_twenty_at_once_with_one_key_make_one_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            jobs: list[Job] = await asyncio.gather(*(submit(made, "true", key="k") for _ in range(20)))
            assert len({job.id for job in jobs}) == 1
            assert made.counts() == (0, 1)

    run(test)


def test_row_44_a_second_engine_on_the_same_state_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config) as made:
            job = await submit(made, "true", "--hold")
            with pytest.raises(StoreLockedError, match="only one process may use it"):
                async with engine(config):
                    pass
            assert (await look(made, job.id)).state is JobState.PENDING

    run(test)


def test_a_running_job_whose_records_were_taken_away_is_lost_and_no_success(tmp_path: Path) -> None:
    async def test() -> None:
        config, gate = make_config(tmp_path), Gate(tmp_path / "go")
        async with crashing(config) as made:
            job = await begin(made, gate.script, "--gpus=1")
        await gate.open()
        folder = config.state_dir / "jobs" / str(job.id) / "1"
        await exists(folder / "exit")
        folder.rename(tmp_path / "taken")
        async with engine(config) as made:
            after = await until(made, job.id, ended)
            assert (after.state, after.reason) == (JobState.NODE_FAIL, "Lost")

    run(test)
