"""What a GPU must be like to be read in brief, with the others: `nvml_herd`. A part of the door to `pynvml`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agent.api.types import GpuProcess, GpuReading
from agent.gpu.nvml_fields import FieldCall
from agent.gpu.nvml_gpm import GpmCall, Shares
from agent.gpu.nvml_processes import ProcessCall
from agent.gpu.nvml_rings import RingCall, Spread
from agent.gpu.nvml_sweep import Kind
from agent.gpu.sieve import Counter, Rates, Sieve

if TYPE_CHECKING:
    from agent.gpu.nvml_herd import Herd

SECOND_S = 0.9
"""How often counters, rings, GPM and processes are read where `gpu.period_s` is less: each second, with some play."""


class Second(msgspec.Struct):
    """What was read at one moment of what is read once a second."""

    at: float
    fields: Sequence[int | None]
    """As `nvml_fields.OFTEN`."""
    rates: Sequence[int | None]
    """Of the counters among them."""
    spreads: dict[str, Spread]
    shares: Shares
    processes: tuple[GpuProcess, ...]


@dataclass(slots=True, kw_only=True)
class Parts:
    """What remembers something of one GPU from second to second in the long way."""

    fields: FieldCall
    gpm: GpmCall
    rings: tuple[RingCall, RingCall, RingCall]
    processes: ProcessCall
    rates: Rates
    energy: Counter
    sieve: Sieve


class Brief:
    """One GPU's leave to be read in brief."""

    def __init__(self, index: int, handle: Any, parts: Parts) -> None:
        self.index = index
        self.handle = ctypes.c_void_p.from_param(ctypes.cast(handle, ctypes.c_void_p).value)
        """As a call takes it."""
        self.parts = parts
        self.base: GpuReading | None = None
        """The last reading in full; what is in brief differs from it only in what is new. `None`: not in brief."""
        self.kind: Kind | None = None
        self.most_mw = 0.0
        self.second: Second | None = None
        """The last one that was read in full, or that the herd gave back."""
        self.herd: Herd | None = None
        """The one that it is read with."""

    def learn(self, base: GpuReading, most_mw: float, monotonic: float) -> None:
        """Reading it in full found nothing wrong, and said `base`."""
        parts, self.base = self.parts, None
        fields, count = parts.fields.usual(), parts.energy.last()[0]
        if fields is None or count is None or self.second is None or parts.processes.draws:
            return
        first, second, third = (ring.room if ring.is_offered(monotonic) else 0 for ring in parts.rings)
        compute = parts.processes.compute
        self.base, self.most_mw = base, most_mw
        self.kind = Kind(
            fields=fields,
            rooms=(first, second, third),
            gpm=parts.gpm.is_ready(monotonic),
            processes=compute.capacity if compute.is_offered(monotonic) else 0,
            use=compute.is_offered(monotonic) and parts.processes.use.is_offered(monotonic),
        )

    def forget(self) -> None:
        """Reading it in full found something wrong."""
        self.base = None

    def give_back(self) -> None:
        """It is to be read in full: what the herd knows of its GPUs they get back."""
        if self.herd is not None:
            self.herd.dissolve()
