"""Real GPUs through NVML; with the modules `nvml_…` beside it the only door to `pynvml`, NVIDIA's own binding.

The binding starts the library, finds the devices and brings the structures and error words. What is read each second
goes past its wrappers, see `nvml_call`. A GPU in MIG mode is read as one, and each of its instances beside it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml

from agent.api.types import GpuReading, GpuSource
from agent.gpu.base import DriverGoneError, GpuLostError, Inventory, NoGpusError, mig_index
from agent.gpu.health import CHECK_S, Counters, hints
from agent.gpu.nvml_call import FORGET_S as FORGET_S
from agent.gpu.nvml_call import (
    LONG,
    NUMBER,
    PAIR,
    Call,
    ProcessCall,
    function_of,
    memory_call,
    plausible_percent,
    raise_if_fatal,
    text_of,
    words,
)
from agent.gpu.nvml_facts import Facts, mig_handles, mig_ids, mig_profile, read_counters, read_facts
from agent.gpu.nvml_links import LinkSurvey

SONAME = "libnvidia-ml.so.1"
MIG_CHECK_S = 10.0
"""How often a GPU is asked whether it is divided, and into what."""
_SYSFS = Path("/sys")


class NvmlReader:
    """The GPUs that NVML shows, in `nvidia-smi`'s order."""

    source = GpuSource.NVML

    def __init__(self, library: str | None, *, sysfs: Path = _SYSFS) -> None:
        """`library` is the file to load where the loader would not find `libnvidia-ml.so.1`."""
        self._library = library
        self._sysfs = sysfs
        self._devices: dict[int, _Device] = {}
        self._survey: LinkSurvey | None = None

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
        return device.read(now, monotonic)

    def instances(self, index: int, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        """See `GpuReader`."""
        return self._devices[index].read_instances(now, monotonic)

    def hold(self, uuids: frozenset[str]) -> None:
        """See `GpuReader`; a real GPU is busy by itself."""

    def wait_links(self, timeout_s: float) -> None:
        """Return when the links of all GPUs read so far are known, or when the time is up."""
        if self._survey is not None:
            self._survey.wait(timeout_s)

    def _open_device(self, index: int) -> _Device:
        assert self._survey is not None, "open() comes first"
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, index)
            raise GpuLostError(f"the driver does not open GPU {index}: {error}; see dmesg for its Xid") from error
        library = ctypes.CDLL(SONAME)
        facts = read_facts(index, handle, library, self._sysfs)
        self._survey.add(index, facts, handle)
        return _Device(index, facts, handle, library, self._survey)


class _Device:
    """One GPU with its calls prepared. Used by one thread at a time."""

    def __init__(self, index: int, facts: Facts, handle: Any, library: ctypes.CDLL, survey: LinkSurvey) -> None:
        def call(name: str, *selector: int, layout: struct.Struct = NUMBER) -> Call:
            return Call(index, function_of(library, name), handle, *selector, layout=layout)

        self._index = index
        self._facts = facts
        self._handle = handle
        self._library = library
        self._survey = survey
        self._memory = memory_call(index, library, handle)
        self._utilization = call("nvmlDeviceGetUtilizationRates", layout=PAIR)
        self._power_mw = call("nvmlDeviceGetPowerUsage")
        self._power_limit_mw = call("nvmlDeviceGetEnforcedPowerLimit")
        self._temperature_c = call("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)
        self._sm_clock_mhz = call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM)
        self._memory_clock_mhz = call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM)
        self._energy_mj = call("nvmlDeviceGetTotalEnergyConsumption", layout=LONG)
        self._processes = ProcessCall(index, library, handle)
        self._mig_now = ctypes.c_uint()
        # The buffer takes the mode after the next reset, which does not concern us.
        self._mig_mode = Call(
            index, function_of(library, "nvmlDeviceGetMigMode"), handle, ctypes.byref(self._mig_now), layout=NUMBER
        )
        self._divided = False
        self._instances: dict[str, _Instance] = {}
        self._mig_check_at = 0.0
        self._counters: Counters | None = None
        self._ill: tuple[str, ...] = ()
        self._health_check_at = 0.0
        self._last: GpuReading | None = None

    def read(self, now: float, monotonic: float) -> GpuReading:
        """All values; raises as `GpuReader.read`."""
        if monotonic >= self._mig_check_at:
            self._check_mig(monotonic)
        if monotonic >= self._health_check_at:
            self._check_health(monotonic)
        total, used = self._memory.get(monotonic) or (None, None)
        busy, memory_busy = self._utilization.get(monotonic) or (None, None)
        reading = GpuReading(
            index=self._index,
            uuid=self._facts.uuid,
            name=self._facts.name,
            sampled_at=now,
            memory_total_bytes=total,
            memory_used_bytes=used,
            utilization_percent=plausible_percent(busy),
            power_mw=self._power_mw.number(monotonic),
            power_limit_mw=self._power_limit_mw.number(monotonic),
            temperature_c=self._temperature_c.number(monotonic),
            sm_clock_mhz=self._sm_clock_mhz.number(monotonic),
            memory_clock_mhz=self._memory_clock_mhz.number(monotonic),
            memory_utilization_percent=plausible_percent(memory_busy),
            energy_mj=self._energy_mj.number(monotonic),
            numa_node=self._facts.numa_node,
            minor=self._facts.minor,
            pci=None if self._facts.pci is None else "{:04x}:{:02x}:{:02x}".format(*self._facts.pci),
            divided=self._divided,
            ill=self._ill,
            links=self._survey.of(self._facts.uuid),
            processes=self._processes.get(monotonic),
        )
        self._refuse_empty(reading)
        self._last = reading
        return reading

    def read_instances(self, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        """The MIG instances, right after `read`; one that was destroyed since the last check is left out."""
        if not self._instances or self._last is None:
            return ()
        found = (each.read(self._last, now, monotonic) for each in self._instances.values())
        known = tuple(reading for reading in found if reading is not None)
        if len(known) < len(self._instances):
            self._mig_check_at = 0.0
        return known

    def _check_health(self, monotonic: float) -> None:
        """Look for what speaks against the GPU."""
        self._health_check_at = monotonic + CHECK_S
        before, self._counters = self._counters, read_counters(self._index, self._handle)
        self._ill = hints(before, self._counters)

    def _check_mig(self, monotonic: float) -> None:
        """See whether the GPU is divided; an instance that is still there keeps its prepared calls."""
        self._mig_check_at = monotonic + MIG_CHECK_S
        self._divided = self._mig_mode.ask(monotonic) and self._mig_now.value == pynvml.NVML_DEVICE_MIG_ENABLE
        self._instances = dict(self._find_instances()) if self._divided else {}

    def _find_instances(self) -> Iterator[tuple[str, _Instance]]:
        for slot, handle in mig_handles(self._index, self._handle):
            if uuid := text_of(self._library.nvmlDeviceGetUUID, handle):
                yield uuid, self._instances.get(uuid) or _Instance(self._index, slot, uuid, handle, self._library)

    def _refuse_empty(self, reading: GpuReading) -> None:
        """A GPU about which the driver answers nothing but errors is not one to give to a job.

        Raises:
            GpuLostError: so it is.
        """
        if reading.memory_total_bytes is None and reading.temperature_c is None and self._memory.error is not None:
            raise GpuLostError(
                f"the driver answers about GPU {self._index} only: {words(self._memory.error)}; see dmesg for its Xid"
            )


class _Instance:
    """One MIG instance. NVML gives it memory and processes; what the silicon shares is its GPU's."""

    def __init__(self, parent: int, slot: int, uuid: str, handle: Any, library: ctypes.CDLL) -> None:
        self._index = mig_index(parent, slot)
        self._uuid = uuid
        self._name = text_of(library.nvmlDeviceGetName, handle) or "MIG"
        self._profile = mig_profile(parent, self._name, handle)
        self._gi, self._ci = mig_ids(parent, handle)
        self._memory = memory_call(parent, library, handle)
        self._processes = ProcessCall(parent, library, handle)

    def read(self, parent: GpuReading, now: float, monotonic: float) -> GpuReading | None:
        """All values; `None` if it is no longer there. Power and utilisation of a part are nowhere to be had in NVML.

        Raises:
            DriverGoneError: see `GpuReader.read`.
        """
        try:
            memory = self._memory.get(monotonic)
            processes = self._processes.get(monotonic)
        except GpuLostError:  # its GPU answered just now: it is the instance that went
            return None
        if memory is None and self._memory.error is not None:
            return None
        total, used = memory or (None, None)
        return GpuReading(
            index=self._index,
            uuid=self._uuid,
            name=self._name,
            sampled_at=now,
            memory_total_bytes=total,
            memory_used_bytes=used,
            temperature_c=parent.temperature_c,
            sm_clock_mhz=parent.sm_clock_mhz,
            memory_clock_mhz=parent.memory_clock_mhz,
            numa_node=parent.numa_node,
            minor=parent.minor,
            mig_parent=parent.uuid,
            mig_profile=self._profile,
            mig_gi=self._gi,
            mig_ci=self._ci,
            ill=parent.ill,
            processes=processes,
        )


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
