"""Rounds of sampling over a reader whose every GPU can be made slow, stuck or mad; real threads."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from agent.api.types import GpuReading, GpuSource, GpuState
from agent.gpu.base import DriverGoneError, GpuLostError, Inventory
from agent.gpu.frames import GpuEvent, Renewal, Stamped
from agent.gpu.rounds import Rounds


class Scripted:
    """Does for each GPU what the test put into `acts`; a plain reading otherwise."""

    source = GpuSource.NVML

    def __init__(self) -> None:
        self.acts: dict[int, Callable[[], None]] = {}
        self.glances: list[int] = []

    def open(self) -> Inventory:
        raise AssertionError("rounds do not open")

    def listen(self, tell: Callable[[GpuEvent], None]) -> None:
        pass

    def hold(self, uuids: frozenset[str]) -> None:
        raise AssertionError("rounds do not hold")

    def read(self, index: int, now: float, monotonic: float) -> GpuReading:
        self.acts.get(index, lambda: None)()
        return GpuReading(index=index, uuid=f"GPU-{index}", name="x", sampled_at=now)

    def ready(self, indexes: Sequence[int], monotonic: float) -> list[int]:
        return []

    def check(self, index: int, monotonic: float) -> bool:
        return False

    def sweep(self, indexes: Sequence[int], now: float, monotonic: float) -> None:
        return None

    def glance(self, index: int, monotonic: float) -> None:
        self.glances.append(index)
        self.acts.get(-1 - index, lambda: None)()

    def instances(self, index: int, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        return ()


class StopError(Exception):
    """Ends the rounds of a test."""


Frames = queue.Queue[tuple[Stamped, ...]]


@contextmanager
def running(reader: Scripted, count: int, period_s: float, fast_s: float = math.inf) -> Iterator[Frames]:
    """Rounds in a thread; what they send."""
    frames: Frames = queue.Queue()
    ended = threading.Event()

    def send(gpus: Iterable[Stamped | Renewal]) -> None:
        if ended.is_set():
            raise StopError
        frames.put(tuple(each.stamped() if isinstance(each, Renewal) else each for each in gpus))

    def run() -> None:
        with pytest.raises(StopError):
            Rounds(reader, count, period_s=period_s, send=send, fast_s=fast_s).run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield frames
    finally:
        ended.set()
        thread.join(60)
        assert not thread.is_alive()


def frame_when(frames: Frames, wanted: Callable[[tuple[Stamped, ...]], bool]) -> tuple[Stamped, ...]:
    until = time.monotonic() + 60
    while True:
        gpus = frames.get(timeout=max(0.01, until - time.monotonic()))
        if wanted(gpus):
            return gpus


def states(gpus: tuple[Stamped, ...]) -> list[GpuState]:
    return [gpu.reading.state for gpu in gpus]


def _wait(release: threading.Event) -> None:
    release.wait(60)


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("gpu-reader")}


def test_threads_come_with_stuck_gpus_and_never_are_more_than_gpus() -> None:
    reader, release = Scripted(), threading.Event()
    already = readers()

    def stuck() -> None:
        release.wait(60)

    with running(reader, 8, 0.1) as frames:
        frame_when(frames, lambda gpus: all(gpu.at is not None for gpu in gpus))
        for _ in range(5):
            frames.get(timeout=60)
        assert 1 <= len(readers() - already) < 8  # one, or more where the machine itself was slow
        for index in (2, 5):
            reader.acts[index] = stuck
        gpus = frame_when(frames, lambda gpus: states(gpus).count(GpuState.HUNG) == 2)
        assert states(gpus)[2] is states(gpus)[5] is GpuState.HUNG
        for _ in range(20):
            frames.get(timeout=60)
        assert 3 <= len(readers() - already) <= 8
        release.set()
        reader.acts.clear()
        frame_when(frames, lambda gpus: set(states(gpus)) == {GpuState.OK})


def test_a_slow_gpu_is_read_every_round_it_can_and_holds_nobody_up() -> None:
    reader, answers = Scripted(), threading.Semaphore(1)

    def slow() -> None:
        answers.acquire(timeout=60)

    reader.acts[0] = slow
    with running(reader, 4, 0.1) as frames:
        gpus = frame_when(frames, lambda gpus: all(gpu.at is not None for gpu in gpus))
        for _ in range(5):
            for _ in range(3):  # three frames without it, and it has not answered yet
                gpus = frames.get(timeout=60)
                assert set(states(gpus)) == {GpuState.OK}
            asked = gpus[0].at
            assert asked is not None
            assert all(gpu.at is not None and gpu.at > asked for gpu in gpus[1:])
            answers.release()
            frame_when(frames, lambda gpus, asked=asked: (gpus[0].at or 0.0) > asked)  # type: ignore[misc]


@pytest.mark.parametrize(("error", "state"), [(GpuLostError("gone"), GpuState.LOST), (KeyError("bug"), GpuState.HUNG)])
def test_an_error_is_the_state_of_its_gpu_and_logged_once(
    error: Exception, state: GpuState, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    reader = Scripted()
    reader.acts[1] = fail
    with caplog.at_level(logging.WARNING, "agent.gpu.rounds"), running(reader, 2, 0.05) as frames:
        gpus = frame_when(frames, lambda gpus: gpus[1].reading.state is not GpuState.OK)
        assert states(gpus) == [GpuState.OK, state]
        assert str(error) in (gpus[1].reading.reason or "")
        for _ in range(5):
            frames.get(timeout=60)
        reader.acts.clear()
        frame_when(frames, lambda gpus: gpus[1].reading.state is GpuState.OK)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith(f"gpu=1 ok -> {state}: ")
    assert said[1] == f"gpu=1 {state} -> ok: it answers again"
    assert (caplog.records[0].exc_info is not None) is isinstance(error, KeyError)


def test_a_driver_that_goes_ends_the_rounds() -> None:
    def fail() -> None:
        raise DriverGoneError("exchanged")

    reader = Scripted()
    reader.acts[1] = fail
    with pytest.raises(DriverGoneError, match="exchanged"):
        Rounds(reader, 2, period_s=1.0, send=lambda _: None).run()


def test_a_thread_that_was_left_behind_ends_when_its_gpu_answers() -> None:
    reader, release = Scripted(), threading.Event()
    already = readers()
    with running(reader, 4, 0.1) as frames:
        frame_when(frames, lambda gpus: all(gpu.at is not None for gpu in gpus))
        reader.acts[1] = lambda: _wait(release)
        frame_when(frames, lambda gpus: gpus[1].reading.state is GpuState.HUNG)
        assert len(readers() - already) >= 2
        release.set()
        frame_when(frames, lambda gpus: gpus[1].reading.state is GpuState.OK)
        until = time.monotonic() + 60
        while len(readers() - already) > 1:
            assert time.monotonic() < until
            frames.get(timeout=60)


def test_a_gpu_that_hangs_in_the_first_read_is_named_though_nothing_is_known_of_it() -> None:
    reader, release = Scripted(), threading.Event()
    reader.acts[0] = lambda: _wait(release)
    with running(reader, 2, 0.1) as frames:
        gpus = frame_when(frames, lambda gpus: gpus[0].reading.state is GpuState.HUNG)
        assert (gpus[0].at, states(gpus)[1]) == (None, GpuState.OK)
        release.set()
        frame_when(frames, lambda gpus: set(states(gpus)) == {GpuState.OK} and gpus[0].at is not None)


def test_glances_fall_between_two_reads_and_none_is_made_unless_wanted() -> None:
    reader = Scripted()
    with running(reader, 2, 0.2) as frames:
        for _ in range(4):
            frames.get(timeout=60)
    assert reader.glances == []
    with running(reader, 2, 0.5, fast_s=0.05) as frames:
        for _ in range(4):
            frames.get(timeout=60)
    assert reader.glances.count(0) == reader.glances.count(1) >= 3


def test_a_gpu_that_hangs_at_a_glance_is_named_and_the_others_go_on() -> None:
    reader, release = Scripted(), threading.Event()
    with running(reader, 3, 0.5, fast_s=0.05) as frames:
        frame_when(frames, lambda gpus: all(gpu.at is not None for gpu in gpus))
        reader.acts[-1 - 1] = lambda: _wait(release)
        gpus = frame_when(frames, lambda gpus: gpus[1].reading.state is GpuState.HUNG)
        assert states(gpus) == [GpuState.OK, GpuState.HUNG, GpuState.OK]
        before = [gpu.at or 0.0 for gpu in gpus]
        frame_when(frames, lambda gpus: all((gpus[each].at or 0.0) > before[each] for each in (0, 2)))
        reader.acts.clear()
        release.set()
        frame_when(frames, lambda gpus: set(states(gpus)) == {GpuState.OK})
