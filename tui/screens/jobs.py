"""Screen 3: the queue and the jobs that have ended; and what may be done to jobs wherever they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message

from agent.api.queue import Verdict
from agent.api.types import Job, JobState
from tui import actions, arrays, jobrows, status, units
from tui.cluster import ArrayKey, JobKey, Key, job_key
from tui.keymap import Scope
from tui.screens.base import BaseScreen, title_with_count
from tui.session import Session
from tui.spans import Role, Span
from tui.widgets.keys import bindings
from tui.widgets.panel import Panel
from tui.widgets.table import Table


class OpenJob(Message):
    """A job's own screen is wanted."""

    def __init__(self, key: JobKey) -> None:
        super().__init__()
        self.key = key


class OpenNode(Message):
    """A node's own screen is wanted."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class OpenGpu(Message):
    """A GPU's own screen is wanted."""

    def __init__(self, node: str, uuid: str) -> None:
        super().__init__()
        self.node = node
        self.uuid = uuid


class OpenHost(Message):
    """A node beside its GPUs is wanted."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node


class OpenInventory(Message):
    """The inventory of a node is wanted."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node


class OpenArray(Message):
    """The tasks of an array are wanted."""

    def __init__(self, key: ArrayKey) -> None:
        super().__init__()
        self.key = key


class AskOfJobs(Message):
    """Something is to be done to jobs (a name in `actions.ACTIONS`), once the operator has agreed."""

    def __init__(self, action: str, keys: tuple[Key, ...]) -> None:
        super().__init__()
        self.action = action
        self.keys = keys


class JobActions(BaseScreen):
    """A screen with a list of jobs in a table called `queue`."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.JOBS)

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # the screen's own
        self.marked: set[Key] = set()

    def show_jobs(self, table: Table) -> None:
        """Draw the list; marks of jobs that have ended meanwhile are dropped."""
        jobs = self.jobs_shown()
        self.forget_ended(jobs)
        table.show(jobrows.job_rows(jobs, self.session.wall(), self.marked, short=self.short))

    def jobs_shown(self) -> list[Job]:
        """Those that the list is of."""
        return self.session.cluster.jobs()

    def forget_ended(self, jobs: Sequence[Job]) -> None:
        """Drop the marks of jobs that have ended."""
        active = [job for job in jobs if not job.state.is_final]
        arrays_of = {ArrayKey(job.node, job.array_job_id) for job in active if job.array_job_id is not None}
        self.marked &= {*map(job_key, active), *arrays_of}

    def marked_words(self) -> str:
        """How many jobs are marked, those out of sight counted too."""
        return f"{len(self.marked)} marked, u forgets" if self.marked else ""

    @on(Table.Opened, "#queue")
    def open_job(self, event: Table.Opened) -> None:
        """Enter on a job, or on an array."""
        key = self.key_here(event.table)
        if isinstance(key, ArrayKey):
            self.post_message(OpenArray(key))
        elif key is not None:
            self.post_message(OpenJob(key))

    def action_open(self) -> None:
        """Open the job under the cursor, wherever the focus is."""
        self._queue().action_open()

    def action_mark(self) -> None:
        """Mark or unmark the job under the cursor, and move on."""
        key = self.key_here(self._queue())
        if key is None or not actions.targets([key], self.session.cluster.jobs(), actions.is_active):
            return
        self.marked ^= {key}
        self._queue().action_move(1)
        self.update()

    def action_unmark(self) -> None:
        """Forget all marks."""
        self.marked.clear()
        self.update()

    def action_cancel(self) -> None:
        """Ask about cancelling the marked jobs, or the one under the cursor."""
        self.action_ask("cancel")

    def action_ask(self, name: str) -> None:
        """Ask about one of the actions, for the marked jobs, or for the one under the cursor."""
        here = self.key_here(self._queue())
        keys = tuple(sorted(self.marked, key=_in_order)) or ((here,) if here else ())
        if keys:
            self.post_message(AskOfJobs(name, keys))

    def key_here(self, table: Table) -> Key | None:
        """The job or the array under a table's cursor."""
        key = table.key
        if isinstance(key, ArrayKey):
            return key
        job = self.session.cluster.job(key) if isinstance(key, tuple) and len(key) == 2 else None
        return job_key(job) if job else None

    def _queue(self) -> Table:
        return self.query_one("#queue", Table)


class JobsScreen(JobActions):
    """The whole queue, and more about the job under the cursor."""

    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.JOBS)
    TITLE_WORDS = "Jobs"

    def body(self) -> ComposeResult:
        """The list over the facts of one job."""
        yield Table(jobrows.JOB_COLUMNS, empty="no jobs; S submits one", id="queue")
        yield Panel(id="facts")

    def on_mount(self) -> None:
        """Keys go to the list."""
        super().on_mount()
        self._queue().focus()

    def update_body(self, now: float) -> None:
        """Draw the list and the facts."""
        queue, facts = self._queue(), self.query_one("#facts", Panel)
        self.show_jobs(queue)
        words = self.marked_words() or status.queue_words(self.session.cluster, now)
        queue.entitle(title_with_count("Jobs", queue), words)
        key = self.key_here(queue)
        facts.display = key is not None
        if isinstance(key, ArrayKey):
            facts.entitle(f"array {key.id}")
            facts.show(array_facts(self.session, key))
        elif key is not None:
            job = self.session.cluster.job(key)
            assert job is not None
            facts.entitle(f"{arrays.label(job)} {job.name}")
            facts.show(job_facts(self.session, key))

    @on(Table.Moved, "#queue")
    def follow_cursor(self) -> None:
        """The facts are those of the row under the cursor."""
        self.update()


def job_facts(session: Session, key: JobKey) -> list[list[Span]]:
    """What there is to say about a job, in some four lines."""
    job = session.cluster.job(key)
    if job is None:
        return [[(" the server does not know this job any more", Role.WARN)]]
    wall, clock = session.wall(), session.clock
    limit = f" of {units.elapsed(job.time_limit_s)}" if job.time_limit_s is not None else ""
    gpus = units.count(job.gpus, "simulated GPU" if job.simulated else "GPU")
    held = f" #{arrays.ranges(job.gpu_indexes)}" if job.gpu_indexes else ""
    first: list[Span] = [
        (" ", Role.TEXT),
        *jobrows.job_state(job),
        (f"  {job.user} on {job.node}", Role.STRONG),
        (f"  {units.elapsed(jobrows.run_time_s(job, wall))}{limit}", Role.TEXT),
        (f"  {gpus}{held}", Role.TEXT),
        (f"  {job.cpus_per_task} CPU", Role.DIM),
        (f" {units.size(job.memory_bytes)}" if job.memory_bytes else "", Role.DIM),
    ]
    times = [f"submitted {clock.moment(job.submitted_at)}"]
    times += [f"started {clock.moment(job.started_at)}"] if job.started_at is not None else []
    times += [f"ended {clock.moment(job.ended_at)}"] if job.ended_at is not None else []
    times += [f"exit code {job.exit_code}"] if job.exit_code is not None else []
    times += [f"signal {job.signal}"] if job.signal is not None else []
    times += [f"attempt {job.attempt}"] if job.attempt > 1 else []
    lines: list[list[Span]] = [first, [(" " + "   ".join(times), Role.DIM)]]
    if job.warning is not None and job.stops_at is not None:
        when = f"{clock.moment(job.stops_at)}, {jobrows.stops_in(job, wall)}"
        lines.append([(" ! ", Role.WARN), (f"stopped {when}: ", Role.STRONG), (job.warning, Role.WARN)])
    if why := jobrows.job_why(job):
        lines.append([(" " + why, Role.WARN)])
    if job.again is not None and job.again != why:
        lines.append([(f" ran before. {job.again}", Role.TEXT)])
    if queued := _queue_words(session, job):
        lines.append([(" " + queued, Role.TEXT)])
    if verdict := _verdict(job):
        lines.append([(" " + verdict, Role.DIM if job.usage and job.usage.verdict is Verdict.FINE else Role.WARN)])
    output = f"   output {job.output_path}" if job.output_path else ""
    lines.append([(f" in {job.work_dir}{output}", Role.DIM)])
    return lines


def array_facts(session: Session, key: ArrayKey) -> list[list[Span]]:
    """What there is to say about an array, in three lines."""
    tasks = actions.tasks_of(key, session.cluster.jobs())
    if not tasks:
        return [[(" the server does not know this array any more", Role.WARN)]]
    told = next((job for job in tasks if job.state is JobState.PENDING), tasks[0])
    first: list[Span] = [(" ", Role.TEXT), *jobrows.array_state(tasks)]
    first.append((f"  {units.count(len(tasks), 'task')} of {told.user}'s {told.name} on {told.node}", Role.STRONG))
    limit = arrays.limit_of(told)
    at_once = f"   at most {limit} at a time" if limit else ""
    gpus = units.count(told.gpus, "simulated GPU" if told.simulated else "GPU")
    lines: list[list[Span]] = [first, [(f" {gpus} each{at_once}   tasks {told.array_text or ''}", Role.DIM)]]
    if why := jobrows.job_why(told):
        lines.append([(" " + why, Role.WARN)])
    if queued := _queue_words(session, told):
        lines.append([(" " + queued, Role.TEXT)])
    return lines


def _queue_words(session: Session, job: Job) -> str:
    """Where a waiting job stands: `priority 1520   starts 12:04:31 at the latest   after afterok:17`."""
    if job.state is not JobState.PENDING:
        return ""
    words = [f"priority {job.priority}"] if job.priority is not None else []
    if job.expected_start_at is not None:
        words.append(f"starts {session.clock.moment(job.expected_start_at)} at the latest")
    words += [f"waits for {job.dependency}"] if job.dependency else []
    words += [f"nice {job.nice}"] if job.nice else []
    return "   ".join(words)


def _verdict(job: Job) -> str:
    """What it makes of its GPUs: `data-starved, 41% on average: …`."""
    usage = job.usage
    if usage is None or usage.verdict is Verdict.UNKNOWN:
        return ""
    load = f", {units.percent(usage.utilization_percent)} on average" if usage.utilization_percent is not None else ""
    return f"{usage.verdict.value}{load}{f': {usage.sentence}' if usage.sentence else ''}"


def _in_order(key: Key) -> tuple[int, str]:
    return (key.id, key.node) if isinstance(key, ArrayKey) else (key[1], key[0])
