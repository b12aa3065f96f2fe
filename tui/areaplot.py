"""A metric over time as an area of blocks, for a terminal's width: the mean solid, up to the most in shade. Pure.

700 W ┤              ░█▓
│    ░░     ▂▅████          a blank column is a gap: nothing was measured
0 W ┤▂▂▃▅██   ▃██████▇
08:00           14:00
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, tzinfo

from agent.api.telemetry import MetricHistory
from tui import safe, units

HEIGHT = 4
_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHADE = "░"
_DAY = 86400

_WRITTEN: dict[str, Callable[[float], str]] = {
    "%": lambda value: units.percent(value),
    "B": lambda value: units.size(round(value)),
    "B/s": lambda value: f"{units.size(round(value))}/s",
    "mW": lambda value: units.watts(round(value)),
    "°C": lambda value: units.celsius(round(value)),
    "MHz": lambda value: f"{value:.0f} MHz",
}


def written(value: float | None, unit: str) -> str:
    """A value with its unit, as tables write it."""
    if value is None:
        return units.UNKNOWN
    write = _WRITTEN.get(unit)
    return write(value) if write else f"{value:.2f}".rstrip("0").rstrip(".")


def summary(past: MetricHistory) -> str:
    """`least 61 W, mean 412 W, most 698 W`, and how much of the time is a gap."""
    known = [value for value in past.mean if value is not None]
    if not known:
        return "nothing was measured in that time"
    least = min(value for value in past.least if value is not None)
    most = max(value for value in past.most if value is not None)
    words = (("least", least), ("mean", sum(known) / len(known)), ("most", most))
    said = ", ".join(f"{word} {written(value, past.unit)}" for word, value in words)
    gap = 1 - len(known) / len(past.mean)
    return said + (f"; gaps {gap:.0%}" if gap >= 0.005 else "")


def lines(past: MetricHistory, width: int, height: int = HEIGHT) -> list[str]:
    """The picture with its scale and its times; one bucket a column, the newest at the right.

    Args:
        past: what to draw; of more buckets than columns the oldest are left out.
        width: cells of a line.
        height: lines of the area.
    """
    top = top_of(past)
    labels = {height - 1: written(0.0, past.unit), 0: written(top, past.unit)}
    room = max(safe.width(label) for label in labels.values())
    cells = max(1, width - room - 2)
    mean, most = past.mean[-cells:], past.most[-cells:]
    drawn = []
    for line in range(height):
        label = safe.fit(labels.get(line, ""), room, right=True)
        level = height - 1 - line
        blocks = "".join(_block(low, high, top, level, height) for low, high in zip(mean, most, strict=True))
        drawn.append(f"{label} {'┤' if line in labels else '│'}{blocks}".rstrip())
    shown_from = past.begin + (len(past.mean) - len(mean)) * past.width_s
    drawn.append(" " * (room + 2) + times(shown_from, past.begin + len(past.mean) * past.width_s, len(mean)))
    return drawn


def top_of(past: MetricHistory) -> float:
    """The least of 1, 2, 5 × 10^n that nothing is above; of a share always 100."""
    most = max((value for value in past.most if value is not None), default=0.0)
    if past.unit == "%" and most <= 100:
        return 100.0
    if past.unit in ("B", "B/s"):
        return float(2 ** math.ceil(math.log2(max(most, 1.0))))
    size = 10.0 ** math.floor(math.log10(most)) if most > 0 else 1.0
    return next(each * size for each in (1, 2, 5, 10) if each * size >= most * (1 - 1e-9))


def _block(mean: float | None, most: float | None, top: float, level: int, height: int) -> str:
    """What one bucket draws in the line `level`, counted from the lowest."""
    if mean is None or most is None:
        return " "
    steps = round(mean / top * height * 8) - level * 8
    if steps > 0 or level == 0:
        return _BLOCKS[max(1, min(8, steps))]
    return _SHADE if most / top * height > level + 0.5 else " "


def times(begin: int, end: int, cells: int, zone: tzinfo | None = None) -> str:
    """The first and the last moment under the ends of the area, and the middle where there is room."""
    form = "%H:%M:%S" if end - begin < 600 else "%H:%M" if end - begin <= _DAY else "%d %b %H:%M"
    form = "%d %b %Y" if end - begin > 60 * _DAY else form
    first, middle, last = (datetime.fromtimestamp(at, zone).strftime(form) for at in (begin, (begin + end) // 2, end))
    if cells < len(first) + len(last) + 2:
        return first
    if cells < len(first) + len(middle) + len(last) + 8:
        return first + last.rjust(cells - len(first))
    half = first + middle.center(cells - len(first) - len(last))
    return half + last.rjust(cells - len(half))
