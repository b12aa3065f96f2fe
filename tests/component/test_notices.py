"""Notices against a real store, a real command and real servers: told once, kept until taken, given up aloud."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.queue import RequeueRequest
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from agent.engine import courier, message, notices
from agent.jobs import notice
from agent.jobs.store import JobStore
from tests.fakes import engines
from tests.fakes.engines import ended, engine, make_config, run, submit, who
from tests.fakes.notices import Desk, command, desk, into, job, lines, until


def test_the_command_gets_each_event_once_and_in_order(tmp_path: Path) -> None:
    hooks = command(tmp_path, f'{into(tmp_path)}; echo "$STOKER_EVENT" >> {tmp_path}/env')

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(job(1))
            running = job(1, JobState.RUNNING, attempt=1, started_at=5)
            made.happens(running, running)
            made.happens(msgspec.structs.replace(running, cpus_per_task=2))
            ended = job(1, JobState.FAILED, attempt=1, started_at=5, detail="exited with code 1")
            made.happens(ended)
            made.happens(ended)
            await until(lambda: _is(len(lines(tmp_path / "told")) == 2), "both have been told")
            await until(lambda: _empty(made, "notice"), "nothing is left to deliver")

    asyncio.run(act())
    told = sorted(lines(tmp_path / "told"), key=lambda each: each["event"])
    assert [each["event"] for each in told] == ["BEGIN", "FAIL"]
    assert told[1]["text"] == "job 1 (train) of ada on n1 ended: FAILED: exited with code 1"
    assert told[1]["mail_user"] == "ada@example.org"
    assert sorted((tmp_path / "env").read_text().split()) == ["BEGIN", "FAIL"]


async def _is(value: bool) -> bool:
    return value


async def _empty(made: Desk, kind: str) -> bool:
    return not await made.kept(kind)


def test_what_happened_while_nobody_told_is_told_after_a_restart(tmp_path: Path) -> None:
    hooks = command(tmp_path, into(tmp_path))

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(job(1))
            await until(lambda: _told(made), "how it was is on disk")
        ended = job(1, JobState.COMPLETED, attempt=1, started_at=5)
        async with desk(tmp_path, hooks, ended):
            await until(lambda: _is(len(lines(tmp_path / "told")) == 2), "both have been told")

    asyncio.run(act())
    assert {each["event"] for each in lines(tmp_path / "told")} == {"BEGIN", "END"}


async def events_told(made: Desk, folder: Path) -> list[str]:
    """What has been told, once there is nothing on its way: a last job that is told of tells that."""
    last = 1000 + len(lines(folder / "told"))
    made.happens(job(last, JobState.COMPLETED, attempt=1, started_at=5, mail_types=("END",)))
    await until(lambda: _is(any(each["job"]["id"] == last for each in lines(folder / "told"))), "all has been seen")
    await until(lambda: _empty(made, "notice"), "nothing is left to deliver")
    return sorted(f"{each['job']['id']}:{each['event']}" for each in lines(folder / "told") if each["job"]["id"] < 1000)


def test_an_end_is_not_told_again_after_a_restart_and_a_requeued_job_ends_anew(tmp_path: Path) -> None:
    hooks = command(tmp_path, into(tmp_path))
    at = int(time.time()) - 10
    ended = job(1, JobState.COMPLETED, attempt=1, started_at=at, ended_at=at + 1)
    again = msgspec.structs.replace(ended, state=JobState.PENDING, started_at=None, ended_at=None)
    second = msgspec.structs.replace(ended, attempt=2, started_at=at + 20, ended_at=at + 25)

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(job(1))
            made.happens(ended)
            assert await events_told(made, tmp_path) == ["1:BEGIN", "1:END"]
            assert await made.shelf.all("told", notice.Told) == [], "nothing is kept of what has ended"
        (tmp_path / "told").unlink()
        async with desk(tmp_path, hooks, ended) as made:
            made.happens(ended)  # held before it is requeued, for one
            assert await events_told(made, tmp_path) == []
            made.queue.requeued = {1}
            made.happens(again)
            made.happens(msgspec.structs.replace(second, state=JobState.RUNNING, ended_at=None))
            made.happens(second)
            assert await events_told(made, tmp_path) == ["1:BEGIN", "1:END", "1:REQUEUE"]

    asyncio.run(act())


def test_a_job_that_is_requeued_after_a_restart_is_told_of_by_the_real_engine(tmp_path: Path) -> None:
    config = make_config(tmp_path, tables={"hooks": command(tmp_path, into(tmp_path))})

    def told() -> list[str]:
        return sorted(each["id"] for each in lines(tmp_path / "told"))

    async def act() -> None:
        async with engine(config) as made:
            array = await submit(made, "true", "--array=0-1", "--mail-type=ALL")
            one = await submit(made, "true", "--mail-type=ALL")
            for number in (array.id, array.id + 1, one.id):
                await engines.until(made, number, ended)
            await until(lambda: _is(len(told()) == 4), "all is told")
            first = told()
            assert {f"{one.id}-1-BEGIN", f"{one.id}-1-END"} < set(first)
        await asyncio.sleep(1.1 - time.time() % 1)  # times are whole seconds: the next agent starts in another one
        async with engine(config) as made:
            for number in (array.id, one.id):
                task = 0 if number == array.id else None
                await made.requeue(JobRef(id=number, task=task), who(), RequeueRequest(hold=True))
                await made.release(JobRef(id=number, task=task), who())
                await engines.until(made, number, lambda each: each.attempt == 2 and ended(each))
            await until(lambda: _is(len(told()) >= 9), "what is new is told")
        new = [f"{array.id}-2-BEGIN", f"{array.id}-2-END"]
        new += [f"{one.id}-1-REQUEUE", f"{one.id}-2-BEGIN", f"{one.id}-2-END"]
        assert told() == sorted([*first, *new])

    run(act)


def test_a_share_of_the_time_limit_is_not_told_again_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "LOOK_S", 0.02)
    hooks = command(tmp_path, into(tmp_path))
    facts = {"attempt": 1, "started_at": int(time.time()) - 850, "time_limit_s": 1000}
    runs = job(1, JobState.RUNNING, mail_types=("TIME_LIMIT_80", "TIME_LIMIT_90"), **facts)

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(runs)
            await until(lambda: _is(len(lines(tmp_path / "told")) == 1), "80 % is told")
            await until(lambda: _empty(made, "notice"), "it is delivered")
        async with desk(tmp_path, hooks, runs) as made:
            made.queue.jobs[1] = msgspec.structs.replace(runs, started_at=facts["started_at"] - 100)
            await until(lambda: _is(len(lines(tmp_path / "told")) == 2), "90 % is told")
            await until(lambda: _empty(made, "notice"), "it is delivered")

    asyncio.run(act())
    assert [each["event"] for each in lines(tmp_path / "told")] == ["TIME_LIMIT_80", "TIME_LIMIT_90"]


def task(number: int, state: JobState, attempt: int = 0, **more: Any) -> Job:
    """Of array 10."""
    at = int(time.time())
    times = {"started_at": at} if attempt and state is not JobState.PENDING else {}
    times |= {"ended_at": at} if state.is_final else {}
    return job(number, state, array_job_id=10, array_task_id=number - 10, attempt=attempt, **{**times, **more})


def test_an_array_begins_and_ends_once_through_a_restart_and_again_when_a_task_is_requeued(tmp_path: Path) -> None:
    hooks = command(tmp_path, into(tmp_path))
    done, run, wait = JobState.COMPLETED, JobState.RUNNING, JobState.PENDING

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(*(task(number, wait) for number in (10, 11)))
            made.happens(task(10, run, 1))
            assert await events_told(made, tmp_path) == ["10:BEGIN"]
            assert [each.event for each in await made.shelf.all("told-array", notice.ToldArray)] == ["BEGIN"]
            left = [made.queue.jobs[10], made.queue.jobs[11]]
        async with desk(tmp_path, hooks, *left) as made:
            made.happens(task(11, run, 1))
            made.happens(task(10, done, 1), task(11, done, 1))
            assert await events_told(made, tmp_path) == ["10:BEGIN", "10:END"]
            assert await made.shelf.all("told-array", notice.ToldArray) == []
            assert (made.notices._arrays, made.notices._told) == ({}, {}), "nothing is kept of what is over"
            made.happens(task(10, wait, 1))
            made.happens(task(10, run, 2))
            made.happens(task(10, JobState.FAILED, 2))
            assert await events_told(made, tmp_path) == ["10:BEGIN", "10:END", "10:FAIL"]

    asyncio.run(act())


def test_an_array_that_ends_at_a_stroke_is_told_of_once_though_no_task_was_seen_before(tmp_path: Path) -> None:
    hooks = command(tmp_path, into(tmp_path))

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            gone = [task(number, JobState.CANCELLED) for number in range(10, 60)]
            made.queue.jobs = {each.id: each for each in gone}
            made.happens(*gone, *gone)
            assert await events_told(made, tmp_path) == ["10:FAIL"]
            assert await made.shelf.all("told-array", notice.ToldArray) == []

    asyncio.run(act())


def test_what_a_full_disk_did_not_keep_is_told_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "LOOK_S", 0.02)
    hooks = command(tmp_path, into(tmp_path))

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(job(1))
            await until(lambda: _told(made), "how it was is on disk")
            await made.store.read(lambda store: _limit_pages(store, 1))
            made.happens(job(1, JobState.COMPLETED, attempt=1, started_at=5, detail="x" * 20_000))
            await until(lambda: _is(1 in made.notices._again), "it was refused")
            await made.store.read(lambda store: _limit_pages(store, 2**30))
            await until(lambda: _is(len(lines(tmp_path / "told")) == 2), "both have been told")
            await until(lambda: _is(not made.notices._again), "and nothing is tried again")

    asyncio.run(act())
    assert {each["event"] for each in lines(tmp_path / "told")} == {"BEGIN", "END"}


def _limit_pages(store: JobStore, most: int) -> None:
    """SQLite's own full disk: the file grows no further."""
    store._execute(f"PRAGMA max_page_count = {most}")


async def _told(made: Desk) -> bool:
    return bool(await made.shelf.all("told", notice.Told))


def test_a_job_that_asked_for_nothing_costs_nothing(tmp_path: Path) -> None:
    hooks = command(tmp_path, f"cat >> {tmp_path}/told")

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(job(1, mail_types=()), job(2, JobState.FAILED, attempt=1, mail_types=("REQUEUE",)))
            made.happens(job(3, JobState.COMPLETED, attempt=1, started_at=1, mail_types=("END",)))
            await until(lambda: _is((tmp_path / "told").exists()), "the third is told")
            assert await made.shelf.all("told", notice.Told) == []

    asyncio.run(act())
    assert json.loads((tmp_path / "told").read_text())["job"]["id"] == 3


def test_an_array_is_told_of_as_one_unless_its_tasks_are_asked_for(tmp_path: Path) -> None:
    hooks = command(tmp_path, into(tmp_path))

    def task(number: int, state: JobState, types: tuple[str, ...] = ("BEGIN", "END")) -> Job:
        begun = {} if state is JobState.PENDING else {"attempt": 1, "started_at": 5}
        return job(number, state, array_job_id=10, array_task_id=number - 10, mail_types=types, **begun)

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(*(task(number, JobState.PENDING) for number in (10, 11, 12)))
            made.happens(*(task(number, JobState.RUNNING) for number in (10, 11, 12)))
            made.happens(task(10, JobState.COMPLETED), task(12, JobState.COMPLETED))
            made.happens(task(11, JobState.FAILED))
            await until(lambda: _is(len(lines(tmp_path / "told")) == 2), "begin and end")
            await until(lambda: _empty(made, "notice"), "nothing is left")

    asyncio.run(act())
    assert sorted(each["event"] for each in lines(tmp_path / "told")) == ["BEGIN", "FAIL"]


def test_shares_of_the_time_limit_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "LOOK_S", 0.02)
    hooks = command(tmp_path, into(tmp_path))
    began = int(time.time()) - 85

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            types = ("TIME_LIMIT_80", "TIME_LIMIT_90")
            facts = {"attempt": 1, "started_at": began, "time_limit_s": 100, "mail_types": types}
            made.happens(job(1, JobState.RUNNING, **facts))
            await until(lambda: _is(len(lines(tmp_path / "told")) == 1), "80 % is told")
            made.happens(job(1, JobState.RUNNING, **{**facts, "started_at": began - 8}))
            await until(lambda: _is(len(lines(tmp_path / "told")) == 2), "90 % is told")
            await until(lambda: _empty(made, "notice"), "nothing is left")

    asyncio.run(act())
    assert [each["event"] for each in lines(tmp_path / "told")] == ["TIME_LIMIT_80", "TIME_LIMIT_90"]


def test_time_limits_are_looked_at_while_changes_come_without_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "LOOK_S", 0.02)
    hooks = command(tmp_path, into(tmp_path))

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            facts = {"attempt": 1, "started_at": int(time.time()) - 85, "time_limit_s": 100}
            types = ("TIME_LIMIT_80",)
            made.happens(job(1, JobState.RUNNING, **facts, mail_types=types))
            asked = made.notices._changed

            def again(number: int) -> None:
                """Never is the queue of changes empty."""
                while asked.qsize() < 100:
                    asked.put_nowait(job(number, JobState.PENDING, mail_types=types))

            taken = asked.get

            async def take() -> Job:
                again(2)
                return await taken()

            monkeypatch.setattr(asked, "get", take)
            await until(lambda: _is(len(lines(tmp_path / "told")) == 1), "80 % is told")
            assert asked.qsize() > 50

    asyncio.run(act())


def test_a_command_that_fails_is_tried_again_then_dead_then_sent_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(courier, "FIRST_PAUSE_S", 0)
    monkeypatch.setattr(courier, "LOOK_S", 0.02)
    monkeypatch.setattr(courier, "TRIES", 3)
    hooks = command(
        tmp_path, f"echo x >> {tmp_path}/tries; [ -e {tmp_path}/well ] && exit 0; echo no mail server >&2; exit 3"
    )

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            made.happens(job(1, JobState.COMPLETED, attempt=1, started_at=5, mail_types=("END",)))
            await until(lambda: _has_dead(made), "it is given up")
            assert await made.kept("notice") == []
            dead = (await made.courier.dead())[0]
            assert (dead.job_id, dead.event, dead.tries) == (1, "END", 3)
            assert dead.error.endswith("ended with 3: no mail server")
            told = [each.getMessage() for each in caplog.records if "is sent again" in each.getMessage()]
            assert len(told) == 1, "the log says at the first failure what is wrong, and does not repeat it"
            assert told[0].endswith("ended with 3: no mail server")
        assert (tmp_path / "tries").read_text() == "x\n" * 3
        async with desk(tmp_path, hooks) as made:  # it survives a restart
            (tmp_path / "well").touch()
            assert [(each.tries, each.next_at) for each in await made.courier.retry()] == [(0, 0)], "tried now"
            await until(lambda: _empty(made, "notice"), "it is taken")
            assert await made.courier.undelivered() == []

    asyncio.run(act())


def test_what_is_still_tried_is_listed_with_its_reason_and_tried_now_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "FIRST_PAUSE_S", 1800)
    hooks = command(tmp_path, f"[ -e {tmp_path}/well ] && exit 0; echo no mail server >&2; exit 3")

    async def act() -> None:
        async with desk(tmp_path, hooks) as made:
            before = int(time.time())
            made.happens(job(1, JobState.COMPLETED, attempt=1, started_at=5, mail_types=("END",)))
            await until(lambda: _was_tried(made), "it was refused once")
            (waiting,) = await made.courier.undelivered()
            assert (waiting.job_id, waiting.event, waiting.tries) == (1, "END", 1)
            assert waiting.error.endswith("ended with 3: no mail server")
            assert waiting.next_at is not None and waiting.next_at >= before + 1800
            assert await made.courier.dead() == []
            (tmp_path / "well").touch()
            assert [each.next_at for each in await made.courier.retry()] == [0]
            await until(lambda: _empty(made, "notice"), "it is taken")
            assert await made.courier.undelivered() == []

    asyncio.run(act())


async def _was_tried(made: Desk) -> bool:
    return any(each.tries for each in await made.courier.undelivered())


async def _has_dead(made: Desk) -> bool:
    return bool(await made.courier.dead())


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = msgspec.structs.replace(command(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; sleep 600"), timeout_s=1)
    made = message.of_job(job(1), "END", 0)
    with pytest.raises(courier.DeliveryError, match="took longer than 1 s and was killed"):
        asyncio.run(courier.send(hooks, made.body("lab"), made))
    pid = int((tmp_path / "pid").read_text())
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().split(")")[1].split()[0] == "Z"
