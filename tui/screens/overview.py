"""Screen 1: all nodes with their GPUs, the queue, and on wide terminals load over time and the licence."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Container

from agent.api.types import Job, JobState
from tui import incidents, jobrows, rows, safe, status, units
from tui.keymap import Scope
from tui.screens.base import BaseScreen, title_with_count
from tui.screens.jobs import JobActions, OpenGpu, OpenNode
from tui.spans import Role, Span, bar
from tui.widgets.chart import Chart
from tui.widgets.kept import KeptHorizontal, KeptVertical
from tui.widgets.machines import MachineTable
from tui.widgets.panel import Panel
from tui.widgets.table import Table

_ALARMS = 5
"""Incidents that the overview names."""
_QUEUE_LEAST = 7
"""Lines the queue keeps, its frame counted."""
_FRAME = 3
"""Lines of a table that are not rows: frame and titles."""


class OverviewScreen(JobActions, BaseScreen):
    """At a glance."""

    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.JOBS)
    MORE_SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.MACHINE,)
    TITLE_WORDS = "Overview"

    def body(self) -> ComposeResult:
        """Lists at the left, the panels at the right where there is room."""
        with KeptHorizontal():
            with KeptVertical(id="lists"):
                yield MachineTable(rows.GPU_COLUMNS, empty="no node has been heard of yet", id="gpus")
                yield Table(jobrows.JOB_COLUMNS, empty="no jobs; S submits one", id="queue")
            with KeptVertical(id="side"):
                yield Panel(id="alarms")
                yield Chart(id="load")
                yield Panel(id="users")
                yield Panel(id="seats")

    def on_mount(self) -> None:
        """The queue is where keys go first."""
        super().on_mount()
        self.query_one("#queue", Table).focus()

    def update_body(self, now: float) -> None:
        """Draw both lists and the panels."""
        cluster = self.session.cluster
        gpus, queue = self.query_one("#gpus", Table), self.query_one("#queue", Table)
        height = self.query_one("#body", Container).size.height
        room = max(1, height - _QUEUE_LEAST - _FRAME)
        shown = rows.overview_rows(cluster, now, room, short=self.short)
        gpus.styles.height = min(max(2, len(shown)), room) + _FRAME
        gpus.show(shown)
        totals = cluster.totals(now)
        load = units.percent(totals.utilization_percent)
        gpus.entitle(f"GPUs {totals.gpus}", f"mean load {load}")
        self.show_jobs(queue)
        queue.entitle(title_with_count("Jobs", queue), self.marked_words() or status.queue_words(cluster, now))
        if self.has_class("-wide"):
            self._update_side()

    def sample(self, now: float) -> None:
        """One more point of the load chart; called once a second."""
        if self.is_mounted:
            self.chart.add(self.session.cluster.totals(now).utilization_percent)

    @property
    def chart(self) -> Chart:
        """Load over time."""
        return self.query_one(Chart)

    @on(Table.Opened, "#gpus")
    def open_node(self, event: Table.Opened) -> None:
        """A node or one of its GPUs: its own screen."""
        if isinstance(event.key, tuple):
            node, uuid = event.key
            self.post_message(OpenGpu(str(node), str(uuid)) if uuid else OpenNode(str(node)))

    def _update_side(self) -> None:
        self.chart.entitle("GPU load, last 10 min")
        alarms = self.query_one("#alarms", Panel)
        views = self.session.cluster.nodes(self.session.clock.monotonic())
        found = [each for each in incidents.told(views, {}, over=False) if each.incident.acknowledged_at is None]
        alarms.entitle(f"Incidents {len(found)}", "4 lists them" if found else "")
        alarms.show(incidents.brief(found[:_ALARMS], self.session.clock))
        users, seats = self.query_one("#users", Panel), self.query_one("#seats", Panel)
        users.entitle("GPUs by user")
        users.show(_user_lines(self.session.cluster.jobs()))
        seats.entitle("Seats")
        seats.show(self._seat_lines())

    def _seat_lines(self) -> list[list[Span]]:
        licence = self.session.cluster.licence
        if licence is None:
            return [[(" not known yet", Role.DIM)]]
        share = licence.seats_used / licence.seats_total if licence.seats_total else None
        lines: list[list[Span]] = [
            [(" ", Role.TEXT), *bar(share, 24), (f" {licence.seats_used} of {licence.seats_total}", Role.TEXT)]
        ]
        for holder in licence.holders[:8]:
            until = self.session.clock.moment(holder.until)
            lines.append([(f" {holder.node} ", Role.TEXT), (f"{len(holder.gpu_uuids)} GPUs until {until}", Role.DIM)])
        if licence.customer:
            lines.append([(f" {licence.customer} {licence.plan or ''}", Role.DIM)])
        return lines


def _user_lines(jobs: list[Job]) -> list[list[Span]]:
    """Who holds and who wants how many GPUs, the largest first."""
    held: dict[str, int] = {}
    wanted: dict[str, int] = {}
    for job in jobs:
        if job.state is JobState.PENDING:
            wanted[job.user] = wanted.get(job.user, 0) + job.gpus
        elif not job.state.is_final:
            held[job.user] = held.get(job.user, 0) + (len(job.gpu_uuids) or job.gpus)
    users = sorted({*held, *wanted}, key=lambda user: (-held.get(user, 0), user))
    lines: list[list[Span]] = [
        [
            (f" {safe.fit(user, 12)} ", Role.TEXT),
            (f"{held.get(user, 0):>4} held", Role.STRONG),
            (f"{wanted.get(user, 0):>5} wanted" if wanted.get(user) else "", Role.DIM),
        ]
        for user in users[:8]
    ]
    return lines or [[(" nobody", Role.DIM)]]
