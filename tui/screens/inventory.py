"""The inventory of one node: the GPUs that it is known to have beside those that are there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType

from agent.api.errors import StokerError
from agent.api.health import KnownGpu
from tui import inventory, units
from tui.client import ClusterClient
from tui.keymap import Scope
from tui.screens import healthasks
from tui.screens.base import BaseScreen, title_with_count
from tui.screens.jobs import OpenGpu
from tui.session import Session
from tui.widgets.keys import bindings
from tui.widgets.table import Table

_ASK_AGAIN_S = 10.0
_LOG = logging.getLogger(__name__)


class InventoryScreen(BaseScreen):
    """See the module."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.INVENTORY)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.INVENTORY)
    DETAIL = True

    def __init__(self, session: Session, node: str) -> None:
        super().__init__(session)
        self.node_name = node
        self._known: list[KnownGpu] | None = None
        self._problem = ""
        self._asked_at: float | None = None

    def body(self) -> ComposeResult:
        """One list."""
        yield Table(inventory.COLUMNS, empty="nothing is known of this node's GPUs", id="inventory")

    def on_mount(self) -> None:
        """Keys go to the list."""
        super().on_mount()
        self.query_one(Table).focus()

    def trail(self) -> tuple[str, ...]:
        """Nodes, which, and what of it."""
        return "Nodes", self.node_name, "Inventory"

    def update_body(self, now: float) -> None:
        """Draw what is known beside what is there."""
        if self._asked_at is None or now - self._asked_at >= _ASK_AGAIN_S:
            self._asked_at = now
            self._load(lambda client: client.inventory(self.node_name), "")
        view, table = self.session.cluster.node(self.node_name, now), self.query_one(Table)
        there = view.gpus if view is not None else ()
        table.show(inventory.table_rows(self._known or (), there) if self._known is not None else ())
        differing = inventory.differences(self._known or (), there)
        words = (
            f"{units.count(len(differing), 'difference')}; A accepts what is there" if differing else "as at install"
        )
        unknown = "not remembered yet" if self._known == [] else "asking …"
        table.entitle(title_with_count("Inventory", table), self._problem or (words if self._known else unknown))

    @on(Table.Opened, "#inventory")
    def open_gpu(self, event: Table.Opened) -> None:
        """The GPU's own screen, where it is there."""
        view = self.session.cluster.node(self.node_name, self.session.clock.monotonic())
        if view is not None and any(gpu.uuid == event.key for gpu in view.gpus):
            self.post_message(OpenGpu(self.node_name, str(event.key)))

    def action_accept(self) -> None:
        """Ask whether what is there is right."""
        view = self.session.cluster.node(self.node_name, self.session.clock.monotonic())
        question = healthasks.ask_accept(
            self.node_name, inventory.differences(self._known or (), view.gpus if view is not None else ())
        )
        self.app.push_screen(question, lambda yes: self._accept() if yes else None)

    def _accept(self) -> None:
        done = f"The GPUs of {self.node_name} are remembered as they are"
        self._load(lambda client: client.accept_inventory(self.node_name), done)

    @work(thread=True, exit_on_error=False, group="calls")
    def _load(self, ask: Callable[[ClusterClient], list[KnownGpu]], done: str) -> None:
        """Wait for the server, off this thread."""
        try:
            found = self.session.ask(ask)
        except StokerError as error:
            _LOG.debug("no inventory of %s: %s", self.node_name, error)
            self.app.call_from_thread(self._take, None, str(error), changed=bool(done))
        else:
            self.app.call_from_thread(self._take, found, done, changed=bool(done))

    def _take(self, found: list[KnownGpu] | None, said: str, *, changed: bool) -> None:
        if changed:
            healthasks.tell(self.app, f"Refused: {said}" if found is None else said, bad=found is None)
        else:
            self._problem = said if found is None else ""
        self._known = self._known if found is None else found
        if self.is_mounted:
            self.update()
