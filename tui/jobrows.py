"""What the screens write about jobs and arrays: rows of cells, as values.

Rules kept here: colour is never the only sign, a glyph or a word stands beside it; simulated GPUs say so on every line.
Pure: the wall clock is a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from agent.api.types import Job, JobState
from tui import arrays, safe, units
from tui.cluster import ArrayKey, Key, job_key
from tui.spans import Cell, Column, Role, Row, cell

JOB_COLUMNS = (
    Column(title="JOB", least=5, most=16, right=True, firm=True),
    Column(title="USER", least=5, most=12),
    Column(title="NAME", least=10, most=28),
    Column(title="STATE", least=11, most=18, firm=True),
    Column(title="GPUS", least=4, most=14, firm=True),
    Column(title="TIME", least=5, most=11, right=True, firm=True),
    Column(title="PRIO", least=5, most=8, right=True, firm=True, drop=2),
    Column(title="NODE", least=8, most=14, drop=1),
    Column(title="REASON", least=11, grow=True),
)
TASK_COLUMNS = (
    Column(title="TASK", least=5, most=16, right=True, firm=True),
    Column(title="PARAMS", least=6, most=40, drop=1),
    Column(title="STATE", least=11, most=18, firm=True),
    Column(title="GPUS", least=4, most=14, firm=True),
    Column(title="TIME", least=5, most=11, right=True, firm=True),
    Column(title="REASON", least=11, grow=True),
)

_JOB = {
    JobState.PENDING: ("○", Role.WARN),
    JobState.CONFIGURING: ("◌", Role.ACCENT),
    JobState.RUNNING: ("●", Role.OK),
    JobState.COMPLETING: ("◌", Role.ACCENT),
    JobState.COMPLETED: ("✓", Role.DIM),
    JobState.CANCELLED: ("-", Role.DIM),
    JobState.PREEMPTED: ("-", Role.WARN),
}


def job_rows(jobs: Iterable[Job], wall: float, marked: Collection[Key] = (), *, short: bool = False) -> list[Row]:
    """The list of jobs, an array on one line where its first task stands; `wall` is the time in Unix seconds."""
    groups: dict[Key, list[Job]] = {}
    for job in jobs:
        key = job_key(job) if job.array_job_id is None else ArrayKey(job.node, job.array_job_id)
        groups.setdefault(key, []).append(job)
    return [
        _array_row(key, tasks, wall, key in marked)
        if isinstance(key, ArrayKey)
        else _job_row(tasks[0], wall, key in marked, short)
        for key, tasks in groups.items()
    ]


def task_rows(jobs: Iterable[Job], wall: float, marked: Collection[Key] = (), *, short: bool = False) -> list[Row]:
    """The tasks of an array under `TASK_COLUMNS`."""
    return [_task_row(job, wall, job_key(job) in marked, short) for job in jobs]


def job_state(job: Job) -> Cell:
    """Glyph and word of a job's state; a running one that is warned wants attention."""
    glyph, role = _JOB.get(job.state, ("x", Role.BAD))
    if job.warning is not None:
        glyph, role = "!", Role.WARN
    return ((f"{glyph} {job.state.value}", role),)


def array_state(tasks: Sequence[Job]) -> Cell:
    """How many tasks of an array are how: `●2 ○95 ✓3`, what goes on first."""
    counts: dict[tuple[str, Role], int] = {}
    for job in sorted(tasks, key=lambda job: (job.state.is_final, job.state is JobState.PENDING)):
        glyph = _JOB.get(job.state, ("x", Role.BAD))
        counts[glyph] = counts.get(glyph, 0) + 1
    return tuple((f"{' ' if turn else ''}{glyph}{n}", role) for turn, ((glyph, role), n) in enumerate(counts.items()))


def array_label(tasks: Sequence[Job]) -> str:
    """`17_[0-99%4]`."""
    first = tasks[0]
    asked = first.array_text or arrays.ranges([job.array_task_id or 0 for job in tasks])
    return f"{first.array_job_id}_[{asked}]"


def run_time_s(job: Job, wall: float) -> float | None:
    """Seconds a job has run, or ran. Both ends are the node's clock, so a skewed one only bends a running job's."""
    if job.started_at is None:
        return None
    return max(0.0, (job.ended_at if job.ended_at is not None else wall) - job.started_at)


def job_gpus(job: Job, *, short: bool = False) -> str:
    """How many GPUs; simulated ones say so, with `short` in a word of three letters."""
    return f"{job.gpus} {simulated(short)}" if job.simulated else str(job.gpus)


def simulated(short: bool) -> str:
    """The word for it; with `short` of three letters."""
    return "sim" if short else "simulated"


def job_why(job: Job) -> str:
    """Why it waits, or how it ended."""
    said = ": ".join(part for part in (job.reason, job.detail) if part)
    if job.state in (JobState.FAILED, JobState.TIMEOUT, JobState.CANCELLED) and not said:
        return f"signal {job.signal}" if job.signal else f"exit code {job.exit_code}" if job.exit_code else ""
    return said


def job_note(job: Job, wall: float) -> str:
    """What a list has room for: of a warned job when it is stopped; of one put back why, and why it waits now."""
    why = job_why(job)
    if job.warning is not None:
        return f"idle: stopped {stops_in(job, wall)} unless it uses its GPUs"
    if job.again is not None:
        word = job.again.partition(":")[0]
        return f"{word}; now {why}" if why and job.reason != word else why or word
    return why


def stops_in(job: Job, wall: float) -> str:
    """How long until a warned job is stopped: `in 9 min 4 s`."""
    away = (job.stops_at or wall) - wall
    return f"in {units.countdown(away)}" if away >= 1 else "soon"


def starts_in(job: Job, wall: float) -> str:
    """How long until a waiting job should have started: `41 s`, `2 h 5 min`; a dash where nobody can tell."""
    if job.state is not JobState.PENDING or job.expected_start_at is None:
        return units.UNKNOWN
    away = job.expected_start_at - wall
    return units.countdown(away) if away >= 1 else "next"


def priority_parts(job: Job) -> str:
    """The terms of a waiting job's priority that count: `age 20 + fairshare 1000 - nice 100`."""
    parts = job.priority_parts
    if parts is None:
        return ""
    if parts.site:
        return f"set to {parts.site}"
    named = ("age", "fairshare", "jobsize", "partition", "qos")
    plus = " + ".join(f"{name} {getattr(parts, name)}" for name in named if getattr(parts, name))
    minus = f" {'-' if parts.nice > 0 else '+'} nice {abs(parts.nice)}" if parts.nice else ""
    return f"{plus or '0'}{minus}"


def _job_row(job: Job, wall: float, marked: bool, short: bool) -> Row:
    cells = (
        _named(arrays.label(job), marked),
        cell(job.user),
        cell(job.name),
        job_state(job),
        cell(job_gpus(job, short=short)),
        _time(job, wall),
        cell(units.UNKNOWN if job.priority is None else str(job.priority), Role.DIM),
        cell(job.node),
        _note(job, wall),
    )
    return Row(key=job_key(job), cells=cells)


def _note(job: Job, wall: float) -> Cell:
    return cell(job_note(job, wall), Role.DIM if job.warning is None else Role.WARN)


def _array_row(key: ArrayKey, tasks: Sequence[Job], wall: float, marked: bool) -> Row:
    """An array on one line: its first waiting task says why and when, what runs how long."""
    waiting = [job for job in tasks if job.state is JobState.PENDING]
    running = [job for job in tasks if not job.state.is_final and job.state is not JobState.PENDING]
    told = (waiting or running or list(tasks))[0]
    cells = (
        _named(safe.truncate(array_label(tasks), 16), marked),
        cell(told.user),
        cell(told.name),
        array_state(tasks),
        cell(f"{told.gpus} each"),
        _time(min(running, key=lambda job: job.started_at or 0) if running else told, wall),
        cell(units.UNKNOWN if told.priority is None else str(told.priority), Role.DIM),
        cell(told.node),
        _note(next((job for job in running if job.warning is not None), told), wall),
    )
    return Row(key=key, cells=cells)


def _task_row(job: Job, wall: float, marked: bool, short: bool) -> Row:
    parameters = "  ".join(f"{name}={value}" for name, value in job.sweep.items())
    cells = (
        _named(arrays.label(job), marked),
        cell(parameters),
        job_state(job),
        cell(job_gpus(job, short=short)),
        _time(job, wall),
        _note(job, wall),
    )
    return Row(key=job_key(job), cells=cells)


def _named(label: str, marked: bool) -> Cell:
    return ((f"{'*' if marked else ''}{label}", Role.WARN if marked else Role.STRONG),)


def _time(job: Job, wall: float) -> Cell:
    """How long it runs or ran; of a waiting job how soon it should start."""
    if job.state is JobState.PENDING and job.expected_start_at is not None:
        away = job.expected_start_at - wall
        return cell(f"in {units.age(away)}" if away >= 1 else "next", Role.DIM)
    time = run_time_s(job, wall)
    return cell(units.elapsed(time) if time is not None else units.UNKNOWN)
