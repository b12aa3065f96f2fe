"""The node's GPUs, CPUs and seats joined for the engine: what may be given to a job now, and why not."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from agent.api.types import GpuReading, GpuSource, GpuState
from agent.api.usage import SHARE_WHOLE
from agent.engine.accept import Resources
from agent.gate import Hold
from agent.jobs.meter import Metered
from agent.jobs.rules import gpu_features
from agent.jobs.schedule import GpuFacts
from agent.telemetry.host import memory_total_bytes

_SLICES = re.compile(r"(\d+)[cg]\.")
_SLICED = (("A30", 4), ("RTX PRO", 4))
"""Models that are divided into fewer compute slices than others. NVIDIA's MIG user guide, "Supported MIG Profiles"."""
_SLICED_ELSE = 7

if TYPE_CHECKING:
    from agent.gate import NodeGate
    from agent.gpu.sampler import Sampler


class NodeResources:
    """See `agent.engine.accept.ResourceView`."""

    def __init__(self, sampler: Sampler, gate: NodeGate, *, cpus: int) -> None:
        """`cpus` are those that jobs may have."""
        self._cpus = cpus
        self._sampler = sampler
        self._gate = gate
        self._memory_total_bytes = memory_total_bytes()
        self._known: tuple[object, Resources] | None = None

    def resources(self) -> Resources:
        """What there is now; never blocks.

        Asked several times for each job that comes, starts or ends, so one answer serves until something it is made of
        changes: the readings, the lease, or the second.
        """
        now = int(time.time())
        moment = (self._sampler.news, self._gate.lease_id, now)
        if self._known is None or self._known[0] != moment:
            self._known = (moment, self._look(now))
        return self._known[1]

    def _look(self, now: int) -> Resources:
        view = self._sampler.view()
        seated = self._gate.seated(now)
        held_back = self._gate.admit((), now)
        parents = {reading.uuid: reading for reading, _ in view.gpus if reading.divided}
        return Resources(
            gpus=tuple(_facts(reading, seat_of(reading) in seated) for reading, _ in view.gpus if not reading.divided),
            no_gpus=view.reason,
            simulated=view.source is GpuSource.SIMULATED,
            cpu_count=self._cpus,
            memory_total_bytes=self._memory_total_bytes,
            minors={reading.uuid: reading.minor for reading, _ in view.gpus if reading.minor is not None},
            mig_ids={
                reading.uuid: (reading.mig_gi, reading.mig_ci)
                for reading, _ in view.gpus
                if reading.mig_gi is not None and reading.mig_ci is not None
            },
            metered={
                reading.uuid: _metered(reading, parents.get(reading.mig_parent))
                for reading, _ in view.gpus
                if reading.mig_parent is not None
            },
            locked={} if isinstance(held_back, Hold) else self._gate.locked(),
            licence_hold=held_back.detail if isinstance(held_back, Hold) else None,
        )

    def readings(self) -> tuple[GpuReading, ...]:
        """See `agent.engine.accounts.Readings`."""
        return tuple(reading for reading, _ in self._sampler.view().gpus)

    def silent_s(self) -> float:
        """See `agent.engine.accounts.Readings`."""
        return self._sampler.silent_s()

    def none_found(self) -> str | None:
        """See `agent.engine.accounts.Readings`."""
        return self._sampler.none_found()

    def hold(self, uuids: Collection[str]) -> None:
        """Tell the sampler which GPUs running jobs hold."""
        self._sampler.hold(uuids)


def seat_of(reading: GpuReading) -> str:
    """The UUID that a licence seat is counted by: a MIG instance is seated with the GPU that it is a part of."""
    return reading.mig_parent or reading.uuid


def _metered(reading: GpuReading, parent: GpuReading | None) -> Metered:
    """A MIG instance as its share of the whole GPU: by compute slices, else by memory."""
    name = (parent or reading).name
    slices = _SLICES.match(reading.mig_profile or "")
    if slices is not None:
        share = SHARE_WHOLE * int(slices[1]) // next((of for word, of in _SLICED if word in name), _SLICED_ELSE)
    else:
        whole = (parent.memory_total_bytes if parent else None) or 0
        share = SHARE_WHOLE * (reading.memory_total_bytes or 0) // whole if whole else SHARE_WHOLE
    return Metered(gpu=seat_of(reading), sku=name, share=max(1, min(SHARE_WHOLE, share)))


def _facts(reading: GpuReading, seated: bool) -> GpuFacts:
    return GpuFacts(
        uuid=reading.uuid,
        index=reading.index,
        name=reading.name,
        healthy=reading.state is GpuState.OK,
        seated=seated,
        foreign=_first_user(reading),
        ill=len(reading.ill),
        memory_total_bytes=reading.memory_total_bytes or 0,
        numa_node=reading.numa_node,
        links=reading.links,
        features=gpu_features(reading.name),
    )


def _first_user(reading: GpuReading) -> str | None:
    """Who is on the GPU. Where no job holds it, that is a stranger, or what a job just left behind."""
    computing = reading.computing()
    if not computing:
        return None
    process = computing[0]
    who = f" of {process.user}" if process.user else ""
    return f"pid {process.pid}{who}"
