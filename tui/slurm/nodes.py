"""A node as Slurm's commands tell it: its state in one word, what of it is given out, why it takes no job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from agent.api.queue import Drain, Partition, Reservation
from agent.api.types import Job, JobState, LinkState, Node, NodeStatus

HOLDING = (JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING)
LONG = {
    "alloc": "allocated",
    "drain": "drained",
    "drng": "draining",
    "maint": "maint",
    "mix": "mixed",
    "resv": "reserved",
}
"""The long word of each short one; the others are the same."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One node with the jobs that hold parts of it."""

    status: NodeStatus
    jobs: tuple[Job, ...]
    reservations: tuple[Reservation, ...] = ()
    now: float

    @property
    def name(self) -> str:
        """Its name."""
        return self.status.name

    @property
    def node(self) -> Node | None:
        """What was last heard of it."""
        return self.status.node

    @property
    def responds(self) -> bool:
        """Whether it is heard of now; Slurm marks one that is not with `*`."""
        return self.status.link is LinkState.UP

    @property
    def cpus(self) -> int:
        """CPUs it has."""
        return self.node.cpu_count if self.node else 0

    @property
    def cpus_used(self) -> int:
        """CPUs given out; one job that has the node to itself holds them all."""
        if any(job.exclusive for job in self.jobs):
            return self.cpus
        return min(self.cpus, sum(job.tasks * job.cpus_per_task for job in self.jobs))

    @property
    def gpus(self) -> int:
        """GPUs it has."""
        return len(self.node.gpus) if self.node else 0

    @property
    def gpus_used(self) -> int:
        """GPUs given out."""
        return sum(gpu.job_id is not None for gpu in self.node.gpus) if self.node else 0

    @property
    def memory_used_bytes(self) -> int:
        """Memory given out."""
        return sum(job.memory_bytes or 0 for job in self.jobs)

    @property
    def state(self) -> str:
        """`idle`, `mix`, `alloc`, `drain`, `drng`, `down`, `resv`, `maint`; with `*` when it does not respond."""
        if self.node is None or self.status.link is LinkState.LOST:
            return "down*"
        mark = "" if self.responds else "*"
        if self.node.drain is not None:
            return ("drng" if self.jobs else "drain") + mark
        current = [each for each in self.reservations if each.start_at <= self.now < each.end_at]
        if any(each.maintenance and not each.gpu_uuids for each in current):
            return "maint" + mark
        if self.jobs:
            return ("alloc" if self._is_full() else "mix") + mark
        return ("resv" if any(not each.gpu_uuids for each in current) else "idle") + mark

    @property
    def long_state(self) -> str:
        """`allocated`, `draining`."""
        mark = "*" if self.state.endswith("*") else ""
        return LONG.get(self.state.rstrip("*"), self.state.rstrip("*")) + mark

    @property
    def drains(self) -> list[Drain]:
        """Of the node and of its GPUs."""
        if self.node is None:
            return []
        whole = [self.node.drain] if self.node.drain else []
        return whole + [gpu.drain for gpu in self.node.gpus if gpu.drain is not None]

    @property
    def gres(self) -> str:
        """`gpu:8`, with the type where all are of one."""
        if not self.node or not self.node.gpus:
            return "(null)"
        kinds = Counter(_kind(gpu.name) for gpu in self.node.gpus)
        return ",".join(f"gpu:{kind}:{count}" for kind, count in sorted(kinds.items()))

    @property
    def features(self) -> str:
        """`h100,nvlink`: what `--constraint` may name there."""
        return ",".join(self.node.features) if self.node and self.node.features else "(null)"

    @property
    def cpu_states(self) -> str:
        """CPUS(A/I/O/T)."""
        idle = self.cpus - self.cpus_used
        away = self.state.rstrip("*") in ("down", "drain", "drng", "maint")
        return f"{self.cpus_used}/{0 if away else idle}/{idle if away else 0}/{self.cpus}"

    def _is_full(self) -> bool:
        whole = any(job.exclusive for job in self.jobs)
        return whole or (0 < self.cpus <= self.cpus_used) or (0 < self.gpus <= self.gpus_used)


def hosts(
    statuses: Sequence[NodeStatus], jobs: Sequence[Job], now: float, reservations: Mapping[str, Sequence[Reservation]]
) -> list[Host]:
    """Nodes in the order of their names; `reservations` of each by its name."""
    return [
        Host(
            status=status,
            jobs=tuple(job for job in jobs if job.node == status.name and job.state in HOLDING),
            reservations=tuple(reservations.get(status.name, ())),
            now=now,
        )
        for status in sorted(statuses, key=lambda status: status.name)
    ]


def reserved(hosts: Sequence[Host]) -> list[tuple[Reservation, list[Host]]]:
    """Each reservation with the nodes that it is of; one of several nodes has one name on all of them."""
    found: dict[tuple[str, int], tuple[Reservation, list[Host]]] = {}
    for host in hosts:
        for each in host.reservations:
            found.setdefault((each.name, each.start_at), (each, []))[1].append(host)
    return list(found.values())


def partition_up(partition: Partition) -> str:
    """AVAIL: `up`, `down`, `drain`."""
    return {"UP": "up", "DOWN": "down", "DRAIN": "drain", "INACTIVE": "inact"}.get(
        partition.state.upper(), partition.state.lower()
    )


def _kind(name: str) -> str:
    """`NVIDIA H100 80GB HBM3` as a gres type: `h100`; a name without a model's number stays, joined by `_`."""
    words = [word for word in name.replace("-", " ").split() if word.upper() not in ("NVIDIA", "TESLA", "GEFORCE")]
    model = next((word for word in words if any(char.isdigit() for char in word)), None)
    return (model or "_".join(words) or "gpu").lower()
