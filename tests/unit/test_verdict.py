"""What is said of a job's use of its GPUs, from whole runs of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.queue import JobUsage, Verdict
from agent.telemetry.verdict import GpuMeans, Means, judge
from tests.unit.test_jobusage import GIB, Node, reading


def usage_of(*curves: Callable[[int], int], seconds: int = 601, **values: object) -> JobUsage:
    """A job with a GPU for each curve of utilisation over the seconds of its run."""
    node = Node()
    for second in range(seconds):
        gpus = [reading(index, utilization_percent=curve(second), **values) for index, curve in enumerate(curves)]
        node.sample(*gpus, held_by={gpu.uuid: (17,) for gpu in gpus})
    return node.usage()


def run(*curves: Callable[[int], int], **values: Any) -> Callable[[], JobUsage]:
    """The same in its test, and not where all tests are only collected."""
    return lambda: usage_of(*curves, **values)


def steady(percent: int) -> Callable[[int], int]:
    return lambda _: percent


def bursts(work_s: int, wait_s: int) -> Callable[[int], int]:
    return lambda second: 95 if second % (work_s + wait_s) < work_s else 0


@pytest.mark.parametrize(
    ("made", "verdict", "words"),
    [
        (run(steady(95)), Verdict.FINE, ["Busy 95 %"]),
        (run(steady(60)), Verdict.FINE, ["Busy 60 %"]),
        (run(steady(90), memory_used_bytes=8 * GIB), Verdict.FINE, ["10 %", "larger batch"]),
        (run(steady(0)), Verdict.IDLE, ["Its GPU did next to nothing", "torch.cuda.is_available()"]),
        (run(*[steady(3)] * 4), Verdict.IDLE, ["All its 4 GPUs"]),
        (
            run(steady(95), *[steady(0)] * 3),
            Verdict.IDLE,
            ["3 of its 4 GPUs", "ask for 1 GPU,", "--nproc-per-node=4"],
        ),
        (run(steady(95), steady(95), steady(0)), Verdict.IDLE, ["1 of its 3 GPUs", "ask for 2 GPUs"]),
        (run(bursts(6, 4)), Verdict.DATA_STARVED, ["in bursts", "40 %", "57 %", "loader workers"]),
        (run(steady(30)), Verdict.DATA_STARVED, ["30 % of the time", "below a second"]),
        (
            run(steady(95), memory_utilization_percent=80, power_mw=400_000),
            Verdict.MEMORY_BOUND,
            ["memory is the"],
        ),
        (run(steady(95), memory_utilization_percent=80, power_mw=690_000), Verdict.FINE, []),
        (run(steady(95), memory_utilization_percent=50, power_mw=100_000), Verdict.FINE, []),
        (run(steady(0), seconds=60), Verdict.UNKNOWN, ["59 s", "too short"]),
        (run(lambda second: 0 if second < 150 else 95), Verdict.FINE, ["Busy 71 %"]),  # one wait, at the start
    ],
)
def test_verdict_and_advice(made: Callable[[], JobUsage], verdict: Verdict, words: Iterable[str]) -> None:
    usage = made()
    assert usage.verdict is verdict, usage.sentence
    assert all(word in (usage.sentence or "") for word in words), usage.sentence


percents = st.none() | st.floats(0, 100)
shares = st.none() | st.floats(0, 2)


@given(
    st.lists(st.tuples(percents, percents, shares, shares), max_size=8),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.integers(0, 1000),
    st.booleans(),
)
def test_there_is_a_verdict_and_a_sentence_on_anything(
    gpus: list[tuple[float | None, float | None, float | None, float | None]],
    measured_s: float,
    low: float,
    count: int,
    shared: bool,
) -> None:
    means = Means(
        measured_s=measured_s,
        low_s=low * measured_s,
        high_s=(1 - low) * measured_s,
        bursts=count,
        gpus=[
            GpuMeans(utilization_percent=a, memory_utilization_percent=b, power_share=c, memory_share=d)
            for a, b, c, d in gpus
        ],
        shared=shared,
    )
    verdict, sentence = judge(means)
    assert verdict in list(Verdict)
    assert sentence.endswith((".", "?"))
