"""Jobs looked up in the store: one, a page of those that one wants to see, what waits, what is counted.

Specs are kept decoded for a while, by their digest: the tasks of an array come and go for hours, and all have the same.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from agent.api.types import FINAL_STATES, JobState
from agent.jobs.database import Database, in_groups, marks
from agent.jobs.errors import KeyConflictError, NoSuchJobError
from agent.jobs.filters import JobFilter, query
from agent.jobs.row import JobEvent, JobRow, decode_spec, read_row
from agent.jobs.spec import JobSpec

HOLDING = (JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING)
_SPECS_KEPT = 256


class Lookup(Database):
    """The reading half of a `JobStore`: nothing here changes anything."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._specs: OrderedDict[str, JobSpec] = OrderedDict()

    def get(self, job_id: int) -> JobRow:
        """One job.

        Raises:
            NoSuchJobError: no job has this id.
        """
        rows = self._select("WHERE id = ?", (job_id,))
        if not rows:
            raise NoSuchJobError(job_id)
        return rows[0]

    def task(self, array_id: int, task_id: int) -> JobRow:
        """One task of an array: `17_3`.

        Raises:
            NoSuchJobError: there is no such array, or no such task in it.
        """
        rows = self._select("WHERE array_job_id = ? AND array_task_id = ?", (array_id, task_id))
        if not rows:
            raise NoSuchJobError(f"{array_id}_{task_id}")
        return rows[0]

    def tasks_of(self, array_id: int) -> Sequence[JobRow]:
        """All tasks of an array in the order of their numbers; none for a job that is no array."""
        return self._select("WHERE array_job_id = ? ORDER BY array_task_id", (array_id,))

    def seen(self, uid: int, key: str | None, digest: str) -> JobRow | None:
        """The job that a user made with this key before.

        Raises:
            KeyConflictError: the key came before with another digest.
        """
        row = self._by_key(uid, key)
        if row is not None and row.digest != digest:
            raise KeyConflictError(key or "", row.id)
        return row

    def find(self, wanted: JobFilter | None = None) -> list[JobRow]:
        """The jobs one wants to see, the youngest first."""
        return self._rows(*query(wanted or JobFilter()))

    def pending(self) -> Sequence[JobRow]:
        """Waiting jobs in the order in which they came."""
        return self._select("WHERE state = ? ORDER BY id", (JobState.PENDING,))

    def active(self) -> Sequence[JobRow]:
        """Jobs that hold what they were given, in the order of their ids."""
        return self._select(f"WHERE state IN ({marks(HOLDING)}) ORDER BY id", HOLDING)

    def ids(self) -> set[int]:
        """The ids of all jobs that are kept."""
        return {row[0] for row in self._fetch("SELECT id FROM jobs")}

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; a state that has none is left out."""
        rows = self._fetch("SELECT state, count(*) FROM jobs GROUP BY state")
        return {JobState(state): count for state, count in rows}

    def history(self, job_id: int) -> Sequence[JobEvent]:
        """What happened to a job, in order."""
        rows = self._fetch("SELECT at, event, state, detail FROM events WHERE job_id = ? ORDER BY id", (job_id,))
        return [
            JobEvent(at=row["at"], event=row["event"], state=JobState(row["state"]), detail=row["detail"])
            for row in rows
        ]

    def expired(self, before: int, limit: int) -> dict[int, list[int]]:
        """Jobs that ended before a time (Unix seconds): folder → the jobs whose submission it holds.

        An array goes as a whole, once its last task has ended so long ago. The youngest submission stays: its folder
        tells which ids were given out, should the database be lost.

        Args:
            before: Unix seconds.
            limit: most folders at a time, the oldest first.
        """
        final = sorted(str(state) for state in FINAL_STATES)
        ended = f"state IN ({marks(final)}) AND ended_at < ?"
        rows = self._execute(
            f"SELECT folder_id FROM jobs GROUP BY folder_id HAVING min({ended})"  # noqa: S608 - own words
            " AND folder_id < (SELECT max(folder_id) FROM jobs) ORDER BY folder_id LIMIT ?",
            (*final, before, limit),
        )
        found: dict[int, list[int]] = {row[0]: [] for row in rows}
        for group in in_groups(list(found)):
            sql = f"SELECT folder_id, id FROM jobs WHERE folder_id IN ({marks(group)}) ORDER BY id"  # noqa: S608
            for folder_id, job_id in self._execute(sql, group):
                found[folder_id].append(job_id)
        return found

    # --- below: SQL ---------------------------------------------------------------------------------------------------

    def _by_key(self, uid: int, key: str | None) -> JobRow | None:
        rows = self._select("WHERE uid = ? AND key = ?", (uid, key))
        return rows[0] if rows else None

    def _digests(self, job_ids: Sequence[int]) -> set[str]:
        found: set[str] = set()
        for group in in_groups(job_ids):
            sql = f"SELECT DISTINCT spec_sha256 FROM jobs WHERE id IN ({marks(group)})"  # noqa: S608 - own words
            found.update(row[0] for row in self._execute(sql, group))
        return found

    def _select(self, clause: str, values: Sequence[Any]) -> list[JobRow]:
        return self._rows(f"SELECT * FROM jobs {clause}", values)  # noqa: S608 - own clauses

    def _rows(self, sql: str, values: Sequence[Any]) -> list[JobRow]:
        rows = self._fetch(sql, values)
        specs = self._specs_of({row["spec_sha256"] for row in rows})
        return [read_row(row, specs[row["spec_sha256"]]) for row in rows]

    def _specs_of(self, wanted: set[str]) -> dict[str, JobSpec]:
        found = {sha256: self._specs[sha256] for sha256 in wanted if sha256 in self._specs}
        for group in in_groups(sorted(wanted - found.keys())):
            rows = self._fetch(f"SELECT sha256, body FROM specs WHERE sha256 IN ({marks(group)})", group)  # noqa: S608
            found.update({sha256: decode_spec(body) for sha256, body in rows})
        for sha256, spec in found.items():
            self._specs[sha256] = spec
            self._specs.move_to_end(sha256)
        while len(self._specs) > _SPECS_KEPT:
            self._specs.popitem(last=False)
        return found
