"""The account of one job: what it made of its GPUs so far. Serialises whole, and starts no clock.

Sums over its GPUs and its attempts, the curve, the sliding window, and what it took of the host. Only a fresh reading
of a GPU that is well counts; the figures of one GPU are kept in `gpuaccount`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.api.queue import JobUsage, UsagePoint, Verdict
from agent.telemetry.activity import Activity
from agent.telemetry.curve import Curve
from agent.telemetry.gpuaccount import GpuAccount, Sample, rounded
from agent.telemetry.hostuse import HostUse
from agent.telemetry.sharing import Split
from agent.telemetry.verdict import HIGH_PERCENT, LOW_PERCENT, Means, judge

_MJ_PER_KWH = 3.6e9


class JobAccount(msgspec.Struct, kw_only=True):
    """One job over all its attempts."""

    activity: Activity
    gpus: dict[str, GpuAccount] = {}
    curve: Curve = msgspec.field(default_factory=Curve)
    samples: int = 0
    measured_s: float = 0.0
    idle_s: float = 0.0
    memory_peak_bytes: int | None = None
    low_s: float = 0.0
    high_s: float = 0.0
    bursts: int = 0
    is_low: bool = False
    splits: list[Split] = []
    """How shared GPUs were divided, if any were."""
    host_memory_peak_bytes: int | None = None
    cpu_seconds: float | None = None
    cpu_before_s: float = 0.0
    """CPU time of the attempts that ended."""

    def add(
        self, samples: Iterable[Sample], *, now: float, monotonic: float, idle_percent: float, gap_s: float
    ) -> None:
        """Count the readings of one round. Readings that were counted already are ignored.

        Args:
            samples: one for each of the job's GPUs that was read and is well.
            now: Unix seconds.
            monotonic: of the same moment.
            idle_percent: utilisation up to which a GPU counts as idle.
            gap_s: most that a reading stands for.
        """
        counted = [
            (sample, seconds)
            for sample in samples
            if self._gpu(sample).sampled_at != sample.reading.sampled_at
            for seconds in [self._gpu(sample).add(sample, now=now, monotonic=monotonic, gap_s=gap_s)]
        ]
        if not counted:
            return
        self.samples += 1
        self._count_memory()
        self._note_splits(sample for sample, _ in counted)
        if seconds := max(seconds for _, seconds in counted):
            self._count_round([sample for sample, each in counted if each], seconds, now, idle_percent)

    def add_host(self, use: HostUse) -> None:
        """Count what the job uses of the host; CPU time is that of this attempt."""
        if use.memory_bytes is not None:
            self.host_memory_peak_bytes = max(self.host_memory_peak_bytes or 0, use.memory_bytes)
        if use.cpu_seconds is not None:  # a process nobody waited for takes its time with it: never back
            self.cpu_seconds = max(self.cpu_seconds or 0.0, self.cpu_before_s + use.cpu_seconds)

    def break_off(self, *, goes_on: bool) -> None:
        """See `GpuAccount.break_off`; of all its GPUs."""
        for gpu in self.gpus.values():
            gpu.break_off(goes_on=goes_on)
        if not goes_on:
            self.cpu_before_s = self.cpu_seconds or 0.0
            self.idle_s = 0.0
            self.activity.parts.clear()

    def usage(self) -> JobUsage:
        """The account as it is told."""
        gpus = list(self.gpus.values())
        verdict, advice = judge(self._means()) if gpus else (Verdict.UNKNOWN, "")
        energy = sum(gpu.energy_mj for gpu in gpus)
        return JobUsage(
            samples=self.samples,
            measured_s=round(self.measured_s, 1),
            gpu_seconds=round(sum(gpu.held_s for gpu in gpus), 1),
            gpu_busy_seconds=round(sum(gpu.busy_s for gpu in gpus), 1),
            utilization_percent=rounded(self._mean_utilization()),
            memory_peak_bytes=self.memory_peak_bytes,
            host_memory_peak_bytes=self.host_memory_peak_bytes,
            cpu_seconds=rounded(self.cpu_seconds),
            energy_kwh=round(energy / _MJ_PER_KWH, 6) if energy else None,
            idle_s=round(self.idle_s, 1),
            verdict=verdict,
            sentence=" ".join([advice, *self._remarks(energy)]) or None,
            gpus=tuple(gpu.usage() for gpu in gpus),
        )

    def points(self) -> tuple[UsagePoint, ...]:
        """The curve."""
        return self.curve.points()

    def _gpu(self, sample: Sample) -> GpuAccount:
        uuid = sample.reading.uuid
        if uuid not in self.gpus:
            self.gpus[uuid] = GpuAccount(uuid=uuid)
        return self.gpus[uuid]

    def _count_memory(self) -> None:
        """Over the GPUs that it holds now; those of an attempt before do not count twice."""
        known = [gpu.memory_bytes for gpu in self.gpus.values() if gpu.at is not None and gpu.memory_bytes is not None]
        if known:
            self.memory_peak_bytes = max(self.memory_peak_bytes or 0, sum(known))

    def _note_splits(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            if sample.split is not Split.NONE and sample.split not in self.splits:
                self.splits = [*self.splits, sample.split]

    def _count_round(self, samples: list[Sample], seconds: float, now: float, idle_percent: float) -> None:
        self.measured_s += seconds
        levels = [_level(sample) for sample in samples]
        busiest = None if None in levels else max(level for level in levels if level is not None)
        self.activity.add(busiest, seconds)
        self.idle_s = self.idle_s + seconds if busiest is not None and busiest * 100 <= idle_percent else 0.0
        mean = _mean([_times(sample.reading.utilization_percent, sample.part) for sample in samples])
        self._count_bursts(mean, seconds)
        powers = [_times(sample.reading.power_mw, sample.part / 1000) for sample in samples]
        self.curve.add(
            now,
            seconds,
            utilization=mean,
            memory=_total([gpu.memory_bytes for gpu in self.gpus.values() if gpu.at is not None]),
            power=_total(powers),
        )

    def _count_bursts(self, mean: float | None, seconds: float) -> None:
        if mean is None:
            return
        if mean < LOW_PERCENT:
            self.low_s += seconds
            self.is_low = True
        elif mean >= HIGH_PERCENT:
            self.high_s += seconds
            self.bursts += self.is_low
            self.is_low = False

    def _mean_utilization(self) -> float | None:
        seconds = sum(gpu.utilization.seconds for gpu in self.gpus.values())
        return sum(gpu.utilization.total for gpu in self.gpus.values()) / seconds if seconds else None

    def _means(self) -> Means:
        return Means(
            measured_s=self.measured_s,
            low_s=self.low_s,
            high_s=self.high_s,
            bursts=self.bursts,
            gpus=[gpu.means() for gpu in self.gpus.values()],
            shared=bool(self.splits),
        )

    def _remarks(self, energy_mj: float) -> list[str]:
        """How the figures came about, where it is not the plain way."""
        remarks = []
        if Split.MEMORY in self.splits:
            remarks.append("It shared a GPU: time and energy there are its part by the memory its processes held.")
        if Split.EQUAL in self.splits:
            remarks.append(
                "It shared a GPU whose driver tells nothing of each process: its figures there are equal parts."
            )
        estimated = sum(gpu.estimated_mj for gpu in self.gpus.values())
        if energy_mj and estimated > 0.01 * energy_mj:
            remarks.append(f"{100 * estimated / energy_mj:.0f} % of its energy is power × time, not the GPU's counter.")
        return remarks


def _level(sample: Sample) -> float | None:
    """How busy its GPU is, 0..1; idle without a process of the job's, unknown where there is one and no utilisation."""
    if sample.split is Split.MEMORY and not sample.part:
        return 0.0
    if sample.reading.utilization_percent is not None:
        return sample.reading.utilization_percent / 100
    return None if sample.reading.computing() else 0.0


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _total(values: list[float | None] | list[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _times(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor
