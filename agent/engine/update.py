"""`scontrol update`: what a job asks for changed in Slurm's words, read by the parser that reads submissions.

Rules kept here: each word stands for a flag of sbatch and is read as that flag is, so it is refused for the same
reasons in the same sentences, and the site's rules are applied again; all words are understood and allowed before any
holds; who only owns the job cannot put it before others, nor give it more time while it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from agent.api.errors import ApiError
from agent.api.queue import UpdateRequest
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, SubmitRequest
from agent.engine import steps, watch
from agent.engine.accept import apply_rules, as_api_error, groups_of
from agent.engine.arrange import Arrangements
from agent.engine.base import Asker
from agent.engine.core import Core, conflict, now
from agent.engine.runs import Runner
from agent.engine.verbs import Verbs
from agent.jobs import arrays, dependency, grammar, parse
from agent.jobs.row import JobRow
from agent.jobs.spec import Dependency, JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word of `scontrol update`."""

    name: str
    flag: str
    """The flag of sbatch that it is read as."""
    fields: tuple[str, ...]
    """What of the spec it changes."""
    running: bool = False
    """It makes sense for a job that runs."""
    empty: bool = False
    """Nothing after `=` takes it back."""


WORDS = (
    Word(name="TimeLimit", flag="--time", fields=("time_limit_s", "time_said"), running=True),
    Word(name="Nice", flag="--nice", fields=("nice",)),
    Word(name="Priority", flag="--priority", fields=("priority", "held")),
    Word(name="Partition", flag="--partition", fields=("partition",)),
    Word(name="QOS", flag="--qos", fields=("qos",)),
    Word(name="Account", flag="--account", fields=("account",)),
    Word(name="StartTime", flag="--begin", fields=("begin_at",)),
    Word(name="Deadline", flag="--deadline", fields=("deadline_at",)),
    Word(name="Dependency", flag="--dependency", fields=("dependency",), empty=True),
    Word(name="Comment", flag="--comment", fields=("comment",), running=True),
    Word(name="JobName", flag="--job-name", fields=("name",), running=True),
    Word(name="Requeue", flag="--requeue", fields=("requeue",), running=True),
    Word(name="ReservationName", flag="--reservation", fields=("reservation",), empty=True),
    Word(name="ArrayTaskThrottle", flag="", fields=("array",), running=True),
)
_ALSO = {"eligibletime": "starttime", "name": "jobname", "reservation": "reservationname", "timelimit": "timelimit"}
_BY_NAME = {word.name.lower(): word for word in WORDS}


class Updates:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, verbs: Verbs, runner: Runner, arrangements: Arrangements) -> None:
        self._core = core
        self._verbs = verbs
        self._runner = runner
        self._arrangements = arrangements

    async def update(self, ref: JobRef, asker: Asker, request: UpdateRequest) -> Job:
        """See `Engine.update`."""
        changes = _words(request.changes)
        rows = await self._verbs.own(ref, asker, request.revision)
        open_rows = [row for row in rows if not row.status.state.is_final]
        if not open_rows:
            raise conflict(rows[0], "only a job that has not ended can be changed")
        first = open_rows[0]
        with as_api_error():
            change = await self._change(open_rows, asker, changes)
            await self._check(change(first.spec), first)
            self._check_circle(change(first.spec), open_rows)
            return await self._carry_out(open_rows, asker, changes, change)

    async def _carry_out(
        self, rows: list[JobRow], asker: Asker, changes: Mapping[Word, str], change: Callable[[JobSpec], JobSpec]
    ) -> Job:
        running = [row for row in rows if row.status.state is not JobState.PENDING]
        for row in running:
            self._check_running(row, change(row.spec), asker, changes)
        for row in running:
            spec = change(row.spec)
            await self._core.amend(row.id, spec, event="Updated", by=asker.user, revision=row.revision)
            if spec.time_limit_s != row.spec.time_limit_s:
                await watch.change_limit(self._runner.attempt(row), spec.time_limit_s)
        waiting = [row for row in rows if row.status.state is JobState.PENDING]
        if waiting:
            return await self._verbs.amend(waiting, asker, "Updated", change)
        self._core.wake()
        return self._core.wire(self._core.jobs.get(rows[0].id) or rows[0])

    def _check_running(self, row: JobRow, spec: JobSpec, asker: Asker, changes: Mapping[Word, str]) -> None:
        fixed = [word.name for word in changes if not word.running]
        if fixed:
            raise conflict(row, f"{fixed[0]} can only be changed while it waits")
        before, after = row.spec.time_limit_s, spec.time_limit_s
        longer = before is not None and (after is None or after > before)
        if longer and not asker.admin:
            raise ApiError(403, "forbidden", "only an admin may give a running job more time; ask one", "TimeLimit")

    async def _change(
        self, rows: Sequence[JobRow], asker: Asker, changes: Mapping[Word, str]
    ) -> Callable[[JobSpec], JobSpec]:
        """All words read, as of the first job; what they make of a spec."""
        row = rows[0]
        fields: dict[str, object] = {}
        throttle: int | None = None
        more_s: int | None = None
        for word, text in changes.items():
            if word.name == "ArrayTaskThrottle":
                throttle = _throttle(row, text)
            elif word.name == "TimeLimit" and text[:1] in ("+", "-"):
                more_s = _more_s(text)
            else:
                fields.update(_read(word, text, row.spec))
        _check_rights(rows, asker, fields)
        whole = any(word.name == "ArrayTaskThrottle" for word in changes)
        groups = await asyncio.to_thread(groups_of, row.uid)
        config, resources = self._core.config, self._core.view.resources()

        def change(spec: JobSpec) -> JobSpec:
            made: JobSpec = replace(spec, **fields)
            if more_s is not None:
                made = replace(made, time_limit_s=_longer(spec.time_limit_s, more_s), time_said=True)
            if whole and spec.array is not None:
                text = arrays.show(spec.array.tasks, throttle)
                made = replace(made, array=replace(spec.array, limit=throttle, text=text))
            # As at the submit; what only an admin may was checked before, and what an admin gave is kept.
            return apply_rules(config, made, resources, user=row.user, groups=groups, admin=True)

        return change

    async def _check(self, spec: JobSpec, row: JobRow) -> None:
        """What the site's rules do not know: whether what it names is there."""
        if spec.partition is not None and spec.partition != row.spec.partition:
            self._arrangements.partitions.open_of(spec.partition)
        name, named = spec.reservation, (spec.reservation, spec.account)
        if name is not None and named != (row.spec.reservation, row.spec.account):
            refusal = self._arrangements.refusal_of(name, row.user, spec.account)
            if refusal is not None:
                raise ApiError(400, "bad_option", refusal, "ReservationName")
        if spec.dependency is not None and spec.dependency != row.spec.dependency:
            ids = dependency.referenced(spec.dependency)
            own = [each for each in ids if each in (row.id, row.array_job_id)]
            unknown = own or await self._core.store.read(steps.unknown_ids, ids)
            if unknown:
                sentence = f"job {unknown[0]} cannot be depended on; see stoker jobs"
                raise ApiError(400, "bad_option", sentence, "Dependency")

    def _check_circle(self, spec: JobSpec, rows: list[JobRow]) -> None:
        """Jobs that wait for each other would wait for ever."""
        if spec.dependency is None or spec.dependency == rows[0].spec.dependency:
            return
        if dependency.is_circular(spec.dependency, {row.id for row in rows}, self._meant):
            text = dependency.text(spec.dependency)
            sentence = f"Dependency={text} is circular: job {rows[0].id} would wait for itself; see stoker show"
            raise ApiError(400, "bad_option", sentence, "Dependency")

    def _meant(self, condition: Dependency) -> list[dependency.Step]:
        """The jobs of a condition that have not ended, and what those that wait depend on."""
        jobs, job_id, task_id = self._core.jobs, condition.job_id, condition.task_id
        if job_id is None:
            return []
        alone = jobs.get(job_id)
        rows = [alone] if alone and alone.array_job_id is None else jobs.of_array(job_id)
        meant = [row for row in rows if task_id is None or row.array_task_id == task_id]
        return [(row.id, row.spec.dependency if row.status.state is JobState.PENDING else None) for row in meant]


def _words(changes: Mapping[str, str]) -> dict[Word, str]:
    """The words that are meant.

    Raises:
        ApiError: 400, naming the one that is none.
    """
    if not changes:
        raise ApiError(400, "bad_option", f"nothing is to be changed; known: {', '.join(_names())}", "$.changes")
    found = {}
    for name, text in changes.items():
        key = _ALSO.get(name.lower(), name.lower())
        word = _BY_NAME.get(key)
        if word is None:
            import difflib  # only for a mistake

            close = difflib.get_close_matches(key, list(_BY_NAME), n=1, cutoff=0.6)
            hint = f"did you mean {_BY_NAME[close[0]].name}?" if close else f"known: {', '.join(_names())}"
            raise ApiError(400, "bad_option", f"{name[:40]!r} cannot be changed; {hint}", name[:40])
        found[word] = text
    return found


def _names() -> list[str]:
    return [word.name for word in WORDS]


def _read(word: Word, text: str, spec: JobSpec) -> dict[str, object]:
    """What a word makes of the spec's fields, as the parser reads its flag."""
    if not text and word.empty:
        return dict.fromkeys(word.fields)
    flags = _flags(word, text)
    request = SubmitRequest(script="#!/bin/sh\n", script_name="job", flags=flags, work_dir=spec.work_dir)
    read = parse.parse(request, now=now())
    values = {name: getattr(read, name) for name in word.fields}
    if word.name == "Priority" and values["held"] == "user":
        values["held"] = "admin"  # Priority=0 is an admin's hold, as in Slurm
    elif word.name == "Priority":
        values["held"] = None
    return values


def _flags(word: Word, text: str) -> tuple[str, ...]:
    if word.name == "Requeue":
        if text not in ("0", "1"):
            raise ApiError(400, "bad_option", f"Requeue={text[:40]!r} is neither 0 nor 1", "Requeue")
        return ("--requeue",) if text == "1" else ("--no-requeue",)
    return (f"{word.flag}={text}",)


def _more_s(text: str) -> int:
    """`+30`, `-1:00:00`: what a limit grows by."""
    try:
        amount_s = grammar.time_limit_s(text[1:])
    except grammar.GrammarError:
        amount_s = None
    if amount_s is None:
        sentence = f"Invalid TimeLimit value: {text[:40]!r} is no time; write for example TimeLimit+=30 or -=1:00:00"
        raise ApiError(400, "bad_option", sentence, "TimeLimit")
    return amount_s if text[0] == "+" else -amount_s


def _longer(before_s: int | None, more_s: int) -> int:
    if before_s is None:
        raise ApiError(400, "bad_option", "the job has no time limit that could be changed by that", "TimeLimit")
    if before_s + more_s <= 0:
        told = f"({-more_s // 60} > {before_s // 60})"
        raise ApiError(
            400, "bad_option", f"TimeLimit decrement larger than current time limit {told}; name the limit", "TimeLimit"
        )
    return before_s + more_s


def _throttle(row: JobRow, text: str) -> int | None:
    if row.spec.array is None:
        raise ApiError(400, "bad_option", f"job {row.id} is no array", "ArrayTaskThrottle")
    if not (text.isascii() and text.isdecimal() and len(text) < 8):
        raise ApiError(400, "bad_option", f"ArrayTaskThrottle={text[:40]!r} is no number", "ArrayTaskThrottle")
    return int(text) or None


def _check_rights(rows: Sequence[JobRow], asker: Asker, fields: Mapping[str, object]) -> None:
    """Nobody but an admin puts a job before others.

    What a nice was given for stays: it may be what `top` gave to another job of the user's, which keeps it.
    """
    if asker.admin:
        return
    if "priority" in fields:
        raise ApiError(403, "forbidden", "only an admin may set a priority; --nice lowers your own", "Priority")
    nice = fields.get("nice")
    if isinstance(nice, int) and any(nice < row.spec.nice for row in rows):
        sentence = "only an admin may lower a job's nice; among your own jobs: stoker top"
        raise ApiError(403, "forbidden", sentence, "Nice")
