"""The base of our live widgets: lines of spans drawn by Textual's Line API.

Why not DataTable, Static or RichLog: measured in the design (tui, section 3), an own line widget redraws 8000 changing
cells a second for 3 % of a core where DataTable takes 16 to 34 %. A widget gives `line(y)`; only lines that changed are
refreshed. Text goes in as `Segment`s: markup in it is never interpreted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Self

from rich.segment import Segment
from rich.style import Style
from textual.content import Content
from textual.filter import ANSIToTruecolor, LineFilter
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui import safe
from tui.spans import Cell, Role, Span, fit, folded
from tui.widgets.kept import Kept

_DRAWN_MOST = 4096
"""Cells that a widget keeps drawn: some screens full of rows."""
_INKS: dict[Role, tuple[str, bool]] = {
    Role.TEXT: ("foreground", False),
    Role.STRONG: ("foreground", True),
    Role.DIM: ("dim", False),
    Role.HEAD: ("secondary", True),
    Role.OK: ("success", False),
    Role.WARN: ("warning", False),
    Role.BAD: ("error", True),
    Role.ACCENT: ("primary", False),
    Role.LOAD: ("load", False),
    Role.MEMORY: ("memory", False),
    Role.TRACK: ("track", False),
    Role.MATCH: ("background", False),
}
"""The theme's colour of each role, and whether it is bold. Not component classes: each costs Textual a DOM node and a
match against all rules, for every widget and every look at styles; they were up to a third of what a screen costs."""


class Styled(Kept):
    """Gives spans the colours of the theme."""

    def strip(self, spans: Iterable[Span], width: int, over: str | None = None) -> Strip:
        """Draw spans exactly `width` wide; `over` names a line style laid over all of them."""
        fitted = fit(tuple(spans), width)
        return Strip([Segment(value, self._style(role, over)) for value, role in fitted if value], width)

    def segments(self, content: Cell, cells: int, over: str | None = None, *, right: bool = False) -> list[Segment]:
        """A cell drawn exactly `cells` wide. Kept: in a line that changes, most cells are what they were."""
        key = content, cells, over, right
        drawn = self._known_cells.get(key)
        if drawn is None:
            if len(self._known_cells) >= _DRAWN_MOST:
                self._known_cells.clear()
            fitted = fit(content, cells, right=right)
            drawn = [Segment(value, self._style(role, over)) for value, role in fitted if value]
            self._known_cells[key] = drawn
        return drawn

    def notify_style_update(self) -> None:
        """Textual's hook: another theme, or another state of the widget."""
        super().notify_style_update()
        self._known_styles.clear()
        self._known_cells.clear()

    @functools.cached_property
    def _known_cells(self) -> dict[tuple[Cell, int, str | None, bool], list[Segment]]:
        """Cells drawn so far, by what they say and how."""
        return {}

    @functools.cached_property
    def _known_styles(self) -> dict[tuple[Role, str | None], Style]:
        """Styles worked out so far: a screen has a thousand segments and a dozen styles."""
        return {}

    def _style(self, role: Role, over: str | None) -> Style:
        key = role, over
        if key not in self._known_styles:
            own = self._ink(role)
            upper = self._changed_by(over) if over else Style.null()
            # The track of a bar keeps its colour: lit like the text of a faded row it would look like a full bar.
            upper = Style(bgcolor=upper.bgcolor) if role is Role.TRACK else upper
            self._known_styles[key] = own + upper
        return self._known_styles[key]

    def _ink(self, role: Role) -> Style:
        colours, (name, bold) = self.app.theme_variables, _INKS[role]
        marked = Style(bgcolor=colours["warning"]) if role is Role.MATCH else Style.null()
        return self.rich_style + Style(color=colours[name], bold=bold or None) + marked

    def _changed_by(self, over: str) -> Style:
        """What a line style changes of the roles below it."""
        colours = self.app.theme_variables
        if over == "faded":
            return Style(color=colours["dim"], italic=True)
        return Style(bgcolor=colours["panel"], bold=True if over == "cursor" else None)

    def entitle(self, title: str, subtitle: str = "") -> None:
        """Set the words in the frame. As `Content`, because a plain string would be read as markup.

        Only when they are others, and without the lines within: Textual draws the whole widget, also for the same ones.
        """
        if (title, subtitle) == self._frame_words:
            return
        before, self._frame_words = self._frame_words, (title, subtitle)
        self._only_frame = bool(self.size)
        if title != before[0]:
            self.border_title = Content(title)
        if subtitle != before[1]:
            self.border_subtitle = Content(subtitle)
        self._only_frame = False

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Self:
        """Textual's hook: of a title, only the lines of the frame."""
        if self._only_frame and not regions:
            offset, size = self.content_offset, self.outer_size
            top, bottom = (Region(-offset.x, y - offset.y, size.width, 1) for y in (0, size.height - 1))
            regions = top, bottom
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    _frame_words: tuple[str, str] = ("", "")
    _only_frame = False

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's hook: what makes colours of ansi names is not needed, since ours are all hex (`theme`)."""
        return [each for each in super().get_line_filters() if not isinstance(each, ANSIToTruecolor)]


class Lines(ScrollView, Styled, can_focus=True):
    """A scrolling widget of lines."""

    DEFAULT_CSS = "Lines { scrollbar-size-vertical: 1; overflow-x: hidden; overflow-y: auto; }"

    def refresh_lines(self, y_start: int, line_count: int = 1) -> None:
        """Textual's hook: lines counted from the top of all there are."""
        self.refresh_row(y_start - self.scroll_offset.y, line_count)

    def refresh_line(self, y: int) -> None:
        """Likewise, one."""
        self.refresh_lines(y)


class Bar(Styled):
    """One line that is always there: the top line, the licence, the keys."""

    DEFAULT_CSS = "Bar { height: 1; }"

    def __init__(self, *, over: str | None = None, id: str | None = None) -> None:
        super().__init__(id=id)
        self._over = over
        self._left: tuple[Span, ...] = ()
        self._right: tuple[Span, ...] = ()

    def show(self, left: Iterable[Span], right: Iterable[Span] = ()) -> None:
        """Set the text; `right` keeps its place at the right end, `left` is cut first."""
        new = tuple(left), tuple(right)
        if new != (self._left, self._right):
            self._left, self._right = new
            self.refresh_row(0)

    def render_line(self, y: int) -> Strip:
        """Textual's hook: the one line."""
        room = self.line_width
        kept = min(room, sum(safe.width(value) for value, _ in self._right))
        return self.strip([*fit(self._left, room - kept), *fit(self._right, kept)], room, self._over)


class Sentence(Styled):
    """Words in as many lines as it takes."""

    _words: Span = ("", Role.TEXT)

    def show(self, words: str, role: Role) -> None:
        """Set the words."""
        self._words = words, role
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one line."""
        words, role = self._words
        lines = folded(words, self.line_width - 1)
        return self.strip([(f" {lines[y]}", role)] if y < len(lines) else (), self.line_width)
