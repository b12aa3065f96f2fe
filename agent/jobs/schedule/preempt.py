"""Who is asked to stop so that another can start.

Rules kept here:
- `qos`: a job may end jobs of those QOS that its own QOS names; `partition`: jobs of partitions of a lower tier;
- a job that may not run twice is no victim, unless the site cancels victims; one that is ending already is not asked
  again, what it holds counts as coming;
- the lowest QOS or tier goes first: of a higher one only what cannot be had otherwise. Among those, the set that loses
  the least GPU time: of each victim (now - its last checkpoint, or its start) x GPUs + the seconds it needs to stop;
  nobody is ended whose end is not needed;
- all sets are weighed up to `MAX_WEIGHED` victims; beyond, the cheapest are added until it suffices, and whoever is
  then not needed is let go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from agent.jobs.schedule.book import demand_claim
from agent.jobs.schedule.facts import Policy, Running, Waiting
from agent.jobs.schedule.node import Node
from agent.jobs.schedule.timeline import Ask, Claim, Room

MAX_WEIGHED = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Victims:
    """A set that suffices."""

    jobs: tuple[Running, ...]
    room: Room
    """What is free once they are gone."""


def candidates(
    job: Waiting,
    partition: str,
    running: Iterable[Running],
    policy: Policy,
    levels: Mapping[str, int],
    asked: Iterable[int],
) -> list[tuple[int, Running]]:
    """Whom the job may end, each with its class: the lowest goes first. `partition`: the one of its own that it would
    start in; `asked`: who is asked to stop already.
    """
    stopping = set(asked)
    found = []
    for other in running:
        if other.ending or other.id in stopping or not (other.may_requeue or policy.preempt_cancels):
            continue
        level = _class(job, partition, other, policy, levels)
        if level is not None:
            found.append((level, other))
    return found


def _class(job: Waiting, partition: str, other: Running, policy: Policy, levels: Mapping[str, int]) -> int | None:
    if policy.preempt == "partition":
        mine, its = policy.tier(partition), policy.tier(other.partition)
        return its if its < mine else None
    qos = policy.qos.get(job.qos)
    if qos is None or other.qos not in qos.preempts:
        return None
    return levels.get(other.qos, 0)


def choose(found: Sequence[tuple[int, Running]], ask: Ask, empty: Room, node: Node, now: int) -> Victims | None:
    """The best set; `empty`: what would be free if all of them went."""
    weigh = _Scale(found, ask, empty, node, now)
    for level in sorted({level for level, _ in found}):
        below = frozenset(number for number, (each, _) in enumerate(found) if each <= level)
        if weigh.suffices(below):
            chosen = weigh.best(below)
            jobs = sorted((found[number][1] for number in chosen), key=lambda job: job.id)
            return Victims(jobs=tuple(jobs), room=weigh.room(chosen))
    return None


class _Scale:
    """Weighs sets of victims, named by their numbers."""

    def __init__(self, found: Sequence[tuple[int, Running]], ask: Ask, empty: Room, node: Node, now: int) -> None:
        self._ask, self._empty = ask, empty
        self._claims: list[Claim] = [demand_claim(node, job.demand, node.mask_of(job.gpu_uuids)) for _, job in found]
        self._levels = [level for level, _ in found]
        self._losses = [loss_s(job, now) for _, job in found]
        self._ids = [job.id for _, job in found]
        self._order = sorted(set(self._levels), reverse=True)

    def room(self, gone: frozenset[int]) -> Room:
        room = self._empty.copy(self._empty.at)
        for number, claim in enumerate(self._claims):
            if number not in gone:
                room.take(claim)
        return room

    def suffices(self, gone: frozenset[int]) -> bool:
        return self.room(gone).fits(self._ask)

    def best(self, allowed: frozenset[int]) -> frozenset[int]:
        sets = self._all_sets(allowed) if len(allowed) <= MAX_WEIGHED else self._likely_sets(allowed)
        return min((each for each in sets if self.suffices(each)), key=self._cost)

    def _cost(self, gone: frozenset[int]) -> tuple[object, ...]:
        losses = [sum(self._losses[n] for n in gone if self._levels[n] == level) for level in self._order]
        return (losses, len(gone), sorted(self._ids[number] for number in gone))

    def _all_sets(self, allowed: frozenset[int]) -> Iterable[frozenset[int]]:
        for size in range(len(allowed) + 1):
            yield from (frozenset(chosen) for chosen in combinations(sorted(allowed), size))

    def _likely_sets(self, allowed: frozenset[int]) -> Iterable[frozenset[int]]:
        by_loss = sorted(allowed, key=lambda n: (self._levels[n], self._losses[n], self._ids[n]))
        by_worth = sorted(allowed, key=lambda n: (self._levels[n], self._losses[n] / self._worth(n), self._ids[n]))
        for order in (by_loss, by_worth):
            yield self._spared(self._enough(order))

    def _worth(self, number: int) -> int:
        claim = self._claims[number]
        return 1 + ((claim.gpus | claim.shared) & self._ask.mask).bit_count()

    def _enough(self, order: Sequence[int]) -> list[int]:
        gone: list[int] = []
        for number in order:
            if self.suffices(frozenset(gone)):
                break
            gone.append(number)
        return gone

    def _spared(self, gone: list[int]) -> frozenset[int]:
        """Let the dearest go that are not needed."""
        for number in reversed(gone.copy()):
            fewer = frozenset(gone) - {number}
            if self.suffices(fewer):
                gone.remove(number)
        return frozenset(gone)


def loss_s(job: Running, now: int) -> float:
    """GPU-seconds that ending it now would waste."""
    since = job.started_at if job.saved_at is None else max(job.started_at, job.saved_at)
    return max(0, now - since) * len(job.gpu_uuids) + job.stop_s
