"""A laboratory with some trouble and a queue: what the pictures and most screen tests show."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.api.health import Incident, IncidentKind, KnownGpu, Severity
from agent.api.queue import Drain, JobEvent, JobUsage, PriorityParts, Reservation, Verdict
from agent.api.types import GpuProcess, GpuState, Job, JobReport, JobState, LinkState, NodeStatus
from tests.fakes.cluster import FakeCluster
from tests.fakes.values import DAY, GIB, NOW, evaluation, gpu, job, node, up

A1 = tuple(f"GPU-gpu-a1-{index}" for index in range(8))
A2 = tuple(f"GPU-gpu-a2-{index}" for index in range(8))


def lab() -> FakeCluster:
    """Four nodes: busy, with a hot and a hung GPU, stale with a stranger's process, lost."""
    a1 = [gpu(i, node="gpu-a1", job=41, load=load, used_gib=71.4) for i, load in enumerate((97, 96, 98, 95))]
    a1 += [gpu(i, node="gpu-a1", job=42, load=load, used_gib=33.0) for i, load in enumerate((88, 91), start=4)]
    a1 += [gpu(i, node="gpu-a1") for i in (6, 7)]
    a2 = [gpu(i, node="gpu-a2", job=43, load=60 + 5 * i, used_gib=52 + i) for i in range(7)]
    a2[3] = msgspec.structs.replace(a2[3], temperature_c=89)
    a2.append(gpu(7, node="gpu-a2", load=12, state=GpuState.HUNG, age_s=74.0, reason="the driver does not answer"))
    b1 = [gpu(i, node="gpu-b1") for i in range(8)]
    stranger = GpuProcess(pid=4242, user="mallory", command="python")
    b1[5] = gpu(5, node="gpu-b1", load=34, used_gib=11, processes=(stranger,))
    statuses = [
        up(node("gpu-a1", tuple(a1))),
        up(node("gpu-a2", tuple(a2), cpu_percent=64.0, jobs_pending=1)),
        up(node("gpu-b1", tuple(b1), cpu_percent=3.0), age_s=7.0),
        NodeStatus(name="gpu-b2", link=LinkState.LOST, age_s=95.0, reason="no route to host", retry_in_s=8.0),
    ]
    return FakeCluster(statuses, _running() + _waiting() + _ended(), evaluation())


def _running() -> list[Job]:
    llama: dict[str, Any] = {"time_limit_s": DAY, "cpus_per_task": 16, "memory_bytes": 256 * GIB}
    return [
        _job(41, "llama-ft-70b", NOW - 11564, gpu_indexes=(0, 1, 2, 3), gpu_uuids=A1[:4], gpus=4, **llama,
             output_path="/home/alice/run/slurm-41.out"),
        _job(42, "vit-sweep", NOW - 2463, user="bob", gpu_indexes=(4, 5), gpu_uuids=A1[4:6], gpus=2),
        _job(43, "moe-pretrain", NOW - 4 * DAY - 3723, user="carol", gpu_indexes=tuple(range(7)), gpu_uuids=A2[:7],
             gpus=7, node="gpu-a2"),
    ]  # fmt: skip


def _waiting() -> list[Job]:
    pending: dict[str, Any] = {"state": JobState.PENDING, "simulated": False}
    return [
        _job(44, "eval-suite", None, user="eve", gpus=8, submitted_at=NOW - 1800, reason="Resources",
             detail="8 GPUs wanted, 2 free", **pending),
        _job(45, "moe-pretrain-2", None, user="carol", gpus=7, submitted_at=NOW - 900, reason="Priority",
             node="gpu-a2", **pending),
    ]  # fmt: skip


def _ended() -> list[Job]:
    return [
        _job(40, "digits", NOW - 900, state=JobState.COMPLETED),
        _job(39, "digits", NOW - 1230, state=JobState.FAILED, detail="exit code 1", ended_at=NOW - 1200),
        _job(38, "tokenise", NOW - 8000, state=JobState.TIMEOUT, user="dan", gpus=0, simulated=False, node="gpu-a2",
             ended_at=NOW - 4400, detail="ran into its limit of 01:00:00"),
        _job(37, "vit-sweep", NOW - 5400, state=JobState.CANCELLED, user="bob", ended_at=NOW - 5000),
    ]  # fmt: skip


def _job(number: int, name: str, started_at: int | None, **more: Any) -> Job:
    values: dict[str, Any] = {"node": "gpu-a1", "state": JobState.RUNNING, "started_at": started_at}
    values |= {} if started_at is None else {"submitted_at": started_at - 36}
    return job(number, name=name, **(values | more))


def queue_lab() -> FakeCluster:
    """The laboratory with a deeper queue: an array, a sweep, a held job, drains, a reservation, usage and history."""
    cluster = lab()
    for each in _deeper():
        cluster.all_jobs[each.node, each.id] = each
    _drain_some(cluster)
    cluster.the_reservations = [
        Reservation(name="course", start_at=NOW + 3600, end_at=NOW + 5 * 3600, users=("alice", "dan"),
                    gpu_uuids=A1[4:], by="root"),
    ]  # fmt: skip
    cluster.reports["gpu-a1", 44] = _report(cluster.all_jobs["gpu-a1", 44])
    cluster.reports["gpu-a1", 42] = _report(cluster.all_jobs["gpu-a1", 42])
    return cluster


def _deeper() -> list[Job]:
    pending: dict[str, Any] = {"state": JobState.PENDING, "simulated": False}
    sweep: dict[str, Any] = {"array_job_id": 50, "array_text": "0-5%2", "user": "dan", "submitted_at": NOW - 500}
    rates = ("1e-2", "3e-3", "1e-3", "3e-4", "1e-4", "3e-5")
    starved = JobUsage(
        utilization_percent=41.0,
        gpu_seconds=4926.0,
        gpu_busy_seconds=2019.0,
        memory_peak_bytes=66 * GIB,
        energy_kwh=0.61,
        verdict=Verdict.DATA_STARVED,
        sentence="the GPUs wait for input between bursts; more loader workers, or data on a local disk, would help",
    )
    waiting = _waiting()[0]
    return [
        msgspec.structs.replace(
            waiting,
            priority=1520,
            priority_parts=PriorityParts(age=20, fairshare=1000, jobsize=100, qos=500, nice=100, total=1520),
            expected_start_at=NOW + 9000,
            nice=100,
            partition="main",
            account="lab",
        ),
        _job(42, "vit-sweep", NOW - 2463, user="bob", gpu_indexes=(4, 5), gpu_uuids=A1[4:6], gpus=2, usage=starved),
        _job(46, "report", None, user="alice", gpus=1, submitted_at=NOW - 300, reason="JobHeldUser", held=True,
             priority=0, **pending),
        _job(47, "post", None, user="bob", gpus=0, submitted_at=NOW - 200, reason="Dependency",
             dependency="afterok:42", priority=1100, **pending),
        *(
            _job(50 + task, "lr-sweep", NOW - 60, gpus=1, sweep={"lr": rate}, array_task_id=task,
                 gpu_uuids=(A1[6 + task],), gpu_indexes=(6 + task,), **sweep)
            for task, rate in enumerate(rates[:2])
        ),
        *(
            _job(50 + task, "lr-sweep", None, gpus=1, sweep={"lr": rate}, array_task_id=task, priority=900,
                 reason="JobArrayTaskLimit", expected_start_at=NOW + 600, **(pending | sweep))
            for task, rate in enumerate(rates[2:], start=2)
        ),
    ]  # fmt: skip


def _drain_some(cluster: FakeCluster) -> None:
    """A GPU of one node, and a whole other one."""
    told = Drain(reason="memory errors", by="root", at=NOW - 4000)
    a2, b1 = (cluster.statuses[name].node for name in ("gpu-a2", "gpu-b1"))
    assert a2 is not None and b1 is not None
    gpus = [*a2.gpus[:6], msgspec.structs.replace(a2.gpus[6], drain=told), *a2.gpus[7:]]
    for new in (
        msgspec.structs.replace(a2, gpus=tuple(gpus)),
        msgspec.structs.replace(b1, drain=msgspec.structs.replace(told, reason="new power supply")),
    ):
        cluster.statuses[new.name] = up(new)


def _report(of: Job) -> JobReport:
    events = [JobEvent(at=of.submitted_at, event="submitted", state="PENDING")]
    events.append(JobEvent(at=of.submitted_at + 30, event="changed", state="PENDING", detail="Nice 0 → 100, by eve"))
    if of.started_at is not None:
        events.append(JobEvent(at=of.started_at, event="started", state="RUNNING", detail="attempt 1 on GPUs 4-5"))
    return JobReport(job=of, wait_s=36.0, run_s=2463.0, events=tuple(events))


def incident(number: int, node: str = "n1", **more: Any) -> Incident:
    """A GPU that was lost a minute ago."""
    values: dict[str, Any] = {
        "id": number,
        "node": node,
        "kind": IncidentKind.GPU_LOST,
        "severity": Severity.CRITICAL,
        "gpu_uuid": f"GPU-{node}-0",
        "gpu_index": 0,
        "what": "GPU 0 is lost",
        "advice": "see dmesg; power the node off and on",
        "opened_at": NOW - 60,
        "seen_at": NOW - 1,
    }
    return msgspec.convert(values | more, Incident)


def health_lab() -> FakeCluster:
    """The laboratory with incidents: open, seen, over, of a node that is lost; and a GPU too few."""
    cluster = lab()
    hung = incident(
        7, "gpu-a2", kind=IncidentKind.GPU_HUNG, gpu_uuid=A2[7], gpu_index=7, opened_at=NOW - 74,
        what="GPU 7 has not answered since 11:05:26", advice="end its jobs; nvidia-smi --gpu-reset, else reboot",
    )  # fmt: skip
    hot = incident(
        6, "gpu-a2", kind=IncidentKind.THERMAL_THROTTLE, severity=Severity.WARNING, gpu_uuid=A2[3], gpu_index=3,
        job_id=43, user="carol", opened_at=NOW - 1800, what="GPU 3 is slowed down by its heat at 89 °C",
        advice="look at fans, air flow and filters; the jobs on it take longer until then",
    )  # fmt: skip
    xid = incident(
        12, "gpu-a1", kind=IncidentKind.XID, severity=Severity.WARNING, gpu_uuid=A1[4], gpu_index=4, job_id=42,
        user="bob", pid=4711, code=31, count=3, opened_at=NOW - 300, seen_at=NOW - 20, acknowledged_at=NOW - 200,
        acknowledged_by="root", what="XID 31 on GPU 4, process 4711 (python): memory page fault of the program",
        advice="a fault of the job's program: compute-sanitizer finds it",
    )  # fmt: skip
    idle = incident(
        11, "gpu-a1", kind=IncidentKind.HELD_IDLE, severity=Severity.INFO, gpu_uuid=A1[5], gpu_index=5, job_id=42,
        user="bob", opened_at=NOW - 4000, what="GPU 5 is held by job 42 of bob and does nothing",
        advice="ask bob, or stoker cancel 42",
    )  # fmt: skip
    _tell(cluster, "gpu-a1", (xid, idle))
    _tell(cluster, "gpu-a2", (hung, hot))
    cluster.over["gpu-a1"] = [incident(3, "gpu-a1", opened_at=NOW - DAY, cleared_at=NOW - DAY + 600)]
    cluster.known["gpu-a2"] = [KnownGpu(uuid=uuid, index=i, name="Simulated H100 80GB") for i, uuid in enumerate(A2)]
    cluster.known["gpu-a2"].append(KnownGpu(uuid="GPU-gpu-a2-8", index=8, name="Simulated H100 80GB"))
    return cluster


def _tell(cluster: FakeCluster, name: str, incidents: tuple[Incident, ...]) -> None:
    described = cluster.statuses[name].node
    assert described is not None
    cluster.statuses[name] = up(msgspec.structs.replace(described, incidents=incidents))
