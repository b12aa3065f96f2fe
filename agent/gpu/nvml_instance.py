"""One MIG instance with its calls prepared. A part of the door to `pynvml`."""

from __future__ import annotations

import ctypes
from typing import Any

from agent.api.types import GpuReading
from agent.gpu import sieve
from agent.gpu.base import GpuLostError, mig_index, mig_reading
from agent.gpu.nvml_call import MemoryCall, text_of
from agent.gpu.nvml_facts import mig_ids, mig_profile
from agent.gpu.nvml_gpm import GpmCall
from agent.gpu.nvml_processes import ProcessCall
from agent.gpu.sieve import Sieve, refused


class MigInstance:
    """One MIG instance. NVML gives it memory and processes; what the silicon shares is its GPU's."""

    def __init__(self, parent: int, device: Any, slot: int, uuid: str, handle: Any, library: ctypes.CDLL) -> None:
        """`parent` is its GPU's index, `device` its GPU's handle."""
        self._index = mig_index(parent, slot)
        self._uuid = uuid
        self._name = text_of(library.nvmlDeviceGetName, handle) or "MIG"
        self._profile = mig_profile(parent, self._name, handle)
        self._gi, self._ci = mig_ids(parent, handle)
        self._memory = MemoryCall(parent, library, handle)
        self._processes = ProcessCall(parent, library, handle)
        self._gpm = None if self._gi is None else GpmCall(parent, library, device, self._gi)
        self._sieve = Sieve()

    def read(self, parent: GpuReading, now: float, monotonic: float) -> GpuReading | None:
        """All values; `None` if it is no longer there. Of a part NVML tells no power, and no load but GPM's.

        Raises:
            DriverGoneError: see `GpuReader.read`.
        """
        try:
            total, used, reserved = self._memory.get(monotonic)
            processes = self._processes.get(now, monotonic, self._sieve)
            shares = (None,) * 4 if self._gpm is None else self._gpm.get(monotonic, self._sieve)
        except GpuLostError:  # its GPU answered just now: it is the instance that went
            return None
        if total is None and self._memory.error is not None:
            return None
        most = sieve.MEMORY_BYTES if total is None else total
        used, said = self._sieve.whole(used, most), used
        return mig_reading(
            parent,
            index=self._index,
            uuid=self._uuid,
            name=self._name,
            profile=self._profile,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=None if total is None or used is None else max(0, total - used - (reserved or 0)),
            memory_reserved_bytes=reserved,
            sm_active_percent=shares[0],
            sm_occupancy_percent=shares[1],
            tensor_active_percent=shares[2],
            dram_active_percent=shares[3],
            mig_gi=self._gi,
            mig_ci=self._ci,
            processes=processes,
            dropped=self._sieve.dropped,
            failed=tuple(refused(memory_used_bytes=(said, used), memory_free_bytes=(said, used))),
        )
