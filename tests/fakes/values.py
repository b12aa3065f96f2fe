"""A simulated cluster that stands still, as values: nodes, GPUs, jobs and a licence at one moment."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.api.types import (
    Gpu,
    GpuSource,
    Job,
    JobState,
    Licence,
    LicenceStage,
    LinkState,
    Node,
    NodeStatus,
    SeatHolder,
)

NOW = 1_795_000_000
"""Unix seconds at which the simulated cluster stands still: 2026-11-18 11:06:40 UTC."""
GIB = 2**30
DAY = 86_400


def gpu(
    index: int, *, node: str = "n1", job: int | None = None, load: int = 0, used_gib: float = 0.5, **more: Any
) -> Gpu:
    """A simulated H100."""
    values: dict[str, Any] = {
        "index": index,
        "uuid": f"GPU-{node}-{index}",
        "name": "Simulated H100 80GB",
        "sampled_at": float(NOW),
        "memory_total_bytes": 80 * GIB,
        "memory_used_bytes": int(used_gib * GIB),
        "utilization_percent": load,
        "power_mw": 70_000 + load * 6_000,
        "power_limit_mw": 700_000,
        "temperature_c": 34 + load // 3,
        "job_id": job,
        "seated": True,
        "age_s": 0.4,
    }
    return msgspec.convert(values | more, Gpu)


def node(name: str, gpus: tuple[Gpu, ...], **more: Any) -> Node:
    """A node of simulated GPUs."""
    values: dict[str, Any] = {
        "name": name,
        "version": "0.1.0",
        "time": float(NOW),
        "boot_id": "b",
        "mode": "system",
        "key": "00" * 32,
        "gpu_source": GpuSource.SIMULATED,
        "gpus": gpus,
        "cpu_count": 64,
        "cpu_percent": 31.0,
        "load_1m": 12.4,
        "memory_total_bytes": 512 * GIB,
        "memory_available_bytes": 380 * GIB,
        "jobs_running": len({each.job_id for each in gpus if each.job_id is not None}),
        "stage": "ACTIVE",
    }
    return msgspec.convert(values | more, Node, from_attributes=True)


def up(described: Node, age_s: float = 0.3) -> NodeStatus:
    """A node that is heard of."""
    return NodeStatus(name=described.name, link=LinkState.UP, age_s=age_s, node=described)


def job(number: int, state: JobState = JobState.RUNNING, **more: Any) -> Job:
    """A job of alice's on n1."""
    values: dict[str, Any] = {
        "id": number,
        "node": "n1",
        "name": "train.sh",
        "user": "alice",
        "state": state,
        "gpus": 1,
        "submitted_at": NOW - 600,
        "started_at": None if state is JobState.PENDING else NOW - 300,
        "ended_at": NOW - 60 if state.is_final else None,
        "exit_code": {JobState.COMPLETED: 0, JobState.FAILED: 1}.get(state),
        "attempt": 0 if state is JobState.PENDING else 1,
        "work_dir": "/home/alice/run",
        "simulated": True,
    }
    return msgspec.convert(values | more, Job)


def evaluation(left_s: int = 13 * DAY + 23 * 3600 + 60) -> Licence:
    """The built-in voucher with some days left."""
    return Licence(
        stage=LicenceStage.ACTIVE,
        message="evaluation of 64 seats",
        licence_id="eval",
        plan="evaluation",
        evaluation=True,
        seats_total=64,
        seats_used=24,
        expires_at=NOW + left_s,
        holders=(
            SeatHolder(node="gpu-a1", gpu_uuids=tuple(f"GPU-gpu-a1-{i}" for i in range(8)), until=NOW + DAY),
            SeatHolder(node="gpu-a2", gpu_uuids=tuple(f"GPU-gpu-a2-{i}" for i in range(8)), until=NOW + DAY),
            SeatHolder(node="gpu-b1", gpu_uuids=tuple(f"GPU-gpu-b1-{i}" for i in range(8)), until=NOW + DAY),
        ),
    )
