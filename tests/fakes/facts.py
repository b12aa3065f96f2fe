"""The scheduler's facts, short to write in a test, and the node's maps that GPUs come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.api.queue import LinkGrade
from agent.jobs.schedule import Decision, Demand, GpuFacts, Policy, Running, Snapshot, Start, Waiting, decide

NOW = 1_800_000_000
HOUR = 3600
GIB = 2**30
_OF_DEMAND = ("gpus", "gpu_type", "shards", "cpus", "memory_bytes", "exclusive", "licenses", "features")


def gpu(index: int, **facts: Any) -> GpuFacts:
    """GPU-0, GPU-1, …: an H100 unless said otherwise."""
    return GpuFacts(**{"uuid": f"GPU-{index}", "index": index, "name": "NVIDIA H100 80GB HBM3", **facts})


def gpus(count: int, **facts: Any) -> list[GpuFacts]:
    """So many alike."""
    return [gpu(index, **facts) for index in range(count)]


def job(number: int, gpus: int = 0, **facts: Any) -> Waiting:
    """A waiting job; words of a `Demand` may stand among its own. GPU jobs ask for no CPUs unless they say so."""
    demand, rest = _demand(gpus, facts)
    return Waiting(**{"id": number, "user": "ada", "eligible_at": NOW, "demand": demand, **rest})


def busy(number: int, on: str = "", **facts: Any) -> Running:
    """A running job on the GPUs whose indexes are written one after the other: `"013"`."""
    demand, rest = _demand(0 if facts.get("shards") else len(on), facts)
    uuids = tuple(f"GPU-{index}" for index in on)
    values = {"id": number, "user": "eve", "started_at": NOW, "gpu_uuids": uuids, "demand": demand, **rest}
    return Running(**values)


def run(waiting: list[Waiting], gpus: list[GpuFacts] | None = None, now: int = NOW, **facts: Any) -> Decision:
    """One pass on a node of 64 CPUs and 512 GiB, in the order of the ids, unless said otherwise."""
    return decide(snapshot(waiting, gpus, **facts), now)


def plain(**facts: Any) -> Policy:
    """A policy under which jobs are served in the order of their ids."""
    weights = dict.fromkeys(("weight_age", "weight_fairshare", "weight_jobsize", "weight_partition", "weight_qos"), 0)
    return Policy(**{**weights, **facts})


def snapshot(waiting: list[Waiting], gpus: list[GpuFacts] | None = None, **facts: Any) -> Snapshot:
    """The facts of `run`."""
    node = {"gpus": gpus or [], "cpu_count": 64, "memory_bytes": 512 * GIB}
    return Snapshot(**{"waiting": waiting, **node, "policy": plain(), **facts})


def started(decision: Decision) -> dict[int, str]:
    """Job → the indexes of its GPUs, as in `busy`."""
    return {start.job_id: "".join(uuid.removeprefix("GPU-") for uuid in start.gpu_uuids) for start in decision.starts}


def words(decision: Decision) -> dict[int, str]:
    """Job → Slurm's word for why it stays."""
    return {number: word for number, (word, _) in decision.reasons.items()}


def running_of(waiting: Waiting, start: Start, now: int) -> Running:
    """What a start makes of a waiting job."""
    return Running(
        id=waiting.id,
        user=waiting.user,
        account=waiting.account,
        partition=start.partition,
        qos=waiting.qos,
        demand=waiting.demand,
        gpu_uuids=start.gpu_uuids,
        started_at=now,
        time_limit_s=waiting.time_limit_s,
        array_id=waiting.array_id,
        reservation=waiting.reservation,
    )


def after(facts: Snapshot, decision: Decision, now: int) -> Snapshot:
    """The facts once the decision is carried out: what it started runs."""
    by_id = {each.id: each for each in facts.waiting}
    begun = [running_of(by_id[start.job_id], start, now) for start in decision.starts]
    gone = {start.job_id for start in decision.starts} | set(decision.expired)
    stopping = {victim for each in decision.preempts for victim in each.victims}
    return replace(
        facts,
        waiting=[each for each in facts.waiting if each.id not in gone],
        running=[
            *(replace(each, ending=True) if each.id in stopping else each for each in facts.running),
            *begun,
        ],
    )


def dgx() -> list[GpuFacts]:
    """Eight GPUs, each linked to each other by 18 NVLinks through switches; two NUMA nodes."""
    return [_linked(index, dict.fromkeys(range(8), LinkGrade.NVLINK + 17), index // 4) for index in range(8)]


def pairs() -> list[GpuFacts]:
    """Eight PCIe cards in pairs joined by an NVLink bridge; the rest through the root of their NUMA node."""
    return [_linked(index, {index ^ 1: LinkGrade.NVLINK + 3}, index // 4) for index in range(8)]


def two_islands() -> list[GpuFacts]:
    """Two islands of four with NVLink inside."""
    return [
        _linked(index, {o: LinkGrade.NVLINK + 3 for o in range(8) if o // 4 == index // 4}, index // 4)
        for index in range(8)
    ]


def _linked(index: int, links: dict[int, int], numa_node: int) -> GpuFacts:
    others = {f"GPU-{other}": grade for other, grade in links.items() if other != index}
    return gpu(index, links=others, numa_node=numa_node)


def _demand(gpus: int, facts: dict[str, Any]) -> tuple[Demand, dict[str, Any]]:
    of_demand = {name: value for name, value in facts.items() if name in _OF_DEMAND}
    asked = {"gpus": gpus, "cpus": 0 if gpus or facts.get("shards") else 1, **of_demand}
    return Demand(**asked), {name: value for name, value in facts.items() if name not in _OF_DEMAND}
