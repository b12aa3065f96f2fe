"""The load of each node over the last minutes, as it was heard here: what the list of nodes draws. Pure.

The nodes themselves keep a year (`/v1/history`); to ask a thousand of them for some minutes, for a line of ten cells,
would cost more than to remember what came by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from tui import rows
from tui.cluster import NodeView
from tui.spans import spark

CELLS = 10
CELL_S = 30.0
TITLE = "LAST 5 MIN"


class Traces:
    """Means of `CELL_S` seconds, the newest last; a time in which a node was not heard is a gap."""

    def __init__(self) -> None:
        self._cells: dict[str, deque[float | None]] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._slot: int | None = None

    def note(self, views: Iterable[NodeView], now: float) -> None:
        """Take in how busy the nodes are; called once a second."""
        slot = int(now // CELL_S)
        if self._slot is not None and slot != self._slot:
            self._turn(min(CELLS, slot - self._slot))
        self._slot = slot
        known = set()
        for view in views:
            known.add(view.name)
            load = rows.mean_load(view.gpus) if rows.is_heard(view) else None
            total, count = self._sums.get(view.name, (0.0, 0))
            self._sums[view.name] = (total, count) if load is None else (total + load, count + 1)
        for gone in self._sums.keys() - known:
            del self._sums[gone]
            self._cells.pop(gone, None)

    def drawn(self, name: str) -> str:
        """`CELLS` cells, the present one at the right; dots where nothing was heard."""
        total, count = self._sums.get(name, (0.0, 0))
        values = [*self._cells.get(name, ()), total / count if count else None][-CELLS:]
        return "".join(spark(None if value is None else value / 100) for value in values).rjust(CELLS, "·")

    def _turn(self, slots: int) -> None:
        """Close the present cell; a slot in which nobody called is a gap."""
        for name, (total, count) in self._sums.items():
            cells = self._cells.setdefault(name, deque(maxlen=CELLS))
            cells.append(total / count if count else None)
            cells.extend([None] * (slots - 1))
            self._sums[name] = 0.0, 0
