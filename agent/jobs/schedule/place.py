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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from math import comb

from agent.api.queue import LinkGrade
from agent.jobs.schedule.facts import GpuFacts
from agent.jobs.schedule.node import places
from agent.jobs.schedule.timeline import Ask, Room

MAX_CHOICES = 2100
MAX_SEEDS = 16

_Linked = tuple[str, int | None, tuple[tuple[str, int], ...]]
"""Of a GPU: UUID, NUMA node, links."""


class Placer:
    """Knows how the node's GPUs are connected."""

    def __init__(self, gpus: Sequence[GpuFacts]) -> None:
        """`gpus` in the order of the masks' bits."""
        self._gpus = gpus

    @cached_property
    def _map(self) -> _Map:
        """Made when it is first needed: of most passes with a full node it is not."""
        return _map_of(tuple((gpu.uuid, gpu.numa_node, tuple(gpu.links.items())) for gpu in self._gpus))

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
        grades, numa_nodes = self._map.grades, self._map.levels[2]
        links = [grades[one][other] for one, other in combinations(chosen, 2)]
        rest = free & ~_mask(chosen)
        left = [(rest & _union([parts[place] for place in chosen])).bit_count() for parts in self._map.levels]
        numa = len({numa_nodes[place] for place in chosen})
        ill = sum(self._gpus[place].ill for place in chosen)
        return (-min(links, default=0), -sum(links), numa, left, ill, chosen)

    def _seeds(self, free: int) -> list[int]:
        """The first free GPU of each island, switch and NUMA node."""
        firsts = {part & free & -(part & free) for level in self._map.levels for part in level if part & free}
        return sorted(bit.bit_length() - 1 for bit in firsts)[:MAX_SEEDS]

    def _grow(self, first: int, available: Sequence[int], count: int) -> tuple[int, ...]:
        chosen = [first]
        weakest = {place: self._map.grades[first][place] for place in available if place != first}
        total = dict(weakest)
        friends = {place: sum(self._map.grades[place][other] for other in available) for place in weakest}
        while len(chosen) < count:
            best = max(
                weakest,
                key=lambda place: (weakest[place], total[place], friends[place], -self._gpus[place].ill, -place),
            )
            chosen.append(best)
            del weakest[best], total[best]
            for place in weakest:
                grade = self._map.grades[best][place]
                weakest[place] = min(weakest[place], grade)
                total[place] += grade
        return tuple(sorted(chosen))


@dataclass(frozen=True, slots=True)
class _Map:
    """How GPUs are connected; all of it by place, the number of a mask's bit."""

    grades: list[list[int]]
    levels: tuple[list[int], list[int], list[int]]
    """For each place the NVLink island it is in, the PCIe switch, and the NUMA node."""


@lru_cache(maxsize=4)
def _map_of(gpus: tuple[_Linked, ...]) -> _Map:
    """The same for every pass as long as the node has the same GPUs."""
    links = [dict(each[2]) for each in gpus]
    grades = [[_grade(one, other, gpus, links) for other in range(len(gpus))] for one in range(len(gpus))]
    return _Map(grades, (_islands(grades, LinkGrade.NVLINK), _islands(grades, LinkGrade.BRIDGE), _numa_nodes(gpus)))


def _grade(one: int, other: int, gpus: Sequence[_Linked], links: Sequence[Mapping[str, int]]) -> int:
    """Links are the same both ways; where nobody told of one, the NUMA nodes say what there must be."""
    told = max(links[one].get(gpus[other][0], 0), links[other].get(gpus[one][0], 0))
    same = gpus[one][1] is not None and gpus[one][1] == gpus[other][1]
    return max(told, LinkGrade.NODE if same else LinkGrade.SYSTEM)


def _islands(grades: Sequence[Sequence[int]], grade: int) -> list[int]:
    """For each place the GPUs that it reaches by links of at least that grade, directly or through others."""
    found = [1 << place for place in range(len(grades))]
    for one, other in combinations(range(len(grades)), 2):
        if grades[one][other] >= grade and not found[one] >> other & 1:
            joined = found[one] | found[other]
            for place in places(joined):
                found[place] = joined
    return found


def _numa_nodes(gpus: Sequence[_Linked]) -> list[int]:
    parts: dict[int | None, int] = {}
    for place, (_, numa_node, _) in enumerate(gpus):
        parts[numa_node] = parts.get(numa_node, 0) | 1 << place
    return [parts[numa_node] for _, numa_node, _ in gpus]


def _mask(chosen: Iterable[int]) -> int:
    return sum([1 << place for place in chosen])


def _union(parts: Iterable[int]) -> int:
    union = 0
    for part in parts:
        union |= part
    return union
