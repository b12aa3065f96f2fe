"""The words between the agent and its sampler process: one JSON object a line on the child's pipes.

Each frame is the whole state, so one that is lost is healed by the next. Times of reading travel as CLOCK_MONOTONIC
seconds, which on Linux is one clock for all processes: the agent computes every age from it and never from the wall
clock, and a frame that waited in the pipe still tells its true age.
"""

from __future__ import annotations

import msgspec

from agent.api.types import GpuReading, GpuSource

EXIT_FRESH = 75
"""Exit status of a child that needs a fresh process (EX_TEMPFAIL of sysexits.h): the driver was exchanged under it."""

UNKNOWN_UUID = "unknown:"
"""With the index, the UUID of a GPU that never answered this child; the agent may remember a better one."""


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The child's one argument, as JSON."""

    source: str
    period_s: float
    library: str | None
    simulated_count: int
    simulated_layout: str = "nvswitch"
    node_name: str
    state_dir: str


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A line on the child's standard input: the GPUs that running jobs hold."""

    uuids: tuple[str, ...]


class Stamped(msgspec.Struct, frozen=True, kw_only=True):
    """A reading and when it was taken."""

    reading: GpuReading
    at: float | None
    """CLOCK_MONOTONIC seconds at which the read began; `None` if this child never read the GPU."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A line on the child's standard output, at least one each period."""

    source: GpuSource
    reason: str | None = None
    """Why there are no GPUs, or why they are not known yet."""
    driver_version: str | None = None
    gpus: tuple[Stamped, ...] | None
    """`None` while the source is still being opened: what was known before still holds, and ages."""
