"""Screen 6: how the licence stands and what helps, who holds the seats, and what was done.

Rules kept here: what holds comes with the watch stream, and is drawn as it changes; the trail is asked for in a worker
thread when the licence has changed, and now and then. Without it the rest is shown.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll

from agent.api.errors import ApiError, StokerError
from agent.api.types import Licence, LicenceEvent
from tui import licence, safe
from tui.keymap import Scope
from tui.screens.base import BaseScreen, title_with_count
from tui.screens.jobs import OpenNode
from tui.session import Session
from tui.widgets.keys import bindings
from tui.widgets.panel import Panel
from tui.widgets.table import Table

HISTORY = 200
"""Rows of the trail that are asked for."""
_ASK_AGAIN_S = 15.0
_LEAST_LISTS = 10
"""Lines that both lists keep."""
_LOG = logging.getLogger(__name__)


class LicenceScreen(BaseScreen):
    """The licence."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.LICENCE)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.LICENCE)
    TITLE_WORDS = "Licence"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._history: list[LicenceEvent] = []
        self._history_failed: str | None = None
        self._asked: tuple[Licence | None, float] | None = None

    def body(self) -> ComposeResult:
        """How it stands over both lists."""
        with VerticalScroll(id="standing"):
            yield Panel(id="told")
        yield Table(licence.SEAT_COLUMNS, empty="nobody holds a seat", id="holders")
        yield Table(licence.HISTORY_COLUMNS, empty="nothing was done yet", id="trail")

    def on_mount(self) -> None:
        """Keys go to the seats."""
        super().on_mount()
        self.query_one("#holders", Table).focus()

    def update_body(self, now: float) -> None:
        """Draw all three."""
        cluster, clock = self.session.cluster, self.session.clock
        box, told = self.query_one("#standing"), self.query_one("#told", Panel)
        box.border_title = "Licence"
        box.border_subtitle = "I activates a file, or asks the vendor; u usage"
        lines = licence.standing(cluster.licence, self.session.wall(), clock, self.size.width - 5)
        told.show(lines)
        box.styles.height = min(len(lines), max(4, self.query_one("#body").size.height - _LEAST_LISTS - 2)) + 2
        seats, trail = self.query_one("#holders", Table), self.query_one("#trail", Table)
        seats.show(licence.seat_rows(cluster, now, clock))
        seats.entitle("Seats", _seats(cluster.licence))
        trail.show(licence.history_rows(self._history, clock))
        trail.entitle(title_with_count("History", trail), self._history_failed or "newest first")
        self._ask_history(now)

    @on(Table.Opened, "#holders")
    def open_node(self, event: Table.Opened) -> None:
        """Enter on a node, or on one of its GPUs."""
        name = event.key[0] if isinstance(event.key, tuple) else event.key
        self.post_message(OpenNode(str(name)))

    def _ask_history(self, now: float) -> None:
        held = self.session.cluster.licence
        if not self.is_current:
            return
        if self._asked is None or self._asked[0] is not held or now - self._asked[1] >= _ASK_AGAIN_S:
            self._asked = held, now
            self._load_history()

    @work(thread=True, exit_on_error=False, exclusive=True, group="history")
    def _load_history(self) -> None:
        """Wait for the server, off this thread."""
        failed: str | None = None
        found: list[LicenceEvent] = []
        try:
            found = self.session.ask(lambda client: client.licence_history(HISTORY))
        except StokerError as error:
            _LOG.debug("no history of the licence: %s", error)
            absent = isinstance(error, ApiError) and error.status == 404
            failed = "this server keeps none; ask the hub" if absent else f"not known now: {safe.text(str(error), 60)}"
        self.app.call_from_thread(self._take_history, found, failed)

    def _take_history(self, found: list[LicenceEvent], failed: str | None) -> None:
        self._history = self._history if failed else found
        self._history_failed = failed
        if self.is_mounted:
            self.update()


def _seats(held: Licence | None) -> str:
    return f"{held.seats_used} of {held.seats_total} held" if held and held.licence_id else ""
