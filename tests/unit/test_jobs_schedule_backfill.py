"""What may go before whom, what is promised, and that nobody waits for ever: EASY backfill and the plan."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.jobs.grammar import matches_type
from agent.jobs.schedule import Decision, GpuFacts, PartitionFacts, Policy, Running, Snapshot, Waiting, decide
from agent.jobs.schedule.book import OVERDUE_S, end_of
from tests.bench.peers import easy, fifo
from tests.fakes.facts import GIB, HOUR, NOW, after, busy, gpu, gpus, job, plain, run, snapshot, started, words


def test_a_short_job_goes_before_the_head_and_a_long_one_does_not() -> None:
    waiting = [job(1, 4, time_limit_s=HOUR), job(2, 1, time_limit_s=HOUR), job(3, 1, time_limit_s=2 * HOUR)]
    decision = run(waiting, gpus(4), running=[busy(9, "012", time_limit_s=HOUR)])
    assert started(decision) == {2: "3"}
    assert words(decision) == {1: "Resources", 3: "Priority"}
    assert decision.expected == {1: NOW + HOUR, 3: NOW + 2 * HOUR}


def test_a_long_job_goes_before_the_head_on_what_the_head_leaves() -> None:
    running = [busy(8, "01", time_limit_s=HOUR), busy(9, "2", time_limit_s=2 * HOUR)]
    waiting = [job(1, 3, time_limit_s=HOUR), job(2, 1), job(3, 1)]
    decision = run(waiting, gpus(5), running=running)
    assert started(decision) == {2: "3"}, "the head takes 0, 1 and one more"
    assert decision.expected[1] == NOW + HOUR


def test_what_the_head_needs_of_cpus_memory_and_licences_is_kept_too() -> None:
    running = [busy(9, cpus=32, memory_bytes=256 * GIB, licenses=(("m", 1),), time_limit_s=HOUR)]

    def behind(**facts: Any) -> bool:
        head = job(1, cpus=64, memory_bytes=512 * GIB, licenses=(("m", 2),), time_limit_s=HOUR)
        follower = job(2, **{"cpus": 0, "time_limit_s": 2 * HOUR, **facts})
        return 2 in started(run([head, follower], running=running, licenses={"m": 2}))

    assert behind()
    assert not behind(cpus=1)
    assert behind(cpus=1, time_limit_s=HOUR)
    assert not behind(memory_bytes=GIB)
    assert not behind(licenses=(("m", 1),))


def test_a_job_past_its_limit_is_thought_to_end_soon() -> None:
    overdue = busy(9, "0", started_at=NOW - HOUR, time_limit_s=HOUR)
    assert end_of(overdue, NOW) == NOW + OVERDUE_S
    decision = run([job(1, 1, time_limit_s=HOUR)], gpus(1), running=[overdue])
    assert decision.expected == {1: NOW + OVERDUE_S}


def test_behind_a_job_that_never_ends_nobody_is_promised_a_start() -> None:
    running = [busy(9, "0")]
    waiting = [job(1, 2, time_limit_s=HOUR), job(2, 1), job(3, 1, time_limit_s=HOUR)]
    decision = run(waiting, gpus(2), running=running)
    assert started(decision) == {3: "1"}, "what ends some day may go before, what does not may not"
    assert decision.expected == {}


def test_a_window_is_offered_to_who_asks_for_less_time() -> None:
    running = [busy(9, "012", time_limit_s=HOUR)]
    waiting = [job(1, 4, time_limit_s=HOUR), job(2, 1, time_limit_s=2 * HOUR), job(3, 2, time_limit_s=HOUR)]
    decision = run(waiting, gpus(4), running=running)
    assert decision.reasons[2][1] == "behind job 1 in the queue; it could start at once with --time=1:00:00 or less"
    assert decision.reasons[3][1] == "behind job 1 in the queue"
    offered = [*waiting[:1], replace(waiting[1], time_limit_s=HOUR)]
    assert started(run(offered, gpus(4), running=running)) == {2: "3"}, "and that is true"


def test_a_window_that_opens_soon_is_offered_too() -> None:
    running = [busy(8, "0", time_limit_s=600), busy(9, "1", time_limit_s=HOUR)]
    decision = run([job(1, 2, time_limit_s=HOUR), job(2, 1, time_limit_s=2 * HOUR)], gpus(2), running=running)
    assert decision.reasons[2][1].endswith("; it could start within 10 minutes with --time=50:00 or less")


def test_without_backfill_nothing_goes_before_the_head() -> None:
    waiting = [job(1, 2, time_limit_s=60), job(2, 1, time_limit_s=60), job(3), job(4, 1, partition="other")]
    decision = run(waiting, gpus(2), running=[busy(9, "0", time_limit_s=HOUR)], policy=plain(backfill=False))
    assert set(started(decision)) == {3}
    assert words(decision) == {1: "Resources", 2: "Priority", 4: "Priority"}
    assert decision.reasons[2][1] == "behind job 1 in the queue", "and no window is offered"


def test_only_the_first_are_told_when_to_expect_their_start() -> None:
    waiting = [job(number, 1, time_limit_s=HOUR) for number in range(1, 12)]
    decision = run(waiting, gpus(1), policy=plain(plan_depth=4))
    assert decision.expected == {2: NOW + HOUR, 3: NOW + 2 * HOUR, 4: NOW + 3 * HOUR, 5: NOW + 4 * HOUR}


def test_one_whose_time_has_not_come_is_planned_for_it() -> None:
    waiting = [job(1, 1, time_limit_s=HOUR, begin_at=NOW + 600), job(2, 1, time_limit_s=HOUR)]
    decision = run(waiting, gpus(1))
    assert started(decision) == {2: "0"}
    assert decision.expected == {1: NOW + HOUR}
    assert decision.look_again_at == NOW + 600


# --- what holds for every queue ---------------------------------------------------------------------------------------

limits = st.one_of(st.none(), st.sampled_from([60, 600, HOUR, 2 * HOUR]))


@st.composite
def snapshots(draw: st.DrawFn, *, finite: bool = False) -> Snapshot:
    """A node with something on it, consistent in itself, and a queue."""
    count = draw(st.integers(0, 5))
    models = [draw(st.sampled_from(["h100", "a100"])) for _ in range(count)]
    node = [
        gpu(
            index,
            name=f"NVIDIA {models[index].upper()}",
            features=(models[index],),
            shards=4,
            healthy=finite or draw(st.integers(0, 9)) > 0,
            seated=finite or draw(st.integers(0, 9)) > 0,
            foreign=None if finite or draw(st.integers(0, 9)) else "pid 1",
        )
        for index in range(count)
    ]
    times = limits.filter(lambda limit: limit is not None) if finite else limits
    waiting = [
        job(
            number,
            draw(st.integers(0, 3)),
            user=draw(st.sampled_from("abc")),
            cpus=draw(st.integers(0, 5)),
            memory_bytes=draw(st.integers(0, 4)) * GIB,
            time_limit_s=draw(times),
            gpu_type=draw(st.sampled_from([None, None, "h100"])),
            features=draw(st.sampled_from([(), (), (), ("a100",), ("h100|a100",), ("b200|a100|h100", "ib|a100")])),
            exclusive=draw(st.integers(0, 9)) == 0,
            licenses=draw(st.sampled_from([(), (), (("m", 1),)])),
            eligible_at=NOW - draw(st.integers(0, 10**6)),
            partition=draw(st.sampled_from(["all", "all", "left", "right", "left,right", "right,all"])),
        )
        for number in range(1, draw(st.integers(0, 9)) + 1)
    ]
    waiting = [_as_shards(each, draw(st.integers(1, 4))) if draw(st.integers(0, 4)) == 0 else each for each in waiting]
    facts = snapshot(
        waiting,
        node,
        cpu_count=8,
        memory_bytes=6 * GIB,
        licenses={"m": 1},
        features=frozenset({"ib"}),
        policy=Policy(backfill=draw(st.booleans()), partitions=_halves(count)),
    )
    return replace(facts, running=_some_running(facts, draw(st.integers(0, 10**6)), finite=finite))


def _halves(count: int, **tiers: int) -> dict[str, PartitionFacts]:
    """Partitions: all GPUs, and two that share the middle one."""
    uuids = [f"GPU-{index}" for index in range(count)]
    middle = count // 2
    inside = {"left": uuids[: middle + 1], "right": uuids[middle:], "all": uuids}
    return {
        name: PartitionFacts(name=name, gpu_uuids=frozenset(of), tier=tiers.get(name, 1)) for name, of in inside.items()
    }


def _as_shards(waiting: Waiting, shards: int) -> Waiting:
    return replace(waiting, demand=replace(waiting.demand, gpus=0, shards=shards, exclusive=False))


def _some_running(facts: Snapshot, seed: int, *, finite: bool) -> list[Running]:
    """What an earlier pass over another queue would have left on the node."""
    dice = random.Random(seed)
    others = [
        job(
            900 + number,
            dice.choice([0, 1, 1, 2]),
            cpus=1,
            time_limit_s=dice.choice([300, HOUR, HOUR if finite else None]),
        )
        for number in range(dice.randrange(5))
    ]
    earlier = replace(facts, waiting=others)
    left = after(earlier, decide(earlier, NOW - 400), NOW - 400)
    return [replace(each, ending=dice.random() < 0.1) for each in left.running]


@given(snapshots(), st.randoms(use_true_random=False))
def test_what_holds_for_every_decision(facts: Snapshot, dice: random.Random) -> None:
    decision = decide(facts, NOW)
    ids = {each.id for each in facts.waiting}
    begun = {start.job_id for start in decision.starts}
    assert begun | set(decision.reasons) | set(decision.expired) == ids, "each starts or is told why"
    assert not begun & set(decision.reasons)
    assert set(decision.priorities) == ids
    assert set(decision.expected) <= set(decision.reasons)
    assert all(start >= NOW for start in decision.expected.values())
    later = after(facts, decision, NOW)
    check_node(later)
    shuffled = replace(
        facts, waiting=dice.sample(facts.waiting, len(facts.waiting)), gpus=dice.sample(facts.gpus, len(facts.gpus))
    )
    assert decide(shuffled, NOW) == decision, "the order in which facts are listed does not count"
    assert decide(later, NOW).starts == (), "nothing waits that could start"


def check_node(facts: Snapshot) -> None:
    """Nothing is given twice, and nothing that is not there."""
    whole = [uuid for each in facts.running for uuid in each.gpu_uuids if not each.demand.shards]
    assert len(whole) == len(set(whole)), "no GPU twice"
    parts: dict[str, int] = {}
    for each in facts.running:
        for uuid in each.gpu_uuids if each.demand.shards else ():
            parts[uuid] = parts.get(uuid, 0) + each.demand.shards
    assert not set(parts) & set(whole), "a shared GPU is nobody's whole one"
    by_uuid: dict[str, GpuFacts] = {each.uuid: each for each in facts.gpus}
    assert all(taken <= by_uuid[uuid].shards for uuid, taken in parts.items())
    assert sum(min(each.demand.cpus, facts.cpu_count) for each in facts.running) <= facts.cpu_count
    assert sum(each.demand.memory_bytes for each in facts.running) <= facts.memory_bytes
    assert sum(dict(each.demand.licenses).get("m", 0) for each in facts.running) <= 1
    alone = [each for each in facts.running if each.demand.exclusive]
    assert not alone or len(facts.running) == 1
    partitions = facts.policy.partitions
    for each in facts.running:
        for uuid in each.gpu_uuids:
            found, demand = by_uuid[uuid], each.demand
            assert each.partition not in partitions or uuid in (partitions[each.partition].gpu_uuids or ())
            assert found.healthy and found.seated and found.foreign is None
            assert demand.gpu_type is None or matches_type(demand.gpu_type, found.name)
        for group in each.demand.features if each.gpu_uuids else ():
            models = {name for uuid in each.gpu_uuids for name in by_uuid[uuid].features}
            assert "ib" in group or (len(models) == 1 and models <= set(group.split("|"))), (
                "one choice for all its GPUs"
            )
        if not each.demand.exclusive:
            assert len(each.gpu_uuids) == (1 if each.demand.shards else each.demand.gpus), "all or nothing"


@settings(max_examples=150)
@given(snapshots(finite=True))
def test_nobody_behind_it_delays_the_head(facts: Snapshot) -> None:
    """What the first in line is promised with nobody behind it, it is promised with them, and after they started."""
    decision = decide(facts, NOW)
    heads = [number for number, (word, _) in decision.reasons.items() if word in ("Resources", "Licenses")]
    if not heads:
        return
    head = max(heads, key=lambda number: (decision.priorities[number].total, -number))
    before = [
        each
        for each in facts.waiting
        if (decision.priorities[each.id].total, -each.id) >= (decision.priorities[head].total, -head)
    ]
    alone = decide(replace(facts, waiting=before), NOW)
    assert head in decision.expected
    assert decision.expected[head] <= alone.expected[head]
    later = after(facts, decision, NOW)
    assert decide(later, NOW).expected[head] <= decision.expected[head]


@settings(max_examples=60)
@given(snapshots(finite=True), st.integers(0, 10**6), st.sampled_from([{}, {"left": 2}, {"left": 3, "right": 2}]))
def test_every_job_starts_some_day(facts: Snapshot, seed: int, tiers: dict[str, int]) -> None:
    """Jobs end within their limits; whoever can run on this node at all has run at the end."""
    facts = replace(facts, policy=replace(facts.policy, partitions=_halves(len(facts.gpus), **tiers)))
    dice = random.Random(seed)
    now, ends = NOW, {each.id: NOW + dice.randint(1, 1000) for each in facts.running}
    for _ in range(60):
        decision = decide(facts, now)
        facts = after(facts, decision, now)
        check_node(facts)
        limits_of = {each.id: each.time_limit_s or 1 for each in facts.running}
        ends.update({each.job_id: now + dice.randint(1, limits_of[each.job_id]) for each in decision.starts})
        if not facts.running:
            break
        now = min(ends[each.id] for each in facts.running)
        facts = replace(facts, running=[each for each in facts.running if ends[each.id] > now])
    never = set(words(decide(facts, now)).values())
    assert not facts.running
    assert never <= {"ReqNodeNotAvail", "License", "BadConstraints"}, "what is left can never run here"


models = st.sampled_from(["h100", "a100", "b200"])


@given(
    st.lists(models, min_size=1, max_size=6),
    st.lists(models, min_size=1, max_size=3, unique=True),
    st.integers(1, 3),
    st.dictionaries(st.integers(0, 5), st.sampled_from([300, HOUR, 2 * HOUR]), max_size=6),
)
def test_one_of_several_features_is_as_good_as_the_best_of_them(
    node: list[str], asked: list[str], count: int, held: dict[int, int]
) -> None:
    """It starts, or is planned, as soon as with the one of them alone that is best for it, and never on a mixture."""
    mixed = [gpu(index, features=(model,)) for index, model in enumerate(node)]
    running = [busy(100 + on, str(on), time_limit_s=limit) for on, limit in held.items() if on < len(node)]

    def first(*features: str) -> Decision:
        return run([job(1, count, features=features, time_limit_s=HOUR)], mixed, running=running)

    def begins(decision: Decision) -> int | None:
        return NOW if decision.starts else decision.expected.get(1)

    decision = first("|".join(asked))
    alone = [begins(first(model)) for model in asked]
    assert begins(decision) == min((each for each in alone if each is not None), default=None)
    taken = {node[int(index)] for index in started(decision).get(1, "")}
    assert len(taken) <= 1 and taken <= set(asked)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([60, 600, HOUR, None])), max_size=10),
    st.lists(st.tuples(st.integers(1, 2), st.sampled_from([60, 1200, HOUR])), max_size=2),
)
def test_in_the_order_of_arrival_it_is_what_the_papers_say(
    asked: list[tuple[int, int | None]], held: list[tuple[int, int]]
) -> None:
    """With all weights at 0 it starts what plain EASY starts, and with backfill off what FIFO starts."""
    waiting = [job(number, count, time_limit_s=limit) for number, (count, limit) in enumerate(asked, start=1)]
    on = iter("0123")
    running = [
        busy(100 + number, "".join(next(on) for _ in range(count)), time_limit_s=limit)
        for number, (count, limit) in enumerate(held)
    ]
    facts = snapshot(waiting, gpus(4), running=running)
    assert set(_ids(decide(facts, NOW))) >= set(_ids(fifo(facts, NOW)))
    strict = replace(facts, policy=plain(backfill=False))
    assert _ids(decide(strict, NOW)) == _ids(fifo(facts, NOW))
    if all(limit is not None for _, limit in asked):
        assert _ids(decide(facts, NOW)) == _ids(easy(facts, NOW))


def _ids(decision: Decision) -> list[int]:
    return [start.job_id for start in decision.starts]
