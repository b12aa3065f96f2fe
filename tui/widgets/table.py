"""A table of live rows with a cursor.

Rules kept here: the cursor stays on its key while rows come, go and change their order; a filter works on what is
already here, without asking the server; a changed value refreshes its line and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from tui import safe
from tui.keymap import Scope
from tui.spans import GAP, Cell, Column, Role, Row, Span, cell, lay_out, plain
from tui.widgets.keys import bindings
from tui.widgets.lines import Lines

_MARGIN = 1
"""Cells left and right of a row: the cursor bar shows that it is one."""
_EMPTY_AT = 2
"""The line that says why there are no rows."""


class Table(Lines):
    """Rows under a fixed line of titles."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.LIST)

    class _About(Message):
        """Something about the row that `key` names."""

        def __init__(self, table: Table, key: object) -> None:
            super().__init__()
            self.table = table
            self.key = key

        @property
        def control(self) -> Table:
            """The table, for handlers that name one."""
            return self.table

    class Opened(_About):
        """Enter, or a second click, on a row."""

    class Moved(_About):
        """The cursor stands on another row."""

    class FilterWanted(Message):
        """The filter key was pressed."""

    def __init__(self, columns: Sequence[Column], *, empty: str, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._empty = empty
        self._all: tuple[Row, ...] = ()
        self._rows: tuple[Row, ...] = ()
        self._widths: list[int] = []
        self._cursor = 0
        self._word = ""

    @property
    def key(self) -> object | None:
        """The key under the cursor."""
        return self._rows[self._cursor].key if self._rows else None

    @property
    def keys(self) -> frozenset[object]:
        """The keys of all rows that are shown."""
        return frozenset(row.key for row in self._rows)

    @property
    def word(self) -> str:
        """The filter; empty when all rows are shown."""
        return self._word

    @property
    def counts(self) -> tuple[int, int]:
        """Rows shown, and rows there are."""
        return len(self._rows), len(self._all)

    def show(self, rows: Iterable[Row]) -> None:
        """Set all rows."""
        self._all = tuple(rows)
        self._update()

    def narrow(self, word: str) -> None:
        """Show only rows that hold `word`, in whatever case."""
        self._word = word
        self._update()

    def select(self, key: object) -> None:
        """Put the cursor on a key, if it is shown."""
        for index, row in enumerate(self._rows):
            if row.key == key:
                self._go(index)

    def render_line(self, y: int) -> Strip:
        """Textual's hook: the titles in line 0, then the rows."""
        width = self.line_width
        if y == 0:
            return self._line(tuple(cell(column.title, Role.HEAD) for column in self._columns), (" ", Role.HEAD), None)
        index = y - 1 + self.scroll_offset.y
        if index < len(self._rows):
            row = self._rows[index]
            over = "cursor" if index == self._cursor and self.has_focus else "faded" if row.faded else None
            here = index == self._cursor and self.can_focus
            return self._line(row.cells, ("▌" if here else " ", Role.ACCENT), over)
        if not self._rows and y == _EMPTY_AT:
            words = f"nothing matches “{self._word}”; esc clears the filter" if self._all else self._empty
            return self.strip([("  " + words, Role.DIM)], width)
        return self.strip((), width)

    def action_move(self, lines: int) -> None:
        """Move the cursor by lines."""
        self._go(self._cursor + lines)

    def action_page(self, direction: int) -> None:
        """Move the cursor by half a page."""
        self._go(self._cursor + direction * max(1, self.size.height // 2))

    def action_move_to(self, index: int) -> None:
        """Move the cursor to a row, counted from the end when negative."""
        self._go(len(self._rows) + index if index < 0 else index)

    def action_open(self) -> None:
        """Tell whoever listens that the row is wanted."""
        if self.key is not None:
            self.post_message(self.Opened(self, self.key))

    def action_filter(self) -> None:
        """Ask the screen for its filter line."""
        self.post_message(self.FilterWanted())

    def on_click(self, event: events.Click) -> None:
        """Move to the clicked row; open it when the cursor was there."""
        offset = event.get_content_offset(self)
        if offset is None or offset.y == 0:
            return
        index = offset.y - 1 + self.scroll_offset.y
        if index == self._cursor:
            self.action_open()
        elif index < len(self._rows):
            self._go(index)

    def on_resize(self) -> None:
        """Lay the columns out anew."""
        self._update()

    def on_focus(self) -> None:
        """The cursor is drawn while the table has the focus."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor fades."""
        self.refresh()

    def _update(self) -> None:
        key, old = self.key, self._rows
        wanted = self._word.casefold()
        self._rows = tuple(row for row in self._all if not wanted or wanted in _words(row))
        widths = lay_out(self._columns, self._rows, self.size.width - 2 * _MARGIN)
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)
        self._follow_key(key)
        if widths != self._widths or len(old) != len(self._rows):
            self._widths = widths
            self.refresh()
            return
        if not self._rows:
            self.refresh_row(_EMPTY_AT)  # which filter lets nothing through
        # What is out of sight is drawn when it comes; lines that follow each other are drawn in one go.
        top = self.scroll_offset.y
        seen = range(top, min(len(old), top + self.size.height))
        for first, count in _stretches(index + 1 for index in seen if old[index] != self._rows[index]):
            self.refresh_lines(first, count)

    def _follow_key(self, key: object) -> None:
        """Keep the cursor on its key; on its place when the key has gone."""
        before = self._cursor
        index = next((index for index, row in enumerate(self._rows) if row.key == key), self._cursor)
        self._cursor = max(0, min(index, len(self._rows) - 1))
        if self._cursor != before:
            self._show_cursor(before)
        if self.key != key:
            self.post_message(self.Moved(self, self.key))

    def _go(self, index: int) -> None:
        before = self._cursor
        self._cursor = max(0, min(index, len(self._rows) - 1))
        if self._cursor != before:
            self._show_cursor(before)
            self.post_message(self.Moved(self, self.key))

    def _show_cursor(self, before: int) -> None:
        """Redraw both lines and scroll the cursor into view."""
        self.refresh_line(before + 1)
        self.refresh_line(self._cursor + 1)
        room, top = self.size.height - 1, self.scroll_offset.y
        if room <= 0:
            return
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, immediate=True)
        elif self._cursor >= top + room:
            self.scroll_to(y=self._cursor - room + 1, animate=False, immediate=True)

    def _line(self, cells: tuple[Cell, ...], mark: Span, over: str | None) -> Strip:
        """Cells side by side in the widths that were laid out, after the mark of the cursor."""
        line, taken = [*self.segments((mark,), _MARGIN, over)], _MARGIN
        for column, content, width in zip(self._columns, cells, self._widths, strict=False):
            if width:
                if taken > _MARGIN:
                    line += self.segments((), GAP, over)
                    taken += GAP
                line += self.segments(content, width, over, right=column.right)
                taken += width
        room = self.line_width
        if taken > room:
            kept = list(Strip(line, taken).crop(0, room - 1))
            return Strip([*kept, Segment(safe.ELLIPSIS, kept[-1].style)] if kept else [], room)
        return Strip([*line, *self.segments((), room - taken, over)], room)


def _stretches(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and count of those that follow each other."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        first, count = found[-1] if found else (number, 0)
        if number == first + count:
            found[-1:] = [(first, count + 1)]
        else:
            found.append((number, 1))
    return found


def _words(row: Row) -> str:
    return " ".join(plain(content) for content in row.cells).casefold()
