"""Steps that come from outside of a job, `srun --jobid=17`: processes that its shim starts beside the first one.

Rules kept here: such a process is made exactly as the job's first one is (account, cgroup, covered devices, limits,
environment), below the shim, so that it ends with the job and is swept with it; it gets nothing of the job's streams:
it is `stoker-attach`, which asks whoever waits outside for theirs. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os
import select

from agent.engine.jobproc import JobProcess, Program
from agent.engine.order import Order


class AddedSteps:
    """See above."""

    def __init__(self, order: Order, poll: select.poll, oom_score: int) -> None:
        self._order = order
        self._poll = poll
        self._oom_score = oom_score
        self._starting: dict[int, JobProcess] = {}
        """By the descriptor that tells how the start went."""

    def start(self, argv: list[str]) -> None:
        """Start one. Where it cannot be, nobody comes to whoever waits, who says so."""
        order = self._order
        try:
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        try:
            program = Program.of(argv, order.program)
            made = JobProcess(program, order.account, order.surroundings, (null, null, null), self._oom_score)
        except OSError:
            return
        finally:
            os.close(null)
        self._starting[made.exec_result] = made
        self._poll.register(made.exec_result, select.POLLIN)
        made.open_gate()

    def hears(self, fd: int) -> bool:
        """Take in what is told of a start; whether the descriptor was one of ours."""
        made = self._starting.get(fd)
        if made is None:
            return False
        if made.hear():
            self._poll.unregister(fd)
            del self._starting[fd]
            os.close(fd)
        return True
