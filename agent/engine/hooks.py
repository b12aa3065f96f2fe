"""The site's programs around a job: prolog, epilog, and their like as the user.

    prolog ─► job: task_prolog ─► the job itself ─► sweep ─► task_epilog ─► epilog ─► exit record

Rules kept here: a hook of root's gets an environment of our facts and nothing that the user chose; each hook has a time
limit, and whatever it leaves running is killed (a daemon is systemd's to run); what it says goes to `hooks.log` in the
attempt's folder, bounded. Meanings and the words that a task_prolog prints are Slurm's (slurm.conf(5), Prolog and
Epilog Scripts). Cheap imports only (see `lean`); loaded only where there are hooks.
"""

from __future__ import annotations

import os
import select
import time

from agent.engine import procs
from agent.engine.jobproc import Account, raw, reset_signals
from agent.engine.lean import signal

LOG_BYTES = 64 * 1024
"""Most that is kept of what all hooks of an attempt say."""

_KILL_S = 5.0
_LOOK_S = 0.5
"""How often `asked` is looked at: a stop record comes without a signal while there is no `started`."""

_READ_BYTES = 65536

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.engine.jobproc import Surroundings
    from agent.engine.order import Order


class HookLog:
    """`hooks.log`, where the disk lets us."""

    def __init__(self, dir_fd: int) -> None:
        self._room = LOG_BYTES
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open("hooks.log", flags, 0o600, dir_fd=dir_fd)
        except OSError:
            self._room = 0

    def write(self, data: bytes) -> None:
        """Append as far as there is room."""
        if self._room > 0:
            part = data[: self._room]
            self._room -= len(part)
            try:
                os.write(self._fd, part if self._room else part + b"\n[stoker: cut here]\n")
            except OSError:
                self._room = 0


class SiteHooks:
    """The hooks of one attempt, as its shim runs them."""

    def __init__(self, dir_fd: int, order: Order) -> None:
        self._order = order.hooks
        self._program = order.program
        self._account = order.account
        self._around = order.surroundings if order.surroundings.hidden else None
        self._log = HookLog(dir_fd)
        self._env = {raw(name): raw(value) for name, value in order.hooks.env.items()}
        self.epilog_problem: str | None = None
        """What went wrong with the epilog; a task_epilog is the job's own affair."""

    def prolog(self, wake: int, asked: Callable[[], bool]) -> str | None:
        """Before the job; returns why there must be none. One that is asked to stop is not at fault."""
        if self._order.prolog is None:
            return None
        env = {**self._env, b"SLURM_SCRIPT_CONTEXT": b"prolog_slurmd"}
        problem = self._run("prolog", self._order.prolog, env, None, wake=wake, asked=asked)
        return (
            None if problem is None or asked() else f"{problem}; what it said is in hooks.log of the attempt's folder"
        )

    def epilog(self, status: int | None) -> list[str]:
        """After the job, when nothing of it is left; returns what went wrong, which changes no outcome.

        Args:
            status: waitpid's, of the job; `None` when it never ran.
        """
        code = b"0" if status is None else b"%d" % status
        told = []
        if self._order.task_epilog is not None and status is not None:
            env = {**self._program.env, b"SLURM_SCRIPT_CONTEXT": b"epilog_task", b"SLURM_JOB_EXIT_CODE": code}
            told.append(self._run("task_epilog", self._order.task_epilog, env, self._account, confined=self._around))
        if self._order.epilog is not None:
            env = {**self._env, b"SLURM_SCRIPT_CONTEXT": b"epilog_slurmd", b"SLURM_JOB_EXIT_CODE": code}
            self.epilog_problem = self._run("epilog", self._order.epilog, env, None)
            told.append(self.epilog_problem)
        return [each for each in told if each is not None]

    def _run(
        self,
        name: str,
        path: str,
        env: dict[bytes, bytes],
        account: Account | None,
        *,
        wake: int | None = None,
        asked: Callable[[], bool] = bool,
        confined: Surroundings | None = None,
    ) -> str | None:
        take, timeout_s = self._log.write, self._order.timeout_s
        try:
            return run_hook(name, path, env, account, timeout_s, take, wake=wake, asked=asked, confined=confined)
        except OSError as error:
            return f"the {name} {path} could not be started: {error.strerror}"


def run_hook(
    name: str,
    path: str,
    env: dict[bytes, bytes],
    account: Account | None,
    timeout_s: float,
    take: Callable[[bytes], None],
    *,
    wake: int | None = None,
    asked: Callable[[], bool] = bool,
    beside: bool = False,
    confined: Surroundings | None = None,
) -> str | None:
    """Run a hook to its end; returns what went wrong, `None` when it exited with 0.

    Args:
        name: `prolog` and the like, for the sentence.
        path: the program; absolute.
        env: its whole environment.
        account: whom to become; `None` stays who we are.
        timeout_s: then it is killed.
        take: gets what it writes.
        wake: becomes readable when a signal has come.
        asked: true ends the hook early.
        confined: hide from it what is hidden from the job.
        beside: only standard output goes to `take`, the rest to where ours goes, and it starts in our folder.

    Raises:
        OSError: no process can be had.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_hook(path, env, account, write_end, beside, confined)
    os.close(write_end)
    try:
        status = _await(pid, read_end, time.monotonic() + timeout_s, take, wake, asked)
    finally:
        _kill_below()
        _drain(read_end, take)
        os.close(read_end)
    return _problem(name, path, status, timeout_s)


def _become_hook(
    path: str,
    env: dict[bytes, bytes],
    account: Account | None,
    out: int,
    beside: bool,
    confined: Surroundings | None,
) -> None:
    """In the child; does not return."""
    try:
        os.setsid()
        reset_signals()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out, 1)
        if not beside:
            os.dup2(out, 2)
            os.chdir("/")
            os.umask(0o022)
        if confined is not None:
            _hide(confined)
        if account is not None:
            account.become()
        os.execve(raw(path), [raw(path)], env)  # noqa: S606  (no shell is the point)
    except OSError as error:
        os.write(2, f"cannot run {path}: {error.strerror}\n".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(127)


def _hide(around: Surroundings) -> None:
    """As of the job, whose own start has told whether it can be done."""
    from agent.engine.confine import hide

    try:
        hide(around.hidden, around.cover)
    except OSError:
        if around.must_hide:
            raise


def _await(
    pid: int,
    read_end: int,
    give_up_at: float,
    take: Callable[[bytes], None],
    wake: int | None,
    asked: Callable[[], bool],
) -> int | None:
    """Waitpid's status; `None` when it was not waited for any longer."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    for fd in (pidfd, read_end, *(() if wake is None else (wake,))):
        poll.register(fd, select.POLLIN)
    try:
        while (left_s := give_up_at - time.monotonic()) > 0 and not asked():
            for fd, _ in poll.poll(min(left_s, _LOOK_S) * 1000 + 1):
                if fd == pidfd:
                    return os.waitpid(pid, 0)[1]
                data = os.read(fd, _READ_BYTES)
                if fd == read_end and data:
                    take(data)
                elif fd == read_end:
                    poll.unregister(fd)
        return None
    finally:
        os.close(pidfd)


def _kill_below() -> None:
    """End whatever a hook left, itself too when its time was up."""
    give_up_at = time.monotonic() + _KILL_S
    while (left := procs.descendants(os.getpid())) and time.monotonic() < give_up_at:
        for each in left:
            procs.signal_exact(*each, signal.SIGKILL)
        time.sleep(0.002)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _drain(fd: int, take: Callable[[bytes], None]) -> None:
    os.set_blocking(fd, False)
    try:
        while data := os.read(fd, _READ_BYTES):
            take(data)
    except BlockingIOError:
        return


def _problem(name: str, path: str, status: int | None, timeout_s: float) -> str | None:
    if status == 0:
        return None
    if status is None:
        how = f"did not end within {timeout_s:g} s"
    elif os.WIFSIGNALED(status):
        how = f"was ended by signal {os.WTERMSIG(status)}"
    else:
        how = f"ended with {os.WEXITSTATUS(status)}"
    return f"the {name} {path} {how}"


# --- what a task_prolog says ------------------------------------------------------------------------------------------


def obey(said: bytes, env: dict[bytes, bytes], out: int) -> None:
    """Do what the lines say: `export NAME=value`, `unset NAME`, `print text` to the job's output; others mean nothing.

    Args:
        said: the program's standard output.
        env: changed in place.
        out: the job's standard output.
    """
    for line in said.split(b"\n"):
        word, _, rest = line.partition(b" ")
        name, is_value, value = rest.partition(b"=")
        if word == b"export" and is_value and name and b"\0" not in rest:
            env[name] = value
        elif word == b"unset":
            env.pop(rest, None)
        elif word == b"print":
            os.write(out, rest + b"\n")
