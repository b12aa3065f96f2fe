"""A job's curve as inline SVG: an area under a line, gaps left open, values to be read by pointing. Pure.

Colours stand in the elements for whoever shows the picture alone, and by class for the page, whose style sheet makes
them light or dark. Only numbers and our own words go into a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tui.palette import LIGHT

WIDTH, HEIGHT = 720, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 24
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_GRID = 4
"""Lines above the ground line."""
_TICKS_MAX = 7
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_TICKS_S = (
    *(1, 2, 5, 10, 20, 30),
    *(each * _MINUTE for each in (1, 2, 5, 10, 15, 30)),
    *(each * _HOUR for each in (1, 2, 3, 6, 12)),
    *(each * _DAY for each in (1, 2, 7, 14, 28, 91, 182, 364)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve."""

    name: str
    """Read out in place of the picture."""
    kind: str
    """`load`, `memory` or `power`: its colour."""
    points: Sequence[tuple[int, float | None]]
    """Unix seconds, ascending, and the value; `None` where there is a gap."""
    top: float
    """The greatest value that fits."""
    written: Callable[[float], str]
    """A value in words."""


_COLOURS = {"load": LIGHT["load"], "memory": LIGHT["memory"], "power": LIGHT["accent"]}


def svg(series: Series, start: int, end: int) -> str:
    """The picture.

    Args:
        series: what to draw.
        start: Unix seconds at the left end.
        end: at the right end; after `start`.
    """

    def x(at: float) -> float:
        return _LEFT + _PLOT_WIDTH * min(max((at - start) / (end - start), 0.0), 1.0)

    def y(value: float) -> float:
        return _TOP + _PLOT_HEIGHT * (1 - min(max(value / series.top, 0.0), 1.0))

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{series.name}" xmlns="http://www.w3.org/2000/svg">',
        *_grid(series, y),
        *_ticks(start, end, x),
        *(_run(run, series.kind, x, y) for run in _runs(series.points)),
        *_pointers(series, start, x),
        "</svg>",
    ]
    return "\n".join(parts)


def round_top(value: float) -> float:
    """The least of 1, 1.2, 1.6, 2, … × 10^n that is not below a value: its half is round as well."""
    size = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(each * size for each in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if each * size >= value * (1 - 1e-9))


def _runs(points: Sequence[tuple[int, float | None]]) -> Iterator[list[tuple[int, float]]]:
    """The stretches without a gap."""
    run: list[tuple[int, float]] = []
    for at, value in points:
        if value is not None:
            run.append((at, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _run(run: Sequence[tuple[int, float]], kind: str, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    colour, ground = _COLOURS[kind], _TOP + _PLOT_HEIGHT
    spots = [(x(at), y(value)) for at, value in run]
    if len(spots) == 1:
        return f'<circle class="{kind}-area" cx="{spots[0][0]:.1f}" cy="{spots[0][1]:.1f}" r="2.5" fill="{colour}"/>'
    line = " ".join(f"{across:.1f},{down:.1f}" for across, down in spots)
    area = f"{spots[0][0]:.1f},{ground} {line} {spots[-1][0]:.1f},{ground}"
    return (
        f'<polygon class="{kind}-area" points="{area}" fill="{colour}" fill-opacity="0.16"/>'
        f'<polyline class="{kind}-line" points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"'
        f' stroke-linejoin="round"/>'
    )


def _grid(series: Series, y: Callable[[float], float]) -> Iterator[str]:
    for number in range(_GRID + 1):
        value = series.top * number / _GRID
        down, colour = y(value), LIGHT["frame" if number == 0 else "track"]
        kind = "ground" if number == 0 else "grid"
        yield (
            f'<line class="{kind}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{down:.1f}" y2="{down:.1f}"'
            f' stroke="{colour}"/>'
        )
        if number % 2 == 0:
            yield _label(_LEFT - 7, down + 3.5, series.written(value), "end")


def _ticks(start: int, end: int, x: Callable[[float], float]) -> Iterator[str]:
    passed = end - start
    step = next((each for each in _TICKS_S if passed / each <= _TICKS_MAX), _TICKS_S[-1])
    for offset in range(0, passed + 1, max(step, passed // 100)):
        across = x(start + offset)
        anchor = "start" if offset == 0 else "end" if across > WIDTH - _RIGHT - 20 else "middle"
        yield _label(across, HEIGHT - 7, _since(offset), anchor)


def _label(across: float, down: float, text: str, anchor: str) -> str:
    colour = LIGHT["dim"]
    return (
        f'<text class="label" x="{across:.1f}" y="{down:.1f}" text-anchor="{anchor}" font-size="11"'
        f' font-family="system-ui, sans-serif" fill="{colour}">{text}</text>'
    )


def _pointers(series: Series, start: int, x: Callable[[float], float]) -> Iterator[str]:
    """An unseen column over each point, whose value the browser shows: no script is needed for that."""
    left = x(start)
    for at, value in series.points:
        right = x(at)
        if value is not None:
            words = f"{series.written(value)} at {_since(at - start)}"
            yield (
                f'<rect class="pointer" x="{left:.1f}" y="{_TOP}" width="{max(right - left, 0.5):.1f}"'
                f' height="{_PLOT_HEIGHT}" fill="none" pointer-events="all"><title>{words}</title></rect>'
            )
        left = right


def _since(seconds: float) -> str:
    """Time since the start: `0`, `40 s`, `5 min`, `1 h 30 min`, `2 d`."""
    whole = max(0, int(seconds))
    words: list[str] = []
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")):
        if whole >= size and len(words) < 2:
            words.append(f"{whole // size} {unit}")
            whole %= size
    return " ".join(words) or "0"
