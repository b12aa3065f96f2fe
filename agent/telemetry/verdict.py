"""What a job made of its GPUs: one word, and a sentence that says what to do. Pure.

Each threshold says why it is where it is. They are advice for people; nothing is stopped because of a verdict (the
reaper has rules of its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.api.queue import Verdict

MIN_S = 60.0
"""Below a minute of samples a verdict would judge the start: imports, data set, compilation."""
IDLE_PERCENT = 5.0
"""A GPU below this did nothing that anyone asked for it: a context, a warm-up, somebody's `nvidia-smi`."""
STARVED_PERCENT = 50.0
"""NVML counts the time in which any kernel runs, however small. Below half, the host is what the GPU waits for."""
BURSTY_PERCENT = 75.0
"""Below this, waits that last seconds are worth mending, and are seen in samples of one second."""
LOW_PERCENT, HIGH_PERCENT = 20.0, 70.0
"""A second below the one is a wait, above the other is work."""
BURST_SHARE = 0.15
"""Of the seconds that must be waits for a job to come in bursts; a long start or end alone is less, or is one wait."""
BURSTS = 4
"""Times that work set in again after a wait: fewer are the phases of any program."""
MEMORY_BUSY_PERCENT = 60.0
"""HBM that is read or written in 60 % of all samples of NVML's is near what a real kernel reaches."""
ROOM_SHARE = 0.4
"""Memory used at most, of what there is, for which a job is told that it has room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMeans:
    """One GPU over the run."""

    utilization_percent: float | None
    memory_utilization_percent: float | None
    power_share: float | None
    """Of its limit, 0..1."""
    memory_share: float | None
    """Peak of the memory it has, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """A job over its run."""

    measured_s: float
    low_s: float
    """Seconds with the mean of its GPUs below `LOW_PERCENT`."""
    high_s: float
    bursts: int
    """Times that it went from low to high."""
    gpus: Sequence[GpuMeans]
    shared: bool = False
    """It shared a GPU for some of the time: what the others did there cannot be told from what it did."""


def judge(means: Means) -> tuple[Verdict, str]:
    """The verdict and the advice."""
    known = [gpu.utilization_percent for gpu in means.gpus if gpu.utilization_percent is not None]
    if means.measured_s < MIN_S:
        return Verdict.UNKNOWN, f"Measured for {means.measured_s:.0f} s: too short to say."
    if not known:
        return Verdict.UNKNOWN, "The driver tells no utilisation here (it tells none of a MIG instance)."
    if means.shared and any(known):
        return Verdict.UNKNOWN, "It shared a GPU, so what it made of it cannot be told from what the others made of it."
    idle, mean = sum(value < IDLE_PERCENT for value in known), sum(known) / len(known)
    if idle:
        return Verdict.IDLE, _idle(idle, len(known))
    if _is_bursty(means, mean):
        return Verdict.DATA_STARVED, _starved(means, mean)
    if mean < STARVED_PERCENT:
        return Verdict.DATA_STARVED, (
            f"The GPU worked {mean:.0f} % of the time and waited for the host the rest, in pauses below a second: "
            f"more loader workers, a larger batch, or fewer and larger kernels (torch.compile, CUDA graphs)."
        )
    if _is_memory_bound(means):
        return Verdict.MEMORY_BOUND, (
            f"Busy {mean:.0f} % of the time, and memory is the limit, not arithmetic: bf16 or fp8, fused kernels and "
            f"fewer passes over the data help; a GPU with more FLOPS would not."
        )
    return Verdict.FINE, f"Busy {mean:.0f} % of the time{_room(means)}."


def _idle(idle: int, count: int) -> str:
    if idle == count:
        what = "Its GPU" if count == 1 else f"All its {count} GPUs"
        return f"{what} did next to nothing: does the program use it (torch.cuda.is_available()), or was it waiting?"
    few = "GPU" if count - idle == 1 else "GPUs"
    return (
        f"{idle} of its {count} GPUs did next to nothing: ask for {count - idle} {few}, or start a rank on each "
        f"(srun --ntasks={count}, torchrun --nproc-per-node={count})."
    )


def _is_bursty(means: Means, mean: float) -> bool:
    shares = (means.low_s / means.measured_s, means.high_s / means.measured_s)
    return mean < BURSTY_PERCENT and min(shares) >= BURST_SHARE and means.bursts >= BURSTS


def _starved(means: Means, mean: float) -> str:
    return (
        f"Work came in bursts: {100 * means.low_s / means.measured_s:.0f} % of the time the GPU waited, {mean:.0f} % "
        f"busy on the whole. More loader workers (--cpus-per-task), data on a local disk, or checkpoints written aside "
        f"help."
    )


def _is_memory_bound(means: Means) -> bool:
    """Busy memory while the power says that the arithmetic units are not."""
    known = [
        (gpu.memory_utilization_percent, gpu.power_share)
        for gpu in means.gpus
        if gpu.memory_utilization_percent is not None and gpu.power_share is not None
    ]
    if not known:
        return False
    memory = sum(each for each, _ in known) / len(known)
    power = sum(each for _, each in known) / len(known)
    return memory >= MEMORY_BUSY_PERCENT and memory / 100 > power


def _room(means: Means) -> str:
    shares = [gpu.memory_share for gpu in means.gpus if gpu.memory_share is not None]
    if not shares or max(shares) > ROOM_SHARE:
        return ""
    return f"; at most {100 * max(shares):.0f} % of its memory was used, so there is room for a larger batch"
