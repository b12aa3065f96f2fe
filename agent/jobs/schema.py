"""The tables of `agent.db`, how an older file becomes one of today, and what must be true of its contents.

jobs     one line a job; all that may be looked for is a column (`row.COLUMNS`)
specs    what jobs ask for, by digest: the tasks of an array share one, and so do equal jobs
events   the history of each job
usage    what each job made of its GPUs, and the curve of it
charges  GPU-seconds by account, user and hour: the fair share
shelf    reservations, drains, recurring jobs, … by kind and key
marks    numbers that only go up: the last id given out
meter…   the usage ledger: rows, what runs, chains, and where the ledger stands (`meter`)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from agent.api.decode import decode
from agent.api.types import FINAL_STATES, JobState
from agent.jobs.dbfile import DamagedError, Schema, without_numpy
from agent.jobs.filters import FILTERED, PAGE_INDEX
from agent.jobs.machine import Status, Wish
from agent.jobs.meter import create_tables
from agent.jobs.row import COLUMNS, NULLABLE, JobRow, decode_spec, eligible_at, job_columns, spec_is_sound

INSERT_JOB = f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"  # noqa: S608
INSERT_SPEC = "INSERT OR IGNORE INTO specs (sha256, body) VALUES (?, ?)"

_STATES = frozenset(str(state) for state in JobState)
_WISHES = frozenset({None, *get_args(Wish)})

JOB_MARK = "job"
"""The mark of the last id given out."""

_STATUS_1 = {"state": str, "reason": str, "detail": str, "attempt": int, "gpu_uuids": str, "started_at": int}
_END_1 = {"ended_at": int, "exit_code": int, "signal": int, "cancelled_by": str}
_WHO_1 = {"id": int, "user": str, "uid": int, "key": str, "digest": str, "submitted_at": int}
_COLUMNS_1 = _WHO_1 | {"spec": str, "spec_sha256": str, "revision": int} | _STATUS_1 | _END_1
_NULLABLE_1 = {"id", "key", "reason", "detail", "started_at", *_END_1}


def _create(connection: sqlite3.Connection) -> None:
    """Schema 1: jobs with their specs, and events."""
    database = _utils(connection)
    jobs = database.table("jobs")
    jobs.create(_COLUMNS_1, pk="id", not_null=set(_COLUMNS_1) - _NULLABLE_1, if_not_exists=True, strict=True)
    jobs.create_index(["uid", "key"], unique=True, if_not_exists=True)
    jobs.create_index(["state"], if_not_exists=True)
    jobs.create_index(["user"], if_not_exists=True)
    events = database.table("events")
    columns = {"id": int, "job_id": int, "at": int, "event": str, "state": str, "detail": str}
    events.create(columns, pk="id", not_null={"job_id", "at", "event", "state"}, if_not_exists=True, strict=True)
    events.create_index(["job_id"], if_not_exists=True)


def _widen(connection: sqlite3.Connection) -> None:
    """Schema 2: specs by digest, columns to look for, arrays, wishes, usage, charges, the shelf, marks.

    Raises:
        DamagedError: a spec of the older file is not what was written.
    """
    connection.execute("ALTER TABLE jobs RENAME TO jobs_1")
    database = _utils(connection)
    database.table("jobs").create(COLUMNS, pk="id", not_null=set(COLUMNS) - NULLABLE - {"id"}, strict=True)
    specs = {"sha256": str, "body": str}
    database.table("specs").create(specs, pk="sha256", not_null={"body"}, strict=True)
    usage = {"job_id": int, "usage": str, "curve": str}
    database.table("usage").create(usage, pk="job_id", not_null={"usage", "curve"}, strict=True)
    charges = {"account": str, "user": str, "hour": int, "gpu_s": float, "at": float}
    database.table("charges").create(charges, pk=("account", "user", "hour"), not_null={"gpu_s", "at"}, strict=True)
    shelf = {"kind": str, "key": str, "body": str}
    database.table("shelf").create(shelf, pk=("kind", "key"), not_null={"body"}, strict=True)
    database.table("marks").create({"name": str, "value": int}, pk="name", not_null={"value"}, strict=True)
    _move_jobs(connection)
    _index(database.table("jobs"))


def _index(jobs: Any) -> None:
    jobs.create_index(["uid", "key"], unique=True)
    jobs.create_index(["state"])
    jobs.create_index(["array_job_id", "array_task_id"])
    jobs.create_index(["spec_sha256"])
    jobs.create_index(["id", *FILTERED, "array_job_id"], index_name=PAGE_INDEX)


def _move_jobs(connection: sqlite3.Connection) -> None:
    cursor = connection.execute("SELECT * FROM jobs_1")
    cursor.row_factory = sqlite3.Row
    for row, body in _old_rows(cursor):
        sha256 = row["spec_sha256"]
        try:
            values = {**job_columns(_job_1(row, body), sha256), **_status_1(row)}
        except (ValueError, msgspec.DecodeError) as error:
            raise DamagedError(f"job {row['id']} cannot be read: {error}") from error
        connection.execute(INSERT_SPEC, (sha256, body))
        connection.execute(INSERT_JOB, values)
    connection.execute("INSERT INTO marks SELECT ?, coalesce(max(id), 0) FROM jobs_1", (JOB_MARK,))
    connection.execute("DROP TABLE jobs_1")


def _old_rows(cursor: sqlite3.Cursor) -> Iterator[tuple[sqlite3.Row, str]]:
    for row in cursor:
        if not spec_is_sound(row["spec"], row["spec_sha256"]):
            raise DamagedError(f"the spec of job {row['id']} does not match its digest")
        yield row, row["spec"]


def _job_1(row: sqlite3.Row, body: str) -> JobRow:
    spec = decode_spec(body)
    return JobRow(
        id=row["id"],
        user=row["user"],
        uid=row["uid"],
        key=row["key"],
        digest=row["digest"],
        submitted_at=row["submitted_at"],
        spec=spec,
        status=Status(),
        revision=row["revision"],
        folder_id=row["id"],
        eligible_at=eligible_at(spec, row["submitted_at"]),
    )


def _status_1(row: sqlite3.Row) -> dict[str, Any]:
    """The status as it was; the only wish that schema 1 knew was to cancel."""
    wish = "cancel" if JobState(row["state"]) is JobState.COMPLETING else None
    return {**{name: row[name] for name in (*_STATUS_1, *_END_1)}, "wish": wish}


def _utils(connection: sqlite3.Connection) -> Any:
    with without_numpy():
        from sqlite_utils import Database

    return Database(connection, recursive_triggers=False, execute_plugins=False)


def check_contents(connection: sqlite3.Connection) -> str | None:
    """Bit rot inside a text is no error to SQLite: compare each spec with its digest, find each job's, read states."""
    known = set()
    for sha256, body in connection.execute("SELECT sha256, body FROM specs NOT INDEXED"):
        if not spec_is_sound(body, sha256):
            return f"the spec {sha256} does not match its digest"
        known.add(sha256)
    # NOT INDEXED: an index may be sound where the table is not.
    columns = connection.execute("SELECT id, spec_sha256, state, wish, gpu_uuids, user, name FROM jobs NOT INDEXED")
    return next((problem for row in columns if (problem := _unreadable(known, *row))), None)


def check_unfinished(connection: sqlite3.Connection) -> str | None:
    """The same of the jobs that have not ended; the ended ones are read with every backup."""
    ended = ", ".join(f"'{state}'" for state in sorted(FINAL_STATES))
    columns = "id, spec_sha256, state, wish, gpu_uuids, user, name"
    rows = connection.execute(f"SELECT {columns} FROM jobs WHERE state NOT IN ({ended})").fetchall()  # noqa: S608
    known = set()
    for sha256 in {row[1] for row in rows}:
        found = connection.execute("SELECT body FROM specs WHERE sha256 = ?", (sha256,)).fetchone()
        if found is None or not spec_is_sound(found[0], sha256):
            return f"the spec {sha256} does not match its digest"
        known.add(sha256)
    return next((problem for row in rows if (problem := _unreadable(known, *row))), None)


def _unreadable(known: set[str], job_id: int, sha256: str, state: str, wish: str | None, uuids: str, *_: str) -> str:
    """What is wrong with a row; nothing if it can be read."""
    if sha256 not in known:
        return f"the spec of job {job_id} is missing"
    if state not in _STATES or wish not in _WISHES:
        return f"job {job_id} is in the state {state!r} with the wish {wish!r}"
    try:
        if uuids != "[]":
            decode(uuids, tuple[str, ...])
    except msgspec.DecodeError as error:
        return f"the GPUs of job {job_id} cannot be read: {error}"
    return ""


SCHEMA = Schema(
    application_id=0x53544F4B,
    migrations=(_create, _widen, create_tables),
    check=check_contents,
    quick_check=check_unfinished,
)
"""`STOK` in the header: `file agent.db` shows it."""
