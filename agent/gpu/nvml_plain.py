"""Which plain questions are asked each second, and what of nvml.h's structures is wanted. A part of the door to
`pynvml`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pynvml

from agent.gpu.nvml_batch import Question
from agent.gpu.nvml_call import function_of

MEMORY = 0
"""Place of the question for memory: what every board answers."""

PLAIN_VALUES = 12


def plain_questions(library: ctypes.CDLL, handle: Any) -> tuple[Question, ...]:
    """Values in this order: total, reserved (not of old drivers), free, used, energy, reasons, load, memory load,
    power, temperature, SM clock, memory clock.
    """
    return (
        _memory(library, handle),
        _one(library, handle, "nvmlDeviceGetTotalEnergyConsumption", value="energy_mj", layout="Q"),
        _reasons(library, handle),
        _load(library, handle, "II", "utilization_percent", "memory_utilization_percent"),
        _one(library, handle, "nvmlDeviceGetPowerUsage", value="power_mw"),
        _one(library, handle, "nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU, value="temperature_c"),
        _one(library, handle, "nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM, value="sm_clock_mhz"),
        _one(library, handle, "nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM, value="memory_clock_mhz"),
    )


def glance_questions(library: ctypes.CDLL, handle: Any) -> tuple[Question, ...]:
    """What may be asked ten times a second: power, load, reasons of throttling."""
    return (
        _one(library, handle, "nvmlDeviceGetPowerUsage", value="power_mw"),
        _load(library, handle, "I4x", "utilization_percent"),
        _reasons(library, handle),
    )


def _one(library: ctypes.CDLL, handle: Any, name: str, *selector: int, value: str, layout: str = "I") -> Question:
    return Question(function=function_of(library, name), args=(handle, *selector), layout=layout, names=(value,))


def _load(library: ctypes.CDLL, handle: Any, layout: str, *names: str) -> Question:
    function = function_of(library, "nvmlDeviceGetUtilizationRates")
    return Question(function=function, args=(handle,), layout=layout, names=names)


def _reasons(library: ctypes.CDLL, handle: Any) -> Question:
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    return Question(function=function_of(library, *names), args=(handle,), layout="Q", names=("throttle",))


_MEMORY_NAMES = ("memory_total_bytes", "memory_reserved_bytes", "memory_free_bytes", "memory_used_bytes")


def _memory(library: ctypes.CDLL, handle: Any) -> Question:
    """Bytes as `nvidia-smi` shows them: used is without what the driver reserves, where it can tell (R510)."""
    if hasattr(library, "nvmlDeviceGetMemoryInfo_v2"):
        return Question(
            function=library.nvmlDeviceGetMemoryInfo_v2,
            args=(handle,),
            layout="8xQQQQ",
            start=pynvml.nvmlMemory_v2.to_bytes(4, sys.byteorder),
            names=_MEMORY_NAMES,
        )
    return Question(
        function=function_of(library, "nvmlDeviceGetMemoryInfo"),
        args=(handle,),
        layout="QQQ",
        names=tuple(name for name in _MEMORY_NAMES if name != "memory_reserved_bytes"),
    )
