"""Formats: `%.18i %.9P` and `jobid:10,name` to columns, and rows of cells to text.

Rules kept here: a width cuts and pads by characters, as Slurm does; a letter or name that is none is named on stderr
and, as in Slurm, the listing goes on with what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from agent.api import program

T = TypeVar("T")

_NEVER_CUT = frozenset({"TIME", "TIME_LIMIT", "TIME_LEFT", "CPUS", "NODES", "NICE"})
"""Quantities: Slurm lets one that is too long move the rest rather than show half of it."""

_LETTER = re.compile(r"%(\.?)(-?)([0-9]{0,4})([A-Za-z]?)")


class Column(msgspec.Struct, Generic[T], frozen=True):
    """One column; what stands between two columns is one with a text and no value."""

    title: str
    value: Callable[[T], str] | None = None
    width: int = 0
    """0: as long as it is."""
    right: bool = False

    def cell(self, row: T | None) -> str:
        """The text of a row, or the title."""
        text = self.title if row is None or self.value is None else self.value(row)
        if not self.width or (self.value is None and row is not None):
            return text
        cut = text if row is not None and self.title in _NEVER_CUT else text[: self.width]
        return cut.rjust(self.width) if self.right else cut.ljust(self.width)


Fields = Mapping[str, tuple[str, Callable[[T], str]]]
"""Letter or name → title and value."""


def by_letters(tool: str, text: str, fields: Fields[T], noun: str = "job") -> list[Column[T]]:
    """Read `-o`: what is no letter stands as it is."""
    columns: list[Column[T]] = []
    place = 0
    for match in _LETTER.finditer(text):
        if match.start() > place:
            columns.append(Column(text[place : match.start()]))
        place = match.end()
        dot, _, width, letter = match.groups()
        if letter not in fields:
            program.say(f"{tool}: error: Invalid {noun} format specification: {letter}")
            columns.append(Column(match[0]))
            continue
        title, value = fields[letter]
        columns.append(Column(title, value, int(width or 0), right=bool(dot)))
    return [*columns, Column(text[place:])] if place < len(text) else columns


def by_names(tool: str, text: str, fields: Fields[T], noun: str = "job") -> list[Column[T]]:
    """Read `-O`: `name:10`, 20 wide where nothing is said; `:-10` sets to the left, `:.10` to the right."""
    columns: list[Column[T]] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, shape = part.partition(":")
        found = fields.get(name.lower().replace("_", "").replace("-", ""))
        match = re.fullmatch(r"(\.?)-?([0-9]{0,4})", shape)
        if found is None or match is None:
            program.say(f"{tool}: error: Invalid {noun} format specification: {program.printable(part)}")
            continue
        columns.append(Column(found[0], found[1], int(match[2] or 20) or 20, right=bool(match[1])))
    return columns


def lines(columns: Sequence[Column[T]], rows: Sequence[T], *, header: bool = True) -> list[str]:
    """The listing; nothing is cut off at a line's end, as Slurm leaves its blanks there."""
    listed: list[T | None] = [None, *rows] if header else list(rows)
    return ["".join(column.cell(row) for column in columns) for row in listed]
