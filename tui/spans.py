"""Styled text without a terminal: cells made of spans, the columns they stand in, and bars drawn with blocks.

Rules kept here: a span names a role, never a colour, and colour is never the only sign of anything; every text has
passed `safe`; widths are terminal cells. Pure, and free of Textual, so that rows can be tested as values.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from tui import safe


class Role(StrEnum):
    """What a piece of text is, from which the theme makes its colour."""

    TEXT = "text"
    STRONG = "strong"
    DIM = "dim"
    HEAD = "head"
    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    ACCENT = "accent"
    LOAD = "load"
    MEMORY = "memory"
    TRACK = "track"
    MATCH = "match"


Span = tuple[str, Role]
Cell = tuple[Span, ...]

GAP = 2
"""Cells between two columns."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a table: as wide as its content, between `least` and `most`."""

    title: str
    least: int
    most: int = 0
    """0 means `least`: a column of one width."""
    grow: bool = False
    """Begins at `least` and takes what is left over, whatever its content."""
    firm: bool = False
    """Never narrower than its content: half a number or half a state says the wrong thing."""
    right: bool = False
    drop: int = 0
    """Left out when there is no room, highest first; 0 is never left out."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a table. `key` names what it stands for and stays the same while its values change."""

    key: object
    cells: tuple[Cell, ...]
    faded: bool = False
    """Its values are old: drawn dim, whatever the roles of its spans."""


def cell(value: str, role: Role = Role.TEXT) -> Cell:
    """A cell of one span."""
    return ((value, role),)


def plain(spans: Iterable[Span]) -> str:
    """The text alone."""
    return "".join(value for value, _ in spans)


@functools.lru_cache(maxsize=8192)
def width(spans: Cell) -> int:
    """Terminal cells that spans take. Kept: of a table's cells few are others than a second ago."""
    return sum(safe.width(value) for value, _ in spans)


def fit(spans: Cell, cells: int, *, right: bool = False) -> list[Span]:
    """Make spans exactly `cells` wide."""
    total = sum(safe.width(value) for value, _ in spans)
    if total <= cells:
        padding = (" " * (cells - total), Role.TEXT)
        if total == cells:
            return list(spans)
        return [padding, *spans] if right else [*spans, padding]
    result, left = [], cells
    for value, role in spans:
        piece = value if safe.width(value) < left else safe.fit(value + " ", left)
        result.append((piece, role))
        left -= safe.width(piece)
        if left <= 0:
            break
    return result


def folded(text: str, cells: int) -> list[str]:
    """Words in lines of at most `cells` cells; a longer word has a line of its own."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}".strip() if lines[-1] else word
        if safe.width(joined) <= cells or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def lay_out(columns: Sequence[Column], rows: Sequence[Row], room: int) -> list[int]:
    """Widths of the columns in `room` cells; 0 for a column that is left out.

    Columns are left out only when narrowing the others would not do; then the widest excess is narrowed first; what is
    left over goes to the columns that grow.
    """
    wanted = [_wanted(column, index, rows) for index, column in enumerate(columns)]
    floors = [want if column.firm else column.least for column, want in zip(columns, wanted, strict=True)]
    shown = list(range(len(columns)))
    while _needed(floors, shown) > room and (droppable := [each for each in shown if columns[each].drop]):
        shown.remove(max(droppable, key=lambda each: columns[each].drop))
    widths = [want if index in shown else 0 for index, want in enumerate(wanted)]
    while _needed(widths, shown) > room:
        widest = max(shown, key=lambda each: widths[each] - floors[each])
        if widths[widest] <= floors[widest]:
            break
        widths[widest] -= 1
    growing = [index for index in shown if columns[index].grow]
    spare = max(0, room - _needed(widths, shown))
    for turn, index in enumerate(growing):
        share = spare // (len(growing) - turn)
        widths[index], spare = widths[index] + share, spare - share
    return widths


def bar(fraction: float | None, cells: int, role: Role = Role.LOAD) -> Cell:
    """A bar in half cells on a thin track, to be told apart without colour; unknown draws dots."""
    if fraction is None:
        return (("·" * cells, Role.DIM),)
    halves = round(max(0.0, min(1.0, fraction)) * cells * 2)
    if halves == 0 and fraction > 0:
        halves = 1  # a little is not nothing
    drawn = "━" * (halves // 2) + "╸" * (halves % 2)
    return tuple(span for span in ((drawn, role), ("─" * (cells - len(drawn)), Role.TRACK)) if span[0])


def spark(fraction: float | None) -> str:
    """One cell whose height tells a value: `▁` to `█`; `·` for unknown."""
    return "·" if fraction is None else "▁▂▃▄▅▆▇█"[min(7, max(0, int(fraction * 8)))]


def _wanted(column: Column, index: int, rows: Iterable[Row]) -> int:
    if column.grow or not column.most:
        return column.least
    widest = max((width(row.cells[index]) for row in rows), default=0)
    return max(column.least, min(column.most, widest))


def _needed(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[index] for index in shown) + GAP * max(0, len(shown) - 1)
