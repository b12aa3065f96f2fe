"""What a shim does: start the job behind the gate, carry its output, end it when asked or late, sweep, record.

    prolog ─► started ─► gate ─► run ──────────────► sweep ─► drain ─► epilog ─► exit
                                  │ SIGTERM or limit    ▲
                                  └► `ending` ──────────┘

Rules kept here: one thread, one poll, so no two of its duties can race; a job that was asked to stop keeps its whole
grace as long as anything of it runs, because a batch shell dies of SIGTERM at once while the training below it saves;
the pipes are drained after the sweep, so that nobody left behind can hold the end up; time is the monotonic clock.
Cheap imports only (see `lean`).
"""

from __future__ import annotations

import os
import select
import time

from agent.engine import cgroup, procs, tmpdir
from agent.engine.addsteps import AddedSteps
from agent.engine.asks import Asks
from agent.engine.ending import Ending
from agent.engine.folder import Folder, Scalar
from agent.engine.footprint import MemoryWatch
from agent.engine.jobfolder import JobFolder
from agent.engine.jobproc import JobProcess, StartError
from agent.engine.lean import become_subreaper, signal
from agent.engine.oom import OomCounter, shield
from agent.engine.order import Order
from agent.engine.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.engine.hooks import SiteHooks

EXIT_NOT_STARTED = 1
"""The exit code of a job whose start failed before there was a program to blame (127 and 126 are that)."""

HEARS = 2
"""What `started` says of us: we read asks on SIGUSR1, and know `step`."""

UNKILLABLE_S = 60.0
"""How long a killed process may take to be gone (Slurm's UnkillableStepTimeout); a hung GPU or disk keeps it."""

_SWEEP_PAUSE_S = 0.002
_LONGEST_WAIT_S = 86400.0

_EPILOG_MOST = 300
"""Letters of what is said of a failed epilog; `exit` has little room."""

_DRAIN_S = 1.0
"""Limit for what is still in the pipes after the sweep: only a process that is not of the job can still write."""

_DUE = {"limit": " DUE TO TIME LIMIT", "preempt": " DUE TO JOB REQUEUE"}
"""Slurm's words for why a job was ended; who makes way for another job is preempted."""


class Supervisor:
    """One attempt from gate to exit record."""

    def __init__(self, folder: Folder, order: Order, home: cgroup.Home | None) -> None:
        """`home`: where the job's cgroup is to be; `None`: it has none."""
        self._folder = folder
        self._order = order
        self._home = home
        self._poll = select.poll()
        self._streams = Streams(folder.fd, order, self._poll, self._is_asked)
        self._oom = OomCounter()
        self._job_folder = JobFolder(order.job_dir, order.account)
        self._ending = Ending(order, self._job_folder)
        self._asks = Asks(folder)
        self._cgroup: cgroup.JobCgroup | None = None
        self._asked = False
        """SIGTERM has come."""
        self._poked = False
        """SIGUSR1 has come: there are asks."""
        self._status: int | None = None
        """waitpid's, of the job's first process."""
        self._began = False
        """The gate was opened."""
        self._due: str | None = None
        self._announced = False
        """The job's output says that it was ended."""
        self._alone = False
        """Nothing is left below us."""
        self._start = procs.start_ticks(os.getpid())
        self._gate_at = self._ended_at = time.monotonic()
        self._swept: set[tuple[int, int]] = set()
        self._memory = MemoryWatch(None)

    def run(self) -> None:
        """Everything, up to the exit record on disk."""
        job_oom_score = shield()
        become_subreaper()
        self._wake = self._catch_signals()
        self._added = AddedSteps(self._order, self._poll, job_oom_score)
        self._site = _hooks_of(self._folder, self._order)
        if self._site is not None and self._fails(self._site.prolog(self._wake, self._is_asked), "prolog"):
            self._finish()
            return
        try:
            self._set_up()
            self._fork(job_oom_score)
            self._write_started()
        except StartError as error:
            if not self._is_asked():
                self._fails(str(error), "start")
            else:
                self._note_the_stop()
            self._finish()
            return
        if self._is_asked():
            self._job.give_up()
            self._note_the_stop()
        else:
            self._supervise()
        self._finish()

    def _supervise(self) -> None:
        self._poll.register(self._job.exec_result, select.POLLIN)
        self._gate_at = time.monotonic()
        self._ending.begin(self._gate_at, self._job.pid)
        self._poked = True  # what was asked before we could hear
        self._began = True
        self._job.open_gate()
        while not self._over():
            self._wait(self._patience_s())
            self._reap()
            self._mind_the_time()
        self._sweep()
        self._note_start()
        self._streams.drain(time.monotonic() + _DRAIN_S)

    def _finish(self) -> None:
        """After the job, or instead of it: the site's epilog, the temporary folder, the record."""
        oom = self._oom_happened()
        if self._cgroup is not None:
            self._cgroup.remove()
        if self._site is not None:
            self._ending.told += self._site.epilog(self._status if self._began else None)
        if self._order.tmp_dir is not None and (problem := tmpdir.remove(self._order.tmp_dir)):
            self._ending.told.append(problem)
        self._record(oom)

    def _fails(self, problem: str | None, why: str) -> bool:
        """Note that there will be no job, unless there is no problem."""
        if problem is None:
            return False
        self._ending.why = why
        self._ending.told.append(problem)
        self._status = EXIT_NOT_STARTED << 8 if why == "start" else None
        return True

    # --- before the gate ----------------------------------------------------------------------------------------------

    def _catch_signals(self) -> int:
        """Make SIGTERM, SIGUSR1 and SIGCHLD end a poll; returns the pipe's end that they make readable."""
        wake, wake_write = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGUSR1, self._on_poke)
        signal.signal(signal.SIGCHLD, _on_child)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self._poll.register(wake, select.POLLIN)
        return wake

    def _on_term(self, _number: int, _frame: object) -> None:
        self._asked = True

    def _on_poke(self, _number: int, _frame: object) -> None:
        self._poked = True

    def _set_up(self) -> None:
        """What the job finds: its folders, and the file that covers devices."""
        order = self._order
        if not self._folder.path.endswith("/1"):  # a first attempt's folder is new
            self._job_folder.clean()
        try:
            if order.surroundings.hidden:
                from agent.engine.confine import make_cover

                make_cover(self._folder.fd)
                order.surroundings.cover = f"{self._folder.path}/cover"
            if order.tmp_dir is not None:
                tmpdir.make(order.tmp_dir, order.account.uid, order.account.gid)
        except OSError as error:
            raise StartError(f"cannot make the job's folders: {error.strerror}; see the state's disk") from error
        if self._oom.alone:
            order.surroundings.tasks_max = None  # the unit's TasksMax counts this job's alone
        self._make_cgroup()
        if not self._oom.alone and (self._cgroup is None or not self._cgroup.bounds_memory):
            self._memory = MemoryWatch(order.memory_bytes)

    def _make_cgroup(self) -> None:
        """What ends everything of the job at once; and limits it, for certain where a home was made for that."""
        order = self._order
        if self._home is None:
            return
        try:
            self._cgroup = order.surroundings.cgroup = cgroup.make(self._folder.path, self._home, self._start)
            if self._cgroup is None:
                return
            self._cgroup.limit(order.memory_bytes, order.surroundings.tasks_max, order.cpus)
        except OSError as error:
            what = error.strerror or str(error)
            raise StartError(f"cannot make a cgroup that limits the job: {what}; see the node's kernel log") from error
        if self._cgroup.bounds_tasks:
            order.surroundings.tasks_max = None  # its own, where the user's limit would count all of the user's
        events = self._cgroup.counts_memory_kills()
        if events is not None:
            self._oom.watch(events)

    def _fork(self, job_oom_score: int) -> None:
        order = self._order
        try:
            streams = self._streams.open()
            self._job = JobProcess(order.program, order.account, order.surroundings, streams, job_oom_score)
        except OSError as error:
            what = f"cannot start a process: {error.strerror}; see the node's limits and load"
            raise StartError(what) from error
        for fd in set(streams):
            os.close(fd)

    def _write_started(self) -> None:
        record: dict[str, Scalar] = {
            "shim_pid": os.getpid(),
            "shim_start": self._start,
            "job_pid": self._job.pid,
            "job_start": procs.start_ticks(self._job.pid),
            "boot_id": procs.boot_id(),
            "at": int(time.time()),
            "hears": HEARS,
            "cgroup": None if self._cgroup is None else self._cgroup.path,
        }
        try:
            self._folder.write_started(record)
        except OSError as error:
            self._job.give_up()
            raise StartError(f"cannot write {self._folder.path}/started: {error.strerror}; see its disk") from error

    def _is_asked(self) -> bool:
        """Before the gate a stop record counts without a signal: nobody knew whom to send it to."""
        return self._asked or self._folder.exists("stop")

    def _note_the_stop(self) -> None:
        self._ending.why, by = self._read_stop()
        self._ending.told.append(f"asked to stop by {by} before it began")

    # --- while it runs ------------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        if self._status is None or self._ending.over(time.monotonic()):
            return self._ending.over(time.monotonic())
        return self._ending.why in (None, "start") or self._alone

    def _patience_s(self) -> float | None:
        """Seconds until something is due; `None` when only an event can change anything."""
        due = min(self._ending.due(), self._memory.due())
        return None if due == float("inf") else max(0.0, due - time.monotonic())

    def _wait(self, timeout_s: float | None) -> None:
        """Let something happen, and take in output."""
        # poll(2) takes 24.8 days of milliseconds at most, which is less than some time limits.
        timeout_ms = None if timeout_s is None else min(timeout_s, _LONGEST_WAIT_S) * 1000 + 1
        if self._poked:
            timeout_ms = 0
        for fd, _ in self._poll.poll(timeout_ms):
            if self._streams.has(fd):
                self._streams.take_in(fd)
            elif fd == self._wake:
                os.read(fd, 4096)
            elif self._added.hears(fd):
                continue
            elif self._job.hear():
                self._poll.unregister(fd)

    def _note_start(self) -> None:
        """Whether the job was started at all, which its child has told by now."""
        self._job.hear()
        failure, notes = self._job.told()
        self._ending.told += notes
        if failure is not None and self._ending.why is None:
            self._ending.why = "start"
            self._ending.told.append(failure)

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
        """Whatever is asked or due; of a job whose first process has ended only its stop is minded."""
        now = time.monotonic()
        if self._status is not None and self._ending.why is None:
            return
        if self._asked and self._ending.why is None:
            why, by = self._read_stop()
            self._ending.stop(why, by, f"asked to stop by {by}", now)
            self._due = " DUE TO PREEMPTION" if why == "preempt" and by.startswith("job ") else None
        if self._poked:
            self._poked = False
            for ask in self._asks.take():
                self._obey(ask, now)
        self._ending.act(now)
        if self._memory.exceeded(now):
            for each in procs.descendants(os.getpid()):
                procs.signal_exact(*each, signal.SIGKILL)
        if self._ending.why is not None and not self._announced:
            self._announced = True
            self._announce()

    def _announce(self) -> None:
        """Slurm's line at the end of the job's output, which people and tools look for there."""
        env = self._order.program.env
        job, node = (env.get(name, b"").decode("utf-8", "replace") for name in (b"SLURM_JOB_ID", b"SLURMD_NODENAME"))
        if job and node:
            at = time.strftime("%Y-%m-%dT%H:%M:%S")
            due = self._due or _DUE.get(self._ending.why or "", "")
            self._streams.say(f"slurmstepd-{node}: error: *** JOB {job} ON {node} CANCELLED AT {at}{due} ***\n")

    def _obey(self, ask: dict[str, object], now: float) -> None:
        """An ask of the agent's; one that we do not understand is a newer agent's, which knows from `hears` that."""
        number, limit_s, argv = ask.get("number"), ask.get("limit_s"), ask.get("argv")
        if ask.get("do") == "signal" and isinstance(number, int):
            self._ending.send(number, batch_only=ask.get("batch_only") is True)
        elif ask.get("do") == "limit" and (limit_s is None or isinstance(limit_s, int | float)):
            self._ending.change_limit(limit_s, now)
        elif ask.get("do") == "step" and isinstance(argv, list) and self._status is None and self._ending.why is None:
            self._added.start([str(each) for each in argv])

    def _read_stop(self) -> tuple[str, str]:
        """Who wants the end and why; without a record the SIGTERM was not the agent's."""
        try:
            stop = self._folder.read("stop")
        except (OSError, ValueError):
            return "cancel", "somebody whose record is damaged"
        if stop is None:
            return "outside", "a SIGTERM to its supervisor (systemctl stop, or a shutdown)"
        why = stop.get("why")
        return why if why in ("cancel", "limit", "preempt") else "cancel", str(stop.get("by"))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """SIGKILL to all that is below us, again and again until nothing is: what hops from pid to pid is met."""
        me = os.getpid()
        give_up_at = time.monotonic() + UNKILLABLE_S
        met: set[tuple[int, int]] = set()
        self._poked = False  # what is asked from now on comes too late
        self._reap()
        while not self._alone:
            left = set(procs.descendants(me))
            for each in left - met:
                procs.signal_exact(*each, signal.SIGKILL)
            if self._cgroup is not None:
                cgroup.kill_all(self._cgroup.path)
            if left <= met:  # nobody new: let them die
                self._wait(_SWEEP_PAUSE_S)
            met |= left
            if time.monotonic() > give_up_at:
                pids = ", ".join(str(pid) for pid, _ in sorted(left))
                hang = f"processes {pids} hang in the kernel and cannot be killed; the node needs a look"
                self._ending.told.append(hang)
                break
            self._reap()
        self._swept = {(pid, start) for pid, start in met if pid != self._job.pid}
        self._ending.tell(len(met), time.monotonic())

    def _oom_happened(self) -> bool:
        if self._memory.told is not None:
            self._ending.told.append(self._memory.told)
            return True
        killed = (
            self._status is not None and os.WIFSIGNALED(self._status) and os.WTERMSIG(self._status) == signal.SIGKILL
        )
        as_killed = self._status is not None and os.WIFEXITED(self._status) and os.WEXITSTATUS(self._status) == 137
        return self._oom.happened(died_of_kill=(killed and self._ending.why is None) or as_killed)

    def _record(self, oom: bool) -> None:
        ended, why = self._status, self._ending.why
        code = os.WEXITSTATUS(ended) if ended is not None and os.WIFEXITED(ended) else None
        number = os.WTERMSIG(ended) if ended is not None and os.WIFSIGNALED(ended) else None
        told = "; ".join([*self._ending.told, *self._streams.problems()])
        fields: dict[str, Scalar] = {
            "code": code,
            "signal": number,
            "why": why,
            "detail": told[:2000].encode("utf-8", "backslashreplace").decode() or None,
            "ended_at": int(time.time()),
            "run_s": round(max(0.0, self._ended_at - self._gate_at), 3),
            "oom": oom,
            "swept": len(self._swept),
            "log_bytes": self._streams.log_bytes,
        }
        if self._site is not None and self._site.epilog_problem is not None:
            fields["epilog"] = self._site.epilog_problem[-_EPILOG_MOST:].encode("utf-8", "backslashreplace").decode()
        self._folder.write_exit(fields)


def _hooks_of(folder: Folder, order: Order) -> SiteHooks | None:
    """The site's hooks; their module is loaded before the job only where there are any."""
    hooks = order.hooks
    if not (hooks.prolog or hooks.epilog or hooks.task_prolog or hooks.task_epilog):
        return None
    from agent.engine.hooks import SiteHooks

    return SiteHooks(folder.fd, order)


def _on_child(_number: int, _frame: object) -> None:
    """Nothing: that the poll ends is all that is wanted."""
