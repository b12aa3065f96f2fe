"""A database of schema 1, made by its own statements, becomes one of today: after a backup, and with nothing lost."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from agent.api.types import JobState
from agent.jobs.filters import JobFilter
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore

SCHEMA_1 = """
CREATE TABLE "jobs" (
   "id" INTEGER PRIMARY KEY,
   "user" TEXT NOT NULL,
   "uid" INTEGER NOT NULL,
   "key" TEXT,
   "digest" TEXT NOT NULL,
   "submitted_at" INTEGER NOT NULL,
   "spec" TEXT NOT NULL,
   "spec_sha256" TEXT NOT NULL,
   "revision" INTEGER NOT NULL,
   "state" TEXT NOT NULL,
   "reason" TEXT,
   "detail" TEXT,
   "attempt" INTEGER NOT NULL,
   "gpu_uuids" TEXT NOT NULL,
   "started_at" INTEGER,
   "ended_at" INTEGER,
   "exit_code" INTEGER,
   "signal" INTEGER,
   "cancelled_by" TEXT
) STRICT;
CREATE UNIQUE INDEX "idx_jobs_uid_key" ON "jobs" ("uid", "key");
CREATE INDEX "idx_jobs_state" ON "jobs" ("state");
CREATE INDEX "idx_jobs_user" ON "jobs" ("user");
CREATE TABLE "events" (
   "id" INTEGER PRIMARY KEY,
   "job_id" INTEGER NOT NULL,
   "at" INTEGER NOT NULL,
   "event" TEXT NOT NULL,
   "state" TEXT NOT NULL,
   "detail" TEXT
) STRICT;
CREATE INDEX "idx_events_job_id" ON "events" ("job_id");
PRAGMA application_id = 1398034251;
PRAGMA user_version = 1;
"""
"""Printed by `SELECT sql FROM sqlite_master` from a database that the version before made."""

OLD_SPEC = '{"name":"%s","script_name":"s.sh","submit_dir":"/h","work_dir":"/h","gpus":2,"requeue":true}'
"""As the version before wrote it: none of the later fields, here without its defaults too."""

JOBS = [
    (1, "ada", "k1", "COMPLETED", None, 1, '["GPU-a","GPU-b"]', 110, 120, 0, None, None),
    (2, "bob", None, "CANCELLED", None, 0, "[]", None, 105, None, None, "bob"),
    (3, "ada", None, "COMPLETING", None, 1, '["GPU-a","GPU-b"]', 111, None, None, None, "ada"),
    (4, "ada", None, "RUNNING", None, 2, '["GPU-c"]', 112, None, None, None, None),
    (9, "ada", "k9", "PENDING", "NodeReboot", 1, "[]", None, None, None, None, None),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "agent.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode=WAL")
        old.executescript(SCHEMA_1)
        for job_id, user, key, state, reason, attempt, uuids, started, ended, code, signal, by in JOBS:
            body = OLD_SPEC % ("same" if job_id < 3 else f"job-{job_id}")
            digest = hashlib.sha256(body.encode()).hexdigest()
            old.execute(
                f"INSERT INTO jobs VALUES ({','.join('?' * 19)})",
                (
                    *(job_id, user, 1001, key, "d", 100, body, digest, 3, state, reason, "detail"),
                    *(attempt, uuids, started, ended, code, signal, by),
                ),
            )
            old.execute("INSERT INTO events VALUES (NULL, ?, 100, 'Submitted', 'PENDING', NULL)", (job_id,))
            old.execute("INSERT INTO events VALUES (NULL, ?, 120, 'Moved', ?, 'detail')", (job_id, state))
    return file


def test_every_job_is_as_it_was(path: Path) -> None:
    store = JobStore.open(path, now=200)
    assert (store.damaged, store.suspect) == (None, False)
    rows = {row.id: row for row in store.find()}
    assert list(rows) == [9, 4, 3, 2, 1]
    for job_id, user, key, state, reason, attempt, uuids, started, ended, code, signal, by in JOBS:
        row, status = rows[job_id], rows[job_id].status
        assert (row.user, row.uid, row.key, row.digest, row.submitted_at, row.revision) == (
            user,
            1001,
            key,
            "d",
            100,
            3,
        )
        assert (row.folder_id, row.array_job_id, row.array_task_id, row.eligible_at) == (job_id, None, None, 100)
        assert (status.state, status.reason, status.detail, status.attempt) == (state, reason, "detail", attempt)
        assert status.gpu_uuids == msgspec.json.decode(uuids, type=tuple[str, ...])
        assert (status.started_at, status.ended_at, status.exit_code, status.signal) == (started, ended, code, signal)
        assert (status.cancelled_by, status.requeue) == (by, True)
        assert status.wish == ("cancel" if state == "COMPLETING" else None)
        assert row.spec == msgspec.json.decode(OLD_SPEC % row.spec.name, type=JobSpec)
        assert [str(each) for each in store.history(job_id)] == [
            "Submitted at 100 -> PENDING",
            f"Moved at 120 -> {state} (detail)",
        ]
    assert [row.id for row in store.find(JobFilter(names=["same"], states=[JobState.COMPLETED]))] == [1]
    new = store.add(rows[1].spec, user="ada", uid=1001, key=None, digest="d", now=1)[0]
    assert new.id == 10
    assert store.seen(1001, "k9", "d") == rows[9]
    store.close()
    again = JobStore.open(path, now=201)
    assert len(again.find()) == 6
    again.close()


def test_the_file_is_copied_before(path: Path) -> None:
    JobStore.open(path, now=200).close()
    with closing(sqlite3.connect(path.with_name("agent.db.schema-1"))) as old:
        assert old.execute("PRAGMA user_version").fetchone()[0] == 1
        assert [row[0] for row in old.execute("SELECT id FROM jobs ORDER BY id")] == [1, 2, 3, 4, 9]


def flipped_spec(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.execute("UPDATE jobs SET spec = replace(spec, 's.sh', 't.sh') WHERE id = 4")
        old.commit()


def a_state_of_nobody(path: Path) -> None:
    with path.open("r+b") as file:
        data = file.read()
        file.seek(data.index(b"COMPLETING"))
        file.write(b"C\xffMPLETING")


@pytest.mark.parametrize("damage", [flipped_spec, a_state_of_nobody])
def test_a_damaged_old_file_is_moved_aside_and_not_migrated(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    store = JobStore.open(path, now=300)
    assert store.damaged == path.with_name("agent.db.damaged-300")
    assert store.suspect
    assert store.find() == []
    store.close()
