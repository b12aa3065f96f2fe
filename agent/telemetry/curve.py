"""A job's curve: means over time in at most 240 points, however long the run.

Each point covers a step. When there are too many, the step doubles and neighbours are folded into one, so the whole run
is always there, ever coarser. Time in which nothing was measured stays a gap: a point without values, until it is
shorter than a step.
"""

from __future__ import annotations

import msgspec

from agent.api.queue import UsagePoint

MAX_POINTS = 240
GAP_S = 10.0
"""Unmeasured time that is shown as such; shorter ones are a slow sample or two."""


class Mean(msgspec.Struct, array_like=True):
    """An average over time."""

    seconds: float = 0.0
    total: float = 0.0

    def add(self, value: float | None, seconds: float) -> None:
        """`value` held for `seconds`; absent ones do not count."""
        if value is not None:
            self.seconds += seconds
            self.total += value * seconds

    def join(self, other: Mean) -> None:
        """Take another's time in."""
        self.seconds += other.seconds
        self.total += other.total

    @property
    def value(self) -> float | None:
        """The average; `None` where nothing was measured."""
        return self.total / self.seconds if self.seconds else None


class Step(msgspec.Struct, array_like=True):
    """What becomes one point."""

    at: float
    """Unix seconds of its end."""
    seconds: float
    """Measured time it covers; of a gap the time that nothing was measured."""
    is_gap: bool = False
    utilization: Mean = msgspec.field(default_factory=Mean)
    memory: Mean = msgspec.field(default_factory=Mean)
    power: Mean = msgspec.field(default_factory=Mean)


class Curve(msgspec.Struct):
    """The steps of one job so far; serialises."""

    step_s: float = 1.0
    steps: list[Step] = []

    def add(
        self, now: float, seconds: float, *, utilization: float | None, memory: float | None, power: float | None
    ) -> None:
        """What was measured over the last `seconds`.

        Args:
            now: Unix seconds; a clock set back does not turn the curve back.
            seconds: more than 0.
            utilization: percent, mean over the job's GPUs.
            memory: bytes, sum over them.
            power: watts, sum over them.
        """
        step = self._step(now, seconds)
        step.utilization.add(utilization, seconds)
        step.memory.add(memory, seconds)
        step.power.add(power, seconds)
        while len(self.steps) > MAX_POINTS:
            self._fold()

    def points(self) -> tuple[UsagePoint, ...]:
        """The curve as it is told."""
        return tuple(_point(step) for step in self.steps)

    def _step(self, now: float, seconds: float) -> Step:
        """The step that this measurement belongs to, with its time counted."""
        last = self.steps[-1] if self.steps else None
        if last is not None:
            now = max(now, last.at)
            if not last.is_gap and now - last.at - seconds > max(GAP_S, self.step_s):
                last = Step(at=now - seconds, seconds=now - last.at - seconds, is_gap=True)
                self.steps.append(last)
        if last is None or last.is_gap or last.seconds + seconds > self.step_s * 1.001:
            last = Step(at=now, seconds=0.0)
            self.steps.append(last)
        last.at = now
        last.seconds += seconds
        return last

    def _fold(self) -> None:
        self.step_s *= 2
        folded: list[Step] = []
        for step in self.steps:
            if step.is_gap and step.seconds < self.step_s:
                continue
            if folded and _fits(folded[-1], step, self.step_s):
                _join(folded[-1], step)
            else:
                folded.append(step)
        self.steps = folded


def _fits(step: Step, after: Step, step_s: float) -> bool:
    return step.is_gap is after.is_gap and step.seconds + after.seconds <= step_s * 1.001


def _join(step: Step, after: Step) -> None:
    step.at = after.at
    step.seconds += after.seconds
    step.utilization.join(after.utilization)
    step.memory.join(after.memory)
    step.power.join(after.power)


def _point(step: Step) -> UsagePoint:
    memory, utilization, power = step.memory.value, step.utilization.value, step.power.value
    return UsagePoint(
        at=int(step.at),
        utilization_percent=None if utilization is None else round(utilization, 1),
        memory_bytes=None if memory is None else int(memory),
        power_w=None if power is None else round(power, 1),
    )
