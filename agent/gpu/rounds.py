"""The sampling itself: rounds in which each GPU is read once, by threads of which any may get stuck for ever.

    gpu-reader-0       leads: sleeps until the round begins, reads GPU by GPU, sends what came of it
    main thread        sleeps until the leader takes too long, or a GPU: then hands the lead on, names the GPU
    gpu-reader-1 …     lead from then on; one is left behind with each stuck GPU, and ends when that answers

A driver call that never returns holds its own thread and no other GPU. While all GPUs answer one thread is woken once a
round: eight of them, or the main thread beside it, cost more than the reading itself (figures in the README).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from agent.api.types import GpuReading, GpuState
from agent.gpu.base import DriverGoneError, GpuLostError, GpuReader, Sweep
from agent.gpu.bell import Bell
from agent.gpu.board import Answer, Board
from agent.gpu.frames import Renewal, Stamped

log = logging.getLogger(__name__)

STEP_S = 0.05
"""How long one GPU may keep the others waiting, or a quarter of the period; a healthy driver takes a few ms for all."""


_Good = tuple[int, GpuReading, tuple[GpuReading, ...]]
"""A GPU that was read, and its MIG instances; `Answer` is made only of what is not usual."""


class _Ready(NamedTuple):
    """A GPU of which it is enough to hear what is new."""

    gpu: int


_Answer = _Good | Answer | DriverGoneError


def deadline_s(period_s: float) -> float:
    """How long one read may take before its GPU is called hung.

    One and a half periods: a GPU that stops answering right after a sample is asked again one period later, and so is
    named 2.5 periods after it stopped. At least 1 s, so that fast sampling on a busy machine raises no false alarm; at
    most 5 s, so that slow sampling still notices.
    """
    return min(max(1.5 * period_s, 1.0), 5.0)


class Rounds:
    """Reads `count` GPUs once a period and hands over the state of all of them."""

    def __init__(
        self,
        reader: GpuReader,
        count: int,
        *,
        period_s: float,
        send: Callable[[Iterable[Stamped | Renewal]], None],
        fast_s: float = math.inf,
    ) -> None:
        """`fast_s`: how often a GPU is glanced at between two reads, see `GpuReader.glance`."""
        self._reader = reader
        self._period_s = period_s
        self._fast_s = fast_s
        self._step_s = min(STEP_S, period_s / 4)
        self._send = send
        self._bell = Bell()
        # All that follows belongs to whoever holds the lock; a GPU is read without it.
        self._lock = threading.Lock()
        self._board = Board(count, deadline_s=deadline_s(period_s), now=time.time())
        self._leader: threading.Thread | None = None
        self._leaders = 0
        self._asking_since: float | None = None
        """When the leader asked the GPU that has not answered yet."""
        self._due: deque[int] = deque()
        self._in_full: set[int] = set()
        """GPUs of which it is not enough in this round to hear what is new."""
        self._ready: list[int] = []
        """Those of which it is enough; they are asked last, all together."""
        self._sweep: Sweep | None = None
        """While they are."""
        self._sweep_at = 0.0
        self._left_with: dict[threading.Thread, int] = {}
        """Threads that are stuck in one, and the GPU that they are stuck with."""
        self._swept: int | None = None
        """Which of them was being asked when the main thread looked last."""
        self._under_way = False
        """A round was begun and is not over."""
        self._begin = time.monotonic()
        """Of this round, or of the next one."""
        self._failed: Exception | None = None

    def run(self) -> None:
        """Sample until something raises.

        Raises:
            DriverGoneError: the driver went away.
            OSError: from `send`.
        """
        with self._lock:
            self._hand_on(time.monotonic())
        while True:
            self._bell.wait()
            with self._lock:
                if self._failed is not None:
                    self._leader = None
                    raise self._failed
                now = time.monotonic()
                if self._asking_since is not None and now - self._asking_since >= self._step_s:
                    self._look_after(now)
                if self._judge(now):
                    self._send(self._board.gpus())
                self._wind(now)

    # --- with the lock held -------------------------------------------------------------------------------------------

    def _look_after(self, now: float) -> None:
        """The leader has asked for long: another takes over, unless it is with another GPU than it was."""
        if self._sweep is not None:
            asking = self._sweep.asking()
            if asking is None or asking != self._swept:
                self._swept, self._asking_since = asking, now
                return
            self._sweep.abandon()
            self._board.ask(asking, self._sweep_at)
            if self._leader is not None:
                self._left_with[self._leader] = asking
            self._due.extend(index for index in self._sweep.indexes if index != asking)
            self._in_full.update(self._due)
            self._sweep = None
        self._hand_on(now)

    def _hand_on(self, now: float) -> None:
        """Another thread leads; the one that did so far stays with its GPU."""
        self._leader = threading.Thread(target=self._lead, name=f"gpu-reader-{self._leaders}", daemon=True)
        self._leaders += 1
        self._asking_since = None
        self._wind(now)
        self._leader.start()

    def _judge(self, now: float) -> bool:
        """Name who is past the deadline; whether anybody newly is."""
        late = self._board.judge(now, time.time())
        for index in late:
            log.warning("gpu=%d -> hung: no answer within %g s", index, deadline_s(self._period_s))
        return bool(late)

    def _wind(self, now: float) -> None:
        """Set the bell to when the main thread may have something to do."""
        if self._asking_since is not None:
            begun = self._asking_since
        else:  # the leader reads on, or sleeps
            begun = now if self._under_way else max(now, min(self._begin, now + self._fast_s))
        self._bell.set(min(begun + self._step_s, self._board.next_deadline() or math.inf))

    def _put(self, answer: _Answer) -> None:
        if isinstance(answer, tuple):
            if self._board.was_read(*answer):
                return
            index, reading, instances = answer
            answer = Answer(index=index, reading=reading, instances=instances)
        if isinstance(answer, DriverGoneError):
            raise answer
        before, after = self._board.answer(answer, time.time())
        if before is not after:
            what = answer.reason or "it answers again"
            log.warning("gpu=%d %s -> %s: %s", answer.index, before, after, what, exc_info=answer.error)

    def _choose(self) -> int | Sweep | None:
        """Who is asked now: GPU by GPU, then all that are ready; nobody at the end of the round."""
        if not self._due:
            if (sweep := self._start_sweep()) is not None:
                return sweep
            if not self._due:
                self._end_round()
                return None
        index = self._due.popleft()
        self._asking_since = time.monotonic()
        self._board.ask(index, self._asking_since)
        return index

    def _start_sweep(self) -> Sweep | None:
        """Make ready to ask all that are ready; `None` where none is."""
        ready, self._ready = self._ready, []
        if not ready:
            return None
        self._sweep_at = self._asking_since = time.monotonic()
        self._sweep = self._reader.sweep(ready, time.time(), self._sweep_at)
        self._swept = None
        if self._sweep is None or self._sweep.indexes is not ready:
            left = ready if self._sweep is None else [index for index in ready if index not in self._sweep.indexes]
            self._due.extend(left)
            self._in_full.update(left)
        return self._sweep

    def _end_sweep(self, sweep: Sweep) -> None:
        """Take what came of it; what is not clear is read in full."""
        self._sweep = None
        news = sweep.fold()
        if news is not None:
            self._board.were_read(news)
        else:
            self._due.extend(sweep.indexes)
            self._in_full.update(sweep.indexes)

    def _end_round(self) -> None:
        self._in_full.clear()
        self._asking_since = None
        self._under_way = False
        now = time.monotonic()
        self._judge(now)
        self._send(self._board.gpus())
        self._begin = max(self._begin + self._period_s, time.monotonic())
        self._wind(now)

    # --- reader threads -----------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        """A reader thread's life: it ends when another one leads."""
        me = threading.current_thread()
        try:
            while self._pass_time(me) and self._read_due(me, self._begin_round(me)):
                pass
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            with self._lock:
                self._failed = error
            self._bell.ring()

    def _pass_time(self, me: threading.Thread) -> bool:
        """Sleep until the round begins, with glances at the GPUs where they are wanted; whether still in the lead."""
        while (left := self._begin - time.monotonic()) > 0:
            if left < 1.5 * self._fast_s:
                time.sleep(left)
                continue
            time.sleep(self._fast_s)
            with self._lock:
                idle = self._board.idle()
            for index in idle:
                if not self._ask(me, index):
                    return False
                _glance(self._reader, index)
                if not self._glanced(me, index):
                    return False
            with self._lock:
                self._wind(time.monotonic())
        return True

    def _begin_round(self, me: threading.Thread) -> int | Sweep | None:
        """See who is asked in this round, and how; who is first."""
        with self._lock:
            if self._leader is me and not self._under_way:
                self._under_way = True
                board = self._board
                idle, ill = board.idle(), board.ill()
                well = [index for index in idle if index not in ill] if ill else idle
                self._ready = ready = self._reader.ready(well, time.monotonic())
                if len(ready) < len(idle):
                    self._due.extend(index for index in idle if index not in ready)
                    self._in_full.update(ill)
            return self._choose() if self._leader is me else None

    def _read_due(self, me: threading.Thread, due: int | Sweep | None) -> bool:
        """Read what is due and send it; whether still in the lead."""
        while due is not None:
            if isinstance(due, int):
                in_full = self._leader is not me or due in self._in_full
                due = self._next(me, _read(self._reader, due, in_full=in_full))
            else:
                due.ask()
                due = self._next(me, due)
        return self._leader is me

    def _next(self, me: threading.Thread, answer: _Answer | _Ready | Sweep) -> int | Sweep | None:
        """Take what was answered, and say who is asked now; `None` at the end of the round, or of the lead."""
        with self._lock:
            leads = self._leader is me
            if isinstance(answer, _Ready):
                self._board.glanced(answer.gpu)
                if leads:
                    self._ready = [*self._ready, answer.gpu]
            elif isinstance(answer, (tuple, Answer, DriverGoneError)):
                self._put(answer)
            else:
                if not leads:  # its GPU came back: that one is read, and then told
                    return self._left_with.pop(me, None)
                self._end_sweep(answer)
            if not leads:
                # Left behind with that GPU: it is told at once where the others have been told of already.
                if self._leader is not None and not self._under_way:
                    self._send(self._board.gpus())
                return None
            return self._choose()

    def _ask(self, me: threading.Thread, index: int) -> bool:
        """Note that the leader glances at a GPU; not if it no longer leads."""
        with self._lock:
            if self._leader is not me:
                return False
            self._asking_since = time.monotonic()
            self._board.ask(index, self._asking_since)
            return True

    def _glanced(self, me: threading.Thread, index: int) -> bool:
        with self._lock:
            self._board.glanced(index)
            if self._leader is not me:
                return False
            self._asking_since = None
            return True


def _read(reader: GpuReader, index: int, *, in_full: bool) -> _Answer | _Ready:
    """One GPU's answer, whatever becomes of it: the rim of the reader threads."""
    try:
        now, monotonic = time.time(), time.monotonic()
        if not in_full and reader.check(index, monotonic):
            return _Ready(index)
        reading = reader.read(index, now, monotonic)
        return index, reading, reader.instances(index, now, monotonic)
    except DriverGoneError as error:
        return error
    except GpuLostError as error:
        return Answer(index=index, reading=None, state=GpuState.LOST, reason=str(error))
    except Exception as error:  # noqa: BLE001 - logged with its traceback, once, where the state changes
        reason = f"reading GPU {index} failed: {error!r}; the agent's log has the details"
        return Answer(index=index, reading=None, state=GpuState.HUNG, reason=reason, error=error)


def _glance(reader: GpuReader, index: int) -> None:
    """What is wrong with the GPU the next read says."""
    try:
        reader.glance(index, time.monotonic())
    except Exception:
        log.debug("gpu=%d: a glance failed", index, exc_info=True)
