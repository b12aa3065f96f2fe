"""What is free on the node from now on, and when a job could start: the calendar that backfill plans in.

Rules kept here:
- a `Timeline` is cut into segments, at each of which what is free changes; the last one lasts for ever;
- a claim takes what a job holds between two times; claims are only ever added, so what is free only shrinks;
- a job fits at a time if everything it asks for is free, on the same GPUs, from then until its limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.jobs.schedule.node import places

FOREVER = 1 << 60
"""When a running job without a time limit ends."""
LASTING = 1 << 61
"""How long a job without a limit wants the node: past `FOREVER`, so that it is never fitted in before anybody."""


@dataclass(slots=True, kw_only=True, eq=False)
class Ask:
    """What a kind of job needs, as the timeline counts it."""

    mask: int = 0
    """GPUs it may be given."""
    gpus: int = 0
    shards: int = 0
    cpus: int = 0
    memory_bytes: int = 0
    licenses: tuple[int, ...] = ()
    """In the order of `Node.licence_names`; empty: none."""
    exclusive: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Claim:
    """What is taken."""

    gpus: int = 0
    """Whole GPUs."""
    shared: int = 0
    """One GPU, of which `shards` are taken."""
    shards: int = 0
    cpus: int = 0
    memory_bytes: int = 0
    licenses: tuple[int, ...] = ()
    exclusive: bool = False
    jobs: int = 1
    """0 for what is no job: a reservation, a foreign process."""


@dataclass(slots=True, eq=False)
class Room:
    """What is free at a time, or all through a span of time."""

    at: int
    gpus: int
    """GPUs that nobody holds any part of."""
    shards: list[int] | None
    """Free parts of each GPU that nobody holds wholly; `None` where nobody asks for parts."""
    cpus: int
    memory_bytes: int
    licenses: tuple[int, ...]
    held: int = 0
    """GPUs that somebody holds wholly."""
    jobs: int = 0
    """How many jobs are there."""
    alone: bool = False
    """One of them wants no other beside it."""

    def copy(self, at: int) -> Room:
        """The same from another time on."""
        shards = None if self.shards is None else self.shards.copy()
        room = Room(at, self.gpus, shards, self.cpus, self.memory_bytes, self.licenses)
        room.held, room.jobs, room.alone = self.held, self.jobs, self.alone
        return room

    def narrow(self, other: Room) -> None:
        """Keep only what is free in both."""
        self.gpus &= other.gpus
        self.held |= other.held
        if self.shards is not None and other.shards is not None:
            self.shards = [min(pair) for pair in zip(self.shards, other.shards, strict=True)]
        self.cpus = min(self.cpus, other.cpus)
        self.memory_bytes = min(self.memory_bytes, other.memory_bytes)
        if self.licenses is not other.licenses:
            self.licenses = tuple(min(pair) for pair in zip(self.licenses, other.licenses, strict=True))
        self.jobs = max(self.jobs, other.jobs)
        self.alone = self.alone or other.alone

    def take(self, claim: Claim) -> None:
        """Have less free."""
        self.gpus &= ~(claim.gpus | claim.shared)
        self.held |= claim.gpus
        if claim.shared and self.shards is not None:
            for place in places(claim.shared):
                self.shards[place] -= claim.shards
        self.cpus -= claim.cpus
        self.memory_bytes -= claim.memory_bytes
        if claim.licenses:
            self.licenses = tuple(free - taken for free, taken in zip(self.licenses, claim.licenses, strict=True))
        self.jobs += claim.jobs
        self.alone = self.alone or claim.exclusive

    def fits(self, ask: Ask) -> bool:
        """Whether all that is asked for is free."""
        # Plans may overdraw what they share with jobs that never end: who asks for nothing of it is not concerned.
        if (
            self.alone
            or (ask.cpus and self.cpus < ask.cpus)
            or (ask.memory_bytes and self.memory_bytes < ask.memory_bytes)
        ):
            return False
        if ask.gpus and (self.gpus & ask.mask).bit_count() < ask.gpus:
            return False
        if ask.exclusive and self.jobs:
            return False
        if ask.licenses and any(free < asked > 0 for free, asked in zip(self.licenses, ask.licenses, strict=True)):
            return False
        return not ask.shards or bool(self.with_shards(ask))

    def with_shards(self, ask: Ask) -> int:
        """The GPUs that have as many parts free."""
        free = self.shards or ()
        open_to_all = ask.mask & ~self.held
        return sum(1 << place for place in places(open_to_all) if place < len(free) and free[place] >= ask.shards)


class Timeline:
    """Segments from now on."""

    def __init__(self, room: Room) -> None:
        self._segments = [room]

    @property
    def now(self) -> Room:
        """What is free at this moment."""
        return self._segments[0]

    def at(self, time: int) -> Room:
        """What is free at that moment."""
        return self._segments[self._index(time)]

    def starts(self) -> Sequence[int]:
        """The times at which what is free changes; the first is now."""
        return [segment.at for segment in self._segments]

    def claim(self, start: int, end: int, claim: Claim) -> None:
        """Take that between two times."""
        start = max(start, self._segments[0].at)
        if end <= start:
            return
        first = self._cut(start)
        last = self._cut(end)
        for segment in self._segments[first:last]:
            segment.take(claim)

    def reach(self, ask: Ask, start: int, end: int) -> tuple[int, Room | None]:
        """Until when it would fit if it started then, `end` at the latest; and what is free until `end`, or too little.

        Without a room it does not fit at all.
        """
        first = self._index(start)
        if not self._segments[first].fits(ask):
            return start, None
        room = self._segments[first].copy(start)
        for number in range(first + 1, len(self._segments)):
            segment = self._segments[number]
            if segment.at >= end:
                break
            room.narrow(segment)
            if not room.fits(ask):
                return segment.at, room
        return end, room

    def earliest(self, ask: Ask, duration: int, after: int) -> tuple[int, Room] | None:
        """The first time, not before `after`, at which it fits for so long. `None`: never."""
        number, segments = self._index(after), self._segments
        while number < len(segments):
            start = max(after, segments[number].at)
            failed, room = self._fit(ask, number, start + duration)
            if failed is None and room is not None:
                return start, room
            number = failed if failed is not None else number + 1
        return None

    def _fit(self, ask: Ask, first: int, end: int) -> tuple[int | None, Room | None]:
        """Try one start: the free room, or else the segment to try next."""
        segments = self._segments
        if not segments[first].fits(ask):
            return first + 1, None
        room = segments[first].copy(segments[first].at)
        for number in range(first + 1, len(segments)):
            segment = segments[number]
            if segment.at >= end:
                break
            if not segment.fits(ask):
                return number + 1, None
            room.narrow(segment)
            if not room.fits(ask):
                return first + 1, None
        return None, room

    def _index(self, at: int) -> int:
        """The segment in which a time lies."""
        low, high = 0, len(self._segments) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._segments[middle].at <= at:
                low = middle
            else:
                high = middle - 1
        return low

    def _cut(self, at: int) -> int:
        """Let a segment begin there."""
        number = self._index(at)
        if self._segments[number].at == at:
            return number
        self._segments.insert(number + 1, self._segments[number].copy(at))
        return number + 1
