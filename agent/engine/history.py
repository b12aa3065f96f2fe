"""What is known of jobs: lists of them, one job's report, what the tasks of an array tell, logs.

Rules kept here: whatever a job wrote is read as somebody else's (`agent.jobs.contract`), in a thread, with a bound; an
answer never holds up the loop or the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.api.queue import JobEvent, JobStep, JobUsage, UsagePoint
from agent.api.refs import JobRef
from agent.api.types import FINAL_STATES, MAX_SCRIPT_BYTES, Job, JobReport, LogChunk, TaskResult
from agent.engine import logread, stepbook
from agent.engine.accept import as_api_error
from agent.engine.claims import attempt_dir, files_dir
from agent.engine.core import Core
from agent.engine.records import AttemptDir
from agent.jobs import contract
from agent.jobs.filters import JobFilter
from agent.jobs.folder import job_dir
from agent.jobs.row import JobEvent as StoredEvent
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore

RESULTS_MOST = 10_000
"""Tasks of which the results are told at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPieces:
    """See `agent.engine.base.LogSlice`."""

    chunks: tuple[LogChunk, ...]
    end: int
    next: int


class History:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def job(self, ref: JobRef) -> Job:
        """See `Engine.job`."""
        row = await self._core.row(ref)
        size = await asyncio.to_thread(logread.size, self._attempt(row)) if row.status.attempt else None
        usage, _ = await self._usage(row)
        steps = await asyncio.to_thread(_steps, self._core.config.state_dir, [row])
        return self._core.wire(row, log_bytes=size, usage=usage, steps=steps.get(row.id, ()))

    async def jobs(self, wanted: JobFilter, *, steps: bool = False) -> list[Job]:
        """See `Engine.jobs`."""
        with as_api_error():
            rows, usages = await self._core.store.read(_page, wanted)
        told = await asyncio.to_thread(_steps, self._core.config.state_dir, rows) if steps else {}
        resources = self._core.view.resources()
        return [self._core.wire(row, resources, usage=usages.get(row.id), steps=told.get(row.id, ())) for row in rows]

    async def recent(self, ended: int) -> list[Job]:
        """See `Engine.recent`."""
        rows = await self._core.store.read(JobStore.find, JobFilter(states=FINAL_STATES, limit=ended))
        resources = self._core.view.resources()
        return [self._core.wire(row, resources) for row in [*rows, *self._core.jobs]]

    async def report(self, ref: JobRef) -> JobReport:
        """See `Engine.report`."""
        row = await self._core.row(ref)
        with as_api_error():
            events = await self._core.store.read(JobStore.history, row.id)
        usage, curve = await self._usage(row)
        size = await asyncio.to_thread(logread.size, self._attempt(row)) if row.status.attempt else None
        return JobReport(
            job=self._core.wire(row, log_bytes=size, usage=usage),
            wait_s=_wait_s(row, events, time.time()),
            run_s=_run_s(row, time.time()),
            events=tuple(
                JobEvent(at=each.at, event=each.event, state=str(each.state), detail=each.detail) for each in events
            ),
            curve=tuple(curve),
            script=await asyncio.to_thread(_script, job_dir(self._core.config.state_dir, row.folder_id)),
        )

    async def results(self, ref: JobRef) -> list[TaskResult]:
        """See `Engine.results`."""
        rows = (await self._core.rows(ref))[:RESULTS_MOST]
        state_dir = self._core.config.state_dir
        told = await asyncio.to_thread(lambda: [_told(files_dir(state_dir, row.id)) for row in rows])
        resources = self._core.view.resources()
        return [
            TaskResult(job=self._core.wire(row, resources), metrics=each.metrics, progress=each.progress)
            for row, each in zip(rows, told, strict=True)
        ]

    async def read_log(
        self, ref: JobRef, offset: int, limit: int, *, since: int | None = None, grep: bytes | None = None
    ) -> LogPieces:
        """See `Engine.read_log`."""
        row = await self._core.row(ref)
        if not row.status.attempt:
            return LogPieces(chunks=(), end=0, next=offset)
        ended = row.status.state.is_final
        return await asyncio.to_thread(_read_log, self._attempt(row), offset, limit, since, grep, ended)

    async def _usage(self, row: JobRow) -> tuple[JobUsage | None, Sequence[UsagePoint]]:
        """Of a job that has not ended, what is measured now; else what was kept."""
        live = self._core.live_usage(row.id)
        if live is not None:
            return live
        if not row.status.attempt:
            return None, ()
        with as_api_error():
            kept = await self._core.store.read(JobStore.usage_of, row.id)
        return kept or (None, ())

    def _attempt(self, row: JobRow) -> AttemptDir:
        return attempt_dir(self._core.config.state_dir, row.id, row.status.attempt)


def _page(store: JobStore, wanted: JobFilter) -> tuple[list[JobRow], dict[int, JobUsage]]:
    rows = store.find(wanted)
    return rows, store.usages_of([row.id for row in rows if row.status.attempt])


def _steps(state_dir: Path, rows: Sequence[JobRow]) -> dict[int, Sequence[JobStep]]:
    """In a thread: what `srun` started in each job's last attempt."""
    return {
        row.id: stepbook.read(files_dir(state_dir, row.id), row.status.attempt) for row in rows if row.status.attempt
    }


def _wait_s(row: JobRow, events: Sequence[StoredEvent], now: float) -> float:
    """From the submit, or `--begin` when later, to the first start, or until now."""
    begins = max(row.submitted_at, row.spec.begin_at or 0)
    first = next((each.at for each in events if each.event == "Started"), None)
    last = row.status.ended_at if row.status.state.is_final else now
    return max(0.0, (first if first is not None else last or now) - begins)


def _run_s(row: JobRow, now: float) -> float:
    """Of the attempt that ran last."""
    if row.status.started_at is None:
        return 0.0
    return max(0.0, (row.status.ended_at or now) - row.status.started_at)


def _script(folder: Path) -> str | None:
    try:
        with (folder / "script").open("rb") as file:
            return file.read(MAX_SCRIPT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What a job's own files say."""

    metrics: dict[str, float | str | bool | None]
    progress: float | None


def _told(files: Path) -> _Told:
    """`result.json`'s numbers if it wrote any, else the last line of `metrics.jsonl`."""
    result, progress = contract.read_result(files), contract.read_progress(files)
    metrics: dict[str, float | str | bool | None] = {}
    if result is not None:
        metrics = {name.removeprefix("metrics."): number for name, number in result.numbers.items()}
    if not metrics:
        last = contract.last_metrics(files)
        metrics = dict(last[-1].numbers) if last else {}
    done = 1.0 if result is not None and result.state == "done" else None
    if done is None and progress is not None and progress.total:
        done = min(1.0, progress.step / progress.total)
    return _Told(metrics=metrics, progress=done)


def _read_log(
    attempt: AttemptDir, offset: int, limit: int, since: int | None, grep: bytes | None, ended: bool
) -> LogPieces:
    """In a thread: a disk that hangs must not hang the loop."""
    if since is not None:
        offset = max(offset, logread.offset_since(attempt, since))
    if grep is None:
        pieces = logread.read(attempt, offset, limit)
        next_ = pieces[-1].end if pieces else offset
    else:
        found = logread.grep(attempt, grep, offset, limit, ended=ended)
        pieces, next_ = found.lines, found.end
    chunks = tuple(LogChunk(offset=piece.offset, data=piece.data) for piece in pieces)
    return LogPieces(chunks=chunks, end=logread.size(attempt), next=next_)
