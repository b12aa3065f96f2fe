"""The agent's side of the sampler: what is known of the node's GPUs at any moment, and how old it is.

    agent ── hold lists ──► child (agent.gpu.sampler_child)
          ◄──── frames ────

Nothing here waits for the child. What was read last stays, with an age that grows; past `stale_s` a GPU is called hung
whatever its last state, because a value nobody refreshes is no value.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.api.types import GpuReading, GpuSource, GpuState
from agent.config import GpuTable
from agent.gpu.child import ChildKeeper
from agent.gpu.frames import ChildSpec, Frame, FrameReader, GpuEvent, Hold, Stamped
from agent.gpu.rounds import deadline_s

log = logging.getLogger(__name__)

_EVENTS_KEPT = 1000
"""Events kept for whoever comes to listen."""

_HELD_GATHER_S = 0.05
"""After which the child is told what jobs hold: a burst of short ones is not worth a message each."""

CHILD_ARGV = (sys.executable, "-I", "-m", "agent", "sampler")
"""How the child is started; its `ChildSpec` is appended."""

_Known = tuple[GpuReading, float]
"""A reading with the CLOCK_MONOTONIC seconds at which it was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """What is known of the GPUs at one moment."""

    source: GpuSource
    reason: str | None
    """Why there are no GPUs, or why what is known gets no younger."""
    driver_version: str | None
    gpus: tuple[tuple[GpuReading, float], ...]
    """Each with its age in seconds."""


def stale_s(period_s: float) -> float:
    """Age past which a value is not trusted: the next read had its whole deadline and was not heard of."""
    return period_s + deadline_s(period_s) + 0.5


class Sampler:
    """Reads the node's GPUs from `start` to `stop`."""

    def __init__(
        self, settings: GpuTable, *, node_name: str, state_dir: Path, child_argv: Sequence[str] = CHILD_ARGV
    ) -> None:
        self._settings = settings
        self._stale_s = stale_s(settings.period_s)
        spec = ChildSpec(
            source=settings.source,
            period_s=settings.period_s,
            fast_s=settings.fast_s,
            library=settings.library,
            simulated_count=settings.simulated_count,
            simulated_layout=settings.simulated_layout,
            node_name=node_name,
            state_dir=str(state_dir),
        )
        self._keeper = ChildKeeper(
            (*child_argv, msgspec.json.encode(spec).decode()),
            silence_s=2 * self._stale_s,
            on_frame=self._take,
            on_trouble=self._complain,
        )
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._held = self._told_held = Hold(uuids=())
        """What jobs hold, and what the child was told of that."""
        self._telling: asyncio.TimerHandle | None = None
        self._source = GpuSource.NONE
        self._reason: str | None = "the sampler is starting"
        self._driver_version: str | None = None
        self._known: tuple[_Known, ...] = ()
        self._found_none = False
        """The sampler asked the driver, and there is none, or it has no GPU."""
        self._reader = FrameReader()
        self._framed_at: float | None = None
        """When the last frame came (monotonic)."""
        self._events: deque[GpuEvent] = deque(maxlen=_EVENTS_KEPT)
        self._tell: Callable[[GpuEvent], None] = self._events.append
        self.news = 0
        """How often something was heard so far: while it is the same, only ages differ."""

    async def start(self) -> None:
        """Start the child and return; its first frame comes a fraction of a second later, see `wait_change`."""
        if self._settings.source == GpuSource.NONE:
            self._reason = "gpu.source is none in the configuration"
        elif self._task is None:
            self._task = asyncio.create_task(self._keeper.run(), name="gpu-sampler")

    async def stop(self) -> None:
        """End the child. Takes at most two seconds."""
        task, self._task = self._task, None
        if self._telling is not None:
            self._telling.cancel()
            self._tell_held()
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self._keeper.end()

    def view(self) -> GpuView:
        """What is known now. Never blocks; without news only the ages change."""
        now = time.monotonic()
        return GpuView(
            source=self._source,
            reason=self._reason,
            driver_version=self._driver_version,
            gpus=tuple(self._aged(reading, now - at) for reading, at in self._known),
        )

    def silent_s(self) -> float:
        """For how long frames are overdue: 0 while they come, before the first one, and where nothing is sampled."""
        if self._task is None or self._framed_at is None:
            return 0.0
        return max(0.0, time.monotonic() - self._framed_at - self._stale_s)

    def none_found(self) -> str | None:
        """Why there is no GPU; `None` while there are some, before that is known, and where nothing is sampled."""
        if self._task is None or not self._found_none:
            return None
        return self._reason or "the driver knows of none"

    @property
    def child_pid(self) -> int | None:
        """The sampler process now, for diagnosis; `None` between two of them."""
        return self._keeper.pid

    def hold(self, uuids: Iterable[str]) -> None:
        """Say which GPUs running jobs hold; simulated ones become busy."""
        self._held = Hold(uuids=tuple(sorted(uuids)))
        if self._task is None:
            self._tell_held()  # the next child begins with it
        elif self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_HELD_GATHER_S, self._tell_held)

    def _tell_held(self) -> None:
        self._telling = None
        if self._held != self._told_held:
            self._told_held = self._held
            self._keeper.hold(self._held)

    def listen(self, tell: Callable[[GpuEvent], None]) -> None:
        """Have `tell` called with what the driver tells of by itself, and at once with what it told of before."""
        self._tell = tell
        while self._events:
            tell(self._events.popleft())

    async def wait_change(self, timeout_s: float) -> None:
        """Return at the next news, a frame or trouble with the child, or quietly when the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _aged(self, reading: GpuReading, age_s: float) -> tuple[GpuReading, float]:
        if reading.state is not GpuState.OK or age_s <= self._stale_s:
            return reading, age_s
        reason = f"not read for more than {self._stale_s:g} s: {self._reason or 'the sampler process is silent'}"
        since = int(reading.sampled_at + self._stale_s)
        return msgspec.structs.replace(reading, state=GpuState.HUNG, state_since=since, reason=reason), age_s

    def _take(self, frame: Frame) -> None:
        self._framed_at = time.monotonic()
        gpus = self._reader.read(frame)
        if gpus is not None:
            self._source, self._driver_version = frame.source, frame.driver_version
            self._known = _merge(self._known, gpus, time.monotonic())
            self._found_none = not gpus
        if frame.reason != self._reason:
            log.info("source=%s gpus=%d: %s", self._source, len(self._known), frame.reason or "sampling")
        self._reason = frame.reason
        for event in frame.events:
            self._tell(event)
        self._announce()

    def _complain(self, reason: str) -> None:
        log.warning("%s", reason)
        self._reason = reason
        self._announce()

    def _announce(self) -> None:
        """Wake all waiters once; who waits from now on waits for the next news."""
        self.news += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _merge(known: tuple[_Known, ...], gpus: tuple[Stamped, ...], monotonic: float) -> tuple[_Known, ...]:
    before = {reading.index: (reading, at) for reading, at in known}
    merged = [_merge_one(before.get(gpu.reading.index), gpu, monotonic) for gpu in gpus]
    merged += [each for gpu in gpus if gpu.at is None for each in _parts(before, gpu.reading)]
    return tuple(each for each in merged if each is not None)


def _parts(before: dict[int, _Known], unread: GpuReading) -> Iterator[_Known]:
    """The MIG instances of a GPU that a new child has not read yet, as ill as it is."""
    parent = before.get(unread.index)
    for reading, at in before.values() if parent else ():
        if parent and reading.mig_parent == parent[0].uuid:
            part = _merge_one((reading, at), Stamped(reading=unread, at=None), at)
            assert part is not None, "what was known before stays known"
            yield part


def _merge_one(before: _Known | None, gpu: Stamped, monotonic: float) -> _Known | None:
    """A GPU that a new child has not read yet keeps what the last child knew of it, and then its age.

    Returns `None` for one of which nothing is known at all: not its UUID, and not that it is ill.
    """
    new = gpu.reading
    if gpu.at is not None:
        return new, gpu.at
    if new.state is GpuState.OK:
        return before
    if before is None:
        return new, monotonic
    reading, at = before
    since = reading.state_since if reading.state is new.state else new.state_since
    return msgspec.structs.replace(reading, state=new.state, state_since=since, reason=new.reason), at
