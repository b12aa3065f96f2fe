"""By how much error counters rose within a minute: steps, resets, the window, GPUs that come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import GpuErrors, GpuReading, GpuState
from agent.telemetry.rises import WINDOW_S, Rises


def gpu(recoveries: int | None, uuid: str = "GPU-0", state: GpuState = GpuState.OK) -> GpuReading:
    errors = GpuErrors(nvlink_recoveries=recoveries)
    return GpuReading(index=0, uuid=uuid, name="H100", sampled_at=1.0, state=state, errors=errors)


def test_what_was_there_before_we_looked_did_not_rise() -> None:
    assert Rises().look([gpu(4000)], 0.0) == {}


def test_a_step_is_seen_for_a_minute() -> None:
    rises = Rises()
    counts = [(0.0, 5), (10.0, 5), (20.0, 17), (79.0, 17), (80.0, 17)]
    found = [rises.look([gpu(count)], at).get("GPU-0", {}).get("nvlink_recoveries", 0) for at, count in counts]
    assert found == [0, 0, 12, 12, 0]


def test_a_counter_that_begins_anew_hides_no_step_and_makes_none() -> None:
    rises = Rises()
    for at, count in ((0.0, 100), (10.0, 110), (20.0, 0), (30.0, 4)):
        found = rises.look([gpu(count)], at)
    assert found["GPU-0"]["nvlink_recoveries"] == 14


def test_a_gpu_that_cannot_be_read_is_not_judged_and_one_that_went_is_forgotten() -> None:
    rises = Rises()
    rises.look([gpu(1)], 0.0)
    assert rises.look([gpu(99, state=GpuState.HUNG)], 1.0) == {}
    assert rises.look([], 2.0) == {}
    assert rises.look([gpu(500)], 3.0) == {}


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50) | st.none()), max_size=60))
def test_it_never_tells_more_than_rose_and_keeps_no_more_than_the_window(steps: list[tuple[float, int | None]]) -> None:
    rises, at, total = Rises(), 0.0, 0
    for passed, rose in steps:
        at, total = at + passed, total + (rose or 0)
        found = rises.look([gpu(None if rose is None else total)], at).get("GPU-0", {}).get("nvlink_recoveries", 0)
        assert 0 <= found <= total
        kept = rises._past["GPU-0"]
        assert len([1 for when, _ in kept if when <= at - WINDOW_S]) <= 1
