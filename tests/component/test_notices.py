"""Notices against a real store, a real command and real servers: told once, kept until taken, given up aloud."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.api.queue import RequeueRequest
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from agent.config import Config, HooksTable, load
from agent.engine import courier, message, notices
from agent.engine.courier import Courier
from agent.engine.message import Notice
from agent.engine.notices import Notices
from agent.engine.shelf import Shelf
from agent.engine.storethread import StoreThread
from agent.jobs import notice
from agent.jobs.store import JobStore
from tests.fakes import engines
from tests.fakes.engines import ended, engine, make_config, run, submit, who


def job(number: int, state: JobState = JobState.PENDING, **more: Any) -> Job:
    facts = {"name": "train", "user": "ada", "submitted_at": 1000, "work_dir": "/", "mail_types": ("ALL",), **more}
    return Job(id=number, node="n1", state=state, **facts)


class Queue:
    """The jobs as the engine would tell of them."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.requeued: set[int] = set()

    async def recent_jobs(self, ids: Collection[int]) -> list[Job]:
        return [each for each in self.jobs.values() if each.id in ids or not each.state.is_final]

    async def running_jobs(self) -> list[Job]:
        return [each for each in self.jobs.values() if each.state is JobState.RUNNING]

    async def tasks(self, array_job_id: int) -> list[Job]:
        return [each for each in self.jobs.values() if each.array_job_id == array_job_id]

    async def requeued_since(self, job_id: int, at: int) -> bool:
        return job_id in self.requeued

    async def mail_user(self, job_id: int) -> str | None:
        return "ada@example.org"


class Desk:
    """Notices and courier over one store."""

    def __init__(self, folder: Path, hooks: HooksTable) -> None:
        self.config: Config = msgspec.structs.replace(load(None, {"HOME": str(folder)}), hooks=hooks)
        self.queue = Queue()
        self.store = StoreThread()
        self.shelf = Shelf(self.store)
        self.courier = Courier(lambda: self.config, self.shelf)
        self.notices = Notices(lambda: self.config, self.shelf, self.queue, self.courier)

    def happens(self, *jobs: Job) -> None:
        for each in jobs:
            self.queue.jobs[each.id] = each
            self.notices.observe(each)

    async def kept(self, kind: str) -> list[Notice]:
        return await self.shelf.all(kind, Notice)


@asynccontextmanager
async def desk(folder: Path, hooks: HooksTable, *jobs: Job) -> AsyncIterator[Desk]:
    made = Desk(folder, hooks)
    made.queue.jobs = {each.id: each for each in jobs}
    await made.store.open(folder / "agent.db", now=0)
    await made.courier.start()
    await made.notices.start()
    try:
        yield made
    finally:
        await made.notices.stop()
        await made.courier.stop()
        await made.store.close()


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Another task's work is awaited by asking: it has no event of its own."""
    end = time.monotonic() + 60
    while not await holds():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


def command(folder: Path, body: str) -> HooksTable:
    path = folder / "notify"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return HooksTable(notify_command=path, timeout_s=60)


def _into(folder: Path) -> str:
    """Shell that keeps a notice as a line, in one write: several are delivered at once."""
    return f'body=$(cat); printf "%s\\n" "$body" >> {folder}/told'


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_command_gets_each_event_once_and_in_order(tmp_path: Path) -> None:
    hooks = command(tmp_path, f'{_into(tmp_path)}; echo "$STOKER_EVENT" >> {tmp_path}/env')

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
    hooks = command(tmp_path, _into(tmp_path))

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
    hooks = command(tmp_path, _into(tmp_path))
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
    config = make_config(tmp_path, tables={"hooks": command(tmp_path, _into(tmp_path))})

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
    hooks = command(tmp_path, _into(tmp_path))
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
    hooks = command(tmp_path, _into(tmp_path))
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
    hooks = command(tmp_path, _into(tmp_path))

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
    hooks = command(tmp_path, _into(tmp_path))

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
    hooks = command(tmp_path, _into(tmp_path))

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
    hooks = command(tmp_path, _into(tmp_path))
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
    hooks = command(tmp_path, _into(tmp_path))

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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        assert (tmp_path / "tries").read_text() == "x\n" * 3
        async with desk(tmp_path, hooks) as made:  # it survives a restart
            (tmp_path / "well").touch()
            assert await made.courier.retry() == []
            await until(lambda: _empty(made, "notice"), "it is taken")
            assert await made.courier.dead() == []

    asyncio.run(act())


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


@pytest.mark.parametrize("scheme", ["unix", "http"])
def test_the_url_is_posted_to(tmp_path: Path, scheme: str) -> None:
    got: list[dict[str, Any]] = []
    answers = [500, 302, 204]

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        status = answers.pop(0)
        return web.Response(status=status, text="try later" if status == 500 else "", headers={"Location": "/"})

    async def act() -> None:
        app = web.Application()
        app.router.add_post("/", take)
        runner = web.AppRunner(app)
        await runner.setup()
        socket = Path(f"/tmp/stk-notice-{os.getpid()}.sock")
        site = web.UnixSite(runner, str(socket)) if scheme == "unix" else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"unix://{socket}" if scheme == "unix" else f"http://127.0.0.1:{runner.addresses[0][1]}/"
        hooks, made = HooksTable(notify_url=url, timeout_s=5), message.of_job(job(1), "END", 0)
        try:
            with pytest.raises(courier.DeliveryError, match="answered 500: try later"):
                await courier.send(hooks, made.body("lab"), made)
            with pytest.raises(courier.DeliveryError, match="answered 302"):
                await courier.send(hooks, made.body("lab"), made)
            await courier.send(hooks, made.body("lab"), made)
        finally:
            await runner.cleanup()
            socket.unlink(missing_ok=True)

    asyncio.run(act())
    assert [each["event"] for each in got] == ["END"] * 3


def _certificate(folder: Path) -> ssl.SSLContext:
    """A server's of 127.0.0.1, which vouches for itself: in `folder / "cert.pem"`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


_POST = """
import asyncio, sys
from agent.daemon import _import_web
_import_web()
from agent.config import HooksTable
from agent.engine import courier, message
from tests.component.test_notices import job
made = message.of_job(job(1), "END", 0)
try:
    asyncio.run(courier.send(HooksTable(notify_url=sys.argv[1], timeout_s=20), made.body("lab"), made))
except courier.DeliveryError as error:
    sys.exit(str(error))
"""


def test_an_https_url_is_posted_to_where_the_machine_trusts_it_and_else_not(tmp_path: Path) -> None:
    """In a process that imported aiohttp as the agent does: without the machine's certificates."""
    got: list[str] = []

    async def take(request: web.Request) -> web.Response:
        got.append((await request.json())["event"])
        return web.Response()

    async def post(url: str, **trusted: str) -> tuple[int | None, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _POST, url, stderr=subprocess.PIPE, env={**os.environ, **trusted}
        )
        _, said = await child.communicate()
        return child.returncode, said.decode()

    async def act() -> None:
        app = web.Application()
        app.router.add_post("/", take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_certificate(tmp_path)).start()
        try:
            url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
            status, said = await post(url)
            assert status == 1
            assert "certificate" in said.lower()
            assert await post(url, SSL_CERT_FILE=str(tmp_path / "cert.pem")) == (0, "")
        finally:
            await runner.cleanup()

    asyncio.run(act())
    assert got == ["END"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "unix:///no/such.sock", "http://no-such-host.invalid/"])
def test_a_url_that_is_not_there_says_so(url: str) -> None:
    made = message.of_job(job(1), "END", 0)
    with pytest.raises(courier.DeliveryError, match=url.split("/")[-2] if "http" in url else "no/such.sock"):
        asyncio.run(courier.send(HooksTable(notify_url=url, timeout_s=5), made.body("lab"), made))


def test_a_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    made = message.of_job(job(1), "END", 0)
    with pytest.raises(courier.DeliveryError, match="cannot run /no/such: No such file"):
        asyncio.run(courier.send(HooksTable(notify_command=Path("/no/such")), made.body("lab"), made))
