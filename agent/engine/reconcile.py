"""Store and job folders brought together at the agent's start: the queue is never silently empty.

The folders are the second truth. A job that has a folder but no row (the database was damaged, or its last pages were
lost) is taken in again from its `spec`, and what its attempts' records say is applied as if it had just happened.
"""

from __future__ import annotations

import logging
from pathlib import Path

from agent.engine.claims import attempt_dir
from agent.engine.records import AttemptDir, RecordError
from agent.jobs import machine
from agent.jobs.errors import FolderError
from agent.jobs.folder import Submission, job_dir, read_cancelled, submissions
from agent.jobs.store import JobStore

logger = logging.getLogger(__name__)

_GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


def reconcile(store: JobStore, state_dir: Path, *, damaged: bool, now: int) -> int:
    """Take in what the store has lost; how many jobs that were.

    Args:
        store: the opened store.
        state_dir: where the job folders are.
        damaged: the store had to be made anew.
        now: Unix seconds.
    """
    if not damaged and not _folders_without_row(store, state_dir):
        return 0
    found = []
    for each in submissions(state_dir):
        if isinstance(each, FolderError):
            logger.error("%s; this job cannot be taken in again", each)
        else:
            found.append(each)
    with store.transaction():
        known = {row.id for row in store.find()}
        lost = [each for each in found if each.id not in known]
        store.rebuild(lost)
        taken = {row.id for row in store.find()} - known
        for submission in lost:
            if submission.id in taken:
                _replay(store, state_dir, submission, now)
    if taken:
        logger.error("%d jobs were missing from the job store and were taken in again from their folders", len(taken))
    return len(taken)


def _folders_without_row(store: JobStore, state_dir: Path) -> bool:
    folder = state_dir / "jobs"
    if not folder.is_dir():
        return False
    ids = sum(each.name.isdecimal() and (each / "spec").exists() for each in folder.iterdir())
    return ids > sum(store.counts().values())


def _replay(store: JobStore, state_dir: Path, submission: Submission, now: int) -> None:
    """Bring a job that was taken in again to where its records say it is; the engine then follows it as usual."""
    cancelled = read_cancelled(job_dir(state_dir, submission.id))
    if cancelled is not None:
        store.apply(submission.id, machine.CancelAsked(by=cancelled.by, reason=cancelled.reason), cancelled.at)
        return
    attempt = _last_attempt(state_dir, submission.id)
    if attempt is None:
        return
    try:
        claim, stop = attempt.read_claim(), attempt.read_stop()
    except RecordError as error:
        logger.error("%s", error)
        return
    if claim is None:
        return
    uuids = tuple(uuid for uuid in claim.env.get(_GPU_VARIABLE, "").split(",") if uuid)
    store.apply(submission.id, machine.Claimed(attempt=attempt.attempt, gpu_uuids=uuids), now)
    if stop is not None and stop.why == "cancel":
        store.apply(submission.id, machine.CancelAsked(by=stop.by), now)


def _last_attempt(state_dir: Path, job_id: int) -> AttemptDir | None:
    numbers = [int(each.name) for each in job_dir(state_dir, job_id).iterdir() if each.name.isdecimal()]
    return attempt_dir(state_dir, job_id, max(numbers)) if numbers else None
