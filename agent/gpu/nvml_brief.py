"""GPUs read in brief: what a second brings while all is as it was and as it should be. A part of the door to `pynvml`.

    Brief.ask     one GPU's calls, in the thread that reads it, and its answers as numbers
    nvml_herd     the answers of all GPUs side by side: each value of eight GPUs is one tuple, looked at once

Whatever is out of the ordinary (a call that fails, a value that cannot be, a counter that fell, another driver's types)
sends that GPU back to the long way, `nvml_device`, with what was remembered of it untouched; there it is asked again,
and told what each of its values is worth.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from operator import call
from typing import Any

import msgspec
import pynvml

from agent.api.types import GpuProcess, GpuReading
from agent.gpu import sieve
from agent.gpu.nvml_desk import Desk, Desks, Kind
from agent.gpu.nvml_fields import FieldCall
from agent.gpu.nvml_gpm import GpmCall, Shares
from agent.gpu.nvml_processes import PROCESS, ProcessCall
from agent.gpu.nvml_rings import SILENT_S, RingCall, Spread, news_of, spread_of
from agent.gpu.sieve import Counter, Rates, Sieve

SECOND_S = 0.9
"""How often counters, rings, GPM and processes are read where `gpu.period_s` is less: each second, with some play."""
REST_S = 10.0
"""After something out of the ordinary a GPU is read the long way for so long."""
SPREAD_NAMES = ("power_mw", "utilization_percent", "memory_utilization_percent")
"""Of the rings, in the order of `nvml_desk.RINGS`."""
_QUIET = (0, pynvml.NVML_ERROR_NOT_FOUND)
_NO_NEWS: dict[str, Spread] = {}


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


class Asked:
    """What one GPU answered, not yet looked at."""

    __slots__ = ("at", "brief", "flat", "now", "processes", "spreads", "whole")

    def __init__(self, brief: Brief, now: float, at: float, flat: tuple[Any, ...], *, whole: bool) -> None:
        """`whole`: with what is read once a second."""
        self.brief, self.now, self.at, self.flat, self.whole = brief, now, at, flat, whole
        self.spreads = _NO_NEWS
        self.processes: tuple[GpuProcess, ...] = ()


class Brief:
    """One GPU's way in brief. Used by one thread at a time."""

    def __init__(self, handle: Any, parts: Parts, desks: Desks) -> None:
        self._handle = ctypes.cast(handle, ctypes.c_void_p).value or 0
        self._desks = desks
        self.parts = parts
        self.base: GpuReading | None = None
        """What is in brief differs from it only in what is new; `None` where the long way is to be gone."""
        self.kind: Kind | None = None
        self.most_mw = 0.0
        self.second: Second | None = None
        """The last one that was read the long way, or that a herd gave back."""
        self.second_at = 0.0
        """Of the last one at all."""
        self._rest_until = 0.0
        self._since = self._since_before = [0, 0, 0]
        """The newest sample seen of each ring, and that before the last question."""
        self._heard_at = [0.0, 0.0, 0.0]

    def learn(self, base: GpuReading, most_mw: float, monotonic: float) -> None:
        """The long way found nothing wrong, and said `base`."""
        parts, self.base = self.parts, None
        fields = parts.fields.usual()
        if fields is None or monotonic < self._rest_until or self.second is None:
            return
        first, second, third = (ring.room if ring.is_offered(monotonic) else 0 for ring in parts.rings)
        compute = parts.processes.compute
        kind = Kind(
            fields=fields,
            rooms=(first, second, third),
            gpm=parts.gpm.is_offered(monotonic),
            processes=compute.capacity if compute.is_offered(monotonic) else 0,
        )
        self.kind = self._desks.known(kind)
        self.base, self.most_mw, self.second_at = base, most_mw, self.second.at
        self._since = self._since_before = [ring.since for ring in parts.rings]
        self._heard_at = [ring.heard_at for ring in parts.rings]

    def forget(self) -> None:
        """The long way found something wrong."""
        self.base = None

    def ask(self, now: float, monotonic: float) -> Asked | None:
        """Make the calls; `None`: it is to be read the long way.

        Raises:
            GpuLostError: the GPU cannot be asked who uses it.
            DriverGoneError: none can.
        """
        kind = self.kind
        if self.base is None or kind is None or monotonic < self.second_at:
            return None
        desk = self._desks.of(kind)
        if monotonic - self.second_at < SECOND_S:
            desk.handle.value = self._handle
            if any(map(call, desk.plain_row)):
                return None
            return Asked(self, now, monotonic, desk.plain_values(desk.buffer), whole=False)
        gpm, samples = self.parts.gpm, None
        if kind.gpm and (samples := gpm.pair(monotonic)) is None:
            return None
        desk.lay_out(self._handle, self._since, samples)
        codes = list(map(call, desk.row))
        if any(codes[: desk.musts]):
            return None
        asked = Asked(self, now, monotonic, desk.values(desk.buffer), whole=True)
        if desk.rings and not self._take_rings(desk, codes, asked):
            return None
        if kind.gpm:
            gpm.took(monotonic)
        rows = desk.processes[: asked.flat[desk.count_place] * PROCESS.size].tobytes() if kind.processes else b""
        asked.processes = self.parts.processes.renew(rows, now, monotonic, self.parts.sieve)
        return asked

    def send_back(self, asked: Asked) -> None:
        """Its answer is not as it should be: nothing is remembered of it, and the long way is gone for a while."""
        if asked.whole:
            self._since = self._since_before
            if asked.brief.kind is not None and asked.brief.kind.gpm:
                self.parts.gpm.undo(self.second_at)
        self.base = None
        self._rest_until = asked.at + REST_S

    def settle(self, energy_mj: int, energy_at: float, second: Second) -> None:
        """It leaves a herd: the long way goes on from there."""
        parts = self.parts
        parts.rates.remember(second.fields[1:], second.at)
        parts.energy.remember(energy_mj, energy_at)
        for ring, since, heard_at in zip(parts.rings, self._since, self._heard_at, strict=True):
            ring.resume(since, heard_at)
        self.second = second

    def _take_rings(self, desk: Desk, codes: list[int], asked: Asked) -> bool:
        """Fold what is new in the driver's rings; `False` if one is not as it should be."""
        spreads, since = {}, self._since.copy()
        for code, (place, _, samples) in zip(codes[desk.musts :], desk.rings, strict=True):
            values: Sequence[float] = ()
            if code == 0:
                told = asked.flat[desk.told_place + place]
                values, newest = news_of(told, desk.kind.rooms[place], samples, since[place] or None)
                since[place] = newest or 0
            elif code not in _QUIET:
                return False
            if values:
                self._heard_at[place] = asked.at
                most = sieve.PERCENT if place else self.most_mw
                if spread := spread_of(values, self.parts.sieve, most):
                    spreads[SPREAD_NAMES[place]] = spread
            elif asked.at - self._heard_at[place] > SILENT_S or since[place] != self._since[place]:
                return False
        self._since_before, self._since, asked.spreads = self._since, since, spreads
        return True
