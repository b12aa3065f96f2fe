"""Real GPUs through NVML; with the modules `nvml_…` beside it the only door to `pynvml`, NVIDIA's own binding.

The binding starts the library, finds the devices and brings the structures and error words. What is read each second
goes past its wrappers, see `nvml_call`. A GPU in MIG mode is read as one, and each of its instances beside it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pynvml

from agent.api.types import GpuReading, GpuSource
from agent.gpu.base import DriverGoneError, GpuLostError, Inventory, NoGpusError
from agent.gpu.frames import GpuEvent
from agent.gpu.nvml_call import raise_if_fatal, text_of
from agent.gpu.nvml_device import RATE_MOST, RATE_UNITS, Device
from agent.gpu.nvml_events import EventEar
from agent.gpu.nvml_facts import read_facts
from agent.gpu.nvml_herd import Herd, alike
from agent.gpu.nvml_links import LinkSurvey

SONAME = "libnvidia-ml.so.1"
_SYSFS = Path("/sys")


class NvmlReader:
    """The GPUs that NVML shows, in `nvidia-smi`'s order."""

    source = GpuSource.NVML

    def __init__(self, library: str | None, *, sysfs: Path = _SYSFS) -> None:
        """`library` is the file to load where the loader would not find `libnvidia-ml.so.1`."""
        self._library = library
        self._sysfs = sysfs
        self._devices: dict[int, Device] = {}
        self._survey: LinkSurvey | None = None
        self._tell: Callable[[GpuEvent], None] | None = None
        self._ears: dict[int, EventEar] = {}
        self._lost: set[int] = set()
        """GPUs that were, when they were read last: of their event sets nothing may come any more."""
        self._herd: Herd | None = None
        self._glances = 0
        self._quiet = (0, 0)
        """Links found and glances made, when it was last looked at each GPU whether it is ready."""

    def open(self) -> Inventory:
        """See `GpuReader`. NVML `nvmlInitWithFlags`, `nvmlDeviceGetCount_v2`, `nvmlSystemGetDriverVersion`."""
        if self._library is not None:
            _preload(self._library)
        try:
            pynvml.nvmlInit()
            count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise _cannot_start(error) from error
        version = text_of(ctypes.CDLL(SONAME).nvmlSystemGetDriverVersion)
        if count == 0:
            pynvml.nvmlShutdown()  # so that the next attempt counts again
            raise NoGpusError(f"NVIDIA driver {version} runs but shows no GPU; see lspci -d 10de: and dmesg")
        self._survey = LinkSurvey(count)
        return Inventory(count=count, driver_version=version)

    def read(self, index: int, now: float, monotonic: float) -> GpuReading:
        """See `GpuReader`."""
        device = self._devices.get(index)
        if device is None:
            device = self._devices[index] = self._open_device(index)
        try:
            reading = device.read(now, monotonic)
        except GpuLostError:
            self._lost.add(index)
            raise
        if index in self._lost:
            self._lost.discard(index)
            self._listen_to(index, device.facts.uuid, device.handle)
        return reading

    def ready(self, indexes: Sequence[int], monotonic: float) -> list[int]:
        """See `GpuReader`."""
        herd, devices, survey = self._herd, self._devices, self._survey
        quiet = (0 if survey is None else survey.changes, self._glances)
        if herd is not None and herd.is_one and monotonic < herd.ready_until and quiet == self._quiet:
            return herd.indexes if herd.indexes == indexes else [index for index in indexes if index in herd.indexes]
        found = [index for index in indexes if index in devices and devices[index].is_ready(monotonic)]
        if herd is not None and found == herd.indexes:
            herd.ready_until, self._quiet = min(devices[index].ready_until for index in found), quiet
        return found

    def check(self, index: int, monotonic: float) -> bool:
        """See `GpuReader`."""
        device = self._devices.get(index)
        return device is not None and device.check(monotonic)

    def sweep(self, indexes: Sequence[int], now: float, monotonic: float) -> Herd | None:
        """See `GpuReader`."""
        herd = self._herd
        if herd is not None and herd.is_one and indexes is herd.indexes:
            return herd if herd.start(now, monotonic) else None
        indexes = sorted(indexes)
        briefs = alike([self._devices[index].brief for index in indexes])
        if herd is None or not herd.is_of(briefs):
            if herd is not None:
                herd.dissolve()
            herd = self._herd = Herd(ctypes.CDLL(SONAME), briefs, RATE_UNITS, RATE_MOST)
        return herd if herd.start(now, monotonic) else None

    def glance(self, index: int, monotonic: float) -> None:
        """See `GpuReader`; one that was never read is not looked at."""
        device = self._devices.get(index)
        if device is not None:
            self._glances += 1
            device.glance(monotonic)

    def instances(self, index: int, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        """See `GpuReader`."""
        return self._devices[index].read_instances(now, monotonic)

    def listen(self, tell: Callable[[GpuEvent], None]) -> None:
        """See `GpuReader`: each GPU is listened to from its first reading on."""
        self._tell = tell

    def hold(self, uuids: frozenset[str]) -> None:
        """See `GpuReader`; a real GPU is busy by itself."""

    def wait_links(self, timeout_s: float) -> None:
        """Return when the links of all GPUs read so far are known, or when the time is up."""
        if self._survey is not None:
            self._survey.wait(timeout_s)

    def _open_device(self, index: int) -> Device:
        assert self._survey is not None, "open() comes first"
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, index)
            raise GpuLostError(f"the driver does not open GPU {index}: {error}; see dmesg for its Xid") from error
        library = ctypes.CDLL(SONAME)
        facts = read_facts(index, handle, library, self._sysfs)
        self._survey.add(index, facts, handle)
        self._listen_to(index, facts.uuid, handle)
        return Device(index, facts, handle, library, self._survey)

    def _listen_to(self, index: int, uuid: str, handle: Any) -> None:
        """Hear what a GPU tells of, from a fresh event set."""
        if self._tell is None:
            return
        if (before := self._ears.get(index)) is not None:
            before.retire()
        ear = self._ears[index] = EventEar(index, uuid, handle, ctypes.CDLL(SONAME), self._tell)
        ear.start()


# --- opening ----------------------------------------------------------------------------------------------------------


def _preload(library: str) -> None:
    """Load the library by its path. The binding then asks for it by its name, which the loader finds already loaded.

    Raises:
        NoGpusError: it is no library.
    """
    try:
        ctypes.CDLL(library)
    except OSError as error:
        raise NoGpusError(f"gpu.library cannot be loaded: {error}; correct it, or remove it") from error


def _cannot_start(error: Any) -> NoGpusError:
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return NoGpusError(
            f"no NVIDIA driver: the loader finds no {SONAME}; install the driver, or name the file in gpu.library"
        )
    if error.value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return NoGpusError("the NVIDIA kernel module is not loaded; load it with: modprobe nvidia")
    if error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return DriverGoneError(
            "NVIDIA library and kernel module are of different versions; reboot to finish the driver's upgrade"
        )
    return NoGpusError(f"NVML does not start: {error}; see what nvidia-smi says on this node")
