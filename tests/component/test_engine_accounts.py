"""Accounts, the idle reaper and the memory watch in a real engine: real jobs under real shims, a real store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.api.refs import JobRef
from agent.api.types import CancelRequest, GpuProcess, GpuReading, JobReport, JobState
from agent.config import Config, ReaperTable
from agent.engine import accounts, oversight
from agent.engine.accept import Resources
from agent.engine.accounts import KIND, KeptAccount
from agent.engine.embedded import EmbeddedEngine
from agent.jobs.schedule import GpuFacts
from agent.jobs.store import JobStore
from tests.fakes.engines import DEADLINE_S, engine, make_config, submit, who

GIB = 1024**3
ME = who()


@dataclass
class Node:
    """A node's two GPUs, as a test wants them read."""

    utilization_percent: int | None = 80
    pid_file: Path | None = None
    """Holds the pid of a process that is on the first GPU, with `used_bytes`."""
    used_bytes: int = GIB
    held: frozenset[str] = field(default_factory=frozenset)

    def resources(self) -> Resources:
        return Resources(
            gpus=tuple(GpuFacts(uuid=f"GPU-{index}", index=index, name="Test GPU", shards=4) for index in range(2)),
            no_gpus=None,
            simulated=False,
            cpu_count=8,
            memory_total_bytes=2**34,
            licence_hold=None,
        )

    def hold(self, uuids: Collection[str]) -> None:
        self.held = frozenset(uuids)

    def silent_s(self) -> float:
        return 0.0

    def none_found(self) -> str | None:
        return None

    def readings(self) -> Sequence[GpuReading]:
        return [
            GpuReading(
                index=index,
                uuid=f"GPU-{index}",
                name="Test GPU",
                sampled_at=time.time(),
                utilization_percent=self.utilization_percent,
                memory_total_bytes=80 * GIB,
                memory_used_bytes=8 * GIB,
                power_mw=500_000,
                energy_mj=int(time.monotonic() * 500_000),
                processes=self._processes() if index == 0 else (),
            )
            for index in range(2)
        ]

    def _processes(self) -> tuple[GpuProcess, ...]:
        try:
            pid = int(self.pid_file.read_text()) if self.pid_file is not None else 0
        except (OSError, ValueError):
            return ()
        return (GpuProcess(pid=pid, memory_used_bytes=self.used_bytes),)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beats of a second, at which nothing else is timed."""
    monkeypatch.setattr(accounts, "STEP_S", 0.05)
    monkeypatch.setattr(accounts, "SURVEY_S", 0.05)
    monkeypatch.setattr(oversight, "STEP_S", 0.05)


def measuring(config: Config, node: Node) -> AbstractAsyncContextManager[EmbeddedEngine]:
    return engine(config, node, gpus=node)


async def until(made: EmbeddedEngine, job_id: int, right: Callable[[JobReport], bool]) -> JobReport:
    """The job's report once it is as wanted."""
    async with asyncio.timeout(DEADLINE_S):
        while not right(report := await made.report(JobRef(id=job_id))):
            await asyncio.sleep(0.05)
    return report


def measured(seconds: float) -> Callable[[JobReport], bool]:
    return lambda report: report.job.usage is not None and report.job.usage.gpu_seconds >= seconds


def ended(report: JobReport) -> bool:
    return report.job.state.is_final and report.job.usage is not None


def _has_worked(report: JobReport) -> bool:
    usage = report.job.usage
    return report.job.state is JobState.RUNNING and usage is not None and bool(usage.cpu_seconds)


def test_a_running_job_tells_its_account_and_an_ended_one_keeps_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        config, node = make_config(tmp_path), Node()
        async with measuring(config, node) as made:
            job_id = (await submit(made, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 60", "--gpus=2")).id
            await until(made, job_id, lambda report: measured(0.6)(report) and _has_worked(report))
            await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            report = await until(made, job_id, ended)
        async with measuring(config, node) as made:
            kept = await made.report(JobRef(id=job_id))
        usage = kept.job.usage
        assert usage is not None
        assert usage == report.job.usage
        assert usage.gpu_seconds >= 0.6
        assert usage.utilization_percent == 80
        assert usage.memory_peak_bytes == 16 * GIB
        assert usage.energy_kwh == pytest.approx(usage.gpu_seconds * 500 / 3.6e6, rel=0.3, abs=2e-5)
        assert (usage.cpu_seconds or 0) > 0
        assert (usage.host_memory_peak_bytes or 0) > 100_000
        assert kept.curve
        assert kept.curve[0].utilization_percent == 80

    asyncio.run(scenario())


def test_an_account_goes_on_over_a_restart_of_the_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        config, node = make_config(tmp_path), Node()
        async with measuring(config, node) as made:
            job_id = (await submit(made, "sleep 60", "--gpus=1")).id
            before = (await until(made, job_id, measured(0.3))).job.usage
        node.utilization_percent = 20
        async with measuring(config, node) as made:
            after = (await until(made, job_id, measured(0.8))).job.usage
            await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            await until(made, job_id, ended)
            told = (await made.recent(5))[0].usage
            kept = await made._core.store.read(JobStore.all, KIND, KeptAccount)
        assert told is None or told.gpu_seconds >= 0.8
        assert before is not None
        assert after is not None
        assert after.gpu_busy_seconds >= before.gpu_busy_seconds
        assert 20 < (after.utilization_percent or 0) < 80
        assert kept == {}  # an ended job has its account in its own place

    asyncio.run(scenario())


def test_a_damaged_account_begins_anew_and_the_agent_starts(tmp_path: Path) -> None:
    async def scenario() -> None:
        config, node = make_config(tmp_path), Node()
        async with measuring(config, node) as made:
            job_id = (await submit(made, "sleep 60", "--gpus=1")).id
            await until(made, job_id, measured(0.1))
        store = JobStore.open(config.state_dir / "agent.db", now=0)
        store.put(KIND, job_id, KeptAccount(attempt=1, account=b"\x00{"))
        store.put(KIND, 4711, KeptAccount(attempt=1, account=b"of nobody"))
        store.close()
        async with measuring(config, node) as made:
            await until(made, job_id, measured(0.1))
            kept = await made._core.store.read(JobStore.all, KIND, KeptAccount)
            assert "4711" not in kept
            await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            await until(made, job_id, ended)

    asyncio.run(scenario())


def test_a_requeued_job_adds_to_its_account(tmp_path: Path) -> None:
    async def scenario() -> None:
        from agent.api.queue import RequeueRequest

        async with measuring(make_config(tmp_path), Node()) as made:
            job_id = (await submit(made, "sleep 60", "--gpus=1", "--requeue")).id
            first = (await until(made, job_id, measured(0.3))).job.usage
            await made.requeue(JobRef(id=job_id), ME, RequeueRequest())
            again = await until(made, job_id, lambda report: report.job.attempt == 2 and measured(0.5)(report))
            assert first is not None
            assert again.job.usage is not None
            assert again.job.usage.gpu_busy_seconds >= first.gpu_busy_seconds
            await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            await until(made, job_id, ended)

    asyncio.run(scenario())


def test_an_idle_job_is_warned_then_stopped_and_its_history_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = make_config(tmp_path, tables={"reaper": ReaperTable(idle_s=1, grace_s=1, exempt_qos=("long",))})
        async with measuring(config, Node(utilization_percent=1)) as made:
            idle = (await submit(made, "sleep 60", "--gpus=1")).id
            cpu_only = (await submit(made, "sleep 60")).id
            report = await until(made, idle, ended)
            assert report.job.state is JobState.CANCELLED
            told = [f"{each.event} {each.detail}" for each in report.events]
            assert any("IdleWarned" in line and "stopped in 1 s" in line for line in told), told
            assert any("still after the warning" in line and "stoker" in line for line in told), told
            assert (await made.job(JobRef(id=cpu_only))).state is JobState.RUNNING
            await made.cancel(JobRef(id=cpu_only), ME, CancelRequest())

    asyncio.run(scenario())


@pytest.mark.parametrize("offset_s", [86_400, -3600])
def test_row_29_a_clock_that_is_set_after_the_warning_costs_nobody_the_grace(
    tmp_path: Path, offset_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        config = make_config(tmp_path, tables={"reaper": ReaperTable(idle_s=1, grace_s=600)})
        node, real = Node(utilization_percent=0), time.time
        async with measuring(config, node) as made:
            job_id = (await submit(made, "sleep 60", "--gpus=1")).id
            await until(made, job_id, lambda report: any(each.event == "IdleWarned" for each in report.events))
            monkeypatch.setattr(time, "time", lambda: real() + offset_s)
            before = (await made.report(JobRef(id=job_id))).job.usage
            assert before is not None
            await until(made, job_id, measured(before.gpu_seconds + 0.5))  # ten looks of the oversight later
            assert (await made.job(JobRef(id=job_id))).state is JobState.RUNNING
            await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            await until(made, job_id, ended)

    asyncio.run(scenario())


def test_a_warned_job_that_works_again_is_let_be_and_a_warning_is_remembered(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = make_config(tmp_path, tables={"reaper": ReaperTable(idle_s=1, grace_s=600)})
        node = Node(utilization_percent=0)
        async with measuring(config, node) as made:
            job_id = (await submit(made, "sleep 60", "--gpus=1")).id
            await until(made, job_id, lambda report: any(each.event == "IdleWarned" for each in report.events))
        async with measuring(config, node) as made:
            await until(made, job_id, measured(0.2))
            node.utilization_percent = 90
            report = await until(made, job_id, lambda report: report.events[-1].event == "IdleLifted")
            assert [each.event for each in report.events].count("IdleWarned") == 1
            assert report.job.state is JobState.RUNNING
            await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            await until(made, job_id, ended)

    asyncio.run(scenario())


@pytest.mark.parametrize(("policy", "state"), [("warn", JobState.RUNNING), ("stop", JobState.CANCELLED)])
def test_a_job_above_its_shards_is_warned_once_or_stopped(tmp_path: Path, policy: str, state: JobState) -> None:
    async def scenario() -> None:
        config = make_config(tmp_path, shard_memory=policy)
        node = Node(pid_file=tmp_path / "pid", used_bytes=30 * GIB)
        async with measuring(config, node) as made:
            job_id = (await submit(made, f"echo $$ > {tmp_path}/pid; sleep 60", "--gres=shard:1")).id
            if policy == "stop":
                report = await until(made, job_id, ended)
                assert "30.0 GiB of GPU 0" in str(report.events) + str(report.job.detail)
            else:
                await until(made, job_id, lambda report: any(each.event == "OverShare" for each in report.events))
                report = await until(made, job_id, measured(1.0))
                (line,) = [each for each in report.events if each.event == "OverShare"]
                assert "its 1 of 4 shards are 20.0 GiB" in (line.detail or "")
                await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            assert report.job.state is state

    asyncio.run(scenario())


def test_a_disk_that_refuses_costs_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.jobs.errors import StoreError

    refusing = True
    put = JobStore.put_usage

    def put_usage(self: JobStore, *args: object) -> None:
        if refusing:
            raise StoreError("the disk is full")
        put(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(JobStore, "put_usage", put_usage)

    async def scenario() -> None:
        nonlocal refusing
        async with measuring(make_config(tmp_path), Node()) as made:
            job_id = (await submit(made, "sleep 60", "--gpus=1")).id
            await until(made, job_id, measured(0.2))
            await made.cancel(JobRef(id=job_id), ME, CancelRequest())
            seen = (await until(made, job_id, ended)).job.usage
            refusing = False

            async def kept() -> bool:
                return await made._core.store.read(JobStore.usage_of, job_id) is not None

            async with asyncio.timeout(DEADLINE_S):
                while not await kept():
                    await asyncio.sleep(0.05)
            assert (await made.job(JobRef(id=job_id))).usage == seen

    asyncio.run(scenario())
