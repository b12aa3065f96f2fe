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
from functools import partial
from typing import Any

import pynvml

from agent.gpu.base import DriverGoneError, GpuLostError

FORGET_S = 3600.0
"""How long a value that the driver does not offer is left alone."""

# Structures of nvml.h, each with the fields we want; x skips the others.
NUMBER = struct.Struct("I")
LONG = struct.Struct("Q")
_MEMORY = struct.Struct("Q8xQ")  # total, used; not free
_MEMORY_V2 = struct.Struct("8xQQ8xQ")  # total, reserved, used; not version, free

UNSUPPORTED = frozenset(
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
_SUCCESS = 0


class Asked:
    """What became of a question: whether it is worth another."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._quiet_until = 0.0
        self.error: int | None = None
        """The last answer's error code; `None` if it was good or the value is not offered."""

    def judge(self, code: int, monotonic: float) -> bool:
        """Whether the answer is good; what is not offered is left alone for an hour.

        Raises:
            GpuLostError: the GPU cannot be asked.
            DriverGoneError: the driver cannot.
        """
        if code == _SUCCESS:
            self.error = None
            return True
        if code in UNSUPPORTED:
            self._quiet_until = monotonic + FORGET_S
            self.error = None
            return False
        raise_if_fatal(code, self._index)
        self.error = code
        return False


class Call(Asked):
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
        super().__init__(index)
        self._layout = layout
        self.buffer = ctypes.create_string_buffer(start, layout.size * rows)
        self._question = partial(function, *args, self.buffer)

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
        if code := self._question():
            return self.judge(code, monotonic)
        self.error = None
        return True


class MemoryCall:
    """Bytes as `nvidia-smi` shows them: used is without what the driver reserves, where it can tell (R510)."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any) -> None:
        self._tells_reserved = hasattr(library, "nvmlDeviceGetMemoryInfo_v2")
        if self._tells_reserved:
            version = pynvml.nvmlMemory_v2.to_bytes(4, sys.byteorder)
            function = library.nvmlDeviceGetMemoryInfo_v2
            self._call = Call(index, function, handle, layout=_MEMORY_V2, start=version)
        else:
            self._call = Call(index, library.nvmlDeviceGetMemoryInfo, handle, layout=_MEMORY)

    @property
    def error(self) -> int | None:
        """See `Call.error`."""
        return self._call.error

    def get(self, monotonic: float) -> tuple[int | None, int | None, int | None]:
        """Total, used, reserved; raises as `Call.ask`."""
        found = self._call.get(monotonic)
        if found is None:
            return None, None, None
        if not self._tells_reserved:
            return found[0], found[1], None
        return found[0], found[2], found[1]


class Aside:
    """A question whose answer lands beside the buffer, which takes what does not concern us."""

    def __init__(self, index: int, library: ctypes.CDLL, name: str, handle: Any) -> None:
        self._value = ctypes.c_uint()
        self._call = Call(index, function_of(library, name), handle, ctypes.byref(self._value), layout=NUMBER)

    @property
    def error(self) -> int | None:
        """See `Call.error`."""
        return self._call.error

    def number(self, monotonic: float) -> int | None:
        """See `Call.number`."""
        return self._value.value if self._call.ask(monotonic) else None


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


def is_gone(code: int) -> bool:
    """Whether the driver went away."""
    return code in _GONE


def raise_if_fatal(code: int, index: int) -> None:
    if code in _LOST:
        raise GpuLostError(
            f"GPU {index} is lost to the driver: {words(code)}; see dmesg for its Xid, then reset it or reboot"
        )
    if code in _GONE:
        raise DriverGoneError(f"the NVIDIA driver went away: {words(code)}; waiting for it to come back")
