"""What the engine does on the store's thread, each a function of the store: one call, one part of a flush.

Rules kept here: a job's folder is on disk before its row counts; what belongs together is one transaction; GPU time is
charged in the transaction that ends it, so that no crash charges a span twice or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.api.types import JobState, SubmitRequest
from agent.config import Config
from agent.engine import charges
from agent.jobs import folder, machine, schedule
from agent.jobs.errors import GpuHeldError, IllegalMoveError, StaleJobError
from agent.jobs.machine import Event
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Whose submission it is, and by which key it is known again."""

    user: str
    uid: int
    key: str
    digest: str
    owner: tuple[int, int] | None
    """uid and gid of the job's files; `None`: the agent's own."""
    cron_id: int | None = None


def claim_all(store: JobStore, starts: Sequence[schedule.Start], rows: Mapping[int, JobRow], now: int) -> list[JobRow]:
    """Store all claims of one pass. A job that changed meanwhile is left out, and only that one."""
    claimed = []
    for start in starts:
        row = rows[start.job_id]
        try:
            with store.transaction():
                claimed.append(
                    store.claim(row.id, attempt=row.status.attempt + 1, gpu_uuids=start.gpu_uuids, now=now)
                )
        except (IllegalMoveError, GpuHeldError) as error:
            logger.info("job=%d is not started: %s", row.id, error)
    return claimed


def apply_events(store: JobStore, config: Config, job_id: int, events: Sequence[Event]) -> JobRow:
    """Let events happen, in order; what they end is charged for in the same breath."""
    now = int(time.time())
    before = row = store.get(job_id)
    for event in events:
        before, row = row, store.apply(job_id, event, now)
        charges.settle(store, config, before, row, now)
        _note_cancel(config, event, before, row, now)
    return row


def apply_each(store: JobStore, config: Config, job_ids: Sequence[int], event: Event) -> list[JobRow]:
    """Let one event happen to many jobs; to those that it cannot happen to it does not.

    Raises:
        IllegalMoveError: it can happen to none of them.
    """
    rows, refused = [], None
    for job_id in job_ids:
        try:
            with store.transaction():
                rows.append(apply_events(store, config, job_id, (event,)))
        except IllegalMoveError as error:
            refused = error
    if refused is not None and not rows:
        raise refused
    return rows


def amend_each(
    store: JobStore, changes: Sequence[tuple[int, int, JobSpec]], event: str, by: str
) -> list[JobRow]:
    """Change what jobs ask for: id, the revision that was looked at, and the new spec of each.

    Raises:
        StaleJobError: none of them is as it was.
    """
    now, rows, stale = int(time.time()), [], None
    for job_id, revision, spec in changes:
        try:
            with store.transaction():
                rows.append(store.amend(job_id, spec, now, event=event, by=by, revision=revision))
        except StaleJobError as error:
            stale = error
    if stale is not None and not rows:
        raise stale
    return rows


def _note_cancel(config: Config, event: Event, before: JobRow, row: JobRow, now: int) -> None:
    """A job cancelled while it waited gets its note, for `reconcile`."""
    if not isinstance(event, machine.CancelAsked) or before.status.state is not JobState.PENDING:
        return
    note = folder.Cancelled(by=event.by, at=now, reason=event.reason)
    folder.write_cancelled(folder.job_dir(config.state_dir, row.id), note)
