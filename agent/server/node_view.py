"""The node as one value: readings, host, queue and licence joined. The only place that builds a `Node`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from agent import __version__
from agent.api.types import MAX_INCIDENTS, Gpu, GpuReading, Node
from agent.config import Config
from agent.server.resources import seat_of
from agent.telemetry.host import read_boot_id

if TYPE_CHECKING:
    from agent.engine.base import Engine
    from agent.gate import NodeGate
    from agent.gpu.sampler import Sampler
    from agent.telemetry.host import HostReader


class NodeView:
    """Builds the node's snapshot on demand; reads nothing that could block."""

    def __init__(self, config: Config, *, sampler: Sampler, gate: NodeGate, engine: Engine, host: HostReader) -> None:
        self._config = config
        self._host = host
        self._sampler = sampler
        self._gate = gate
        self._engine = engine
        self._boot_id = read_boot_id()

    def snapshot(self) -> Node:
        """The node now."""
        now = time.time()
        view, host, held_by = self._sampler.view(), self._host.read(time.monotonic()), self._engine.held_by()
        pids = self._engine.pids()
        running, pending = self._engine.counts()
        seated, drains = self._gate.seated(int(now)), {each.gpu_uuid: each for each in self._engine.drains()}
        return Node(
            name=self._config.name,
            version=__version__,
            time=now,
            boot_id=self._boot_id,
            mode=self._config.mode,
            key=self._gate.key_hex,
            gpu_source=view.source,
            gpu_reason=view.reason,
            driver_version=view.driver_version,
            gpus=tuple(
                Gpu(
                    **msgspec.structs.asdict(owned(reading, pids)),
                    age_s=age_s,
                    job_id=next(iter(held_by.get(reading.uuid, ())), None),
                    job_ids=held_by.get(reading.uuid, ()),
                    seated=seat_of(reading) in seated,
                    drain=drains.get(reading.uuid),
                )
                for reading, age_s in view.gpus
            ),
            drain=drains.get(None),
            incidents=tuple(self._engine.open_incidents()[:MAX_INCIDENTS]),
            features=self._engine.rules().features,
            cpu_count=self._config.cpus,
            cpu_percent=host.cpu_percent,
            load_1m=host.load_1m,
            memory_total_bytes=host.memory_total_bytes,
            memory_available_bytes=host.memory_available_bytes,
            jobs_running=running,
            jobs_pending=pending,
            stage=self._gate.stage(int(now)),
        )


def owned(reading: GpuReading, pids: Mapping[int, int]) -> GpuReading:
    """The same with the jobs whose processes are on it."""
    if not any(process.pid in pids for process in reading.processes):
        return reading
    owned = (msgspec.structs.replace(process, job_id=pids.get(process.pid)) for process in reading.processes)
    return msgspec.structs.replace(reading, processes=tuple(owned))
