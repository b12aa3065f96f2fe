"""What is arranged around the embedded engine's queue: drains, reservations; and plans, which arrange nothing."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.api.errors import ApiError
from agent.api.queue import (
    DrainOwner,
    DrainRequest,
    PartitionUpdate,
    ReservationRequest,
    ReservationUpdate,
    UpdateRequest,
)
from agent.api.types import JobState, SubmitRequest
from tests.fakes.engines import (
    Gate,
    begin,
    ended,
    engine,
    eventually,
    look,
    make_config,
    ref,
    run,
    submit,
    told,
    until,
    waiting,
    who,
)


def request(*flags: str) -> SubmitRequest:
    return SubmitRequest(script="#!/bin/sh\ntrue\n", script_name="job.sh", flags=flags, work_dir="/")


# --- plan -------------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_a_submit_would_do_and_stores_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path)) as made:
            plan = await made.plan(request("--gpus=1"), user="me", uid=os.geteuid())
            assert (plan.job.id, plan.tasks, len(plan.gpu_uuids)) == (0, 1, 1)
            assert plan.sentence.startswith("would start at once on GPU ")
            assert abs((plan.starts_at or 0) - time.time()) < 60
            holder = await begin(made, gate.script, "--gpus=2", "--time=60")
            plan = await made.plan(request("--gpus=2", "--array=0-4"), user="me", uid=os.geteuid())
            assert plan.tasks == 5
            assert "would wait until" in plan.sentence
            assert f"job {holder.id}" in plan.sentence
            assert 3000 < (plan.starts_at or 0) - time.time() < 4000
            later = await made.plan(request(f"--dependency=afterok:{holder.id}"), user="me", uid=os.geteuid())
            assert "(Dependency)" in later.sentence
            with pytest.raises(ApiError, match="asks for 3 GPUs"):
                await made.plan(request("--gpus=3"), user="me", uid=os.geteuid())
            assert await made.job_counts() == {JobState.RUNNING: 1}
            await gate.open()
            await until(made, holder.id, ended)

    run(test)


# --- drains and reservations ------------------------------------------------------------------------------------------


def test_a_drained_gpu_takes_no_new_job_and_what_runs_there_runs_on(tmp_path: Path) -> None:
    async def test() -> None:
        config, gate = make_config(tmp_path), Gate(tmp_path / "go")
        async with engine(config) as made:
            holder = await begin(made, gate.script, "--gpus=2")
            with pytest.raises(ApiError, match="needs a reason"):
                await made.drain(DrainRequest(gpu="0"), who())
            with pytest.raises(ApiError, match="has no GPU '9'"):
                await made.drain(DrainRequest(gpu="9", reason="x"), who())
            drains = (await made.drain(DrainRequest(gpu="0", reason="fan"), who("ada"))).drains
            assert [(each.gpu_uuid, each.reason, each.by) for each in drains] == [("GPU-0", "fan", "ada")]
            assert (await look(made, holder.id)).state is JobState.RUNNING
            await gate.open()
            await until(made, holder.id, ended)
            one = await until(made, (await submit(made, "true", "--gpus=1")).id, ended)
            assert one.gpu_uuids == ("GPU-1",)
            both = await submit(made, "true", "--gpus=2")
            waits = await until(made, both.id, told("ReqNodeNotAvail"))
            assert "GPU 0 is drained: fan (by ada" in (waits.detail or "")
        async with engine(config) as made:  # a drain outlives the agent
            await made.arrangements.drains.lift("GPU-0", DrainOwner.CHECK)
            assert [each.gpu_uuid for each in made.drains()] == ["GPU-0"], (
                "a check does not give back what a person took"
            )
            await made.drain(DrainRequest(reason="cleaning"), who())
            waits = await eventually(made, both.id, lambda job: "the node is drained" in (job.detail or ""))
            await made.resume(DrainRequest(gpu="GPU-0"), who())
            assert (await made.resume(DrainRequest(), who())).drains == ()
            assert (await until(made, both.id, ended)).state is JobState.COMPLETED

    run(test)


def test_two_who_drain_one_gpu_hear_of_one_another_and_no_reason_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        config = make_config(tmp_path)
        caplog.set_level("INFO", "agent.engine.drains")
        async with engine(config) as made:
            first = await made.drain(DrainRequest(gpu="0", reason="fan"), who("anna"))
            assert (first.before, first.after) == (None, made.drains()[0])
            again = await made.drain(DrainRequest(gpu="GPU-0", reason="fan"), who("bert"))
            assert again.before == again.after == first.after, "for that reason it is drained already"
            second = await made.drain(DrainRequest(gpu="0", reason="power"), who("bert"))
            assert second.before == first.after
            assert second.after is not None and (second.after.by, second.after.reason) == ("bert", "power")
            assert "GPU-0 is drained by bert: power; was drained by anna: fan" in caplog.messages[-1]
        async with engine(config) as made:  # none of it is only in memory
            assert [each.reason for each in made.drains()[0].earlier] == ["fan"]
            for count in range(20):
                await made.drain(DrainRequest(gpu="0", reason=f"reason {count}"), who("carl"))
            earlier = made.drains()[0].earlier
            assert (len(earlier), earlier[0].reason, earlier[0].earlier) == (8, "reason 18", ())
            back = await made.resume(DrainRequest(gpu="0"), who("anna"))
            assert back.before is not None and (back.before.by, back.before.reason) == ("carl", "reason 19")
            assert "GPU-0 is resumed by anna; was drained by carl: reason 19" in caplog.messages[-1]
            assert (await made.resume(DrainRequest(gpu="0"), who("anna"))).before is None

    run(test)


def test_a_person_takes_over_what_a_check_drained_for_the_same_reason(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            drains = made.arrangements.drains
            await drains.take_out("GPU-0", reason="hot", by="stoker", owner=DrainOwner.CHECK)
            await made.drain(DrainRequest(gpu="0", reason="hot"), who("ada"))
            await drains.lift("GPU-0", DrainOwner.CHECK)
            assert [(each.by, each.earlier[0].owner) for each in made.drains()] == [("ada", DrainOwner.CHECK)]

    run(test)


def test_reservations_asked_for_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:

            async def reserve(name: str | None, gpus: str) -> str:
                wanted = ReservationRequest(name=name, start="now", duration="60", users=("ada",), gpus=gpus)
                try:
                    return (await made.reserve(wanted, who())).name
                except ApiError as error:
                    return error.code

            first, second = await asyncio.gather(reserve("course", "=0"), reserve("exam", "=0"))
            assert (first, second) == ("course", "not_free"), "one GPU, two reservations"
            assert list(await asyncio.gather(reserve("x", "=1"), reserve("x", "=1"))) == ["x", "exists"]
            await asyncio.gather(made.unreserve("x", who()), made.unreserve("course", who()))
            assert list(await asyncio.gather(reserve(None, "=0"), reserve(None, "=1"))) == ["ada_1", "ada_2"]
            assert [each.gpu_uuids for each in made.reservations()] == [("GPU-0",), ("GPU-1",)]

    run(test)


def test_a_check_that_comes_with_a_person_takes_nothing_from_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            check = made.arrangements.drains.take_out("GPU-0", reason="hot", by="stoker", owner=DrainOwner.CHECK)
            await asyncio.gather(made.drain(DrainRequest(gpu="0", reason="fan"), who("ada")), check)
            await made.arrangements.drains.lift("GPU-0", DrainOwner.CHECK)
            assert [(each.by, each.owner) for each in made.drains()] == [("ada", DrainOwner.PERSON)]

    run(test)


def test_a_reservation_keeps_gpus_for_its_users(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            asked = ReservationRequest(duration="1:00:00", users=("ada",), gpus="1")
            mine = await made.reserve(asked, who())
            assert (mine.name, len(mine.gpu_uuids), mine.by) == ("ada_1", 1, "me")
            with pytest.raises(ApiError, match="ada_1 has it"):
                await made.reserve(ReservationRequest(duration="1:00:00", maintenance=True), who())
            both = await submit(made, "true", "--gpus=2", "--time=10")
            await until(made, both.id, waiting)
            other = await until(made, (await submit(made, "true", "--gpus=1", "--time=5")).id, ended)
            assert other.gpu_uuids != mine.gpu_uuids
            in_it = await submit(made, "true", "--gpus=1", "--reservation=ada_1", "--time=5", user="ada")
            assert (await until(made, in_it.id, ended)).gpu_uuids == mine.gpu_uuids
            with pytest.raises(ApiError, match="no reservation none; known: ada_1"):
                await submit(made, "true", "--reservation=none")
            with pytest.raises(ApiError, match="no reservation 'x'"):
                await made.unreserve("x", who())
            assert await made.unreserve("ada_1", who()) == []
            assert (await until(made, both.id, ended)).state is JobState.COMPLETED

    run(test)


def test_a_reservation_that_is_not_for_the_job_is_refused_at_the_submit(tmp_path: Path) -> None:
    """In sbatch's words, and not a reason to wait for ever."""

    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            for asked in (
                ReservationRequest(name="hers", duration="1:00:00", users=("ada",), gpus="1"),
                ReservationRequest(name="labs", duration="1:00:00", accounts=("lab",), gpus="1"),
                ReservationRequest(name="repair", start="now+1day", duration="1:00:00", maintenance=True),
                ReservationRequest(name="short", start="now+2days", end="now+3days", users=("me",)),
            ):
                await made.reserve(asked, who())
            invalid, denied = "Requested reservation is invalid", "Access denied to requested reservation"
            refused = {
                "none": f"{invalid}: there is no reservation none; known: ",
                "hers": f"{denied}: hers is for ada; ask me, who made it",
                "labs": f"{denied}: labs is for account lab; ask me",
                "repair": f"{denied}: repair is a maintenance window",
            }
            for name, sentence in refused.items():
                with pytest.raises(ApiError) as caught:
                    await submit(made, "true", f"--reservation={name}", "--time=5")
                assert (caught.value.status, caught.value.field) == (400, "--reservation")
                assert caught.value.message.startswith(sentence)
            taken = await submit(made, "true", "--reservation=labs", "--account=lab", "--time=5")
            await until(made, taken.id, ended)
            kept = made.arrangements._reservations
            kept["short"] = replace(kept["short"], start_at=1, end_at=2)  # its time has come and gone
            with pytest.raises(ApiError, match=f"{invalid}: short ended at 1970-01-01"):
                await submit(made, "true", "--reservation=short")
            held = await submit(made, "true", "--hold")
            for changes in ({"ReservationName": "hers"}, {"ReservationName": "labs"}):
                with pytest.raises(ApiError, match=denied) as caught:
                    await made.update(ref(held), who(), UpdateRequest(changes=changes))
                assert caught.value.field == "ReservationName"
            await made.update(ref(held), who(), UpdateRequest(changes={"ReservationName": "labs", "Account": "lab"}))
            assert {each.id for each in await made.recent(10)} == {held.id, taken.id}

    run(test)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (ReservationRequest(duration="1:00"), "$.users"),
        (ReservationRequest(users=("a",)), "$.duration"),
        (ReservationRequest(users=("a",), duration="UNLIMITED"), "$.duration"),
        (ReservationRequest(users=("a",), duration="x"), "$.duration"),
        (ReservationRequest(users=("a",), duration="1:00", start="gestern"), "$.start"),
        (ReservationRequest(users=("a",), end="now-5"), "$.end"),
        (ReservationRequest(users=("a",), duration="1:00", gpus="zwei"), "$.gpus"),
        (ReservationRequest(users=("a",), duration="1:00", gpus="="), "$.gpus"),
        (ReservationRequest(users=("a",), duration="1:00", gpus="=7"), "$.gpu"),
        (ReservationRequest(users=("a",), duration="1:00", name="a b\x1b"), "$.name"),
    ],
)
def test_a_reservation_that_makes_no_sense_is_refused(tmp_path: Path, asked: ReservationRequest, field: str) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            with pytest.raises(ApiError) as caught:
                await made.reserve(asked, who())
            assert caught.value.field == field
            assert made.reservations() == []

    run(test)


def test_a_reservation_is_changed_and_keeps_off_what_others_have(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            before = await made.reserve(
                ReservationRequest(name="course", start="now+1hour", duration="60", users=("ada",), gpus="=0"), who()
            )
            other = ReservationRequest(name="other", start="now+3hours", duration="60", users=("bob",), gpus="=0")
            await made.reserve(other, who())
            after = await made.update_reservation("course", ReservationUpdate(duration="+30", users=("+bob",)), who())
            assert after == replace(before, end_at=before.end_at + 1800, users=("ada", "bob"))
            with pytest.raises(ApiError) as caught:
                await made.update_reservation("course", ReservationUpdate(duration="180"), who())
            assert caught.value.status == 409
            moved = await made.update_reservation("course", ReservationUpdate(duration="180", gpus="=1"), who())
            assert moved.gpu_uuids == ("GPU-1",)
            for name, asker, status in (("nope", who(), 404), ("course", who(admin=False), 403)):
                with pytest.raises(ApiError) as caught:
                    await made.update_reservation(name, ReservationUpdate(duration="5"), asker)
                assert caught.value.status == status
        async with engine(make_config(tmp_path)) as made:
            assert made.reservations()[0] == moved

    run(test)


# --- partitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "taken", "reason"), [("DOWN", True, "PartitionDown"), ("INACTIVE", False, "PartitionInactive")]
)
def test_in_a_partition_out_of_use_nothing_starts_and_what_runs_runs_on(
    tmp_path: Path, state: str, taken: bool, reason: str
) -> None:
    async def test() -> None:
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path)) as made:
            runs = await begin(made, gate.script, "--gpus=2")
            waits = await submit(made, "true", "--gpus=1")
            rules = await made.update_partition("main", PartitionUpdate(state=state.lower()), who())
            assert rules.partitions[0].state == state
            await until(made, waits.id, told(reason))
            if taken:
                await submit(made, "true", "--hold")
            else:
                with pytest.raises(ApiError, match="Required partition not available"):
                    await submit(made, "true")
            await gate.open()
            assert (await until(made, runs.id, ended)).state is JobState.COMPLETED
            await until(made, waits.id, told(reason))
        async with engine(make_config(tmp_path)) as made:  # it stays so over a restart
            await until(made, waits.id, told(reason))
            await made.update_partition("main", PartitionUpdate(state="UP"), who())
            assert (await until(made, waits.id, ended)).state is JobState.COMPLETED

    run(test)


def test_a_partition_that_drains_starts_what_it_has_and_takes_no_more(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate(tmp_path / "go")
        async with engine(make_config(tmp_path)) as made:
            await begin(made, gate.script, "--gpus=2")
            waits = await submit(made, "true", "--gpus=2")
            await made.update_partition("main", PartitionUpdate(state="DRAIN"), who())
            with pytest.raises(ApiError, match="me set partition main to DRAIN"):
                await made.plan(request(), user="me", uid=os.geteuid())
            await gate.open()
            assert (await until(made, waits.id, ended)).state is JobState.COMPLETED
            for name, state, asker, status in (
                ("nope", "UP", who(), 404),
                ("main", "SIDEWAYS", who(), 400),
                ("main", "UP", who(admin=False), 403),
            ):
                with pytest.raises(ApiError) as caught:
                    await made.update_partition(name, PartitionUpdate(state=state), asker)
                assert caught.value.status == status

    run(test)
