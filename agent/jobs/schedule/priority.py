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

from collections.abc import Iterator, Mapping, Sequence
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


class Group:
    """Waiting jobs that differ only in their ids and times."""

    __slots__ = ("base", "in_line", "rank", "reason")

    def __init__(self, rank: int, base: int) -> None:
        self.rank = rank
        """Tier and QOS level, so far up that any priority can be added below."""
        self.base = base
        """The priority of its jobs before they age."""
        self.reason: tuple[str, str] | None = None
        """Why no job of it starts any more in this pass."""
        self.in_line = False
        """It waits for its turn only, so it can be planned."""


class Priorities(Mapping[int, PriorityParts]):
    """What each waiting job's priority is made of: put together when it is asked for, which of most it never is."""

    def __init__(self, jobs: Mapping[int, Waiting], factors: _Factors, policy: Policy, now: int) -> None:
        self._jobs, self._factors, self._policy, self._now = jobs, factors, policy, now

    def __getitem__(self, job_id: int) -> PriorityParts:
        job = self._jobs[job_id]
        if job.priority is not None:
            return PriorityParts(site=job.priority, total=max(1, job.priority))
        age, place = age_points(job, self._policy, self._now), self._factors.place(job)
        fairshare, jobsize = self._factors.fairshare(job), self._factors.jobsize(job)
        return PriorityParts(
            age=age,
            fairshare=fairshare,
            jobsize=jobsize,
            partition=place.partition,
            qos=place.qos,
            nice=job.nice,
            total=max(1, age + fairshare + jobsize + place.partition + place.qos - job.nice),
        )

    def __iter__(self) -> Iterator[int]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)


class Ranking:
    """The waiting jobs in order."""

    def __init__(self, snapshot: Snapshot, now: int) -> None:
        self._policy, self._now = snapshot.policy, now
        self.places: dict[int, Sequence[Waiting]] = {}
        """Of jobs that stand in several tiers: the job as it stands in each, the highest first."""
        self._factors = _Factors(snapshot)
        self._waiting = self._in_tiers(sorted(snapshot.waiting, key=attrgetter("id")))
        by_id = {job.id: job for job in reversed(self._waiting)}  # of several places the first stays
        self.parts = Priorities(by_id, self._factors, snapshot.policy, now)
        """Of every waiting job."""

    def ordered(self) -> list[tuple[Waiting, Group]]:
        """First the first to be served."""
        groups: dict[str, Group] = {}
        ranked, ranks = [], []
        policy, now, make = self._policy, self._now, self._factors.group
        for job in self._waiting:
            group = groups.get(job.like)
            if group is None:
                group = groups[job.like] = make(job)
            total = job.priority
            if total is None:
                total = group.base + age_points(job, policy, now)
            ranked.append((job, group))
            ranks.append(group.rank + (total if total > 1 else 1))
        return [ranked[number] for number in sorted(range(len(ranks)), key=ranks.__getitem__, reverse=True)]

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


def age_points(job: Waiting, policy: Policy, now: int) -> int:
    """What its age is worth."""
    age = now - job.eligible_at
    if age <= 0:
        return 0
    return policy.weight_age if age >= policy.max_age_s else policy.weight_age * age // policy.max_age_s


@dataclass(frozen=True, slots=True)
class _Place:
    """What partition and QOS are worth."""

    rank: int
    """See `Group`."""
    partition: int
    qos: int


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
        self._worths: dict[tuple[str, int | None, str], tuple[int, int]] = {}
        """Rank, and what all but the user is worth."""

    def group(self, job: Waiting) -> Group:
        """A new group, of which this job is the first."""
        key = job.kind, job.time_limit_s, job.qos
        worth = self._worths.get(key)
        if worth is None:
            place = self.place(job)
            worth = self._worths[key] = place.rank, place.partition + place.qos + self.jobsize(job)
        return Group(worth[0], worth[1] + self._fairshare[job.account, job.user] - job.nice)

    def fairshare(self, job: Waiting) -> int:
        """What the little that its user had is worth."""
        return self._fairshare[job.account, job.user]

    def jobsize(self, job: Waiting) -> int:
        """What its width and its limit are worth."""
        return round(self._policy.weight_jobsize * self._size(job))

    def place(self, job: Waiting) -> _Place:
        """What its partition and its QOS are worth."""
        policy, tier, qos = self._policy, self._policy.tier(job.partitions[0]), self._policy.qos.get(job.qos)
        part = max(0.0, tier / self._top_tier) if self._top_tier > 0 else 0.0
        return _Place(
            (tier * (1 + len(self._levels)) + self._levels.get(job.qos, 0)) << 40,
            round(policy.weight_partition * part),
            round(policy.weight_qos * (0.0 if qos is None else qos.factor)),
        )

    def _fairshares(self, snapshot: Snapshot) -> dict[Pair, int]:
        pairs = {(job.account, job.user) for jobs in (snapshot.waiting, snapshot.running) for job in jobs}
        found = standings(pairs, snapshot.usage, self._policy.shares)
        return {pair: round(self._policy.weight_fairshare * each.factor) for pair, each in found.items()}

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
