"""Screen 3: the queue and the jobs that have ended; and what may be done to jobs wherever they are listed."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message

from tui import arrays, rows, status, units
from tui.cluster import JobKey, job_key
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


class CancelJobs(Message):
    """Jobs are to be cancelled, once the operator has said yes."""

    def __init__(self, keys: tuple[JobKey, ...]) -> None:
        super().__init__()
        self.keys = keys


class JobActions(BaseScreen):
    """A screen with a list of jobs in a table called `queue`."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.JOBS)

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # the screen's own
        self.marked: set[JobKey] = set()

    def show_jobs(self, table: Table) -> None:
        """Draw the list; marks of jobs that have ended meanwhile are dropped."""
        jobs = self.session.cluster.jobs()
        self.marked &= {job_key(job) for job in jobs if not job.state.is_final}
        table.show(rows.job_rows(jobs, self.session.wall(), self.marked))

    def marked_words(self) -> str:
        """How many jobs are marked, those out of sight counted too."""
        return f"{len(self.marked)} marked, u forgets" if self.marked else ""

    def open_node_screen(self, name: str) -> None:
        """Ask the application for a node's screen."""
        self.post_message(OpenNode(name))

    @on(Table.Opened, "#queue")
    def open_job(self, event: Table.Opened) -> None:
        """Enter on a job."""
        if (key := self.job_here(event.table)) is not None:
            self.post_message(OpenJob(key))

    def action_open(self) -> None:
        """Open the job under the cursor, wherever the focus is."""
        self._queue().action_open()

    def action_mark(self) -> None:
        """Mark or unmark the job under the cursor, and move on."""
        key = self.job_here(self._queue())
        job = self.session.cluster.job(key) if key else None
        if key is None or job is None or job.state.is_final:
            return
        self.marked ^= {key}
        self._queue().action_move(1)
        self.update()

    def action_unmark(self) -> None:
        """Forget all marks."""
        self.marked.clear()
        self.update()

    def action_cancel(self) -> None:
        """Ask about the marked jobs, or the one under the cursor."""
        here = self.job_here(self._queue())
        keys = tuple(sorted(self.marked, key=lambda key: (key[1], key[0]))) or ((here,) if here else ())
        if keys:
            self.post_message(CancelJobs(keys))

    def job_here(self, table: Table) -> JobKey | None:
        """The job under a table's cursor."""
        key = table.key
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
        yield Table(rows.JOB_COLUMNS, empty="no jobs; S submits one", id="queue")
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
        key = self.job_here(queue)
        facts.display = key is not None
        if key is not None:
            job = self.session.cluster.job(key)
            assert job is not None
            facts.entitle(f"{job.id} {job.name}")
            facts.show(job_facts(self.session, job_key(job)))

    @on(Table.Moved, "#queue")
    def follow_cursor(self) -> None:
        """The facts are those of the row under the cursor."""
        self.update()


def job_facts(session: Session, key: JobKey) -> list[list[Span]]:
    """What there is to say about a job, in four lines."""
    job = session.cluster.job(key)
    if job is None:
        return [[(" the server does not know this job any more", Role.WARN)]]
    wall, clock = session.wall(), session.clock
    limit = f" of {units.elapsed(job.time_limit_s)}" if job.time_limit_s is not None else ""
    gpus = units.count(job.gpus, "simulated GPU" if job.simulated else "GPU")
    held = f" #{arrays.ranges(job.gpu_indexes)}" if job.gpu_indexes else ""
    first: list[Span] = [
        (" ", Role.TEXT),
        *rows.job_state(job),
        (f"  {job.user} on {job.node}", Role.STRONG),
        (f"  {units.elapsed(rows.run_time_s(job, wall))}{limit}", Role.TEXT),
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
    if why := rows.job_why(job):
        lines.append([(" " + why, Role.WARN)])
    output = f"   output {job.output_path}" if job.output_path else ""
    lines.append([(f" in {job.work_dir}{output}", Role.DIM)])
    return lines
