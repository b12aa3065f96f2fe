"""One question to one GPU, asked each second: function, arguments and buffer are made once and kept.

That costs 0.2 us a call against 0.5 to 17 through the binding's wrappers (figures in the README). The binding brings
the structures and error words; a part of the door to it, with `nvml` and `nvml_facts`. A value that the driver does not
offer is `None`, and is not asked for again for an hour.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable
from typing import Any

import pynvml

from agent.api.types import GpuProcess
from agent.gpu.base import DriverGoneError, GpuLostError

FORGET_S = 3600.0
"""How long a value that the driver does not offer is left alone."""

# Structures of nvml.h, each with the fields we want; x skips the others.
NUMBER = struct.Struct("I")
LONG = struct.Struct("Q")
PAIR = struct.Struct("II")  # nvmlUtilization_t: gpu, memory
_MEMORY = struct.Struct("Q8xQ")  # total, used; not free
_MEMORY_V2 = struct.Struct("8xQ16xQ")  # total, used; not version, reserved, free
_PROCESS = struct.Struct("I4xQ8x")  # pid, memory; not MIG instances

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


class Call:
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
        raise_if_fatal(code, self._index)
        self.error = code
        return False


class ProcessCall:
    """The compute processes of one GPU. NVML `nvmlDeviceGetComputeRunningProcesses`; same as `nvidia-smi pmon`."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any) -> None:
        self._index = index
        self._function = function_of(
            library, "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"
        )
        self._handle = handle
        self._count = ctypes.c_uint()
        self._grow(32)

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        count = ctypes.byref(self._count)
        self._call = Call(self._index, self._function, self._handle, count, layout=_PROCESS, rows=capacity)

    def get(self, monotonic: float) -> tuple[GpuProcess, ...]:
        """See `Call.ask`; no process where the driver does not say."""
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


def memory_call(index: int, library: ctypes.CDLL, handle: Any) -> Call:
    """Total and used bytes, as `nvidia-smi` shows them: without what the driver reserves, where it can tell (R510)."""
    if hasattr(library, "nvmlDeviceGetMemoryInfo_v2"):
        version = pynvml.nvmlMemory_v2.to_bytes(4, sys.byteorder)
        return Call(index, library.nvmlDeviceGetMemoryInfo_v2, handle, layout=_MEMORY_V2, start=version)
    return Call(index, library.nvmlDeviceGetMemoryInfo, handle, layout=_MEMORY)


def plausible_percent(value: int | None) -> int | None:
    """Drivers have been seen to say 2,619 %."""
    return value if value is not None and value <= 100 else None


def function_of(library: ctypes.CDLL, *names: str) -> Callable[..., int]:
    """The first of these that the driver's library has."""
    return next((getattr(library, name) for name in names if hasattr(library, name)), _function_not_found)


def _function_not_found(*_: Any) -> int:
    """Stands for a function that this driver's library does not have."""
    return int(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def text_of(function: Any, *args: Any) -> str | None:
    """A text of NVML. Not through the binding, which raises UnicodeDecodeError on a board with a strange name."""
    buffer = ctypes.create_string_buffer(256)
    code = function(*args, buffer, ctypes.c_uint(len(buffer)))
    return buffer.value.decode("utf-8", "replace") if code == pynvml.NVML_SUCCESS else None


# --- errors -----------------------------------------------------------------------------------------------------------


def words(code: int) -> str:
    return str(pynvml.NVMLError(code))


def raise_if_fatal(code: int, index: int) -> None:
    if code in _LOST:
        raise GpuLostError(
            f"GPU {index} is lost to the driver: {words(code)}; see dmesg for its Xid, then reset it or reboot"
        )
    if code in _GONE:
        raise DriverGoneError(f"the NVIDIA driver went away: {words(code)}; waiting for it to come back")
