"""The job's first process: forked behind a gate, turned into the user's, exec'd.

The child waits at the gate until `started` is on disk. When the shim dies before, the gate closes unopened and the
child ends without one instruction of the job. Why an exec failed comes back through a pipe that a successful one
closes. Order of the child's steps: hide devices (as root), limit, the gate, become the user, enter the folder, run the
site's task_prolog, exec. Cheap imports only (see `lean`).
"""

# ruff: noqa: PTH110

from __future__ import annotations

import os

from agent.engine.lean import signal, write_file
from agent.engine.oom import SCORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.engine.cgroup import JobCgroup

EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126

_OPEN = b"o"

_FAILED = b"f"
_NOTE = b"n"
"""First byte of what the child tells, each ended by a NUL: it could not be started, or something about a start."""

_SAID_BYTES = 64 * 1024
"""Most of what a task_prolog prints that is read."""


class StartError(Exception):
    """The job cannot be started; the message says why and what to do."""


class Account:
    """Whose job it is: uid, gid and groups, or the shim's own account where `uid` is `None`."""

    def __init__(self, uid: int | None, gid: int | None, groups: list[int] | None) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups or []
        self._own_groups: list[int] = []

    def become(self) -> None:
        """For good."""
        if self.uid is None or self.gid is None:
            return
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def assume(self) -> None:
        """For the moment, as far as the file system is concerned; the real uid stays ours, so no signal gets in."""
        if self.uid is None or self.gid is None:
            return
        self._own_groups = os.getgroups()
        os.setgroups(self.groups)
        os.setegid(self.gid)
        os.seteuid(self.uid)

    def give(self, fd: int) -> None:
        """Make a pipe the user's: `echo … > /dev/stderr` in a script opens it again, and a pipe of root's refuses."""
        if self.uid is not None and self.gid is not None:
            os.fchown(fd, self.uid, self.gid)

    def leave(self) -> None:
        """Undo `assume`."""
        if self.uid is None or self.gid is None:
            return
        os.seteuid(os.getuid())
        os.setegid(os.getgid())
        os.setgroups(self._own_groups)


class Program:
    """What to run and in what surroundings; texts as the bytes that execve(2) takes."""

    def __init__(self, argv: list[str], env: dict[str, str], work_dir: str, umask: int) -> None:
        self.argv = [raw(each) for each in argv]
        utf8, kept = "utf-8", "surrogateescape"  # as `raw`, which is not worth a hundred calls
        self.env = {name.encode(utf8, kept): value.encode(utf8, kept) for name, value in env.items()}
        self.work_dir = raw(work_dir)
        self.umask = umask

    @classmethod
    def of(cls, argv: list[str], other: Program) -> Program:
        """Other words in the surroundings of another."""
        made = cls(argv, {}, "", other.umask)
        made.env, made.work_dir = dict(other.env), other.work_dir
        return made


class Surroundings:
    """What else the child sets up for the job."""

    def __init__(
        self,
        *,
        hidden: list[str],
        must_hide: bool,
        tasks_max: int | None,
        task_prolog: str | None,
        hook_timeout_s: float,
    ) -> None:
        self.hidden = hidden
        """Device nodes that the job must not open."""
        self.must_hide = must_hide
        """Refuse the start where that cannot be had; else only tell."""
        self.cover = ""
        """Path of the file that covers them; see `confine`."""
        self.cgroup: JobCgroup | None = None
        """The job's own, which it is born in."""
        self.tasks_max = tasks_max
        self.task_prolog = task_prolog
        self.hook_timeout_s = hook_timeout_s


class JobProcess:
    """The forked child as the shim sees it."""

    def __init__(
        self, program: Program, account: Account, around: Surroundings, streams: tuple[int, int, int], oom_score: int
    ) -> None:
        """Fork it; it waits at the gate. `streams` are its standard input, output and error."""
        gate_end, self._gate = os.pipe()
        self.exec_result, result_end = os.pipe()
        """Readable when the child tells something, and when the exec has succeeded or failed; see `hear`."""
        os.set_blocking(self.exec_result, False)
        self._heard = b""
        self.pid = os.fork() if around.cgroup is None else around.cgroup.fork()
        if self.pid == 0:
            os.close(self._gate)
            _Child(program, account, around, oom_score, result_end).run(gate_end, streams)
        os.close(gate_end)
        os.close(result_end)

    def open_gate(self) -> None:
        """Let the job run. One that was killed while it waited is found out by the reaping that follows."""
        try:  # noqa: SIM105 - contextlib is not worth its import in a shim
            os.write(self._gate, _OPEN)
        except BrokenPipeError:
            pass
        os.close(self._gate)

    def give_up(self) -> None:
        """Let the child end without running anything of the job, and wait for it."""
        os.close(self._gate)
        os.waitpid(self.pid, 0)

    def hear(self) -> bool:
        """Take in what the child tells; True when that was all."""
        try:
            while data := os.read(self.exec_result, 4096):
                self._heard += data
        except BlockingIOError:
            return False
        return True

    def told(self) -> tuple[str | None, list[str]]:
        """Why there is no program, `None` when it runs; and what else is to be known of its start."""
        failure, notes = None, []
        for each in self._heard.split(b"\0"):
            text = each[1:].decode("utf-8", "replace")
            if each[:1] == _FAILED:
                failure = text
            elif each[:1] == _NOTE:
                notes.append(text)
        return failure, notes


class _Child:
    """The other side of the fork, up to exec."""

    def __init__(self, program: Program, account: Account, around: Surroundings, oom_score: int, result: int) -> None:
        self._program = program
        self._account = account
        self._around = around
        self._oom_score = oom_score
        self._result = result
        self._code = 1
        self._doing = "set the job up"

    def run(self, gate: int, streams: tuple[int, int, int]) -> None:
        """Does not return."""
        try:
            os.setsid()
            reset_signals()
            self._prepare()  # while the shim writes `started`
            if os.read(gate, 1) != _OPEN:
                os._exit(0)
            for number, fd in enumerate(streams):
                os.dup2(fd, number)
            self._become()
            self._exec()
        except StartError as error:
            self._tell(_FAILED, str(error))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._code == EXIT_NOT_EXECUTABLE:
                self._code = EXIT_NOT_FOUND
            reason = _reason(self._program.argv[0], error, self._doing)
            self._tell(_FAILED, f"cannot {self._doing}: {reason}")
        except Exception as error:  # noqa: BLE001  (a rim: between fork and exec nobody else could tell it)
            self._tell(_FAILED, f"cannot {self._doing}: {error!r}")
        finally:
            os._exit(self._code)

    def _prepare(self) -> None:
        """What takes root's rights, and nothing of the user's."""
        write_file(SCORE, str(self._oom_score))  # the shim is shielded from the killer for memory; its job must not be
        if self._around.hidden:
            self._hide()
        if self._around.tasks_max is not None:
            _limit_tasks(self._around.tasks_max)

    def _become(self) -> None:
        """Everything that makes this process the user's."""
        self._doing = f"become uid {self._account.uid} for the job"
        self._account.become()
        os.umask(self._program.umask)
        self._doing = f"enter the working folder {_shown(self._program.work_dir)}"
        os.chdir(self._program.work_dir)

    def _hide(self) -> None:
        from agent.engine.confine import hide

        try:
            hide(self._around.hidden, self._around.cover)
        except OSError as error:
            what = f"the other GPUs' device nodes could not be hidden from it: {error.strerror}"
            if self._around.must_hide:
                raise StartError(
                    f'{what}; jobs.confine_gpus = "on" needs a kernel and container that allow it'
                ) from error
            self._tell(_NOTE, what)

    def _exec(self) -> None:
        program = self._program
        if self._around.task_prolog is not None:
            self._run_task_prolog(self._around.task_prolog)
        self._doing = f"run {_shown(program.argv[0])}"
        self._code = EXIT_NOT_EXECUTABLE
        os.execve(program.argv[0], program.argv, program.env)  # noqa: S606  (no shell is the point)

    def _run_task_prolog(self, path: str) -> None:
        from agent.engine.hooks import obey, run_hook

        self._doing = f"run the task_prolog {path}"
        said = bytearray()
        problem = run_hook(
            "task_prolog",
            path,
            {**self._program.env, b"SLURM_SCRIPT_CONTEXT": b"prolog_task"},
            None,
            self._around.hook_timeout_s,
            lambda data: said.extend(data[: _SAID_BYTES - len(said)]),
            beside=True,
        )
        if problem is not None:
            raise StartError(f"{problem}; it is the site's, see its admin and the job's log")
        obey(bytes(said), self._program.env, 1)

    def _tell(self, kind: bytes, text: str) -> None:
        os.write(self._result, kind + text.encode("utf-8", "backslashreplace").replace(b"\0", b"?") + b"\0")


def _limit_tasks(most: int) -> None:
    """Bound a fork bomb where there is no unit to do it: all tasks of the user count, and root is never held."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def reset_signals() -> None:
    """In a child: Python ignores SIGPIPE and XFSZ, we catch others; an ignored signal stays ignored through exec."""
    for number in range(1, signal.NSIG):
        # What Python knows to be the default is; 60 calls into the kernel that change nothing are spared.
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) != signal.SIG_DFL:
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):  # numbers that libc keeps for itself
                continue
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _reason(program: bytes, error: OSError, doing: str) -> str:
    if not doing.startswith("run "):
        return f"{error.strerror}; see that it exists and that the job's user may use it"
    if isinstance(error, FileNotFoundError) and os.path.exists(program):
        return f"its interpreter {_interpreter(program)} does not exist on this node; mend the first line of the script"
    if error.strerror == "Exec format error":
        return "Exec format error; a script begins with a line such as #!/bin/bash"
    return f"{error.strerror}; see that it exists on this node and is executable for the job's user"


def _interpreter(program: bytes) -> str:
    try:
        with open(program, "rb") as file:  # noqa: PTH123
            first = file.readline(256)
    except OSError:
        return "(in its first line)"
    return _shown(first[2:].strip()) if first.startswith(b"#!") else "(its loader)"


def _shown(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def raw(text: str) -> bytes:
    """Text of a claim as the bytes that it stands for."""
    return text.encode("utf-8", "surrogateescape")
