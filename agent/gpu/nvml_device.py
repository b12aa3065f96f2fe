"""One GPU and its MIG instances with all their calls prepared. A part of the door to `pynvml`.

each reading   memory, load, power, energy, temperature, clocks, throttle reasons
each second    counters, the driver's rings, GPM, processes; memory temperature
every 10 s     MIG mode, power limit, fan, P-state, idle encoder and decoder, errors, the state of its links;
                   every minute what speaks against it
each hour      limits
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Sequence
from operator import le
from typing import Any

import msgspec
import pynvml

from agent.api.types import GpuReading
from agent.gpu import sieve
from agent.gpu.base import GpuLostError
from agent.gpu.frames import SPREAD_NAMES
from agent.gpu.nvml_batch import Batch
from agent.gpu.nvml_brief import SECOND_S, Brief, Parts, Second
from agent.gpu.nvml_call import text_of, words
from agent.gpu.nvml_facts import Facts, mig_handles
from agent.gpu.nvml_fields import FieldCall
from agent.gpu.nvml_glance import Glances, fold, throttled_percent
from agent.gpu.nvml_gpm import GPM_NAMES, GpmCall
from agent.gpu.nvml_instance import MigInstance
from agent.gpu.nvml_links import LinkSurvey
from agent.gpu.nvml_plain import MEMORY, PLAIN_VALUES, plain_questions
from agent.gpu.nvml_processes import ProcessCall
from agent.gpu.nvml_rings import RingCall, Spread
from agent.gpu.nvml_seldom import Seldom
from agent.gpu.nvml_sweep import RINGS
from agent.gpu.nvml_words import FIELD_NAMES, throttle_of
from agent.gpu.sieve import Rates, Sieve

_NO_SPREADS: dict[str, Spread] = {}
_THROTTLED_NS = 1.5e9
"""A second in a second; and the driver counts it in steps of 0.1 s, one more of which may fall into this second."""
_PERCENTS = (sieve.PERCENT, sieve.PERCENT)
_MOST_ELSE = (sieve.TEMPERATURE_C, sieve.TEMPERATURE_C, sieve.CLOCK_MHZ, sieve.CLOCK_MHZ)
"""The most that values can be, in the order of `_NAMES`; how much memory and power, each GPU knows."""
_RATES = ("pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s", "nvlink_rx_bytes_per_s", "nvlink_tx_bytes_per_s")
RATE_MOST = (*[sieve.PCIE_BYTES_PER_S] * 2, *[sieve.NVLINK_BYTES_PER_S] * 2, *[_THROTTLED_NS] * 2)
RATE_UNITS = (1, 1, 1024, 1024, 1, 1)
_NAMES = (
    "memory_used_bytes",
    "utilization_percent",
    "memory_utilization_percent",
    "power_mw",
    "temperature_c",
    "memory_temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
)
_MEMORY_CELSIUS = _NAMES.index("memory_temperature_c")
"""0 is said for memory that has no sensor."""


class Device:
    """One GPU. Used by one thread at a time."""

    def __init__(self, index: int, facts: Facts, handle: Any, library: ctypes.CDLL, survey: LinkSurvey) -> None:
        self.index = index
        self.facts = facts
        self._pci = None if facts.pci is None else "{:04x}:{:02x}:{:02x}".format(*facts.pci)
        self.handle = handle
        self.library = library
        self._survey = survey
        self._sieve = Sieve()
        self._plain = Batch(index, plain_questions(library, handle))
        self._glances = Glances(index, library, handle)
        self._fields = FieldCall(index, library, handle)
        self._gpm = GpmCall(index, library, handle)
        power, load, memory = (RingCall(index, library, handle, ring) for ring in RINGS)
        self._rings = (power, load, memory)
        self._processes = ProcessCall(index, library, handle)
        self._rates = Rates(RATE_MOST, RATE_UNITS)
        self._energy = sieve.Counter()
        self._seldom = Seldom(index, handle, library, self._fields, self._sieve)
        parts = Parts(
            fields=self._fields,
            gpm=self._gpm,
            rings=self._rings,
            processes=self._processes,
            rates=self._rates,
            energy=self._energy,
            sieve=self._sieve,
        )
        self.brief = Brief(index, handle, parts)
        self._surveyed = 0
        self._divided = False
        self._instances: dict[str, MigInstance] = {}
        self._last: GpuReading | None = None

    def read(self, now: float, monotonic: float) -> GpuReading:
        """All values; raises as `GpuReader.read`."""
        self.brief.give_back()
        surveyed = self._survey.changes
        plain = self._plain.ask(monotonic)
        if len(plain) < PLAIN_VALUES:
            plain = (plain[0], None, *plain[1:])  # an old driver does not tell what it reserves
        total, reserved, free, used, energy_mj, reasons, busy, memory_busy, power_mw, celsius, sm_mhz, memory_mhz = (
            plain
        )
        sieve_ = self._sieve
        dropped = sieve_.dropped
        second, spreads = self.brief.second, _NO_SPREADS
        if second is None or not 0 <= monotonic - second.at < SECOND_S:
            second = self.brief.second = self._each_second(now, monotonic)
            spreads = second.spreads
        seldom = self._seldom
        most_mw = seldom.most_mw
        memory_celsius, *counts = second.fields
        pcie_rx_rate, pcie_tx_rate, nvlink_rx_rate, nvlink_tx_rate, power_rate, heat_rate = rates = second.rates
        power_ns, heat_ns = counts[4:]
        throttle = throttle_of(reasons)
        seen = self._glances.take(power_mw, busy, reasons)
        sm, occupancy, tensor, dram = second.shares
        values: tuple[Any, ...] = (used, busy, memory_busy, power_mw, celsius, memory_celsius, sm_mhz, memory_mhz)
        cannot_be: set[str] = set()
        most = (sieve.MEMORY_BYTES if total is None else total, *_PERCENTS, most_mw, *_MOST_ELSE)
        if not _is_usual(values, most):
            values = (*values[:_MEMORY_CELSIUS], memory_celsius or None, *values[_MEMORY_CELSIUS + 1 :])
            kept = sieve_.all(values, most)
            used, busy, memory_busy, power_mw, celsius, memory_celsius, sm_mhz, memory_mhz = kept
            cannot_be = {
                name
                for name, said, passed in zip(_NAMES, values, kept, strict=True)
                if said is not None and passed is None
            }
            if "memory_used_bytes" in cannot_be:  # and so cannot what is left beside it
                cannot_be.add("memory_free_bytes")
                free = None
        reading = GpuReading(
            index=self.index,
            uuid=self.facts.uuid,
            name=self.facts.name,
            sampled_at=now,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=free,
            memory_reserved_bytes=reserved,
            utilization_percent=busy,
            power_mw=power_mw,
            power_limit_mw=seldom.limit_mw,
            temperature_c=celsius,
            memory_temperature_c=memory_celsius,
            sm_clock_mhz=sm_mhz,
            memory_clock_mhz=memory_mhz,
            memory_utilization_percent=memory_busy,
            encoder_percent=seldom.coding[0],
            decoder_percent=seldom.coding[1],
            fan_percent=seldom.fan_percent,
            performance_state=seldom.p_state,
            throttle=throttle,
            throttled_us=seldom.throttled_us,
            throttled_percent=throttled_percent(power_ns, heat_ns, power_rate, heat_rate, throttle, seen),
            pcie_rx_bytes_per_s=pcie_rx_rate,
            pcie_tx_bytes_per_s=pcie_tx_rate,
            nvlink_rx_bytes_per_s=nvlink_rx_rate,
            nvlink_tx_bytes_per_s=nvlink_tx_rate,
            sm_active_percent=sm,
            sm_occupancy_percent=occupancy,
            tensor_active_percent=tensor,
            dram_active_percent=dram,
            spreads=fold(spreads, seen, most_mw, sieve_) if seen else spreads,
            energy_mj=self._energy.of(energy_mj, monotonic, most_mw, sieve_),
            errors=seldom.errors,
            bus=seldom.bus,
            limits=seldom.limits,
            numa_node=self.facts.numa_node,
            minor=self.facts.minor,
            pci=self._pci,
            divided=self._divided,
            ill=seldom.ill,
            links=self._survey.of(self.facts.uuid),
            processes=second.processes,
            dropped=sieve_.dropped,
        )
        if total is None and celsius is None:
            self._refuse_empty()
        if None in rates:
            rows = zip(_RATES, counts[:4], rates[:4], strict=True)
            cannot_be.update(name for name, count, rate in rows if rate is None and count is not None)
        if reading.energy_mj is None and energy_mj is not None:
            cannot_be.add("energy_mj")
        failing = self._plain.errors or self._fields.failed or self._gpm.error is not None
        if cannot_be or seldom.failed or failing or dropped != sieve_.dropped:
            reading = msgspec.structs.replace(reading, failed=self._failed(reading, cannot_be))
        self._last = reading
        unusual = (
            failing
            or cannot_be
            or dropped != sieve_.dropped
            or None in plain
            or seen
            or self._divided
            or any(seldom.coding)
        )
        self._surveyed = surveyed
        if unusual:
            self.brief.forget()
        else:
            self.brief.learn(reading, most_mw, monotonic)
        return reading

    def is_ready(self, monotonic: float) -> bool:
        """Whether it may be read in brief now, with no other question before."""
        return (
            self.brief.base is not None
            and not self._seldom.is_due(monotonic)
            and self._survey.changes == self._surveyed
            and not self._glances.seen
        )

    @property
    def ready_until(self) -> float:
        """When it will not be ready any more, if nothing else comes."""
        return self._seldom.due_at

    def check(self, monotonic: float) -> bool:
        """See `GpuReader.check`."""
        if self.brief.base is None or self._glances.seen:
            return False
        if self._survey.changes != self._surveyed:
            return False
        if not self._seldom.is_due(monotonic):
            return True
        return self._seldom.is_as_before(monotonic) and self._processes.nobody_draws(monotonic)

    def _each_second(self, now: float, monotonic: float) -> Second:
        """What is read once a second, however often the rest is."""
        found = self._look(monotonic)
        return Second(
            at=monotonic,
            fields=found,
            rates=self._rates.of(found[1:], monotonic, self._sieve),
            spreads=self._spreads(monotonic, self._seldom.most_mw),
            shares=self._gpm.get(monotonic, self._sieve),
            processes=self._processes.get(now, monotonic, self._sieve),
        )

    def _failed(self, reading: GpuReading, cannot_be: Collection[str]) -> tuple[str, ...]:
        """See `GpuReading.failed`."""
        names = {*cannot_be, *self._seldom.failed, *self._plain.failed()}
        names |= {FIELD_NAMES[number] for number in self._fields.failed if number in FIELD_NAMES}
        if self._gpm.error is not None:
            names.update(GPM_NAMES)
        return tuple(sorted(name for name in names if _is_absent(reading, name)))

    def glance(self, monotonic: float) -> None:
        """See `GpuReader.glance`."""
        self._glances.look(monotonic)

    def read_instances(self, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        """The MIG instances, right after `read`; one that was destroyed since the last check is left out."""
        if not self._instances or self._last is None:
            return ()
        found = (each.read(self._last, now, monotonic) for each in self._instances.values())
        known = tuple(reading for reading in found if reading is not None)
        if len(known) < len(self._instances):
            self._seldom.at = 0.0
        return known

    # --- what is not asked for each second ----------------------------------------------------------------------------

    def _look(self, monotonic: float) -> Sequence[int | None]:
        """The fields of each second, and what else is due."""
        seldom = self._seldom
        if not seldom.is_due(monotonic):
            return seldom.often(monotonic)
        found = seldom.read(monotonic)
        self._check_mig(seldom.mig_mode)
        return found

    def _check_mig(self, mode: int | None) -> None:
        """See whether the GPU is divided; an instance that is still there keeps its prepared calls."""
        self._divided = mode == pynvml.NVML_DEVICE_MIG_ENABLE
        self._instances = dict(self._find_instances()) if self._divided else {}

    def _find_instances(self) -> Iterator[tuple[str, MigInstance]]:
        for slot, handle in mig_handles(self.index, self.handle):
            if uuid := text_of(self.library.nvmlDeviceGetUUID, handle):
                known = self._instances.get(uuid)
                yield uuid, known or MigInstance(self.index, self.handle, slot, uuid, handle, self.library)

    def _spreads(self, monotonic: float, most_mw: float) -> dict[str, Spread]:
        """What the driver noted since the last reading."""
        found = {}
        for name, ring, most in zip(SPREAD_NAMES, self._rings, (most_mw, *_PERCENTS), strict=True):
            if spread := ring.get(monotonic, self._sieve, most):
                found[name] = spread
        return found

    def _refuse_empty(self) -> None:
        """A GPU about which the driver answers nothing but errors is not one to give to a job.

        Raises:
            GpuLostError: so it is.
        """
        if code := self._plain.errors.get(MEMORY):
            raise GpuLostError(f"the driver answers about GPU {self.index} only: {words(code)}; see dmesg for its Xid")


def _is_usual(values: tuple[Any, ...], most: tuple[float, ...]) -> bool:
    """Whether all values are there and can be; nearly always they are, and to look at each costs ten times as much."""
    return None not in values and all(map(le, values, most)) and values[_MEMORY_CELSIUS] > 0


def _is_absent(reading: GpuReading, name: str) -> bool:
    outer, _, inner = name.partition(".")
    value = getattr(reading, outer)
    return value is None or (bool(inner) and getattr(value, inner) is None)
