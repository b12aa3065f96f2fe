"""The tasks of one array, each with its parameters."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult

from agent.api.types import Job
from tui import actions, jobrows
from tui.cluster import ArrayKey
from tui.keymap import Scope
from tui.screens.base import title_with_count
from tui.screens.jobs import JobActions, array_facts
from tui.session import Session
from tui.widgets.panel import Panel
from tui.widgets.table import Table


class ArrayScreen(JobActions):
    """What the array is, over its tasks."""

    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.JOBS)
    DETAIL = True

    def __init__(self, session: Session, key: ArrayKey) -> None:
        super().__init__(session)
        self.key = key

    def body(self) -> ComposeResult:
        """Facts, tasks."""
        yield Panel(id="facts")
        yield Table(jobrows.TASK_COLUMNS, empty="the server does not know this array any more", id="queue")

    def on_mount(self) -> None:
        """Keys go to the tasks."""
        super().on_mount()
        self._queue().focus()

    def trail(self) -> tuple[str, ...]:
        """Jobs, and which array."""
        return "Jobs", f"array {self.key.id}"

    def jobs_shown(self) -> list[Job]:
        """Its tasks."""
        return actions.tasks_of(self.key, self.session.cluster.jobs())

    def show_jobs(self, table: Table) -> None:
        """A line for each task."""
        tasks = self.jobs_shown()
        self.forget_ended(tasks)
        table.show(jobrows.task_rows(tasks, self.session.wall(), self.marked, short=self.short))

    def update_body(self, now: float) -> None:
        """Draw both."""
        facts, queue = self.query_one("#facts", Panel), self._queue()
        tasks = self.jobs_shown()
        facts.entitle(tasks[0].name if tasks else f"array {self.key.id}")
        facts.show(array_facts(self.session, self.key))
        self.show_jobs(queue)
        queue.entitle(title_with_count("Tasks", queue), self.marked_words())
