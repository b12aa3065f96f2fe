"""Counting seats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from licensing.seats import Hold
from licensing.seats import share as share_of
from tests.fakes.vendor import DAY, NOW

GPUS = [f"GPU-{n}" for n in range(6)]


def held(gpu: str, node: str = "n1", since: int = NOW) -> Hold:
    return Hold(gpu=gpu, node=node, since=since, until=NOW + DAY)


def share(wanted: list[str], holds: list[Hold], *, node: str, seats: int, may_grow: bool) -> tuple[str, ...]:
    elsewhere = sum(each.node != node for each in holds)
    holder = {each.gpu: each for each in holds}
    return share_of(wanted, holder, node=node, elsewhere=elsewhere, seats=seats, may_grow=may_grow)


def test_all_when_there_are_enough() -> None:
    assert share(["a", "b"], [], node="n1", seats=2, may_grow=True) == ("a", "b")


def test_a_part_when_there_are_few() -> None:
    assert share(["a", "b", "c"], [held("x", "n2")], node="n1", seats=3, may_grow=True) == ("a", "b")


def test_none_is_an_answer() -> None:
    assert share(["a"], [held("x", "n2")], node="n1", seats=1, may_grow=True) == ()


def test_longest_held_stay_first_when_the_licence_shrinks() -> None:
    holds = [held("a", since=NOW), held("b", since=NOW - 5), held("c", since=NOW - 9)]
    assert share(["a", "b", "c"], holds, node="n1", seats=2, may_grow=True) == ("b", "c")


def test_a_gpu_seen_on_two_nodes_counts_once() -> None:
    assert share(["a", "b"], [held("a", "n2")], node="n1", seats=2, may_grow=True) == ("a", "b")


def test_grace_keeps_and_does_not_grow() -> None:
    assert share(["a", "b"], [held("a")], node="n1", seats=9, may_grow=False) == ("a",)


def test_a_gpu_named_twice_counts_once() -> None:
    assert share(["a", "a", "b"], [], node="n1", seats=2, may_grow=True) == ("a", "b")


@given(
    wanted=st.lists(st.sampled_from(GPUS), max_size=8),
    holds=st.dictionaries(st.sampled_from(GPUS), st.tuples(st.sampled_from(["n1", "n2"]), st.integers(0, 99))),
    seats=st.integers(0, 8),
    may_grow=st.booleans(),
)
def test_never_more_than_there_are(
    wanted: list[str], holds: dict[str, tuple[str, int]], seats: int, may_grow: bool
) -> None:
    rows = [held(gpu, node, since) for gpu, (node, since) in holds.items()]
    got = share(wanted, rows, node="n1", seats=seats, may_grow=may_grow)
    others = {row.gpu for row in rows if row.node != "n1"}
    assert set(got) <= set(wanted)
    assert len(got) <= seats
    assert len(others | set(got)) <= max(seats, len(others))
    assert may_grow or set(got) <= set(holds)
