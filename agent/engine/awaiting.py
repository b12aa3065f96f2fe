"""What waiting jobs await of other jobs: dependencies, judged again only when something they are about has changed.

Rules kept here: the judging is `agent.jobs.dependency`'s; how a job that is referred to stands is read from the store
once and kept up by what happens to it; nothing is kept that no waiting job refers to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator

from agent.api.types import JobState
from agent.engine.core import Core
from agent.jobs import dependency
from agent.jobs.dependency import Facts, Never, Satisfied, TaskFacts
from agent.jobs.errors import NoSuchJobError
from agent.jobs.row import JobRow
from agent.jobs.spec import DependencySpec
from agent.jobs.store import JobStore

Fates = dict[int | None, TaskFacts]
"""How a job stands, under `None`; of an array each task, under its number."""


class Awaiting:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._refreshing = asyncio.Lock()
        """One at a time: a pass and a plan both ask for it, and what one has read the other must not take for news."""
        self._rows: dict[int, JobRow] = {}
        """Waiting jobs with a dependency."""
        self._dependents: dict[int, set[int]] = {}
        """Id that is referred to → who refers to it."""
        self._fates: dict[int, Fates] = {}
        self._touched: set[int] = set()
        """Ids that are referred to and to which something happened since they were read for."""
        self._namesakes: dict[tuple[str, str], dict[int, None]] = {}
        """User and name → ids of the jobs that have not ended, ascending."""
        self._name_of: dict[int, tuple[str, str]] = {}
        self._singletons: dict[tuple[str, str], set[int]] = {}
        """User and name → waiting jobs that run alone."""
        self._dirty: set[int] = set()
        self._holds: dict[int, tuple[str, str]] = {}
        self._since: dict[int, int] = {}
        """When a dependency was fulfilled."""
        self._due: dict[int, int] = {}
        """When time alone may fulfil one."""
        self.texts: dict[int, str] = {}
        """What is still awaited, in Slurm's words."""
        self.never: set[int] = set()
        """Whose dependency cannot be fulfilled any more."""

    def keep(self, row: JobRow) -> None:
        """Learn of a row that is new or has changed."""
        self._note_namesake(row)
        self._note_fate(row)
        if row.status.state is JobState.PENDING and row.spec.dependency is not None:
            self._follow(row, row.spec.dependency)
        elif row.id in self._rows:
            self._forget(row.id)

    async def refresh(self) -> Collection[int]:
        """Judge again what needs it; the jobs that were judged.

        Raises:
            StoreError: what is referred to cannot be read; the next call tries again.
        """
        async with self._refreshing:
            return await self._refresh(int(time.time()))

    async def _refresh(self, now: int) -> Collection[int]:
        self._dirty.update(job_id for job_id, at in self._due.items() if at <= now)
        if not self._dirty:
            return ()
        await self._read_missing()
        judged, self._dirty = self._dirty, set()
        for job_id in judged:
            row = self._rows.get(job_id)
            if row is not None:
                self._judge(row, now)
        return judged

    def hold_of(self, row: JobRow) -> tuple[str, str] | None:
        """Slurm's word and the sentence while a dependency is not fulfilled."""
        if row.spec.dependency is None:
            return None
        return self._holds.get(row.id, ("Dependency", "waits for other jobs")) if row.id not in self._since else None

    def eligible_at(self, row: JobRow) -> int:
        """From when on it counts as waiting."""
        return max(row.submitted_at, row.spec.begin_at or 0, self._since.get(row.id, 0))

    @property
    def fulfilled(self) -> Collection[int]:
        """Jobs of whose dependency nothing is awaited any more."""
        return self._since.keys()

    def look_again_at(self) -> int | None:
        """When time alone may fulfil the next one."""
        return min(self._due.values(), default=None)

    async def plan(self, row: JobRow) -> tuple[str, str] | None:
        """The hold of a job that only might be there."""
        if row.spec.dependency is None:
            return None
        ids = dependency.referenced(row.spec.dependency)
        tasks = await self._core.store.read(_fates_of, ids)
        judged = dependency.judge(row.spec.dependency, self._facts(row, tasks, int(time.time())))
        return None if isinstance(judged, Satisfied) else (_word(judged), judged.sentence)

    # --- below --------------------------------------------------------------------------------------------------------

    def _follow(self, row: JobRow, spec: DependencySpec) -> None:
        before = self._rows.get(row.id)
        self._rows[row.id] = row
        if before is not None and before.spec.dependency == spec:
            return
        if before is not None:
            self._forget(row.id)
            self._rows[row.id] = row
        for ref in dependency.referenced(spec):
            self._dependents.setdefault(ref, set()).add(row.id)
        if _is_singleton(spec):
            self._singletons.setdefault((row.user, row.spec.name), set()).add(row.id)
        self._dirty.add(row.id)

    def _forget(self, job_id: int) -> None:
        row = self._rows.pop(job_id)
        assert row.spec.dependency is not None, "only jobs with one are followed"
        for ref in dependency.referenced(row.spec.dependency):
            others = self._dependents.get(ref, set())
            others.discard(job_id)
            if not others:
                self._dependents.pop(ref, None)
                self._fates.pop(ref, None)
        self._singletons.get((row.user, row.spec.name), set()).discard(job_id)
        for kept in (self._holds, self._since, self._due, self.texts):
            kept.pop(job_id, None)
        self.never.discard(job_id)
        self._dirty.discard(job_id)

    def _note_fate(self, row: JobRow) -> None:
        for ref, task in _names(row):
            waiting = self._dependents.get(ref)
            if waiting:
                self._touched.add(ref)
                self._dirty |= waiting
                if ref in self._fates:
                    self._fates[ref][task] = _fate(row)

    def _note_namesake(self, row: JobRow) -> None:
        key = row.user, row.spec.name
        before = self._name_of.get(row.id)
        if before is not None and before != key:  # it was given another name
            self._drop_namesake(row.id, before)
        known = self._namesakes.setdefault(key, {})
        if row.status.state.is_final:
            self._drop_namesake(row.id, key)
        elif row.id not in known:
            late = bool(known) and next(reversed(known)) > row.id  # it runs again
            known[row.id] = None
            self._name_of[row.id] = key
            if late:
                self._namesakes[key] = dict.fromkeys(sorted(known))

    def _drop_namesake(self, job_id: int, key: tuple[str, str]) -> None:
        known = self._namesakes.get(key, {})
        known.pop(job_id, None)
        self._name_of.pop(job_id, None)
        self._dirty |= self._singletons.get(key, set())
        if not known:
            self._namesakes.pop(key, None)

    async def _read_missing(self) -> None:
        rows = [self._rows[job_id] for job_id in self._dirty if job_id in self._rows]
        refs = {ref for row in rows if row.spec.dependency for ref in dependency.referenced(row.spec.dependency)}
        missing = [ref for ref in refs if ref not in self._fates]
        if not missing:
            return
        self._touched.clear()
        found = await self._core.store.read(_fates_of, missing)
        for ref, fates in found.items():
            if ref in self._dependents and ref not in self._touched:
                self._fates[ref] = fates

    def _judge(self, row: JobRow, now: int) -> None:
        spec = row.spec.dependency
        assert spec is not None, "only jobs with one are judged"
        if any(ref not in self._fates for ref in dependency.referenced(spec)):
            self._dirty.add(row.id)  # it changed while it was read
            return
        facts = self._facts(row, self._fates, now)
        judged = dependency.judge(spec, facts)
        for kept in (self._holds, self._since, self._due, self.texts):
            kept.pop(row.id, None)
        self.never.discard(row.id)
        if isinstance(judged, Satisfied):
            self._since[row.id] = max((at for at in _moments(facts) if at <= now), default=now)
            return
        self._holds[row.id] = _word(judged), judged.sentence
        self.texts[row.id] = dependency.text(spec, facts) or ""
        due = dependency.look_again_at(spec, facts)
        if due is not None:
            self._due[row.id] = due
        if isinstance(judged, Never):
            self.never.add(row.id)

    def _facts(self, row: JobRow, fates: dict[int, Fates], now: int) -> Facts:
        oldest = next(iter(self._namesakes.get((row.user, row.spec.name), ())), None)
        older = oldest if oldest is not None and (row.id == 0 or oldest < row.id) else None
        return Facts(now=now, tasks=fates, own_task_id=row.array_task_id, older_namesake=older)


def _fates_of(store: JobStore, ids: Collection[int]) -> dict[int, Fates]:
    """How the jobs stand; one that is not there any more has no facts."""
    found: dict[int, Fates] = {}
    for job_id in ids:
        try:
            row = store.get(job_id)
        except NoSuchJobError:
            found[job_id] = {}
            continue
        rows = store.tasks_of(job_id) if row.array_job_id == job_id else [row]
        found[job_id] = {each.array_task_id if row.array_job_id == job_id else None: _fate(each) for each in rows}
    return found


def _fate(row: JobRow) -> TaskFacts:
    status = row.status
    return TaskFacts(
        state=status.state,
        started_at=status.started_at,
        ended_at=(status.ended_at or row.submitted_at) if status.state.is_final else None,
    )


def _names(row: JobRow) -> Iterator[tuple[int, int | None]]:
    """The ids by which a row may be referred to, and its place there."""
    if row.array_job_id is not None:
        yield row.array_job_id, row.array_task_id
    if row.array_job_id != row.id:
        yield row.id, None


def _is_singleton(spec: DependencySpec) -> bool:
    return any(each.kind == dependency.SINGLETON for each in spec.conditions)


def _moments(facts: Facts) -> Iterator[int]:
    for tasks in facts.tasks.values():
        for each in tasks.values():
            if each.ended_at is not None:
                yield each.ended_at


def _word(judged: dependency.Judgement) -> str:
    return "DependencyNeverSatisfied" if isinstance(judged, Never) else "Dependency"
