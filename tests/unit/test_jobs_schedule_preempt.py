"""Who is asked to stop so that another can start, and what becomes of what they held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.jobs.schedule import Decision, PartitionFacts, Policy, Preempt, QosFacts, Running, Snapshot, decide
from agent.jobs.schedule.book import ENDING_S
from tests.fakes.facts import HOUR, NOW, after, busy, gpus, job, plain, run, snapshot, started, words

QOS = {
    "low": QosFacts(name="low"),
    "mid": QosFacts(name="mid", preempts=frozenset({"low"})),
    "high": QosFacts(name="high", preempts=frozenset({"low", "mid"})),
}
BY_QOS = plain(preempt="qos", qos=QOS)


def low(number: int, on: str = "", **facts: Any) -> Running:
    """A running job that may be ended."""
    return busy(number, on, **{"qos": "low", "may_requeue": True, "started_at": NOW - HOUR, **facts})


def pass_over(*running: Running, count: int = 4, policy: Policy = BY_QOS, **facts: Any) -> Decision:
    """One waiting job of high QOS on a node of four GPUs."""
    return run([job(1, count, qos="high", **facts)], gpus(4), running=list(running), policy=policy)


def victims(decision: Decision) -> list[int]:
    return [victim for each in decision.preempts for victim in each.victims]


def test_a_victim_is_asked_to_stop_and_the_job_is_told() -> None:
    decision = pass_over(low(7, "0123"))
    assert decision.preempts == (Preempt(victims=(7,), job_id=1),)
    assert decision.starts == ()
    assert decision.reasons[1] == ("Resources", "job 7 was asked to stop for it")
    assert decision.expected[1] == NOW + ENDING_S


def test_nobody_is_ended_without_need() -> None:
    assert victims(pass_over(low(7, "01"), count=2)) == []
    assert victims(pass_over(low(7, "0123"), policy=plain(qos=QOS))) == [], "it is off"
    assert victims(pass_over(low(7, "0123", qos="high"))) == [], "not of a lower QOS"
    assert victims(pass_over(low(7, "0123", qos="other"))) == []
    assert victims(pass_over(low(7, "01"), low(8, "2"), busy(9, "3", qos="mid"))) == [], "8 and 7 do not suffice"


def test_a_job_that_may_not_run_twice_is_no_victim_unless_victims_are_cancelled() -> None:
    once = low(7, "0123", may_requeue=False)
    assert victims(pass_over(once)) == []
    assert victims(pass_over(once, policy=replace(BY_QOS, preempt_cancels=True))) == [7]


def test_the_set_that_loses_least_since_its_checkpoint_goes() -> None:
    saved = low(7, "01", saved_at=NOW - 60)
    long = low(8, "23", started_at=NOW - 1000)
    assert victims(pass_over(saved, long, count=2)) == [7], "120 GPU-seconds lost, not 2000"
    assert victims(pass_over(replace(saved, stop_s=5000.0), long, count=2)) == [8], "it stops too slowly"
    stale = replace(saved, saved_at=NOW - 10 * HOUR)
    assert victims(pass_over(stale, long, count=2)) == [8], "a checkpoint of an earlier attempt does not count"


def test_two_that_lose_little_go_sooner_than_one_that_loses_much() -> None:
    one, other = low(7, "0", saved_at=NOW - 10), low(8, "1", saved_at=NOW - 10)
    large = low(9, "23", saved_at=NOW - 500)
    assert victims(pass_over(one, other, large, count=2)) == [7, 8]
    assert victims(pass_over(replace(one, saved_at=None), other, large, count=2)) == [9]


def test_the_lowest_qos_goes_first_whatever_it_loses() -> None:
    costly = low(7, "01")
    cheap = busy(8, "23", qos="mid", may_requeue=True, started_at=NOW - 1)
    assert victims(pass_over(costly, cheap, count=2)) == [7]
    assert victims(pass_over(costly, cheap, count=4)) == [7, 8]


def test_of_a_higher_class_only_what_cannot_be_had_otherwise() -> None:
    middle = [busy(number, on, qos="mid", may_requeue=True, started_at=NOW - 5) for number, on in ((8, "12"), (9, "3"))]
    assert victims(pass_over(low(7, "0"), *middle, count=2)) == [7, 9]


def test_the_tier_of_the_partition_may_decide() -> None:
    policy = plain(
        preempt="partition",
        partitions={"batch": PartitionFacts(name="batch"), "urgent": PartitionFacts(name="urgent", tier=9)},
    )
    batch = low(7, "0123", partition="batch")
    assert victims(pass_over(batch, policy=policy, partition="urgent")) == [7]
    assert victims(pass_over(batch, policy=policy, partition="batch")) == []


def test_what_ends_already_counts_as_coming_and_is_not_asked_twice() -> None:
    assert victims(pass_over(low(7, "01", ending=True), low(8, "23"), count=2)) == []
    assert victims(pass_over(low(7, "01", ending=True), low(8, "23"), count=4)) == [8]


def test_what_victims_leave_is_kept_for_who_asked() -> None:
    waiting = [job(1, 4, qos="high", time_limit_s=HOUR), job(2, 1, qos="low", time_limit_s=60), job(3, 2, qos="mid")]
    facts = snapshot(waiting, gpus(4), running=[low(7, "01"), low(8, "2")], policy=BY_QOS)
    first = run(waiting, gpus(4), running=facts.running, policy=BY_QOS)
    assert victims(first) == [7, 8]
    assert started(first) == {}, "GPU 3 is free, and nobody is given it"
    assert words(first) == {1: "Resources", 2: "Priority", 3: "Priority"}
    later = after(facts, first, NOW)
    second = run(list(later.waiting), gpus(4), NOW + 5, running=later.running, policy=BY_QOS)
    assert second.preempts == ()
    assert started(second) == {}
    gone = run(list(later.waiting), gpus(4), NOW + 40, policy=BY_QOS)
    assert started(gone)[1] == "0123"


def test_two_who_may_do_not_share_a_victim() -> None:
    waiting = [job(1, 2, qos="high"), job(2, 2, qos="high"), job(3, 2, qos="high")]
    decision = run(waiting, gpus(4), running=[low(7, "01"), low(8, "23")], policy=BY_QOS)
    asked = victims(decision)
    assert len(asked) == len(set(asked))
    assert decision.preempts[0].job_id == 1


def test_cpus_and_memory_may_be_what_is_missing() -> None:
    hungry = low(7, "", cpus=60)
    decision = run([job(1, cpus=30, qos="high")], [], running=[hungry, low(8, cpus=1)], policy=BY_QOS)
    assert victims(decision) == [7]


def test_a_job_that_a_limit_or_a_reservation_keeps_back_ends_nobody() -> None:
    limited = replace(BY_QOS, max_gpus_per_user=2)
    assert victims(pass_over(low(7, "0123"), policy=limited)) == []


def test_a_node_full_of_small_jobs_is_cleared_in_bounded_time() -> None:
    running = [low(number, str(number % 8), shards=1, saved_at=NOW - number) for number in range(64)]
    decision = run([job(100, 4, qos="high")], gpus(8, shards=8), running=running, policy=BY_QOS)
    freed = {number % 8 for number in victims(decision)}
    assert len(freed) == 4 and len(victims(decision)) == 32, "four GPUs, and all that is on them"


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["low", "mid", "high"]),
            st.booleans(),
            st.integers(0, 2),
            st.one_of(st.none(), st.integers(0, 5000)),
        ),
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["low", "mid", "high"]), st.booleans()), max_size=4),
    st.booleans(),
)
def test_what_holds_whoever_is_ended(
    held: list[tuple[int, str, bool, int, int | None]], asked: list[tuple[int, str, bool]], cancels: bool
) -> None:
    """Only those who may be, only once, no more than is needed; and then the job does start."""
    free = iter("01234")
    running = [
        low(
            900 + number,
            "".join(next(free, "") for _ in range(count)),
            qos=qos,
            may_requeue=again,
            ending=state == 0,
            saved_at=None if ago is None else NOW - ago,
            time_limit_s=10 * HOUR,
        )
        for number, (count, qos, again, state, ago) in enumerate(held)
    ]
    waiting = [
        job(number, count, qos=qos, time_limit_s=HOUR if limited else None)
        for number, (count, qos, limited) in enumerate(asked, start=1)
    ]
    facts = snapshot(waiting, gpus(5), running=running, policy=replace(BY_QOS, preempt_cancels=cancels))
    decision = decide(facts, NOW)
    ended, by_id = victims(decision), {each.id: each for each in running}
    assert len(ended) == len(set(ended))
    for each in decision.preempts:
        taker = next(one for one in waiting if one.id == each.job_id)
        assert each.job_id in decision.reasons, "it waits until they are gone"
        for victim in each.victims:
            assert by_id[victim].qos in QOS[taker.qos].preempts
            assert not by_id[victim].ending
            assert by_id[victim].may_requeue or cancels
    if len(decision.preempts) == 1:
        taker_id = decision.preempts[0].job_id
        gone = set(ended) | {each.id for each in running if each.ending}
        assert taker_id in started(_once_gone(facts, decision, gone))
        for spared in ended:
            assert taker_id not in started(_once_gone(facts, decision, gone - {spared})), "each of them was needed"


def _once_gone(facts: Snapshot, decision: Decision, gone: set[int]) -> Decision:
    later = after(facts, decision, NOW)
    left = [each for each in later.running if each.id not in gone]
    return decide(replace(later, running=left, policy=replace(later.policy, preempt="qos")), NOW + ENDING_S)
