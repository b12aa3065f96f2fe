"""What the engine does on the store's thread, each a function of the store: one call, one flush.

Rules kept here: a job's folder is on disk before its row counts; a claim is stored before its file is written; what
belongs together is one transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from agent.api.types import JobState, SubmitRequest
from agent.config import Config
from agent.engine.claims import GpuDevice, Grant, JobAccount, build_claim, make_files_dir
from agent.engine.records import AttemptDir
from agent.jobs import folder, machine, schedule
from agent.jobs.errors import GpuHeldError, IllegalMoveError
from agent.jobs.machine import Event
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore

logger = logging.getLogger(__name__)


def store_submission(
    store: JobStore,
    config: Config,
    spec: JobSpec,
    request: SubmitRequest,
    user: str,
    uid: int,
    key: str,
    digest: str,
    owner: tuple[int, int] | None,
) -> tuple[JobRow, bool]:
    """Row and folder together: the folder is named by the row's id, and must be on disk before the row counts."""
    now = int(time.time())
    with store.transaction():
        row, created = store.add(spec, user=user, uid=uid, key=key, digest=digest, now=now)
        if created:
            submission = folder.Submission(
                id=row.id, user=user, uid=uid, key=key, digest=digest, submitted_at=now, spec=spec, env=request.env
            )
            folder.write_spec(folder.job_dir(config.state_dir, row.id), submission, request.script, owner=owner)
    return row, created


def claim_all(store: JobStore, starts: Sequence[schedule.Start], rows: Mapping[int, JobRow], now: int) -> list[JobRow]:
    """Store all claims of one pass with one flush. A job cancelled meanwhile is left out, and only that one."""
    claimed = []
    with store.transaction():
        for start in starts:
            attempt = rows[start.job_id].status.attempt + 1
            try:
                with store.transaction():
                    claimed.append(store.claim(start.job_id, attempt=attempt, gpu_uuids=start.gpu_uuids, now=now))
            except (IllegalMoveError, GpuHeldError) as error:
                logger.info("job=%d is not started: %s", start.job_id, error)
    return claimed


def apply_event(store: JobStore, config: Config, job_id: int, event: Event) -> JobRow:
    """Let an event happen; a job cancelled while it waited gets its note in the same breath, for `reconcile`."""
    now = int(time.time())
    with store.transaction():
        row = store.apply(job_id, event, now)
        if isinstance(event, machine.CancelAsked) and row.status.state is JobState.CANCELLED:
            note = folder.Cancelled(by=event.by, at=now, reason=event.reason)
            folder.write_cancelled(folder.job_dir(config.state_dir, job_id), note)
    return row


def prepare(
    _: JobStore,
    config: Config,
    row: JobRow,
    account: JobAccount,
    attempt: AttemptDir,
    indexes: Mapping[str, int],
) -> None:
    """Write the claim, unless an earlier agent did: a relaunch must not change what a late shim would read."""
    if attempt.read_claim() is not None:
        return
    submission = folder.read_spec(folder.job_dir(config.state_dir, row.id))
    gpus = [GpuDevice(uuid=uuid, index=indexes.get(uuid, -1), minor=None) for uuid in row.status.gpu_uuids]
    make_files_dir(config, row, account)
    attempt.create(build_claim(config, row, account, submission.env, Grant(gpus=gpus, at=int(time.time()))))
