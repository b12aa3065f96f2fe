"""What is asked of the embedded engine's jobs: requeue, preemption, update, rights, signals."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.queue import (
    DrainRequest,
    RequeueRequest,
    ReservationRequest,
    SignalRequest,
    UpdateRequest,
)
from agent.api.types import CancelRequest, Job, JobState
from agent.config.tables import PartitionTable, QosTable, SchedulerTable
from agent.engine.base import Asker
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
    exists,
    look,
    make_config,
    ref,
    run,
    running,
    submit,
    until,
    who,
)

STRANGER = Asker(user="eve", uid=os.geteuid() + 1)


async def update(made: EmbeddedEngine, job: Job, **changes: str) -> Job:
    return await made.update(ref(job), who(), UpdateRequest(changes=changes))


# --- requeue and preemption -------------------------------------------------------------------------------------------


def test_a_requeued_job_runs_again_as_another_attempt_and_finds_what_the_first_left(tmp_path: Path) -> None:
    async def test() -> None:
        marks, gate = tmp_path / "marks", Gate(tmp_path / "go")
        async with engine(make_config(tmp_path)) as made:
            script = (
                f"echo $JOB_ATTEMPT $SLURM_RESTART_COUNT >> {marks}; touch $JOB_DIR/kept.$JOB_ATTEMPT; {gate.script}"
            )
            job = await begin(made, script, "--gpus=1", "--no-requeue")
            await exists(marks)  # running is from the gate on: the first command comes a moment later
            asked = await made.requeue(ref(job), who("ada"), RequeueRequest())
            assert asked.state is JobState.COMPLETING
            await until(made, job.id, lambda each: each.state is JobState.RUNNING and each.attempt == 2)
            await gate.open()
            after = await until(made, job.id, ended)
            assert (after.state, after.attempt) == (JobState.COMPLETED, 2)
            assert marks.read_text() == "1 0\n2 1\n"
            again = await made.requeue(ref(job), who(), RequeueRequest(hold=True))
            assert (again.state, again.held) == (JobState.PENDING, True)
            await made.release(ref(job), who())
            await until(made, job.id, lambda each: each.state is JobState.RUNNING and each.attempt == 3)
            await gate.open()
            assert (await until(made, job.id, ended)).attempt == 3

    run(test)


def test_what_is_to_be_requeued_can_be_held_and_released_while_it_still_stops(tmp_path: Path) -> None:
    async def test() -> None:
        on, go, marks = tmp_path / "on", tmp_path / "go", tmp_path / "marks"
        async with engine(make_config(tmp_path, grace_s=60)) as made:
            linger = f"while [ ! -e {go} ]; do sleep 0.02; done; exit 0"
            again = f"echo $JOB_ATTEMPT $SLURM_ARRAY_TASK_ID >> {marks}; [ $JOB_ATTEMPT = 1 ] || exit 0"
            job = await submit(made, f"{again}; trap '{linger}' TERM; touch {on}; while :; do sleep 0.05; done")
            await until(made, job.id, running)
            with pytest.raises(ApiError, match="only a waiting job can be released"):
                await made.release(ref(job), who())
            await exists(on)
            asked = await made.requeue(ref(job), who(), RequeueRequest(hold=True))
            assert (asked.state, asked.held) == (JobState.COMPLETING, True)
            free = await made.release(ref(job), who())
            assert (free.state, free.held) == (JobState.COMPLETING, False)
            assert (await made.hold(ref(job), who())).held
            assert not (await made.release(ref(job), who())).held
            go.touch()
            after = await until(made, job.id, ended)
            assert (after.state, after.attempt) == (JobState.COMPLETED, 2)

    run(test)


def test_a_cancel_wins_over_a_requeue_that_was_asked_before(tmp_path: Path) -> None:
    async def test() -> None:
        on, go = tmp_path / "on", tmp_path / "go"
        async with engine(make_config(tmp_path, grace_s=30)) as made:
            linger = f"while [ ! -e {go} ]; do sleep 0.02; done; exit 0"
            job = await submit(made, f"trap '{linger}' TERM; touch {on}; while :; do sleep 0.05; done")
            await until(made, job.id, running)
            await exists(on)
            await made.requeue(ref(job), who(), RequeueRequest())
            await made.cancel(ref(job), who("ada"), CancelRequest())
            go.touch()
            after = await until(made, job.id, ended)
            assert (after.state, after.attempt) == (JobState.CANCELLED, 1)

    run(test)


def test_the_victim_of_a_preemption_is_who_loses_least_and_runs_again_afterwards(tmp_path: Path) -> None:
    """End to end: the stop file says why, the progress file decided who, the victim comes back where it was."""

    async def test() -> None:
        qos = (QosTable(name="low"), QosTable(name="high", priority=10, preempts=("low",)))
        config = make_config(tmp_path, grace_s=20, tables={"qos": qos, "scheduler": SchedulerTable(preempt="qos")})
        marks = tmp_path / "marks"
        saves = f"""
            echo start $SLURM_JOB_ID $JOB_ATTEMPT >> {marks}
            [ $JOB_ATTEMPT = 1 ] || exit 0
            if [ "$1" = saves ]; then
                mkdir -p $JOB_DIR/ckpt/000000001
                echo '{{"step": 1, "step_s": 0.1, "save_s": 0.1}}' > $JOB_DIR/.p; mv $JOB_DIR/.p $JOB_DIR/progress.json
            fi
            touch {tmp_path}/on.$SLURM_JOB_ID
            until [ -e $JOB_DIR/stop ] || [ -e {tmp_path}/done ]; do sleep 0.05; done
            cp $JOB_DIR/stop {tmp_path}/stop.$SLURM_JOB_ID
        """
        clock = Clock()
        async with engine(config, Gpus(count=2), clock=clock) as made:
            loses = await submit(made, saves, "--gpus=1", "--qos=low", "--requeue")
            await exists(tmp_path / f"on.{loses.id}")
            saved = await submit(made, saves.replace('"$1" = saves', "1 = 1"), "--gpus=1", "--qos=low", "--requeue")
            await exists(tmp_path / f"on.{saved.id}")
            await until(made, saved.id, running)
            await until(made, loses.id, running)
            clock.ahead_s = 600  # what the first one has done since its start is lost
            files = config.state_dir / "jobs" / str(saved.id) / "files"
            os.utime(files / "ckpt" / "000000001", (clock(), clock()))
            high = await submit(made, f"echo high >> {marks}", "--gpus=1", "--qos=high")
            assert (await until(made, high.id, ended)).state is JobState.COMPLETED
            again = await until(made, saved.id, ended)
            assert (again.state, again.attempt) == (JobState.COMPLETED, 2)
            assert json.loads((tmp_path / f"stop.{saved.id}").read_text())["why"] == "preempt"
            assert (await look(made, loses.id)).attempt == 1
            (tmp_path / "done").touch()
            assert (await until(made, loses.id, ended)).attempt == 1
            lines = marks.read_text().split("\n")
            assert lines.index("high") < lines.index(f"start {saved.id} 2")

    run(test)


def test_result_json_is_believed_before_the_exit_code(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await submit(made, """echo '{"state": "done"}' > $JOB_DIR/result.json; exit 1""")
            after = await until(made, job.id, ended)
            assert (after.state, after.exit_code) == (JobState.COMPLETED, 1)

    run(test)


# --- update -----------------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_changed_in_slurms_words(tmp_path: Path) -> None:
    async def test() -> None:
        tables = {
            "partitions": (PartitionTable(name="main", default=True), PartitionTable(name="long", max_time_s=7200))
        }
        async with engine(make_config(tmp_path, tables=tables), Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true", "--gpus=1")
            await update(made, job, TimeLimit="30", nice="7", Comment="ada's", JobName="other", Partition="long")
            after = await look(made, job.id)
            assert (after.time_limit_s, after.nice, after.comment) == (1800, 7, "ada's")
            assert (after.name, after.partition, after.revision) == ("other", "long", job.revision + 1)
            await update(made, job, StartTime="now+1hour", Requeue="1", Deadline="now+5hours")
            after = await look(made, job.id)
            assert after.requeue
            assert (after.begin_at or 0) > time.time() + 3500
            await update(made, job, Priority="0")
            assert (await look(made, job.id)).held
            await update(made, job, Priority="77")
            assert not (await look(made, job.id)).held
            assert (await eventually(made, job.id, lambda each: each.priority == 77)).priority_parts

    run(test)


def test_a_running_job_tells_the_priority_it_was_started_with_also_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        async with engine(config) as made:
            job = await submit(made, "sleep 600", "--priority=4321")
            assert (await until(made, job.id, running)).priority == 4321
        async with engine(config) as made:
            assert (await look(made, job.id)).priority == 4321
            await cancel(made, job.id)
            assert (await until(made, job.id, ended)).priority is None

    run(test)


def test_a_limit_that_is_none_cannot_grow(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true", "--time=UNLIMITED")
            with pytest.raises(ApiError, match="has no time limit"):
                await update(made, job, TimeLimit="+5")

    run(test)


def test_the_steps_of_a_job_are_told_where_they_are_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await submit(made, "srun -n2 sh -c 'exit $SLURM_PROCID'; srun -J last true", "-n", "2")
            await until(made, job.id, ended)
            (plain,) = await made.jobs(JobFilter(ids=(job.id,)))
            (told,) = await made.jobs(JobFilter(ids=(job.id,)), steps=True)
            assert plain.steps == ()
            assert [(each.id, each.name, each.tasks, each.exit_code) for each in told.steps] == [
                (0, "sh", 2, 1), (1, "last", 2, 0),
            ]  # fmt: skip
            assert (await look(made, job.id)).steps == told.steps

    run(test)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"TimeLimt": "30"}, "did you mean TimeLimit?"),
        ({"TimeLimit": "abc"}, "--time=abc"),
        ({"TimeLimit": "5", "Colour": "red"}, "'Colour' cannot be changed; known: TimeLimit"),
        ({"Partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"Dependency": "afterok:999"}, "job 999 cannot be depended on"),
        ({"Dependency": "afterok:1"}, "job 1 cannot be depended on"),
        ({"ArrayTaskThrottle": "2"}, "is no array"),
        ({"Requeue": "maybe"}, "neither 0 nor 1"),
        ({"Nice": "1\x00"}, "--nice"),
        ({"ReservationName": "party"}, "no reservation party"),
        ({}, "nothing is to be changed"),
    ],
)
def test_a_change_that_cannot_be_understood_changes_nothing(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true")
            with pytest.raises(ApiError) as caught:
                await made.update(ref(job), who(), UpdateRequest(changes=changes))
            assert caught.value.status == 400
            assert says in caught.value.message
            assert (await look(made, job.id)).revision == job.revision

    run(test)


def test_a_job_cannot_be_made_to_wait_for_itself_by_way_of_others(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            first = await submit(made, "true", "--array=0-1")
            second = await submit(made, "true", f"--dependency=afterok:{first.id}")
            third = await submit(made, "true", f"--dependency=afterany:{second.id}")
            with pytest.raises(ApiError, match="circular") as caught:
                await update(made, first, Dependency=f"afterok:{third.id}")
            assert (caught.value.status, caught.value.field) == (400, "Dependency")
            await update(made, second, Dependency="")
            await update(made, first, Dependency=f"afterok:{third.id}")
            told = (await look(made, first.id)).dependency
            assert told is not None and told.removesuffix("(unfulfilled)") == f"afterok:{third.id}"

    run(test)


def test_a_running_jobs_limit_is_made_shorter_by_its_user_and_longer_by_an_admin(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await begin(made, "sleep 600", "--time=10")
            with pytest.raises(ApiError, match="only an admin may give a running job more time") as caught:
                await made.update(ref(job), who(admin=False), UpdateRequest(changes={"TimeLimit": "20"}))
            assert caught.value.status == 403
            assert (await update(made, job, TimeLimit="20")).time_limit_s == 1200
            with pytest.raises(ApiError, match="only be changed while it waits") as caught:
                await update(made, job, Partition="main")
            assert caught.value.status == 409
            assert (await update(made, job, TimeLimit="+30")).time_limit_s == 3000
            assert (await update(made, job, timelimit="-0:40:00")).time_limit_s == 600
            for wrong in ("-11", "+soon", "+", "-"):
                with pytest.raises(ApiError, match="TimeLimit") as caught:
                    await update(made, job, TimeLimit=wrong)
                assert (caught.value.status, caught.value.field) == (400, "TimeLimit")
            assert (await look(made, job.id)).time_limit_s == 600
            shorter = UpdateRequest(changes={"TimeLimit": "1"})
            assert (await made.update(ref(job), who(admin=False), shorter)).time_limit_s == 60
            await cancel(made, job.id)
            await until(made, job.id, ended)

    run(test)


def test_the_throttle_of_an_array_is_for_all_its_tasks(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            first = await submit(made, "true", "--array=0-3")
            await update(made, first, ArrayTaskThrottle="2")
            assert {job.array_text for job in await made.jobs(JobFilter(array=first.id))} == {"0-3%2"}

    run(test)


def test_row_45_who_acts_on_an_old_view_is_told_how_it_is_now(tmp_path: Path) -> None:
    """Fault matrix row_45: two operators act at once; the second gets 409 with the present state."""

    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true")
            await update(made, job, Nice="5")
            asked = UpdateRequest(changes={"Nice": "9"}, revision=job.revision)
            with pytest.raises(ApiError, match="is PENDING") as caught:
                await made.update(ref(job), who("bob"), asked)
            assert caught.value.status == 409
            with pytest.raises(ApiError) as caught:
                await made.cancel(ref(job), who("bob"), CancelRequest(revision=job.revision))
            assert caught.value.status == 409
            assert (await look(made, job.id)).nice == 5
            fresh = await look(made, job.id)
            await made.cancel(ref(job), who("bob"), CancelRequest(revision=fresh.revision))
            with pytest.raises(ApiError, match="is CANCELLED") as caught:
                await made.hold(ref(job), who("ada"))
            assert caught.value.status == 409

    run(test)


def test_nobody_touches_another_users_job_but_an_admin(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path), Gpus(licence_hold="not yet")) as made:
            job = await submit(made, "true")
            for act in (
                made.hold(ref(job), STRANGER),
                made.release(ref(job), STRANGER),
                made.top(ref(job), STRANGER),
                made.cancel(ref(job), STRANGER, CancelRequest()),
                made.requeue(ref(job), STRANGER, RequeueRequest()),
                made.signal(ref(job), STRANGER, SignalRequest(signal="USR1")),
                made.update(ref(job), STRANGER, UpdateRequest(changes={"Nice": "3"})),
                made.drain(DrainRequest(reason="mine"), STRANGER),
                made.resume(DrainRequest(), STRANGER),
                made.reserve(ReservationRequest(duration="1:00", users=("eve",)), STRANGER),
                made.unreserve("eve_1", STRANGER),
            ):
                with pytest.raises(ApiError) as caught:
                    await act
                assert caught.value.status == 403
            mine = who(admin=False)
            await made.update(ref(job), mine, UpdateRequest(changes={"Nice": "7"}))
            for changes in ({"Priority": "5"}, {"Nice": "-5"}, {"Nice": "6"}):
                with pytest.raises(ApiError) as caught:
                    await made.update(ref(job), mine, UpdateRequest(changes=changes))
                assert caught.value.status == 403

    run(test)


def test_a_signal_reaches_the_job_and_does_not_end_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            script = f"trap 'touch {tmp_path}/heard' USR1\ntouch {tmp_path}/on\n"
            script += f"until [ -e {tmp_path}/heard ]; do sleep 0.05; done"
            job = await submit(made, script)
            with pytest.raises(ApiError, match="no signal"):
                await made.signal(ref(job), who(), SignalRequest(signal="NONSENSE"))
            await until(made, job.id, running)
            await exists(tmp_path / "on")
            await made.signal(ref(job), who(), SignalRequest(signal="SIGUSR1", batch_only=True))
            assert (await until(made, job.id, ended)).state is JobState.COMPLETED

    run(test)


def test_a_report_tells_the_whole_story(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await until(made, (await submit(made, "echo hello; sleep 0.1")).id, ended)
            report = await made.report(ref(job))
            assert [each.event for each in report.events] == ["Submitted", "Claimed", "Started", "Ended"]
            assert report.script == "#!/bin/sh\necho hello; sleep 0.1\n"
            assert report.job.log_bytes == len("hello\n")
            assert report.wait_s >= 0
            assert report.run_s >= 0

    run(test)


def test_where_the_site_cancels_victims_none_of_them_comes_back(tmp_path: Path) -> None:
    async def test() -> None:
        tables = {
            "partitions": (PartitionTable(name="low", default=True), PartitionTable(name="high", priority_tier=2)),
            "scheduler": SchedulerTable(preempt="partition", preempt_mode="cancel"),
        }
        async with engine(make_config(tmp_path, tables=tables), Gpus(count=1)) as made:
            victim = await begin(made, "exec sleep 600", "--gpus=1", "--requeue")
            high = await submit(made, "true", "--gpus=1", "--partition=high")
            assert (await until(made, victim.id, ended)).state is JobState.PREEMPTED
            assert (await until(made, high.id, ended)).state is JobState.COMPLETED

    run(test)
