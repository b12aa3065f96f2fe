"""Which plain questions are asked each second, and what of nvml.h's structures is wanted. A part of the door to `pynvml`."""

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
    """Values in this order: total, reserved (not of old drivers), free, used, energy, reasons, load, memory load, power, temperature, SM
    clock, memory clock.
    """

    def ask(name: str, *selector: int, value: str, layout: str = "I") -> Question:
        return Question(function=function_of(library, name), args=(handle, *selector), layout=layout, names=(value,))

    reasons = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    return (
        _memory(library, handle),
        ask("nvmlDeviceGetTotalEnergyConsumption", value="energy_mj", layout="Q"),
        Question(function=function_of(library, *reasons), args=(handle,), layout="Q", names=("throttle",)),
        Question(
            function=function_of(library, "nvmlDeviceGetUtilizationRates"),
            args=(handle,),
            layout="II",
            names=("utilization_percent", "memory_utilization_percent"),
        ),
        ask("nvmlDeviceGetPowerUsage", value="power_mw"),
        ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU, value="temperature_c"),
        ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM, value="sm_clock_mhz"),
        ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM, value="memory_clock_mhz"),
    )


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
