"""A log that grows: follow, wrap, search, and a cap on what is kept.

Rules kept here: at most `KEEP` lines are held, and a note says when older ones were let go; folding is computed once
for a line and a width; following ends when the reader scrolls up, by key or mouse, and begins again at the end. A
change of size or content never ends it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import events, on
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scrollbar import ScrollDown, ScrollTo, ScrollUp
from textual.strip import Strip

from tui import safe
from tui.keymap import Scope
from tui.logtext import LogLine
from tui.spans import Role, Span
from tui.widgets.keys import bindings
from tui.widgets.lines import Lines

KEEP = 20_000
_LET_GO = 2_000
_REST_S = 0.3
"""After this the wheel's scrolling has come to rest."""


class LogView(Lines):
    """The lines of one log."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.LOG)

    class SearchWanted(Message):
        """The search key was pressed."""

    class Changed(Message):
        """Following, folding or the search changed: whoever shows their state draws it anew."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.following = True
        self.wrapped = True
        self._lines: list[LogLine] = []
        self._open = ""
        self._pieces: list[tuple[int, str]] = []
        """What is drawn: the number of a line and the part of it that stands on one row."""
        self._shift = 0
        self.word = ""
        """What is searched for, as it was typed; empty when nothing is."""
        self._word = ""
        self._hits: list[int] = []
        self._hit = -1

    @property
    def line_count(self) -> int:
        """Lines held."""
        return len(self._lines) + bool(self._open)

    @property
    def search_state(self) -> str:
        """Where the search stands, in words."""
        if not self._word:
            return ""
        return f"match {self._hit + 1} of {len(self._hits)}" if self._hits else "no match"

    def append(self, lines: Iterable[LogLine], partial: str) -> None:
        """Add lines that are complete; `partial` replaces the open last one."""
        new = list(lines)
        if not new and partial == self._open:
            return
        self._drop_open()
        first = len(self._lines)
        self._lines += new
        for number in range(first, len(self._lines)):
            self._fold(number, self._lines[number].text)
        self._hits += [n for n in range(first, len(self._lines)) if self._is_hit(self._lines[n].text)]
        self._open = partial
        if partial:
            self._fold(len(self._lines), partial)
        if len(self._lines) > KEEP:
            self._let_go()
        self._settle()

    def search(self, word: str) -> None:
        """Mark `word`, in whatever case, and go to the last match at or above what is on screen."""
        self.word, self._word = word, word.casefold()
        self._hits = [n for n, line in enumerate(self._lines) if self._is_hit(line.text)]
        self._hit = -1
        if self._hits:
            bottom = self._line_at(self.scroll_offset.y + self.size.height - 1)
            above = [index for index, number in enumerate(self._hits) if number <= bottom]
            self._go_to_hit(above[-1] if above else 0)
        self._changed()

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one row of a line."""
        index = y + self.scroll_offset.y
        if index >= len(self._pieces):
            return self.strip((), self.line_width)
        number, piece = self._pieces[index]
        shown = piece if self.wrapped else piece[self._shift :]
        note = number < len(self._lines) and self._lines[number].note
        return self.strip(self._marked(shown, Role.WARN if note else Role.TEXT), self.line_width)

    @on(events.MouseScrollUp)
    @on(events.MouseScrollDown)
    @on(ScrollUp)
    @on(ScrollDown)
    @on(ScrollTo)
    def moved_by_mouse(self) -> None:
        """The wheel or the scroll bar. Looked at afterwards; animated scrolling comes to rest a little later."""
        self.following = False
        self.set_timer(_REST_S, self._look_where)

    def on_resize(self) -> None:
        """Fold anew."""
        self._refold()

    def action_follow(self) -> None:
        """Begin or end following."""
        self.following = not self.following
        if self.following:
            self._to_end()
        self._changed()

    def action_wrap(self) -> None:
        """Fold long lines or not."""
        self.wrapped, self._shift = not self.wrapped, 0
        self._refold()
        self._changed()

    def action_search(self) -> None:
        """Ask the screen for its search line."""
        self.post_message(self.SearchWanted())

    def action_match(self, step: int) -> None:
        """To the next or the previous match, round the ends."""
        if self._hits:
            self._go_to_hit((self._hit + step) % len(self._hits))
            self._changed()

    def action_scroll(self, lines: int) -> None:
        """Scroll by lines."""
        self._scroll_rows(self.scroll_offset.y + lines)
        self._look_where()

    def action_page(self, direction: int) -> None:
        """Scroll by half a page."""
        self._scroll_rows(self.scroll_offset.y + direction * max(1, self.size.height // 2))
        self._look_where()

    def action_shift(self, cells: int) -> None:
        """Look further right or left in lines that are not folded."""
        self._shift = max(0, self._shift + cells)
        self.refresh()

    def action_top(self) -> None:
        """To the first line."""
        self._scroll_rows(0)
        self._look_where()

    def action_bottom(self) -> None:
        """To the end, and follow."""
        self.following = True
        self._to_end()
        self._changed()

    def _drop_open(self) -> None:
        while self._pieces and self._pieces[-1][0] == len(self._lines):
            self._pieces.pop()
        self._open = ""

    def _fold(self, number: int, line: str) -> None:
        width = self.size.width
        if not self.wrapped or width <= 0 or safe.width(line) <= width:
            self._pieces.append((number, line))
            return
        while line:
            piece = _head(line, width)
            self._pieces.append((number, piece))
            line = line[len(piece) :]

    def _refold(self) -> None:
        top = self._line_at(self.scroll_offset.y)
        self._pieces = []
        for number, line in enumerate(self._lines):
            self._fold(number, line.text)
        if self._open:
            self._fold(len(self._lines), self._open)
        self._settle()
        if not self.following:
            self._scroll_rows(self._row_of(top))

    def _let_go(self) -> None:
        """Forget the oldest lines, in one go and not one by one."""
        gone = len(self._lines) - KEEP + _LET_GO
        kept = self._lines[gone:]
        self._lines = [LogLine("… older lines let go; `stoker logs` prints them all …", note=True), *kept[1:]]
        self._hits = [n - gone for n in self._hits if n > gone]
        self._hit = min(self._hit, len(self._hits) - 1)
        self._refold()

    def _look_where(self) -> None:
        """At the end means following, away from it means reading."""
        self.following = self.scroll_offset.y >= self.max_scroll_y
        self._changed()

    def _settle(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._pieces))
        if self.following:
            self._to_end()
        self.refresh()

    def _to_end(self) -> None:
        self._scroll_rows(self.max_scroll_y)

    def _scroll_rows(self, row: int) -> None:
        # Forced: Textual scrolls nothing whose scroll bar is not on screen yet, and the bar comes with the next layout.
        self.scroll_to(y=max(0, min(row, self.max_scroll_y)), animate=False, immediate=True, force=True)

    def _go_to_hit(self, index: int) -> None:
        self._hit = index
        row = self._row_of(self._hits[index])
        self.following = False
        if not self.scroll_offset.y <= row < self.scroll_offset.y + self.size.height:
            self._scroll_rows(row - self.size.height // 2)
        self.refresh()

    def _line_at(self, row: int) -> int:
        return self._pieces[max(0, min(row, len(self._pieces) - 1))][0] if self._pieces else 0

    def _row_of(self, number: int) -> int:
        return next((row for row, (line, _) in enumerate(self._pieces) if line >= number), 0)

    def _is_hit(self, line: str) -> bool:
        return bool(self._word) and self._word in line.casefold()

    def _marked(self, line: str, role: Role) -> list[Span]:
        """The line with its matches marked."""
        folded = line.casefold()
        if not self._word or len(folded) != len(line):  # a letter whose folded form is longer shifts all positions
            return [(line, role)]
        spans: list[Span] = []
        at = 0
        while (found := folded.find(self._word, at)) >= 0:
            end = found + len(self._word)
            spans += [(line[at:found], role), (line[found:end], Role.MATCH)]
            at = end
        return [*spans, (line[at:], role)]

    def _changed(self) -> None:
        self.refresh()
        self.post_message(self.Changed())


def _head(line: str, width: int) -> str:
    """As much of a line as fits in `width` cells, at least one character."""
    if line.isascii():
        return line[:width]
    used = 0
    for index, char in enumerate(line):
        used += safe.width(char)
        if used > width and index:
            return line[:index]
    return line
