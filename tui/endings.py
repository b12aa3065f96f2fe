"""Being ended from outside while a job is waited for: SIGTERM, and SIGHUP when the terminal or its link closes.

Rules kept here: like srun, a command that is ended so takes its job with it; what was ignored from the start, as under
`nohup`, stays ignored; while a job is handed in the signal waits, so that a job that was stored is known and can be
cancelled; once heard, the second one (a shell and the kernel each send a SIGHUP) disturbs nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

HEARD = (signal.SIGTERM, signal.SIGHUP)


class EndedError(BaseException):
    """A signal ends this command. Nothing on the way up takes it for a failure, or for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def code(self) -> int:
        """128 and the signal's number, as a shell has it."""
        return 128 + self.number


class Endings:
    """Listens for the signals while it is entered, and raises `EndedError` where the command is then."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._waits = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Endings:
        for number in HEARD:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def later(self) -> Iterator[None]:
        """Only note what comes meanwhile; `check` after it raises."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def check(self) -> None:
        """Be ended by what came `later`.

        Raises:
            EndedError: a signal came.
        """
        if self._number is not None:
            raise EndedError(self._number)

    def hears(self, number: signal.Signals) -> bool:
        """Whether it was not ignored from the start."""
        return number in self._before

    def _heard(self, number: int, _: FrameType | None) -> None:
        if self._number is not None:
            return
        self._number = number
        if not self._waits:
            raise EndedError(number)
