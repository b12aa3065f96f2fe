"""When an idle job is warned and when it is stopped: the sliding window on its allocation."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import ReaperTable
from agent.telemetry.activity import PARTS, Activity
from agent.telemetry.jobusage import JobUsageKeeper
from agent.telemetry.reaper import Lift, Nothing, Stop, Warn, judge
from tests.unit.test_jobusage import Node, reading

POLICY = ReaperTable(idle_s=1800, grace_s=600, below_percent=5, exempt_qos=("interactive",))
NOW = 1_750_000_000.0


def activity(*spans: tuple[int, float | None]) -> Activity:
    """What was measured: (seconds, level) one after the other, the last one just now."""
    made = Activity(window_s=1800)
    for seconds, level in spans:
        for _ in range(seconds):
            made.add(level, 1.0)
    return made


def verdict(*spans: tuple[int, float | None], warned_s: float | None = None, policy: ReaperTable = POLICY) -> object:
    warned_at = None if warned_s is None else NOW - warned_s
    return judge(activity(*spans), policy, qos="normal", warned_at=warned_at, now=NOW)


def test_idle_for_the_whole_window_is_warned_then_stopped_with_sentences() -> None:
    assert verdict((1700, 0.0)) == Nothing()
    warned = verdict((1800, 0.02))
    assert isinstance(warned, Warn)
    assert warned.sentence == (
        "its GPUs were at most 5 % busy over the last 30 min; unless they are used, the job is stopped in 10 min"
    )
    assert verdict((2400, 0.02), warned_s=599) == Nothing()
    stopped = verdict((2400, 0.02), warned_s=601)
    assert isinstance(stopped, Stop)
    assert (
        stopped.sentence
        == "its GPUs were at most 5 % busy over the last 30 min, and still after the warning 10 min ago"
    )


def test_one_that_works_is_left_alone() -> None:
    assert verdict((1800, 0.9)) == Nothing()
    assert verdict((1800, 0.06)) == Nothing()


def test_a_short_burst_does_not_reset_everything() -> None:
    assert isinstance(verdict((900, 0.0), (20, 1.0), (880, 0.0)), Warn)
    assert isinstance(verdict((1800, 0.0), (300, 0.0), (20, 1.0), (280, 0.0), warned_s=600), Stop)


def test_one_that_set_to_work_since_the_warning_is_let_be() -> None:
    assert isinstance(verdict((1800, 0.0), (540, 0.0), (60, 1.0), warned_s=600), Lift)
    assert isinstance(verdict((1800, 0.0), (100, 1.0), warned_s=100), Lift)


def test_one_that_stopped_using_its_gpus_midway_is_caught() -> None:
    assert isinstance(verdict((36_000, 0.97), (1830, 0.0)), Warn)
    assert verdict((36_000, 0.97), (1000, 0.0)) == Nothing()


def test_what_could_not_be_measured_is_not_held_against_a_job() -> None:
    assert verdict((1800, None)) == Nothing()
    assert verdict((10, 0.0)) == Nothing()
    assert judge(None, POLICY, qos="normal", warned_at=None, now=NOW) == Nothing()


@pytest.mark.parametrize("policy", [ReaperTable(), ReaperTable(idle_s=None, below_percent=100)])
def test_off_by_default(policy: ReaperTable) -> None:
    assert verdict((100_000, 0.0), policy=policy) == Nothing()
    assert verdict((100_000, 0.0), policy=policy, warned_s=99_999) == Nothing()


def test_an_exempt_qos_is_never_judged() -> None:
    idle = activity((100_000, 0.0))
    assert judge(idle, POLICY, qos="interactive", warned_at=None, now=NOW) == Nothing()
    assert judge(idle, POLICY, qos="interactive", warned_at=NOW - 9999, now=NOW) == Nothing()


def test_a_clock_set_back_after_the_warning_stops_nobody() -> None:
    assert verdict((5000, 0.0), warned_s=-3600) == Nothing()


def test_a_grace_longer_than_the_window_is_kept() -> None:
    policy = ReaperTable(idle_s=60, grace_s=3600)
    keeper = JobUsageKeeper(window_s=60)
    node = Node(keeper)
    node.run(100, reading(utilization_percent=0))
    seen = keeper.activity(17)
    assert isinstance(judge(seen, policy, qos="", warned_at=None, now=NOW), Warn)
    assert judge(seen, policy, qos="", warned_at=NOW - 3599, now=NOW) == Nothing()
    assert isinstance(judge(seen, policy, qos="", warned_at=NOW - 3600, now=NOW), Stop)


def test_the_window_is_fed_by_the_keeper_and_is_there_after_a_restart() -> None:
    keeper = JobUsageKeeper(window_s=1800)
    node = Node(keeper)
    node.run(1500, reading(0, utilization_percent=1), reading(1, utilization_percent=0))
    after = Node(JobUsageKeeper(window_s=1800), at=node.at)
    after.keeper.restore(17, keeper.save(17) or b"", goes_on=True)
    assert judge(after.keeper.activity(17), POLICY, qos="", warned_at=None, now=NOW) == Nothing()
    after.run(320, reading(0, utilization_percent=1), reading(1, utilization_percent=0))
    assert isinstance(judge(after.keeper.activity(17), POLICY, qos="", warned_at=None, now=NOW), Warn)


def test_a_job_with_one_busy_gpu_of_eight_is_not_idle_to_the_reaper() -> None:
    node = Node(JobUsageKeeper(window_s=60))
    node.run(200, reading(0, utilization_percent=35), *(reading(each, utilization_percent=0) for each in range(1, 8)))
    policy = ReaperTable(idle_s=60)
    assert judge(node.keeper.activity(17), policy, qos="", warned_at=None, now=NOW) == Nothing()


def test_a_new_attempt_begins_with_an_empty_window() -> None:
    node = Node(JobUsageKeeper(window_s=60))
    node.run(200, reading(utilization_percent=0))
    _, _, saved = node.keeper.take(17) or pytest.fail()
    node.keeper.restore(17, saved, goes_on=False)
    seen = node.keeper.activity(17)
    assert seen is not None
    assert seen.covered_s() == 0


@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.floats(0.01, 400)), max_size=300), st.floats(1, 1e5))
def test_the_window_stays_small_and_plausible(steps: list[tuple[float | None, float]], window_s: float) -> None:
    seen = Activity(window_s=window_s)
    for level, seconds in steps:
        seen.add(level, seconds)
    assert len(seen.parts) <= PARTS + 1
    assert seen.covered_s() <= window_s
    for span in (1.0, window_s / 2, window_s):
        busy = seen.busy_percent(span)
        assert (busy is None) is (not steps)
        assert busy is None or -1e-6 <= busy <= 100 + 1e-6
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Activity) == seen
