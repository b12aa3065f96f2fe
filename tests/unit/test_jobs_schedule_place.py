"""Which GPUs a job is given, on the maps that nodes come with."""

from __future__ import annotations

import time
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.queue import LinkGrade
from agent.jobs.schedule import GpuFacts
from agent.jobs.schedule.place import Placer
from tests.fakes.facts import dgx, gpu, gpus, job, pairs, run, started, two_islands


def chosen(node: list[GpuFacts], free: str, count: int) -> str | None:
    """The indexes of the GPUs that a job is given of those that are free."""
    mask = Placer(node).choose(sum(1 << int(index) for index in free), count)
    return None if mask is None else "".join(str(place) for place in range(len(node)) if mask >> place & 1)


@pytest.mark.parametrize(
    ("free", "count", "expected"),
    [
        ("01234567", 1, "0"),
        ("01234567", 2, "01"),
        ("01234567", 4, "0123"),
        ("1234567", 4, "4567"),  # one NUMA node sooner than two
        ("124567", 2, "12"),  # and the one that is broken into already
        ("0123457", 1, "4"),
        ("01234567", 8, "01234567"),
        ("0123", 5, None),
    ],
)
def test_all_linked_to_all(free: str, count: int, expected: str | None) -> None:
    assert chosen(dgx(), free, count) == expected


@pytest.mark.parametrize(
    ("free", "count", "expected"),
    [
        ("01234567", 2, "01"),
        ("1234567", 2, "23"),
        ("1346", 2, "13"),  # no bridge is whole: within a NUMA node
        ("1234567", 1, "1"),  # its partner is gone already
        ("01234567", 4, "0123"),
        ("0134567", 4, "4567"),
        ("0267", 2, "67"),
    ],
)
def test_pairs_with_a_bridge(free: str, count: int, expected: str) -> None:
    assert chosen(pairs(), free, count) == expected


@pytest.mark.parametrize(
    ("free", "count", "expected"),
    [
        ("0123567", 1, "5"),  # an island of four is not broken into for a single
        ("0123567", 4, "0123"),
        ("0123567", 3, "567"),
        ("012367", 2, "67"),
        ("0123456", 2, "45"),
        ("01456", 3, "456"),
        ("0145", 3, "014"),  # no island has three: the links say nothing more, the lowest indexes do
    ],
)
def test_two_islands_of_four(free: str, count: int, expected: str) -> None:
    assert chosen(two_islands(), free, count) == expected


def test_without_a_map_the_lowest_indexes_are_taken() -> None:
    assert chosen(gpus(8), "13456", 3) == "134"


def test_the_least_ill_is_taken_among_equals() -> None:
    node = [gpu(0, ill=3), gpu(1), gpu(2, ill=1), gpu(3)]
    assert chosen(node, "0123", 2) == "13"
    assert chosen(node, "02", 1) == "2"


def test_a_link_told_of_from_one_side_counts() -> None:
    node = [gpu(0), gpu(1), gpu(2, links={"GPU-1": LinkGrade.NVLINK, "GPU-9": 99})]
    assert chosen(node, "012", 2) == "12"


def test_a_switch_is_better_than_the_numa_node() -> None:
    node = [gpu(0, numa_node=0, links={"GPU-3": LinkGrade.BRIDGE}), gpu(1, numa_node=0), gpu(2, numa_node=0), gpu(3)]
    assert chosen(node, "0123", 2) == "03"


def test_the_decision_places_by_links() -> None:
    waiting = [job(1, 1), job(2, 4), job(3, 2)]
    assert started(run(waiting, two_islands())) == {1: "0", 2: "4567", 3: "12"}


def test_a_node_of_64_is_placed_in_bounded_time() -> None:
    node = [
        gpu(index, links={f"GPU-{other}": LinkGrade.NVLINK for other in range(64) if other // 8 == index // 8})
        for index in range(64)
    ]
    placer = Placer(node)
    free = (1 << 64) - 1 & ~(1 << 3)
    begin = time.process_time()
    assert placer.choose(free, 8) == 0xFF00
    assert placer.choose(free, 7) == 0xF7
    assert placer.choose(free, 16) == 0xFFFF00
    assert time.process_time() - begin < 2


links = st.sampled_from([LinkGrade.SYSTEM, LinkGrade.NODE, LinkGrade.BRIDGE, LinkGrade.NVLINK, LinkGrade.NVLINK + 3])


@st.composite
def nodes(draw: st.DrawFn) -> list[GpuFacts]:
    count = draw(st.integers(1, 7))
    grades = {pair: draw(links) for pair in combinations(range(count), 2)}
    return [
        gpu(
            index,
            ill=draw(st.integers(0, 1)),
            numa_node=draw(st.sampled_from([None, 0, 1])),
            links={
                f"GPU-{other}": grades[min(index, other), max(index, other)] for other in range(count) if other != index
            },
        )
        for index in range(count)
    ]


@given(nodes(), st.data())
def test_the_weakest_link_is_the_best_that_can_be_had(node: list[GpuFacts], data: st.DataObject) -> None:
    free = data.draw(st.lists(st.integers(0, len(node) - 1), unique=True, min_size=1), "free")
    count = data.draw(st.integers(1, len(free)), "count")
    found = chosen(node, "".join(map(str, free)), count)
    assert found is not None and len(found) == count
    taken = [int(index) for index in found]
    assert set(taken) <= set(free)

    def grade(one: int, other: int) -> int:
        numa = node[one].numa_node is not None and node[one].numa_node == node[other].numa_node
        return max(node[one].links[f"GPU-{other}"], LinkGrade.NODE if numa else 0)

    def weakest(choice: list[int]) -> int:
        return min((grade(*pair) for pair in combinations(choice, 2)), default=0)

    assert weakest(taken) == max(weakest(list(choice)) for choice in combinations(free, count))
