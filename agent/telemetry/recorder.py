"""From readings to the history: each reading once, for the time that it stands for.

Rules kept here: a value that was not read anew is not noted again, so a GPU that hangs or is lost leaves a gap; a
reading stands for the time since the one before, up to a period and a half; where the driver noted a value more often
than it was read, its least and most are kept too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.api.telemetry import GPU_METRICS, HOST, HOST_METRICS
from agent.api.types import GpuReading, GpuState
from agent.telemetry.bucket import Spread
from agent.telemetry.history import History
from agent.telemetry.host import HostRates, read_host

if TYPE_CHECKING:
    from agent.gpu.sampler import Sampler

_GPU_NAMES = tuple(GPU_METRICS)
_HOST_NAMES = tuple(HOST_METRICS)
_HOST_S = 1.0

logger = logging.getLogger(__name__)


class Recorder:
    """Notes what the sampler reads, and the host once a second."""

    def __init__(self, sampler: Sampler, history: History, *, period_s: float) -> None:
        self._sampler = sampler
        self._history = history
        self._period_s = period_s
        self._noted: dict[str, float] = {}
        """UUID → `sampled_at` of the reading noted last."""
        self._host = HostRates()
        self._host_at = 0.0

    async def serve(self) -> None:
        """Note until cancelled."""
        while True:
            try:
                self.note(time.time())
            except Exception:  # the rim of a loop that must live; a beat that is missed is a gap
                logger.exception("the readings could not be noted")
            await self._sampler.wait_change(_HOST_S)

    def note(self, now: float) -> None:
        """Hand over what is new."""
        for reading, _ in self._sampler.view().gpus:
            if reading.state is GpuState.OK and reading.sampled_at != self._noted.get(reading.uuid):
                self._note_gpu(reading)
        if now - self._host_at >= _HOST_S or now < self._host_at:
            self._note_host(now)

    def _note_gpu(self, reading: GpuReading) -> None:
        before = self._noted.get(reading.uuid)
        is_later = before is not None and reading.sampled_at > before  # else the first, or the clock was set back
        since_s = reading.sampled_at - before if before is not None and is_later else self._period_s
        seconds = min(since_s, 1.5 * self._period_s)
        self._noted[reading.uuid] = reading.sampled_at
        spreads = [reading.spreads.get(name) or _still(getattr(reading, name)) for name in _GPU_NAMES]
        self._spread_out(reading.uuid, _GPU_NAMES, spreads, reading.sampled_at, seconds)

    def _note_host(self, now: float) -> None:
        seconds = min(max(now - self._host_at, 0.0), 1.5 * _HOST_S) if self._host_at else _HOST_S
        self._host_at = now
        host = read_host()
        values: dict[str, float | None] = {
            "cpu_percent": host.cpu_percent,
            "memory_used_bytes": host.memory_total_bytes - host.memory_available_bytes,
            "load_1m": host.load_1m,
            **self._host.read(now),
        }
        self._spread_out(HOST, _HOST_NAMES, [_still(values[name]) for name in _HOST_NAMES], now, seconds)

    def _spread_out(
        self, series: str, names: tuple[str, ...], spreads: Sequence[Spread | None], at: float, seconds: float
    ) -> None:
        """A reading that stands for several seconds fills each of them."""
        for whole in range(math.ceil(seconds) - 1, 0, -1):
            self._history.note(series, names, spreads, at - whole, 1.0)
        self._history.note(series, names, spreads, at, seconds if seconds <= 1 else 1.0)


def _still(value: float | None) -> Spread | None:
    return None if value is None else (float(value), float(value), float(value))
