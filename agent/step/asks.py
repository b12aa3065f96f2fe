"""What a running step is asked from outside of its job: `scancel 17.0`, with or without a signal.

A fifo `$JOB_DIR/.step-ATTEMPT.NUMBER`, made by the step's srun and written by the agent, a line an ask: `end`, or
`signal N`. Rules kept here: what makes no sense is passed over; a folder that takes no fifo costs the step this ear and
nothing else; a fifo that nobody reads any more refuses its writer, so no ask is ever taken for heard that was not.
Cheap imports only (see `words`).
"""

# ruff: noqa: PTH108, PTH118

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select

END = "end"
"""SIGTERM to all of the step, and SIGKILL to what does not end."""

_MOST_SIGNAL = 64
_LINES = 4096


def fifo_name(attempt: str, step: int) -> str:
    """Within `$JOB_DIR`."""
    return f".step-{attempt}.{step}"


def signal_line(number: int) -> str:
    """The ask that passes a signal on to the ranks."""
    return f"signal {number}"


class Asks:
    """One step's ear."""

    def __init__(self, folder: str | None, attempt: str, step: int) -> None:
        """`folder` is the job's; `None`: there is none, and nothing is heard."""
        self._path = None if folder is None else os.path.join(folder, fifo_name(attempt, step))
        self.fd: int | None = None
        self._said = b""

    def open(self, poll: select.poll) -> None:
        """Begin to hear."""
        if self._path is None:
            return
        try:
            os.mkfifo(self._path, 0o600)
            # For writing too: without a writer of its own the fifo would be at its end after every ask.
            self.fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        poll.register(self.fd, 1)  # POLLIN

    def take(self) -> list[str]:
        """The whole asks that have come: `end`, or the number of a signal."""
        if self.fd is None:
            return []
        try:
            *whole, self._said = (self._said + os.read(self.fd, _LINES)).split(b"\n")
        except BlockingIOError:
            return []
        self._said = self._said[-_LINES:]
        return [ask for line in whole if (ask := _ask(line.decode("ascii", "replace")))]

    def close(self) -> None:
        """Hear nothing any more, and leave nothing."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        try:  # noqa: SIM105 - contextlib is not worth its import here
            os.unlink(self._path or "")
        except OSError:
            pass


def _ask(line: str) -> str:
    word, _, number = line.partition(" ")
    if line == END:
        return END
    known = word == "signal" and number.isascii() and number.isdecimal() and 0 < int(number[:9]) <= _MOST_SIGNAL
    return number if known else ""
