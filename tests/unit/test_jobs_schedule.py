"""Who starts now, where, and what the others are told: the rules that hold without time limits and priorities."""

from __future__ import annotations

from typing import Any

from agent.jobs.schedule import PartitionFacts, QosFacts, Start, Waiting
from tests.fakes.facts import GIB, HOUR, NOW, busy, gpu, gpus, job, plain, run, started, words


def test_jobs_start_in_order_on_the_lowest_indexes() -> None:
    decision = run([job(1, 2), job(2, 1)], [gpu(3), gpu(1), gpu(0), gpu(2)])
    assert decision.starts == (
        Start(job_id=1, gpu_uuids=("GPU-0", "GPU-1")),
        Start(job_id=2, gpu_uuids=("GPU-2",)),
    )
    assert decision.reasons == {}


def test_an_empty_queue_and_an_empty_node_are_no_error() -> None:
    assert run([]).starts == ()
    assert words(run([job(1, 1)], [])) == {1: "ReqNodeNotAvail"}


def test_the_first_that_must_wait_holds_up_those_behind() -> None:
    running = [busy(7, "0"), busy(9, "23")]
    decision = run([job(1, 2), job(2, 1)], gpus(4), running=running)
    assert decision.starts == ()
    assert decision.reasons[1] == ("Resources", "asks for 2 GPUs; 1 of 4 free, held by jobs 7, 9")
    assert decision.reasons[2] == (
        "Priority",
        "behind job 1 in the queue; it could start at once with --time=7-00:00:00 or less",
    )


def test_jobs_without_gpus_have_a_line_of_their_own() -> None:
    waiting = [job(1, 8), job(2, cpus=3), job(3, cpus=2), job(4, cpus=1)]
    decision = run(waiting, gpus(8), running=[busy(9, "01234567")], cpu_count=4)
    assert started(decision) == {2: ""}
    assert decision.reasons[1][0] == "Resources"
    assert decision.reasons[3] == ("Resources", "asks for 2 CPUs; 1 of 4 free")
    assert decision.reasons[4][1].startswith("behind job 3 in the queue")


def test_cpus_and_memory_of_running_jobs_count() -> None:
    running = [busy(7, cpus=60, memory_bytes=500 * GIB)]
    assert started(run([job(1, cpus=4)], running=running)) == {1: ""}
    assert run([job(1, cpus=5)], running=running).reasons[1] == ("Resources", "asks for 5 CPUs; 4 of 64 free")
    assert run([job(1, memory_bytes=20 * GIB)], running=running).reasons[1] == (
        "Resources",
        "asks for 20 GiB of memory; 12 GiB of 512 GiB free",
    )


def test_gpu_jobs_are_charged_for_the_cpus_they_ask_for() -> None:
    decision = run([job(1, 1, cpus=40), job(2, 1, cpus=40), job(3, 1)], gpus(3))
    assert set(started(decision)) == {1, 3}
    assert decision.reasons[2] == ("Resources", "asks for 40 CPUs; 24 of 64 free")


def test_a_job_with_more_cpus_than_the_node_runs_alone_and_one_with_more_memory_steps_aside() -> None:
    assert started(run([job(1, cpus=90), job(2)])) == {1: ""}
    decision = run([job(1, memory_bytes=600 * GIB), job(2)])
    assert started(decision) == {2: ""}
    assert decision.reasons[1] == ("ReqNodeNotAvail", "asks for 600 GiB of memory, and the node has 512 GiB")


def test_a_licence_hold_stops_every_new_job_with_its_sentence() -> None:
    hold = "the voucher expired; run: stoker-license activate FILE"
    decision = run([job(1, 1), job(2), job(3, hold=("JobHeldUser", "held"))], gpus(1), licence_hold=hold)
    assert decision.starts == ()
    assert decision.reasons == {1: ("License", hold), 2: ("License", hold), 3: ("JobHeldUser", "held")}
    assert set(decision.priorities) == {1, 2, 3}


def test_a_job_that_needs_a_locked_feature_stands_aside_for_those_behind_it() -> None:
    locked = {"qos": "LIC-450: no qos", "recurring": "LIC-450: no recurring"}
    waiting = [job(1, 1, needs=("qos",)), job(2, 1), job(3, 1, needs=("reservations",)), job(4, needs=("recurring",))]
    decision = run(waiting, gpus(3), locked=locked)
    assert set(started(decision)) == {2, 3}
    assert decision.reasons == {1: ("License", "LIC-450: no qos"), 4: ("License", "LIC-450: no recurring")}
    assert set(started(run(waiting, gpus(3)))) == {1, 2, 3, 4}


def test_a_job_that_needs_a_locked_feature_preempts_nobody() -> None:
    policy = plain(preempt="qos", qos={"high": QosFacts(name="high", preempts=frozenset({"low"}))})
    waiting, running = [job(1, 1, qos="high", needs=("qos",))], [busy(9, "0", qos="low", may_requeue=True)]
    assert run(waiting, gpus(1), running=running, policy=policy).preempts != ()
    assert run(waiting, gpus(1), running=running, policy=policy, locked={"qos": "LIC-450"}).preempts == ()


def test_a_drained_node_starts_nothing() -> None:
    decision = run([job(1, 1), job(2)], gpus(1), node_drained="disk is being replaced (root)")
    assert decision.starts == ()
    assert decision.reasons[2] == ("ReqNodeNotAvail", "the node is drained: disk is being replaced (root)")


def test_too_few_seats_hold_up_nobody_else() -> None:
    decision = run([job(1, 2), job(2, 1)], [gpu(0), gpu(1, seated=False)])
    assert started(decision) == {2: "0"}
    assert decision.reasons[1] == ("License", "asks for 2 GPUs, and seats cover 1 of 2; see: stoker-license status")


def test_a_lost_or_drained_gpu_holds_up_nobody_else() -> None:
    ill = [gpu(1, healthy=False), gpu(3, healthy=False)]
    decision = run([job(1, 3), job(2, 1)], [gpu(0), *ill, gpu(2, drained="fan (ada)")])
    assert started(decision) == {2: "0"}
    assert decision.reasons[1] == (
        "ReqNodeNotAvail",
        "asks for 3 GPUs, and the node has 1 that can be used; GPUs 1, 3 need attention; GPU 2 is drained: fan (ada)",
    )


def test_a_foreign_process_is_waited_for_and_named() -> None:
    decision = run([job(1, 2), job(2, 1)], [gpu(0), gpu(1, foreign="pid 4711 of ada")])
    assert decision.starts == ()
    assert decision.reasons[1] == (
        "Resources",
        "asks for 2 GPUs; 1 of 2 free, GPU 1 is used outside the queue by pid 4711 of ada",
    )
    assert decision.reasons[2] == (
        "Priority",
        "behind job 1 in the queue; it could start at once with --time=1:00:00 or less",
    )


def test_a_foreign_process_delays_nobody_who_is_short() -> None:
    waiting = [job(1, 2), job(2, 1, time_limit_s=HOUR)]
    assert started(run(waiting, [gpu(0), gpu(1, foreign="pid 1")])) == {2: "0"}


def test_a_type_is_kept_to() -> None:
    node = [gpu(0, name="NVIDIA A100"), gpu(1)]
    decision = run([job(1, 1, gpu_type="h100"), job(2, 1, gpu_type="h100")], node)
    assert started(decision) == {1: "1"}
    assert decision.reasons[2] == ("Resources", "asks for 1 GPU of type h100; 0 of 1 free, held by job 1")
    missing = run([job(1, 1, gpu_type="b200")], node)
    assert missing.reasons[1] == (
        "ReqNodeNotAvail",
        "asks for 1 GPU of type b200, and the node has 0 that can be used",
    )


def test_the_head_of_one_type_does_not_hold_up_another() -> None:
    node = [gpu(0, name="NVIDIA A100"), gpu(1)]
    waiting = [job(1, 1, gpu_type="a100"), job(2, 1, gpu_type="a100"), job(3, 1, gpu_type="h100")]
    decision = run(waiting, node, running=[busy(9, "0")])
    assert started(decision) == {3: "1"}
    assert words(decision) == {1: "Resources", 2: "Priority"}


def test_whole_gpus_and_mig_instances_are_not_mixed() -> None:
    node = [gpu(0, name="NVIDIA H100 MIG 1g.10gb"), gpu(1, name="NVIDIA H100 MIG 2g.20gb"), gpu(2)]
    assert started(run([job(1, 1)], node)) == {1: "2"}
    assert words(run([job(1, 2)], node)) == {1: "ReqNodeNotAvail"}
    assert started(run([job(1, 1, gpu_type="1g.10gb")], node)) == {1: "0"}
    assert started(run([job(1, 1, gpu_type="h100")], node)) == {1: "2"}
    assert started(run([job(1, 1)], node[:2])) == {1: "0"}, "nothing else is there"


def test_features_are_the_nodes_or_the_gpus() -> None:
    node = [gpu(0), gpu(1, features=("nvlink",))]
    known = frozenset({"ib"})
    assert started(run([job(1, 1, features=("ib", "nvlink"))], node, features=known)) == {1: "1"}
    assert run([job(1, 1, features=("fast",))], node, features=known).reasons[1] == (
        "BadConstraints",
        "asks for fast, which neither the node nor a GPU of it has",
    )


def test_of_several_features_it_takes_what_is_free_and_the_same_for_all_its_gpus() -> None:
    node = [gpu(index, features=("h100",) if index < 2 else ("a100",)) for index in range(4)]

    def of(number: int, count: int, **facts: Any) -> Waiting:
        return job(number, count, features=("h100|a100",), time_limit_s=HOUR, **facts)

    assert started(run([of(1, 2)], node)) == {1: "01"}, "the first that was named"
    assert started(run([of(1, 2), of(2, 2)], node)) == {1: "01", 2: "23"}
    assert started(run([of(1, 1)], node, running=[busy(9, "01")])) == {1: "2"}
    held = [busy(8, "0", time_limit_s=3 * HOUR), busy(9, "2", time_limit_s=HOUR)]
    waits = run([of(1, 2), job(2, 1, features=("h100",), time_limit_s=9 * HOUR)], node, running=held)
    assert waits.expected[1] == NOW + HOUR, "two of one kind, where they are free first"
    assert started(waits) == {2: "1"}, "whom it does not wait for"
    assert words(run([of(1, 3)], node)) == {1: "ReqNodeNotAvail"}
    known = frozenset({"ib"})
    both = job(1, 2, features=("ib|nvme", "a100|b200"))
    assert started(run([both], node, features=known)) == {1: "23"}
    assert run([job(1, 1, features=("b200|v100",))], node).reasons[1] == (
        "BadConstraints",
        "asks for b200|v100, which neither the node nor a GPU of it has",
    )


def test_licences_are_counted() -> None:
    waiting = [job(1, licenses=(("matlab", 2),)), job(2, licenses=(("matlab", 2),)), job(3, licenses=(("no", 1),))]
    decision = run([*waiting, job(4)], licenses={"matlab": 3, "abaqus": 1})
    assert set(started(decision)) == {1, 4}
    assert decision.reasons[2] == ("Licenses", "asks for 2 of licence matlab; 1 of 3 free")
    assert decision.reasons[3] == ("Licenses", "asks for 1 of licence no, and the node has 0")


def test_parts_of_a_gpu_are_packed_and_never_mixed_with_whole_ones() -> None:
    node = gpus(3, shards=4)
    waiting = [job(1, shards=1), job(2, shards=3), job(3, shards=2), job(4, 1), job(5, 1), job(6, shards=5)]
    decision = run(waiting, node)
    assert started(decision) == {1: "0", 2: "0", 3: "1", 4: "2"}
    assert words(decision) == {5: "Resources", 6: "ReqNodeNotAvail"}
    assert decision.reasons[6][1] == "asks for 5 shards of a GPU, and the node has none that can be used"


def test_a_shared_gpu_fills_up_before_another_is_broken_into() -> None:
    running = [busy(8, "2", shards=2), busy(9, "0")]
    assert started(run([job(1, shards=2)], gpus(3, shards=4), running=running)) == {1: "2"}
    full = run([job(1, shards=3)], gpus(1, shards=4), running=[busy(8, "0", shards=2)])
    assert full.reasons[1] == ("Resources", "asks for 3 shards of a GPU; no GPU has as many free, of 1, held by job 8")


def test_an_exclusive_job_is_alone_and_has_all_gpus_that_can_be_used() -> None:
    node = [gpu(0), gpu(1, healthy=False), gpu(2)]
    assert started(run([job(1, exclusive=True), job(2)], node)) == {1: "02"}
    decision = run([job(1, exclusive=True), job(2, cpus=0)], node, running=[busy(9)])
    assert decision.reasons[1] == ("Resources", "asks for the whole node; 1 job on it: job 9")
    assert words(decision)[2] == "Priority"
    beside = run([job(1)], node, running=[busy(9, "02", exclusive=True)])
    assert beside.reasons[1] == ("Resources", "the node is held by job 9 alone")


def test_a_partition_has_its_gpus_its_tier_and_its_longest_time() -> None:
    policy = plain(
        partitions={
            "small": PartitionFacts(name="small", gpu_uuids=frozenset({"GPU-1"}), max_time_s=HOUR),
            "top": PartitionFacts(name="top", tier=5),
        }
    )
    waiting = [
        job(1, 1, partition="small", time_limit_s=HOUR),
        job(2, 1, partition="small"),
        job(3, 1, partition="small", time_limit_s=HOUR + 60),
        job(4, 1, partition="top"),
    ]
    decision = run(waiting, gpus(2), policy=policy)
    assert [start.job_id for start in decision.starts] == [4, 1], "the higher tier is served first"
    assert decision.reasons[2] == ("PartitionTimeLimit", "asks for no time limit; partition small allows 1:00:00")
    assert decision.reasons[3][1] == "asks for 1:01:00; partition small allows 1:00:00"


def test_limits_of_users_and_qos_let_a_job_step_aside() -> None:
    qos = QosFacts(name="debug", max_wall_s=HOUR, max_gpus_per_user=2, max_jobs_per_user=2)
    policy = plain(qos={"debug": qos}, max_running_per_user=3, max_gpus_per_user=4)

    def one(gpu_count: int, *held: str, user: str = "ada", **facts: object) -> tuple[str, str] | None:
        running = [busy(number, on, user="ada", qos="debug") for number, on in enumerate(held, start=7)]
        waiting = [job(1, gpu_count, user=user, time_limit_s=HOUR, **facts)]
        return run(waiting, gpus(8), running=running, policy=policy).reasons.get(1)

    assert one(1, "0", qos="debug") is None
    assert one(1, "0", "", qos="debug") == (
        "QOSMaxJobsPerUserLimit",
        "ada has 2 running jobs with QOS debug, which allows 2",
    )
    assert one(2, "0", qos="debug") == (
        "QOSMaxGRESPerUser",
        "asks for 2 GPUs while ada holds 1 GPU; QOS debug allows 2 GPUs",
    )
    assert one(2, "0", qos="debug", user="bob") is None
    assert one(0, "0", "1", "2") == ("AssocMaxJobsLimit", "ada has 3 running jobs; a user may have 3 at a time")
    assert one(3, "01") == ("AssocGrpGRES", "asks for 3 GPUs while ada holds 2 GPUs; a user may have 4 GPUs")
    long = run([job(1, qos="debug", time_limit_s=2 * HOUR)], policy=policy)
    assert long.reasons[1] == ("QOSMaxWallDurationPerJobLimit", "asks for 2:00:00; QOS debug allows 1:00:00")


def test_limits_count_what_the_same_pass_starts_and_hold_up_nobody() -> None:
    policy = plain(max_running_per_user=1)
    decision = run([job(1, 1), job(2, 1), job(3, 1, user="bob")], gpus(3), policy=policy)
    assert set(started(decision)) == {1, 3}
    assert words(decision) == {2: "AssocMaxJobsLimit"}


def test_an_array_runs_as_many_tasks_as_it_allows() -> None:
    tasks = [job(number, 1, array_id=10, array_limit=2) for number in (10, 11, 12)]
    decision = run([*tasks, job(13, 1)], gpus(8), running=[busy(9, "0", array_id=10)])
    assert set(started(decision)) == {10, 13}
    assert decision.reasons[12] == ("JobArrayTaskLimit", "2 tasks of array 10 may run at a time, and as many do")


def test_holds_begin_times_and_deadlines() -> None:
    waiting = [
        job(1, 1, hold=("Dependency", "waits for job 9")),
        job(2, 1, begin_at=NOW + 600),
        job(3, 1, time_limit_s=HOUR, deadline_at=NOW + HOUR - 1),
        job(4, 1, time_limit_s=HOUR, deadline_at=NOW + HOUR),
        job(5, 1, begin_at=NOW - 5),
    ]
    decision = run(waiting, gpus(8))
    assert set(started(decision)) == {4, 5}
    assert decision.expired == (3,)
    assert decision.reasons[1] == ("Dependency", "waits for job 9")
    assert decision.reasons[2][0] == "BeginTime"
    assert set(decision.reasons) == {1, 2}
    assert decision.expected == {2: NOW + 600}
    assert decision.look_again_at == NOW + 1, "job 4 can only start in this very second"


def test_ten_thousand_waiting_jobs_are_each_told_why() -> None:
    decision = run([job(number, 1) for number in range(10_000)], gpus(1))
    assert len(decision.starts) == 1
    assert len(decision.reasons) == 9_999
    assert len(decision.priorities) == 10_000
