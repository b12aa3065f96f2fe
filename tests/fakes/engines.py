"""The embedded engine as tests use it: real store, shims and child processes; only the GPUs are made up.

async with engine(make_config(tmp_path)) as made:
    job = await submit(made, "sleep 1", "--gpus=1")
    await until(made, job.id, ended)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agent import config as configuration
from agent.api.refs import JobRef
from agent.api.types import CancelRequest, Job, JobState, SubmitRequest
from agent.engine.accept import Resources, ResourceView
from agent.engine.accounts import Readings
from agent.engine.base import Asker
from agent.engine.embedded import EmbeddedEngine
from agent.engine.launch import ForkLauncher, Launcher
from agent.jobs.schedule import GpuFacts
from agent.telemetry.host import read_boot_id

DEADLINE_S = 60.0


@dataclass
class Gpus:
    """A node's facts, as a test wants them."""

    count: int = 2
    cpu_count: int = 4
    memory_total_bytes: int = 2**34
    licence_hold: str | None = None
    ill: set[int] = field(default_factory=set)
    held: frozenset[str] = frozenset()

    def resources(self) -> Resources:
        facts = (
            GpuFacts(uuid=f"GPU-{i}", index=i, name="Test GPU", healthy=i not in self.ill) for i in range(self.count)
        )
        return Resources(
            gpus=tuple(facts),
            no_gpus="there is no driver" if not self.count else None,
            simulated=False,
            cpu_count=self.cpu_count,
            memory_total_bytes=self.memory_total_bytes,
            licence_hold=self.licence_hold,
        )

    def hold(self, uuids: Collection[str]) -> None:
        self.held = frozenset(uuids)


def make_config(tmp_path: Path, *, tables: dict[str, Any] | None = None, **jobs: Any) -> configuration.Config:
    """The defaults, with `jobs` of the table of that name and other `tables` in place."""
    made = configuration.load(None, environ={"HOME": "/tmp"})  # a socket path has to be short; nobody listens there
    return msgspec.structs.replace(
        made,
        state_dir=tmp_path / "state",
        allow_root_jobs=True,
        name="n1",
        jobs=msgspec.structs.replace(made.jobs, **{"grace_s": 1, **jobs}),
        **(tables or {}),
    )


@dataclass
class Clock:
    """The engine's: as far ahead of the machine's as a test has set it. What jobs tell of themselves is by the latter.

    Stored times are whole seconds: whoever wants some to have passed moves the clock and need not wait.
    """

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@asynccontextmanager
async def engine(
    config: configuration.Config,
    view: ResourceView | None = None,
    launcher: Launcher | None = None,
    *,
    clock: Callable[[], float] = time.time,
    gpus: Readings | None = None,
) -> AsyncIterator[EmbeddedEngine]:
    config.state_dir.mkdir(parents=True, exist_ok=True)
    made = EmbeddedEngine(
        config,
        view=view or Gpus(),
        launcher=launcher or ForkLauncher(),
        boot_id=read_boot_id(),
        clock=clock,
        gpus=gpus,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def submit(
    made: EmbeddedEngine,
    script: str,
    *flags: str,
    key: str | None = None,
    user: str = "me",
    admin: bool = True,
    sweep: dict[str, tuple[str, ...]] | None = None,
) -> Job:
    request = SubmitRequest(
        script=f"#!/bin/sh\n{script}\n",
        script_name="job.sh",
        flags=("--output=/dev/null", *flags),
        work_dir="/",
        env={"PATH": os.environ["PATH"]},
        sweep=sweep or {},
    )
    key = key or f"key-{time.monotonic_ns()}"
    job, _ = await made.submit(request, user=user, uid=os.geteuid(), key=key, admin=admin)
    return job


def ref(job: Job) -> JobRef:
    return JobRef(id=job.id)


def who(name: str = "me", *, admin: bool = True) -> Asker:
    return Asker(user=name, uid=os.geteuid(), admin=admin)


async def until(made: EmbeddedEngine, job_id: int, right: Callable[[Job], bool]) -> Job:
    """The job once it is as wanted: told by the engine, not asked for again and again."""
    told: asyncio.Queue[Job] = asyncio.Queue()
    made.listen(told.put_nowait)
    job = await made.job(JobRef(id=job_id))
    async with asyncio.timeout(DEADLINE_S):
        while not right(job):
            heard = await told.get()
            job = heard if heard.id == job_id else job
    return job


def ended(job: Job) -> bool:
    return job.state.is_final


def running(job: Job) -> bool:
    return job.state is JobState.RUNNING


async def begin(made: EmbeddedEngine, script: str, *flags: str, user: str = "me") -> Job:
    """A job that runs."""
    return await until(made, (await submit(made, script, *flags, user=user)).id, running)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await test()

    asyncio.run(bounded())


def waiting(job: Job) -> bool:
    """It waits, and the queue has said why."""
    return job.state is JobState.PENDING and job.reason is not None


def told(word: str) -> Callable[[Job], bool]:
    """It waits for that."""
    return lambda job: job.state is JobState.PENDING and job.reason == word


async def eventually(made: EmbeddedEngine, job_id: int, right: Callable[[Job], bool]) -> Job:
    """The job once it is as wanted, asked for again and again: for what watchers are not told of at once."""
    async with asyncio.timeout(DEADLINE_S):
        while not right(job := await look(made, job_id)):
            made.wake()
            await asyncio.sleep(0.05)
    return job


async def exists(path: Path) -> None:
    """Until a job, which is another process, has made the file: nothing of ours is told of it."""
    async with asyncio.timeout(DEADLINE_S):
        while not path.exists():
            await asyncio.sleep(0.02)


async def look(made: EmbeddedEngine, job_id: int) -> Job:
    return await made.job(JobRef(id=job_id))


async def cancel(made: EmbeddedEngine, job_id: int) -> Job:
    return await made.cancel(JobRef(id=job_id), who(), CancelRequest())


async def crash(made: EmbeddedEngine) -> None:
    """As `kill -9` leaves it, as far as one process can: every task cut where it stands, nothing brought to an end."""
    tasks = [each for each in asyncio.all_tasks() if each is not asyncio.current_task() and _is_engines(each)]
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _is_engines(task: asyncio.Task[Any]) -> bool:
    return task.get_name().startswith(("job-", "stop-", "queue", "fair-share", "backup", "retention", "watch-"))


class Gate:
    """One job after the other waits until it is let go: `script` reads a fifo that `open` writes to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.mkfifo(path)
        self.script = f"read x < {path}"

    async def open(self) -> None:
        """Let one job go that waits here."""
        await asyncio.to_thread(self._path.write_text, "\n")
