"""Jobs that ask for the same of the same part of the node: what they need is worked out once a pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agent.jobs.schedule.book import licence_counts
from agent.jobs.schedule.facts import Demand, Snapshot, Waiting
from agent.jobs.schedule.node import Node, places
from agent.jobs.schedule.reasons import Reason, Reasons
from agent.jobs.schedule.timeline import LASTING, Ask


@dataclass(slots=True, eq=False)
class Kind:
    """What such jobs need, and what the pass has found out about them."""

    ask: Ask
    demand: Demand
    partition: str
    view: str | None
    """The reservation they name."""
    obstacle: Reason | None
    line: tuple[object, ...]
    """Jobs that could be given the same GPUs wait in one line; those without GPUs in one of their own."""
    head: Reason | None = None
    """What such jobs are told that wait behind the head of their line, once one does; none that names a reservation,
    which is not for everybody."""
    bound_s: int = LASTING
    """Nothing longer than this could start now."""
    planned: dict[int, int] = field(default_factory=dict)
    """Duration → where the last one was planned: an equal one behind it starts no earlier."""


class Kinds:
    """Finds a job's kind."""

    def __init__(self, node: Node, snapshot: Snapshot, reasons: Reasons) -> None:
        self._node, self._reasons, self._backfill = node, reasons, snapshot.policy.backfill
        self._reserved = {each.name: each.gpu_uuids for each in snapshot.reservations}
        self._suited: dict[tuple[str | None, tuple[str, ...], str], int] = {}
        self._kinds: dict[tuple[Demand, str, str | None], Kind] = {}
        self._found: dict[str, tuple[Kind, ...]] = {}

    def of(self, job: Waiting) -> tuple[Kind, ...]:
        """The job's kind in each partition that it names, and there for each choice of features that leads to other
        GPUs; the same objects for all of a kind.
        """
        kinds = self._found.get(job.kind)
        if kinds is None:
            demands = self._demands(job.demand)
            different: dict[tuple[str, int, bool], Kind] = {}
            for kind in (self._in(job, demand, name) for name in job.partitions for demand in demands):
                different.setdefault((kind.partition, kind.ask.mask, kind.obstacle is None), kind)
            kinds = self._found[job.kind] = tuple(different.values())
        return kinds

    def _demands(self, demand: Demand) -> list[Demand]:
        ways = self._node.ways(demand.features)
        return [demand] if ways == [demand.features] else [replace(demand, features=way) for way in ways]

    def _in(self, job: Waiting, demand: Demand, partition: str) -> Kind:
        key = (demand, partition, job.reservation)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._make(demand, partition, job.reservation)
        return kind

    def _make(self, demand: Demand, partition: str, reservation: str | None) -> Kind:
        suited = self._suited_for(demand, partition)
        kept = self._reserved.get(reservation) if reservation is not None else None
        if kept is not None:
            suited &= self._node.mask_of(kept)
        obstacle = self._reasons.partition(partition) or self._reasons.obstacle(demand, suited)
        ask = self._ask(demand, suited)
        line = (reservation, ask.mask) if self._backfill else (partition,)
        if not (ask.gpus or ask.shards):
            line = (*line[:1], 0)
        return Kind(ask, demand, partition, reservation, obstacle, line)

    def _suited_for(self, demand: Demand, partition: str) -> int:
        key = (demand.gpu_type, demand.features, partition)
        if key not in self._suited:
            self._suited[key] = self._node.suited(demand, partition)
        return self._suited[key]

    def _ask(self, demand: Demand, suited: int) -> Ask:
        node, mask = self._node, suited & self._node.usable
        if not (demand.gpus or demand.shards or demand.exclusive):
            mask = 0
        if demand.shards:
            mask = sum(1 << place for place in places(mask) if node.shards[place] >= demand.shards)
        return Ask(
            mask=mask,
            gpus=mask.bit_count() if demand.exclusive else demand.gpus,
            shards=0 if demand.exclusive else demand.shards,
            # A job larger than the node (its CPUs went offline after the submit) still runs once it has them all.
            cpus=min(demand.cpus, node.cpus),
            memory_bytes=demand.memory_bytes if node.memory_bytes else 0,
            licenses=licence_counts(node, demand),
            exclusive=demand.exclusive,
        )
