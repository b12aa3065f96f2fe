"""Who of several jobs on one GPU had how much of it, and who takes more memory than its share. Pure.

NVML tells memory by process and nothing else, so a shared GPU's time and energy are split by the memory that each job's
processes hold there; where it does not tell even that (as in some containers), in equal parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.api.types import GpuReading
from agent.api.words import Word

CONTEXT_BYTES = 512 * 1024**2
"""Above its share a job is let be by so much: a CUDA context takes 300 to 500 MiB before the program asks for any."""


class Split(Word):
    """How the figures of a shared GPU were divided."""

    NONE = "none"
    """It was not shared."""
    MEMORY = "memory"
    """By the memory that each job's processes hold."""
    EQUAL = "equal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overuse:
    """A job holds more of a shared GPU's memory than it asked for."""

    job_id: int
    uuid: str
    used_bytes: int
    allowed_bytes: int
    sentence: str


def memory_of(reading: GpuReading, pids: Mapping[int, int]) -> dict[int, int] | None:
    """Bytes that each job's processes hold on a GPU; `None` where NVML does not tell it of each.

    Args:
        reading: the GPU.
        pids: process id → job, as far as known; a process of nobody's is left out.
    """
    found: dict[int, int] = {}
    for process in reading.processes:
        job = pids.get(process.pid)
        if job is None:
            continue
        if process.memory_used_bytes is None:
            return None
        found[job] = found.get(job, 0) + process.memory_used_bytes
    return found


def parts(reading: GpuReading, holders: Sequence[int], pids: Mapping[int, int]) -> tuple[dict[int, float], Split]:
    """Which part of the GPU each of its holders had; they sum to 1."""
    if len(holders) == 1:
        return {holders[0]: 1.0}, Split.NONE
    memory = memory_of(reading, pids)
    total = sum(memory.get(job, 0) for job in holders) if memory else 0
    if memory is None or not total:
        return dict.fromkeys(holders, 1 / len(holders)), Split.EQUAL
    return {job: memory.get(job, 0) / total for job in holders}, Split.MEMORY


def overuse(
    readings: Iterable[GpuReading],
    held_by: Mapping[str, Sequence[int]],
    *,
    shards: Mapping[int, int],
    shards_per_gpu: int,
    pids: Mapping[int, int],
) -> tuple[Overuse, ...]:
    """The jobs that hold more memory of their GPU than the shards they asked for.

    Args:
        readings: the GPUs now.
        held_by: UUID → jobs.
        shards: job → shards, of the jobs that asked for some; others are not watched.
        shards_per_gpu: into how many a GPU is divided.
        pids: process id → job.
    """
    found = []
    for reading in readings:
        memory, total = memory_of(reading, pids), reading.memory_total_bytes
        for job in held_by.get(reading.uuid, ()):
            if memory is None or total is None or job not in shards:
                continue
            allowed = total * shards[job] // max(shards_per_gpu, 1)
            if memory.get(job, 0) > allowed + CONTEXT_BYTES:
                found.append(_overuse(reading, job, memory[job], allowed, shards[job], shards_per_gpu))
    return tuple(found)


def _overuse(reading: GpuReading, job: int, used: int, allowed: int, shards: int, per_gpu: int) -> Overuse:
    return Overuse(
        job_id=job,
        uuid=reading.uuid,
        used_bytes=used,
        allowed_bytes=allowed,
        sentence=(
            f"job {job} holds {_gib(used)} of GPU {reading.index}, and its {shards} of {per_gpu} shards are "
            f"{_gib(allowed)}; others run there too: ask for more shards, or limit the memory in the program"
        ),
    )


def _gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
