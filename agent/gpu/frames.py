"""The words between the agent and its sampler process: one JSON object a line on the child's pipes.

Each frame is the whole state but for its events, so one that is lost is healed by the next. Times of reading travel as
CLOCK_MONOTONIC seconds, which on Linux is one clock for all processes: the agent computes every age from it and never
from the wall clock, and a frame that waited in the pipe still tells its true age.
"""

from __future__ import annotations

from enum import StrEnum

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


class EventKind(StrEnum):
    """What the driver tells of by itself."""

    XID = "xid"
    ECC = "ecc"
    """Memory held two wrong bits in one word, or poisoned data could not be contained."""
    POISON = "poison"
    """Poisoned data was met and contained."""
    ROW_RETIRED = "row_retired"
    ROW_NOT_RETIRED = "row_not_retired"
    """There is no spare row left, or it could not be used."""
    UNAVAILABLE = "unavailable"
    """The driver cannot use the GPU any more."""


class GpuEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened once, as the driver told of it."""

    kind: EventKind
    uuid: str
    """The whole GPU's."""
    at: float
    """Unix seconds at which it was heard."""
    code: int | None = None
    """Of an XID."""
    mig_gi: int | None = None
    """The GPU instance (MIG) that it hit; `None`: the GPU, or not told."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A line on the child's standard output, at least one each period."""

    source: GpuSource
    reason: str | None = None
    """Why there are no GPUs, or why they are not known yet."""
    driver_version: str | None = None
    gpus: tuple[Stamped, ...] | None
    """`None` while the source is still being opened: what was known before still holds, and ages."""
    events: tuple[GpuEvent, ...] = ()
    """What was heard since the frame before: the one part that is told once."""
