"""Reads an `Inspection` through NVML. A part of the door to `pynvml`; once a second at most, so by its wrappers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pynvml

from agent.api.types import GpuErrors, GpuReading, GpuState
from agent.gpu.base import GpuLostError
from agent.gpu.inspection import GpuInspection, Inspection
from agent.gpu.nvml import NvmlReader
from agent.gpu.nvml_facts import PciPlace, told

LINKS_WAIT_S = 10.0
"""How long the first reading waits for the ways between the GPUs."""
_SYSFS = Path("/sys")
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
"""sysfs tells a link's speed in GT/s."""


@dataclass(slots=True)
class _Gpu:
    index: int
    handle: Any
    link: _Link
    fixed: dict[str, Any]
    """What does not change while this process runs."""
    last: GpuInspection | None = field(default=None)


class Inspector:
    """The GPUs that NVML shows."""

    def __init__(self, library: str | None, *, sysfs: Path = _SYSFS) -> None:
        self._reader = NvmlReader(library, sysfs=sysfs)
        self._sysfs = sysfs
        self._driver_version: str | None = None
        self._gpus: list[_Gpu] = []
        self._count = 0

    def open(self) -> None:
        """Find the GPUs. May block for ever.

        Raises:
            NoGpusError: there are none.
        """
        inventory = self._reader.open()
        self._count, self._driver_version = inventory.count, inventory.driver_version

    def read(self) -> Inspection:
        """All GPUs, one after the other. May block for ever.

        Raises:
            NoGpusError: the driver went away.
        """
        if not self._gpus:
            for index in range(self._count):
                self._read(index)
            self._reader.wait_links(LINKS_WAIT_S)
        gpus = tuple(self._read(index) for index in range(self._count))
        return Inspection(driver_version=self._driver_version, at=time.monotonic(), gpus=gpus)

    def _read(self, index: int) -> GpuInspection:
        try:
            reading = self._reader.read(index, time.time(), time.monotonic())
            gpu = self._gpu(index)
            gpu.last = GpuInspection(reading=reading, **gpu.fixed, **_changing(reading, gpu))
            return gpu.last
        except GpuLostError as error:
            return self._lost(index, str(error))

    def _gpu(self, index: int) -> _Gpu:
        known = next((each for each in self._gpus if each.index == index), None)
        if known is None:
            handle = told(index, lambda: pynvml.nvmlDeviceGetHandleByIndex(index))
            link = _link(index, handle, self._sysfs)
            known = _Gpu(index, handle, link, _fixed(index, handle, link))
            self._gpus.append(known)
        return known

    def _lost(self, index: int, why: str) -> GpuInspection:
        last = next((each.last for each in self._gpus if each.index == index), None)
        if last is not None:
            return msgspec.structs.replace(last, error=why)
        unread = GpuReading(
            index=index,
            uuid=f"unknown:{index}",
            name="unknown",
            state=GpuState.LOST,
            reason=why,
            sampled_at=time.time(),
        )
        return GpuInspection(reading=unread, error=why)


def _link(index: int, handle: Any, sysfs: Path) -> _Link:
    pci = told(index, lambda: pynvml.nvmlDeviceGetPciInfo_v3(handle))
    return _Link(None if pci is None else (int(pci.domain), int(pci.bus), int(pci.device)), sysfs)


def _fixed(index: int, handle: Any, link: _Link) -> dict[str, Any]:
    width = told(index, lambda: int(pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle)))
    generation = told(index, lambda: int(pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)))
    slowdown = pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    return {
        "serial": _text(told(index, lambda: pynvml.nvmlDeviceGetSerial(handle))),
        "vbios": _text(told(index, lambda: pynvml.nvmlDeviceGetVbiosVersion(handle))),
        "pcie_width_max": width if width is not None else link.width("max_link_width"),
        "pcie_generation_max": generation if generation is not None else link.generation("max_link_speed"),
        "slowdown_c": told(index, lambda: int(pynvml.nvmlDeviceGetTemperatureThreshold(handle, slowdown))),
    }


def _changing(reading: GpuReading, gpu: _Gpu) -> dict[str, Any]:
    index, handle, errors = gpu.index, gpu.handle, reading.errors or GpuErrors()
    width = told(index, lambda: int(pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle)))
    return {
        "pcie_width": width if width is not None else gpu.link.width("current_link_width"),
        "nvlinks": _nvlinks(index, handle),
        "throttle": told(index, lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        "ecc_corrected": _ecc(index, handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        "ecc_uncorrected": _ecc(index, handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        "rows_remapped": errors.rows_remapped_uncorrected,
        "remap_failed": bool(errors.remap_failed),
        "pcie_replays": errors.pcie_replays,
    }


def _ecc(index: int, handle: Any, kind: int) -> int | None:
    """`None` where ECC is off or there is none."""
    return told(index, lambda: int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC)))


def _nvlinks(index: int, handle: Any) -> int | None:
    """Links that are up; `None` where the GPU has none at all."""
    states = [
        told(index, lambda link=link: int(pynvml.nvmlDeviceGetNvLinkState(handle, link)))  # type: ignore[misc]
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS)
    ]
    known = [state for state in states if state is not None]
    return sum(known) if known else None


class _Link:
    """A PCIe link as sysfs tells it, for drivers that do not."""

    def __init__(self, pci: PciPlace | None, sysfs: Path) -> None:
        place = "none" if pci is None else f"{pci[0]:04x}:{pci[1]:02x}:{pci[2]:02x}.0"
        self._folder = sysfs / "bus/pci/devices" / place

    def width(self, name: str) -> int | None:
        """Lanes; 0 is what sysfs says of a link that is down or not known."""
        text = self._text(name)
        return int(text) or None if text.isdecimal() else None

    def generation(self, name: str) -> int | None:
        """`16.0 GT/s PCIe` is generation 4."""
        return _GENERATIONS.get(self._text(name).partition(" ")[0])

    def _text(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""


def _text(value: object) -> str | None:
    """Texts come as bytes from old versions of the binding."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None
