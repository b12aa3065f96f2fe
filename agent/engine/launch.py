"""Starting a shim so that it is nobody's child of ours: by a transient systemd unit, or by a double fork.

Rules kept here: on the command line are the shim's path and the attempt's folder, nothing of the job; the shim gets an
empty environment; launching the same attempt twice is harmless (the shim's lock, and PID 1 for a unit's name).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from agent.api.errors import StokerError
from agent.engine.folder import EXIT_TAKEN
from agent.engine.records import AttemptDir, Claim, RecordError

SHIM = Path(__file__).with_name("shim.py")

_HAND_OFF_TIMEOUT_S = 30.0
"""From spawn to hand-off. It takes some 15 ms; the limit is for a machine that swaps or a disk that hangs."""

_AT_ONCE = 4
"""Units that are asked for at a time: PID 1 tells each asker of all changes to all units, so that many askers cost it
twice as much a unit."""

SWEEP_S = 80
"""What a stop may take beyond the grace: the shim gives up on a process that cannot be killed after 60 s, and on a
temporary folder after 10."""

_SHIELDED = {
    "Type": "exec",
    "OOMPolicy": "continue",  # a process that ran out of memory is the job's to notice, not the unit's end
    "OOMScoreAdjust": "-900",
    "UMask": "0077",
}
"""What holds for every unit of ours."""

_PATH = "/usr/local/bin:/usr/bin:/bin"


class LaunchError(StokerError):
    """The shim was not started, as far as we were told; after a time limit the attempt's records know better."""


class Launcher(Protocol):
    """Who starts shims."""

    enforces_limits: bool
    """Whether the claim's memory and CPU limits are kept to."""

    async def start(self) -> None:
        """Get ready, so that the first job need not wait for it."""

    async def stop(self) -> None:
        """Let go of what `start` made; running shims stay."""

    async def launch(self, job_id: int, attempt: AttemptDir) -> None:
        """Start the attempt's shim; returns when it no longer depends on us.

        Raises:
            LaunchError: with the sentence to show: which job, why, and where to look.
        """


class ForkLauncher:
    """A shim that forks itself away: for user mode, and for machines where systemd is not PID 1.

    The shim takes its lock, checks its claim, forks and lets the parent end: our child lives some 10 ms, is reaped
    here, and tells by its exit status whether the shim was handed off.
    """

    enforces_limits = False

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    async def launch(self, job_id: int, attempt: AttemptDir) -> None:
        """See `Launcher`."""
        with naming(job_id, f"its record {attempt.path}, and this node's memory, disk and process limits"):
            status, said = await self.hand_off(attempt.path)
            if status not in (0, EXIT_TAKEN):
                raise LaunchError(said or f"its shim ended with status {status}")

    async def hand_off(self, attempt: Path) -> tuple[int, str]:
        """Start the attempt's shim; the exit status of its parent and what it said."""
        return await _run([*shim_command(self._python), "--detach", os.fspath(attempt)])

    async def start(self) -> None:
        """See `Launcher`: there is nothing to make."""

    async def stop(self) -> None:
        """See `Launcher`."""


class SystemdLauncher:
    """A transient unit per job, `stoker-job-ID-ATTEMPT.service` in `stoker-jobs.slice`, with the shim as main process.

    The slow way, of which little can go wrong: `ServedSystemdLauncher` takes it where its keeper cannot be had.

    Restarting the agent does not touch it, the limits of the claim are obeyed, and when the shim dies PID 1 ends the
    rest. `systemctl stop` of the unit is a clean stop: SIGTERM to the shim alone (KillMode=mixed), which gives the job
    its grace. Not Type=notify: all that would be gained is the rare refusal of a shim, told by `wait_end` anyway.
    """

    enforces_limits = True

    def __init__(self, python: str = sys.executable, timeout_s: float = _HAND_OFF_TIMEOUT_S) -> None:
        self._python = python
        self._timeout_s = timeout_s
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def start(self) -> None:
        """See `Launcher`: PID 1 is there already."""

    async def stop(self) -> None:
        """See `Launcher`."""

    async def launch(self, job_id: int, attempt: AttemptDir) -> None:
        """See `Launcher`. The name is taken while the unit lives: a second launch of an attempt changes nothing."""
        claim = claim_of(job_id, attempt)
        unit = unit_name(job_id, attempt)
        with naming(job_id, f"`journalctl -u {unit}`, and `systemctl list-jobs` for what systemd waits for"):
            async with self._turn:
                shim = [*shim_command(self._python), os.fspath(attempt.path)]
                await start_unit(unit, _unit_of(claim), shim, self._timeout_s)


def why_no_systemd() -> str | None:
    """Why jobs cannot be units here; `None` when they can. sd_booted(3) has the same test."""
    if not Path("/run/systemd/system").is_dir() or Path("/proc/1/comm").read_text().strip() != "systemd":
        return "systemd is not PID 1 here"
    if os.geteuid() != 0:
        return "only root may start units"
    if shutil.which("systemd-run", path=_PATH) is None:
        return "systemd-run is not installed"
    return None


def unit_name(job_id: int, attempt: AttemptDir) -> str:
    """The attempt's unit. Ids only: systemd mangles other names without a word."""
    return f"stoker-job-{job_id}-{attempt.attempt}.service"


def claim_of(job_id: int, attempt: AttemptDir) -> Claim:
    """The claim of an attempt that is to be launched.

    Raises:
        LaunchError: there is none, or it is damaged.
    """
    with naming(job_id, f"its record {attempt.path}"):
        try:
            claim = attempt.read_claim()
        except RecordError as error:
            raise LaunchError(str(error)) from error
        if claim is None:
            raise LaunchError("there is no claim to run")
    return claim


@contextlib.contextmanager
def naming(job_id: int, look_at: str) -> Iterator[None]:
    """Complete what goes wrong to a sentence: which job, why, and where to look."""
    try:
        yield
    except LaunchError as error:
        raise LaunchError(f"job {job_id} could not be started: {str(error).rstrip('.')}; look at {look_at}") from error


def _unit_of(claim: Claim) -> dict[str, str]:
    """The properties of a job's unit."""
    properties = {
        "Description": "A job of Stoker",
        "KillMode": "mixed",
        "TimeoutStopSec": f"{claim.grace_s + SWEEP_S + _hooks_s(claim):.0f}",
    }
    if claim.memory_bytes is not None:
        properties["MemoryMax"] = str(claim.memory_bytes)
        properties["MemorySwapMax"] = "0"  # else a job above its limit would drag the node through its swap
    if claim.cpus is not None:  # asked for; what was not asked for is not limited
        properties["CPUQuota"] = f"{claim.cpus * 100}%"
    if claim.tasks_max is not None:
        properties["TasksMax"] = str(claim.tasks_max)
    return properties


async def start_unit(
    unit: str, properties: Mapping[str, str], command: Sequence[str], timeout_s: float = _HAND_OFF_TIMEOUT_S
) -> None:
    """Have PID 1 run a command in a transient unit in `stoker-jobs.slice`; one that is there already is left alone.

    Raises:
        LaunchError: it refused, or did not answer.
    """
    program = shutil.which("systemd-run", path=_PATH) or "systemd-run"
    options = ["--quiet", "--collect", "--no-ask-password", f"--unit={unit}", "--slice=stoker-jobs.slice"]
    asked = [f"--property={name}={value}" for name, value in {**_SHIELDED, **properties}.items()]
    # PID 1 fills in $NAME in the arguments of a unit; $$ is a dollar.
    words = (each.replace("$", "$$") for each in command)
    status, said = await _run([program, *options, *asked, "--", *words], timeout_s)
    if status and "already" not in said:  # "already exists" before 248, "already loaded" since
        raise LaunchError(f"systemd refused {unit}: {said or f'systemd-run ended with status {status}'}")


def _hooks_s(claim: Claim) -> float:
    """What task_epilog and epilog may take; a prolog is ended by the stop."""
    hooks = claim.hooks
    return (
        0.0 if hooks is None else hooks.timeout_s * sum(each is not None for each in (hooks.epilog, hooks.task_epilog))
    )


def shim_command(python: str) -> list[str]:
    """The shim's command line without the attempt's folder. `-I -S`: no site packages, no variables, no user paths."""
    return [python, "-I", "-S", os.fspath(SHIM)]


async def _run(command: list[str], timeout_s: float = _HAND_OFF_TIMEOUT_S) -> tuple[int, str]:
    """Run a short command in its own session with nothing of ours; returns exit status and stderr.

    Not `asyncio.create_subprocess_exec`: before Python 3.12 that costs a thread per child.
    """
    child = _spawn(command)
    assert child.stderr is not None
    with child.stderr:
        if not await _ended(child.pid, timeout_s):
            child.kill()
            child.wait()
            raise LaunchError(f"{command[0]} did not answer within {timeout_s:.0f} s")
        # Ended: what it said is in the pipe, and whoever else holds the pipe is not waited for.
        os.set_blocking(child.stderr.fileno(), False)
        said = child.stderr.read() or b""
    return child.wait(), said.decode(errors="replace").strip()


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            umask=0o077,
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchError(f"cannot run {command[0]}: {error.strerror}") from error


async def _ended(pid: int, timeout_s: float) -> bool:
    """Whether our child ends within the time; it stays to be reaped."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return True
