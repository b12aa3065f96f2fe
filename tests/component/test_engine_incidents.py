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

from agent.api.errors import ApiError, StokerError
from agent.api.health import IncidentKind, Severity
from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, GpuBus, GpuErrors, GpuReading, GpuState
from agent.config.tables import HealthTable, HooksTable
from agent.engine import accounts
from agent.engine import incidents as module
from agent.engine.base import Asker
from agent.engine.embedded import EmbeddedEngine
from agent.engine.incidents import Incidents
from agent.gpu.frames import EventKind, GpuEvent
from agent.telemetry.xid import Xid
from tests.fakes.engines import ended, engine, make_config, submit, until

ROOT, ADA = Asker(user="root", uid=0, admin=True), Asker(user="ada", uid=1000, admin=False)


class Node:
    """What the sampler would tell."""

    def __init__(self) -> None:
        self.gpus = [
            GpuReading(index=n, uuid=f"GPU-{n}", name="Test GPU", sampled_at=1.0, pci=f"0000:{n:02x}:00")
            for n in (0, 1)
        ]
        self.pids: dict[int, int] = {}
        self.none: str | None = None
        self.now = time.monotonic()

    def readings(self) -> list[GpuReading]:
        return self.gpus

    def silent_s(self) -> float:
        return 0.0

    def none_found(self) -> str | None:
        return self.none

    def job_of(self, pid: int) -> int | None:
        return self.pids.get(pid)

    def be(self, index: int, **more: Any) -> None:
        self.gpus[index] = msgspec.structs.replace(self.gpus[index], **more)

    async def look(self, made: Incidents, after_s: float = 1.0) -> None:
        self.now += after_s
        await made.look(time.time(), self.now)


@asynccontextmanager
async def watched(
    tmp_path: Path, node: Node, *, hooks: HooksTable | None = None, **policy: str
) -> AsyncIterator[tuple[EmbeddedEngine, Incidents]]:
    tables = {"health": HealthTable(policy=policy), "hooks": hooks or HooksTable()}
    config = make_config(tmp_path, tables=tables)
    async with engine(config) as made:
        incidents = Incidents(made._core, made.arrangements.drains, node, made.clerks.courier)
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


def test_what_log_and_driver_know_is_one_incident_and_the_same_code_twice_is_two_events(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (_, incidents):
            incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=1.0, code=31))
            await node.look(incidents)
            assert incidents.all()[0].pid is None
            incidents.take(Xid(code=31, at=1.1, pci="0000:01:00", pid=4711, process="python3"))
            await node.look(incidents)
            (found,) = incidents.all()
            assert (found.pid, found.count, found.gpu_uuid) == (4711, 1, "GPU-1"), "the log only adds what it knows"
            for _ in range(2):
                incidents.take(Xid(code=31, at=2.0, pci="0000:01:00", pid=4712))
            incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=2.0, code=31))
            await node.look(incidents)
            assert [(each.pid, each.count) for each in incidents.all()] == [(4712, 3)]

    asyncio.run(act())


def test_a_process_that_left_its_jobs_session_is_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its cgroup, or where none can be made by the tree that the shim keeps together."""
    monkeypatch.setattr(accounts, "SURVEY_S", 0.02)
    monkeypatch.setattr(accounts, "STEP_S", 0.02)
    pid_file = tmp_path / "pid"

    async def act() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await submit(made, f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 600' & sleep 600", "--gpus=1")
            async with asyncio.timeout(60):
                while not pid_file.exists() or not pid_file.read_text().strip():
                    await asyncio.sleep(0.01)
                pid = int(pid_file.read_text())
                while made._accounts.job_of(pid) is None:
                    await asyncio.sleep(0.01)
            made.incidents.take(Xid(code=31, at=1.0, pci="0000:01:00", pid=pid))
            await made.incidents.look(time.time(), time.monotonic())
            (found,) = made.incidents.all()
            assert (found.job_id, found.user, found.pid) == (job.id, job.user, pid)
            await made.cancel(JobRef(id=job.id), ROOT, CancelRequest())
            await until(made, job.id, ended)

    asyncio.run(act())


def test_memory_errors_that_the_driver_tells_of_are_those_that_it_counts(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (made, incidents):
            incidents.take(GpuEvent(kind=EventKind.ECC, uuid="GPU-1", at=1.0))
            await node.look(incidents)
            assert [(each.kind, each.severity) for each in incidents.all()] == [(IncidentKind.ECC, Severity.CRITICAL)]
            assert drained(made) == [("GPU-1", "check")]
            node.be(1, errors=GpuErrors(ecc_uncorrected=2))
            await node.look(incidents)
            assert len(incidents.all()) == 1
            await node.look(incidents, 600.0)
            assert len(incidents.all()) == 1, "the count holds it open"

    asyncio.run(act())


def test_a_divided_gpu_is_drained_with_its_instances_and_the_job_of_the_one_that_was_hit_is_named(
    tmp_path: Path,
) -> None:
    async def act() -> None:
        node = Node()
        parts = [
            GpuReading(index=200 + n, uuid=f"MIG-{n}", name="Part", sampled_at=1.0, mig_parent="GPU-1", mig_gi=n + 7)
            for n in range(2)
        ]
        node.be(1, divided=True)
        node.gpus += parts
        async with watched(tmp_path, node, xid="drain") as (made, incidents):
            incidents.take(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=1.0, code=95, mig_gi=8))
            await node.look(incidents)
            assert sorted(drained(made)) == [("GPU-1", "check"), ("MIG-0", "check"), ("MIG-1", "check")]
            await node.look(incidents, 601.0)
            assert drained(made) == []

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


def test_a_kind_that_is_never_critical_drains_where_the_policy_names_it(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node, thermal_throttle="drain", row_remap="drain") as (made, incidents):
            node.be(0, throttle=("thermal_hw",), errors=GpuErrors(remap_pending=True))
            node.be(1, throttle=("power_brake",), errors=GpuErrors(remap_pending=True))
            await node.look(incidents)
            assert drained(made) == [], "a row that waits for a reset is not the critical one of its kind"
            await node.look(incidents, 31.0)
            assert drained(made) == [("GPU-0", "check")]
            node.be(0, throttle=())
            await node.look(incidents, 1.0)
            await node.look(incidents, 61.0)
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


def test_gpus_that_were_not_read_yet_are_not_accepted_as_none(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (_, incidents):
            assert len(await incidents.accept(ROOT)) == 2
            node.gpus = []
            with pytest.raises(ApiError, match="have not been read yet"):
                await incidents.accept(ROOT)
            assert len(incidents.inventory()) == 2
            node.none = "no NVIDIA driver is loaded"
            assert await incidents.accept(ROOT) == []

    asyncio.run(act())


def test_a_pcie_generation_that_falls_under_load_is_told_of_and_may_be_cleared_while_it_cannot_be_seen(
    tmp_path: Path,
) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (_, incidents):
            node.be(0, bus=GpuBus(pcie_generation=1), utilization_percent=0)
            for _ in range(12):
                await node.look(incidents)
            node.be(0, bus=GpuBus(pcie_generation=4), utilization_percent=90)
            await node.look(incidents)
            assert [each.pcie_generation_seen for each in incidents.inventory()] == [4, None]
        async with watched(tmp_path, node) as (_, incidents):
            node.be(0, bus=GpuBus(pcie_generation=1), utilization_percent=0)
            await node.look(incidents)
            await node.look(incidents, 600.0)
            assert incidents.all() == [], "it rests"
            node.be(0, bus=GpuBus(pcie_generation=1), utilization_percent=90)
            for passed in (1.0, 16.0, 61.0):
                await node.look(incidents, passed)
            (slow,) = incidents.all()
            assert slow.what == "GPU 0 uses PCIe generation 1 while it works, and used 4 before"
            with pytest.raises(ApiError, match="is not over"):
                await incidents.clear(slow.id, ROOT)
            node.be(0, bus=GpuBus(pcie_generation=1), utilization_percent=0)
            await node.look(incidents, 3600.0)
            assert [each.id for each in incidents.all()] == [slow.id], "it cannot be seen to be over"
            assert (await incidents.clear(slow.id, ROOT)).cleared_by == "root"

    asyncio.run(act())


def test_nvlinks_that_come_up_after_the_install_are_remembered_and_missed_when_they_go(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (_, incidents):
            for _ in range(12):
                await node.look(incidents)
            assert [each.nvlinks for each in incidents.inventory()] == [None, None]
            node.be(0, bus=GpuBus(nvlinks_active=18))
            await node.look(incidents)
            node.be(0, bus=GpuBus(nvlinks_active=17))
            await node.look(incidents)
        async with watched(tmp_path, node) as (_, incidents):
            assert [each.nvlinks for each in incidents.inventory()] == [18, None]
            await node.look(incidents)
            await node.look(incidents, 61.0)
            assert [each.what for each in incidents.all()] == ["GPU 0 has 17 NVLinks up, and had 18 at install"]

    asyncio.run(act())


def test_all_gpus_gone_is_one_incident_of_the_node_but_not_before_the_first_reading(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (made, incidents):
            for _ in range(12):
                await node.look(incidents)
            assert len(incidents.inventory()) == 2
            there, node.gpus = node.gpus, node.gpus[:1]
            for _ in range(2):
                await node.look(incidents, 20.0)
            (one,) = incidents.all()
            assert one.gpu_uuid == "GPU-1"
            node.gpus = []
            for _ in range(3):
                await node.look(incidents, 60.0)
            assert incidents.all() == [one], "an agent that starts has not looked yet"
            node.none = "the driver is not loaded"
            for _ in range(3):
                await node.look(incidents, 60.0)
            found, still = incidents.all()
            assert (found.kind, found.gpu_uuid, found.severity) == (IncidentKind.GPU_MISSING, None, Severity.CRITICAL)
            assert found.what == "none of the node's 2 GPUs is there any more: the driver is not loaded"
            assert still == one, "nobody saw that it came back"
            assert drained(made) == []
            node.gpus, node.none = there, None
            for _ in range(2):
                await node.look(incidents, 60.0)
            assert incidents.all() == []

    asyncio.run(act())


def test_a_flood_of_xids_while_the_disk_refuses_is_bounded_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAME_MOST", 10, raising=False)

    async def act() -> None:
        node = Node()
        async with watched(tmp_path, node) as (made, incidents):
            await made._core.store.read(lambda store: store._execute("PRAGMA query_only = 1"))
            for _ in range(3):
                for _ in range(20):
                    incidents.take(Xid(code=31, at=1.0, pci="0000:00:00"))
                incidents.take(GpuEvent(kind=EventKind.ECC, uuid="GPU-1", at=1.0))
                with pytest.raises(StokerError):
                    await node.look(incidents)
            assert len(incidents._told) == 13
            await made._core.store.read(lambda store: store._execute("PRAGMA query_only = 0"))
            await node.look(incidents)
            assert {(each.kind, each.count) for each in incidents.all()} == {
                (IncidentKind.XID, 10), (IncidentKind.ECC, 3),
            }  # fmt: skip
            incidents.take(Xid(code=31, at=1.0, pci="0000:00:00"))
            await node.look(incidents)
            assert 11 in {each.count for each in incidents.all()}, "what is kept makes room"

    asyncio.run(act())
