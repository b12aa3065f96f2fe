"""What is found of an attempt by its records: how it ended, that it runs, or what else became of it.

Rules kept here: a run whose end nobody recorded is `Lost`, never a success; what a lost run left is killed before
anybody hears of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.engine import cgroup, procs, tmpdir
from agent.engine.records import AttemptDir, Exit, RecordDiskError, RecordError, Started

MARK_NAMES = ("JOB_DIR", "JOB_ATTEMPT")
"""Variables of a job's environment by which its runaways are known once its shim is gone."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit record is there: that is the outcome."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Alive:
    """A shim holds the lock. `started` is `None` while it is still starting."""

    started: Started | None


@dataclass(frozen=True, slots=True)
class NeverRan:
    """Not one instruction of the job was run: safe to launch again, with the same folder and claim."""


@dataclass(frozen=True, slots=True)
class Rebooted:
    """It ran under another boot of this machine and did not record its end."""

    started: Started


@dataclass(frozen=True, slots=True)
class Lost:
    """It ran, and its shim died without recording the end. What was left of it has been killed."""

    started: Started | None
    detail: str


Found = Ended | Alive | NeverRan | Rebooted | Lost


def recover(attempt: AttemptDir, boot_id: str) -> Found:
    """What became of an attempt. Kills the rest of a lost one, by recorded pid and start time, before it answers.

    The order matters and is the protocol: `exit` first; the lock, which pid reuse cannot fool; `exit` again, because
    the shim may have ended between the two; only then is `started` asked whether anything ran.

    Raises:
        RecordDiskError: the folder cannot be read at all.
    """
    held = False
    try:
        if (ended := attempt.read_exit()) is not None:
            return Ended(ended)
        if held := attempt.locked():
            return Alive(attempt.read_started())
        if (ended := attempt.read_exit()) is not None:
            return Ended(ended)
        started = attempt.read_started()
    except RecordDiskError:
        raise
    except RecordError as error:
        if held:
            return Alive(None)  # whatever the record looks like, its shim lives and will write `exit`
        return Lost(None, f"{error}{_kill_rest(attempt, None)}")
    if started is None:
        return NeverRan()
    if started.boot_id != boot_id:
        _remove_tmp(attempt)
        return Rebooted(started)
    rest = _kill_rest(attempt, started)
    return Lost(started, f"its supervisor (pid {started.shim_pid}) died without recording an end{rest}")


def _kill_rest(attempt: AttemptDir, started: Started | None) -> str:
    """Kill what a lost run left: its tree where it is known, and whatever carries its marks. Says how many."""
    pid, start = (started.job_pid, started.job_start) if started else (0, 0)
    killed = procs.kill_left(pid, start, _marks(attempt))
    if started is not None and started.cgroup is not None:
        killed += cgroup.end(started.cgroup)
    _remove_tmp(attempt)
    return f"; {killed} processes of it were killed" if killed else "; nothing of it was left"


def _remove_tmp(attempt: AttemptDir) -> None:
    """What the shim would have removed; what cannot be removed in time is for the agent's next start."""
    try:
        claim = attempt.read_claim()
    except RecordError:
        return
    if claim is not None and claim.tmp_dir is not None:
        tmpdir.remove(claim.tmp_dir)


def _marks(attempt: AttemptDir) -> list[bytes]:
    try:
        claim = attempt.read_claim()
    except RecordError:
        return []
    if claim is None or any(name not in claim.env for name in MARK_NAMES):
        return []
    return [f"{name}={claim.env[name]}".encode("utf-8", "surrogateescape") for name in MARK_NAMES]
