"""What is asked of one GPU every 10 s, what is judged each minute and what is asked each hour. A part of the door to
`pynvml`.

It hardly ever changes: then it is asked, compared with what was said before, and nothing is made of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import pynvml

from agent.api.types import GpuBus, GpuErrors, GpuLimits
from agent.gpu import nvml_fields as fields
from agent.gpu import sieve
from agent.gpu.health import CHECK_S, hints
from agent.gpu.nvml_call import FORGET_S, NUMBER, Aside, Call, function_of
from agent.gpu.nvml_facts import read_limits
from agent.gpu.nvml_fields import FieldCall
from agent.gpu.nvml_words import FIELD_NAMES, bus_of, errors_of
from agent.gpu.sieve import Sieve, refused

SELDOM_S = 10.0
"""How often a GPU is asked for its errors and links, whether it is divided, and into what."""
_NO_CODING = (0, 0)


class Seldom:
    """The questions to one GPU, and what it said last."""

    def __init__(self, index: int, handle: Any, library: ctypes.CDLL, field_call: FieldCall, own_sieve: Sieve) -> None:
        def call(name: str) -> Call:
            return Call(index, function_of(library, name), handle, layout=NUMBER)

        self._index, self._handle = index, handle
        self._fields, self._sieve = field_call, own_sieve
        self._encoder = Aside(index, library, "nvmlDeviceGetEncoderUtilization", handle)
        self._decoder = Aside(index, library, "nvmlDeviceGetDecoderUtilization", handle)
        self.named: dict[str, Call | Aside] = {
            "power_limit_mw": call("nvmlDeviceGetEnforcedPowerLimit"),
            "fan_percent": call("nvmlDeviceGetFanSpeed"),
            "performance_state": call("nvmlDeviceGetPerformanceState"),
            "bus.pcie_generation": call("nvmlDeviceGetCurrPcieLinkGeneration"),
            "bus.pcie_width": call("nvmlDeviceGetCurrPcieLinkWidth"),
            "encoder_percent": self._encoder,
            "decoder_percent": self._decoder,
        }
        # The buffer takes the mode after the next reset, which does not concern us.
        self.mig = Aside(index, library, "nvmlDeviceGetMigMode", handle)
        self._calls = (*self.named.values(), self.mig)
        self._said: tuple[int | None, ...] = ()
        """By those."""
        self.at = 0.0
        """When it is asked again; may be set, to have that earlier."""
        self.judge_at = 0.0
        """When it is judged again, in full where that says something new."""
        self._limits_at = 0.0
        self._limits_failed: frozenset[str] = frozenset()
        self._judged: GpuErrors | None = None
        self.mig_mode: int | None = None
        self.limit_mw: int | None = None
        self.most_mw = float(sieve.POWER_MW)
        """What power can be."""
        self.fan_percent: int | None = None
        self.p_state: int | None = None
        self.coding: tuple[int | None, int | None] = (None, None)
        """Load of encoder and decoder."""
        self.throttled_us: dict[str, int] = {}
        self.errors = GpuErrors()
        self.bus = GpuBus()
        self.limits = GpuLimits()
        self.ill: tuple[str, ...] = ()
        self.failed: frozenset[str] = frozenset()
        """Names of what was not said, though it is offered."""

    def is_due(self, monotonic: float) -> bool:
        """Whether it is to be asked, or judged."""
        return monotonic >= self.at or monotonic >= self.judge_at

    @property
    def due_at(self) -> float:
        """When it will be."""
        return min(self.at, self.judge_at)

    def is_as_before(self, monotonic: float) -> bool:
        """Ask: whether all is as it was, as it nearly always is, and judged as it was. Raises as `Call.ask`."""
        if monotonic >= self._limits_at or self._ask(monotonic) != self._said or not self._fields.still(monotonic):
            return False
        if monotonic >= self.judge_at:
            if hints(self._judged, self.errors) != self.ill:
                return False
            self.judge_at, self._judged = monotonic + CHECK_S, self.errors
        self.at = monotonic + SELDOM_S
        return True

    def often(self, monotonic: float) -> Sequence[int | None]:
        """Where it is not due, the fields of each second; encoder and decoder, which most nodes never use, while they
        are. Raises as `Call.ask`.
        """
        if self.coding != _NO_CODING:
            self.failed |= self._take_coding(self._encoder.number(monotonic), self._decoder.number(monotonic))
        return self._fields.often(monotonic)

    def read(self, monotonic: float) -> Sequence[int | None]:
        """Ask, and judge where that is due; the fields of each second. Raises as `Call.ask`."""
        self.at = monotonic + SELDOM_S
        said = self._said = self._ask(monotonic)
        self.limit_mw, fan, p_state, generation, width, encoder, decoder, self.mig_mode = said
        self.most_mw = float(sieve.POWER_MW) if self.limit_mw is None else sieve.POWER_LIMITS * float(self.limit_mw)
        self.fan_percent = self._sieve.whole(fan, sieve.FAN_PERCENT)
        self.p_state = _p_state(p_state)
        cannot_be = self._take_coding(encoder, decoder) | refused(fan_percent=(fan, self.fan_percent))
        found = self._fields.all(monotonic)
        names = fields.THROTTLED_NS.items()
        self.throttled_us = {name: found.one[number] // 1000 for number, name in names if number in found.one}
        failed = {FIELD_NAMES[number] for number in self._fields.failed if number in FIELD_NAMES}
        self.errors = errors_of(found)
        self.bus = bus_of(found, generation, width)
        if monotonic >= self.judge_at:
            self.judge_at = monotonic + CHECK_S
            self.ill, self._judged = hints(self._judged, self.errors), self.errors
        if monotonic >= self._limits_at:
            self._limits_at = monotonic + FORGET_S
            self.limits, self._limits_failed = read_limits(self._index, self._handle)
        failed.update(name for name, call in self.named.items() if call.error is not None)
        self.failed = frozenset(failed) | self._limits_failed | cannot_be
        return [found.one.get(number) for number in fields.OFTEN]

    def _ask(self, monotonic: float) -> tuple[int | None, ...]:
        """What has a call of its own."""
        return tuple([call.number(monotonic) for call in self._calls])

    def _take_coding(self, encoder: int | None, decoder: int | None) -> frozenset[str]:
        """Told is what cannot be."""
        kept = self.coding = (self._sieve.whole(encoder, sieve.PERCENT), self._sieve.whole(decoder, sieve.PERCENT))
        return refused(encoder_percent=(encoder, kept[0]), decoder_percent=(decoder, kept[1]))


def _p_state(number: int | None) -> int | None:
    """`NVML_PSTATE_UNKNOWN` is 32."""
    return None if number is None or number == pynvml.NVML_PSTATE_UNKNOWN else number
