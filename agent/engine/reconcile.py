"""Store and job folders brought together at the agent's start: the queue is never silently empty, nor an old one.

The folders are the second truth. A submission that has a folder but no rows (the database was damaged, or its last
pages were lost) is taken in again; a row that is behind its folder (an older database was restored, or the end of the
WAL was lost) is brought up to it: `replay`. After a loss all rows are looked at, else those that have not ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from agent.engine import procs
from agent.engine.replay import Replay
from agent.jobs import ledger, machine
from agent.jobs.errors import FolderError
from agent.jobs.filters import JobFilter
from agent.jobs.folder import Submission, is_unconfirmed, job_dir, read_spec
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore

logger = logging.getLogger(__name__)

_PAGE = 1000


def reconcile(store: JobStore, state_dir: Path, *, damaged: bool, now: int, boot_id: str | None = None) -> int:
    """Take in what the store has lost; how many jobs that were.

    Args:
        store: the opened store.
        state_dir: where the job folders are.
        damaged: the store had to be made anew or restored, see `JobStore.suspect`.
        now: Unix seconds.
        boot_id: of this boot; asked for when left out.
    """
    ledger.keep_promises(store, state_dir, mend=not damaged)
    on_disk = _folders(state_dir)
    replay = Replay(store, state_dir, on_disk, now=now, boot_id=boot_id or procs.boot_id())
    with store.transaction():
        taken = store.rebuild(_submissions(state_dir, on_disk - store.ids()))
        new = {row.id for row in taken}
        behind = 0
        for row in [*store.pending(), *store.active()] if not damaged else _all(store):
            if row.id not in new:
                behind += replay.bring_up(row)
            if damaged and not row.status.state.is_final and _is_gone(job_dir(state_dir, row.folder_id)):
                _give_up(store, row, now)
        for row in taken:
            replay.take_in(row)
    store.settle()
    if taken:
        logger.error("%d jobs were missing from the job store and were taken in again from their folders", len(taken))
    if behind:
        logger.error("%d jobs of the job store were behind their folders and were brought up to them", behind)
    return len(taken)


def _folders(state_dir: Path) -> set[int]:
    folder = state_dir / "jobs"
    if not folder.is_dir():
        return set()
    return {int(each.name) for each in folder.iterdir() if each.name.isdecimal() and each.name.isascii()}


def _submissions(state_dir: Path, ids: set[int]) -> Iterator[Submission]:
    """Those of the folders that hold one; a folder of attempts alone belongs to a task of an array."""
    for job_id in sorted(ids):
        folder = job_dir(state_dir, job_id)
        if not (folder / "spec").exists():
            continue
        try:
            yield read_spec(folder)
        except FolderError as error:
            logger.error("%s; this job cannot be taken in again", error)


def _all(store: JobStore) -> Iterator[JobRow]:
    before: int | None = None
    while page := store.find(JobFilter(before=before, limit=_PAGE)):
        yield from page
        before = page[-1].id


def _is_gone(folder: Path) -> bool:
    """Whether a folder holds no submission, not even one that could not be confirmed: its disk refuses that for now."""
    return not (folder / "spec").exists() and not is_unconfirmed(folder)


def _give_up(store: JobStore, row: JobRow, now: int) -> None:
    """An older database knows a job that has been forgotten since: it cannot run, and must not."""
    store.apply(row.id, machine.CancelAsked(by="stoker", reason="its folder is gone"), now)
