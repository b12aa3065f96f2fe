"""How fast the devices reach each other: copies between pairs of GPUs, and an all-reduce over all ranks.

The ranks find each other through a file and talk over the loopback interface: nothing outside the machine is reached.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from agent.training.selftest_rates import Emit, per_call_s

RENDEZVOUS = timedelta(seconds=120)


def peers(spec: dict[str, Any], emit: Emit) -> None:
    """Copies from GPU to GPU: each to the next, or all ordered pairs."""
    count, seconds = torch.cuda.device_count(), float(spec["seconds"])
    pairs = [(one, (one + 1) % count) for one in range(count)]
    if spec.get("all_pairs"):
        pairs = [(one, other) for one in range(count) for other in range(count) if one != other]
    for one, other in pairs:
        value = _peer_mb_s(one, other, int(spec.get("copy_bytes") or 512 * 1024**2), seconds)
        direct = torch.cuda.can_device_access_peer(one, other)
        emit(figure="peer copy", source=one, target=other, value=value, unit="MB/s", direct=direct)


def _peer_mb_s(one: int, other: int, size: int, seconds: float) -> int:
    source = torch.ones(size, dtype=torch.uint8, device=f"cuda:{one}")
    target = torch.empty(size, dtype=torch.uint8, device=f"cuda:{other}")

    def wait() -> None:
        torch.cuda.synchronize(one)
        torch.cuda.synchronize(other)

    return int(size / per_call_s(lambda: target.copy_(source, non_blocking=True), wait, seconds) / 1e6)


def rank(spec: dict[str, Any], emit: Emit) -> None:
    """One rank of an all-reduce. Rank 0 tells the bus bandwidth, NCCL tests' `busbw`: 2(n-1)/n of the bytes a rank."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    me, world, cuda = int(spec["rank"]), int(spec["world"]), spec["device"] == "cuda"
    if cuda:
        torch.cuda.set_device(me)
    else:
        torch.set_num_threads(1)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{spec['meeting']}", rank=me, world_size=world, timeout=RENDEZVOUS
    )
    try:
        _all_reduce(spec, emit, torch.device("cuda", me) if cuda else torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def _all_reduce(spec: dict[str, Any], emit: Emit, device: torch.device) -> None:
    size = int(spec.get("copy_bytes") or (512 * 1024**2 if device.type == "cuda" else 16 * 1024**2))
    world = dist.get_world_size()
    ones = torch.ones(size // 4, device=device)
    dist.all_reduce(ones)
    wrong = int((ones != world).sum())
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    count = _agreed_count(ones, wait, float(spec["seconds"]), device)
    begun = time.perf_counter()
    for _ in range(count):
        dist.all_reduce(ones)
    wait()
    took = (time.perf_counter() - begun) / count
    if dist.get_rank() == 0 or wrong:
        value = int(size * 2 * (world - 1) / world / took / 1e6)
        emit(figure="all-reduce", value=value, unit="MB/s", ranks=world, wrong=wrong, backend=dist.get_backend())


def _agreed_count(values: torch.Tensor, wait: Callable[[], None], seconds: float, device: torch.device) -> int:
    """How many fit into the time; the same number on all ranks, or they would wait for each other for ever."""
    begun = time.perf_counter()
    for _ in range(3):
        values.zero_()
        dist.all_reduce(values)
    wait()
    took = torch.tensor([(time.perf_counter() - begun) / 3], device=device)
    dist.all_reduce(took, op=dist.ReduceOp.MAX)
    return max(1, int(seconds / max(float(took[0]), 1e-6)))
