"""The job store: one SQLite file, the queue and the history at once.

Rules kept here: what `add` or `apply` returned is on disk (WAL, synchronous=FULL) once the outermost `transaction` is
left; one process (locking_mode=EXCLUSIVE) and one thread of it use the store; every write begins with BEGIN IMMEDIATE;
a row is never deleted and an id never given out twice; a file that is not sound is moved aside, never used and never
thrown away; what a job becomes is decided by `machine.handle` alone.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.api.types import JobState
from agent.jobs import machine
from agent.jobs.dbfile import Schema, open_database, without_numpy
from agent.jobs.errors import (
    GpuHeldError,
    IllegalMoveError,
    KeyConflictError,
    NoSuchJobError,
    StaleJobError,
    StoreError,
)
from agent.jobs.folder import Submission
from agent.jobs.machine import Event, Status
from agent.jobs.row import (
    COLUMNS,
    NULLABLE,
    STATUS_COLUMNS,
    JobEvent,
    JobRow,
    read_row,
    spec_columns,
    spec_is_sound,
    status_columns,
)
from agent.jobs.spec import JobSpec

logger = logging.getLogger(__name__)

_HOLDING = (JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING)


class JobStore:
    """All jobs of one node. Made by `open`; used and closed by the thread that opened it."""

    def __init__(self, connection: sqlite3.Connection, damaged: Path | None) -> None:
        self._connection = connection
        self._depth = 0
        self._said: list[str] = []
        self.damaged = damaged
        """Where an unsound file was moved at open; the caller then calls `rebuild` with what the job folders hold."""

    @classmethod
    def open(cls, path: Path, *, now: int) -> JobStore:
        """Open the store, or make it.

        Args:
            path: the file, `state_dir/agent.db`.
            now: Unix seconds; part of the name under which a damaged file is kept.

        Raises:
            StoreLockedError: another process has it open; names the pid where that can be told.
            NewerSchemaError: a newer Stoker wrote it; names the backup to go back to.
            StoreError: the file cannot be opened or made.
        """
        connection, damaged = open_database(path, SCHEMA, now=now)
        if damaged is not None:
            logger.error("store=%s was damaged; kept as %s", path, damaged)
        return cls(connection, damaged)

    def close(self) -> None:
        """Give the file back. The store is unusable afterwards."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable at once: one disk flush for a burst of submits, or a pass of the scheduler.

        An inner `transaction` is a part that can fail alone: its error undoes only that part, if it is caught inside
        the outer one.

        Raises:
            StoreError: the disk is full, read-only or failing; nothing of the outermost transaction was stored.
        """
        level, said = self._depth, len(self._said)
        self._execute(f"SAVEPOINT part_{level}" if level else "BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            self._execute(f"RELEASE part_{level}" if level else "COMMIT")
        except BaseException:
            del self._said[said:]
            self._undo(level)
            raise
        finally:
            self._depth = level
        if level == 0:
            self._say()

    # --- writing ------------------------------------------------------------------------------------------------------

    def add(self, spec: JobSpec, *, user: str, uid: int, key: str | None, digest: str, now: int) -> tuple[JobRow, bool]:
        """Take a job in. The same key of the same user gives the job made then, and False.

        Args:
            spec: the parsed job.
            user: account that owns it.
            uid: the same as a number; keys are the user's own.
            key: idempotency key; `None` makes a new job each time.
            digest: of the whole request.
            now: Unix seconds.

        Raises:
            KeyConflictError: the key came before with another digest.
            StoreError: not stored.
        """
        with self.transaction():
            seen = self.seen(uid, key, digest)
            if seen is not None:
                return seen, False
            return self._insert(None, spec, user, uid, key, digest, now), True

    def claim(self, job_id: int, *, attempt: int, gpu_uuids: Sequence[str], now: int) -> JobRow:
        """Give a waiting job its GPUs. Nothing is launched before this is stored.

        Raises:
            GpuHeldError: another job holds one of them.
            NoSuchJobError, IllegalMoveError, StoreError: as `apply`.
        """
        with self.transaction():
            for holder in self.active():
                taken = set(gpu_uuids).intersection(holder.status.gpu_uuids)
                if taken and holder.id != job_id:
                    raise GpuHeldError(job_id, min(taken), holder.id)
            return self.apply(job_id, machine.Claimed(attempt=attempt, gpu_uuids=tuple(gpu_uuids)), now)

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
        with self.transaction():
            row = self.get(job_id)
            if revision is not None and revision != row.revision:
                raise StaleJobError(job_id, row.revision)
            try:
                status = machine.handle(row.status, event, now)
            except IllegalMoveError as error:
                told = [str(each) for each in self.history(job_id)]
                raise IllegalMoveError(row.status, event, [*error.history, *told]) from None
            return self._move(row, event, status, now)

    def rebuild(self, submissions: Iterable[Submission]) -> int:
        """Take in again, under their old ids, the jobs that the job folders hold and the store does not.

        They come back as PENDING; the engine then applies what `claim`, `started` and `exit` of their attempts tell.

        Returns:
            How many were taken in.
        """
        count = 0
        with self.transaction():
            for each in submissions:
                if self._select("WHERE id = ?", (each.id,)) or self._by_key(each.uid, each.key):
                    continue
                self._insert(each.id, each.spec, each.user, each.uid, each.key, each.digest, each.submitted_at)
                count += 1
        return count

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, job_id: int) -> JobRow:
        """One job.

        Raises:
            NoSuchJobError: no job has this id.
        """
        rows = self._select("WHERE id = ?", (job_id,))
        if not rows:
            raise NoSuchJobError(job_id)
        return rows[0]

    def seen(self, uid: int, key: str | None, digest: str) -> JobRow | None:
        """The job that a user made with this key before.

        Raises:
            KeyConflictError: the key came before with another digest.
        """
        row = self._by_key(uid, key)
        if row is not None and row.digest != digest:
            raise KeyConflictError(key or "", row.id)
        return row

    def find(
        self, *, states: Collection[JobState] = (), user: str | None = None, limit: int | None = None
    ) -> list[JobRow]:
        """Jobs, the youngest first; of some states, of one user, at most `limit`."""
        where, values = ["1"], []
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += [str(state) for state in states]
        if user is not None:
            where.append("user = ?")
            values.append(user)
        return self._select(
            f"WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?", (*values, -1 if limit is None else limit)
        )

    def pending(self) -> Sequence[JobRow]:
        """Waiting jobs in the order in which they are served."""
        return self._select("WHERE state = ? ORDER BY id", (JobState.PENDING,))

    def active(self) -> Sequence[JobRow]:
        """Jobs that hold what they were given, in the order of their ids."""
        return self._select(f"WHERE state IN ({', '.join('?' * len(_HOLDING))}) ORDER BY id", _HOLDING)

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; a state that has none is left out."""
        rows = self._execute("SELECT state, count(*) FROM jobs GROUP BY state")
        return {JobState(state): count for state, count in rows}

    def history(self, job_id: int) -> Sequence[JobEvent]:
        """What happened to a job, in order."""
        rows = self._execute("SELECT at, event, state, detail FROM events WHERE job_id = ? ORDER BY id", (job_id,))
        return [
            JobEvent(at=row["at"], event=row["event"], state=JobState(row["state"]), detail=row["detail"])
            for row in rows
        ]

    # --- below: SQL ---------------------------------------------------------------------------------------------------

    def _by_key(self, uid: int, key: str | None) -> JobRow | None:
        rows = self._select("WHERE uid = ? AND key = ?", (uid, key))
        return rows[0] if rows else None

    def _insert(
        self, job_id: int | None, spec: JobSpec, user: str, uid: int, key: str | None, digest: str, at: int
    ) -> JobRow:
        status = Status(requeue=spec.requeue)
        who = {"id": job_id, "user": user, "uid": uid, "key": key, "digest": digest, "submitted_at": at, "revision": 0}
        values = {**who, **spec_columns(spec), **status_columns(status)}
        cursor = self._execute(_INSERT, values)
        assert cursor.lastrowid is not None
        new_id = cursor.lastrowid
        self._record(new_id, at, "Submitted", status)
        self._said.append(f"job={new_id} -> PENDING user={user} gpus={spec.gpus}")
        return JobRow(id=new_id, user=user, uid=uid, key=key, digest=digest, submitted_at=at, spec=spec, status=status)

    def _move(self, row: JobRow, event: Event, status: Status, now: int) -> JobRow:
        self._execute(_UPDATE, {"id": row.id, "revision": row.revision + 1, **status_columns(status)})
        self._record(row.id, now, type(event).__name__, status)
        gpus = f" gpus={','.join(status.gpu_uuids)}" if status.gpu_uuids else ""
        self._said.append(f"job={row.id} {row.status.state} -> {status.state} on={type(event).__name__}{gpus}")
        return self.get(row.id)

    def _record(self, job_id: int, at: int, event: str, status: Status) -> None:
        detail = status.detail or (f"attempt {status.attempt}" if status.attempt else None)
        self._execute(
            "INSERT INTO events (job_id, at, event, state, detail) VALUES (?, ?, ?, ?, ?)",
            (job_id, at, event, status.state, detail),
        )

    def _select(self, clause: str, values: Sequence[Any]) -> list[JobRow]:
        return [read_row(row) for row in self._execute(f"SELECT * FROM jobs {clause}", values)]  # noqa: S608 - own clauses

    def _execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise StoreError(
                f"the job store refused: {error}; see whether the disk of the state folder is full"
            ) from error

    def _undo(self, level: int) -> None:
        if not self._connection.in_transaction:
            return  # after an I/O error SQLite has rolled back by itself
        if level:
            self._execute(f"ROLLBACK TO part_{level}")
            self._execute(f"RELEASE part_{level}")
        else:
            self._execute("ROLLBACK")

    def _say(self) -> None:
        for line in self._said:
            logger.info("%s", line)
        self._said.clear()


# --- the schema -------------------------------------------------------------------------------------------------------

_INSERT = f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"  # noqa: S608
_ASSIGNMENTS = ", ".join(f"{name} = :{name}" for name in ("revision", *STATUS_COLUMNS))
_UPDATE = f"UPDATE jobs SET {_ASSIGNMENTS} WHERE id = :id"  # noqa: S608


def _create(connection: sqlite3.Connection) -> None:
    """Schema 1. Ids ascend and are not reused because no row is ever deleted."""
    with without_numpy():
        from sqlite_utils import Database

    database = Database(connection, recursive_triggers=False, execute_plugins=False)
    jobs = database.table("jobs")
    jobs.create(COLUMNS, pk="id", not_null=set(COLUMNS) - {"id"} - NULLABLE, if_not_exists=True, strict=True)
    jobs.create_index(["uid", "key"], unique=True, if_not_exists=True)
    jobs.create_index(["state"], if_not_exists=True)
    jobs.create_index(["user"], if_not_exists=True)
    events = database.table("events")
    columns = {"id": int, "job_id": int, "at": int, "event": str, "state": str, "detail": str}
    events.create(columns, pk="id", not_null={"job_id", "at", "event", "state"}, if_not_exists=True, strict=True)
    events.create_index(["job_id"], if_not_exists=True)


def _check_contents(connection: sqlite3.Connection) -> str | None:
    """Bit rot inside a text is no error to SQLite: compare every spec with its digest."""
    for job_id, spec, digest in connection.execute("SELECT id, spec, spec_sha256 FROM jobs"):
        if not spec_is_sound(spec, digest):
            return f"the spec of job {job_id} does not match its digest"
    return None


SCHEMA = Schema(application_id=0x53544F4B, migrations=(_create,), check=_check_contents)
"""`STOK` in the header: `file agent.db` shows it."""
