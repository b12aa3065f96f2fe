"""Incidents told of: to a real command and a real server, tried again, given up, sent by hand; and done though cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.api.errors import ApiError, StokerError
from agent.api.health import IncidentKind, Severity
from agent.api.types import GpuErrors, GpuState
from agent.config import HooksTable
from agent.engine import courier
from agent.engine.base import Asker
from agent.engine.embedded import EmbeddedEngine
from agent.engine.incidents import Incidents
from agent.gpu.frames import EventKind, GpuEvent
from tests.component.test_engine import small_disk as small_disk
from tests.component.test_engine_incidents import ROOT, Node, drained, watched
from tests.fakes import disk

_XID, _LOST = IncidentKind.XID, IncidentKind.GPU_LOST


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """The courier's work is awaited by asking: it has no event of its own."""
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.01)


def command(folder: Path, body: str, **more: Any) -> HooksTable:
    path = folder / "notify"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return HooksTable(notify_command=path, timeout_s=60, **more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_command_is_told_of_an_incidents_whole_life(tmp_path: Path) -> None:
    told = tmp_path / "told"
    body = f'body=$(cat); printf "%s\\n" "$body" >> {told}; echo "$STOKER_EVENT $STOKER_SEVERITY" >> {tmp_path}/env'

    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node, hooks=command(tmp_path, body)) as (_, incidents):

            async def told_of(count: int) -> None:
                await until(lambda: _is(len(lines(told)) == count), f"{count} are told of")

            incidents.take(GpuEvent(kind=EventKind.POISON, uuid="GPU-1", at=1.0))
            await node.look(incidents)
            await told_of(1)
            node.be(1, errors=GpuErrors(ecc_uncorrected=2))
            await node.look(incidents)
            await told_of(2)
            await node.look(incidents)
            await incidents.acknowledge(incidents.all()[0].id, ROOT)
            await told_of(3)
            node.be(1, errors=GpuErrors())
            await node.look(incidents, 60.0)
            await told_of(4)

    asyncio.run(act())
    found = lines(told)
    assert [each["event"] for each in found] == [
        "INCIDENT_OPENED", "INCIDENT_WORSE", "INCIDENT_ACKNOWLEDGED", "INCIDENT_CLEARED",
    ]  # fmt: skip
    assert [each["id"] for each in found] == [
        "incident-1-OPENED", "incident-1-WORSE-critical", "incident-1-ACKNOWLEDGED", "incident-1-CLEARED",
    ]  # fmt: skip
    assert all(each["incident"]["gpu_index"] == 1 and "job" not in each for each in found)
    assert found[0]["text"].startswith("incident 1 on n1 (warning): GPU 1 met wrong data in its memory")
    assert found[2]["text"].startswith("incident 1 on n1 was seen by root: ")
    assert (tmp_path / "env").read_text().splitlines()[:2] == ["INCIDENT_OPENED warning", "INCIDENT_WORSE critical"]


def test_a_server_that_refuses_is_tried_again_then_the_letter_is_dead_then_sent_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "FIRST_PAUSE_S", 0)
    monkeypatch.setattr(courier, "LOOK_S", 0.02)
    monkeypatch.setattr(courier, "TRIES", 3)
    got: list[dict[str, Any]] = []
    answers = [503] * 3

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response(status=answers.pop(0) if answers else 204, text="come back later")

    async def act() -> None:
        app = web.Application()
        app.router.add_post("/hook", take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        node, url = Node(), f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        node.be(0, state=GpuState.LOST, reason="GPU 0 is lost")
        try:
            async with watched(tmp_path, node, hooks=HooksTable(notify_url=url, timeout_s=60)) as (made, incidents):
                await node.look(incidents)
                await until(lambda: _dead(made), "it is given up")
                (letter,) = await made.clerks.courier.dead()
                assert (letter.job_id, letter.incident_id, letter.event) == (None, 1, "INCIDENT_OPENED")
                assert (letter.to, letter.tries) == ("admins", 3)
                assert "answered 503: come back later" in letter.error
                assert [each.next_at for each in await made.clerks.courier.retry()] == [0]
                await until(lambda: _is(len(got) == 4), "it is taken")
                node.be(0, state=GpuState.OK, reason=None)
                await node.look(incidents, 60.0)
                await until(lambda: _is(len(got) == 5), "its end is told of")
        finally:
            await runner.cleanup()

    asyncio.run(act())
    assert [each["event"] for each in got] == ["INCIDENT_OPENED"] * 4 + ["INCIDENT_CLEARED"]
    assert {each["incident"]["kind"] for each in got} == {"gpu_lost"}
    assert {each["id"] for each in got} == {"incident-1-OPENED", "incident-1-CLEARED"}


@pytest.mark.parametrize(("least", "told"), [("off", 0), ("critical", 1), ("warning", 2), ("info", 3)])
def test_only_what_is_as_grave_as_asked_for_is_told_of(tmp_path: Path, least: str, told: int) -> None:
    async def act() -> int:
        node = Node()
        hooks = command(tmp_path, "cat > /dev/null; exit 1", notify_incidents=least)
        async with watched(tmp_path, node, hooks=hooks) as (made, incidents):
            for code in (31, 63, 79):
                incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=1.0, code=code))
            await node.look(incidents)
            assert {each.severity for each in incidents.all()} == set(Severity)
            return len(made.clerks.courier._waiting)

    assert asyncio.run(act()) == told


def test_nothing_is_kept_to_be_told_where_nobody_hears_it(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        node.be(0, state=GpuState.LOST)
        async with watched(tmp_path, node) as (made, incidents):
            await node.look(incidents)
            assert len(incidents.all()) == 1
            assert not made.clerks.courier._waiting

    asyncio.run(act())


# --- cleared by hand --------------------------------------------------------------------------------------------------


def test_an_event_is_cleared_by_hand_and_what_is_still_so_is_not(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        node.be(0, state=GpuState.LOST, reason="GPU 0 is lost")
        async with watched(tmp_path, node) as (made, incidents):
            incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=1.0, code=31))
            await node.look(incidents)
            xid, lost = (next(each.id for each in incidents.all() if each.kind is kind) for kind in (_XID, _LOST))
            with pytest.raises(ApiError, match="for admins"):
                await incidents.clear(xid, Asker(user="ada", uid=1000, admin=False))
            with pytest.raises(ApiError, match="is not over: GPU 0 is lost; it clears itself"):
                await incidents.clear(lost, ROOT)
            over = await incidents.clear(xid, ROOT)
            assert (over.cleared_by, over.cleared_at is not None) == ("root", True)
            with pytest.raises(ApiError, match=f"incident {xid} is over already"):
                await incidents.clear(xid, ROOT)
            incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=50.0, code=31))
            await node.look(incidents, 50.0)
            assert {each.id for each in incidents.all()} == {lost, 3}, "the same again is another one"
            node.be(0, state=GpuState.OK, reason=None)
            await node.look(incidents)
            await incidents.clear(lost, ROOT)
            assert drained(made) == [("GPU-0", "check")], "held until resumed"

    asyncio.run(act())


def test_a_gpu_that_one_incident_holds_is_not_given_back_by_the_end_of_another(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        node.be(1, state=GpuState.HUNG, reason="no answer")
        async with watched(tmp_path, node) as (made, incidents):
            incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=1.0, code=119))
            await node.look(incidents)
            assert len(incidents.all()) == 2
            node.be(1, state=GpuState.OK, reason=None)
            await incidents.clear(next(each.id for each in incidents.all() if each.kind is _XID), ROOT)
            await node.look(incidents)
            await node.look(incidents, 60.0)
            assert incidents.all() == []
            assert drained(made) == [("GPU-1", "check")]

    asyncio.run(act())


# --- what was cut is done ---------------------------------------------------------------------------------------------


def test_a_drain_that_the_agents_death_cut_is_made_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        node = Node()
        node.be(0, state=GpuState.LOST, reason="GPU 0 is lost")
        async with watched(tmp_path, node) as (made, incidents):
            with monkeypatch.context() as patch:
                patch.setattr(Incidents, "_obey_all", _cut)
                with pytest.raises(asyncio.CancelledError):
                    await node.look(incidents)
            assert (len(incidents.all()), drained(made)) == (1, [])
        async with watched(tmp_path, node) as (made, incidents):
            await node.look(incidents)
            assert drained(made) == [("GPU-0", "check")]
            assert len(incidents.all(over=True)) == 1

    asyncio.run(act())


def test_an_xid_told_on_a_full_disk_is_an_incident_when_there_is_room_again(tmp_path: Path, small_disk: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (made, incidents):
            ballast = disk.fill(small_disk)
            incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=1.0, code=79))
            for _ in range(2):
                with pytest.raises(StokerError):
                    await node.look(incidents)
            assert incidents.all() == []
            ballast.unlink()
            await node.look(incidents)
            assert [(each.kind, each.count) for each in incidents.all()] == [(_XID, 1)]
            assert drained(made) == [("GPU-1", "check")]

    asyncio.run(act())


async def _cut(*_: object) -> None:
    raise asyncio.CancelledError


async def _is(holds: bool) -> bool:
    return holds


async def _dead(made: EmbeddedEngine) -> bool:
    return bool(await made.clerks.courier.dead())
