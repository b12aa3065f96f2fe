"""What the engine does on the store's thread, each a function of the store: one call, one part of a flush.

Rules kept here: row and folder are changed together (`agent.jobs.ledger`); GPU time is charged in the transaction that
ends it, so that no crash charges a span twice or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from agent.api.types import JobState, SubmitRequest
from agent.config import Config
from agent.engine import charges, metering
from agent.engine.accept import Resources
from agent.jobs import ledger, machine, notes, schedule
from agent.jobs.errors import GpuHeldError, IllegalMoveError, NoSuchJobError
from agent.jobs.machine import Event
from agent.jobs.row import JobRow, new_rows
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


def store_submission(
    store: JobStore, config: Config, spec: JobSpec, request: SubmitRequest, who: Submitter
) -> tuple[list[JobRow], bool]:
    """Row and folder together, for a job or all tasks of an array."""
    row, created = ledger.take_in(
        store,
        config.state_dir,
        spec,
        user=who.user,
        uid=who.uid,
        key=who.key,
        digest=who.digest,
        now=int(time.time()),
        env=request.env,
        script=request.script,
        owner=who.owner,
        cron_id=who.cron_id,
    )
    if not created or row.array_job_id is None:
        return [row], created
    # Made again and not read back: of ten thousand tasks that was a third of the whole.
    rows = new_rows(
        row.id,
        spec,
        user=who.user,
        uid=who.uid,
        key=who.key,
        digest=who.digest,
        submitted_at=row.submitted_at,
        cron_id=who.cron_id,
    )
    return sorted(rows, key=lambda task: task.array_task_id or 0), True


def unknown_ids(store: JobStore, ids: Sequence[int]) -> list[int]:
    """Those that no job has."""
    unknown = []
    for job_id in ids:
        try:
            store.get(job_id)
        except NoSuchJobError:
            unknown.append(job_id)
    return unknown


def claim_all(store: JobStore, starts: Sequence[schedule.Start], rows: Mapping[int, JobRow], now: int) -> list[JobRow]:
    """Store all claims of one pass. A job that changed meanwhile is left out, and only that one."""
    claimed = []
    for start in starts:
        row = rows[start.job_id]
        attempt, where = row.status.attempt + 1, start.partition
        try:  # no part of its own: it is refused before anything is written
            claimed.append(store.claim(row.id, attempt=attempt, gpu_uuids=start.gpu_uuids, now=now, partition=where))
        except (IllegalMoveError, GpuHeldError) as error:
            logger.info("job=%d is not started: %s", row.id, error)
    metering.mark(store, claimed)
    return claimed


def apply_events(
    store: JobStore, config: Config, job_id: int, events: Sequence[Event], resources: Resources | None = None
) -> JobRow:
    """Let events happen, in order; what they end is charged for in the same breath, and what they begin is metered."""
    now = int(time.time())
    row = store.get(job_id)
    for event in events:
        if notes.noted(event):
            before, row = row, ledger.apply(store, config.state_dir, job_id, event, now)
        else:  # the records of the run tell of it: nothing to note, and half the reading
            before, row = row, store.follow(row, event, now)
        charges.settle(store, config, event, before, row, now)
        metering.settle(store, config, resources, event, before, row)
        waits = row.status.state is JobState.PENDING
        if waits and isinstance(event, machine.PrologFailed):  # an admin has to look at the node first, as with Slurm
            row = _hold_for_admin(store, config, row, now)
    return row


def _hold_for_admin(store: JobStore, config: Config, row: JobRow, now: int) -> JobRow:
    spec = replace(row.spec, held="admin")
    return ledger.amend(store, config.state_dir, row.id, spec, now, event="Held", by="stoker")


def apply_each(store: JobStore, config: Config, job_ids: Sequence[int], event: Event) -> list[JobRow]:
    """Let one wish happen to many jobs; to those that it cannot happen to it does not.

    Raises:
        IllegalMoveError: it can happen to none of them.
    """
    if len(job_ids) == 1:
        return [apply_events(store, config, job_ids[0], (event,))]
    return ledger.apply_each(store, config.state_dir, job_ids, event, int(time.time()))


def amend_one(
    store: JobStore, config: Config, job_id: int, spec: JobSpec, event: str, by: str, revision: int | None
) -> JobRow:
    """Change what a job asks for.

    Raises:
        StaleJobError: it is not as it was.
    """
    now = int(time.time())
    return ledger.amend(store, config.state_dir, job_id, spec, now, event=event, by=by, revision=revision)


def amend_each(
    store: JobStore,
    config: Config,
    job_ids: Sequence[int],
    change: Callable[[JobSpec], JobSpec],
    event: str,
    by: str,
    waiting: bool,
) -> list[JobRow]:
    """Change what many jobs ask for, alike. With `waiting` one that has begun or ended meanwhile is left out."""
    meant = [each for each in job_ids if not waiting or machine.waits(store.get(each).status)]
    now = int(time.time())
    return ledger.amend_each(store, config.state_dir, meant, change, now, event=event, by=by) if meant else []
