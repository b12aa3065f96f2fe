"""Arrays, dependencies, holds, times, limits and fair share: which jobs of the embedded engine start, and when."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from agent.api.errors import ApiError
from agent.api.queue import RequeueRequest
from agent.api.refs import JobRef
from agent.api.tasks import TasksRequest, TaskVerb
from agent.api.types import CancelRequest, Job, JobState
from agent.config.tables import AccountTable, LimitsTable, PartitionTable, SchedulerTable
from agent.engine.embedded import EmbeddedEngine
from agent.jobs.filters import JobFilter
from tests.fakes.engines import (
    Clock,
    Gate,
    Gpus,
    begin,
    cancel,
    ended,
    engine,
    eventually,
    look,
    make_config,
    run,
    running,
    submit,
    told,
    until,
    waiting,
    who,
)


def test_an_array_runs_its_tasks_a_few_at_a_time_each_with_its_own_number(tmp_path: Path) -> None:
    async def test() -> None:
        marks = tmp_path / "marks"
        gates = {number: Gate(tmp_path / f"go{number}") for number in (1, 3, 5)}
        async with engine(make_config(tmp_path), Gpus(cpu_count=8)) as made:
            script = f"echo $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_JOB_ID >> {marks}"
            script += f"\nread x < {tmp_path}/go$SLURM_ARRAY_TASK_ID"
            first = await submit(made, script, "--array=1,3,5%2")
            assert (first.array_job_id, first.array_task_id, first.array_text) == (first.id, 1, "1,3,5%2")
            await until(made, first.id, running)
            await until(made, first.id + 1, running)
            third = await until(made, first.id + 2, waiting)
            assert third.reason == "JobArrayTaskLimit"
            await gates[1].open()
            await until(made, first.id + 2, running)
            await gates[3].open()
            await gates[5].open()
            for number in range(3):
                assert (await until(made, first.id + number, ended)).state is JobState.COMPLETED
            seen = sorted(line.split() for line in marks.read_text().splitlines())
            assert seen == [[str(first.id), str(n), str(first.id + i)] for i, n in enumerate((1, 3, 5))]
            task = await made.job(JobRef(id=first.id, task=3))
            assert task.id == first.id + 1
            with pytest.raises(ApiError, match=f"{first.id}_4"):
                await made.job(JobRef(id=first.id, task=4))

    run(test)


def test_a_sweep_gives_each_task_its_parameters_and_its_results_are_one_table(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            script = 'echo "{\\"state\\": \\"done\\", \\"metrics\\": {\\"loss\\": $lr}}" > $JOB_DIR/result.json'
            first = await submit(made, script, sweep={"lr": ("0.1", "0.2"), "bs": ("16",)})
            for number in range(2):
                assert (await until(made, first.id + number, ended)).state is JobState.COMPLETED
            table = await made.results(JobRef(id=first.id))
            assert [(row.job.sweep, row.metrics, row.progress) for row in table] == [
                ({"lr": "0.1", "bs": "16"}, {"loss": 0.1}, 1.0),
                ({"lr": "0.2", "bs": "16"}, {"loss": 0.2}, 1.0),
            ]

    run(test)


def test_tasks_that_end_at_the_moment_of_their_cancel_are_cancelled_whatever_the_others_do(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            first = await submit(made, "true", "--hold", "--array=0-3")
            asked, array = TasksRequest(tasks="1-2"), JobRef(id=first.id)
            # Both find the tasks waiting, and the second can end none of them any more.
            replies = await asyncio.gather(*(made.ask_tasks(TaskVerb.CANCEL, array, who(), asked) for _ in range(2)))
            told = [(group.tasks, group.job.state) for reply in replies for group in reply.done]
            assert (told, [reply.refused for reply in replies]) == ([("1-2", JobState.CANCELLED)] * 2, [(), ()])
            states = {job.array_task_id: job.state for job in await made.jobs(JobFilter(array=first.id))}
            pending, cancelled = JobState.PENDING, JobState.CANCELLED
            assert states == {0: pending, 1: cancelled, 2: cancelled, 3: pending}

    run(test)


def test_a_job_alone_on_its_node_holds_all_its_cpus_once_it_runs(tmp_path: Path) -> None:
    async def test() -> None:
        config = msgspec.structs.replace(make_config(tmp_path), cpus=6)
        async with engine(config, Gpus(cpu_count=6)) as made:
            gate = Gate(tmp_path / "go")
            waits = await submit(made, f"{gate.script}; echo $SLURM_CPUS_ON_NODE", "--exclusive", "-n2", "--hold")
            assert (await look(made, waits.id)).cpus == 2
            await made.release(JobRef(id=waits.id), who())
            assert (await until(made, waits.id, running)).cpus == 6
            await gate.open()
            assert (await until(made, waits.id, ended)).cpus == 6
            held = await submit(made, "true", "--exclusive", "--hold")
            await cancel(made, held.id)
            assert (await look(made, held.id)).cpus == 1, "it was never given any"

    run(test)


def test_a_verb_on_an_array_is_for_all_its_tasks(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            first = await submit(made, "true", "--array=0-9")
            held = await made.hold(JobRef(id=first.id), who())
            assert (held.id, held.held) == (first.id, True)
            assert all(job.held for job in await made.jobs(JobFilter(array=first.id)))
            one = await made.release(JobRef(id=first.id, task=3), who())
            assert (one.array_task_id, one.held) == (3, False)
            assert (await look(made, first.id)).held
            listed = await made.jobs(JobFilter(array=first.id))
            counted = made.queue_tally()
            assert counted.reasons == Counter(job.reason or "None" for job in listed), "counted as they are shown"
            assert counted.oldest_at == one.submitted_at
            await made.cancel(JobRef(id=first.id), who(), CancelRequest(reason="enough"))
            assert await made.job_counts() == {JobState.CANCELLED: 10}
            assert not made.queue_tally().reasons

    run(test)


@pytest.mark.parametrize(
    ("kind", "script", "state"),
    [
        ("afterok", "exit 0", JobState.COMPLETED),
        ("afternotok", "exit 3", JobState.COMPLETED),
        ("afterany", "exit 3", JobState.COMPLETED),
        ("after", "exit 0", JobState.COMPLETED),
    ],
)
def test_a_job_starts_once_its_dependency_is_fulfilled(tmp_path: Path, kind: str, script: str, state: JobState) -> None:
    async def test() -> None:
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path)) as made:
            head = await begin(made, f"{gate.script}; {script}")
            second = await submit(made, "true", f"--dependency={kind}:{head.id}")
            if kind != "after":
                waits = await until(made, second.id, told("Dependency"))
                assert waits.dependency == f"{kind}:{head.id}(unfulfilled)"
            await gate.open()
            after = await until(made, second.id, ended)
            assert after.state is state
            assert after.dependency is None

    run(test)


def test_a_dependency_that_can_never_be_fulfilled_says_so_and_ends_only_where_it_was_asked_to(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            failed = await until(made, (await submit(made, "exit 1")).id, ended)
            stays = await submit(made, "true", f"--dependency=afterok:{failed.id}")
            goes = await submit(made, "true", f"--dependency=afterok:{failed.id}", "--kill-on-invalid-dep=yes")
            assert (await until(made, goes.id, ended)).state is JobState.CANCELLED
            told_so = await until(made, stays.id, told("DependencyNeverSatisfied"))
            assert "ended FAILED" in (told_so.detail or "")
            # ... unless the one it waits for runs again and does better
            with pytest.raises(ApiError) as caught:
                await submit(made, "true", "--dependency=afterok:999")
            assert (caught.value.status, caught.value.field) == (400, "--dependency")

    run(test)


def test_a_dependency_on_an_array_waits_for_all_of_it_and_aftercorr_for_the_same_task(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path), Gpus(cpu_count=16)) as made:
            script = f"if [ $SLURM_ARRAY_TASK_ID = 2 ]; then {gate.script}; fi"
            array = await submit(made, script, "--array=1-2")
            corr = await submit(made, "true", "--array=1-2", f"--dependency=aftercorr:{array.id}")
            whole = await submit(made, "true", f"--dependency=afterok:{array.id}")
            assert (await until(made, corr.id, ended)).state is JobState.COMPLETED
            assert (await until(made, whole.id, told("Dependency"))).dependency == (
                f"afterok:{array.id}_*(unfulfilled)"
            )
            assert (await look(made, corr.id + 1)).state is JobState.PENDING
            await gate.open()
            assert (await until(made, whole.id, ended)).state is JobState.COMPLETED
            assert (await until(made, corr.id + 1, ended)).state is JobState.COMPLETED

    run(test)


def test_singletons_run_one_after_the_other(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path)) as made:
            flags = ("-J", "one", "--dependency=singleton")
            jobs = [await submit(made, gate.script, *flags) for _ in range(3)]
            await until(made, jobs[0].id, running)
            assert f"job {jobs[0].id}" in ((await until(made, jobs[2].id, told("Dependency"))).detail or "")
            for job in jobs:
                await until(made, job.id, running)
                await gate.open()
                await until(made, job.id, ended)

    run(test)


def test_a_held_job_starts_when_it_is_released_and_an_admins_hold_is_the_admins(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await submit(made, "true", "--hold")
            held = await until(made, job.id, told("JobHeldUser"))
            assert (held.held, held.priority) == (True, 0)
            admin = who("root")
            admin = type(admin)(user="root", uid=admin.uid + 1, admin=True)
            await made.release(JobRef(id=job.id), who(admin=False))
            await until(made, job.id, ended)
            second = await submit(made, "true", "--hold")
            await made.hold(JobRef(id=second.id), admin)
            assert (await until(made, second.id, told("JobHeldAdmin"))).held
            with pytest.raises(ApiError, match="held by an admin") as caught:
                await made.release(JobRef(id=second.id), who(admin=False))
            assert caught.value.status == 403
            await made.release(JobRef(id=second.id), admin)
            assert (await until(made, second.id, ended)).state is JobState.COMPLETED

    run(test)


def test_a_job_with_a_begin_waits_for_it_and_starts_without_any_event(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await submit(made, "true", "--begin=now+2")
            assert (await until(made, job.id, waiting)).reason == "BeginTime"
            after = await until(made, job.id, ended)
            assert (after.started_at or 0) >= (after.begin_at or 0)

    run(test)


def test_a_job_that_cannot_end_before_its_deadline_is_taken_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true", "--deadline=now+2", "--time=1:00:00")
            after = await until(made, job.id, ended)
            assert after.state is JobState.DEADLINE

    run(test)


def test_limits_of_a_user_are_kept_at_submit_and_at_the_start(tmp_path: Path) -> None:
    async def test() -> None:
        limits = LimitsTable(max_running_per_user=1, max_submit_per_user=4)
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path, tables={"limits": limits})) as made:
            await begin(made, gate.script)
            second = await submit(made, "true")
            waits = await until(made, second.id, waiting)
            assert "Limit" in (waits.reason or "")
            with pytest.raises(ApiError, match="max_submit_per_user") as caught:
                await submit(made, "true", "--array=0-2")
            assert caught.value.status == 429
            await submit(made, "true", "--array=0-1")
            await submit(made, "true", user="ada")
            await gate.open()
            await until(made, second.id, ended)

    run(test)


def test_submits_at_the_same_moment_do_not_share_the_last_place(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path, tables={"limits": LimitsTable(max_submit_per_user=2)})) as made:
            first = await submit(made, "true", "--hold")
            asked = [submit(made, "true", f"--dependency=afterany:{first.id}") for _ in range(3)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert [each.status for each in answers if isinstance(each, ApiError)] == [429, 429]

    run(test)


def test_an_ended_job_that_is_requeued_takes_a_place_as_a_new_one_does(tmp_path: Path) -> None:
    async def test() -> None:
        tables = {"limits": LimitsTable(max_submit_per_user=2)}
        async with engine(make_config(tmp_path, tables=tables, max_pending=3)) as made:
            array = await submit(made, "true", "--array=0-1")
            for task in (0, 1):
                await until(made, array.id + task, ended)
            held = await submit(made, "true", "--hold")
            with pytest.raises(ApiError, match=r"1 jobs of me wait or run, and 2 more .*max_submit_per_user = 2") as no:
                await made.requeue(JobRef(id=array.id), who("root"), RequeueRequest())
            assert no.value.status == 429
            assert (await look(made, array.id)).state is JobState.COMPLETED
            both = [made.requeue(JobRef(id=array.id, task=each), who(), RequeueRequest(hold=True)) for each in (0, 1)]
            answers = await asyncio.gather(*both, return_exceptions=True)
            assert sorted(isinstance(each, ApiError) for each in answers) == [False, True], "one place, one job"
            await cancel(made, held.id)
            await submit(made, "true", "--hold")
            await submit(made, "true", "--hold", user="ada")
            with pytest.raises(ApiError, match=r"jobs\.max_pending is 3"):
                await made.requeue(JobRef(id=held.id), who(), RequeueRequest())

    run(test)


def test_the_fair_share_changes_the_order(tmp_path: Path) -> None:
    async def test() -> None:
        tables = {"scheduler": SchedulerTable(weight_age=0, weight_jobsize=0, favour_small=False)}
        tables["accounts"] = (AccountTable(name="lab", users={"ada": 1, "bob": 1}),)  # type: ignore[assignment]
        view, gate, clock = Gpus(count=1), Gate(tmp_path / "go"), Clock()
        async with engine(make_config(tmp_path, tables=tables), view, clock=clock) as made:
            used = await begin(made, gate.script, "--gpus=1", user="ada")
            clock.ahead_s = 60
            await made._share.charge_running()
            await gate.open()
            await until(made, used.id, ended)
            shares = {each.user: each for each in await made.shares()}
            assert shares["ada"].usage_gpu_s > 30
            assert shares["ada"].fairshare < shares["bob"].fairshare
            await begin(made, gate.script, "--gpus=1", user="bob")
            order = tmp_path / "order"
            adas = await submit(made, f"echo ada >> {order}", "--gpus=1", user="ada")
            bobs = await submit(made, f"echo bob >> {order}", "--gpus=1", user="bob")
            first, second = await until(made, bobs.id, waiting), await until(made, adas.id, waiting)
            assert (first.priority or 0) > (second.priority or 0)
            await gate.open()
            await until(made, adas.id, ended)
            await until(made, bobs.id, ended)
            assert order.read_text() == "bob\nada\n"

    run(test)


def test_what_was_charged_is_there_after_a_restart_and_not_twice(tmp_path: Path) -> None:
    async def test() -> None:
        config, gate, clock = make_config(tmp_path), Gate(tmp_path / "go"), Clock()
        async with engine(config, clock=clock) as made:
            job = await begin(made, gate.script, "--gpus=2")
            clock.ahead_s = 600
            await made._share.charge_running()
            await made._share.charge_running()
        async with engine(config, clock=clock) as made:
            await gate.open()
            await until(made, job.id, ended)
            await made._share.charge_running()
            (share,) = await made.shares()
            assert share.usage_gpu_s == pytest.approx(2 * 600, abs=2 * 30), "30 s for a slow machine"

    run(test)


def _ids(jobs: list[Job]) -> list[int]:
    return [job.id for job in jobs]


def test_top_moves_a_users_job_before_the_users_others_and_an_admins_before_all(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(count=1, licence_hold="not yet")) as made:
            jobs = [await submit(made, "true", "--gpus=1", admin=False) for _ in range(3)]
            other = await submit(made, "true", "--gpus=1", "--nice=-2000", user="ada")
            for job in (*jobs, other):
                await until(made, job.id, waiting)
            total = sum(job.nice for job in jobs)
            await made.top(JobRef(id=jobs[2].id), who(admin=False))
            await eventually(made, jobs[2].id, lambda job: job.nice < 0 and job.priority is not None)
            now = [await look(made, job.id) for job in jobs]
            assert sum(job.nice for job in now) >= total
            places = await _places(made)
            assert places[0] == other.id
            assert places.index(jobs[2].id) < min(places.index(jobs[0].id), places.index(jobs[1].id))
            await made.top(JobRef(id=jobs[1].id), who())
            await eventually(
                made, jobs[1].id, lambda job: job.priority_parts is not None and job.priority_parts.site > 0
            )
            assert (await _places(made))[0] == jobs[1].id

    run(test)


async def _places(made: EmbeddedEngine) -> list[int]:
    """Ids in the order of their priorities, after a pass of the queue."""
    await made._queue.make_pass()
    jobs = await made.jobs(JobFilter(states=[JobState.PENDING]))
    return [job.id for job in sorted(jobs, key=lambda job: (-(job.priority or 0), job.id))]


def test_row_46_ten_thousand_queued_are_taken_at_once_and_a_page_is_fast(tmp_path: Path) -> None:
    """Fault matrix row_46: 10,000 queued; submit of the batch < 1 s, a page < 50 ms, and the loop is not held up."""

    async def test() -> None:
        config = make_config(tmp_path, max_pending=20_000, tables={"limits": LimitsTable(max_array_size=20_000)})
        async with engine(config, Gpus(licence_hold="not yet")) as made:
            began = time.monotonic()
            first = await submit(made, "true", "--gpus=1", "--array=0-9999")
            took_s = time.monotonic() - began
            assert made.counts() == (0, 10_000)
            await until(made, first.id, waiting)
            began = time.monotonic()
            page = await made.jobs(JobFilter(limit=100))
            page_s = time.monotonic() - began
            assert len(page) == 100
            # bounds with room for a machine that is busy with other tests
            assert took_s < 30, took_s
            assert page_s < 5, page_s
            with pytest.raises(ApiError) as caught:
                await submit(made, "true", "--array=0-10000")
            assert caught.value.status == 429
            await cancel(made, first.id)
            assert made.counts() == (0, 0)

    run(test)


# --- several partitions -----------------------------------------------------------------------------------------------

HALVES = {
    "partitions": (
        PartitionTable(name="left", gpus=(0,), default=True, default_time_s=7200),
        PartitionTable(name="right", gpus=(1,), default_time_s=3600),
    )
}


def test_a_job_of_several_partitions_is_listed_under_all_until_it_is_given_one(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path, tables=HALVES)
        async with engine(config, Gpus(count=2)) as made:
            left = await submit(made, "exec sleep 600", "--gpus=1", "-p", "left", "--time=5")
            right = await submit(made, "exec sleep 600", "--gpus=1", "-p", "right", "--time=2")
            both = await submit(made, "echo $SLURM_JOB_PARTITION; exec sleep 600", "--gpus=1", "-p", "left,right")
            assert (both.partition, both.time_limit_s) == ("left,right", 7200), "the default of the first"
            begun = (await until(made, right.id, running)).started_at or 0
            seen = await eventually(made, both.id, lambda each: each.expected_start_at is not None)
            assert seen.expected_start_at == pytest.approx(begun + 120, abs=5), "on the right"
            assert (seen.detail or "").endswith("held by job 2; partition right comes first")
            for name in ("left", "right"):
                assert both.id in [each.id for each in await made.jobs(JobFilter(partitions=[name]))]
            await cancel(made, left.id)
            after = await until(made, both.id, running)
            assert after.partition == "left", "it was free first"
            assert [each.id for each in await made.jobs(JobFilter(partitions=["right"]))] == [right.id]
            await made.requeue(JobRef(id=both.id), who(), RequeueRequest())
            await until(made, both.id, lambda each: running(each) and each.attempt == 2)
        (config.state_dir / "agent.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
        async with engine(config, Gpus(count=2)) as made:
            assert (await look(made, both.id)).partition == "left", "what the folders tell is enough"
            await cancel(made, both.id)
            assert (await until(made, both.id, ended)).partition == "left"
            await cancel(made, right.id)

    run(test)
