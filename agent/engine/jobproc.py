"""The job's first process: forked behind a gate, turned into the user's, exec'd.

The child waits at the gate until `started` is on disk. When the shim dies before, the gate closes unopened and the
child ends without one instruction of the job. Why an exec failed comes back through a pipe that a successful one
closes. Cheap imports only (see `lean`).
"""

# ruff: noqa: PTH110

from __future__ import annotations

import os

from agent.engine.lean import signal

EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126

_OPEN = b"o"


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
        self.env = {raw(name): raw(value) for name, value in env.items()}
        self.work_dir = raw(work_dir)
        self.umask = umask


class JobProcess:
    """The forked child as the shim sees it."""

    def __init__(self, program: Program, account: Account, stdout: int, stderr: int, oom_score: int) -> None:
        gate_end, self._gate = os.pipe()
        self.exec_result, result_end = os.pipe()
        """Readable when the exec has succeeded (nothing in it) or failed (why); see `exec_failure`."""
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            _become_job(program, account, gate_end, result_end, (stdout, stderr), oom_score)
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

    def exec_failure(self) -> tuple[int, str] | None:
        """Exit code and sentence, or `None` when the job runs. Closes `exec_result`."""
        text = os.read(self.exec_result, 4096).decode("utf-8", "replace")
        os.close(self.exec_result)
        if not text:
            return None
        code, _, sentence = text.partition(" ")
        return int(code), sentence


def _become_job(
    program: Program, account: Account, gate: int, result: int, output: tuple[int, int], oom_score: int
) -> None:
    """In the child; does not return."""
    code, doing = 1, "set the job up"
    try:
        os.setsid()
        _reset_signals()
        if os.read(gate, 1) != _OPEN:
            os._exit(0)
        _set_oom_score(oom_score)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output[0], 1)
        os.dup2(output[1], 2)
        doing = f"become uid {account.uid} for the job"
        account.become()
        os.umask(program.umask)
        doing = f"enter the working folder {_shown(program.work_dir)}"
        os.chdir(program.work_dir)
        doing = f"run {_shown(program.argv[0])}"
        code = EXIT_NOT_EXECUTABLE
        os.execve(program.argv[0], program.argv, program.env)  # noqa: S606  (no shell is the point)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and code == EXIT_NOT_EXECUTABLE:
            code = EXIT_NOT_FOUND
        os.write(result, f"{code} cannot {doing}: {_reason(program.argv[0], error, doing)}".encode("utf-8", "replace"))
    except Exception as error:  # noqa: BLE001  (a rim: between fork and exec nobody else could tell it)
        os.write(result, f"{code} cannot {doing}: {error!r}".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _reset_signals() -> None:
    """Python ignores SIGPIPE and XFSZ, and we catch others; an ignored signal would stay ignored through exec."""
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):  # numbers that libc keeps for itself
                continue
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _set_oom_score(score: int) -> None:
    """The shim is shielded from the out-of-memory killer; its job must not be."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(str(score))
    except OSError:
        return


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
