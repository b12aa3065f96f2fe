"""Who starts now, where, and what the others are told."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from agent.jobs.grammar import matches_type
from agent.jobs.schedule import Decision, GpuFacts, Snapshot, Start, Waiting, decide


def gpu(index: int, **facts: object) -> GpuFacts:
    return GpuFacts(**{"uuid": f"GPU-{index}", "index": index, "name": "NVIDIA H100", **facts})  # type: ignore[arg-type]


def queue(*asks: int, **facts: object) -> list[Waiting]:
    return [Waiting(id=number, gpus=asked, **facts) for number, asked in enumerate(asks, start=1)]  # type: ignore[arg-type]


def run(waiting: list[Waiting], gpus: list[GpuFacts], **facts: object) -> Decision:
    return decide(Snapshot(**{"waiting": waiting, "gpus": gpus, "cpu_count": 4, **facts}))  # type: ignore[arg-type]


def test_jobs_start_in_order_on_the_lowest_indexes() -> None:
    decision = run(queue(2, 1), [gpu(3), gpu(1), gpu(0), gpu(2)])
    assert decision.starts == (
        Start(job_id=1, gpu_uuids=("GPU-0", "GPU-1")),
        Start(job_id=2, gpu_uuids=("GPU-2",)),
    )
    assert decision.reasons == {}


def test_the_first_that_must_wait_holds_up_those_behind() -> None:
    gpus = [gpu(0, held_by=7), gpu(1), gpu(2, held_by=9), gpu(3, held_by=9)]
    decision = run(queue(2, 1), gpus)
    assert decision.starts == ()
    assert decision.reasons[1] == ("Resources", "asks for 2 GPUs; 1 of 4 free, held by jobs 7, 9")
    assert decision.reasons[2] == ("Priority", "behind job 1 in the queue")


def test_jobs_without_gpus_have_a_line_of_their_own() -> None:
    waiting = [
        Waiting(id=1, gpus=8),
        Waiting(id=2, gpus=0, cpus=3),
        Waiting(id=3, gpus=0, cpus=2),
        Waiting(id=4, gpus=0, cpus=1),
    ]
    decision = run(waiting, [gpu(index, held_by=9) for index in range(8)])
    assert decision.starts == (Start(job_id=2, gpu_uuids=()),)
    assert decision.reasons[1][0] == "Resources"
    assert decision.reasons[3] == ("Resources", "asks for 2 CPUs; 1 of 4 free")
    assert decision.reasons[4] == ("Priority", "behind job 3 in the queue")


def test_cpus_of_running_jobs_count() -> None:
    assert run(queue(0), [], cpus_used=4).starts == ()
    assert run(queue(0), [], cpus_used=3).starts == (Start(job_id=1, gpu_uuids=()),)


def test_a_job_larger_than_the_node_runs_alone() -> None:
    waiting = [Waiting(id=1, gpus=0, cpus=9), Waiting(id=2, gpus=0)]
    assert [start.job_id for start in run(waiting, []).starts] == [1]


def test_a_licence_hold_stops_every_new_job_with_its_sentence() -> None:
    hold = "the voucher expired; run: stoker-license activate FILE"
    decision = run(queue(1, 0), [gpu(0)], licence_hold=hold)
    assert decision.starts == ()
    assert decision.reasons == {1: ("License", hold), 2: ("License", hold)}


def test_too_few_seats_hold_up_nobody_else() -> None:
    gpus = [gpu(0), gpu(1, seated=False)]
    decision = run(queue(2, 1), gpus)
    assert decision.starts == (Start(job_id=2, gpu_uuids=("GPU-0",)),)
    assert decision.reasons[1] == (
        "License",
        "asks for 2 GPUs, and seats cover 1 of 2; see: stoker-license status",
    )


def test_a_lost_gpu_holds_up_nobody_else() -> None:
    decision = run(queue(2, 1), [gpu(0), gpu(1, healthy=False)])
    assert decision.starts == (Start(job_id=2, gpu_uuids=("GPU-0",)),)
    assert decision.reasons[1] == (
        "ReqNodeNotAvail",
        "asks for 2 GPUs, and the node has 1 that can be used; GPU 1 needs attention",
    )


def test_a_foreign_process_is_waited_for_and_named() -> None:
    decision = run(queue(2, 1), [gpu(0), gpu(1, foreign="pid 4711 of ada")])
    assert decision.starts == ()
    assert decision.reasons[1] == (
        "Resources",
        "asks for 2 GPUs; 1 of 2 free, GPU 1 is used outside the queue by pid 4711 of ada",
    )


def test_a_type_is_kept_to() -> None:
    gpus = [gpu(0, name="NVIDIA A100"), gpu(1)]
    decision = run(queue(1, 1, gpu_type="h100"), gpus)
    assert decision.starts == (Start(job_id=1, gpu_uuids=("GPU-1",)),)
    assert decision.reasons[2] == ("Resources", "asks for 1 GPU; 0 of 1 free, held by job 1")
    missing = run(queue(1, gpu_type="b200"), gpus)
    assert missing.reasons[1][0] == "ReqNodeNotAvail"


def test_ten_thousand_waiting_jobs_are_each_told_why() -> None:
    decision = run(queue(*[1] * 10_000), [gpu(0)])
    assert len(decision.starts) == 1
    assert len(decision.reasons) == 9_999


def _facts(**facts: object) -> dict[str, object]:
    return facts


gpus_drawn = st.lists(
    st.builds(
        _facts,
        name=st.sampled_from(["NVIDIA H100", "NVIDIA A100"]),
        healthy=st.booleans(),
        seated=st.booleans(),
        held_by=st.sampled_from([None, None, None, 900, 901]),
        foreign=st.sampled_from([None, None, "pid 1"]),
    ),
    max_size=8,
).map(lambda drawn: [gpu(index, **facts) for index, facts in enumerate(drawn)])
waiting_drawn = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([None, "h100", "a100"]), st.integers(1, 5)), max_size=12
).map(
    lambda drawn: [
        Waiting(id=number, gpus=gpus, gpu_type=kind if gpus else None, cpus=cpus)
        for number, (gpus, kind, cpus) in enumerate(drawn, start=1)
    ]
)
snapshots = st.builds(
    Snapshot,
    waiting=waiting_drawn,
    gpus=gpus_drawn,
    cpu_count=st.integers(1, 8),
    cpus_used=st.integers(0, 8),
    licence_hold=st.sampled_from([None, None, None, "expired"]),
)


@given(snapshots, st.randoms(use_true_random=False))
def test_what_holds_for_every_decision(snapshot: Snapshot, random_: random.Random) -> None:
    decision = decide(snapshot)
    jobs = {job.id: job for job in snapshot.waiting}
    facts = {each.uuid: each for each in snapshot.gpus}
    given_out = [uuid for start in decision.starts for uuid in start.gpu_uuids]
    assert len(set(given_out)) == len(given_out), "no GPU twice"
    for start in decision.starts:
        job = jobs[start.job_id]
        assert len(start.gpu_uuids) == job.gpus, "all or nothing"
        for uuid in start.gpu_uuids:
            chosen = facts[uuid]
            assert chosen.healthy and chosen.seated and chosen.held_by is None and chosen.foreign is None
            assert job.gpu_type is None or matches_type(job.gpu_type, chosen.name)
    started = {start.job_id for start in decision.starts}
    assert started | set(decision.reasons) == set(jobs), "every job starts or is told why"
    assert not started & set(decision.reasons)
    for has_gpus in (True, False):
        blocked = [
            id_
            for id_ in jobs
            if bool(jobs[id_].gpus) == has_gpus and decision.reasons.get(id_, ("",))[0] == "Resources"
        ]
        assert len(blocked) <= 1, "one head a line"
        assert not blocked or all(id_ < blocked[0] for id_ in started if bool(jobs[id_].gpus) == has_gpus), "order kept"
    shuffled = list(snapshot.gpus)
    random_.shuffle(shuffled)
    again = decide(
        Snapshot(
            waiting=snapshot.waiting,
            gpus=shuffled,
            cpu_count=snapshot.cpu_count,
            cpus_used=snapshot.cpus_used,
            licence_hold=snapshot.licence_hold,
        )
    )
    assert again == decision, "the order in which GPUs are listed does not count"


@given(snapshots)
def test_nothing_waits_that_could_start(snapshot: Snapshot) -> None:
    """Carry the decision out, and a second pass finds nothing to do."""
    decision = decide(snapshot)
    holder = {uuid: start.job_id for start in decision.starts for uuid in start.gpu_uuids}
    started = {start.job_id for start in decision.starts}
    cpus = sum(job.cpus for job in snapshot.waiting if job.id in started and not job.gpus)
    after = Snapshot(
        waiting=[job for job in snapshot.waiting if job.id not in started],
        gpus=[
            gpu(
                each.index,
                name=each.name,
                healthy=each.healthy,
                seated=each.seated,
                held_by=holder.get(each.uuid, each.held_by),
                foreign=each.foreign,
            )
            for each in snapshot.gpus
        ],
        cpu_count=snapshot.cpu_count,
        cpus_used=snapshot.cpus_used + cpus,
        licence_hold=snapshot.licence_hold,
    )
    assert decide(after).starts == ()
