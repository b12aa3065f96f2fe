"""The files that the agent and a job's shim tell each other by.

    jobs/<id>/<attempt>/
        claim      agent → shim   what to run; whole before anything is started
        run.lock   flock          held by the shim from its first moment to its last: at most one run per attempt
        started    shim → agent   who runs; written durably before the job's first instruction
        stop       agent → shim   the wish to end it; written durably before anything is signalled
        ask.N      agent → shim   a signal, a new time limit, a step (`asks`); the shim removes what it has done
        exit       shim → agent   how it ended, and that nothing of it is left
        log, log.* shim → agent   the bounded log (`logread`); `times` tells when which part was written
        hooks.log  shim → admin   what prolog and epilog said

Rules kept here: each record is written as temp → fsync → rename → fsync(folder), so a reader sees a whole record or
none; a record that is there but makes no sense is an error with its path, never a default. The claim alone is not
flushed: within a boot it is whole, and a power cut that tears it leaves no `started`, so that the job never ran and the
claim is written anew (`prepare`). What the records say after a crash, `found` reads.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from agent.api.decode import convert
from agent.api.errors import StokerError
from agent.engine.asks import is_ask
from agent.jobs.durable import sync_folder, write_durably, write_whole

_T = TypeVar("_T")


class RecordError(StokerError):
    """A record cannot be written, or is there and cannot be understood."""


class RecordDiskError(RecordError):
    """The disk refused: no fault of the job, and worth another try."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the records. Unknown fields are ignored: an older agent reads a newer shim."""


class HookOrders(Record, frozen=True, kw_only=True):
    """The site's programs that run around the job; absolute paths."""

    prolog: str | None = None
    """As the shim's account (root in system mode), before the job; a failure means that the job never starts."""
    epilog: str | None = None
    """The same after it, once nothing of it is left."""
    task_prolog: str | None = None
    """As the job's user in the job's environment, which it may change."""
    task_epilog: str | None = None
    env: dict[str, str] = {}
    """The whole environment of prolog and epilog: facts of ours, nothing that the user chose."""
    timeout_s: float = 60


class Claim(Record, frozen=True, kw_only=True):
    """What the shim obeys. Texts may hold lone surrogates (surrogateescape): they reach the job as raw bytes."""

    argv: tuple[str, ...]
    """`argv[0]` is an absolute path; there is no search along PATH and no shell."""
    env: dict[str, str]
    """The whole environment of the job; nothing is added."""
    work_dir: str
    umask: int = 0o022
    uid: int | None = None
    """`None` in user mode: the job runs as the agent's own account."""
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    time_limit_s: int | None = None
    grace_s: float = 30
    """Seconds from the wish to stop it to SIGKILL."""
    job_dir: str | None = None
    """`$JOB_DIR`: there `stop` is written and `progress.json` is read; `None`: the job is signalled at once."""
    warn_signal: int | None = None
    """Number of the signal of `--signal`."""
    warn_before_s: float = 60
    """So long before the time limit, and before the SIGTERM of a preemption as far as the grace allows."""
    warn_batch_only: bool = False
    """To the job's first process alone; else to all of the job but that one."""
    input_path: str | None = None
    """Absolute; `None`: /dev/null."""
    output_path: str | None = None
    """Absolute, patterns filled in; `None` keeps the bounded log only."""
    error_path: str | None = None
    """`None` or the same as `output_path`: stderr goes where stdout goes, in order."""
    open_mode: Literal["append", "truncate"] = "truncate"
    log_head_bytes: int = 16 * 1024 * 1024
    log_tail_bytes: int = 48 * 1024 * 1024
    output_max_bytes: int = 1024 * 1024 * 1024
    cpus: int | None = None
    """Of the whole job; kept to where jobs run in units (cpu.max, CPUQuota), a fork promises nothing."""
    memory_bytes: int | None = None
    """Kept to where jobs run in units (memory.max, MemoryMax; without swap), a fork promises nothing."""
    tasks_max: int | None = None
    """Processes and threads at a time: pids.max or TasksMax; where there is no such controller RLIMIT_NPROC, which
    counts all of the user's and does not hold root."""
    hidden_devices: tuple[str, ...] = ()
    """Device nodes that the job must not open; covered in its own mount namespace (`confine`)."""
    confine: Literal["auto", "on"] = "auto"
    """What if they cannot be covered: `on` refuses the start, `auto` starts and says so in the exit record."""
    tmp_dir: str | None = None
    """The job's own temporary folder: made by the shim, removed by it after the job (`tmpdir`)."""
    hooks: HookOrders | None = None


class Started(Record, frozen=True, kw_only=True):
    """Who runs the attempt. Start times are clock ticks after boot, /proc/PID/stat field 22."""

    shim_pid: int
    shim_start: int
    job_pid: int
    job_start: int
    boot_id: str
    at: int
    """Unix seconds."""
    cgroup: str | None = None
    """Folder of the cgroup that holds the job and nothing else, where no unit of the job's own does."""
    hears: int = 0
    """1: the shim reads `ask.N` on SIGUSR1; 2: it also knows `step`. A shim of an older version has 0, and that signal
    would end it."""


class Stop(Record, frozen=True, kw_only=True):
    """The wish that the run ends."""

    why: Literal["cancel", "limit", "preempt"]
    by: str
    """The user, or the part of Stoker, that wishes it."""


class Ask(Record, frozen=True, kw_only=True):
    """Something that a running job's shim is to do, once."""

    do: Literal["signal", "limit", "step"]
    number: int | None = None
    """Of the signal."""
    batch_only: bool = False
    """To the job's first process alone; else to all of the job but that one."""
    limit_s: float | None = None
    """The new time limit from the start of the job on; `None`: none."""
    argv: tuple[str, ...] = ()
    """Of a step: a process of the job's more, by its full path."""


class Exit(Record, frozen=True, kw_only=True):
    """How the run ended. Written when nothing of it is left, or when the rest cannot be killed (`detail` says so)."""

    code: int | None
    """0–255 as waitpid(2) gives it; `None` when ended by a signal, or when it never got to run."""
    signal: int | None
    why: Literal["cancel", "limit", "preempt", "start", "outside", "prolog"] | None
    """`None`: it ended by itself. `start`: it could not be started; `detail` says why and what to do. `outside`: its
    shim was told to end it by a SIGTERM that was not ours (systemctl stop, a shutdown). `prolog`: the site's prolog
    failed, the job never began."""
    detail: str | None
    ended_at: int
    """Unix seconds."""
    run_s: float
    """Seconds from the gate to the end of the job's first process, monotonic clock."""
    oom: bool
    """The kernel killed a process of the job for memory."""
    swept: int
    """Processes that the job left behind and that were killed."""
    log_bytes: int
    """Bytes the job wrote, whether the log still has them or not."""
    epilog: str | None = None
    """What went wrong with the site's epilog, which speaks against the node and not against the job."""


@dataclass(frozen=True, slots=True)
class AttemptDir:
    """The folder of one attempt, `jobs/<id>/<attempt>`: records in and out."""

    path: Path

    @property
    def attempt(self) -> int:
        """The attempt's number, which is the folder's name."""
        return int(self.path.name)

    def create(self, claim: Claim) -> None:
        """Make the folder and put the claim in it, whole. On disk it is with `started`. Twice is as good as once.

        Raises:
            RecordError: the claim cannot be given to a job, or the disk refuses.
        """
        data = _claim_bytes(claim)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self.path / "claim", data, mode=0o600)
        except OSError as error:
            raise RecordDiskError(f"cannot write {self.path}/claim: {error.strerror}; see its disk") from error

    def make(self) -> None:
        """Make the folder, durably; it may be there already.

        Raises:
            RecordDiskError: the disk refuses.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(self.path.parent)
            sync_folder(self.path.parent.parent)
        except OSError as error:
            raise RecordDiskError(
                f"cannot make the attempt's folder {self.path}: {error.strerror}; see its disk"
            ) from error

    def read_claim(self) -> Claim | None:
        """The claim; `None` when none was stored."""
        return self._read("claim", Claim)

    def read_started(self) -> Started | None:
        """Who runs it; `None` when nobody has started yet."""
        return self._read("started", Started)

    def has_begun(self) -> bool:
        """Whether a shim has recorded that it runs the attempt, or that it has ended it."""
        return (self.path / "started").exists() or (self.path / "exit").exists()

    def read_stop(self) -> Stop | None:
        """The stored wish to end it."""
        return self._read("stop", Stop)

    def read_exit(self) -> Exit | None:
        """The outcome; `None` while there is none."""
        return self._read("exit", Exit)

    def write_stop(self, stop: Stop) -> None:
        """Store the wish durably. The first wish stands: later ones change nothing.

        Raises:
            RecordError: the disk refuses.
        """
        if not (self.path / "stop").exists():
            self._write("stop", msgspec.json.encode(stop) + b"\n")

    def write_ask(self, ask: Ask) -> None:
        """Store an ask durably behind those that are there; see `asks`.

        Raises:
            RecordError: the disk refuses.
        """
        temporary = self.path / f".ask.{os.getpid()}.{threading.get_ident()}.tmp"
        try:
            write_durably(temporary, msgspec.json.encode(ask) + b"\n", mode=0o600, sync_folder_too=False)
            number = max((int(name[len("ask.") :]) for name in self._asks()), default=0)
            while True:
                number += 1
                try:
                    (self.path / f"ask.{number}").hardlink_to(temporary)  # refuses a name that is taken
                    break
                except FileExistsError:
                    continue
            temporary.unlink()
            sync_folder(self.path)
        except OSError as error:
            raise RecordDiskError(f"cannot write an ask into {self.path}: {error.strerror}; see its disk") from error

    def has_asks(self) -> bool:
        """Whether there are asks that the shim has not taken."""
        return bool(self._asks())

    def _asks(self) -> list[str]:
        return [each.name for each in self.path.iterdir() if is_ask(each.name)]

    def locked(self) -> bool:
        """Whether a shim holds the attempt.

        The probe takes the lock for some microseconds itself; a shim that starts in that moment tries again.
        """
        try:
            fd = os.open(self.path / "run.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _read(self, name: str, kind: type[_T]) -> _T | None:
        path = self.path / name
        try:
            return convert(json.loads(path.read_bytes()), kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordDiskError(f"cannot read the record {path}: {error.strerror}; see its disk") from error
        except (ValueError, msgspec.ValidationError) as error:
            raise RecordError(f"the record {path} is damaged: {error}; keep the folder for support") from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_durably(self.path / name, data, mode=0o600)
        except OSError as error:
            raise RecordDiskError(
                f"cannot write the record {self.path / name}: {error.strerror}; see its disk"
            ) from error


_NUMBERS = (
    *("time_limit_s", "grace_s", "log_head_bytes", "log_tail_bytes", "output_max_bytes", "umask"),
    *("warn_signal", "warn_before_s", "tasks_max"),
)


def _paths(claim: Claim) -> tuple[str | None, ...]:
    hooks = claim.hooks or HookOrders()
    return (
        *(claim.work_dir, claim.input_path, claim.output_path, claim.error_path, claim.job_dir, claim.tmp_dir),
        *(hooks.prolog, hooks.epilog, hooks.task_prolog, hooks.task_epilog),
        *claim.hidden_devices,
    )


def _claim_bytes(claim: Claim) -> bytes:
    """The claim as JSON, after everything that execve(2) could refuse was refused here, with its name."""
    if not claim.argv or not claim.argv[0].startswith("/"):
        raise RecordError(f"the claim's argv {claim.argv[:1]} does not begin with an absolute path")
    for path in _paths(claim):
        if path is not None and not path.startswith("/"):
            raise RecordError(f"the claim's path {path!r} is not absolute")
        if path is not None and "\0" in path:
            raise RecordError(f"the claim's path {path!r} cannot be given to a process (NUL)")
    if claim.uid is not None and (claim.gid is None or claim.groups is None):
        raise RecordError(f"the claim names uid {claim.uid} without a gid and groups")
    for name in _NUMBERS:
        if (getattr(claim, name) or 0) < 0:
            raise RecordError(f"the claim's {name} {getattr(claim, name)} is negative")
    for name, text in [*(("argv", each) for each in claim.argv), *claim.env.items()]:
        if "\0" in text or "\0" in name or "=" in name or not name:
            raise RecordError(f"the claim's {name!r} cannot be given to a process (NUL, or an odd name)")
    try:
        return msgspec.json.encode(claim) + b"\n"
    except UnicodeEncodeError:  # a lone surrogate somewhere, which JSON's escapes can tell
        return _odd_claim_bytes(claim)


def _odd_claim_bytes(claim: Claim) -> bytes:
    plain = msgspec.to_builtins(claim)
    try:
        json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise RecordError(f"the claim holds text that is no bytes: {error.reason}") from error
    return json.dumps(plain).encode() + b"\n"
