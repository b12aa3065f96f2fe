"""A share over time, as an area of blocks: eight steps a line, and each cell the mean of some seconds.

Blocks and not braille dots, which are missing in common terminal fonts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from textual.strip import Strip

from tui.spans import Role, Span
from tui.widgets.lines import Styled

KEEP = 600
"""Samples held; one a second makes ten minutes."""
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LABEL = "    │"


class Chart(Styled):
    """Percentages of the last ten minutes, the newest at the right."""

    DEFAULT_CSS = "Chart { height: 6; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._samples: deque[float | None] = deque(maxlen=KEEP)
        self._added = 0
        self._drawn: list[str] = []

    def add(self, percent: float | None) -> None:
        """One more sample; `None` leaves a gap."""
        self._samples.append(percent)
        self._added += 1
        drawn = self._draw()
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one line of the area with its scale."""
        label = {0: "100 ┤", self.size.height - 1: "  0 ┤"}.get(y, _LABEL)
        spans: list[Span] = [(label, Role.DIM), (self._drawn[y] if y < len(self._drawn) else "", Role.LOAD)]
        return self.strip(spans, self.line_width)

    def on_resize(self) -> None:
        """Another picture."""
        self._drawn = self._draw()
        self.refresh()

    def _draw(self) -> list[str]:
        """The lines of the area, the highest first."""
        height = self.size.height
        means = self._means(max(1, self.size.width - len(_LABEL)))
        return ["".join(_block(mean, height - 1 - y, height) for mean in means) for y in range(height)]

    def _means(self, cells: int) -> list[float | None]:
        """One value a cell. The borders between cells stand still as samples come, so the picture does not flicker."""
        each = -(-KEEP // cells)
        newest = self._added % each or each
        values = list(self._samples)
        groups = [values[-newest:]]
        values = values[:-newest]
        while values and len(groups) < cells:
            groups.append(values[-each:])
            values = values[:-each]
        means = [_mean(group) for group in reversed(groups)]
        return [None] * (cells - len(means)) + means


def _mean(samples: Sequence[float | None]) -> float | None:
    known = [sample for sample in samples if sample is not None]
    return sum(known) / len(known) if known else None


def _block(percent: float | None, level: int, height: int) -> str:
    """What one value draws in the line `level`, counted from the lowest."""
    if percent is None:
        return " "
    steps = round(percent / 100 * height * 8) - level * 8
    return _BLOCKS[max(0, min(8, steps), 1 if level == 0 else 0)]
