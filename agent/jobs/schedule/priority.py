"""The order of the queue: Slurm's multifactor priority, and what each waiting job's is made of.

Rules kept here:
- a factor is in 0..1 and is multiplied by its weight: age (wait since it may start, 1 at `max_age_s`), fair share (see
  `fairshare`), size (see `size_factor`), partition (its tier to the highest), QOS; `nice` is taken off;
- a priority set by hand stands in place of them all;
- the order is: the partition's tier (a job that names partitions of several tiers stands in each of these); with
  `preempt = "qos"` a QOS that may end another's jobs before that other; then
  priority; then the lower id;
- equal jobs share a `Group`: their factors are computed once a pass, and so is whatever is found out about them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from operator import attrgetter

from agent.api.queue import PriorityParts
from agent.jobs.schedule.facts import Policy, QosFacts, Snapshot, Waiting
from agent.jobs.schedule.fairshare import Pair, standings

SHORTEST_S = 60
LONGEST_S = 7 * 86400
"""Time limits between which the size factor falls; no limit counts as the longest."""
WIDTH = 0.5
"""What being as wide as the node counts for, where being as short as can be counts for 1."""

_NO_PARTS = PriorityParts()


@dataclass(slots=True, eq=False)
class Group:
    """Waiting jobs that differ only in their ids and times."""

    rank: int
    """Tier and QOS level, so far up that any priority can be added below."""
    fairshare: int
    jobsize: int
    partition: int
    qos: int
    nice: int
    site: int | None
    reason: tuple[str, str] | None = None
    """Why no job of it starts any more in this pass."""
    in_line: bool = False
    """It waits for its turn only, so it can be planned."""
    points: int = -1
    """Age of the job before, and … """
    made: PriorityParts = _NO_PARTS
    """… what its priority is made of: jobs that came together share it."""

    def parts(self, points: int) -> PriorityParts:
        """What the priority of its jobs of some age is made of."""
        if self.site is not None:
            return PriorityParts(site=self.site, total=max(1, self.site))
        total = points + self.fairshare + self.jobsize + self.partition + self.qos - self.nice
        return PriorityParts(
            age=points,
            fairshare=self.fairshare,
            jobsize=self.jobsize,
            partition=self.partition,
            qos=self.qos,
            nice=self.nice,
            total=total if total > 1 else 1,
        )


class Ranking:
    """The waiting jobs in order."""

    def __init__(self, snapshot: Snapshot, now: int) -> None:
        self.parts: dict[int, PriorityParts] = {}
        """Of every waiting job."""
        self.places: dict[int, Sequence[Waiting]] = {}
        """Of jobs that stand in several tiers: the job as it stands in each."""
        self._policy = snapshot.policy
        self._factors = _Factors(snapshot)
        self._groups: dict[tuple[object, ...], Group] = {}
        self._heaps: defaultdict[int, list[tuple[Waiting, Group]]] = defaultdict(list)
        self._enter(snapshot, now)

    def ordered(self) -> Iterable[tuple[Waiting, Group]]:
        """First the first to be served."""
        for place in sorted(self._heaps, reverse=True):
            yield from self._heaps[place]

    def _enter(self, snapshot: Snapshot, now: int) -> None:
        waiting = self._in_tiers(sorted(snapshot.waiting, key=attrgetter("id")))
        weight, max_age = self._policy.weight_age, max(1, self._policy.max_age_s)
        groups, heaps, parts = self._groups, self._heaps, self.parts
        for job in waiting:
            group = groups.get(job.like)
            if group is None:
                group = groups[job.like] = self._factors.group(job)
            age = now - job.eligible_at
            points = 0 if age <= 0 else weight if age >= max_age else weight * age // max_age
            if points != group.points:
                group.points, group.made = points, group.parts(points)
            made = group.made
            parts.setdefault(job.id, made)
            heaps[group.rank + made.total].append((job, group))

    def _in_tiers(self, waiting: list[Waiting]) -> list[Waiting]:
        """A job that names partitions of several tiers stands once in each, the highest first."""
        if not any(len(job.partitions) > 1 for job in waiting):
            return waiting
        return [place for job in waiting for place in self._places_of(job)]

    def _places_of(self, job: Waiting) -> Sequence[Waiting]:
        tiers: dict[int, list[str]] = {}
        for name in job.partitions:
            tiers.setdefault(self._policy.tier(name), []).append(name)
        if len(tiers) == 1:
            return (job,)
        places = [replace(job, partition=",".join(names)) for _, names in sorted(tiers.items(), reverse=True)]
        self.places[job.id] = places
        return places


class _Factors:
    """What the factors are computed from, each once a pass."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._policy = policy = snapshot.policy
        self._levels = qos_levels(policy.qos) if policy.preempt == "qos" else {}
        self._top_tier = max((each.tier for each in policy.partitions.values()), default=1)
        self._gpus = max(1, len(snapshot.gpus))
        self._parts_of_gpus = max(1, sum(gpu.shards for gpu in snapshot.gpus))
        self._cpus = max(1, snapshot.cpu_count)
        self._fairshare = self._fairshares(snapshot)
        self._sizes: dict[tuple[tuple[object, ...], int | None], int] = {}
        self._places: dict[tuple[str, str], tuple[int, int, int]] = {}

    def group(self, job: Waiting) -> Group:
        """A new group, of which this job is the first."""
        size = self._sizes.get((job.asks, job.time_limit_s))
        if size is None:
            size = self._sizes[job.asks, job.time_limit_s] = round(self._policy.weight_jobsize * self._size(job))
        place = self._places.get((job.partition, job.qos))
        if place is None:
            place = self._places[job.partition, job.qos] = self._place(job)
        rank, partition, qos = place
        fairshare = self._fairshare[job.account, job.user]
        return Group(rank, fairshare, size, partition, qos, job.nice, job.priority)

    def _fairshares(self, snapshot: Snapshot) -> dict[Pair, int]:
        pairs = {(job.account, job.user) for jobs in (snapshot.waiting, snapshot.running) for job in jobs}
        found = standings(pairs, snapshot.usage, self._policy.shares)
        return {pair: round(self._policy.weight_fairshare * each.factor) for pair, each in found.items()}

    def _place(self, job: Waiting) -> tuple[int, int, int]:
        policy, tier, qos = self._policy, self._policy.tier(job.partitions[0]), self._policy.qos.get(job.qos)
        part = max(0.0, tier / self._top_tier) if self._top_tier > 0 else 0.0
        return (
            (tier * (1 + len(self._levels)) + self._levels.get(job.qos, 0)) << 40,
            round(policy.weight_partition * part),
            round(policy.weight_qos * (0.0 if qos is None else qos.factor)),
        )

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
    """How much a job's size speaks for it, 0..1.

    With `favour_small` off that is Slurm's own measure, the part of the node: `width`. With it on, the shorter job goes
    first, by its time limit on a logarithmic scale from `SHORTEST_S` to `LONGEST_S`; of jobs about as long, the wider
    one: narrow jobs fill in beside and behind it, while it would wait behind each of them for a node that is empty.
    """
    if not policy.favour_small:
        return width
    limit = LONGEST_S if time_limit_s is None else min(LONGEST_S, max(SHORTEST_S, time_limit_s))
    length = log2(limit / SHORTEST_S) / log2(LONGEST_S / SHORTEST_S)
    return (1.0 - length + WIDTH * width) / (1.0 + WIDTH)


def qos_levels(qos: Mapping[str, QosFacts]) -> dict[str, int]:
    """How many others stand below each QOS, one below the other; QOS that may end each other's jobs stand level."""
    levels = dict.fromkeys(qos, 0)
    for _ in qos:
        for name, facts in qos.items():
            below = [levels[other] for other in facts.preempts if other in qos and name not in qos[other].preempts]
            levels[name] = min(len(qos), max([levels[name], *(each + 1 for each in below)]))
    return levels
