"""When and how a running job is ended: warned, asked by file, told by SIGTERM, killed.

      limit − N s      limit, or asked to stop                                        grace over
    ──────┬───────────────┬──────────────────────────────┬────────────────────────────────┬────
     --signal's SIG    $JOB_DIR/stop (and SIG before   SIGTERM to all of the job,      SIGKILL
                       a preemption, if not sent yet)  when it had its measured time

Rules kept here: the wait between stop file and SIGTERM is what the job has measured (`jobfolder`), and leaves SIGTERM
its part of the grace; whoever does not speak the contract is told at once; the signal of `--signal` is sent once for
each limit; what was waited for, and in vain, is told. Times are the monotonic clock. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os

from agent.engine import procs
from agent.engine.jobfolder import JobFolder
from agent.engine.lean import signal
from agent.engine.order import Order

_FOR_TERM = 0.2
"""Part of the grace that is kept for what SIGTERM starts."""

_SETTLE_S = 1.0
"""No warning comes earlier: a script must have come to its `trap`. Only matters where the limit is that short."""

_NEVER = float("inf")


class Ending:
    """The end of one run, from the outside."""

    def __init__(self, order: Order, folder: JobFolder) -> None:
        self.why: str | None = None
        """The exit record's word; `None` while nobody wants it to end."""
        self.told: list[str] = []
        """Sentences of the exit record's detail."""
        self._order = order
        self._folder = folder
        self._limit_s = order.limit_s
        self._first = 0
        self._gate_at = _NEVER
        self._warned = False
        self._warn_at = self._limit_at = _NEVER
        self._asked_at = self._term_at = self._termed_at = self._kill_at = _NEVER

    def begin(self, now: float, first: int) -> None:
        """The gate opens for the job, whose first process is `first`."""
        self._gate_at, self._first = now, first
        self.change_limit(self._limit_s, now)

    def change_limit(self, limit_s: float | None, now: float) -> None:
        """Another time limit, counted from the gate; a warning that was given for the old one is due again."""
        self._limit_s = limit_s
        self._limit_at = _NEVER if limit_s is None else self._gate_at + limit_s
        warn_at = max(self._limit_at - self._order.warn.before_s, self._gate_at + _SETTLE_S)
        if self._order.warn.number is not None and (not self._warned or warn_at > now):
            self._warn_at, self._warned = warn_at, False

    def due(self) -> float:
        """When something is to be done next; infinity when only an event can change anything."""
        return min(self._kill_at, self._term_at if self.why else min(self._warn_at, self._limit_at))

    def act(self, now: float) -> None:
        """Do what is due."""
        if self.why is not None:
            if now >= self._term_at:
                self._terminate(now)
        elif now >= self._limit_at:
            self.stop("limit", "the time limit", f"reached its time limit of {self._limit_s:g} s", now)
        elif now >= self._warn_at:
            self._warn(f"{self._order.warn.before_s:g} s before its time limit")

    def stop(self, why: str, by: str, told: str, now: float) -> None:
        """Begin to end it; the first wish stands."""
        if self.why is not None:
            return
        self.why = why
        self.told.append(told)
        grace_s = self._order.grace_s
        self._asked_at, self._kill_at = now, now + grace_s
        wait_s, known = self._folder.ask(why if why in ("limit", "preempt") else "cancel", by)
        room_s = grace_s * (1 - _FOR_TERM)
        wait_s = room_s if wait_s is None else min(wait_s, room_s)
        if why == "preempt" and self._order.warn.number is not None and not self._warned:
            self._warn("before its preemption")
            wait_s = max(wait_s, min(self._order.warn.before_s, room_s))
        if known:
            self.told.append(f"its stop file was written and {wait_s:.3g} s waited for: {known}" if wait_s else known)
        self._term_at = now + wait_s
        if not wait_s:
            self._terminate(now)

    def send(self, number: int, *, batch_only: bool) -> None:
        """A signal to the job's first process alone, or to all of the job but that one."""
        for pid, start in procs.descendants(os.getpid()) if 0 < number < signal.NSIG else ():
            if (pid == self._first) is batch_only:
                procs.signal_exact(pid, start, number)

    def over(self, now: float) -> bool:
        """The grace is over."""
        return now >= self._kill_at

    def tell(self, killed: int, now: float) -> None:
        """What came of it, once it has ended.

        Args:
            killed: processes that SIGKILL had to end.
            now: the time.
        """
        if self._asked_at == _NEVER:
            return
        if self._termed_at == _NEVER:
            self.told.append(f"ended by itself {now - self._asked_at:.1f} s after it was asked")
        elif killed:
            ignored_s = self._kill_at - self._termed_at
            self.told.append(f"SIGTERM was ignored for {ignored_s:.3g} s; SIGKILL ended {killed} processes")
        else:
            self.told.append(f"ended {now - self._termed_at:.1f} s after SIGTERM")

    def _warn(self, when: str) -> None:
        warn = self._order.warn
        self._warn_at, self._warned = _NEVER, True
        if warn.number is not None:
            self.send(warn.number, batch_only=warn.batch_only)
            self.told.append(f"signal {warn.number} was sent {when}")

    def _terminate(self, now: float) -> None:
        """SIGTERM to everything below us, once; SIGCONT, because a stopped process would not hear it."""
        self._term_at, self._termed_at = _NEVER, now
        for pid, start in procs.descendants(os.getpid()):
            procs.signal_exact(pid, start, signal.SIGTERM)
            procs.signal_exact(pid, start, signal.SIGCONT)
