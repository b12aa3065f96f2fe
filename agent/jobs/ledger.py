"""Row and folder together: whatever is asked of a job is stored in both, each function one transaction of the store.

Rules kept here: the folder is written before its row counts, so a lost database is made again from the folders and
knows every job that was answered for, every change of it and every wish (wishes and changes are on disk by then, a
submission is in the store, and on disk a moment later); what the folder holds counts only once the row is committed
(`promises`), so nothing comes back that was refused; done again, each function changes nothing more, or says why it
cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent.api.types import JobState
from agent.jobs import folder, notes
from agent.jobs.errors import ForgottenJobError, IllegalMoveError
from agent.jobs.folder import Submission, job_dir
from agent.jobs.machine import Event, RequeueAsked
from agent.jobs.notes import Note
from agent.jobs.promises import Promise
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore

_RUNNING = (JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING)


def take_in(
    store: JobStore,
    state_dir: Path,
    spec: JobSpec,
    *,
    user: str,
    uid: int,
    key: str | None,
    digest: str,
    now: int,
    env: dict[str, str],
    script: str,
    owner: tuple[int, int] | None = None,
    cron_id: int | None = None,
) -> tuple[JobRow, bool]:
    """Store a submission: a job, or all tasks of an array. See `JobStore.add` and `folder.write_spec`.

    Raises:
        KeyConflictError, StoreError, OSError: nothing was accepted.
    """
    with store.whole():
        row, created = store.add(spec, user=user, uid=uid, key=key, digest=digest, now=now, cron_id=cron_id)
        if created:
            submission = Submission(
                id=row.id,
                user=user,
                uid=uid,
                key=key,
                digest=digest,
                submitted_at=now,
                spec=spec,
                env=env,
                script=script,
                cron_id=cron_id,
            )
            folder.write_spec(job_dir(state_dir, row.id), submission, owner=owner)
            made = Promise(folder_id=row.id, submission=submission, owner=owner)
            store.promise(made, partial(_keep, state_dir))
    return row, created


def apply(
    store: JobStore, state_dir: Path, job_id: int, event: Event, now: int, *, revision: int | None = None
) -> JobRow:
    """Let an event happen to a job; a wish is noted in its folder besides. See `JobStore.apply`.

    Raises:
        NoSuchJobError, StaleJobError, IllegalMoveError, StoreError, OSError: it did not happen.
    """
    with store.transaction():
        before = store.get(job_id)
        _refuse_forgotten(state_dir, before, event)
        row = store.apply(job_id, event, now, revision=revision)
        if notes.noted(event):
            _note(store, state_dir, [before], event, now)
    return row


def apply_each(store: JobStore, state_dir: Path, job_ids: Iterable[int], event: Event, now: int) -> list[JobRow]:
    """Let an event happen to many jobs at once, with one flush of each folder: the tasks of an array.

    Returns:
        The jobs it happened to; one to which it cannot happen is left out.

    Raises:
        NoSuchJobError, StoreError, OSError: it happened to none.
    """
    moved, before = [], []
    with store.transaction():
        for job_id in job_ids:
            row = store.get(job_id)
            _refuse_forgotten(state_dir, row, event)
            try:
                moved.append(store.apply(job_id, event, now))
            except IllegalMoveError:
                continue
            before.append(row)
        if notes.noted(event):
            _note(store, state_dir, before, event, now)
    return moved


def amend(
    store: JobStore,
    state_dir: Path,
    job_id: int,
    spec: JobSpec,
    now: int,
    *,
    event: str,
    by: str,
    revision: int | None = None,
) -> JobRow:
    """Change what a job asks for. See `JobStore.amend`.

    Raises:
        NoSuchJobError, StaleJobError, StoreError, OSError: nothing was changed.
    """
    with store.transaction():
        row = store.amend(job_id, spec, now, event=event, by=by, revision=revision)
        note = Note(at=now, event=event, ids=(job_id,), attempt=row.status.attempt, by=by, spec=spec)
        _write(store, state_dir, row.folder_id, [note])
    return row


def amend_each(
    store: JobStore,
    state_dir: Path,
    job_ids: Iterable[int],
    change: Callable[[JobSpec], JobSpec],
    now: int,
    *,
    event: str,
    by: str,
) -> list[JobRow]:
    """Change many jobs alike: those that asked for the same before share one spec after. The tasks of an array.

    Raises:
        NoSuchJobError, StoreError, OSError: nothing was changed.
    """
    with store.transaction():
        groups: dict[tuple[int, int], list[JobRow]] = {}
        for row in (store.get(job_id) for job_id in job_ids):
            groups.setdefault((row.folder_id, id(row.spec)), []).append(row)
        amended: list[JobRow] = []
        lines: dict[int, list[Note]] = {}
        for (folder_id, _), rows in groups.items():
            spec = change(rows[0].spec)
            amended += store.amend_alike([row.id for row in rows], spec, now, event=event, by=by)
            note = Note(at=now, event=event, ids=tuple(row.id for row in rows), by=by, spec=spec)
            lines.setdefault(folder_id, []).append(note)
        for folder_id, written in lines.items():
            _write(store, state_dir, folder_id, written)
    return amended


def keep_promises(store: JobStore, state_dir: Path, *, mend: bool = True) -> None:
    """After a restart, before anybody looks into the folders: what was stored and not yet said so there.

    Args:
        store: the opened store.
        state_dir: where the folders are.
        mend: write anew what a power cut took of a folder. Not for a store that may be older than the folders: one that
            is not there may belong to a job that was forgotten since, and must not run again.
    """
    store.keep_promises(partial(_mend if mend else _keep, state_dir))


def _refuse_forgotten(state_dir: Path, row: JobRow, event: Event) -> None:
    """A job whose folder went runs no more: its script is gone, and no lost database would know of the wish."""
    if isinstance(event, RequeueAsked) and row.status.state.is_final and not folder.is_there(state_dir, row.folder_id):
        raise ForgottenJobError(row.id)


def _write(store: JobStore, state_dir: Path, folder_id: int, written: Sequence[Note]) -> None:
    """Notes, which count once the transaction is stored."""
    where = job_dir(state_dir, folder_id)
    where.mkdir(mode=0o711, parents=True, exist_ok=True)  # of a job that an older store knows, it may be gone
    places = notes.append(where, written)
    store.promise(Promise(folder_id=folder_id, notes=places), partial(_keep, state_dir))


def _keep(state_dir: Path, made: Promise) -> Path | None:
    where = job_dir(state_dir, made.folder_id)
    if not made.notes:
        folder.confirm(where)
        return where if (where / "spec").exists() else None  # else it was forgotten since
    with suppress(FileNotFoundError):  # it was forgotten since
        notes.confirm(where, made.notes)
    return None


def _mend(state_dir: Path, made: Promise) -> Path | None:
    """As `_keep`, at a start: a power cut may have come before the folder was on the disk.

    Written anew also where it reads well: what the disk has refused stays in the kernel's memory, marked as written,
    until the next boot.
    """
    if made.submission is not None:
        folder.write_spec(job_dir(state_dir, made.folder_id), made.submission, owner=made.owner)
    return _keep(state_dir, made)


def _note(store: JobStore, state_dir: Path, rows: Sequence[JobRow], event: Event, now: int) -> None:
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for row in rows:
        running = row.status.state in _RUNNING
        groups.setdefault((row.folder_id, row.status.attempt, running), []).append(row.id)
    lines: dict[int, list[Note]] = {}
    for (folder_id, attempt, running), ids in groups.items():
        note = Note(
            at=now,
            event=type(event).__name__,
            ids=tuple(ids),
            attempt=attempt,
            running=running,
            by=getattr(event, "by", ""),
            reason=getattr(event, "reason", None),
        )
        lines.setdefault(folder_id, []).append(note)
    for folder_id, written in lines.items():
        _write(store, state_dir, folder_id, written)
