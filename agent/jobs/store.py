"""The job store: one SQLite file, the queue and the history at once.

Rules kept here: what a method that writes returned is on disk (WAL, synchronous=FULL) once the outermost `transaction`
is left; one process (locking_mode=EXCLUSIVE) and one thread of it use the store; every write begins with BEGIN
IMMEDIATE; an id is never given out twice, whatever was forgotten; a file that is not sound is moved aside, never used
and never thrown away; what a job becomes is decided by `machine.handle` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.api.types import JobState
from agent.jobs import backup, machine
from agent.jobs.backup import Opened, back_up, backup_path, note_closed, note_settled, open_or_restore
from agent.jobs.database import in_groups, marks
from agent.jobs.errors import (
    GpuHeldError,
    IllegalMoveError,
    ReadOnlyStoreError,
    StaleJobError,
)
from agent.jobs.filters import JobFilter
from agent.jobs.folder import Submission
from agent.jobs.lookup import HOLDING, Lookup
from agent.jobs.machine import Event, Status
from agent.jobs.meter import Meter
from agent.jobs.promises import Promises
from agent.jobs.readonly import open_read_only, refusal
from agent.jobs.row import (
    SPEC_COLUMNS,
    STATUS_COLUMNS,
    JobRow,
    amended,
    columns_of,
    encode_spec,
    new_rows,
    spec_columns,
    status_columns,
)
from agent.jobs.schema import INSERT_JOB, INSERT_SPEC, JOB_MARK, SCHEMA
from agent.jobs.spec import JobSpec
from agent.jobs.usage import Usage

_ADD_EVENT = "INSERT INTO events (job_id, at, event, state, detail) VALUES (?, ?, ?, ?, ?)"


def _assignments(columns: Iterable[str]) -> str:
    return ", ".join(f"{name} = :{name}" for name in columns)


_MOVE = f"UPDATE jobs SET {_assignments(('revision', 'partition', *STATUS_COLUMNS))} WHERE id = :id"  # noqa: S608
_AMEND = f"UPDATE jobs SET {_assignments(('revision', 'eligible_at', *SPEC_COLUMNS))} WHERE id = :id"  # noqa: S608


class JobStore(Lookup, Promises, Usage, Meter):
    """All jobs of one node. Made by `open`; used and closed by the thread that opened it."""

    def __init__(self, path: Path, opened: Opened) -> None:
        super().__init__(opened.connection)
        self._path = path
        self.damaged = opened.damaged
        """Where an unsound file was moved at open."""
        self.restored = opened.restored
        """It is the last verified backup: jobs, reservations, charges as they were then."""
        self.suspect = opened.damaged is not None or opened.restored or opened.wal_lost
        """What the job folders hold may be newer than any row: `reconcile` then looks at all of them."""
        self._settled = not self.suspect

    @classmethod
    def open(cls, path: Path, *, now: int) -> JobStore:
        """Open the store, or the last verified backup in place of a damaged or missing one, or make it.

        Args:
            path: the file, `state_dir/agent.db`.
            now: Unix seconds; part of the name under which a damaged file is kept.

        Raises:
            StoreLockedError: another process has it open; names the pid where that can be told.
            NewerSchemaError: a newer Stoker wrote it; names the backup to go back to.
            StoreError: the file cannot be opened or made.
        """
        return cls(path, open_or_restore(path, SCHEMA, now=now))

    @classmethod
    def open_read_only(cls, path: Path, *, scratch: Path, why: str) -> JobStore:
        """Show what the file holds while its disk takes no writes; whatever would change it is refused.

        Args:
            path: the file, `state_dir/agent.db`.
            scratch: a folder on another disk, with room for it.
            why: what the disk says.

        Raises:
            NewerSchemaError, StoreError: it cannot be shown.
        """
        store = cls(path, open_read_only(path, SCHEMA, scratch))
        store.read_only = refusal(path, why)
        return store

    def close(self) -> None:
        """Give the file back, the WAL played in. The store is unusable afterwards; whoever opens one next that was not
        brought up to the job folders is told to doubt it as well.
        """
        super().close()
        if self.read_only is None and self._settled:
            note_closed(self._path)

    def settle(self) -> None:
        """It was brought up to the job folders: the next start need not doubt it."""
        if not self._settled and self.read_only is None:
            note_settled(self._path)
            self._settled = True

    def back_up(
        self,
        *,
        at_least: int = 0,
        stop: Callable[[], bool] = lambda: False,
        verify: Callable[[Path], int] = lambda path: backup.verify(path, SCHEMA),
    ) -> int:
        """Renew the verified backup beside the file, while the store works: call this on another thread.

        Args:
            at_least: how many jobs it must hold: `sum(counts().values())`, asked just before on the store's thread.
            stop: asked all the time; True gives it up, and must be said before `close`.
            verify: reads a copy whole, and tells how many jobs it holds.

        Returns:
            How many jobs it holds.

        Raises:
            StoreError: the last backup stands; says why.
        """
        if self.read_only is not None:
            raise ReadOnlyStoreError(self.read_only)
        return back_up(self._connection, backup_path(self._path), verify, at_least=at_least, stop=stop)

    # --- writing ------------------------------------------------------------------------------------------------------

    def add(
        self,
        spec: JobSpec,
        *,
        user: str,
        uid: int,
        key: str | None,
        digest: str,
        now: int,
        cron_id: int | None = None,
    ) -> tuple[JobRow, bool]:
        """Take a job in, or all tasks of an array at once. The same key of the same user gives the job made then.

        Args:
            spec: the parsed job.
            user: account that owns it.
            uid: the same as a number; keys are the user's own.
            key: idempotency key; `None` makes a new job each time.
            digest: of the whole request.
            now: Unix seconds.
            cron_id: the recurring job that makes it.

        Returns:
            The job, or the first task of the array (`tasks_of` has them all); and whether it was made now.

        Raises:
            KeyConflictError: the key came before with another digest.
            StoreError: not stored.
        """
        with self.whole():
            seen = self.seen(uid, key, digest)
            if seen is not None:
                return seen, False
            count = len(spec.array.tasks) if spec.array else 1
            first_id = self._count_up(JOB_MARK, count) - count + 1
            rows = new_rows(
                first_id, spec, user=user, uid=uid, key=key, digest=digest, submitted_at=now, cron_id=cron_id
            )
            self._insert(rows)
            return rows[0], True

    def next_id(self) -> int:
        """The number that the next job would get.

        Raises:
            StoreError: the store cannot be read.
        """
        found = self._execute("SELECT value FROM marks WHERE name = ?", (JOB_MARK,)).fetchone()
        return 1 + (int(found[0]) if found else 0)

    def claim(
        self, job_id: int, *, attempt: int, gpu_uuids: Sequence[str], now: int, partition: str | None = None
    ) -> JobRow:
        """Give a waiting job its GPUs. Nothing is launched before this is stored.

        Args:
            job_id: the job.
            attempt: the run that begins.
            gpu_uuids: what it is given.
            now: Unix seconds.
            partition: in which it runs, if it names several.

        Raises:
            GpuHeldError: another job holds one of them; jobs that asked for shards may share theirs.
            NoSuchJobError, IllegalMoveError, StoreError: as `apply`.
        """
        with self.whole():
            row = self.get(job_id)
            if gpu_uuids:
                self._check_free(row, gpu_uuids)
            given = partition if row.names_several else None
            claimed = machine.Claimed(attempt=attempt, gpu_uuids=tuple(gpu_uuids), partition=given)
            return self._handle(row, claimed, now)

    def apply(self, job_id: int, event: Event, now: int, *, revision: int | None = None) -> JobRow:
        """Let an event happen to a job, and keep it in its history.

        Args:
            job_id: the job.
            event: what happened.
            now: Unix seconds.
            revision: of the row the caller decided on; `None` to decide on the present one.

        Raises:
            NoSuchJobError: no job has this id.
            StaleJobError: the row's revision is another one by now.
            IllegalMoveError: the event cannot happen in this state.
            StoreError: not stored.
        """
        with self.whole():
            return self._handle(self._look(job_id, revision), event, now)

    def follow(self, row: JobRow, event: Event, now: int) -> JobRow:
        """As `apply`, to a row that was read in the transaction that is under way, and was not changed in it since.

        Raises:
            IllegalMoveError, StoreError: as `apply`.
        """
        with self.whole():
            return self._handle(row, event, now)

    def amend(
        self, job_id: int, spec: JobSpec, now: int, *, event: str, by: str, revision: int | None = None
    ) -> JobRow:
        """Change what a job asks for. Its folder must tell of it as well: see `ledger`.

        Args:
            job_id: the job.
            spec: all that it asks for from now on.
            now: Unix seconds.
            event: the line in its history: `Held`, `Released`, `Updated`, …
            by: who asked for it.
            revision: as in `apply`.

        Raises:
            NoSuchJobError, StaleJobError, StoreError: as `apply`.
        """
        with self.whole():
            self._look(job_id, revision)
            return self.amend_alike([job_id], spec, now, event=event, by=by)[0]

    def amend_alike(self, job_ids: Collection[int], spec: JobSpec, now: int, *, event: str, by: str) -> list[JobRow]:
        """Change what several jobs ask for to one and the same, which is kept once. See `amend`."""
        with self.whole():
            rows = [self.get(job_id) for job_id in job_ids]
            before, sha256 = self._digests(list(job_ids)), self._keep_spec(spec)
            changed = [amended(row, spec, now) for row in rows]
            for row in changed:
                values = {"id": row.id, "revision": row.revision, "eligible_at": row.eligible_at}
                self._execute(_AMEND, {**values, **spec_columns(row, sha256)})
                self._execute(_ADD_EVENT, (row.id, now, event, row.status.state, f"by {by}" if by else None))
                self._tell(f"job={row.id} {row.status.state} on={event} by={by}")
            self._drop_specs(before - {sha256})
            return changed

    def rebuild(self, submissions: Iterable[Submission]) -> list[JobRow]:
        """Take in again, under their old ids, the jobs that the job folders hold and the store does not.

        They come back as PENDING, as they were submitted; `reconcile` then applies what their folders tell besides.

        Returns:
            Those that were taken in.
        """
        taken = []
        with self.whole():
            known = self.ids()
            for each in submissions:
                if self._by_key(each.uid, each.key) is not None and each.id not in known:
                    continue
                rows = [row for row in each.rows() if row.id not in known]
                self._insert(rows)
                known.update(row.id for row in rows)
                taken += rows
            self._count_to(JOB_MARK, max(known, default=0))
        return taken

    def forget(self, job_ids: Collection[int]) -> int:
        """Drop ended jobs with their history and usage; their ids are not given out again.

        Returns:
            How many were dropped: a job that has not ended stays.

        Raises:
            StoreError: nothing was dropped.
        """
        with self.whole():
            gone = [row for row in self.find(JobFilter(ids=job_ids)) if row.status.state.is_final] if job_ids else []
            digests = self._digests([row.id for row in gone])
            for group in in_groups([row.id for row in gone]):
                for sql in ("jobs WHERE id", "events WHERE job_id", "usage WHERE job_id"):
                    self._execute(f"DELETE FROM {sql} IN ({marks(group)})", group)  # noqa: S608 - own words
            self._drop_specs(digests)
        return len(gone)

    # --- below: SQL ---------------------------------------------------------------------------------------------------

    def _look(self, job_id: int, revision: int | None) -> JobRow:
        row = self.get(job_id)
        if revision is not None and revision != row.revision:
            raise StaleJobError(job_id, row.revision)
        return row

    def _handle(self, row: JobRow, event: Event, now: int) -> JobRow:
        """Let an event happen to a row that was read in this transaction."""
        try:
            status = machine.handle(row.status, event, now)
        except IllegalMoveError as error:
            told = [str(each) for each in self.history(row.id)]
            raise IllegalMoveError(row.status, event, [*error.history, *told]) from None
        return self._move(row, event, status, now)

    def _check_free(self, row: JobRow, gpu_uuids: Sequence[str]) -> None:
        """Refuse GPUs that another job holds, unless both ask for shards of them."""
        wanted = set(gpu_uuids)
        held = f"SELECT id, gpu_uuids FROM jobs WHERE state IN ({marks(HOLDING)})"  # noqa: S608 - own words
        for holder_id, uuids in self._fetch(held, HOLDING):
            if holder_id == row.id or not any(uuid in uuids for uuid in wanted):  # by the text: few are read whole
                continue
            holder = self.get(holder_id)
            taken = wanted.intersection(holder.status.gpu_uuids)
            if taken and not (row.spec.shards and holder.spec.shards):
                raise GpuHeldError(row.id, min(taken), holder.id)

    def _insert(self, rows: Sequence[JobRow]) -> None:
        if not rows:
            return
        first = rows[0]
        sha256 = self._keep_spec(first.spec)
        self._execute_many(INSERT_JOB, columns_of(rows, sha256))
        self._execute_many(
            _ADD_EVENT, ((row.id, row.submitted_at, "Submitted", JobState.PENDING, None) for row in rows)
        )
        tasks = f" tasks={len(rows)}" if first.array_job_id is not None else ""
        self._tell(f"job={first.id}{tasks} -> PENDING user={first.user} gpus={first.spec.gpus}")

    def _move(self, row: JobRow, event: Event, status: Status, now: int) -> JobRow:
        moved = replace(row, status=status, revision=row.revision + 1)
        self._execute(_MOVE, {"id": row.id, "revision": moved.revision, **status_columns(moved)})
        detail = status.detail or (f"attempt {status.attempt}" if status.attempt else None)
        self._execute(_ADD_EVENT, (row.id, now, type(event).__name__, status.state, detail))
        gpus = f" gpus={','.join(status.gpu_uuids)}" if status.gpu_uuids else ""
        self._tell(f"job={row.id} {row.status.state} -> {status.state} on={type(event).__name__}{gpus}")
        return moved

    def _keep_spec(self, spec: JobSpec) -> str:
        body, sha256 = encode_spec(spec)
        self._execute(INSERT_SPEC, (sha256, body))
        return sha256

    def _drop_specs(self, digests: Iterable[str]) -> None:
        """Drop those that no job has any more."""
        sql = "DELETE FROM specs WHERE sha256 = ? AND NOT EXISTS (SELECT 1 FROM jobs WHERE spec_sha256 = ?)"
        for sha256 in digests:
            self._execute(sql, (sha256, sha256))
