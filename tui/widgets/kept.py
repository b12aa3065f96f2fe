"""Widgets that keep the lines they have drawn, and draw anew those alone that were refreshed.

Why: whatever changes on a screen, Textual asks each widget in sight for all of its lines, and works out frame, colours
and opacity before it looks into its own cache. Of what an overview of 64 GPUs cost, that was a third.
"""

from __future__ import annotations

from typing import NamedTuple

from textual.containers import Container, Horizontal, Vertical
from textual.geometry import Region, Spacing
from textual.strip import Strip
from textual.widget import Widget

_KEEPS = hasattr(Widget, "_set_dirty")
"""What a widget shows is changed through it alone. Under a Textual that has it no more, nothing is kept."""


class _Inside(NamedTuple):
    """Where a widget's own lines stand between its borders."""

    outer_width: int
    top: int
    height: int
    left: bool
    right: bool


class Kept(Widget):
    """See above."""

    _kept_lines: tuple[Region, list[Strip], _Inside | None] | None = None
    """What was asked for last, how it was drawn, and how a line of it is put together, where that is simple."""
    _stale_lines: frozenset[int] = frozenset()
    """Lines of it that are to be drawn anew."""
    line_width = 0
    """Cells of each line that is being drawn: Textual works a widget's size out anew whenever it is asked for."""

    def render_lines(self, crop: Region) -> list[Strip]:
        """Textual's hook: all lines."""
        if self._kept_lines is None or self._kept_lines[0] != crop or not _KEEPS:
            self.line_width = self.size.width
            lines = super().render_lines(crop)
            self._kept_lines = crop, lines, self._between_borders()
        elif self._stale_lines:
            _, lines, inside = self._kept_lines
            lines = [
                self._anew(y, lines[y - crop.y], inside) if y in self._stale_lines else lines[y - crop.y]
                for y in crop.line_range
            ]
            self._kept_lines = crop, lines, inside
        self._stale_lines = frozenset()
        return self._kept_lines[1]

    def refresh_row(self, y: int, count: int = 1) -> None:
        """Have lines that the widget says drawn anew, and their frame: a cut costs more than it saves."""
        self.refresh(Region(-self.content_offset.x, y, self.outer_size.width, count))

    def notify_style_update(self) -> None:
        """Textual's hook: another theme, or another state of the widget."""
        super().notify_style_update()
        self._kept_lines = None

    def _set_dirty(self, *regions: Region) -> None:
        super()._set_dirty(*regions)
        if regions:
            top = self.content_offset.y
            self._stale_lines = self._stale_lines.union(*(range(top + each.y, top + each.bottom) for each in regions))
        else:
            self._kept_lines = None

    def _anew(self, y: int, before: Strip, inside: _Inside | None) -> Strip:
        """A line within the frame is what the widget says between the borders that stood there before."""
        if inside is None or not 0 <= y - inside.top < inside.height or before.cell_length != inside.outer_width:
            return super().render_lines(Region(0, y, before.cell_length, 1))[0]
        said = self.render_line(y - inside.top)
        if said.cell_length != self.line_width:
            said = said.adjust_cell_length(self.line_width, self.rich_style)
        edges = list(before)
        return Strip([*edges[: inside.left], *said, *edges[len(edges) - inside.right :]], before.cell_length)

    def _between_borders(self) -> _Inside | None:
        """Nothing where more lies around its lines than borders, or something over them."""
        styles = self.styles
        is_veiled = self.opacity != 1 or styles.text_opacity != 1 or styles.tint.a or styles.has_rule("hatch")
        has_outline = any(kind for kind, _ in styles.outline)
        if is_veiled or has_outline or styles.padding != Spacing() or self.get_line_filters():
            return None
        _, (right, _), _, (left, _) = styles.border
        return _Inside(self.outer_size.width, styles.gutter.top, self.size.height, bool(left), bool(right))


class KeptContainer(Container, Kept):
    """What lies under other widgets changes hardly ever. Textual takes the style sheet of the first base alone."""


class KeptHorizontal(Horizontal, Kept):
    """Likewise."""


class KeptVertical(Vertical, Kept):
    """Likewise."""
