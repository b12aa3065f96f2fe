"""The order of the queue, and the parts that every waiting job is shown."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.queue import PriorityParts
from agent.jobs.schedule import Demand, PartitionFacts, Policy, QosFacts, Waiting, decide
from agent.jobs.schedule.fairshare import standings
from agent.jobs.schedule.priority import qos_levels, size_factor
from tests.fakes.facts import HOUR, NOW, busy, gpus, job, plain, run, snapshot, started

DAY = 86400


def order(waiting: list[Waiting], **facts: Any) -> list[int]:
    """In which order jobs of one GPU each would be served: as they start on a node with room for all."""
    return [start.job_id for start in run(waiting, gpus(len(waiting)), **facts).starts]


def test_equal_jobs_are_served_by_their_ids() -> None:
    assert order([job(3, 1), job(1, 1), job(2, 1)]) == [1, 2, 3]


def test_age_counts_up_to_its_most() -> None:
    policy = plain(weight_age=1000, max_age_s=1000)
    waiting = [
        job(1, 1, eligible_at=NOW + 50),
        job(2, 1, eligible_at=NOW - 500),
        job(3, 1, eligible_at=NOW - 5000),
        job(4, 1, eligible_at=NOW - 1000),
    ]
    decision = run(waiting, gpus(4), policy=policy)
    assert [start.job_id for start in decision.starts] == [3, 4, 2, 1]
    assert {number: parts.age for number, parts in decision.priorities.items()} == {1: 0, 2: 500, 3: 1000, 4: 1000}


def test_a_lighter_user_goes_first() -> None:
    waiting = [job(1, 1, user="ada"), job(2, 1, user="bob"), job(3, 1, user="cy")]
    policy = plain(weight_fairshare=10_000)
    usage = {("", "ada"): 300.0, ("", "bob"): 100.0}
    decision = run(waiting, gpus(3), policy=policy, usage=usage)
    assert [start.job_id for start in decision.starts] == [3, 2, 1]
    parts = {number: each.fairshare for number, each in decision.priorities.items()}
    assert parts == {1: round(10_000 * 2 ** -(0.75 * 3)), 2: round(10_000 * 2 ** -(0.25 * 3)), 3: 10_000}


def test_shares_of_users_and_of_accounts() -> None:
    pairs = [("lab", "ada"), ("lab", "bob"), ("ml", "cy"), ("ml", "dan"), ("guest", "eve")]
    shares = {("lab", "ada"): 0.4, ("ml", ""): 0.4}
    found = standings(pairs, {("lab", "ada"): 40.0, ("ml", "cy"): 60.0}, shares)
    assert found["lab", "ada"].shares_norm == 0.4
    assert found["lab", "ada"].factor == 0.5, "exactly its due"
    assert found["ml", "cy"].shares_norm == found["ml", "dan"].shares_norm == 0.2
    assert found["ml", "cy"].factor == pytest.approx(1 / 8)
    assert found["lab", "bob"].shares_norm == pytest.approx(0.1), "shares the rest equally"
    assert found["guest", "eve"].shares_norm == pytest.approx(0.1)
    assert found["guest", "eve"].factor == 1.0


def test_nobody_is_due_anything_where_all_is_given_away() -> None:
    found = standings([("a", "x"), ("b", "y")], {("b", "y"): 5.0}, {("a", "x"): 1.0})
    assert found["b", "y"].shares_norm == 0
    assert found["b", "y"].factor == 0
    assert found["a", "x"].factor == 1
    assert standings([], {}, {("a", ""): 0.5}) == {}


def test_shorter_first_and_of_equally_long_the_wider() -> None:
    policy = plain(weight_jobsize=1000)
    waiting = [
        job(1, 1),
        job(2, 1, time_limit_s=DAY),
        job(3, 1, time_limit_s=HOUR),
        job(4, 2, time_limit_s=HOUR),
        job(5, 1, time_limit_s=60),
    ]
    decision = run(waiting, gpus(8), policy=policy)
    assert [start.job_id for start in decision.starts] == [5, 4, 3, 2, 1]
    assert size_factor(0.0, None, policy) == 0.0
    assert size_factor(1.0, 1, policy) == 1.0


def test_large_first_where_the_site_says_so() -> None:
    policy = plain(weight_jobsize=1000, favour_small=False)
    waiting = [job(1, 1), job(2, 4), job(3, cpus=64)]
    parts = run(waiting, gpus(8), policy=policy).priorities
    assert (parts[1].jobsize, parts[2].jobsize, parts[3].jobsize) == (125, 500, 1000)


def test_qos_and_partition_count_and_nice_is_taken_off() -> None:
    policy = plain(
        weight_qos=1000,
        weight_partition=100,
        qos={"high": QosFacts(name="high", factor=0.8)},
        partitions={"a": PartitionFacts(name="a", tier=1), "b": PartitionFacts(name="b", tier=4)},
    )
    parts = run([job(1, 1, qos="high", partition="a", nice=25)], gpus(1), policy=policy).priorities[1]
    assert parts == PriorityParts(qos=800, partition=25, nice=25, total=800)


def test_a_priority_set_by_hand_stands_alone() -> None:
    waiting = [job(1, 1), job(2, 1, priority=5_000_000, nice=1000), job(3, 1, priority=1)]
    decision = run(waiting, gpus(3), policy=Policy())
    assert [start.job_id for start in decision.starts] == [2, 1, 3]
    assert decision.priorities[2] == PriorityParts(site=5_000_000, total=5_000_000)


def test_a_priority_is_never_below_one() -> None:
    assert run([job(1, 1, nice=10_000)], gpus(1)).priorities[1].total == 1
    assert run([job(1, 1, priority=0)], gpus(1)).priorities[1].total == 1


def test_a_higher_tier_goes_before_any_priority() -> None:
    policy = plain(partitions={"a": PartitionFacts(name="a"), "b": PartitionFacts(name="b", tier=2)})
    waiting = [job(1, 1, partition="a", priority=10**9), job(2, 1, partition="b", nice=100)]
    assert order(waiting, policy=policy) == [2, 1]


def test_a_qos_that_may_end_another_is_served_before_it() -> None:
    qos = {
        "low": QosFacts(name="low", factor=1.0),
        "mid": QosFacts(name="mid", preempts=frozenset({"low"})),
        "high": QosFacts(name="high", preempts=frozenset({"mid", "gone"})),
    }
    assert qos_levels(qos) == {"low": 0, "mid": 1, "high": 2}
    waiting = [job(1, 1, qos="low"), job(2, 1, qos="mid"), job(3, 1, qos="high")]
    assert order(waiting, policy=plain(qos=qos, weight_qos=100)) == [1, 2, 3]
    assert order(waiting, policy=plain(qos=qos, weight_qos=100, preempt="qos")) == [3, 2, 1]


def test_qos_that_end_each_other_are_no_endless_ladder() -> None:
    qos = {
        "a": QosFacts(name="a", preempts=frozenset({"b"})),
        "b": QosFacts(name="b", preempts=frozenset({"a"})),
        "c": QosFacts(name="c", preempts=frozenset({"a", "c"})),
    }
    assert qos_levels(qos) == {"a": 0, "b": 0, "c": 1}
    ring = {each: QosFacts(name=each, preempts=frozenset({after})) for each, after in ("ab", "bc", "ca")}
    assert set(qos_levels(ring)) == {"a", "b", "c"}


def test_every_waiting_job_is_shown_its_parts() -> None:
    waiting = [job(1, 1, hold=("JobHeldUser", "")), job(2, 1, begin_at=NOW + 9), job(3, 99), job(4, 1)]
    decision = run(waiting, gpus(1), running=[busy(9, "0")], policy=Policy())
    assert set(decision.priorities) == {1, 2, 3, 4}
    for parts in decision.priorities.values():
        assert parts.total == parts.age + parts.fairshare + parts.jobsize + parts.partition + parts.qos - parts.nice


weights = st.integers(0, 20_000)


@settings(max_examples=50)
@given(
    st.builds(
        plain,
        weight_age=weights,
        weight_fairshare=weights,
        weight_jobsize=weights,
        weight_partition=weights,
        weight_qos=weights,
        max_age_s=st.integers(0, 10**6),
        favour_small=st.booleans(),
    ),
    st.lists(
        st.builds(
            dict,
            gpus=st.integers(0, 3),
            user=st.sampled_from("abc"),
            nice=st.integers(-(2**31), 2**31),
            time_limit_s=st.one_of(st.none(), st.integers(60, 10**9)),
            eligible_at=st.integers(0, NOW + 10**6),
            priority=st.one_of(st.none(), st.integers(0, 2**32)),
        ),
        max_size=12,
    ),
    st.dictionaries(st.tuples(st.just(""), st.sampled_from("abcd")), st.floats(0, 1e12)),
    st.randoms(use_true_random=False),
)
def test_the_order_is_by_priority_and_each_part_within_its_weight(
    policy: Policy, drawn: list[dict[str, Any]], usage: dict[tuple[str, str], float], random_: random.Random
) -> None:
    waiting = [job(number, **facts) for number, facts in enumerate(drawn, start=1)]
    decision = run(waiting, gpus(3 * len(waiting)), policy=policy, usage=usage)
    served = [decision.priorities[start.job_id].total for start in decision.starts]
    assert len(served) == len(waiting), "there is room for all"
    assert served == sorted(served, reverse=True)
    for parts in decision.priorities.values():
        assert 0 <= parts.age <= policy.weight_age
        assert 0 <= parts.fairshare <= policy.weight_fairshare
        assert 0 <= parts.jobsize <= policy.weight_jobsize
        assert parts.total >= 1
    random_.shuffle(waiting)
    assert run(waiting, gpus(3 * len(waiting)), policy=policy, usage=usage) == decision


def test_equal_demands_need_not_be_one_object() -> None:
    alike = [job(number, demand=Demand(gpus=1, cpus=0)) for number in range(1, 5)]
    decision = decide(snapshot(alike, gpus(2)), NOW)
    assert set(started(decision)) == {1, 2}
    assert decision.reasons[3][0] == "Resources"
    assert decision.reasons[4][0] == "Priority"
