"""The node as a pass sees it: each GPU is one bit of a number, the lowest index the lowest bit.

Rules kept here, of which GPUs a job could be given at all:
- its type, its partition and its features decide; a feature of the node's own holds for all its GPUs;
- where it takes one of several features (`h100|a100`) all its GPUs have the same one: each choice is a way of its own;
- whole GPUs and MIG instances are never mixed: a job that names no profile (`1g.10gb`) is given whole GPUs, and
  instances only where the node (or the partition) has nothing else; one that names a profile is given instances;
- a GPU can be used if it is healthy, seated and not drained. Foreign processes are waited for, see `book`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product

from agent.jobs.grammar import matches_type
from agent.jobs.schedule.facts import MAX_WAYS, Demand, GpuFacts, Policy, Snapshot

_MIG_PROFILE = re.compile(r"\d+g\.\d+gb", re.IGNORECASE)


class Node:
    """What the node has, whoever uses it now."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.gpus = tuple(sorted(snapshot.gpus, key=lambda gpu: (gpu.index, gpu.uuid)))
        self.bits = {gpu.uuid: 1 << place for place, gpu in enumerate(self.gpus)}
        self.all = (1 << len(self.gpus)) - 1
        self.healthy = self.mask_where(lambda gpu: gpu.healthy)
        self.drained = self.mask_where(lambda gpu: gpu.drained is not None)
        self.seated = self.mask_where(lambda gpu: gpu.seated)
        self.foreign = self.mask_where(lambda gpu: gpu.foreign is not None)
        self.usable = self.healthy & self.seated & ~self.drained
        self.shards = [gpu.shards for gpu in self.gpus]
        self.cpus = max(1, snapshot.cpu_count)
        self.memory_bytes = snapshot.memory_bytes
        self.licence_names = tuple(sorted(snapshot.licenses))
        self.licenses = tuple(snapshot.licenses[name] for name in self.licence_names)
        self.features = snapshot.features
        self._known = self.features.union(*(gpu.features for gpu in self.gpus))
        self._policy = snapshot.policy
        self._instances = self.mask_where(lambda gpu: bool(_MIG_PROFILE.search(gpu.name)))

    def mask_where(self, holds: Callable[[GpuFacts], bool]) -> int:
        """The GPUs of which that holds."""
        return sum(1 << place for place, gpu in enumerate(self.gpus) if holds(gpu))

    def mask_of(self, uuids: Iterable[str]) -> int:
        """These GPUs; one that the node has lost counts for nothing."""
        mask = 0
        for uuid in uuids:
            mask |= self.bits.get(uuid, 0)
        return mask

    def in_mask(self, mask: int) -> list[GpuFacts]:
        """The GPUs of a mask, lowest index first."""
        return [self.gpus[place] for place in places(mask)]

    def uuids(self, mask: int) -> tuple[str, ...]:
        """What a start names."""
        return tuple(gpu.uuid for gpu in self.in_mask(mask))

    def suited(self, demand: Demand, partition: str) -> int:
        """The GPUs that are of the kind asked for, in whatever state they are."""
        lacking = frozenset(demand.features) - self.features
        suited = self.mask_where(
            lambda gpu: (
                (demand.gpu_type is None or matches_type(demand.gpu_type, gpu.name))
                and lacking <= frozenset(gpu.features)
            )
        )
        suited &= self.partition_mask(self._policy, partition)
        whole = suited & ~self._instances
        named = demand.gpu_type is not None and _MIG_PROFILE.search(demand.gpu_type)
        return whole if whole and not named else suited

    def partition_mask(self, policy: Policy, partition: str) -> int:
        """The GPUs of a partition."""
        facts = policy.partitions.get(partition)
        return self.all if facts is None or facts.gpu_uuids is None else self.mask_of(facts.gpu_uuids)

    def ways(self, features: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Every choice of one from each `h100|a100` that is here, in the order they were named; one way where there is
        nothing to choose. What none of is here stays as it was written.
        """
        if not any("|" in name for name in features):
            return [features]
        choices = []
        for name in features:
            here = [each for each in name.split("|") if each in self._known]
            if self.features.isdisjoint(here):
                choices.append(here or [name])
        return list(islice(product(*choices), MAX_WAYS))

    def unknown_features(self, demand: Demand) -> list[str]:
        """Features asked for that neither the node nor any GPU has."""
        return [name for name in demand.features if self._known.isdisjoint(name.split("|"))]


def places(mask: int) -> Iterator[int]:
    """The bits that are set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
