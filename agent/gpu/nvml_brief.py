"""A GPU read in brief: what a second brings while all is as it was and as it should be. A part of the door to `pynvml`.

Whatever is out of the ordinary (a call that fails, a value that cannot be, a counter that fell, another driver's types)
ends it before anything was remembered; `nvml_device` then asks the long way, and says what each value is worth.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from operator import and_, call, le
from typing import Any

import msgspec

from agent.api.types import GpuProcess, GpuReading
from agent.gpu import sieve
from agent.gpu.frames import Renewal
from agent.gpu.nvml_desk import Desk, Desks, Kind
from agent.gpu.nvml_fields import OFTEN, FieldCall
from agent.gpu.nvml_glance import throttled_percent
from agent.gpu.nvml_gpm import NO_SHARES, GpmCall, Shares, usual_shares
from agent.gpu.nvml_plain import PLAIN_VALUES
from agent.gpu.nvml_processes import PROCESS, ProcessCall
from agent.gpu.nvml_rings import RingCall, Spread
from agent.gpu.nvml_words import throttle_of
from agent.gpu.sieve import Counter, Rates, Sieve

SPREAD_NAMES = ("power_mw", "utilization_percent", "memory_utilization_percent")
"""Of the rings, in the order of `nvml_desk.RINGS`."""
_MOST = (sieve.PERCENT, sieve.PERCENT, sieve.TEMPERATURE_C, sieve.CLOCK_MHZ, sieve.CLOCK_MHZ)
_NO_NEWS: dict[str, Spread] = {}


class Second(msgspec.Struct):
    """What was read at one moment of what is read once a second."""

    at: float
    fields: Any
    """As `nvml_fields.OFTEN`."""
    rates: Any
    """Of the counters among them."""
    spreads: dict[str, Spread]
    shares: Shares
    processes: tuple[GpuProcess, ...]


@dataclass(slots=True, kw_only=True)
class Parts:
    """What remembers something of one GPU from second to second; shared with the long way."""

    fields: FieldCall
    gpm: GpmCall
    rings: tuple[RingCall, RingCall, RingCall]
    processes: ProcessCall
    rates: Rates
    energy: Counter
    sieve: Sieve


class Brief:
    """One GPU's way in brief."""

    def __init__(self, handle: Any, parts: Parts, desks: Desks) -> None:
        self._handle = ctypes.cast(handle, ctypes.c_void_p).value or 0
        self._parts = parts
        self._desks = desks
        self._kind: Kind | None = None
        self._most_mw = 0.0
        self._most: tuple[float, ...] = ()
        self._base: GpuReading | None = None

    def learn(self, base: GpuReading, most_mw: float, monotonic: float) -> None:
        """The long way found nothing wrong, and said `base`: what is in brief differs from that only in what is new."""
        parts = self._parts
        fields = parts.fields.usual()
        if fields is None or base.memory_total_bytes is None or base.memory_reserved_bytes is None:
            self.forget()
            return
        first, second, third = (ring.room if ring.is_offered(monotonic) else 0 for ring in parts.rings)
        compute = parts.processes.compute
        kind = Kind(
            fields=fields,
            rooms=(first, second, third),
            gpm=parts.gpm.is_offered(monotonic),
            processes=compute.capacity if compute.is_offered(monotonic) else 0,
        )
        self._kind = self._kind if self._kind == kind else kind
        self._base, self._most_mw = base, most_mw
        self._most = (base.memory_total_bytes, most_mw, *_MOST)

    def forget(self) -> None:
        """Something is not as it should be."""
        self._base = None

    def plain(self, now: float, monotonic: float, second: Second) -> Renewal | None:
        """What is read more often than each second; `None`: read it the long way."""
        if self._base is None or self._kind is None:
            return None
        desk = self._desks.of(self._kind)
        desk.handle.value = self._handle
        if any(map(call, desk.plain_row)):
            return None
        plain = desk.plain_values(desk.buffer)
        if not self._can_be(plain, monotonic):
            return None
        return self._renewal(now, monotonic, plain, second, _NO_NEWS)

    def whole(self, now: float, monotonic: float) -> tuple[Renewal, Second] | None:
        """All that a second brings; `None`: read it the long way."""
        kind, parts = self._kind, self._parts
        if self._base is None or kind is None:
            return None
        samples = None
        if kind.gpm and (samples := parts.gpm.pair(monotonic)) is None:
            return None
        desk = self._desks.of(kind)
        power, load, memory = parts.rings
        desk.lay_out(self._handle, (power.since, load.since, memory.since), samples)
        codes = list(map(call, desk.row))
        if any(codes[: desk.musts]):
            return None
        flat = desk.values(desk.buffer)
        found = _fields(kind, flat)
        if found is None or not self._can_be(flat, monotonic):
            return None
        rates = parts.rates.peek(found[1:], monotonic)
        shares = usual_shares(flat[-8:]) if kind.gpm else NO_SHARES
        if rates is None or shares is None:
            return None
        parts.rates.remember(found[1:], monotonic)
        if kind.gpm:
            parts.gpm.took(monotonic)
        told_at = PLAIN_VALUES + 2 * len(kind.fields.asked)
        second = Second(
            at=monotonic,
            fields=found,
            rates=rates,
            spreads=self._spreads(desk, codes, flat[told_at : told_at + 3], monotonic),
            shares=shares,
            processes=self._processes(desk, flat[told_at + 3], now, monotonic),
        )
        return self._renewal(now, monotonic, flat, second, second.spreads), second

    def _can_be(self, flat: tuple[Any, ...], monotonic: float) -> bool:
        """Whether the plain values can be, and those that seldom change did not."""
        total, reserved, _, used, energy_mj, _, busy, memory_busy, power_mw, celsius, sm_mhz, memory_mhz = flat[
            :PLAIN_VALUES
        ]
        base = self._base
        assert base is not None
        return (
            total == base.memory_total_bytes
            and reserved == base.memory_reserved_bytes
            and all(map(le, (used, power_mw, busy, memory_busy, celsius, sm_mhz, memory_mhz), self._most))
            and self._parts.energy.can_be(energy_mj, monotonic, self._most_mw)
        )

    def _spreads(self, desk: Desk, codes: list[int], told: tuple[int, ...], monotonic: float) -> dict[str, Spread]:
        found = {}
        for code, (place, _, samples) in zip(codes[desk.musts :], desk.rings, strict=True):
            most = self._most[place + 1]  # of power, load, load of memory
            ring = self._parts.rings[place]
            if spread := ring.fold(code, told[place], samples, monotonic, self._parts.sieve, most):
                found[SPREAD_NAMES[place]] = spread
        return found

    def _processes(self, desk: Desk, count: int, now: float, monotonic: float) -> tuple[GpuProcess, ...]:
        rows = desk.processes[: count * PROCESS.size].tobytes() if desk.kind.processes else b""
        return self._parts.processes.renew(rows, now, monotonic, self._parts.sieve)

    def _renewal(
        self, now: float, monotonic: float, flat: tuple[Any, ...], second: Second, spreads: dict[str, Spread]
    ) -> Renewal:
        _, _, free, used, energy_mj, reasons, busy, memory_busy, power_mw, celsius, sm_mhz, memory_mhz = flat[
            :PLAIN_VALUES
        ]
        base = self._base
        assert base is not None
        self._parts.energy.remember(energy_mj, monotonic)
        throttle = throttle_of(reasons)
        pcie_rx, pcie_tx, nvlink_rx, nvlink_tx, power_rate, heat_rate = second.rates
        fields = second.fields
        values = (
            now,
            used,
            free,
            busy,
            power_mw,
            celsius,
            fields[0] or None,
            sm_mhz,
            memory_mhz,
            memory_busy,
            base.encoder_percent,
            base.decoder_percent,
            throttle,
            throttled_percent(fields[5], fields[6], power_rate, heat_rate, throttle),
            pcie_rx,
            pcie_tx,
            nvlink_rx,
            nvlink_tx,
            *second.shares,
            spreads,
            energy_mj,
            self._parts.sieve.dropped,
        )
        return Renewal(base, monotonic, second.processes, values)


def _fields(kind: Kind, flat: tuple[Any, ...]) -> list[int | None] | None:
    """The fields as `OFTEN`; `None` if one did not come as it uses to, or its memory is too hot to be true."""
    usual = kind.fields
    end = PLAIN_VALUES + 2 * len(usual.asked)
    if flat[PLAIN_VALUES:end:2] != usual.heads:
        return None
    values: list[int | None] = list(map(and_, flat[PLAIN_VALUES + 1 : end : 2], usual.masks))
    if len(values) < len(OFTEN):
        one = dict(zip((number for number, _ in usual.asked), values, strict=True))
        values = [one.get(number) for number in OFTEN]
    return values if (values[0] or 0) <= sieve.TEMPERATURE_C else None
