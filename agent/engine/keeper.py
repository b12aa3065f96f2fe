"""The fork server in a unit of its own, where PID 1 keeps house: `shim.py --keep SOCKET`, run as root.

    stoker-jobs.slice/stoker-jobs-HEX.service     Delegate=yes, KillMode=process; one for each start of an agent
      ├ supervisors/                              the keeper, and its shims
      ├ stoker-job-17-1.PID-START/                a job, with its limits; PID and START are its shim's
      └ stoker-job-18-1.PID-START/

It connects to the agent's socket, says which limits hold here, and makes shims as `forkserver` does. When the agent
goes it makes no more of them and stays until the last has ended. Rules kept here: a job whose shim has died has its
whole cgroup killed, also of keepers that are dead themselves; SIGTERM (systemctl stop, a shutdown) is passed on to the
shims, which end their jobs as asked, and is obeyed when they are done; the keeper's own death ends nothing. Cheap
imports only (see `lean`).
"""

from __future__ import annotations

import os
import select

from agent.engine import cgroup, procs
from agent.engine.forkserver import ATTEMPT_MAX_BYTES, hand_off, warm_up
from agent.engine.lean import signal

EXIT_NO_AGENT = 69
EXIT_NO_HOME = 78


def keep(path: str) -> None:
    """Serve the agent that listens there, and see all shims through; does not return."""
    import _socket  # the C half: the other loads `enum` and `selectors`

    home = cgroup.settle()
    if home is None:
        os.write(2, b"this unit's cgroup cannot be divided: there is no cgroup v2, or it is not delegated\n")
        os._exit(EXIT_NO_HOME)
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        link.connect(path)
        link.send(" ".join(home.controllers).encode() or b"-")
    except OSError as error:
        os.write(2, f"the agent that wanted this unit has gone: {path}: {error.strerror}\n".encode())
        os._exit(EXIT_NO_AGENT)
    warm_up()
    Keeper(home, link.detach()).run()
    os._exit(0)


class Keeper:
    """See above. One thread, one poll."""

    def __init__(self, home: cgroup.Home, link: int) -> None:
        self._home = home
        self._link: int | None = link
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._shims: set[int] = set()
        """Ours, not reaped yet: nobody else has these pids."""
        self._others: dict[int, str] = {}
        """pidfd of another keeper's shim → cgroup of its job."""
        self._asked = False

    def run(self) -> None:
        """Until there is neither an agent nor a shim."""
        self._wake, self._wake_write = os.pipe()
        for fd in (self._wake, self._wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, _on_child)
        self._poll.register(self._wake, select.POLLIN)
        self._take_up_others()
        while self._link is not None or self._shims:
            for fd, _ in self._poll.poll():
                if fd == self._wake:
                    os.read(fd, 4096)
                elif fd == self._link:
                    self._serve(fd)
                elif fd in self._others:
                    self._other_gone(fd)
            self._reap()
            if self._asked:
                self._stop()

    def _on_term(self, _number: int, _frame: object) -> None:
        self._asked = True

    def _serve(self, link: int) -> None:
        try:
            path = os.read(link, ATTEMPT_MAX_BYTES)
            if path:
                ours = [link, self._wake, self._wake_write, *self._others]
                pid, answer = hand_off(path, ours, self._home)
                if pid is not None:
                    self._shims.add(pid)
                os.write(link, answer)
                return
        except (BrokenPipeError, ConnectionResetError):
            pass
        self._let_go()

    def _let_go(self) -> None:
        """Make no more shims."""
        if self._link is not None:
            self._poll.unregister(self._link)
            os.close(self._link)
            self._link = None

    def _reap(self) -> None:
        while self._shims:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._shims.discard(pid)
            if status:  # it died, or had nothing to do; one that ended well has removed the job's cgroup itself
                for path, (shim, _) in cgroup.jobs_in(self._home.path):
                    if shim == pid:
                        cgroup.end(path)

    def _stop(self) -> None:
        """Pass SIGTERM on, once: to shims alone, which end their jobs with their grace."""
        self._asked = False
        self._let_go()
        for pid in self._shims:
            os.kill(pid, signal.SIGTERM)

    def _take_up_others(self) -> None:
        """Jobs of earlier keepers, which may be dead: end those that have lost their shim, now and later."""
        for home in cgroup.homes_beside(self._home.path):
            for path, shim in cgroup.jobs_in(home):
                pidfd = procs.open_exact(*shim)
                if pidfd is None:
                    cgroup.end(path)
                else:
                    self._others[pidfd] = path
                    self._poll.register(pidfd, select.POLLIN)

    def _other_gone(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        path = self._others.pop(pidfd)
        if os.path.exists(path):  # noqa: PTH110
            cgroup.end(path)


def _on_child(_number: int, _frame: object) -> None:
    """Nothing: that the poll ends is all that is wanted."""
