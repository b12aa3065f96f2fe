"""One step: start the ranks, carry their output, pass signals on, end them together, tell how it went.

Rules kept here: one thread decides, woken through one pipe, so no two duties race; the exit code is the highest of the
ranks' (128 + N for one that signal N ended), as in Slurm; when srun ends nothing of the step is left. A signal from the
job's shim is not passed on: it went to every process of the job already, and a second one could cut a checkpoint short.
Cheap imports only (see `words`).
"""

# ruff: noqa: PTH123

from __future__ import annotations

import _thread
import os
import select
import struct
import sys
import time

from agent.step import programs
from agent.step.asks import END, Asks
from agent.step.book import Book
from agent.step.feed import Feed
from agent.step.guard import KEY_VARIABLE, Guard, signal, sweep
from agent.step.output import Files, Sink, pattern_names
from agent.step.place import Place, say, variables
from agent.step.words import HELP, StepError, Words, limit_s, read, shown

KILL_WAIT_S = 30.0
"""From SIGTERM to SIGKILL (Slurm's KillWait)."""

_ABORTED = f"Job step aborted: Waiting up to {int(KILL_WAIT_S) + 2} seconds for job step to finish."

_DRAIN_S = 1.0
_ABORT_WITHIN_S = 1.0
_READ_BYTES = 64 * 1024
_KERNEL = 0x80
"""`si_code` of a signal that the terminal made: SI_KERNEL of sigaction(2)."""

_WOKEN = struct.Struct("iii")
_PASSED_ON = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT")
_HEARD = frozenset(getattr(signal, name) for name in (*_PASSED_ON, "SIGCHLD"))


def main(argv: list[str]) -> None:
    """The program; ends the process."""
    os._exit(run(argv, dict(os.environ)))


def run(argv: list[str], env: dict[str, str]) -> int:
    """Run a step; its exit code."""
    try:
        words = read(argv, env)
        if words.flag("help") or words.flag("version"):
            os.write(1, (HELP if words.flag("help") else "srun of Stoker\n").encode())
            return 0
        if not words.command:
            say("srun: fatal: No command given to execute.")
            return 1
        return Step(words, Place(words, env), env).run()
    except KeyboardInterrupt:  # only while it waits for its share: later signals are blocked
        say(f"srun: Cancelled pending job step with signal {int(signal.SIGINT)}")
        return 1
    except StepError as error:
        say(f"srun: {'' if error.code == 255 else 'error: '}{error.message}")
        if error.code == 255:
            say('Try "srun --help" for more information')
        return error.code


class Step:
    """The ranks of one step."""

    def __init__(self, words: Words, place: Place, env: dict[str, str]) -> None:
        self._words = words
        self._place = place
        self._env = _exported(words, env)
        self._name = f"{place.job_id}.{place.step_id}"
        self._key = f"{os.getpid()}.{time.monotonic_ns()}"
        self._env[KEY_VARIABLE] = f"{env.get(KEY_VARIABLE, '')} {self._key}".strip()
        self._programs = _programs(words, place.ranks)
        attempt = env.get("JOB_ATTEMPT", "1")
        self._book = Book(place.folder, attempt, place.step_id)
        self._asks = Asks(place.folder, attempt, place.step_id)
        self._out, self._err = self._open_files(env)
        self._feed = Feed(words.text("input"), place.ranks)
        self._with_us = place.ranks == 1 and os.isatty(0)
        """The one rank stays in our process group: it may read the terminal, which signals it itself."""
        self._poll = select.poll()
        self._pipes: dict[int, tuple[int, Sink, bytes]] = {}
        """What we read of the ranks: rank, where it goes, and the line that is not ended yet."""
        self._sinks: dict[int, Sink] = {}
        self._alive: dict[int, int] = {}
        """Pid → rank."""
        self._codes: dict[int, int] = {}
        self._signalled: set[int] = set()
        """Ranks that a signal ended."""
        self._rss_kib = 0
        self._cpu_s = 0.0
        self._ending = False
        self._interrupted_at = float("-inf")
        self._kill_at = self._wait_at = self._limit_at = float("inf")

    def run(self) -> int:
        """Everything; the step's exit code."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        woken, wake = os.pipe()
        self._guard = Guard(self._key, self._tell_lost)
        name = self._words.text("job-name") or os.path.basename(self._words.command[0])  # noqa: PTH119
        self._asks.open(self._poll)
        self._book.begin(name, self._place.ranks, self._place.ranks * self._place.cpus_per_task)
        for rank in range(self._place.ranks):
            self._start(rank, mask)
        self._feed.started()
        self._feed.register(self._poll)
        self._poll.register(woken, select.POLLIN)
        _thread.start_new_thread(_listen, (wake,))
        time_s = limit_s(self._words)
        self._limit_at = time.monotonic() + time_s if time_s else float("inf")
        while self._alive:
            self._turn(woken)
        self._asks.close()
        if not self._with_us:
            sweep(self._key)
        self._drain()
        code, rank = max((code, rank) for rank, code in self._codes.items())
        signalled, rss_bytes = rank in self._signalled, self._rss_kib * 1024
        self._book.end(code, signalled=signalled, cancelled=self._ending, rss_bytes=rss_bytes, cpu_s=self._cpu_s)
        self._guard.dismiss()
        return code

    def _tell_lost(self) -> None:
        """In the guard: srun was killed."""
        self._asks.close()
        killed = 128 + signal.SIGKILL
        self._book.end(killed, signalled=True, cancelled=True, rss_bytes=None, cpu_s=None)

    # --- the start

    def _open_files(self, env: dict[str, str]) -> tuple[Files, Files]:
        words, place = self._words, self._place
        again = env.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
        asked = words.text("open-mode") or ("append" if again else "truncate")
        mode = {"a": "append", "t": "truncate"}.get(asked, asked)
        if mode not in ("append", "truncate"):
            raise StepError("Invalid --open-mode argument: write append or truncate")
        names = pattern_names(place.job_id, place.step_id, place.node, env)
        out = Files(words.text("output"), names, place.ranks, 1, mode=mode)
        pattern = words.text("error")
        if pattern is None or pattern == words.text("output"):
            if words.text("output") is None:
                return out, Files(None, names, place.ranks, 2, mode=mode)
            return out, out
        return out, Files(pattern, names, place.ranks, 2, mode=mode)

    def _start(self, rank: int, mask: set[int]) -> None:
        out, ours = self._end_for(rank, self._out)
        err, ours_err = (out, None) if self._err is self._out else self._end_for(rank, self._err)
        pid = os.fork()
        if pid == 0:
            fds = (self._feed.fds[rank], out, err)
            _become_rank(self._words, self._place, self._env, rank, self._programs[rank], fds, mask, self._with_us)
        if not self._with_us:
            try:  # noqa: SIM105 - contextlib is not worth its import here
                os.setpgid(pid, pid)  # the child does it too: whoever is first
            except OSError:
                pass
            self._guard.add(pid)
        self._alive[pid] = rank
        for fd, mine in ((out, ours), (err, ours_err)):
            if mine is not None:
                os.close(fd)

    def _end_for(self, rank: int, files: Files) -> tuple[int, int | None]:
        """What a rank writes to, and our end of it where its lines go through us."""
        direct = files.alone(rank) or self._words.flag("unbuffered")
        if direct and not self._words.flag("label"):
            return files.fd(rank), None
        read_end, write_end = os.pipe()
        width = len(str(self._place.ranks - 1)) if self._words.flag("label") else None
        sink = self._sinks.setdefault(files.fd(rank), Sink(files.fd(rank), width))
        self._pipes[read_end] = (rank, sink, b"")
        self._poll.register(read_end, select.POLLIN)
        return write_end, read_end

    # --- while it runs

    def _turn(self, woken: int) -> None:
        next_at = min(self._kill_at, self._wait_at, self._limit_at)
        timeout_ms = None if next_at == float("inf") else max(0, int((next_at - time.monotonic()) * 1000) + 1)
        for fd, _ in self._poll.poll(timeout_ms):
            if fd == woken:
                self._hear(os.read(woken, _WOKEN.size * 64))
            elif fd in self._pipes:
                self._carry(fd)
            elif fd == self._asks.fd:
                self._obey(self._asks.take())
            else:
                self._feed.handle(fd, self._poll)
        self._check_times(time.monotonic())

    def _check_times(self, now: float) -> None:
        if now >= self._kill_at:
            self._kill_at = float("inf")
            self._signal_all(signal.SIGKILL)
        if now >= self._limit_at:
            self._limit_at = float("inf")
            self._end_all(" DUE TO TIME LIMIT")
        if now >= self._wait_at:
            self._wait_at = float("inf")
            self._inform("First task exited; the time that --wait gives the others is over")
            self._end_all()

    def _carry(self, fd: int) -> None:
        rank, sink, rest = self._pipes[fd]
        data = os.read(fd, _READ_BYTES)
        rest = sink.write(rank, rest + data, last=not data)
        if data:
            self._pipes[fd] = (rank, sink, rest)
            return
        self._poll.unregister(fd)
        del self._pipes[fd]
        os.close(fd)

    def _hear(self, told: bytes) -> None:
        for number, code, sender in _WOKEN.iter_unpack(told):
            if number == signal.SIGCHLD:
                self._reap()
            elif code == _KERNEL and self._with_us:
                continue
            elif code == _KERNEL or not _is_shim(sender):
                self._pass_on(number)

    def _obey(self, asks: list[str]) -> None:
        """What is asked from outside of the job, as `scancel 17.0`."""
        for ask in asks:
            if ask != END:
                self._signal_all(int(ask))
            else:
                self._end_all(said=_ABORTED)

    def _pass_on(self, number: int) -> None:
        if number == signal.SIGINT and self._interrupted():
            return
        self._signal_all(number)

    def _interrupted(self) -> bool:
        """Ctrl-C: the first one tells how it stands (with `-X` the ranks get it), a second one right after it ends the
        step. Whether it is dealt with.
        """
        before, self._interrupted_at = self._interrupted_at, time.monotonic()
        if self._interrupted_at - before < _ABORT_WITHIN_S:
            self._inform("forcing job termination")
            self._end_all(said=_ABORTED)
            return True
        if self._words.flag("disable-status"):
            self._inform(f"sending Ctrl-C to StepId={self._name}")
            return False
        ranks = sorted(self._alive.values())
        self._inform("interrupt (one more within 1 sec to abort)")
        self._inform(f"StepId={self._name} task{'s' * (len(ranks) > 1)} {_listed(ranks)}: running")
        return True

    def _signal_all(self, number: int) -> None:
        for pid in self._alive:
            try:
                os.kill(pid, number) if self._with_us else os.killpg(pid, number)
            except OSError:
                continue

    def _end_all(self, why: str = "", said: str = "") -> None:
        """SIGTERM to all ranks, and SIGKILL to those that do not end."""
        if self._ending:
            return
        self._ending = True
        self._inform(said or f"Terminating StepId={self._name}")
        at = time.strftime("%Y-%m-%dT%H:%M:%S")
        node = self._place.node
        say(f"slurmstepd-{node}: error: *** STEP {self._name} ON {node} CANCELLED AT {at}{why} ***")
        self._kill_at = time.monotonic() + KILL_WAIT_S
        self._signal_all(signal.SIGCONT)
        self._signal_all(signal.SIGTERM)

    def _inform(self, sentence: str) -> None:
        """What is no error, and not wanted with `--quiet`."""
        if not self._words.flag("quiet"):
            say(f"srun: {sentence}")

    # --- the end

    def _reap(self) -> None:
        bad: dict[str, list[int]] = {}
        for pid, rank in list(self._alive.items()):
            done, status, used = os.wait4(pid, os.WNOHANG)
            if not done:
                continue
            del self._alive[pid]
            self._rss_kib = max(self._rss_kib, used.ru_maxrss)
            self._cpu_s += used.ru_utime + used.ru_stime
            self._codes[rank] = code = _code(status)
            if os.WIFSIGNALED(status):
                self._signalled.add(rank)
            if code:
                bad.setdefault(_how(status), []).append(rank)
        for how, ranks in bad.items():
            say(f"srun: error: {self._place.node}: task{'s' * (len(ranks) > 1)} {_listed(ranks)}: {how}")
        if not self._alive or not self._codes:
            return
        if bad and self._words.flag("kill-on-bad-exit"):
            self._end_all()
        wait_s = self._words.number("wait", 0, least=0)
        if wait_s and self._wait_at == float("inf") and not self._ending:
            self._wait_at = time.monotonic() + wait_s

    def _drain(self) -> None:
        """What is still in the pipes; whoever holds one open longer was none of ours."""
        end = time.monotonic() + _DRAIN_S
        while self._pipes and time.monotonic() < end:
            for fd, _ in self._poll.poll(100):
                if fd in self._pipes:
                    self._carry(fd)
        for rank, sink, rest in self._pipes.values():
            sink.write(rank, rest, last=True)


def _listen(wake: int) -> None:
    """The thread `signals`: who sent what, one record each."""
    while True:
        info = signal.sigwaitinfo(_HEARD)
        os.write(wake, _WOKEN.pack(info.si_signo, info.si_code, info.si_pid))


def _programs(words: Words, ranks: int) -> list[list[str]]:
    """What each rank runs."""
    if words.flag("multi-prog"):
        return programs.read(words.command[0], ranks, words.command[1:])
    return [words.command] * ranks


def _become_rank(
    words: Words,
    place: Place,
    env: dict[str, str],
    rank: int,
    command: list[str],
    fds: tuple[int, int, int],
    mask: set[int],
    with_us: bool,
) -> None:
    """In the child: become the rank's command."""
    try:
        if not with_us:
            os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores these two, and exec would pass that on
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if words.text("chdir") is not None:
            os.chdir(words.text("chdir") or "")
        kept = [os.dup(fd) for fd in fds]
        for place_of, fd in enumerate(kept):
            os.dup2(fd, place_of)
        os.execvpe(command[0], command, {**env, **variables(place, rank)})  # noqa: S606
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or 1
        why = getattr(error, "strerror", None) or str(error)
        say(f"slurmstepd-{place.node}: error: execve(): {shown(command[0])}: {why}")
        os._exit(number if number < 256 else 1)


def _is_shim(pid: int) -> bool:
    """Whether the process is the shim of a job, which signals every process of its job."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return any(word.endswith(b"/shim.py") for word in file.read().split(b"\0"))
    except OSError:
        return False


def _exported(words: Words, env: dict[str, str]) -> dict[str, str]:
    """`--export`: all, none of the user's, or the named ones; Slurm's own variables always go along."""
    asked = (words.text("export") or "ALL").split(",")
    everything = "ALL" in asked
    kept = {name: value for name, value in env.items() if everything or name.startswith(("SLURM", "JOB_", "CUDA_"))}
    for each in asked:
        name, equals, value = each.partition("=")
        if equals and name:
            kept[name] = value
        elif name in env and name not in ("ALL", "NONE", "NIL"):
            kept[name] = env[name]
    kept.setdefault("PATH", env.get("PATH", os.defpath))
    return kept


def _code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _how(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"Exited with exit code {os.WEXITSTATUS(status)}"
    name = signal.strsignal(os.WTERMSIG(status)) or f"Signal {os.WTERMSIG(status)}"
    return name + (" (core dumped)" if os.WCOREDUMP(status) else "")


def _listed(ranks: list[int]) -> str:
    """`0-1,3`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


if __name__ == "__main__":
    main(sys.argv[1:])
