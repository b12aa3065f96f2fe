"""The jobs that have not ended, in memory: a copy of the store's rows and nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

from agent.api.types import JobState
from agent.jobs.row import JobRow

_K = TypeVar("_K", bound=Hashable)


class OpenJobs:
    """Rows by id, with the counts and groups that are asked for at every submit and every pass."""

    def __init__(self) -> None:
        self._rows: dict[int, JobRow] = {}
        self._active: dict[int, JobRow] = {}
        """Of those the ones that hold what they were given."""
        self._of_user: dict[str, set[int]] = {}
        self._of_array: dict[int, set[int]] = {}

    def keep(self, row: JobRow) -> None:
        """Take a row as it is now; one that has ended is dropped."""
        if row.status.state.is_final:
            self._drop(row)
            return
        if row.id not in self._rows:
            self._of_user.setdefault(row.user, set()).add(row.id)
            if row.array_job_id is not None:
                self._of_array.setdefault(row.array_job_id, set()).add(row.id)
        self._rows[row.id] = row
        if row.status.state is JobState.PENDING:
            self._active.pop(row.id, None)
        else:
            self._active[row.id] = row

    def get(self, job_id: int) -> JobRow | None:
        """The row, unless it has ended."""
        return self._rows.get(job_id)

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[JobRow]:
        return iter(list(self._rows.values()))

    def active(self) -> Sequence[JobRow]:
        """Jobs that start, run or end."""
        return list(self._active.values())

    def pending(self) -> Iterator[JobRow]:
        """Jobs that wait."""
        return (row for job_id, row in self._rows.items() if job_id not in self._active)

    def of_user(self, user: str) -> Sequence[JobRow]:
        """All of one user."""
        return [self._rows[job_id] for job_id in sorted(self._of_user.get(user, ()))]

    def of_array(self, array_id: int) -> Sequence[JobRow]:
        """The tasks of an array that have not ended, in order."""
        return [self._rows[job_id] for job_id in sorted(self._of_array.get(array_id, ()))]

    def counts(self) -> tuple[int, int]:
        """Jobs that run (or start, or end) and jobs that wait."""
        return len(self._active), len(self._rows) - len(self._active)

    def count_of(self, user: str) -> int:
        """Jobs of one user."""
        return len(self._of_user.get(user, ()))

    def holders(self) -> dict[str, tuple[int, ...]]:
        """GPU UUID → the jobs that hold it or a part of it."""
        found: dict[str, tuple[int, ...]] = {}
        for row in self._active.values():
            for uuid in row.status.gpu_uuids:
                found[uuid] = (*found.get(uuid, ()), row.id)
        return found

    def _drop(self, row: JobRow) -> None:
        if self._rows.pop(row.id, None) is None:
            return
        self._active.pop(row.id, None)
        _discard(self._of_user, row.user, row.id)
        if row.array_job_id is not None:
            _discard(self._of_array, row.array_job_id, row.id)


def _discard(groups: dict[_K, set[int]], key: _K, job_id: int) -> None:
    group = groups.get(key)
    if group is None:
        return
    group.discard(job_id)
    if not group:
        del groups[key]
