"""Screen 2: all nodes with a preview of the GPUs under the cursor; and the screen of one node."""

from __future__ import annotations

import logging
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType

from agent.api.errors import StokerError
from agent.api.queue import Reservation
from agent.api.types import Job
from tui import arrays, jobrows, rows, units
from tui.cluster import Freshness, NodeView
from tui.keymap import Scope
from tui.screens.base import BaseScreen, title_with_count
from tui.screens.hostnow import HostNow
from tui.screens.jobs import JobActions, OpenGpu, OpenHost, OpenInventory, OpenNode
from tui.session import Session
from tui.spans import Role, Span, bar
from tui.widgets.keys import bindings
from tui.widgets.machines import MachineTable
from tui.widgets.panel import Panel
from tui.widgets.table import Table

_LOG = logging.getLogger(__name__)
_RESERVATIONS = 4
"""Reservations that a node's page names."""
_ROOM_FOR_HOST = 30
"""Lines of a terminal on which disk and network of a node are told."""
_ASK_AGAIN_S = 30.0
"""How often they are asked for."""


class NodesScreen(BaseScreen):
    """The list of nodes."""

    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.MACHINE)
    TITLE_WORDS = "Nodes"

    def body(self) -> ComposeResult:
        """Nodes over the GPUs of one."""
        yield MachineTable(rows.NODE_COLUMNS, empty="no node has been heard of yet", id="nodes")
        yield Table(rows.GPU_COLUMNS, empty="no GPUs", id="preview")

    def on_mount(self) -> None:
        """Keys go to the list; the preview only shows."""
        super().on_mount()
        self.query_one("#preview", Table).can_focus = False
        self.query_one("#nodes", Table).focus()

    def update_body(self, now: float) -> None:
        """Draw the list and the preview."""
        nodes, preview = self.query_one("#nodes", Table), self.query_one("#preview", Table)
        nodes.show(rows.node_rows(self.session.cluster.nodes(now), self.session.traces.drawn, short=self.short))
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

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.NODE)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.JOBS, Scope.NODE)
    MORE_SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.MACHINE,)
    DETAIL = True

    def __init__(self, session: Session, name: str) -> None:
        super().__init__(session)
        self.node_name = name
        self._reservations: list[Reservation] = []
        self._asked_at: float | None = None
        self._host = HostNow(session, name)

    def body(self) -> ComposeResult:
        """Facts, GPUs, jobs."""
        yield Panel(id="facts")
        yield MachineTable(rows.GPU_COLUMNS, empty="no GPUs", id="gpus")
        yield Table(jobrows.JOB_COLUMNS, empty="no jobs on this node", id="queue")

    def on_mount(self) -> None:
        """Keys go to the jobs."""
        super().on_mount()
        self.query_one("#queue", Table).focus()

    def trail(self) -> tuple[str, ...]:
        """Nodes, and which."""
        return "Nodes", self.node_name

    def jobs_shown(self) -> list[Job]:
        """Only those of this node."""
        return [job for job in self.session.cluster.jobs() if job.node == self.node_name]

    def update_body(self, now: float) -> None:
        """Draw all three."""
        facts, gpus, queue = self.query_one("#facts", Panel), self.query_one("#gpus", Table), self._queue()
        view = self.session.cluster.node(self.node_name, now)
        facts.entitle(self.node_name)
        facts.show([*_node_facts(view, self.session), *self._host_line(now), *self._reserved(view)])
        self._ask_reservations(now)
        listed = rows.gpu_rows(self.session.cluster, view, short=self.short) if view else []
        gpus.show(listed)
        gpus.styles.height = min(max(2, len(listed)), max(4, self.size.height - 16)) + 3
        gpus.entitle(f"GPUs {len(listed)}", _driver(view) if view else "")
        self.show_jobs(queue)
        queue.entitle(title_with_count("Jobs", queue), self.marked_words())

    def _host_line(self, now: float) -> list[list[Span]]:
        """Disk and network, where there is room for it; `i` tells it everywhere."""
        if self.size.height < _ROOM_FOR_HOST:
            return []
        if self._host.is_due(now):
            self.run_worker(self._host.load, thread=True, exit_on_error=False, exclusive=True, group="host")
        return [self._host.spans()]

    @on(Table.Opened, "#gpus")
    def open_gpu(self, event: Table.Opened) -> None:
        """Enter on a GPU."""
        if isinstance(event.key, tuple):
            self.post_message(OpenGpu(str(event.key[0]), str(event.key[1])))

    def action_host(self) -> None:
        """The node beside its GPUs."""
        self.post_message(OpenHost(self.node_name))

    def action_inventory(self) -> None:
        """What it is known to have."""
        self.post_message(OpenInventory(self.node_name))

    def _reserved(self, view: NodeView | None) -> list[list[Span]]:
        """Who has booked what of the node."""
        moment = self.session.clock.moment
        indexes = {gpu.uuid: gpu.index for gpu in view.gpus} if view else {}
        lines: list[list[Span]] = []
        for each in self._reservations[:_RESERVATIONS]:
            who = "maintenance" if each.maintenance else "for " + ", ".join((*each.users, *each.accounts))
            held = [indexes[uuid] for uuid in each.gpu_uuids if uuid in indexes]
            what = f"GPUs {arrays.ranges(held)}" if held else units.count(len(each.gpu_uuids), "GPU")
            words = f" reserved {each.name}: {what if each.gpu_uuids else 'all'} {who}   "
            lines.append([(words, Role.ACCENT), (f"{moment(each.start_at)} to {moment(each.end_at)}", Role.DIM)])
        return lines

    def _ask_reservations(self, now: float) -> None:
        """They are not in the watch stream: ask now and then."""
        if self._asked_at is None or now - self._asked_at >= _ASK_AGAIN_S:
            self._asked_at = now
            self._load_reservations()

    @work(thread=True, exit_on_error=False, exclusive=True, group="reservations")
    def _load_reservations(self) -> None:
        """Wait for the server, off this thread."""
        try:
            found = self.session.ask(lambda client: client.reservations(self.node_name))
        except StokerError as error:
            _LOG.debug("no reservations of %s: %s", self.node_name, error)
        else:
            self.app.call_from_thread(self._take_reservations, found)

    def _take_reservations(self, found: list[Reservation]) -> None:
        self._reservations = found
        if self.is_mounted:
            self.update()


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
    if view.incidents:
        state += [("   ", Role.TEXT), *rows.health(view)]
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
    if node.drain is not None:
        lines.append([(f" * {rows.drain_note(node.drain)}; no new job starts here", Role.WARN)])
    skew = node.time + view.age_s - session.wall()
    if abs(skew) >= 5:
        lines.append([(f" ! its clock is {units.age(abs(skew))} {'ahead' if skew > 0 else 'behind'}", Role.WARN)])
    if node.gpu_reason:
        lines.append([(f" {node.gpu_reason}", Role.WARN)])
    return lines
