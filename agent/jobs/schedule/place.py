"""Which of the free GPUs a job is given. Pure: the node's map and a mask in, a mask out.

Rules kept here, the first that tells two choices apart decides:
1. the best weakest link between any two of the job's GPUs, then the best sum of links (`LinkGrade`);
2. the fewest NUMA nodes;
3. the least left over in what is broken into: of the NVLink islands, then the PCIe switches, then the NUMA nodes that
   the choice touches, those with the fewest free GPUs left. A single job does not break an island of four while there
   is an odd GPU, and a pair goes where just a pair is free;
4. the least ill GPUs; 5. the lowest indexes.

All choices are weighed while there are at most `MAX_CHOICES` of them (any choice among 8 GPUs, pairs among 64).
Beyond, GPUs are added one by one, the best connected next, from the first free one of each island.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations
from math import comb

from agent.api.queue import LinkGrade
from agent.jobs.schedule.facts import GpuFacts
from agent.jobs.schedule.node import places
from agent.jobs.schedule.timeline import Ask, Room

MAX_CHOICES = 2100
MAX_SEEDS = 16


class Placer:
    """Knows how the node's GPUs are connected."""

    def __init__(self, gpus: Sequence[GpuFacts]) -> None:
        """`gpus` in the order of the masks' bits."""
        self._gpus = gpus

    @cached_property
    def _grades(self) -> list[list[int]]:
        return [[_grade(one, other) for other in self._gpus] for one in self._gpus]

    @cached_property
    def _levels(self) -> tuple[list[int], list[int], list[int]]:
        """The islands, the switches and the NUMA nodes."""
        return self._islands(LinkGrade.NVLINK), self._islands(LinkGrade.BRIDGE), self._numa_nodes()

    def choose(self, free: int, count: int) -> int | None:
        """The best `count` of the free GPUs; `None` when there are not so many."""
        available = list(places(free))
        if count > len(available):
            return None
        if count == len(available):
            return free
        if comb(len(available), count) <= MAX_CHOICES:
            candidates = set(combinations(available, count))
        else:
            candidates = {self._grow(first, available, count) for first in self._seeds(free)}
        best = min(candidates, key=lambda chosen: self._score(chosen, free))
        return _mask(best)

    def assign(self, ask: Ask, room: Room) -> int:
        """The GPUs of a job that fits into the room."""
        free = room.gpus & ask.mask
        if ask.shards:
            return self._assign_shards(ask, room)
        return self.choose(free, ask.gpus) or 0

    def _assign_shards(self, ask: Ask, room: Room) -> int:
        """The GPU with the fewest parts free, so that shared ones fill up first; a new one as for a single job."""
        able, parts = room.with_shards(ask), room.shards or ()
        shared = able & ~room.gpus
        if not shared:
            return self.choose(able, 1) or 0
        return 1 << min(places(shared), key=lambda place: (parts[place], self._gpus[place].ill, place))

    def reserve(self, ask: Ask, room: Room, better_left: int) -> int:
        """GPUs to plan with, which the start itself may choose anew: those that are better left come last.

        What is free now and not planned with may be given to jobs of any length meanwhile, so a plan closes as little
        of that as it can.
        """
        able = room.with_shards(ask) if ask.shards else room.gpus & ask.mask
        count = 1 if ask.shards else ask.gpus
        by_choice = [*places(able & ~better_left), *reversed([*places(able & better_left)])]
        return _mask(by_choice[:count])

    def _score(self, chosen: tuple[int, ...], free: int) -> tuple[object, ...]:
        links = [self._grades[one][other] for one, other in combinations(chosen, 2)]
        mask = _mask(chosen)
        left = [(free & ~mask & island).bit_count() for island in self._touched(mask)]
        numa = sum(1 for part in self._levels[2] if part & mask)
        ill = sum(self._gpus[place].ill for place in chosen)
        return (-min(links, default=0), -sum(links), numa, left, ill, chosen)

    def _touched(self, mask: int) -> Iterable[int]:
        for level in self._levels:
            yield _mask_union(part for part in level if part & mask)

    def _seeds(self, free: int) -> list[int]:
        """The first free GPU of each island, switch and NUMA node."""
        firsts = {part & free & -(part & free) for level in self._levels for part in level if part & free}
        return sorted(bit.bit_length() - 1 for bit in firsts)[:MAX_SEEDS]

    def _grow(self, first: int, available: Sequence[int], count: int) -> tuple[int, ...]:
        chosen = [first]
        weakest = {place: self._grades[first][place] for place in available if place != first}
        total = dict(weakest)
        friends = {place: sum(self._grades[place][other] for other in available) for place in weakest}
        while len(chosen) < count:
            best = max(
                weakest,
                key=lambda place: (weakest[place], total[place], friends[place], -self._gpus[place].ill, -place),
            )
            chosen.append(best)
            del weakest[best], total[best]
            for place in weakest:
                grade = self._grades[best][place]
                weakest[place] = min(weakest[place], grade)
                total[place] += grade
        return tuple(sorted(chosen))

    def _islands(self, grade: int) -> list[int]:
        """Sets of GPUs that reach each other by links of at least that grade, one another or through others."""
        islands: list[int] = []
        for place in range(len(self._gpus)):
            linked = 1 << place | _mask(o for o, g in enumerate(self._grades[place]) if o != place and g >= grade)
            apart = [island for island in islands if not island & linked]
            islands = [*apart, _mask_union([linked, *(island for island in islands if island & linked)])]
        return islands

    def _numa_nodes(self) -> list[int]:
        parts: dict[int | None, int] = {}
        for place, gpu in enumerate(self._gpus):
            parts[gpu.numa_node] = parts.get(gpu.numa_node, 0) | 1 << place
        return list(parts.values())


def _grade(one: GpuFacts, other: GpuFacts) -> int:
    """Links are the same both ways; where nobody told of one, the NUMA nodes say what there must be."""
    told = max(one.links.get(other.uuid, 0), other.links.get(one.uuid, 0))
    same = one.numa_node is not None and one.numa_node == other.numa_node
    return max(told, LinkGrade.NODE if same else LinkGrade.SYSTEM)


def _mask(chosen: Iterable[int]) -> int:
    return sum(1 << place for place in chosen)


def _mask_union(parts: Iterable[int]) -> int:
    union = 0
    for part in parts:
        union |= part
    return union
