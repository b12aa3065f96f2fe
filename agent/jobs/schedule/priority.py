"""The order of the queue: Slurm's multifactor priority, and what each waiting job's is made of.

Rules kept here:
- a factor is in 0..1 and is multiplied by its weight: age (wait since it may start, 1 at `max_age_s`), fair share (see
  `fairshare`), size (see `size_factor`), partition (its tier to the highest), QOS; `nice` is taken off;
- a priority set by hand stands in place of them all;
- the order is: the partition's tier; with `preempt = "qos"` a QOS that may end another's jobs before that other; then
  priority; then the lower id;
- equal jobs share a `Group`: their factors are computed once a pass, and so is whatever is found out about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import log2
from operator import attrgetter

from agent.api.queue import PriorityParts
from agent.jobs.schedule.facts import Demand, Policy, QosFacts, Snapshot, Waiting
from agent.jobs.schedule.fairshare import Pair, Standing, standings

SHORTEST_S = 60
LONGEST_S = 7 * 86400
"""Time limits between which the size factor falls; no limit counts as the longest."""

_ALIKE = attrgetter(
    "user",
    "account",
    "partition",
    "qos",
    "time_limit_s",
    "priority",
    "nice",
    "reservation",
    "array_id",
    "array_limit",
)


@dataclass(slots=True, eq=False)
class Group:
    """Waiting jobs that differ only in their ids and times."""

    like: Waiting
    rank: tuple[int, int]
    """Tier and QOS level; higher is first."""
    parts: PriorityParts
    """Without the age."""
    reason: tuple[str, str] | None = None
    """Why no job of it starts any more in this pass."""
    in_line: bool = False
    """It waits for its turn only, so it can be planned."""
    by_age: dict[int, PriorityParts] = field(default_factory=dict)

    def aged(self, points: int) -> PriorityParts:
        """Its parts at some age."""
        parts = self.by_age.get(points)
        if parts is None:
            parts = self.by_age[points] = _with_age(self.parts, points)
        return parts


class Ranking:
    """The waiting jobs in order."""

    def __init__(self, snapshot: Snapshot, now: int) -> None:
        self.parts: dict[int, PriorityParts] = {}
        """Of every waiting job."""
        self._policy = snapshot.policy
        self._factors = _Factors(snapshot)
        self._groups: dict[tuple[object, int], Group] = {}
        self._demands: dict[int, int] = {}
        self._alike: dict[Demand, int] = {}
        self._heaps: dict[tuple[tuple[int, int], int], list[tuple[Waiting, Group]]] = {}
        self._enter(snapshot, now)

    def ordered(self) -> Iterable[tuple[Waiting, Group]]:
        """First the first to be served."""
        for place in sorted(self._heaps, reverse=True):
            yield from self._heaps[place]

    def _enter(self, snapshot: Snapshot, now: int) -> None:
        waiting = sorted(snapshot.waiting, key=attrgetter("id"))
        weight, max_age = self._policy.weight_age, max(1, self._policy.max_age_s)
        groups, demands, heaps, parts = self._groups, self._demands, self._heaps, self.parts
        for job in waiting:
            demand = id(job.demand)
            key = (_ALIKE(job), demands.get(demand) or self._canonical(job.demand))
            group = groups.get(key)
            if group is None:
                group = groups[key] = self._group(job)
            age = now - job.eligible_at
            points = 0 if age <= 0 else weight if age >= max_age else weight * age // max_age
            made = group.by_age.get(points) or group.aged(points)
            parts[job.id] = made
            place = (group.rank, made.total)
            heap = heaps.get(place)
            if heap is None:
                heaps[place] = [(job, group)]
            else:
                heap.append((job, group))

    def _canonical(self, demand: Demand) -> int:
        """The same number for equal demands; the objects live as long as the snapshot, so their ids are theirs."""
        same = self._alike.setdefault(demand, id(demand))
        self._demands[id(demand)] = same
        return same

    def _group(self, job: Waiting) -> Group:
        return Group(like=job, rank=self._factors.rank(job), parts=self._factors.parts(job))


class _Factors:
    """What the factors are computed from, once a pass."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._policy = policy = snapshot.policy
        pairs = {(job.account, job.user) for jobs in (snapshot.waiting, snapshot.running) for job in jobs}
        self._standings: Mapping[Pair, Standing] = standings(pairs, snapshot.usage, policy.shares)
        self._levels = qos_levels(policy.qos) if policy.preempt == "qos" else {}
        self._top_tier = max((each.tier for each in policy.partitions.values()), default=1)
        self._gpus = max(1, len(snapshot.gpus))
        self._parts_of_gpus = max(1, sum(gpu.shards for gpu in snapshot.gpus))
        self._cpus = max(1, snapshot.cpu_count)

    def rank(self, job: Waiting) -> tuple[int, int]:
        partition = self._policy.partitions.get(job.partition)
        return (1 if partition is None else partition.tier, self._levels.get(job.qos, 0))

    def parts(self, job: Waiting) -> PriorityParts:
        if job.priority is not None:
            return PriorityParts(site=job.priority, total=max(1, job.priority))
        policy, qos = self._policy, self._policy.qos.get(job.qos)
        tier = self.rank(job)[0] / self._top_tier if self._top_tier > 0 else 0.0
        fairshare = round(policy.weight_fairshare * self._standings[job.account, job.user].factor)
        jobsize = round(policy.weight_jobsize * self._size(job))
        partition = round(policy.weight_partition * max(0.0, tier))
        priority = round(policy.weight_qos * (0.0 if qos is None else qos.factor))
        return PriorityParts(fairshare=fairshare, jobsize=jobsize, partition=partition, qos=priority, nice=job.nice)

    def _size(self, job: Waiting) -> float:
        demand = job.demand
        width = max(
            demand.gpus / self._gpus,
            demand.shards / self._parts_of_gpus,
            # CPUs alone are no measure of a job that is here for its GPUs.
            0.0 if demand.gpus or demand.shards else demand.cpus / self._cpus,
        )
        return size_factor(1.0 if demand.exclusive else min(1.0, width), job.time_limit_s, self._policy)


def size_factor(width: float, time_limit_s: int | None, policy: Policy) -> float:
    """How small (or with `favour_small` off: how large) a job is, 0..1.

    Large is Slurm's own measure, the part of the node: `width`. Small is made of two halves: the part of the node that
    it leaves, and how short its time limit is on a logarithmic scale from `SHORTEST_S` to `LONGEST_S`.
    """
    if not policy.favour_small:
        return width
    limit = LONGEST_S if time_limit_s is None else min(LONGEST_S, max(SHORTEST_S, time_limit_s))
    length = log2(limit / SHORTEST_S) / log2(LONGEST_S / SHORTEST_S)
    return 1.0 - (width + length) / 2


def qos_levels(qos: Mapping[str, QosFacts]) -> dict[str, int]:
    """How many others stand below each QOS, one below the other; QOS that may end each other's jobs stand level."""
    levels = dict.fromkeys(qos, 0)
    for _ in qos:
        for name, facts in qos.items():
            below = [levels[other] for other in facts.preempts if other in qos and name not in qos[other].preempts]
            levels[name] = min(len(qos), max([levels[name], *(each + 1 for each in below)]))
    return levels


def _with_age(parts: PriorityParts, points: int) -> PriorityParts:
    if parts.site:
        return parts
    total = points + parts.fairshare + parts.jobsize + parts.partition + parts.qos - parts.nice
    return PriorityParts(
        age=points,
        fairshare=parts.fairshare,
        jobsize=parts.jobsize,
        partition=parts.partition,
        qos=parts.qos,
        nice=parts.nice,
        total=max(1, total),
    )
