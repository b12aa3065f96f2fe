"""The sampling itself: rounds in which each GPU is read once, by threads of which any may get stuck for ever.

    main thread        begins rounds, takes answers to the board, names who is past the deadline
    gpu-reader-0       reads the GPUs that are due, one after another
    gpu-reader-1 …     started when another is stuck in the driver: one for each stuck GPU, at most one a GPU in all

A driver call that never returns holds its own thread and no other GPU. Threads come on demand because eight that are
woken each second cost more than the reading itself (figures in the README), and one is enough while all GPUs answer.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from agent.api.types import GpuState
from agent.gpu.base import DriverGoneError, GpuLostError, GpuReader
from agent.gpu.board import Answer, Board
from agent.gpu.frames import Stamped

log = logging.getLogger(__name__)

STEP_S = 0.05
"""How long one GPU may keep the others waiting, or a quarter of the period; a healthy driver takes a few ms for all."""


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
        self, reader: GpuReader, count: int, *, period_s: float, send: Callable[[tuple[Stamped, ...]], None]
    ) -> None:
        self._reader = reader
        self._period_s = period_s
        self._step_s = min(STEP_S, period_s / 4)
        self._send = send
        self._board = Board(count, deadline_s=deadline_s(period_s), now=time.time())
        self._threads: list[threading.Thread] = []
        # Shared with the threads; each operation on them is atomic.
        self._due: deque[int] = deque()
        self._answers: deque[Answer | DriverGoneError] = deque()
        self._turns: SimpleQueue[None] = SimpleQueue()
        """Wakes an idle reader thread."""
        self._news: SimpleQueue[None] = SimpleQueue()
        """Wakes the main thread: a reader found nothing more due."""

    def run(self) -> None:
        """Sample until something raises.

        Raises:
            DriverGoneError: the driver went away.
            OSError: from `send`.
        """
        begin = time.monotonic()
        while True:
            self._ask()
            self._gather()
            self._judge()
            self._send(self._board.gpus())
            begin = max(begin + self._period_s, time.monotonic())
            self._wait(begin)

    def _ask(self) -> None:
        for index in self._board.idle():
            self._board.ask(index, time.monotonic())
            self._due.append(index)
        self._wake_reader()

    def _gather(self) -> None:
        """Take answers until none is awaited; a slow GPU holds the others up for one step, and the frame for two."""
        slow = 0
        while self._board.awaited() and (self._due or slow < 2):
            if not self._take(self._step_s):
                slow += 1
                self._wake_reader()

    def _wait(self, until: float) -> None:
        """Pass the time to the next round; late answers are taken, and who is past the deadline is named at once."""
        while (now := time.monotonic()) < until:
            deadline = self._board.next_deadline()
            self._take((until if deadline is None else min(until, max(deadline, now))) - now)
            if self._judge():
                self._send(self._board.gpus())

    def _judge(self) -> bool:
        """Name who is past the deadline; whether anybody newly is."""
        late = self._board.judge(time.monotonic(), time.time())
        for index in late:
            log.warning("gpu=%d -> hung: no answer within %g s", index, deadline_s(self._period_s))
        return bool(late)

    def _take(self, timeout_s: float) -> bool:
        """Wait for news and put what has come on the board; whether anything had."""
        with contextlib.suppress(Empty):
            self._news.get(timeout=timeout_s)
        took = bool(self._answers)
        while self._answers:
            answer = self._answers.popleft()
            if isinstance(answer, DriverGoneError):
                raise answer
            old, new = self._board.answer(answer, time.time())
            if old is not new:
                what = answer.reason or "it answers again"
                log.warning("gpu=%d %s -> %s: %s", answer.index, old, new, what, exc_info=answer.error)
        return took

    def _wake_reader(self) -> None:
        """Have what is due read, by a new thread if each one we have is held by a GPU."""
        if not self._due:
            return
        if self._board.asked() - len(self._due) >= len(self._threads):
            name = f"gpu-reader-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._read_due, name=name, daemon=True))
            self._threads[-1].start()
        self._turns.put(None)

    def _read_due(self) -> None:
        """A reader thread's life."""
        while True:
            self._turns.get()
            with contextlib.suppress(IndexError):
                while True:
                    self._answers.append(_read(self._reader, self._due.popleft()))
            self._news.put(None)


def _read(reader: GpuReader, index: int) -> Answer | DriverGoneError:
    """One GPU's answer, whatever becomes of it: the rim of the reader threads."""
    try:
        now, monotonic = time.time(), time.monotonic()
        reading = reader.read(index, now, monotonic)
        return Answer(index=index, reading=reading, instances=reader.instances(index, now, monotonic))
    except DriverGoneError as error:
        return error
    except GpuLostError as error:
        return Answer(index=index, reading=None, state=GpuState.LOST, reason=str(error))
    except Exception as error:  # noqa: BLE001 - logged with its traceback, once, where the state changes
        reason = f"reading GPU {index} failed: {error!r}; the agent's log has the details"
        return Answer(index=index, reading=None, state=GpuState.HUNG, reason=reason, error=error)
