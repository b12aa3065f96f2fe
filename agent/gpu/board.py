"""What the sampler process knows of each GPU: who was asked when, what was answered, who is past the deadline.

Pure: no threads, no clock, no I/O. A value is kept with the moment it was read and never stamped again; a GPU that is
hung or lost keeps its last values beside its state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from agent.api.types import GpuReading, GpuState
from agent.gpu.frames import UNKNOWN_UUID, News, Renewal, Stamped


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from reading one GPU."""

    index: int
    reading: GpuReading | None
    """`None` if it could not be read."""
    instances: tuple[GpuReading, ...] = ()
    """Its MIG instances, read with it."""
    state: GpuState = GpuState.OK
    reason: str | None = None
    error: Exception | None = None
    """What we did not expect, for the log."""


@dataclass(slots=True)
class _Gpu:
    stamped: Stamped
    """The last reading, wearing the present state; that before `renewal` where there is one."""
    renewal: Renewal | None = None
    """What is new since: of a GPU that is well."""
    instances: tuple[Stamped, ...] = ()
    """Its MIG instances; ill when it is."""

    def mark(self, state: GpuState, reason: str | None, now: float) -> None:
        """It is in another state, and its instances with it."""
        if self.renewal is not None:
            self.stamped, self.renewal = self.renewal.stamped(), None
        self.stamped = _with_state(self.stamped, state, reason, now)
        self.instances = tuple(_with_state(each, state, reason, now) for each in self.instances)


class Board:
    """The GPUs 0 to `count - 1` of one source."""

    def __init__(self, count: int, *, deadline_s: float, now: float) -> None:
        self._deadline_s = deadline_s
        self._gpus = [_Gpu(Stamped(reading=_never_read(index, now), at=None)) for index in range(count)]
        self._asked: dict[int, float] = {}
        """GPUs of which a read is under way, and since when (monotonic)."""
        self._ill: set[int] = set()
        self._every = list(range(count))
        self._news: News | None = None
        """What is new of all of them, since `_gpus` was; `None` where each has its own."""

    def idle(self) -> list[int]:
        """GPUs that may be asked; one whose read is still under way is not asked twice."""
        return [index for index in self._every if index not in self._asked] if self._asked else self._every

    def ill(self) -> set[int]:
        """GPUs that hang or are lost."""
        return self._ill

    def ask(self, index: int, monotonic: float) -> None:
        """A read begins."""
        self._asked[index] = monotonic

    def answer(self, answer: Answer, now: float) -> tuple[GpuState, GpuState]:
        """A read ended, well or badly. Returns the state before and after."""
        self._spread_news()
        gpu = self._gpus[answer.index]
        before, asked_at = gpu.stamped.reading.state, self._asked.pop(answer.index, None)
        if answer.reading is not None:
            gpu.stamped, gpu.renewal = Stamped(reading=answer.reading, at=asked_at), None
            gpu.instances = tuple([Stamped(reading=each, at=asked_at) for each in answer.instances])
            self._ill.discard(answer.index)
        else:
            gpu.mark(answer.state, answer.reason, now)
            self._ill.add(answer.index)
        return before, gpu.stamped.reading.state

    def was_read(self, index: int, reading: GpuReading | Renewal, instances: tuple[GpuReading, ...]) -> bool:
        """As `answer`, of a GPU that was well and is; `False` where it was not, and nothing is done."""
        self._spread_news()
        gpu = self._gpus[index]
        if gpu.stamped.reading.state is not GpuState.OK:
            return False
        asked_at = self._asked.pop(index, None)
        if isinstance(reading, Renewal):
            gpu.renewal = reading
        else:
            gpu.stamped, gpu.renewal = Stamped(reading=reading, at=asked_at), None
        if instances or gpu.instances:
            gpu.instances = tuple([Stamped(reading=each, at=asked_at) for each in instances])
        return True

    def were_read(self, news: News) -> None:
        """As `was_read`, of all GPUs of a sweep."""
        if self._news is not None and news.indexes == self._every and not self._asked:
            self._news = news
            return
        for renewal in news:
            self.was_read(renewal.base.index, renewal, ())
        if news.indexes == self._every and not self._ill and not any(gpu.instances for gpu in self._gpus):
            self._news = news

    def glanced(self, index: int) -> None:
        """A GPU answered, and was not asked for a reading."""
        self._asked.pop(index, None)

    def judge(self, monotonic: float, now: float) -> list[int]:
        """Mark the GPUs that are past their deadline; returns those that newly are."""
        if not self._asked:
            return []
        late = [index for index, at in self._waited_for().items() if monotonic - at >= self._deadline_s]
        if late:
            self._spread_news()
        for index in late:
            reason = f"the driver has not answered for GPU {index} within {self._deadline_s:g} s; see dmesg for its Xid"
            self._gpus[index].mark(GpuState.HUNG, reason, now)
            self._ill.add(index)
        return late

    def next_deadline(self) -> float | None:
        """Monotonic seconds at which `judge` may have something to say."""
        if not self._asked:
            return None
        asked = self._waited_for().values()
        return min(asked) + self._deadline_s if asked else None

    def gpus(self) -> Iterable[Stamped | Renewal]:
        """All of them by index, then their MIG instances."""
        return self._news or (
            *[gpu.renewal or gpu.stamped for gpu in self._gpus],
            *[each for gpu in self._gpus if gpu.instances for each in gpu.instances],
        )

    def _spread_news(self) -> None:
        """Each GPU has its own from now on."""
        news, self._news = self._news, None
        for renewal in news or ():
            self._gpus[renewal.base.index].renewal = renewal

    def _waited_for(self) -> dict[int, float]:
        """Who was asked, has not answered, and is not known to hang."""
        return {index: at for index, at in self._asked.items() if not _is_hung(self._gpus[index])}


def _is_hung(gpu: _Gpu) -> bool:
    return gpu.stamped.reading.state is GpuState.HUNG


def _with_state(stamped: Stamped, state: GpuState, reason: str | None, now: float) -> Stamped:
    """The same values in another state; a state that only goes on keeps its beginning."""
    old = stamped.reading
    since = old.state_since if old.state is state else int(now)
    reading = msgspec.structs.replace(old, state=state, state_since=since, reason=reason)
    return Stamped(reading=reading, at=stamped.at)


def _never_read(index: int, now: float) -> GpuReading:
    """A GPU of which nothing is known but its index. `sampled_at` is when we began to try; all values are absent."""
    return GpuReading(index=index, uuid=f"{UNKNOWN_UUID}{index}", name="unknown", sampled_at=now)
