"""Task numbers of an array: reading, showing, and what is too much."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import arrays
from agent.jobs.grammar import GrammarError


@pytest.mark.parametrize(
    ("text", "tasks", "limit", "shown"),
    [
        ("0", (0,), None, "0"),
        ("1-5", (1, 2, 3, 4, 5), None, "1-5"),
        ("1,3-5,7-20:4%3", (1, 3, 4, 5, 7, 11, 15, 19), 3, "1,3-5,7,11,15,19%3"),
        ("3,1,2", (1, 2, 3), None, "1-3"),
        ("1,1,2,1-2", (1, 2), None, "1-2"),
        ("0-100:25", (0, 25, 50, 75, 100), None, "0,25,50,75,100"),
        ("0-30:3", tuple(range(0, 31, 3)), None, "0-30:3"),
        ("0-10:2", (0, 2, 4, 6, 8, 10), None, "0,2,4,6,8,10"),
        ("0-15:3%2", (0, 3, 6, 9, 12, 15), 2, "0-15:3%2"),
        ("1-5%0", (1, 2, 3, 4, 5), None, "1-5"),
        ("1-5%", (1, 2, 3, 4, 5), None, "1-5"),
        ("1-2%100000", (1, 2), 100_000, "1-2%100000"),
        ("1-2%1,7", (1, 2, 7), 1, "1-2,7%1"),
        ("[1-3]%2", (1, 2, 3), 2, "1-3%2"),
        ("1-5:10", (1,), None, "1"),
        ("007", (7,), None, "7"),
        ("1,,2", (1, 2), None, "1-2"),
        (f"{arrays.MAX_TASK - 1}", (arrays.MAX_TASK - 1,), None, f"{arrays.MAX_TASK - 1}"),
    ],
)
def test_arrays(text: str, tasks: tuple[int, ...], limit: int | None, shown: str) -> None:
    array = arrays.array(text)
    assert (array.tasks, array.limit, array.text) == (tasks, limit, shown)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no task"),
        (",", "names no task"),
        ("%2", "names no task"),
        ("5-1", "5-1 ends before it begins"),
        ("1-5:0", "has a step of 0"),
        ("1-", "is not a list of tasks"),
        ("-1", "is not a list of tasks"),
        ("1-5:", "is not a list of tasks"),
        ("1 - 5", "is not a list of tasks"),
        ("1,2 ", "is not a list of tasks"),
        ("1-5 %2", "is not a list of tasks"),
        ("a", "is not a list of tasks"),
        ("0x1", "is not a list of tasks"),
        ("1+2", "is not a list of tasks"),
        ("1-5%x", "after % stands"),
        ("1-5%-1", "after % stands"),
        ("1-5%2%3", "after % stands"),
        ("٣", "is not a list of tasks"),
        ("1000000", "too large: 1000000"),
        ("0-4294967296", "too large"),
        ("9" * 5000, "is not a list of tasks"),
        ("[1-5", "is not a list of tasks"),
    ],
)
def test_what_is_no_array(text: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said):
        arrays.array(text)


def test_a_huge_range_costs_nothing() -> None:
    before = time.process_time()
    for text in ("0-999999999", "0-9999999999:1", ",".join(["0-9999999999"] * 1000), ",".join(["0-999999"] * 20_000)):
        with pytest.raises(GrammarError):
            arrays.array(text)
    assert time.process_time() - before < 0.5


@given(st.sets(st.integers(0, 3000), min_size=1, max_size=60), st.one_of(st.none(), st.integers(1, 10**6)))
def test_what_is_shown_reads_back(tasks: set[int], limit: int | None) -> None:
    ascending = tuple(sorted(tasks))
    array = arrays.array(arrays.show(ascending, limit))
    assert (array.tasks, array.limit) == (ascending, limit)
    assert array.text == arrays.show(ascending, limit)


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 50))
def test_steps_read_back(first: int, step: int, count: int) -> None:
    tasks = tuple(range(first, first + step * count, step))
    assert arrays.array(arrays.show(tasks)).tasks == tasks


@given(st.one_of(st.text(), st.text("0123456789-,:%[] ", max_size=30)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        array = arrays.array(text)
    except GrammarError as error:
        assert str(error)
    else:
        assert list(array.tasks) == sorted(set(array.tasks))
        assert arrays.array(array.text) == array
