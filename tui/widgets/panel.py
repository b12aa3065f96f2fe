"""A framed panel of a few lines that nobody scrolls: facts about one thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.strip import Strip

from tui.spans import Span
from tui.widgets.lines import Styled


class Panel(Styled):
    """Lines of spans in a frame."""

    DEFAULT_CSS = "Panel { height: auto; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: tuple[tuple[Span, ...], ...] = ()

    def show(self, lines: Iterable[Sequence[Span]]) -> None:
        """Set the lines; a changed number of them sets the height."""
        new = tuple(tuple(line) for line in lines)
        if new == self._lines:
            return
        resized = len(new) != len(self._lines)
        self._lines = new
        self.refresh(layout=resized)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """Textual's hook: as high as it has lines."""
        return max(1, len(self._lines))

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one line."""
        return self.strip(self._lines[y] if y < len(self._lines) else (), self.line_width)
