"""A metric over time as a band of blocks, in spans for a widget: what was always reached, the mean, the most. Pure.

700 W ┤       ░░           █ up to the least of a bucket, ▓ up to its mean, ░ up to its most
      │  ░▃▓▓▓▓▓   ▂▓▓     · on the lowest line is a gap: nothing was measured
  0 W ┤▓▓██████··███████
08:00           14:00
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from itertools import groupby

from agent.api.telemetry import MetricHistory
from tui import areaplot, safe
from tui.spans import Role, Span

SPANS: tuple[tuple[str, int], ...] = (
    ("10 min", 600),
    ("1 h", 3600),
    ("6 h", 6 * 3600),
    ("2 d", 2 * 86400),
    ("30 d", 30 * 86400),
    ("1 y", 365 * 86400),
)
"""How far one looks back: each fits a ring that the node keeps."""
GAP = "·"
_STEPS = "▁▂▃▄▅▆▇█"
_ROLES = {"░": Role.DIM, GAP: Role.DIM, " ": Role.TEXT}


def label_cells(past: MetricHistory) -> int:
    """Cells that the scale at the left takes."""
    return max(safe.width(label) for label in _labels(past, 2).values()) + 2


def lines(past: MetricHistory, width: int, height: int, zone: tzinfo | None = None) -> list[list[Span]]:
    """The picture, `height` lines with its times; the newest bucket at the right, the oldest left out if too many."""
    area = max(1, height - 1)
    labels, room = _labels(past, area), label_cells(past) - 2
    cells = max(1, width - room - 2)
    columns = list(zip(past.least[-cells:], past.mean[-cells:], past.most[-cells:], strict=True))
    top = areaplot.top_of(past)
    drawn: list[list[Span]] = []
    for line in range(area):
        level = area - 1 - line
        label = safe.fit(labels.get(line, ""), room, right=True) + (" ┤" if line in labels else " │")
        blocks = [_block(each, top, level, area) for each in columns]
        drawn.append([(label, Role.DIM), *_runs(blocks)])
    begin = past.begin + (len(past.mean) - len(columns)) * past.width_s
    end = past.begin + len(past.mean) * past.width_s
    drawn.append([(" " * (room + 2) + areaplot.times(begin, end, len(columns), zone), Role.DIM)])
    return drawn


def name_of(metric: str) -> str:
    """A metric's field name as words: `memory used`, `pcie rx`."""
    for ending in ("_percent", "_bytes_per_s", "_bytes", "_mw", "_mhz", "_c"):
        metric = metric.removesuffix(ending)
    return metric.replace("_", " ")


def _labels(past: MetricHistory, area: int) -> dict[int, str]:
    top = areaplot.top_of(past)
    return {0: areaplot.written(top, past.unit), area - 1: areaplot.written(0.0, past.unit)}


def _block(column: tuple[float | None, float | None, float | None], top: float, level: int, area: int) -> str:
    """What one bucket draws in the line `level`, counted from the lowest."""
    least, mean, most = column
    if least is None or mean is None or most is None:
        return GAP if level == 0 else " "
    low, high = level / area * top, (level + 1) / area * top
    if mean >= high:
        return "█" if least >= high or (least > low and least >= mean) else "▓"
    if mean > low or level == 0:
        step = min(7, max(0, round((mean - low) / (high - low) * 8) - 1))
        return _STEPS[step]
    return "░" if most > (low + high) / 2 else " "


def _runs(blocks: Sequence[str]) -> list[Span]:
    """Neighbours of one role together."""
    runs = groupby(blocks, key=lambda block: _ROLES.get(block, Role.LOAD))
    return [("".join(run), role) for role, run in runs]
