"""What of the node's GPUs the engine may give to jobs: MIG, seats, health, foreign processes."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from agent.api.types import GpuProcess, GpuReading, GpuSource, GpuState
from agent.gate import Admit
from agent.gpu.sampler import GpuView
from agent.server.resources import NodeResources


@dataclass
class Sampled:
    """A sampler that has read these."""

    gpus: tuple[GpuReading, ...]
    news: int = 1

    def view(self) -> GpuView:
        gpus = tuple((gpu, 0.1) for gpu in self.gpus)
        return GpuView(source=GpuSource.NVML, reason=None, driver_version="1", gpus=gpus)


@dataclass
class Gate:
    """A licence that covers these."""

    uuids: frozenset[str]
    lease_id: str = "lease-1"

    def seated(self, now: int) -> frozenset[str]:
        return self.uuids

    def admit(self, gpu_uuids: object, now: int) -> Admit:
        return Admit()

    def locked(self) -> dict[str, str]:
        return {"qos": "LIC-450"}


def gpu(index: int, uuid: str, **values: object) -> GpuReading:
    return msgspec.convert({"index": index, "uuid": uuid, "name": "H100", "sampled_at": 1.0, **values}, GpuReading)


def test_a_gpu_in_mig_mode_is_given_in_parts_which_have_its_seat() -> None:
    parent = gpu(0, "GPU-0", divided=True)
    parts = [
        gpu(100 + slot, f"MIG-{slot}", mig_parent="GPU-0", minor=0, mig_gi=slot + 7, mig_ci=0, ill=["worn"])
        for slot in range(2)
    ]
    sampled = Sampled((parent, gpu(1, "GPU-1", minor=1), *parts))
    node = NodeResources(sampled, Gate(frozenset({"GPU-0"})), cpus=8)  # type: ignore[arg-type]
    found = node.resources()
    assert [(each.uuid, each.seated, each.ill) for each in found.gpus] == [
        ("GPU-1", False, 0),
        ("MIG-0", True, 1),
        ("MIG-1", True, 1),
    ]
    assert found.minors == {"GPU-1": 1, "MIG-0": 0, "MIG-1": 0}
    assert found.mig_ids == {"MIG-0": (7, 0), "MIG-1": (8, 0)}
    assert [each.uuid for each in node.readings()] == ["GPU-0", "GPU-1", "MIG-0", "MIG-1"]


def test_health_links_and_strangers_reach_the_scheduler() -> None:
    ill = gpu(0, "GPU-0", state=GpuState.HUNG, state_since=1)
    used = gpu(
        1, "GPU-1", links={"GPU-0": 27}, numa_node=1, memory_total_bytes=80, processes=[{"pid": 7, "user": "eve"}]
    )
    assert used.processes == (GpuProcess(pid=7, user="eve"),)
    found = NodeResources(Sampled((ill, used)), Gate(frozenset()), cpus=8).resources().gpus  # type: ignore[arg-type]
    assert [(each.healthy, each.foreign) for each in found] == [(False, None), (True, "pid 7 of eve")]
    assert (found[1].links, found[1].numa_node, found[1].memory_total_bytes) == ({"GPU-0": 27}, 1, 80)


def test_who_only_draws_is_in_nobodys_way() -> None:
    drawn = gpu(0, "GPU-0", processes=[{"pid": 7, "kind": "graphics", "user": "alice"}])
    both = gpu(1, "GPU-1", processes=[{"pid": 7, "kind": "graphics"}, {"pid": 8, "kind": "compute+graphics"}])
    found = NodeResources(Sampled((drawn, both)), Gate(frozenset({"GPU-0", "GPU-1"})), cpus=8).resources()  # type: ignore[arg-type]
    assert [each.foreign for each in found.gpus] == [None, "pid 8"]
