"""Real GPUs through NVML; the only door to `pynvml`, NVIDIA's own binding.

The binding starts the library, finds the devices and brings the structures and error words. What is read each second
goes past its wrappers: function, arguments and buffer of each call are made once and kept, which costs 0.2 us a call
against 0.5 to 17 (figures in the README). A value that the driver does not offer is `None`, and is not asked for again
for an hour.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable
from typing import Any

import pynvml

from agent.api.types import GpuProcess, GpuReading, GpuSource
from agent.gpu.base import DriverGoneError, GpuLostError, Inventory, NoGpusError

SONAME = "libnvidia-ml.so.1"
FORGET_S = 3600.0
"""How long a value that the driver does not offer is left alone."""

_UNSUPPORTED = frozenset(
    {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH}
)
_LOST = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND})
_GONE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
_NOT_AVAILABLE = 2**64 - 1
"""`NVML_VALUE_NOT_AVAILABLE` in a field of 64 bits."""

_SUCCESS = 0
# Structures of nvml.h, each with the fields we want; x skips the others.
_NUMBER = struct.Struct("I")
_UTILIZATION = struct.Struct("I4x")  # gpu; not memory
_MEMORY = struct.Struct("Q8xQ")  # total, used; not free
_MEMORY_V2 = struct.Struct("8xQ16xQ")  # total, used; not version, reserved, free
_PROCESS = struct.Struct("I4xQ8x")  # pid, memory; not MIG instances


class NvmlReader:
    """The GPUs that NVML shows, in `nvidia-smi`'s order."""

    source = GpuSource.NVML

    def __init__(self, library: str | None) -> None:
        """`library` is the file to load where the loader would not find `libnvidia-ml.so.1`."""
        self._library = library
        self._devices: dict[int, _Device] = {}

    def open(self) -> Inventory:
        """See `GpuReader`. NVML `nvmlInitWithFlags`, `nvmlDeviceGetCount_v2`, `nvmlSystemGetDriverVersion`."""
        if self._library is not None:
            _preload(self._library)
        try:
            pynvml.nvmlInit()
            count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise _cannot_start(error) from error
        version = _text(ctypes.CDLL(SONAME).nvmlSystemGetDriverVersion)
        if count == 0:
            pynvml.nvmlShutdown()  # so that the next attempt counts again
            raise NoGpusError(f"NVIDIA driver {version} runs but shows no GPU; see lspci -d 10de: and dmesg")
        return Inventory(count=count, driver_version=version)

    def read(self, index: int, now: float, monotonic: float) -> GpuReading:
        """See `GpuReader`."""
        device = self._devices.get(index)
        if device is None:
            device = self._devices[index] = _open_device(index)
        return device.read(now, monotonic)

    def hold(self, uuids: frozenset[str]) -> None:
        """See `GpuReader`; a real GPU is busy by itself."""


class _Device:
    """One GPU with its calls prepared. Used by one thread at a time."""

    def __init__(self, index: int, uuid: str, handle: Any, library: ctypes.CDLL) -> None:
        def call(name: str, *selector: int, layout: struct.Struct = _NUMBER) -> _Call:
            return _Call(index, _function(library, name), handle, *selector, layout=layout)

        self._index = index
        self._uuid = uuid
        self._name = _text(library.nvmlDeviceGetName, handle) or "unknown"
        self._memory = _memory_call(index, library, handle)
        self._utilization = call("nvmlDeviceGetUtilizationRates", layout=_UTILIZATION)
        self._power_mw = call("nvmlDeviceGetPowerUsage")
        self._power_limit_mw = call("nvmlDeviceGetEnforcedPowerLimit")
        self._temperature_c = call("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)
        self._sm_clock_mhz = call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM)
        self._memory_clock_mhz = call("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM)
        self._processes = _ProcessCall(index, library, handle)

    def read(self, now: float, monotonic: float) -> GpuReading:
        """All values; raises as `GpuReader.read`."""
        total, used = self._memory.get(monotonic) or (None, None)
        reading = GpuReading(
            index=self._index,
            uuid=self._uuid,
            name=self._name,
            sampled_at=now,
            memory_total_bytes=total,
            memory_used_bytes=used,
            utilization_percent=_plausible_percent(self._utilization.number(monotonic)),
            power_mw=self._power_mw.number(monotonic),
            power_limit_mw=self._power_limit_mw.number(monotonic),
            temperature_c=self._temperature_c.number(monotonic),
            sm_clock_mhz=self._sm_clock_mhz.number(monotonic),
            memory_clock_mhz=self._memory_clock_mhz.number(monotonic),
            processes=self._processes.get(monotonic),
        )
        self._refuse_empty(reading)
        return reading

    def _refuse_empty(self, reading: GpuReading) -> None:
        """A GPU about which the driver answers nothing but errors is not one to give to a job.

        Raises:
            GpuLostError: so it is.
        """
        if reading.memory_total_bytes is None and reading.temperature_c is None and self._memory.error is not None:
            raise GpuLostError(
                f"the driver answers about GPU {self._index} only: {_words(self._memory.error)}; see dmesg for its Xid"
            )


class _Call:
    """One question to one GPU, with arguments and buffer made once."""

    def __init__(
        self,
        index: int,
        function: Callable[..., int],
        *args: Any,
        layout: struct.Struct,
        start: bytes = b"",
        rows: int = 1,
    ) -> None:
        """`layout` picks the wanted fields from the structure of nvml.h; `start` is what the caller must fill in."""
        self._index = index
        self._function = function
        self._layout = layout
        self.buffer = ctypes.create_string_buffer(start, layout.size * rows)
        self._args = (*args, self.buffer)
        self._quiet_until = 0.0
        self.error: int | None = None
        """The last answer's error code; `None` if it was good or the value is not offered."""

    def number(self, monotonic: float) -> int | None:
        """The only value now; raises as `ask`."""
        return int(self._layout.unpack_from(self.buffer)[0]) if self.ask(monotonic) else None

    def get(self, monotonic: float) -> tuple[int, ...] | None:
        """The values now; raises as `ask`."""
        return self._layout.unpack_from(self.buffer) if self.ask(monotonic) else None

    def ask(self, monotonic: float) -> bool:
        """Fill the buffer; `False` if the driver does not offer this or fails to say.

        Raises:
            GpuLostError: the GPU cannot be asked.
            DriverGoneError: the driver cannot.
        """
        if monotonic < self._quiet_until:
            return False
        code = self._function(*self._args)
        if code == _SUCCESS:
            self.error = None
            return True
        if code in _UNSUPPORTED:
            self._quiet_until = monotonic + FORGET_S
            return False
        _raise_if_fatal(code, self._index)
        self.error = code
        return False


class _ProcessCall:
    """The compute processes of one GPU. NVML `nvmlDeviceGetComputeRunningProcesses`; same as `nvidia-smi pmon`."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any) -> None:
        self._index = index
        self._function = _function(
            library, "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"
        )
        self._handle = handle
        self._count = ctypes.c_uint()
        self._grow(32)

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        count = ctypes.byref(self._count)
        self._call = _Call(self._index, self._function, self._handle, count, layout=_PROCESS, rows=capacity)

    def get(self, monotonic: float) -> tuple[GpuProcess, ...]:
        """See `_Call.ask`; no process where the driver does not say."""
        asked = self._ask(monotonic)
        if not asked and self._call.error == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            self._grow(2 * self._count.value)
            asked = self._ask(monotonic)
        if not asked:
            return ()
        rows = memoryview(self._call.buffer)[: self._count.value * _PROCESS.size]
        return tuple(
            GpuProcess(pid=pid, memory_used_bytes=None if used == _NOT_AVAILABLE else used)
            for pid, used in _PROCESS.iter_unpack(rows)
        )

    def _ask(self, monotonic: float) -> bool:
        """Leaves in `_count` how many rows there are."""
        self._count.value = self._capacity
        return self._call.ask(monotonic)


def _memory_call(index: int, library: ctypes.CDLL, handle: Any) -> _Call:
    """Total and used bytes, as `nvidia-smi` shows them: without what the driver reserves, where it can tell (R510)."""
    if hasattr(library, "nvmlDeviceGetMemoryInfo_v2"):
        version = pynvml.nvmlMemory_v2.to_bytes(4, sys.byteorder)
        return _Call(index, library.nvmlDeviceGetMemoryInfo_v2, handle, layout=_MEMORY_V2, start=version)
    return _Call(index, library.nvmlDeviceGetMemoryInfo, handle, layout=_MEMORY)


def _plausible_percent(value: int | None) -> int | None:
    """Drivers have been seen to say 2,619 %."""
    return value if value is not None and value <= 100 else None


def _function(library: ctypes.CDLL, *names: str) -> Callable[..., int]:
    """The first of these that the driver's library has."""
    return next((getattr(library, name) for name in names if hasattr(library, name)), _function_not_found)


def _function_not_found(*_: Any) -> int:
    """Stands for a function that this driver's library does not have."""
    return int(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def _open_device(index: int) -> _Device:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        _raise_if_fatal(error.value, index)
        raise GpuLostError(f"the driver does not open GPU {index}: {error}; see dmesg for its Xid") from error
    library = ctypes.CDLL(SONAME)
    uuid = _text(library.nvmlDeviceGetUUID, handle)
    if not uuid:
        raise GpuLostError(f"the driver does not give the UUID of GPU {index}; see dmesg for its Xid")
    return _Device(index, uuid, handle, library)


def _text(function: Any, *args: Any) -> str | None:
    """A text of NVML. Not through the binding, which raises UnicodeDecodeError on a board with a strange name."""
    buffer = ctypes.create_string_buffer(256)
    code = function(*args, buffer, ctypes.c_uint(len(buffer)))
    return buffer.value.decode("utf-8", "replace") if code == pynvml.NVML_SUCCESS else None


# --- errors -----------------------------------------------------------------------------------------------------------


def _words(code: int) -> str:
    return str(pynvml.NVMLError(code))


def _raise_if_fatal(code: int, index: int) -> None:
    if code in _LOST:
        raise GpuLostError(
            f"GPU {index} is lost to the driver: {_words(code)}; see dmesg for its Xid, then reset it or reboot"
        )
    if code in _GONE:
        raise DriverGoneError(f"the NVIDIA driver went away: {_words(code)}; waiting for it to come back")


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
