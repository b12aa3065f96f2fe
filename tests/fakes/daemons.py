"""Real agents and hubs as child processes, each in a folder of its own, for the system tests and the bench.

Nothing is simulated here but the GPUs. A daemon is waited for by the byte it writes on `STOKER_READY_FD`.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from agent.api.client import Client
from agent.api.types import Job
from agent.api.unix import UnixTransport
from tests.fakes.vendor import EVALUATION_FILE

START_DEADLINE_S = 60.0
_T = TypeVar("_T")


class DaemonError(Exception):
    """A daemon did not start; carries what it logged."""


@dataclass
class Daemon:
    """One `stoker-agent run` or `stoker-hub run`."""

    program: str
    config: Path
    socket: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)
    prelude: str = ""
    """Code that runs in it first."""
    entering: Sequence[str] = ()
    """The command that runs another somewhere else: in a booted systemd's namespaces (`sysd_ns`)."""

    def start(self) -> None:
        """Start it and wait until it listens."""
        read_fd, write_fd = os.pipe()
        entry = f"{self.prelude}import sys; from agent.__main__ import {self.program}_main as main; sys.exit(main())"
        command = [*self.entering, sys.executable, "-c", entry, "--config", str(self.config), "run"]
        env = {**os.environ, **self.env, "STOKER_READY_FD": str(write_fd)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write_fd], env=env
            )
        os.close(write_fd)
        try:
            ready, _, _ = select.select([read_fd], [], [], START_DEADLINE_S)
            if not ready or os.read(read_fd, 1) == b"":
                raise DaemonError(f"{self.program} did not start:\n{self.log.read_text(errors='replace')}")
        finally:
            os.close(read_fd)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=60)

    def stop(self) -> None:
        """SIGTERM; a second call does nothing."""
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGTERM)

    def client(self, timeout_s: float = 20.0) -> Client:
        return Client(UnixTransport(self.socket), timeout_s=timeout_s)


class Box:
    """One machine's folder: an agent, and a hub if asked for. Sockets live under a short path of their own."""

    def __init__(
        self,
        root: Path,
        name: str = "n1",
        *,
        gpus: int = 8,
        cluster: str = "lab",
        mode: str = "user",
        allow_root_jobs: bool = os.geteuid() == 0,
        launcher: str = "fork",
        library: Path | None = None,
        history: str = "off",
        more: str = "",
    ) -> None:
        """`library`: the stand-in for NVML, where its GPUs take the place of simulated ones.

        `history` is off unless asked for: hundreds of nodes a run, of which nobody looks back. `more`: tables of the
        configuration beside these.
        """
        self.root = root
        self.name = name
        root.mkdir(parents=True, exist_ok=True)
        self.run_dir = Path(tempfile.mkdtemp(prefix="stk-", dir="/tmp"))
        self.config = root / "stoker.toml"
        self.state_dir = root / "state"
        self.work_dir = root / "work"
        self.work_dir.mkdir(exist_ok=True)
        gpu = (
            f'source = "simulated"\nsimulated_count = {gpus}\nperiod_s = 0.2'
            if library is None
            else f'source = "nvml"\nlibrary = "{library}"\nperiod_s = 1.0'
        )
        self.config.write_text(
            f'[node]\nname = "{name}"\nmode = "{mode}"\nstate_dir = "{self.state_dir}"\nrun_dir = "{self.run_dir}"\n'
            f"allow_root_jobs = {str(allow_root_jobs).lower()}\n"
            f"[gpu]\n{gpu}\n"
            f'[jobs]\ngrace_s = 2\nlauncher = "{launcher}"\n'
            f'[telemetry]\nhistory = "{history}"\n'
            f'[hub]\ncluster = "{cluster}"\n{more}',
            encoding="utf-8",
        )
        self.agent = Daemon("agent", self.config, self.run_dir / "agent.sock", root / "agent.log")
        self.hub = Daemon("hub", self.config, self.run_dir / "hub.sock", root / "hub.log")

    def close(self) -> None:
        """Stop both daemons, end the jobs a failed test left behind, remove the sockets' folder."""
        for daemon in (self.hub, self.agent):
            daemon.stop()
        shims = [each for each in psutil.process_iter(["cmdline"]) if self._is_shim(each.info["cmdline"] or [])]
        for shim in shims:
            with contextlib.suppress(psutil.NoSuchProcess):
                shim.terminate()  # it ends its job, and then itself
        psutil.wait_procs(shims, timeout=60)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _is_shim(self, cmdline: list[str]) -> bool:
        return any(word.endswith("shim.py") for word in cmdline) and cmdline[-1].startswith(f"{self.state_dir}/")


@contextmanager
def box(root: Path, name: str = "n1", *, hub: bool = True, voucher: bool = True, **options: object) -> Iterator[Box]:
    """A started box: agent, hub, evaluation voucher, seats handed out."""
    made = Box(root, name, **options)  # type: ignore[arg-type]
    try:
        made.agent.start()
        if hub:
            made.hub.start()
        if hub and voucher:
            activate_evaluation(made)
        yield made
    finally:
        made.close()


def activate_evaluation(made: Box) -> None:
    """Install the built-in voucher through the hub and wait until the node holds its seats."""
    with made.hub.client() as hub, made.agent.client() as agent:
        hub.activate(EVALUATION_FILE.read_text(encoding="ascii"))
        wait_until(lambda: all(gpu.seated for gpu in agent.node().gpus), "the node has its seats")


def wait_until(condition: Callable[[], _T], what: str, deadline_s: float = 60.0) -> _T:
    """Ask a real, other process until it says so: there is no event to await across the wire in a plain test."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {deadline_s:.0f} s: {what}")


def wait_final(client: Client, job_id: int, node: str | None = None, deadline_s: float = 60.0) -> Job:
    """The job once it has ended."""
    from agent.api.refs import JobRef

    ref = JobRef(id=job_id, node=node)

    def ended() -> Job | None:
        job = client.job(ref)
        return job if job.state.is_final else None

    found = wait_until(ended, f"job {ref} ends", deadline_s)
    assert found is not None
    return found
