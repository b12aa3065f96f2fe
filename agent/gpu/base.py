"""What a source of GPU readings is, and how it fails.

    StokerError
    ├── GpuLostError         one GPU cannot be read; the others can
    └── NoGpusError          there is nothing to read: no library, no driver, no GPU; worth another try in this process
        └── DriverGoneError  the driver went away or was exchanged under us: only a fresh process can load the new one

A reader's calls may block for ever: that is what the sampler process and its deadlines are for. Several threads use it
at the same time, never two for the same GPU. Nothing outside the sampler process calls a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.api.errors import StokerError
from agent.api.types import GpuReading, GpuSource
from agent.gpu.frames import GpuEvent, News


class GpuLostError(StokerError):
    """The driver answers, but not about this GPU; the message says what it said and what helps."""


class NoGpusError(StokerError):
    """There are no GPUs to read; the message says why and what to do."""


class DriverGoneError(NoGpusError):
    """The driver we had loaded is no longer the driver that runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What a source found when it was opened."""

    count: int
    """GPUs, indexes 0 to `count - 1`; at least 1."""
    driver_version: str | None


class Sweep(Protocol):
    """What is new about several GPUs, asked by one thread in one go. A GPU of it is not read meanwhile."""

    indexes: list[int]
    """Those that are asked, in this order."""

    def ask(self) -> None:
        """Ask. May block for ever."""

    def asking(self) -> int | None:
        """Which is being asked now; `None` once all were. For any thread, as is `abandon`."""

    def abandon(self) -> None:
        """Have none asked after the one that is. Each may then be read, that one by the thread that asks it."""

    def fold(self) -> News | None:
        """What is new about each, once all were asked; `None`: read them."""


class GpuReader(Protocol):
    """A source of readings."""

    @property
    def source(self) -> GpuSource:
        """Where its readings come from."""

    def open(self) -> Inventory:
        """Find the GPUs. May block for ever.

        Raises:
            NoGpusError: there are none.
        """

    def read(self, index: int, now: float, monotonic: float) -> GpuReading:
        """Read one GPU, identity included. May block for ever.

        Args:
            index: 0-based, below the inventory's count.
            now: Unix seconds, becomes `sampled_at`.
            monotonic: seconds of a clock that never jumps.

        Raises:
            GpuLostError: this GPU cannot be read.
            DriverGoneError: none can.
        """

    def ready(self, indexes: Sequence[int], monotonic: float) -> list[int]:
        """Those of which it is enough to hear what is new, in a `sweep`. Never blocks."""

    def check(self, index: int, monotonic: float) -> bool:
        """Ask one that is not ready what keeps it from being so; whether it is now. May block for ever; raises as
        `read`.
        """

    def sweep(self, indexes: Sequence[int], now: float, monotonic: float) -> Sweep | None:
        """Make ready to ask those that are ready what is new since they were read; `None`: read them. Never blocks."""

    def glance(self, index: int, monotonic: float) -> None:
        """Look at what changes fastest, between two reads and by the same rules: the next `read` tells the least, the
        mean and the most of it. May block for ever; raises as `read`.
        """

    def instances(self, index: int, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        """Read the MIG instances of a GPU, right after `read` of it and in the same thread; none if it has none.

        Raises:
            DriverGoneError: none can be read.
        """

    def listen(self, tell: Callable[[GpuEvent], None]) -> None:
        """Have `tell` called, in any thread, with what the driver tells of by itself; before the first `read`."""

    def hold(self, uuids: frozenset[str]) -> None:
        """Learn which GPUs running jobs hold. Only simulated GPUs care: real ones are busy by themselves."""


def mig_reading(parent: GpuReading, *, index: int, uuid: str, name: str, profile: str | None, **own: Any) -> GpuReading:
    """A MIG instance, read right after its GPU: what the silicon shares is the GPU's, `own` is the instance's alone."""
    return GpuReading(
        index=index,
        uuid=uuid,
        name=name,
        sampled_at=parent.sampled_at,
        temperature_c=parent.temperature_c,
        memory_temperature_c=parent.memory_temperature_c,
        sm_clock_mhz=parent.sm_clock_mhz,
        memory_clock_mhz=parent.memory_clock_mhz,
        throttle=parent.throttle,
        throttled_percent=parent.throttled_percent,
        numa_node=parent.numa_node,
        minor=parent.minor,
        mig_parent=parent.uuid,
        mig_profile=profile,
        ill=parent.ill,
        **own,
    )


def mig_index(parent: int, slot: int) -> int:
    """The index under which a MIG instance is shown: `102` is the third of GPU 0.

    NVML numbers instances within their GPU only. This stays the same whatever becomes of the others, on any GPU.
    """
    return 100 * (parent + 1) + slot
