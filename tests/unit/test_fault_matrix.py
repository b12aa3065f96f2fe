"""docs/faults.md: every fault that we promise something for is in it, with tests that exist and what they simulate."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIRED = {*range(1, 37), *range(43, 47), *range(52, 56), 64}
"""Faults of jobs, agent, disk, database, clock and GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of one of its tables."""

    number: int
    happens: str
    promised: str
    tests: tuple[str, ...]
    simulated: str


def _rows() -> list[Row]:
    found = []
    for line in (ROOT / "docs/faults.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0].isdecimal():
            number, happens, promised, tests, simulated = cells
            named = tuple(each.strip() for each in tests.split(","))
            found.append(Row(number=int(number), happens=happens, promised=promised, tests=named, simulated=simulated))
    return found


ROWS = _rows()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row_{row.number}")


@cache
def _tests_of(path: Path) -> frozenset[str]:
    """What pytest would find by name: functions, classes, and state machines' `TestX = ….TestCase`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(each.id for each in node.targets if isinstance(each, ast.Name))
    return frozenset(name for name in names if name.lower().startswith("test"))


def test_every_fault_is_there_once() -> None:
    numbers = [row.number for row in ROWS]
    assert sorted(numbers) == sorted(REQUIRED)


@each_row
def test_every_test_that_is_named_exists(row: Row) -> None:
    assert len(set(row.tests)) == len(row.tests) > 0
    for each in row.tests:
        path, _, name = each.partition("::")
        assert (ROOT / "tests" / path).is_file(), each
        assert name in _tests_of(ROOT / "tests" / path), each


@each_row
def test_a_test_that_names_its_row_stands_in_that_row(row: Row) -> None:
    for each in row.tests:
        tagged = re.search(r"test_rows?_(\d+(?:_and_\d+)*)_", each)
        if tagged is not None:
            assert row.number in map(int, tagged[1].split("_and_")), each


@each_row
def test_what_is_simulated_is_said_in_words(row: Row) -> None:
    assert row.happens
    assert len(row.promised) > 10
    assert row.simulated == "nothing" or len(row.simulated.split()) > 3, row.simulated
