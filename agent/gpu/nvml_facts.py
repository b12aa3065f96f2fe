"""What is read of a GPU once or seldom: identity, limits, place in the machine, MIG instances.

A part of the door to `pynvml`. Every fact but the UUID is optional: a driver that does not offer one, or fails to say,
leaves it `None`.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from agent.api.types import GpuLimits
from agent.gpu.base import GpuLostError
from agent.gpu.nvml_call import UNSUPPORTED, raise_if_fatal, text_of

T = TypeVar("T")

PciPlace = tuple[int, int, int]
"""Domain, bus and device on PCI: what tells which GPU is at the other end of a link."""

NOT_OFFERED = UNSUPPORTED | {pynvml.NVML_ERROR_INVALID_ARGUMENT}
"""An older driver calls a newer selector an invalid argument."""
_PROFILE = re.compile(r"\bMIG ((?:\d+c\.)?\d+g\.\d+gb(?:\+\S+)?)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One GPU, as long as the driver is loaded."""

    uuid: str
    name: str
    minor: int | None
    numa_node: int | None
    pci: PciPlace | None


def read_facts(index: int, handle: Any, library: ctypes.CDLL, sysfs: Path) -> Facts:
    """NVML `nvmlDeviceGetUUID`, `…GetName`, `…GetMinorNumber`, `…GetPciInfo_v3`; sysfs for the NUMA node.

    Raises:
        GpuLostError: it does not tell its UUID.
    """
    uuid = text_of(library.nvmlDeviceGetUUID, handle)
    if not uuid:
        raise GpuLostError(f"the driver does not give the UUID of GPU {index}; see dmesg for its Xid")
    info = told(index, lambda: pynvml.nvmlDeviceGetPciInfo_v3(handle))
    pci = None if info is None else (int(info.domain), int(info.bus), int(info.device))
    return Facts(
        uuid=uuid,
        name=text_of(library.nvmlDeviceGetName, handle) or "unknown",
        minor=told(index, lambda: int(pynvml.nvmlDeviceGetMinorNumber(handle))),
        numa_node=None if pci is None else _numa_node(pci, sysfs),
        pci=pci,
    )


def mig_handles(index: int, handle: Any) -> Iterator[tuple[int, Any]]:
    """The MIG instances a GPU is divided into, with their slots. NVML `nvmlDeviceGetMigDeviceHandleByIndex`."""
    slots = told(index, lambda: int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0
    for slot in range(slots):
        found = told(index, lambda slot=slot: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))  # type: ignore[misc]
        if found is not None:
            yield slot, found


def mig_profile(index: int, name: str, handle: Any) -> str | None:
    """`1g.10gb`: the end of the instance's name, or put together from its attributes as `nvidia-smi -L` does."""
    if match := _PROFILE.search(name):
        return match.group(1)
    found = told(index, lambda: pynvml.nvmlDeviceGetAttributes_v2(handle))
    if found is None:
        return None
    compute, gpu = int(found.computeInstanceSliceCount), int(found.gpuInstanceSliceCount)
    part = f"{compute}c." if compute != gpu else ""
    return f"{part}{gpu}g.{math.ceil(found.memorySizeMB / 1024)}gb"


def mig_ids(index: int, handle: Any) -> tuple[int | None, int | None]:
    """Ids of an instance's GPU instance and compute instance, by which the driver names its capabilities.

    NVML `nvmlDeviceGetGpuInstanceId`, `nvmlDeviceGetComputeInstanceId`.
    """
    return (
        told(index, lambda: int(pynvml.nvmlDeviceGetGpuInstanceId(handle))),
        told(index, lambda: int(pynvml.nvmlDeviceGetComputeInstanceId(handle))),
    )


def read_limits(index: int, handle: Any) -> tuple[GpuLimits, frozenset[str]]:
    """What the board is built for and set to, and the names of what it failed to say; `nvidia-smi -q` shows it."""
    failed: set[str] = set()

    def ask(name: str, function: Callable[..., Any], *selector: int) -> Any:
        try:
            return function(handle, *selector)
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, index)
            if error.value not in NOT_OFFERED:
                failed.add(f"limits.{name}")
            return None

    threshold, clock = pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.nvmlDeviceGetMaxClockInfo
    asked: dict[str, tuple[Any, ...]] = {
        "power_default_mw": (pynvml.nvmlDeviceGetPowerManagementDefaultLimit,),
        "temperature_slowdown_c": (threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        "temperature_shutdown_c": (threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        "temperature_most_c": (threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX),
        "memory_temperature_most_c": (threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
        "sm_clock_max_mhz": (clock, pynvml.NVML_CLOCK_SM),
        "memory_clock_max_mhz": (clock, pynvml.NVML_CLOCK_MEM),
        "pcie_generation_max": (pynvml.nvmlDeviceGetMaxPcieLinkGeneration,),
        "pcie_width_max": (pynvml.nvmlDeviceGetMaxPcieLinkWidth,),
    }
    found = {name: ask(name, *question) for name, question in asked.items()}
    least, most = ask("power_least_mw", pynvml.nvmlDeviceGetPowerManagementLimitConstraints) or (None, None)
    if "limits.power_least_mw" in failed:
        failed.add("limits.power_most_mw")
    return GpuLimits(**found, power_least_mw=least, power_most_mw=most), frozenset(failed)


def told(index: int, ask: Callable[[], T]) -> T | None:
    """What a wrapper of the binding answers; `None` where the driver does not offer it or fails to say.

    Raises:
        GpuLostError: the GPU cannot be asked.
        DriverGoneError: the driver cannot.
    """
    try:
        return ask()
    except pynvml.NVMLError as error:
        raise_if_fatal(error.value, index)
        return None


def _numa_node(pci: PciPlace, sysfs: Path) -> int | None:
    """From sysfs: NVML's call is for boards that are NUMA nodes themselves. -1 there means that there is one node."""
    domain, bus, device = pci
    try:
        text = (sysfs / f"bus/pci/devices/{domain:04x}:{bus:02x}:{device:02x}.0/numa_node").read_text(encoding="ascii")
        return node if (node := int(text)) >= 0 else None
    except (OSError, ValueError):
        return None
