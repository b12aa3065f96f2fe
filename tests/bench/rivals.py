"""The same trivial jobs through us, task-spooler and Slurm, in the same run: what a job costs, and how soon it starts.

Each job appends a time stamp to a file. Peers are taken where they are installed: `apt install task-spooler`, `apt
install slurmctld slurmd slurm-client munge`; Slurm is started here, on loopback, with one node of `SLOTS` CPUs and
without accounting or delays. Everybody gets its jobs one by one by its own command's means: task-spooler and Slurm by a
process each (they have no other), we by one connection and, in a row of its own, by a process each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.api.types import SubmitRequest
from tests.bench.table import Row
from tests.fakes.daemons import Box, box, wait_until

JOBS = 500
SLOTS = 16
IDLE_STARTS = 60
BY_COMMAND = 40
_DEADLINE_S = 240.0


def rows() -> list[Row]:
    """Rates of a burst, and latency of single jobs on an idle machine."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as name:
        folder = Path(name)
        found += _ours(folder / "ours")
        for peer, make in (("task-spooler", _task_spooler), ("Slurm", _slurm)):
            reason = _missing(peer)
            if reason:
                print(f"no {peer}: {reason}", file=sys.stderr)
                continue
            with make(folder / peer.replace(" ", "-")) as submit:
                found += measured(peer, submit, folder / f"{peer}.out")
    return found


def measured(
    name: str, submit: Callable[[Path], None], out: Path, *, rate_aim: str = "", latency_aim: str = ""
) -> list[Row]:
    """Rate of a burst of jobs that each add a line to `out`, and latency of single ones."""
    out.write_text("")
    starts = []
    for number in range(IDLE_STARTS):
        begin = time.time()
        submit(out)
        _wait_lines(out, number + 1)
        starts.append((float(out.read_text().split()[-1]) - begin) * 1000)
    out.write_text("")
    begin = time.perf_counter()
    for _ in range(JOBS):
        submit(out)
    submitted = time.perf_counter() - begin
    _wait_lines(out, JOBS)
    total = time.perf_counter() - begin
    return [
        Row(name=f"{name}: {JOBS} jobs begun and done", value=JOBS / total, unit="jobs/s", aim=rate_aim),
        Row(name=f"{name}: submits alone", value=JOBS / submitted, unit="jobs/s"),
        _latency(f"{name}: submit to first instruction, idle", starts, latency_aim),
    ]


def _latency(name: str, starts_ms: list[float], aim: str) -> Row:
    p99 = sorted(starts_ms)[min(len(starts_ms) - 1, round(len(starts_ms) * 0.99))]
    spread = f"{min(starts_ms):.3g} – p99 {p99:.3g}"
    return Row(name=name, value=statistics.median(starts_ms), unit="ms", aim=aim, spread=spread)


def _wait_lines(out: Path, number: int) -> None:
    end = time.monotonic() + _DEADLINE_S
    while out.read_bytes().count(b"\n") < number:
        if time.monotonic() > end:
            raise TimeoutError(f"{out.name}: {out.read_bytes().count(10)} of {number} jobs ran")
        time.sleep(0.002)


def _missing(peer: str) -> str | None:
    programs = {"task-spooler": ["tsp"], "Slurm": ["slurmctld", "slurmd", "sbatch", "munged"]}[peer]
    away = [each for each in programs if shutil.which(each) is None]
    return f"{', '.join(away)} not installed" if away else None


# --- ours -------------------------------------------------------------------------------------------------------------


def _ours(folder: Path) -> list[Row]:
    folder.mkdir()
    with box(folder, gpus=SLOTS) as made, made.agent.client() as client:
        number = 0

        def submit(out: Path) -> None:
            nonlocal number
            number += 1
            client.submit(request(made, out), f"bench-{number}")

        found = measured("Stoker", submit, folder / "out", latency_aim="≤ 30")
        found.append(_by_command(made, folder / "out2"))
    return found


def request(made: Box, out: Path) -> SubmitRequest:
    """A job that adds a time stamp to a file."""
    return SubmitRequest(
        script=f"#!/bin/sh\n#SBATCH --output=/dev/null\ndate +%s.%N >> {out}\n",
        script_name="stamp.sh",
        work_dir=str(made.work_dir),
        env={"PATH": os.environ["PATH"]},
    )


def _by_command(made: Box, out: Path) -> Row:
    script = made.work_dir / "stamp.sh"
    script.write_text(request(made, out).script)
    env = {**os.environ, "STOKER_SOCKET": str(made.agent.socket)}
    begin = time.perf_counter()
    for _ in range(BY_COMMAND):
        subprocess.run(
            [sys.executable, "-m", "tui", "submit", str(script)], check=True, env=env, stdout=subprocess.DEVNULL
        )
    return Row(
        name="Stoker: submits alone, a process each",
        value=BY_COMMAND / (time.perf_counter() - begin),
        unit="jobs/s",
    )


# --- peers ------------------------------------------------------------------------------------------------------------


@contextmanager
def _task_spooler(folder: Path) -> Iterator[Callable[[Path], None]]:
    folder.mkdir()
    env = {**os.environ, "TS_SOCKET": str(folder / "ts.sock"), "TMPDIR": str(folder), "TS_MAXFINISHED": "1000"}
    subprocess.run(["tsp", "-S", str(SLOTS)], check=True, env=env)

    def submit(out: Path) -> None:
        subprocess.run(
            ["tsp", "-n", "/bin/sh", "-c", f"date +%s.%N >> {out}"], check=True, env=env, stdout=subprocess.DEVNULL
        )

    try:
        yield submit
    finally:
        subprocess.run(["tsp", "-K"], check=False, env=env)


_SLURM_CONF = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 CPUs={slots} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port2}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


_MUNGE_FILES = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


@contextmanager
def _slurm(folder: Path) -> Iterator[Callable[[Path], None]]:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    plugins = os.environ.get("SLURM_PLUGIN_DIR", "/usr/lib/x86_64-linux-gnu/slurm-wlm")
    conf = folder / "slurm.conf"
    ports = {"port": _free_port(), "port2": _free_port()}
    conf.write_text(_SLURM_CONF.format(folder=folder, plugins=plugins, slots=SLOTS, host=socket.gethostname(), **ports))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    env = {**os.environ, "SLURM_CONF": str(conf)}
    commands = [
        ["munged", "-F", "--force", *(f"--{each}={folder}/munge.{end}" for each, end in _MUNGE_FILES.items())],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", "n1"],
    ]
    daemons = []
    try:
        for command in commands:
            daemons.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(0.5)  # munged must listen before slurmctld asks it; it has no readiness to await
        wait_until(lambda: b"idle" in _said(["sinfo", "-h"], env), "Slurm's node is idle", 60)

        def submit(out: Path) -> None:
            wrap = f"date +%s.%N >> {out}"
            command = ["sbatch", "--quiet", "--output=/dev/null", f"--wrap={wrap}"]
            subprocess.run(command, check=True, env=env, cwd=folder, stdout=subprocess.DEVNULL)

        yield submit
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()


def _said(command: list[str], env: dict[str, str]) -> bytes:
    return subprocess.run(command, env=env, capture_output=True, check=False, timeout=10).stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
