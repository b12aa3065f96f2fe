"""Recurring jobs over a real store: submitted when due, once, not beside themselves, and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.api.errors import ApiError
from agent.api.queue import Missed
from agent.api.types import CronRequest, Job, JobState, SubmitRequest
from agent.engine.cron import PER_USER, CronKeeper
from agent.engine.shelf import Shelf
from agent.engine.storethread import StoreThread

HOUR = 3600
REQUEST = SubmitRequest(script="#!/bin/sh\n", script_name="nightly.sh", work_dir="/")


class Queue:
    """What the engine would do with the submits, keyed as it keys them."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.unended: set[int] = set()
        self.refusal: ApiError | None = None
        self.tries = 0

    async def submit(self, request: SubmitRequest, *, user: str, uid: int, key: str, cron_id: int) -> tuple[Job, bool]:
        self.tries += 1
        if self.refusal is not None:
            raise self.refusal
        created = key not in self.made
        number = self.made.setdefault(key, 100 + len(self.made))
        job = Job(
            id=number, node="n1", name="x", user=user, state=JobState.PENDING, submitted_at=0, work_dir=request.work_dir
        )
        return job, created

    async def plan_check(self, request: SubmitRequest, *, user: str, uid: int) -> str:
        if self.refusal is not None:
            raise self.refusal
        return request.script_name

    async def unfinished(self, job_id: int) -> bool:
        return job_id in self.unended


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_800_000_000.0 // HOUR * HOUR
        self.queue = Queue()

    @asynccontextmanager
    async def keeper(self) -> AsyncIterator[CronKeeper]:
        store = StoreThread()
        await store.open(self.folder / "agent.db", now=0)
        made = CronKeeper("n1", Shelf(store), self.queue, now=lambda: self.now, zone=lambda: ZoneInfo("UTC"))
        await made.start()
        try:
            yield made
        finally:
            await made.stop()
            await store.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def hourly(missed: Missed = Missed.SKIP, overlap: bool = False) -> CronRequest:
    return CronRequest(schedule="0 * * * *", request=REQUEST, missed=missed, overlap=overlap)


def test_it_is_submitted_at_its_time_once_and_again_an_hour_later(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            await keeper.add(hourly(), user="ada", uid=1, key="k")
            await keeper.look()
            assert world.queue.made == {}
            world.now += HOUR
            await keeper.look()
            await keeper.look()
            assert len(world.queue.made) == 1
            assert keeper.all()[0].last_note == "submitted job 100"
            world.now += HOUR
            await keeper.look()
            assert len(world.queue.made) == 2

    asyncio.run(act())


@pytest.mark.parametrize("schedule", ["61 * * * *", "every day", "@reboot", ""])
def test_a_schedule_that_is_none_is_the_callers_mistake(world: World, schedule: str) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            with pytest.raises(ApiError, match="is not a schedule") as caught:
                await keeper.add(CronRequest(schedule=schedule, request=REQUEST), user="ada", uid=1, key="k")
            assert (caught.value.status, caught.value.field) == (400, "$.schedule")
            assert keeper.all() == []

    asyncio.run(act())


def test_a_crash_between_the_submit_and_the_note_submits_nothing_twice(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            made = await keeper.add(hourly(), user="ada", uid=1, key="k")
        world.now += HOUR
        assert made.next_at is not None
        await world.queue.submit(
            REQUEST, user="ada", uid=1, key=f"cron-{made.id}-{made.next_at}", cron_id=made.id
        )  # … and it crashed
        async with world.keeper() as keeper:
            await keeper.look()
        assert len(world.queue.made) == 1

    asyncio.run(act())


def test_it_is_never_beside_itself_unless_that_was_asked_for(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            await keeper.add(hourly(), user="ada", uid=1, key="a")
            await keeper.add(hourly(overlap=True), user="ada", uid=1, key="b")
            world.now += HOUR
            await keeper.look()
            world.queue.unended = {100, 101}
            world.now += HOUR
            await keeper.look()
            alone, beside = keeper.all()
            assert alone.last_note == "skipped: job 100 has not ended"
            assert beside.last_note == "submitted job 102"
            world.queue.unended = set()
            world.now += HOUR
            await keeper.look()
            assert keeper.all()[0].last_note == "submitted job 103"

    asyncio.run(act())


@pytest.mark.parametrize(("missed", "submits"), [(Missed.SKIP, 0), (Missed.RUN, 1)])
def test_times_that_passed_while_the_node_was_off(world: World, missed: Missed, submits: int) -> None:
    """Rows 29 and 31: five hours off are one run, or none; and it says which."""

    async def act() -> None:
        async with world.keeper() as keeper:
            await keeper.add(hourly(missed), user="ada", uid=1, key="k")
        world.now += 5 * HOUR + 600
        async with world.keeper() as keeper:
            await keeper.look()
            await keeper.look()
            assert len(world.queue.made) == submits
            note = keeper.all()[0].last_note or ""
            assert ("makes up for" if submits else "skipped") in note
            assert keeper.all()[0].next_at == world.now - 600 + HOUR

    asyncio.run(act())


def test_what_the_queue_refuses_is_noted_and_what_the_disk_refuses_is_tried_again(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            await keeper.add(hourly(), user="ada", uid=1, key="k")
            world.now += HOUR
            world.queue.refusal = ApiError(503, "not_stored", "the disk is full")
            await keeper.look()
            assert keeper.all()[0].last_note is None
            world.queue.refusal = None
            await keeper.look()
            assert keeper.all()[0].last_note == "submitted job 100"
            world.now += HOUR
            world.queue.refusal = ApiError(403, "unknown_user", "no account has uid 1")
            await keeper.look()
            assert keeper.all()[0].last_note == "refused: no account has uid 1"

    asyncio.run(act())


def test_what_the_disk_refuses_is_not_tried_without_a_pause(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            await keeper.add(hourly(), user="ada", uid=1, key="k")
        world.now += HOUR
        world.queue.refusal = ApiError(503, "not_stored", "the disk is full")
        async with world.keeper():
            for _ in range(500):
                await asyncio.sleep(0)
            assert world.queue.tries == 1

    asyncio.run(act())


def test_adding_is_checked_keyed_and_bounded(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            first = await keeper.add(hourly(), user="ada", uid=1, key="k")
            assert await keeper.add(hourly(), user="ada", uid=1, key="k") == first
            with pytest.raises(ApiError, match="was used for recurring job 1"):
                await keeper.add(CronRequest(schedule="1 * * * *", request=REQUEST), user="ada", uid=1, key="k")
            assert (await keeper.add(hourly(), user="grace", uid=2, key="k")).id == 2
            world.queue.refusal = ApiError(400, "bad_option", "no such partition")
            with pytest.raises(ApiError, match="no such partition"):
                await keeper.add(hourly(), user="ada", uid=1, key="new")
            world.queue.refusal = None
            for number in range(PER_USER - 1):
                await keeper.add(hourly(), user="ada", uid=1, key=f"more-{number}")
            with pytest.raises(ApiError, match="recurring jobs already"):
                await keeper.add(hourly(), user="ada", uid=1, key="one-more")

    asyncio.run(act())


def test_a_repetition_that_overtakes_its_first_try_makes_no_second(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            tries = [keeper.add(hourly(), user="ada", uid=1, key="k") for _ in range(3)]
            assert {each.id for each in await asyncio.gather(*tries)} == {1}
            assert len(keeper.all()) == 1

    asyncio.run(act())


def test_one_that_was_removed_is_gone_and_its_number_is_not_given_again(world: World) -> None:
    async def act() -> None:
        async with world.keeper() as keeper:
            await keeper.add(hourly(), user="ada", uid=1, key="k")
            assert keeper.owner(1) == 1
            assert await keeper.remove(1) == []
            with pytest.raises(ApiError, match="there is no recurring job 1"):
                await keeper.remove(1)
        async with world.keeper() as keeper:
            assert keeper.all() == []
            assert (await keeper.add(hourly(), user="ada", uid=1, key="k")).id == 2
            world.now += HOUR
            await keeper.look()
        assert len(world.queue.made) == 1

    asyncio.run(act())
