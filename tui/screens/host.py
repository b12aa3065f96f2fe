"""A node beside its GPUs: CPU, memory, disk and network now and in the past, and how its GPUs are linked."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult

from agent.api.telemetry import HOST_METRICS
from tui import topology, units
from tui.keymap import Scope
from tui.screens.gpu import PastKeys
from tui.screens.hostnow import HostNow
from tui.session import Session
from tui.spans import Role, Span
from tui.widgets.panel import Panel
from tui.widgets.past import Past
from tui.widgets.sheet import Sheet


class HostScreen(PastKeys):
    """See the module."""

    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.PAST, Scope.SHEET)
    DETAIL = True

    def __init__(self, session: Session, node: str) -> None:
        super().__init__(session)
        self.node_name = node
        self._now = HostNow(session, node)

    def body(self) -> ComposeResult:
        """Values, links, past."""
        yield Panel(id="facts")
        yield Sheet(id="values")
        yield Past(self.session, tuple(HOST_METRICS), id="past")

    def on_mount(self) -> None:
        """Keys go to the matrix."""
        super().on_mount()
        self.query_one(Sheet).focus()

    def trail(self) -> tuple[str, ...]:
        """Nodes, which, and what of it."""
        return "Nodes", self.node_name, "Host"

    def update_body(self, now: float) -> None:
        """Draw all three."""
        view = self.session.cluster.node(self.node_name, now)
        facts, values, past = self.query_one(Panel), self.query_one(Sheet), self.query_one(Past)
        past.styles.height = max(7, min(16, self.size.height // 3))
        past.look_at(self.node_name, None, now)
        if self._now.is_due(now):
            self.run_worker(self._now.load, thread=True, exit_on_error=False, exclusive=True, group="host")
        node = view.node if view is not None else None
        facts.entitle(f"host of {self.node_name}")
        lines: list[list[Span]] = [[(" nothing is known of it now", Role.WARN)]]
        if view is not None and node is not None:
            used = node.memory_total_bytes - node.memory_available_bytes
            load = units.UNKNOWN if node.load_1m is None else f"{node.load_1m:.1f}"
            lines = [
                [
                    (f" CPU {units.percent(node.cpu_percent)} of {node.cpu_count}   load {load}", Role.TEXT),
                    (f"   RAM {units.size(used)} of {units.size(node.memory_total_bytes)}", Role.TEXT),
                ],
                self._now.spans(),
            ]
        facts.show(lines)
        matrix = topology.lines(view.gpus, self.size.width - 4) if view is not None else []
        values.show(matrix)
        values.entitle("Links between the GPUs")
