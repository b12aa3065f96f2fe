"""Notices and their courier over one real store, and jobs to tell of."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.api.types import Job, JobState
from agent.config import Config, HooksTable, load
from agent.engine.courier import Courier
from agent.engine.message import Notice
from agent.engine.notices import Notices
from agent.engine.shelf import Shelf
from agent.engine.storethread import StoreThread


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


def into(folder: Path) -> str:
    """Shell that keeps a notice as a line, in one write: several are delivered at once."""
    return f'body=$(cat); printf "%s\\n" "$body" >> {folder}/told'


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
