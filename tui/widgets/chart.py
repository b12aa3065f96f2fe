"""A line over time in braille dots, two samples a cell wide and four a cell high."""

from __future__ import annotations

from collections import deque

from textual.strip import Strip

from tui.spans import Role, Span
from tui.widgets.lines import Styled

KEEP = 600
"""Samples held; one a second makes ten minutes."""
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""Braille dots of the left and the right half of a cell, from the bottom up (Unicode 2800-28FF)."""
_BOTTOM = (0x40, 0x80)


class Chart(Styled):
    """Percentages of the last minutes, the newest at the right."""

    DEFAULT_CSS = "Chart { height: 6; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._samples: deque[float | None] = deque(maxlen=KEEP)

    def add(self, percent: float | None) -> None:
        """One more sample; `None` leaves a gap."""
        self._samples.append(percent)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one row of the chart with its scale."""
        width, height = self.size.width, self.size.height
        label = {0: "100 ┤", height - 1: "  0 ┤"}.get(y, "    │")
        cells = max(0, width - len(label))
        spans: list[Span] = [(label, Role.DIM), (self._row(height - 1 - y, height, cells), Role.LOAD)]
        return self.strip(spans, width)

    def _row(self, level: int, height: int, cells: int) -> str:
        """The dots of the row `level` (0 is the lowest) for the newest `2 * cells` samples."""
        newest = list(self._samples)[-2 * cells :]
        missing: list[float | None] = [None] * (2 * cells - len(newest))
        samples = missing + newest
        return "".join(
            chr(0x2800 + _column(left, level, height, 0) + _column(right, level, height, 1))
            for left, right in zip(samples[::2], samples[1::2], strict=True)
        )


def _column(percent: float | None, level: int, height: int, side: int) -> int:
    if percent is None:
        return 0
    dots = round(percent / 100 * height * 4) - level * 4
    drawn = sum(_DOTS[side][index] for index in range(max(0, min(4, dots))))
    return drawn or (_BOTTOM[side] if level == 0 else 0)
