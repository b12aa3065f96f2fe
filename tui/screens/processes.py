"""Screen 5: who uses the GPUs of all nodes: processes with their jobs, sorted and filtered."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType

from tui import processes
from tui.keymap import Scope
from tui.processes import Using
from tui.screens.base import BaseScreen, title_with_count
from tui.screens.jobs import AskOfJobs, OpenGpu, OpenJob, OpenNode
from tui.session import Session
from tui.widgets.keys import bindings
from tui.widgets.table import Table


class ProcessesScreen(BaseScreen):
    """One list."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.PROCESSES)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.PROCESSES)
    TITLE_WORDS = "Processes"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._order = 0
        self._turned = False
        self._found: list[Using] = []

    def body(self) -> ComposeResult:
        """The list."""
        yield Table(processes.COLUMNS, empty="no process is seen on any GPU, and no job holds one", id="processes")

    def on_mount(self) -> None:
        """Keys go to the list."""
        super().on_mount()
        self.query_one(Table).focus()

    def update_body(self, now: float) -> None:
        """Draw it."""
        cluster, table = self.session.cluster, self.query_one(Table)
        order = processes.ORDERS[self._order]
        found = processes.all_of(cluster, cluster.nodes(now))
        self._found = processes.in_order(found, order, turned=self._turned)
        table.show(processes.table_rows(self._found, self.session.clock))
        by = f"sorted by {order}{', turned round' if self._turned else ''}"
        table.entitle(title_with_count("GPU users", table), f"{processes.summary(self._found)}   {by}")

    def _here(self) -> Using | None:
        key = self.query_one(Table).key
        return next((each for each in self._found if each.key == key), None)

    @on(Table.Opened, "#processes")
    def open_gpu(self) -> None:
        """Enter: its GPU."""
        if (here := self._here()) is not None:
            self.post_message(OpenGpu(here.view.name, here.gpu.uuid))

    def action_job(self) -> None:
        """Its job."""
        if (here := self._here()) is None:
            return
        if here.job_key is None:
            self.notify("It is no job's.", markup=False)
        else:
            self.post_message(OpenJob(here.job_key))

    def action_node(self) -> None:
        """Its node."""
        if (here := self._here()) is not None:
            self.post_message(OpenNode(here.view.name))

    def action_sort(self) -> None:
        """By the next column."""
        self._order = (self._order + 1) % len(processes.ORDERS)
        self.update()

    def action_turn(self) -> None:
        """The other way round."""
        self._turned = not self._turned
        self.update()

    def action_cancel(self) -> None:
        """End its job; what is no job's is not ours to end."""
        here = self._here()
        if here is None:
            return
        if here.job_key is not None:
            self.post_message(AskOfJobs("cancel", (here.job_key,)))
            return
        pid, whose = here.key[2], here.user or "its user"
        sentence = f"It is no job's, so nothing here ends it: ask {whose}, or on {here.view.name}: kill {pid}"
        self.notify(sentence, timeout=10, markup=False)
