"""The job's standard input, output and error: the pipes between the job and its log and files.

Cheap imports only (see `lean`).
"""

from __future__ import annotations

import fcntl
import os
import select
import time

from agent.engine.order import Order
from agent.engine.output import BoundedLog, OutputFile, open_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 256 * 1024
_PIPE_BYTES = 256 * 1024
"""Asked of the kernel for each pipe; less is accepted (an account has a budget for pipes)."""
_FOLDER_S = 2.0
"""How long a missing folder of --output is waited for. submitit and scripts like it make `log/JOBID` once sbatch has
told them the id, and Slurm's scheduler is slow enough for that."""
_LOOK_S = 0.02


class Streams:
    """Pipes from the job to everywhere its output goes."""

    def __init__(self, dir_fd: int, order: Order, poll: select.poll, is_asked: Callable[[], bool]) -> None:
        """`is_asked`: whether the job is to stop."""
        self._order = order
        self._is_asked = is_asked
        self._give_up_at: float | None = None
        self._poll = poll
        self._log = BoundedLog(dir_fd, order.log_head_bytes, order.log_tail_bytes)
        self._files: list[OutputFile] = []
        self._pipes: dict[int, list[BoundedLog | OutputFile]] = {}
        self._errors: list[BoundedLog | OutputFile] = []
        """Where standard error goes, whether or not the job has closed it."""

    def open(self) -> tuple[int, int, int]:
        """The job's ends of input, output and error; the last two are one when both go to the same place.

        Raises:
            StartError: a file cannot be opened for the user.
            OSError: too many files are open.
        """
        order = self._order
        stdin = open_input(order.input_path, order.account)
        stdout = self._pipe_to(order.output_path)
        if order.error_path is None or order.error_path == order.output_path:
            return stdin, stdout, stdout
        return stdin, stdout, self._pipe_to(order.error_path)

    def has(self, fd: int) -> bool:
        """Whether it is one of ours, to `take_in` when it is readable."""
        return fd in self._pipes

    def take_in(self, fd: int) -> bool:
        """One read of a pipe to its sinks; False when there is nothing (for now, or for good)."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._poll.unregister(fd)
            del self._pipes[fd]
            os.close(fd)
            return False
        for sink in self._pipes[fd]:
            sink.write(data)
        return True

    def drain(self, give_up_at: float) -> None:
        """What is still in the pipes. Everyone of the job is dead, so empty is the end; a stranger gets until then."""
        for fd in list(self._pipes):
            while time.monotonic() < give_up_at and self.take_in(fd):
                pass

    def say(self, line: str) -> None:
        """A line of ours behind the job's own errors, where slurmstepd writes its."""
        for sink in self._errors:
            sink.write(line.encode("utf-8", "surrogateescape"))

    def problems(self) -> list[str]:
        """Why a file is not whole."""
        return [file.problem for file in self._files if file.problem]

    @property
    def log_bytes(self) -> int:
        """What the job wrote, kept or not."""
        return self._log.size

    def _may_come(self) -> bool:
        """Whether to look again for a folder that is missing; a moment later."""
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + _FOLDER_S
        if self._is_asked() or time.monotonic() >= self._give_up_at:
            return False
        time.sleep(_LOOK_S)
        return True

    def _pipe_to(self, path: str | None) -> int:
        sinks: list[BoundedLog | OutputFile] = [self._log]
        if path is not None:
            order = self._order
            file = OutputFile(
                path,
                order.account,
                order.program.umask,
                append=order.append,
                max_bytes=order.output_max_bytes,
                may_come=self._may_come,
            )
            self._files.append(file)
            sinks.append(file)
        self._errors = sinks
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        _widen(read_end)
        self._order.account.give(write_end)
        self._pipes[read_end] = sinks
        self._poll.register(read_end, select.POLLIN)
        return write_end


def _widen(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return
