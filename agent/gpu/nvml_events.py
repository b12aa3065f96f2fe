"""What the driver tells of by itself: XIDs, memory errors. A part of the door to `pynvml`.

    gpu-events-0 …     one thread and one event set a GPU, from its first reading on

A wait blocks in the driver, so it has a thread that reads nothing; and each GPU its own, because a set with a lost GPU
answers nothing but that, and a GPU that hangs may never return from being registered. What is missed here the kernel's
log tells as well. Changes of clock, P-state and power source are not asked for: they come by the hundred and mean
nothing; throttling is read each second with its reasons.
"""

from __future__ import annotations

import ctypes
import logging
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pynvml

from agent.gpu.frames import EventKind, GpuEvent
from agent.gpu.nvml_call import UNSUPPORTED, function_of, is_gone, words

log = logging.getLogger(__name__)

WAIT_MS = 60_000
"""How long one wait lasts; an event ends it at once."""
AGAIN_S = 10.0
"""After a failure, as of a GPU that is lost: a fresh set, until it is well."""

_KINDS = {
    pynvml.nvmlEventTypeXidCriticalError: EventKind.XID,
    pynvml.nvmlEventTypeDoubleBitEccError: EventKind.ECC,
    pynvml.nvmlEventTypeFatalPoisonError: EventKind.ECC,
    pynvml.nvmlEventTypeNonFatalPoisonError: EventKind.POISON,
    pynvml.nvmlEventTypeDramRetirementEvent: EventKind.ROW_RETIRED,
    pynvml.nvmlEventTypeDramRetirementFailure: EventKind.ROW_NOT_RETIRED,
    pynvml.nvmlEventTypeGpuUnavailableError: EventKind.UNAVAILABLE,
}
_DATA = struct.Struct("@PQQII4x")  # nvmlEventData_t: device, type, data, GPU instance, compute instance
_NO_INSTANCE = 0xFFFFFFFF
_SUCCESS, _TIMEOUT = 0, pynvml.NVML_ERROR_TIMEOUT


class EventEar:
    """Listens to one GPU in a thread of its own, which ends with the process or where there is nothing to be heard."""

    def __init__(
        self, index: int, uuid: str, handle: Any, library: ctypes.CDLL, tell: Callable[[GpuEvent], None]
    ) -> None:
        self._index = index
        self._uuid = uuid
        self._handle = handle
        self._tell = tell
        self._supported = function_of(library, "nvmlDeviceGetSupportedEventTypes")
        self._create = function_of(library, "nvmlEventSetCreate")
        self._free = function_of(library, "nvmlEventSetFree")
        self._register = function_of(library, "nvmlDeviceRegisterEvents")
        self._wait = function_of(library, "nvmlEventSetWait_v2", "nvmlEventSetWait")
        # The older wait knows no instances, and leaves their room as it is.
        self._data = ctypes.create_string_buffer(b"\xff" * _DATA.size, _DATA.size)
        self._retired = False

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._listen, name=f"gpu-events-{self._index}", daemon=True).start()

    def retire(self) -> None:
        """Another one listens from now on; a wait in the driver cannot be ended, but nothing is told of it."""
        self._retired = True

    def _listen(self) -> None:
        """The thread's life."""
        before = _SUCCESS
        while not self._retired:
            code = self._hear()
            if code in UNSUPPORTED or is_gone(code):
                log.info("gpu=%d tells of no events: %s", self._index, words(code))
                return
            if code != before:
                log.warning("gpu=%d is not listened to for now: %s", self._index, words(code))
            before = code
            time.sleep(AGAIN_S)

    def _hear(self) -> int:
        """Hand over events until a call fails; its code."""
        events = ctypes.c_void_p()
        code: int = self._create(ctypes.byref(events))
        if code:
            return code
        try:
            code = self._register(self._handle, ctypes.c_ulonglong(self._wanted()), events)
            while code in (_SUCCESS, _TIMEOUT) and not self._retired:
                code = self._wait(events, self._data, ctypes.c_uint(WAIT_MS))
                if code == _SUCCESS:
                    self._take()
            return code
        finally:
            self._free(events)

    def _wanted(self) -> int:
        """The kinds that this GPU tells of, of those that we ask for."""
        offered = ctypes.c_ulonglong()
        if self._supported(self._handle, ctypes.byref(offered)):
            return int(pynvml.nvmlEventTypeXidCriticalError)
        return int(offered.value & sum(_KINDS))

    def _take(self) -> None:
        _, kind, data, instance, _ = _DATA.unpack(self._data.raw)
        if kind in _KINDS and not self._retired:
            what = _KINDS[kind]
            code = data if what is EventKind.XID else None
            gi = None if instance == _NO_INSTANCE else instance
            self._tell(GpuEvent(kind=what, uuid=self._uuid, at=time.time(), code=code, mig_gi=gi))
