"""A job that names several partitions: in which it starts, where it waits, and what it is told."""

from __future__ import annotations

from agent.jobs.schedule import PartitionFacts, Policy
from tests.fakes.facts import HOUR, NOW, busy, gpus, job, plain, run, started, words

LEFT, RIGHT = frozenset({"GPU-0", "GPU-1"}), frozenset({"GPU-2", "GPU-3"})


def policy(*, left: int = 1, right: int = 1, **facts: object) -> Policy:
    """Two partitions of two GPUs each, of these tiers."""
    partitions = {
        "left": PartitionFacts(name="left", gpu_uuids=LEFT, tier=left),
        "right": PartitionFacts(name="right", gpu_uuids=RIGHT, tier=right),
        "brief": PartitionFacts(name="brief", max_time_s=60),
    }
    return plain(partitions=partitions, **facts)


def test_it_starts_in_the_first_partition_that_has_room() -> None:
    both = job(1, 2, partition="left,right", time_limit_s=HOUR)
    assert run([both], gpus(4), policy=policy()).starts[0].partition == "left"
    decision = run([both], gpus(4), running=[busy(9, "0")], policy=policy())
    assert (started(decision), decision.starts[0].partition) == ({1: "23"}, "right")
    backwards = job(1, 2, partition="right,left", time_limit_s=HOUR)
    assert run([backwards], gpus(4), policy=policy()).starts[0].partition == "right"


def test_where_none_has_room_it_is_planned_in_the_one_with_the_earliest_start() -> None:
    running = [busy(8, "01", time_limit_s=3 * HOUR), busy(9, "23", time_limit_s=2 * HOUR)]
    both = job(1, 2, partition="left,right", time_limit_s=HOUR)
    decision = run([both], gpus(4), running=running, policy=policy())
    assert decision.expected == {1: NOW + 2 * HOUR}
    assert decision.reasons[1] == (
        "Resources",
        "asks for 2 GPUs; 0 of 2 free, held by job 9; partition right comes first",
    )


def test_it_holds_up_the_line_that_it_leads_and_no_other() -> None:
    running = [busy(8, "0", time_limit_s=3 * HOUR), busy(9, "2", time_limit_s=HOUR)]
    waiting = [
        job(1, 2, partition="left,right", time_limit_s=HOUR),
        job(2, 1, partition="left", time_limit_s=9 * HOUR),
        job(3, 1, partition="right", time_limit_s=9 * HOUR),
    ]
    decision = run(waiting, gpus(4), running=running, policy=policy())
    assert started(decision) == {2: "1"}, "the GPU that is free on the right is kept for job 1"
    assert words(decision) == {1: "Resources", 3: "Priority"}


def test_behind_the_heads_of_its_partitions_it_is_planned_where_it_starts_first() -> None:
    running = [busy(8, "01", time_limit_s=HOUR), busy(9, "23", time_limit_s=HOUR)]
    waiting = [
        job(1, 2, partition="left", time_limit_s=5 * HOUR),
        job(2, 2, partition="right", time_limit_s=HOUR),
        job(3, 2, partition="left,right", time_limit_s=HOUR),
    ]
    decision = run(waiting, gpus(4), running=running, policy=policy())
    assert decision.expected == {1: NOW + HOUR, 2: NOW + HOUR, 3: NOW + 2 * HOUR}
    assert words(decision)[3] == "Priority"


def test_a_partition_in_which_it_may_not_start_does_not_keep_it_from_the_others() -> None:
    decision = run([job(1, 2, partition="brief,right", time_limit_s=HOUR)], gpus(4), policy=policy())
    assert decision.starts[0].partition == "right"
    told = run([job(1, 3, partition="brief,right", time_limit_s=HOUR)], gpus(4), policy=policy()).reasons[1]
    assert told[0] == "PartitionTimeLimit"
    assert told[1].startswith("in partition brief it asks for 1:00:00; partition brief allows 1:00; in partition rig")


def test_in_a_partition_of_a_lower_tier_it_comes_behind_those_of_the_higher_ones_only() -> None:
    """It stands first on the left, where a tier of two counts, and in its turn on the right."""
    rules = policy(left=2)
    running = [busy(8, "01", time_limit_s=HOUR)]
    urgent = job(2, 2, partition="left,right", time_limit_s=HOUR)
    decision = run([job(1, 2, partition="right"), urgent], gpus(4), running=running, policy=rules)
    assert started(decision) == {1: "23"}, "job 1 was there first"
    assert decision.expected == {2: NOW + HOUR}
    decision = run([job(3, 2, partition="right"), urgent], gpus(4), running=running, policy=rules)
    assert started(decision) == {2: "23"}
    assert words(decision) == {3: "Resources"}
    assert 2 not in decision.expected


def test_it_is_promised_the_earlier_start_of_two_tiers() -> None:
    running = [busy(8, "01", time_limit_s=3 * HOUR), busy(9, "23", time_limit_s=HOUR)]
    decision = run(
        [job(1, 2, partition="left,right", time_limit_s=HOUR)], gpus(4), running=running, policy=policy(left=2)
    )
    assert decision.expected == {1: NOW + HOUR}
    assert decision.priorities[1].total >= 1


def test_it_ends_nobody_where_another_of_its_partitions_has_room() -> None:
    rules = policy(left=2, preempt="partition")
    victim = busy(9, "01", partition="batch", may_requeue=True, time_limit_s=9 * HOUR)
    both = job(1, 2, partition="left,right", time_limit_s=HOUR)
    decision = run([both], gpus(4), running=[victim], policy=rules)
    assert decision.preempts == ()
    assert decision.starts[0].partition == "right"
    full = run([both], gpus(4), running=[victim, busy(8, "23", time_limit_s=9 * HOUR)], policy=rules)
    assert full.preempts[0].victims == (9,)
    assert full.starts == ()


def test_what_is_known_of_its_kind_in_one_partition_does_not_keep_it_from_the_other() -> None:
    """Jobs 1 and 2 wait on the left, the one behind the other; job 3 names the right as well, where there is room."""
    waiting = [
        job(1, 2, partition="left", time_limit_s=HOUR),
        job(2, 2, partition="left", time_limit_s=HOUR, user="bob"),
        job(3, 2, partition="left,right", time_limit_s=HOUR),
    ]
    sides = {name: PartitionFacts(name=name, gpu_uuids=its) for name, its in (("left", LEFT), ("right", RIGHT))}
    running = [busy(9, "01", time_limit_s=HOUR)]
    decision = run(waiting, gpus(4), running=running, policy=plain(partitions=sides))
    assert started(decision) == {3: "23"}
    assert words(decision) == {1: "Resources", 2: "Priority"}


def test_in_a_closed_partition_nothing_starts_and_nobody_is_held_up() -> None:
    sides = {
        "left": PartitionFacts(name="left", gpu_uuids=LEFT, closed="DOWN", tier=9),
        "right": PartitionFacts(name="right", gpu_uuids=RIGHT, closed="INACTIVE"),
        "all": PartitionFacts(name="all"),
    }
    waiting = [
        job(1, 2, partition="left"),
        job(2, 1, partition="right"),
        job(3, 4, partition="all"),
        job(4, 0, partition="left"),
    ]
    decision = run(waiting, gpus(4), policy=plain(partitions=sides))
    assert started(decision) == {3: "0123"}
    assert words(decision) == {1: "PartitionDown", 2: "PartitionInactive", 4: "PartitionDown"}
    assert decision.expected == {}


def test_of_several_partitions_the_open_one_is_taken() -> None:
    sides = {
        "left": PartitionFacts(name="left", gpu_uuids=LEFT, closed="DOWN"),
        "right": PartitionFacts(name="right", gpu_uuids=RIGHT),
    }
    decision = run([job(1, 1, partition="left,right")], gpus(4), policy=plain(partitions=sides))
    assert decision.starts[0].partition == "right"
