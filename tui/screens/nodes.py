"""Screen 2: all nodes with a preview of the GPUs under the cursor; and the screen of one node."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult

from tui import rows, units
from tui.cluster import Freshness, NodeView
from tui.keymap import Scope
from tui.screens.base import BaseScreen, title_with_count
from tui.screens.jobs import JobActions, OpenNode
from tui.session import Session
from tui.spans import Role, Span, bar
from tui.widgets.panel import Panel
from tui.widgets.table import Table


class NodesScreen(BaseScreen):
    """The list of nodes."""

    TITLE_WORDS = "Nodes"

    def body(self) -> ComposeResult:
        """Nodes over the GPUs of one."""
        yield Table(rows.NODE_COLUMNS, empty="no node has been heard of yet", id="nodes")
        yield Table(rows.GPU_COLUMNS, empty="no GPUs", id="preview")

    def on_mount(self) -> None:
        """Keys go to the list; the preview only shows."""
        super().on_mount()
        self.query_one("#preview", Table).can_focus = False
        self.query_one("#nodes", Table).focus()

    def update_body(self, now: float) -> None:
        """Draw the list and the preview."""
        nodes, preview = self.query_one("#nodes", Table), self.query_one("#preview", Table)
        nodes.show(rows.node_rows(self.session.cluster.nodes(now)))
        nodes.entitle(title_with_count("Nodes", nodes))
        view = self.session.cluster.node(str(nodes.key), now) if nodes.key is not None else None
        preview.display = view is not None
        if view is not None:
            preview.show(rows.gpu_rows(self.session.cluster, view, short=self.short))
            preview.styles.height = min(len(view.gpus) or 2, max(4, self.size.height // 2 - 3)) + 3
            preview.entitle(view.name, _driver(view))

    @on(Table.Moved, "#nodes")
    def follow_cursor(self) -> None:
        """The preview is that of the row under the cursor."""
        self.update()

    @on(Table.Opened, "#nodes")
    def open_node(self, event: Table.Opened) -> None:
        """Enter on a node."""
        self.post_message(OpenNode(str(event.key)))


class NodeScreen(JobActions):
    """One node: the machine, its GPUs, its jobs."""

    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.JOBS)
    DETAIL = True

    def __init__(self, session: Session, name: str) -> None:
        super().__init__(session)
        self.node_name = name

    def body(self) -> ComposeResult:
        """Facts, GPUs, jobs."""
        yield Panel(id="facts")
        yield Table(rows.GPU_COLUMNS, empty="no GPUs", id="gpus")
        yield Table(rows.JOB_COLUMNS, empty="no jobs on this node", id="queue")

    def on_mount(self) -> None:
        """Keys go to the jobs."""
        super().on_mount()
        self.query_one("#queue", Table).focus()

    def trail(self) -> tuple[str, ...]:
        """Nodes, and which."""
        return "Nodes", self.node_name

    def show_jobs(self, table: Table) -> None:
        """Only those of this node."""
        jobs = [job for job in self.session.cluster.jobs() if job.node == self.node_name]
        table.show(rows.job_rows(jobs, self.session.wall(), self.marked))

    def update_body(self, now: float) -> None:
        """Draw all three."""
        facts, gpus, queue = self.query_one("#facts", Panel), self.query_one("#gpus", Table), self._queue()
        view = self.session.cluster.node(self.node_name, now)
        facts.entitle(self.node_name)
        facts.show(_node_facts(view, self.session))
        listed = rows.gpu_rows(self.session.cluster, view, short=self.short) if view else []
        gpus.show(listed)
        gpus.styles.height = min(max(2, len(listed)), max(4, self.size.height - 16)) + 3
        gpus.entitle(f"GPUs {len(listed)}", _driver(view) if view else "")
        self.show_jobs(queue)
        queue.entitle(title_with_count("Jobs", queue), self.marked_words())


def _driver(view: NodeView) -> str:
    if view.simulated:
        return "simulated GPUs"
    return f"driver {view.node.driver_version}" if view.node and view.node.driver_version else ""


def _node_facts(view: NodeView | None, session: Session) -> list[list[Span]]:
    """State, machine and clock of a node."""
    if view is None:
        return [[(" the server does not know this node any more", Role.WARN)]]
    state: list[Span] = [(" ", Role.TEXT), *rows.freshness(view), (f"   heard {units.age(view.age_s)} ago", Role.DIM)]
    if view.reason:
        state.append((f"   {view.reason}", Role.WARN))
    node = view.node
    if node is None:
        return [state]
    state += [
        (f"   agent {node.version}, {node.mode} mode", Role.DIM),
        (f"   licence {node.stage}" if node.stage else "", Role.DIM),
    ]
    if view.freshness is Freshness.LOST:
        return [state]
    used = node.memory_total_bytes - node.memory_available_bytes
    cpu = None if node.cpu_percent is None else node.cpu_percent / 100
    machine: list[Span] = [
        (" CPU ", Role.DIM), *bar(cpu, 10), (f" {units.percent(node.cpu_percent)} of {node.cpu_count}", Role.TEXT),
        ("   RAM ", Role.DIM), *bar(used / max(1, node.memory_total_bytes), 10, Role.MEMORY),
        (f" {units.gib_of(used, node.memory_total_bytes)}", Role.TEXT),
        (f"   load {node.load_1m:.1f}" if node.load_1m is not None else "", Role.TEXT),
    ]  # fmt: skip
    lines = [state, machine]
    skew = node.time + view.age_s - session.wall()
    if abs(skew) >= 5:
        lines.append([(f" ! its clock is {units.age(abs(skew))} {'ahead' if skew > 0 else 'behind'}", Role.WARN)])
    if node.gpu_reason:
        lines.append([(f" {node.gpu_reason}", Role.WARN)])
    return lines
