"""The bench's simulation, small: its lists are what the published figures say, and ours keeps what it promises."""

from __future__ import annotations

import random
from bisect import bisect_right

import pytest

from agent.jobs.schedule import Policy, decide
from tests.bench.peers import easy, fifo
from tests.bench.simulate import simulate
from tests.bench.workload import HELIOS, LONGEST_S, SEREN, Column, TraceJob, run_time, trace

POLICY = Policy(plan_depth=0)


@pytest.mark.parametrize("column", [HELIOS, SEREN], ids=lambda column: column.name)
def testrun_times_are_the_published_ones(column: Column) -> None:
    draw = random.Random(7)
    drawn = sorted(run_time(column.ended_within, draw.random()) for _ in range(20_000))
    assert drawn[0] >= 1 and drawn[-1] <= LONGEST_S
    for seconds, part in column.ended_within:
        assert bisect_right(drawn, seconds) / len(drawn) == pytest.approx(part, abs=0.01)


@pytest.mark.parametrize("load", [0.6, 1.2])
def test_a_list_has_the_load_asked_for_and_is_told_norun_time(load: float) -> None:
    jobs = trace(HELIOS, jobs=2000, load=load, gpus=8, seed=5)
    work = sum(job.gpus * job.run_s for job in jobs)
    assert work / (8 * jobs[-1].submitted_at) == pytest.approx(load, rel=0.05)
    assert all(job.run_s <= job.limit_s for job in jobs)
    assert all(1 <= job.gpus <= 8 for job in jobs)
    by_user = sorted((sum(job.user == user for job in jobs) for user in {job.user for job in jobs}), reverse=True)
    assert sum(by_user[:2]) > 0.4 * len(jobs), "a twentieth of the users has about half the jobs"
    assert jobs == trace(HELIOS, jobs=2000, load=load, gpus=8, seed=5)


def test_the_simulation_counts_as_it_says() -> None:
    """Two jobs of the whole node, one behind the other, and a third that comes when all is done."""
    jobs = [
        TraceJob(id=1, user="a", submitted_at=0, gpus=8, run_s=100, limit_s=100),
        TraceJob(id=2, user="a", submitted_at=50, gpus=8, run_s=5, limit_s=100),
        TraceJob(id=3, user="a", submitted_at=200, gpus=1, run_s=100, limit_s=100),
    ]
    outcome = simulate(jobs, decide, gpus=8, policy=POLICY)
    assert outcome.max_wait_s == 50
    assert outcome.mean_wait_s == pytest.approx(50 / 3)
    assert outcome.slowdown == pytest.approx((1 + 55 / 10 + 1) / 3)
    assert outcome.utilisation == pytest.approx(105 / 200)


@pytest.mark.parametrize("column", [HELIOS, SEREN], ids=lambda column: column.name)
def test_ours_keeps_jobs_waiting_less_than_both_peers(column: Column) -> None:
    jobs = trace(column, jobs=400, load=0.9, gpus=8, seed=1)
    ours, theirs, first = (simulate(jobs, each, gpus=8, policy=POLICY) for each in (decide, easy, fifo))
    assert ours.slowdown < 0.8 * theirs.slowdown < first.slowdown
    assert ours.mean_wait_s < theirs.mean_wait_s
