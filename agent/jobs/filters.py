"""Which jobs one wants to see, and the SQL that finds them.

One index holds all that can be asked for, in the order in which jobs are shown (`schema`). Whatever is combined, a page
costs at most one reading of that index, and never a reading of the rows that are not shown.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from agent.api.types import Job, JobState

PAGE_INDEX = "idx_jobs_page"
FILTERED = ("state", "user", "name", "account", "partition", "qos", "cron_id", "submitted_at", "ended_at")
"""The columns of that index, behind the id and before the array's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs; each field narrows the choice, an empty one leaves it."""

    states: Collection[JobState] = ()
    users: Collection[str] = ()
    names: Collection[str] = ()
    accounts: Collection[str] = ()
    partitions: Collection[str] = ()
    qos: Collection[str] = ()
    ids: Collection[int] = ()
    array: int | None = None
    """All tasks of the array with this id."""
    cron: int | None = None
    """All jobs that this recurring job made."""
    since: int | None = None
    """Unix seconds: jobs that had not ended before it (sacct's `-S`)."""
    until: int | None = None
    """Unix seconds: jobs that were submitted by then (sacct's `-E`)."""
    before: int | None = None
    """Ids below this one: the next page begins below the last id of the page before."""
    limit: int | None = None


def matches(wanted: JobFilter, job: Job) -> bool:
    """Whether a job is among them: what `query` asks of the rows, for one that is known without its row."""
    partitions = set((job.partition or "").split(","))
    return (
        (wanted.before is None or job.id < wanted.before)
        and (wanted.since is None or job.ended_at is None or job.ended_at >= wanted.since)
        and (wanted.until is None or job.submitted_at <= wanted.until)
        and wanted.array in (None, job.array_job_id)
        and wanted.cron in (None, job.cron_id)
        and (not wanted.partitions or not partitions.isdisjoint(wanted.partitions))
        and all(
            not among or value in among
            for value, among in (
                (job.state, wanted.states),
                (job.user, wanted.users),
                (job.name, wanted.names),
                (job.account, wanted.accounts),
                (job.qos, wanted.qos),
                (job.id, wanted.ids),
            )
        )
    )


def query(wanted: JobFilter) -> tuple[str, list[Any]]:
    """The statement that finds the jobs, the youngest first, and its values."""
    where, values = _conditions(wanted)
    limit = -1 if wanted.limit is None else wanted.limit
    # Only the index is read until it is known which rows are shown.
    found = f"SELECT id FROM jobs INDEXED BY {PAGE_INDEX} WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608
    return f"SELECT * FROM jobs WHERE id IN ({found}) ORDER BY id DESC", [*values, limit]  # noqa: S608


def _conditions(wanted: JobFilter) -> tuple[str, list[Any]]:
    """SQLite asks them of each entry in this order: numbers first, which are compared sooner than texts."""
    where: list[str] = ["id > 0"]
    values: list[Any] = []
    for condition, value in (
        ("id < ?", wanted.before),
        ("(ended_at >= ? OR ended_at IS NULL)", wanted.since),
        ("submitted_at <= ?", wanted.until),
        ("array_job_id = ?", wanted.array),
        ("cron_id = ?", wanted.cron),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    for column, among in (
        ("state", [str(state) for state in wanted.states]),
        ("user", wanted.users),
        ("name", wanted.names),
        ("account", wanted.accounts),
        ("qos", wanted.qos),
        ("id", wanted.ids),
    ):
        if among:
            where.append(f"{column} = ?" if len(among) == 1 else f"{column} IN ({', '.join('?' * len(among))})")
            values += list(among)
    if wanted.partitions:  # a waiting job may name several: it is in each of them
        inside = "instr(',' || partition || ',', ?) > 0"
        where.append(f"({' OR '.join([inside] * len(wanted.partitions))})")
        values += [f",{name}," for name in wanted.partitions]
    return " AND ".join(where), values
