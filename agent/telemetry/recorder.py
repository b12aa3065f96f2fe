"""From readings to the history: each reading once, for the time that it stands for.

Rules kept here: a value that was not read anew is not noted again, so a GPU that hangs or is lost leaves a gap; a
reading stands for the time since the one before, up to a period and a half; where the driver noted a value more often
than it was read, its least and most are kept too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING

from agent.api.telemetry import GPU_METRICS, HOST, HOST_METRICS
from agent.api.types import GpuReading, GpuState
from agent.telemetry.bucket import Spread
from agent.telemetry.history import History, Sample
from agent.telemetry.host import HostReader

if TYPE_CHECKING:
    from agent.gpu.sampler import Sampler

_GPU_NAMES = tuple(GPU_METRICS)
_HOST_NAMES = tuple(HOST_METRICS)
_GPU_PLACES = {name: place for place, name in enumerate(GPU_METRICS)}
_gpu_values = attrgetter(*GPU_METRICS)
_host_values = attrgetter(*HOST_METRICS)
_HOST_S = 1.0

logger = logging.getLogger(__name__)


class Recorder:
    """Notes what the sampler reads, and the host once a second."""

    def __init__(self, sampler: Sampler, history: History, host: HostReader, *, period_s: float) -> None:
        self._sampler = sampler
        self._history = history
        self._period_s = period_s
        self._noted: dict[str, float] = {}
        """UUID → `sampled_at` of the reading noted last."""
        self._host = host
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
        samples: list[Sample] = []
        for reading, _ in self._sampler.view().gpus:
            if reading.state is GpuState.OK and reading.sampled_at != self._noted.get(reading.uuid):
                samples += self._of_gpu(reading)
        if now - self._host_at >= _HOST_S or now < self._host_at:
            samples += self._of_host(now)
        if samples:
            self._history.note(samples)

    def _of_gpu(self, reading: GpuReading) -> list[Sample]:
        before = self._noted.get(reading.uuid)
        is_later = before is not None and reading.sampled_at > before  # else the first, or the clock was set back
        since_s = reading.sampled_at - before if before is not None and is_later else self._period_s
        seconds = min(since_s, 1.5 * self._period_s)
        self._noted[reading.uuid] = reading.sampled_at
        spreads = _still(_gpu_values(reading))
        for name, spread in reading.spreads.items():
            if (place := _GPU_PLACES.get(name)) is not None:
                spreads[place] = spread
        return _spread_out(Sample(reading.uuid, _GPU_NAMES, reading.sampled_at, spreads, seconds))

    def _of_host(self, now: float) -> list[Sample]:
        seconds = min(max(now - self._host_at, 0.0), 1.5 * _HOST_S) if self._host_at else _HOST_S
        self._host_at = now
        values = _host_values(self._host.read(time.monotonic()))
        return _spread_out(Sample(HOST, _HOST_NAMES, now, _still(values), seconds))


def _spread_out(sample: Sample) -> list[Sample]:
    """A reading that stands for several seconds fills each of them."""
    if sample.seconds <= 1:
        return [sample]
    last = sample._replace(seconds=1.0)
    earlier = range(math.ceil(sample.seconds) - 1, 0, -1)
    return [*(last._replace(at=sample.at - whole) for whole in earlier), last]


def _still(values: Iterable[float | None]) -> list[Spread | None]:
    return [None if value is None else (value, value, value) for value in values]
