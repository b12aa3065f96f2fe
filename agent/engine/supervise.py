"""What a shim does: start the job behind the gate, carry its output, end it when asked or late, sweep, record.

    started ─► gate ─► run ──────────────► sweep ─► drain ─► exit
                        │ SIGTERM or limit    ▲
                        └► TERM to all, grace ┘

Rules kept here: one thread, one poll, so no two of its duties can race; a job that was asked to stop keeps its whole
grace as long as anything of it runs, because a batch shell dies of SIGTERM at once while the training below it saves;
the pipes are drained after the sweep, so that nobody left behind can hold the end up; time is the monotonic clock.
Cheap imports only (see `lean`).
"""

from __future__ import annotations

import fcntl
import os
import select
import time

from agent.engine import procs
from agent.engine.folder import Folder, Refused, Scalar
from agent.engine.jobproc import JobProcess, StartError
from agent.engine.lean import become_subreaper, signal
from agent.engine.oom import OomCounter, shield
from agent.engine.order import Order, read_order
from agent.engine.output import BoundedLog, OutputFile

EXIT_CRASHED = 70

EXIT_NOT_STARTED = 1
"""The exit code of a job whose start failed before there was a program to blame (127 and 126 are that)."""

UNKILLABLE_S = 60.0
"""How long a killed process may take to be gone (Slurm's UnkillableStepTimeout); a hung GPU or disk keeps it."""

_READ_BYTES = 256 * 1024
_PIPE_BYTES = 256 * 1024
"""Asked of the kernel for each pipe; less is accepted (an account has a budget for pipes)."""

_SWEEP_PAUSE_S = 0.002
_LONGEST_WAIT_S = 86400.0

_DRAIN_S = 1.0
"""Limit for what is still in the pipes after the sweep: only a process that is not of the job can still write."""


class Supervisor:
    """One attempt from gate to exit record."""

    def __init__(self, folder: Folder, order: Order) -> None:
        self._folder = folder
        self._order = order
        self._log = BoundedLog(folder.fd, order.log_head_bytes, order.log_tail_bytes)
        self._files: list[OutputFile] = []
        self._pipes: dict[int, list[BoundedLog | OutputFile]] = {}
        self._poll = select.poll()
        self._oom = OomCounter()
        self._asked = False
        """SIGTERM has come."""
        self._why: str | None = None
        self._told: list[str] = []
        """Sentences of the exit record's detail."""
        self._status: int | None = None
        """waitpid's, of the job's first process."""
        self._alone = False
        """Nothing is left below us."""
        self._gate_at = self._ended_at = time.monotonic()
        self._stop_at = self._kill_at = float("inf")
        self._swept: set[tuple[int, int]] = set()

    def run(self) -> None:
        """Everything, up to the exit record on disk."""
        job_oom_score = shield()
        become_subreaper()
        self._wake = self._catch_signals()
        try:
            self._fork(job_oom_score)
            self._write_started()
        except StartError as error:
            self._why = "start"
            self._status = EXIT_NOT_STARTED << 8
            self._told.append(str(error))
            self._record()
            return
        if self._asked or self._folder.exists("stop"):
            self._stop_at_the_gate()
        else:
            self._supervise()

    def _supervise(self) -> None:
        self._poll.register(self._job.exec_result, select.POLLIN)
        self._gate_at = time.monotonic()
        self._job.open_gate()
        while not self._over():
            self._wait(self._patience_s())
            self._reap()
            self._mind_the_time()
        self._sweep()
        self._drain()
        self._record()

    # --- before the gate ----------------------------------------------------------------------------------------------

    def _catch_signals(self) -> int:
        """Make SIGTERM and SIGCHLD end a poll; returns the pipe's end that they make readable."""
        wake, wake_write = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, _on_child)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self._poll.register(wake, select.POLLIN)
        return wake

    def _on_term(self, _number: int, _frame: object) -> None:
        self._asked = True

    def _open_output(self) -> tuple[int, int]:
        """Pipes for stdout and stderr, the same one twice when both go to the same place."""
        order = self._order
        stdout = self._pipe_to(order.output_path)
        if order.error_path is None or order.error_path == order.output_path:
            return stdout, stdout
        return stdout, self._pipe_to(order.error_path)

    def _pipe_to(self, path: str | None) -> int:
        sinks: list[BoundedLog | OutputFile] = [self._log]
        if path is not None:
            order = self._order
            file = OutputFile(
                path, order.account, order.program.umask, append=order.append, max_bytes=order.output_max_bytes
            )
            self._files.append(file)
            sinks.append(file)
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        _widen(read_end)
        self._order.account.give(write_end)
        self._pipes[read_end] = sinks
        self._poll.register(read_end, select.POLLIN)
        return write_end

    def _fork(self, job_oom_score: int) -> None:
        order = self._order
        try:
            stdout, stderr = self._open_output()
            self._job = JobProcess(order.program, order.account, stdout, stderr, job_oom_score)
        except OSError as error:
            what = f"cannot start a process: {error.strerror}; see the node's limits and load"
            raise StartError(what) from error
        for fd in {stdout, stderr}:
            os.close(fd)

    def _write_started(self) -> None:
        record: dict[str, Scalar] = {
            "shim_pid": os.getpid(),
            "shim_start": procs.start_ticks(os.getpid()),
            "job_pid": self._job.pid,
            "job_start": procs.start_ticks(self._job.pid),
            "boot_id": procs.boot_id(),
            "at": int(time.time()),
        }
        try:
            self._folder.write("started", record)
        except OSError as error:
            self._job.give_up()
            raise StartError(f"cannot write {self._folder.path}/started: {error.strerror}; see its disk") from error

    def _stop_at_the_gate(self) -> None:
        self._job.give_up()
        self._why, by = self._read_stop()
        self._told.append(f"asked to stop by {by} before it began")
        self._record()

    # --- while it runs ------------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        if self._status is None or time.monotonic() >= self._kill_at:
            return time.monotonic() >= self._kill_at
        return self._why is None or self._alone

    def _patience_s(self) -> float | None:
        """Seconds until something is due; `None` when only an event can change anything."""
        due = self._kill_at
        if self._why is None and self._order.limit_s is not None:
            due = self._gate_at + self._order.limit_s
        return None if due == float("inf") else max(0.0, due - time.monotonic())

    def _wait(self, timeout_s: float | None) -> None:
        """Let something happen, and take in output."""
        # poll(2) takes 24.8 days of milliseconds at most, which is less than some time limits.
        timeout_ms = None if timeout_s is None else min(timeout_s, _LONGEST_WAIT_S) * 1000 + 1
        for fd, _ in self._poll.poll(timeout_ms):
            if fd in self._pipes:
                self._take_in(fd)
            elif fd == self._wake:
                os.read(fd, 4096)
            else:
                self._poll.unregister(fd)
                self._hear_exec_result()

    def _take_in(self, fd: int) -> bool:
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

    def _hear_exec_result(self) -> None:
        failure = self._job.exec_failure()
        if failure is not None and self._why is None:
            self._why = "start"
            self._told.append(failure[1])

    def _reap(self) -> None:
        """Collect whoever has ended: the job's first process, and as the subreaper every orphan of it."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._alone = True
                return
            if pid == 0:
                return
            if pid == self._job.pid:
                self._status = status
                self._ended_at = time.monotonic()

    def _mind_the_time(self) -> None:
        if self._why is not None or self._status is not None:
            return
        limit_s = self._order.limit_s
        if self._asked:
            why, by = self._read_stop()
            self._begin_stop(why, f"asked to stop by {by}")
        elif limit_s is not None and time.monotonic() >= self._gate_at + limit_s:
            self._begin_stop("limit", f"reached its time limit of {limit_s:g} s")

    def _begin_stop(self, why: str, told: str) -> None:
        """SIGTERM to everything below us, once; SIGCONT, because a stopped process would not hear it."""
        self._why = why
        self._told.append(told)
        self._stop_at = time.monotonic()
        self._kill_at = self._stop_at + self._order.grace_s
        for pid, start in procs.descendants(os.getpid()):
            procs.signal_exact(pid, start, signal.SIGTERM)
            procs.signal_exact(pid, start, signal.SIGCONT)

    def _read_stop(self) -> tuple[str, str]:
        try:
            stop = self._folder.read("stop")
        except (OSError, ValueError):
            stop = None
        if stop is None:
            return "cancel", "a SIGTERM to its supervisor (systemctl stop, or a shutdown)"
        why = stop.get("why")
        return why if why in ("cancel", "limit", "preempt") else "cancel", str(stop.get("by"))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """SIGKILL to all that is below us, again and again until nothing is: what hops from pid to pid is met."""
        me = os.getpid()
        give_up_at = time.monotonic() + UNKILLABLE_S
        met: set[tuple[int, int]] = set()
        self._reap()
        while not self._alone:
            left = set(procs.descendants(me))
            for each in left - met:
                procs.signal_exact(*each, signal.SIGKILL)
            if left <= met:  # nobody new: let them die
                self._wait(_SWEEP_PAUSE_S)
            met |= left
            if time.monotonic() > give_up_at:
                pids = ", ".join(str(pid) for pid, _ in sorted(left))
                self._told.append(f"processes {pids} hang in the kernel and cannot be killed; the node needs a look")
                break
            self._reap()
        self._swept = {(pid, start) for pid, start in met if pid != self._job.pid}
        self._tell_the_time(met)

    def _tell_the_time(self, met: set[tuple[int, int]]) -> None:
        if self._stop_at == float("inf"):
            return
        if met:
            self._told.append(f"SIGTERM was ignored for {self._order.grace_s:g} s; SIGKILL ended {len(met)} processes")
        else:
            self._told.append(f"ended {time.monotonic() - self._stop_at:.1f} s after SIGTERM")

    def _drain(self) -> None:
        """What is still in the pipes. Everyone of the job is dead, so empty is the end; a stranger gets `_DRAIN_S`."""
        give_up_at = time.monotonic() + _DRAIN_S
        for fd in list(self._pipes):
            while time.monotonic() < give_up_at and self._take_in(fd):
                pass

    def _record(self) -> None:
        ended = self._status
        code = os.WEXITSTATUS(ended) if ended is not None and os.WIFEXITED(ended) else None
        number = os.WTERMSIG(ended) if ended is not None and os.WIFSIGNALED(ended) else None
        told = "; ".join([*self._told, *(file.problem for file in self._files if file.problem)])
        fields: dict[str, Scalar] = {
            "code": code,
            "signal": number,
            "why": self._why,
            "detail": told[:2000].encode("utf-8", "backslashreplace").decode() or None,
            "ended_at": int(time.time()),
            "run_s": round(max(0.0, self._ended_at - self._gate_at), 3),
            "oom": self._oom.happened(died_of_kill=(number == signal.SIGKILL and self._why is None) or code == 137),
            "swept": len(self._swept),
            "log_bytes": self._log.size,
        }
        self._folder.write_exit(fields)


def main(arguments: list[str]) -> None:
    """Run a shim; does not return."""
    detach, path = arguments[:-1] == ["--detach"], arguments[-1]
    try:
        folder = Folder(path)
        order = read_order(folder)
    except Refused as refused:
        os.write(2, f"{refused}\n".encode("utf-8", "backslashreplace"))
        os._exit(refused.status)
    if detach:
        _detach()
    try:
        Supervisor(folder, order).run()
    except BaseException as error:  # noqa: BLE001  (the rim: a crash of ours must be told, and must not look like an end)
        _tell_crash(folder, error)
        os._exit(EXIT_CRASHED)
    os._exit(0)


def _detach() -> None:
    """Leave the launcher: the parent ends with 0, we go on as a child of init and let go of its stderr."""
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def _tell_crash(folder: Folder, error: BaseException) -> None:
    """Leave a traceback and nobody of the job. There will be no `exit`: the run counts as lost."""
    import traceback

    give_up_at = time.monotonic() + _DRAIN_S
    while (left := procs.descendants(os.getpid())) and time.monotonic() < give_up_at:
        for each in left:
            procs.signal_exact(*each, signal.SIGKILL)
    fd = os.open("shim.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=folder.fd)
    os.write(fd, "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace"))


def _on_child(_number: int, _frame: object) -> None:
    """Nothing: that the poll ends is all that is wanted."""


def _widen(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return
