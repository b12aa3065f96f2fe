"""What all screens share: the top line, the trouble line, the licence, the keys, and the smallest size.

Rules kept here: a screen draws from the session's state when told to (`update`), it never asks the server by itself;
below 80 by 24 a sentence says what size is needed, and the data goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from tui import status
from tui.keymap import Scope, footer
from tui.screens.faults import TellsFaults
from tui.session import Session
from tui.spans import Role
from tui.widgets.find import Find
from tui.widgets.kept import Kept, KeptContainer
from tui.widgets.keys import bindings
from tui.widgets.lines import Bar, Sentence
from tui.widgets.table import Table

LEAST_WIDTH, LEAST_HEIGHT = 80, 24
WIDE = 120
_SHORT_BELOW = 100


class BaseScreen(TellsFaults, Screen[None], Kept):
    """A whole-window screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.APP)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST,)
    MORE_SCOPES: ClassVar[tuple[Scope, ...]] = ()
    """Whose keys work here too, in a pane beside the main one; they are not in the bottom line."""
    TITLE_WORDS: ClassVar[str] = ""
    DETAIL: ClassVar[bool] = False
    """About one thing, and opened from a list to which esc goes back."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]

    def compose(self) -> ComposeResult:
        """The frame; `body` is what differs."""
        yield Bar(over="bar", id="top")
        yield Bar(id="trouble")
        with KeptContainer(id="body"):
            yield from self.body()
        yield Find(id="find")
        yield Bar(id="licence")
        yield Bar(over="bar", id="keys")
        yield Sentence(id="small")

    def body(self) -> ComposeResult:
        """The widgets of this screen."""
        raise NotImplementedError

    def update_body(self, now: float) -> None:
        """Draw the state as it is at `now`, monotonic seconds."""
        raise NotImplementedError

    @property
    def short(self) -> bool:
        """Whether there is no room for the models of GPUs."""
        return self.size.width < _SHORT_BELOW

    @property
    def has_news(self) -> bool:
        """Whether something of its own, beside the state, waits to be drawn."""
        return False

    def trail(self) -> Sequence[str]:
        """Where the operator is."""
        return (self.TITLE_WORDS,)

    def update(self) -> None:
        """Draw everything from the state."""
        if not self.is_mounted or all(
            each.id != "top" for each in self.children
        ):  # on its way in or out: its lines are not there
            return
        session, now = self.session, self.session.clock.monotonic()
        link = session.cluster.link(now)
        right = status.link_words(session.cluster, link, session.clock.time_of_day(session.clock.wall()))
        left = status.top_line(session.cluster, now, self.trail(), right, self.size.width)
        self.query_one("#top", Bar).show(left, right)
        trouble = status.trouble(link, session.where)
        self.query_one("#trouble", Bar).show(trouble)
        self.query_one("#trouble", Bar).display = bool(trouble)
        self.query_one("#licence", Bar).show(*status.licence_line(session.cluster, session.wall(), self.size.width))
        self.update_body(now)
        self.query_one("#keys", Bar).show(
            status.keys_line(footer(self.scopes_here(), detail=self.DETAIL), self.size.width)
        )

    def scopes_here(self) -> tuple[Scope, ...]:
        """Whose keys the bottom line tells: those of what is on the screen now."""
        return self.SCOPES

    def go_back(self) -> bool:
        """What esc undoes on this screen; False when there is nothing."""
        table = self._filtered()
        if table is None:
            return False
        table.narrow("")
        self.update()
        return True

    def on_mount(self) -> None:
        """The first picture."""
        self.update()

    def on_screen_resume(self) -> None:
        """Back on top: the state went on meanwhile."""
        self.update()

    def on_resize(self, event: events.Resize) -> None:
        """Say what size is needed where there is too little of it."""
        width, height = event.size
        small = width < LEAST_WIDTH or height < LEAST_HEIGHT
        self.set_class(small, "-small")
        words = f"{width}×{height} is too small; Stoker needs {LEAST_WIDTH}×{LEAST_HEIGHT} (q quits)"
        self.query_one("#small", Sentence).show(words, Role.WARN)
        self.call_after_refresh(self.update)

    @on(Table.FilterWanted)
    def open_filter(self) -> None:
        """Show the filter line for the table that has the focus."""
        table = self.focused
        if isinstance(table, Table):
            self.query_one(Find).open("show only rows with …   enter keeps, esc clears", table.word)
            self._found_for = table

    @on(Input.Changed, "#find")
    def narrow(self, event: Input.Changed) -> None:
        """Filter while typing."""
        if isinstance(target := self._target(), Table):
            target.narrow(event.value)
            self.update()

    @on(Input.Submitted, "#find")
    def keep_word(self) -> None:
        """Back to the rows, filtered as they are."""
        self._close_find()

    @on(Find.GivenUp)
    def forget_word(self) -> None:
        """All rows again."""
        if isinstance(target := self._target(), Table):
            target.narrow("")
        self._close_find()

    _found_for: Widget | None = None

    def _target(self) -> Widget | None:
        return self._found_for if self.query_one(Find).has_class("-open") else None

    def _close_find(self) -> None:
        self.query_one(Find).close()
        if self._found_for is not None:
            self._found_for.focus()
        self.update()

    def _filtered(self) -> Table | None:
        return next((table for table in self.query(Table) if table.word), None)


def title_with_count(words: str, table: Table) -> str:
    """The frame's title of a list: how many rows, and by which filter."""
    shown, there = table.counts
    return f"{words} {shown} of {there} with “{table.word}”" if table.word else f"{words} {there}"
