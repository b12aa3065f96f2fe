"""A page of lines that scrolls: many values of one thing. Only lines that changed are drawn anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.binding import BindingType
from textual.geometry import Size
from textual.strip import Strip

from tui.keymap import Scope
from tui.spans import Span
from tui.widgets.keys import bindings
from tui.widgets.lines import Lines


class Sheet(Lines):
    """Lines of spans."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.SHEET)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._shown: tuple[tuple[Span, ...], ...] = ()

    def show(self, lines: Iterable[Sequence[Span]]) -> None:
        """Set all lines."""
        old, self._shown = self._shown, tuple(tuple(line) for line in lines)
        self.virtual_size = Size(self.size.width, len(self._shown))
        if len(old) != len(self._shown):
            self.refresh()
            return
        for index, (before, after) in enumerate(zip(old, self._shown, strict=True)):
            if before != after:
                self.refresh_line(index)

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one line."""
        index = y + self.scroll_offset.y
        return self.strip(self._shown[index] if index < len(self._shown) else (), self.line_width)

    def action_scroll(self, lines: int) -> None:
        """By lines."""
        self.scroll_relative(y=lines, animate=False)

    def action_page(self, direction: int) -> None:
        """By half a page."""
        self.scroll_relative(y=direction * max(1, self.size.height // 2), animate=False)

    def action_top(self) -> None:
        """To the first line."""
        self.scroll_to(y=0, animate=False)

    def action_bottom(self) -> None:
        """To the last line."""
        self.scroll_to(y=self.max_scroll_y, animate=False)
