"""Jobs as units of their own, under a real systemd in namespaces of its own: what is done without a keeper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import procs
from agent.engine.records import AttemptDir, Exit, HookOrders
from tests.fakes.attempts import Bench, left, log, program, until
from tests.fakes.sysd_ns import Systemd, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

AGENT = """
import asyncio, json, os, sys, time
from pathlib import Path
sys.path.insert(0, {house!r})
from agent.engine import procs, watch
from agent.engine.launch import LaunchError, SystemdLauncher
from agent.engine.found import recover
from agent.engine.records import AttemptDir
verb, attempt, *rest = sys.argv[1], AttemptDir(Path(sys.argv[2])), *sys.argv[3:]
job_id = int(attempt.path.parent.name)
try:
    if verb == "launch":
        launcher = SystemdLauncher(*rest[:1], *map(float, rest[1:]))
        asyncio.run(launcher.launch(job_id, attempt))
        print(type(launcher).__name__, flush=True)
    if verb == "launch and hang":
        asyncio.run(SystemdLauncher().launch(job_id, attempt))
        print(os.getpid(), flush=True)
        time.sleep(600)
    if verb == "stop":
        asyncio.run(watch.stop(attempt, "cancel", "alice"))
    if verb == "wait":
        print(repr(asyncio.run(asyncio.wait_for(watch.wait_end(attempt, procs.boot_id()), 60))))
except LaunchError as error:
    print("LaunchError:", error)
"""


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    # A path that systemd would like to expand: $NAME in arguments, %n in units.
    with tempfile.TemporaryDirectory(prefix="stoker-$HOME-%n-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def box(state: Path) -> Iterator[Systemd]:
    with Systemd(share=[state]) as booted:
        yield booted


@pytest.fixture
def bench(state: Path, request: pytest.FixtureRequest) -> Bench:
    path = state / request.node.name
    path.mkdir()
    return Bench(path, first_job=1000 * (1 + len(list(state.iterdir()))))


def agent(box: Systemd, verb: str, attempt: AttemptDir, *rest: str) -> str:
    house = str(Path(procs.__file__).parents[2])
    done = box.run(sys.executable, "-c", AGENT.format(house=house), verb, str(attempt.path), *rest)
    return done.stdout.strip()


def unit(attempt: AttemptDir) -> str:
    return f"stoker-job-{attempt.path.parent.name}-1.service"


def show(box: Systemd, attempt: AttemptDir, *names: str) -> dict[str, str]:
    done = box.run("systemctl", "show", unit(attempt), *(f"--property={name}" for name in names))
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def ended(attempt: AttemptDir) -> Exit:
    until(lambda: attempt.read_exit() is not None)
    record = attempt.read_exit()
    assert record is not None
    return record


def test_a_job_is_a_unit_of_its_own_with_the_claims_limits(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt("echo READY; cat /proc/self/cgroup; sleep 1; exit 4", memory_bytes=1 << 28, cpus=2)
    assert agent(box, "launch", attempt) == "SystemdLauncher"
    until(lambda: b"READY" in log(attempt))
    facts = show(
        box, attempt, "Slice", "MemoryMax", "CPUQuotaPerSecUSec", "KillMode", "OOMPolicy", "ActiveState", "MainPID"
    )
    assert facts.pop("MainPID") == str(json.loads((attempt.path / "started").read_text())["shim_pid"])
    assert facts == {
        "Slice": "stoker-jobs.slice",
        "MemoryMax": str(1 << 28),
        "CPUQuotaPerSecUSec": "2s",
        "KillMode": "mixed",
        "OOMPolicy": "continue",
        "ActiveState": "active",
    }
    assert ended(attempt).code == 4
    assert f"stoker-jobs.slice/{unit(attempt)}".encode() in log(attempt)


def test_row_15_a_fork_bomb_is_bounded_by_its_unit(box: Systemd, bench: Bench) -> None:
    """The limit is set; that the kernel keeps it cannot be shown here, where cgroup v2 has no pids controller."""
    token = f"5{os.getpid()}.5"
    bomb = f"echo READY; for i in $(seq 100); do sleep {token} & done 2>/dev/null; sleep 0.5"
    attempt = bench.attempt(bomb, tasks_max=50, memory_bytes=1 << 28)
    agent(box, "launch", attempt)
    until(lambda: b"READY" in log(attempt))
    facts = show(box, attempt, "TasksMax", "MemorySwapMax")
    assert facts == {"TasksMax": "50", "MemorySwapMax": "0"}
    ended(attempt)
    assert left(token) == []


def test_a_unit_may_hide_devices_and_has_time_for_its_epilogs(box: Systemd, bench: Bench) -> None:
    """The properties of a transient unit forbid no mount namespace. The device is a stand-in."""
    (device := bench.path / "nvidia1").write_text("the other GPU")
    (epilog := bench.path / "epilog").write_text("#!/bin/sh\necho after\n")
    epilog.chmod(0o755)
    attempt = bench.attempt(
        f"echo READY; cat '{device}'; sleep 0.5",
        hidden_devices=(str(device),),
        confine="on",
        uid=1,
        gid=1,
        groups=(),
        hooks=HookOrders(epilog=str(epilog), timeout_s=100),
    )
    agent(box, "launch", attempt)
    until(lambda: b"READY" in log(attempt))
    assert show(box, attempt, "TimeoutStopUSec") == {"TimeoutStopUSec": "3min 5s"}
    assert ended(attempt).why is None
    assert b"the other GPU" not in log(attempt)
    assert (attempt.path / "hooks.log").read_text() == "after\n"


def test_what_the_claim_does_not_ask_for_is_not_limited(box: Systemd, bench: Bench) -> None:
    """A job that was given GPUs and asked for no CPUs feeds them with every core there is."""
    attempt = bench.attempt("echo READY; sleep 1", memory_bytes=None, cpus=None)
    agent(box, "launch", attempt)
    until(lambda: b"READY" in log(attempt))
    facts = show(box, attempt, "ActiveState", "MemoryMax", "CPUQuotaPerSecUSec")
    assert facts == {"ActiveState": "active", "MemoryMax": "infinity", "CPUQuotaPerSecUSec": "infinity"}
    assert ended(attempt).code == 0


def test_a_second_launch_changes_nothing_while_it_runs_and_after(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt(f"echo x >> '{bench.path}/runs'; sleep 1")
    assert agent(box, "launch", attempt) == "SystemdLauncher"
    assert agent(box, "launch", attempt) == "SystemdLauncher"
    assert ended(attempt).code == 0
    until(lambda: show(box, attempt, "LoadState") == {"LoadState": "not-found"})
    assert agent(box, "launch", attempt) == "SystemdLauncher"
    until(lambda: show(box, attempt, "LoadState") == {"LoadState": "not-found"})
    assert (bench.path / "runs").read_text() == "x\n"


def test_killing_the_launcher_leaves_the_job_running(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt("sleep 0.5; echo whole; exit 6")
    house = str(Path(procs.__file__).parents[2])
    command = [sys.executable, "-c", AGENT.format(house=house), "launch and hang", str(attempt.path)]
    with box.popen(*command, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        box.run("kill", "-KILL", launcher.stdout.readline().strip())
        assert launcher.wait(timeout=30) != 0
    assert ended(attempt).code == 6
    assert log(attempt) == b"whole\n"


RUNAWAY = """
import os, signal, sys, time
ready, working = os.pipe()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[0]], {})
    os._exit(0)
os.close(working)
os.read(ready, 1)  # ends when it has become another program
print("READY", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("by", ["shim", "systemctl"])
def test_row_13_a_stop_keeps_the_grace_and_leaves_nothing(box: Systemd, bench: Bench, by: str) -> None:
    script = program(bench.path / "runaway", RUNAWAY)
    attempt = bench.attempt([str(script)], grace_s=0.6)
    agent(box, "launch", attempt)
    until(lambda: b"READY" in log(attempt))
    assert len(left(str(script))) == 2
    if by == "shim":
        agent(box, "stop", attempt)
    else:
        box.run("systemctl", "stop", unit(attempt))
    record = ended(attempt)
    assert (record.why, record.signal, record.swept) == ("cancel" if by == "shim" else "outside", 9, 1)
    assert "SIGTERM was ignored for 0.6 s" in (record.detail or "")
    assert left(str(script)) == []
    until(lambda: show(box, attempt, "LoadState") == {"LoadState": "not-found"})


def test_row_8_when_the_shim_is_killed_pid_1_ends_the_rest_and_the_run_is_lost(box: Systemd, bench: Bench) -> None:
    """Also the daemon without environment, which recovery by itself could not find."""
    script = program(bench.path / "runaway", RUNAWAY)
    attempt = bench.attempt([str(script)])
    agent(box, "launch", attempt)
    until(lambda: b"READY" in log(attempt))
    assert len(left(str(script))) == 2
    box.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", unit(attempt))
    until(lambda: left(str(script)) == [])
    assert agent(box, "wait", attempt).startswith("Lost(")
    assert attempt.read_exit() is None


def test_an_interpreter_that_is_not_there_is_an_error_of_the_launch(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt("exit 0")
    said = agent(box, "launch", attempt, "/no/python")
    assert said.startswith("LaunchError: job ")
    assert "/no/python" in said
    assert f"look at `journalctl -u {unit(attempt)}`" in said


def test_a_systemd_that_does_not_answer_is_told_with_where_to_look(box: Systemd, bench: Bench) -> None:
    """Its PID 1 is stopped, and the time it gets shortened for the test."""
    attempt = bench.attempt("exit 0")
    os.kill(box.pid, signal.SIGSTOP)
    try:
        said = agent(box, "launch", attempt, sys.executable, "1")
    finally:
        os.kill(box.pid, signal.SIGCONT)
    assert f"systemd-run did not answer within 1 s; look at `journalctl -u {unit(attempt)}`" in said


def test_the_job_is_as_likely_as_any_to_be_killed_for_memory_and_the_shim_is_not(box: Systemd, bench: Bench) -> None:
    """Asked of PID 1, which may be without the right to do it in a container; the job's own score never is ours."""
    attempt = bench.attempt("cat /proc/self/oom_score_adj; echo READY; sleep 0.5")
    agent(box, "launch", attempt)
    until(lambda: b"READY" in log(attempt))
    assert show(box, attempt, "OOMScoreAdjust") == {"OOMScoreAdjust": "-900"}
    assert ended(attempt).code == 0
    assert log(attempt).split() == [b"0", b"READY"]
