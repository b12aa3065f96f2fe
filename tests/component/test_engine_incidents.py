"""Incidents in the real engine: on disk, drained for, given back, acknowledged, and there again after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.errors import ApiError
from agent.api.health import IncidentKind, Severity
from agent.api.queue import DrainRequest
from agent.api.types import GpuReading, GpuState
from agent.config.tables import HealthTable
from agent.engine.base import Asker
from agent.engine.embedded import EmbeddedEngine
from agent.engine.incidents import Incidents
from agent.telemetry.xid import Xid
from tests.fakes.engines import engine, make_config

ROOT, ADA = Asker(user="root", uid=0, admin=True), Asker(user="ada", uid=1000, admin=False)


class Node:
    """What the sampler would tell."""

    def __init__(self) -> None:
        self.gpus = [
            GpuReading(index=n, uuid=f"GPU-{n}", name="Test GPU", sampled_at=1.0, pci=f"0000:{n:02x}:00")
            for n in (0, 1)
        ]
        self.pids: dict[int, int] = {}
        self.now = time.monotonic()

    def readings(self) -> list[GpuReading]:
        return self.gpus

    def silent_s(self) -> float:
        return 0.0

    def be(self, index: int, **more: Any) -> None:
        self.gpus[index] = msgspec.structs.replace(self.gpus[index], **more)

    async def look(self, made: Incidents, after_s: float = 1.0) -> None:
        self.now += after_s
        await made.look(time.time(), self.now)


@asynccontextmanager
async def watched(tmp_path: Path, node: Node, **policy: str) -> AsyncIterator[tuple[EmbeddedEngine, Incidents]]:
    config = make_config(tmp_path, tables={"health": HealthTable(policy=policy)})
    async with engine(config) as made:
        incidents = Incidents(made._core, made.arrangements, node)
        await incidents.load()
        yield made, incidents


def drained(made: EmbeddedEngine) -> list[tuple[str | None, str]]:
    return [(each.gpu_uuid, each.owner.value) for each in made.drains()]


def test_a_lost_gpu_opens_one_incident_and_is_held_until_somebody_resumes_it(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (made, incidents):
            node.be(1, state=GpuState.LOST, reason="GPU 1 is lost to the driver")
            for _ in range(3):
                await node.look(incidents)
            (found,) = incidents.all()
            assert (found.kind, found.gpu_index, found.count) == (IncidentKind.GPU_LOST, 1, 1)
            assert drained(made) == [("GPU-1", "check")]
            assert "GPU 1 is lost to the driver" in made.drains()[0].reason
            node.be(1, state=GpuState.OK, reason=None)
            await node.look(incidents, 60.0)
            assert incidents.all() == []
            (over,) = incidents.all(over=True)
            assert over.cleared_at is not None
            assert drained(made) == [("GPU-1", "check")], "held until resumed"
            await made.resume(DrainRequest(gpu="GPU-1"), ROOT)
            assert drained(made) == []

    asyncio.run(act())


def test_a_hung_gpu_comes_back_by_itself_but_not_what_a_person_drained(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (made, incidents):
            await made.drain(DrainRequest(gpu="GPU-0", reason="fan"), ROOT)
            for index in (0, 1):
                node.be(index, state=GpuState.HUNG, reason="no answer")
            await node.look(incidents)
            assert sorted(drained(made)) == [("GPU-0", "person"), ("GPU-1", "check")]
            for index in (0, 1):
                node.be(index, state=GpuState.OK)
            await node.look(incidents)
            await node.look(incidents, 60.0)
            assert drained(made) == [("GPU-0", "person")]

    asyncio.run(act())


def test_an_incident_outlives_the_agent_and_clears_after_it(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        node.be(0, state=GpuState.HUNG, reason="no answer")
        async with watched(tmp_path, node) as (_, incidents):
            await node.look(incidents)
            before = incidents.all()
        async with watched(tmp_path, node) as (made, incidents):
            assert incidents.all() == before
            await node.look(incidents)
            assert [each.id for each in incidents.all()] == [before[0].id], "it is not opened again"
            node.be(0, state=GpuState.OK)
            await node.look(incidents)
            await node.look(incidents, 60.0)
            assert incidents.all() == []
            assert drained(made) == []

    asyncio.run(act())


def test_an_xid_names_gpu_process_and_job_once_whoever_tells_it(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (made, incidents):
            incidents.take(Xid(code=79, at=1.0, pci="0000:01:00", pid=4711, process="python3"))
            await node.look(incidents)
            incidents.take(Xid(code=79, at=1.1, uuid="GPU-1"))
            await node.look(incidents)
            (found,) = incidents.all()
            assert (found.code, found.gpu_uuid, found.pid, found.severity) == (79, "GPU-1", 4711, Severity.CRITICAL)
            assert found.what == "XID 79 on GPU 1, process 4711 (python3): the GPU has fallen off the bus"
            assert found.count == 1
            assert drained(made) == [("GPU-1", "check")]
            incidents.take(Xid(code=79, at=60.0, uuid="GPU-1"))
            await node.look(incidents, 60.0)
            assert incidents.all()[0].count == 2
            incidents.take(Xid(code=31, at=61.0, pci="0000:00:00"))
            await node.look(incidents)
            assert incidents.all()[0].severity is Severity.INFO
            assert drained(made) == [("GPU-1", "check")], "a program's fault drains nothing"
            incidents.take(Xid(code=48, at=62.0, pci="0000:7f:00"))
            await node.look(incidents)
            assert incidents.all()[0].what.startswith("XID 48 on the GPU at 0000:7f:00")

    asyncio.run(act())


def test_the_policy_decides(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node, gpu_lost="tell", xid="drain") as (made, incidents):
            node.be(0, state=GpuState.LOST)
            await node.look(incidents)
            assert drained(made) == []
            incidents.take(Xid(code=119, at=1.0, uuid="GPU-1"))
            await node.look(incidents)
            assert drained(made) == [("GPU-1", "check")]
            await node.look(incidents, 601.0)
            assert drained(made) == []

    asyncio.run(act())


def test_acknowledging_is_for_admins_and_is_kept(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        node.be(0, state=GpuState.LOST)
        async with watched(tmp_path, node) as (_, incidents):
            await node.look(incidents)
            number = incidents.all()[0].id
            with pytest.raises(ApiError, match="for admins"):
                await incidents.acknowledge(number, ADA)
            with pytest.raises(ApiError, match="there is no incident 99"):
                await incidents.acknowledge(99, ROOT)
            told = await incidents.acknowledge(number, ROOT)
            assert told.acknowledged_by == "root"
            assert await incidents.acknowledge(number, ROOT) == told
        async with watched(tmp_path, node) as (_, incidents):
            assert incidents.all()[0].acknowledged_by == "root"

    asyncio.run(act())
