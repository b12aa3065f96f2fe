"""Shared GPUs: whose part is whose, and who takes more memory than its shards."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import GpuProcess, GpuReading
from agent.telemetry.sharing import CONTEXT_BYTES, Overuse, Split, overuse, parts
from tests.unit.test_jobusage import GIB, reading


def gpu(*processes: tuple[int, int | None], total: int | None = 80 * GIB) -> GpuReading:
    found = tuple(GpuProcess(pid=pid, memory_used_bytes=memory) for pid, memory in processes)
    return msgspec.structs.replace(reading(), processes=found, memory_total_bytes=total)


def over(found: GpuReading, shards: dict[int, int], pids: dict[int, int], per_gpu: int = 4) -> tuple[Overuse, ...]:
    held_by = {"GPU-0": tuple(sorted({*shards, *pids.values()}))}
    return overuse([found], held_by, shards=shards, shards_per_gpu=per_gpu, pids=pids)


def test_the_job_above_its_share_is_named_with_figures_and_advice() -> None:
    found = over(gpu((1, 15 * GIB), (2, 10 * GIB), (3, 19 * GIB)), {17: 1, 18: 1}, {1: 17, 2: 17, 3: 18})
    assert [(each.job_id, each.used_bytes, each.allowed_bytes) for each in found] == [(17, 25 * GIB, 20 * GIB)]
    assert found[0].sentence == (
        "job 17 holds 25.0 GiB of GPU 0, and its 1 of 4 shards are 20.0 GiB; others run there too: "
        "ask for more shards, or limit the memory in the program"
    )


@pytest.mark.parametrize(("used", "named"), [(20 * GIB + CONTEXT_BYTES, False), (20 * GIB + CONTEXT_BYTES + 1, True)])
def test_a_context_is_let_be(used: int, named: bool) -> None:
    assert bool(over(gpu((1, used)), {17: 1}, {1: 17})) is named


def test_two_shards_are_twice_as_much() -> None:
    assert over(gpu((1, 39 * GIB)), {17: 2}, {1: 17}) == ()


@pytest.mark.parametrize(
    ("found", "shards", "pids"),
    [
        (gpu((1, None)), {17: 1}, {1: 17}),
        (gpu((1, 79 * GIB), (2, None)), {17: 1}, {1: 17, 2: 17}),
        (gpu((1, 79 * GIB)), {17: 1}, {}),
        (gpu((1, 79 * GIB)), {}, {1: 17}),
        (gpu((1, 79 * GIB), total=None), {17: 1}, {1: 17}),
        (gpu(), {17: 1}, {}),
    ],
    ids=["no figure", "half a figure", "nobody's process", "a whole GPU", "no total", "no process"],
)
def test_what_is_not_known_accuses_nobody(found: GpuReading, shards: dict[int, int], pids: dict[int, int]) -> None:
    assert over(found, shards, pids) == ()


@given(
    st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(0, 2**40)), max_size=8),
    st.dictionaries(st.integers(1, 6), st.integers(17, 20)),
    st.lists(st.integers(17, 20), min_size=1, max_size=4, unique=True),
)
def test_parts_are_of_the_holders_alone_and_sum_to_one(
    processes: list[tuple[int, int | None]], pids: dict[int, int], holders: list[int]
) -> None:
    divided, split = parts(gpu(*processes), holders, pids)
    assert list(divided) == holders
    assert sum(divided.values()) == pytest.approx(1)
    assert all(0 <= part <= 1 for part in divided.values())
    assert (split is Split.NONE) is (len(holders) == 1)
