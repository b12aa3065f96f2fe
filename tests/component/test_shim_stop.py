"""Ending a job: what runs away is met, the grace is kept, and no order of stop, start and end loses a stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.engine import procs
from tests.fakes.attempts import Bench, crash, finish, launch, left, log, program, shim, started, stop, until

RUNAWAYS = """
import os, signal, sys, time
ready, working = os.pipe()

def away(kind):
    if os.fork():
        return
    if kind != "plain":
        os.setsid()
    if kind.startswith("daemon") and os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "daemon without environment":
        os.execve(sys.executable, [sys.executable, "-IS", sys.argv[0], "rest"], {})
    os.close(working)
    if kind == "hopper":
        while True:
            if os.fork():
                os._exit(0)
            time.sleep(0.0005)
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)

if sys.argv[1:2] == ["rest"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
kinds = ["plain", "setsid", "daemon", "daemon without environment", "hopper", "hopper", "hopper", "hopper", "stopped"]
for kind in kinds:
    away(kind)
os.close(working)
os.read(ready, 1)  # ends when all of them ignore SIGTERM: they have closed it, or have become another program
print("READY", flush=True)
if sys.argv[1] == "stay":
    time.sleep(600)
"""

STAYERS = 5
"""The others hop from pid to pid: a hopper may be killed with its cgroup between two looks, and is then met by none."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_row_13_a_cancel_leaves_no_process_however_they_ran_away(bench: Bench, tmp_path: Path) -> None:
    script = program(tmp_path / "runaways", RUNAWAYS)
    attempt = bench.running([str(script), "stay"], grace_s=0.5)
    assert len(left(str(script))) >= 6
    asked = time.monotonic()
    stop(attempt)
    ended = finish(attempt)
    assert left(str(script)) == []
    assert (ended.code, ended.signal, ended.why) == (None, signal.SIGTERM, "cancel")
    assert ended.swept >= STAYERS
    assert ended.detail is not None
    assert ended.detail.startswith("asked to stop by alice; SIGTERM was ignored for 0.5 s; SIGKILL ended ")
    assert time.monotonic() - asked < 0.5 + 30


def test_row_13_a_normal_end_leaves_no_process_either(bench: Bench, tmp_path: Path) -> None:
    script = program(tmp_path / "runaways", RUNAWAYS)
    ended = bench.run([str(script), "go"], grace_s=30)
    assert left(str(script)) == []
    assert (ended.code, ended.why) == (0, None)
    assert ended.swept >= STAYERS
    assert ended.run_s < 25  # the grace is for a job that was asked to stop


def test_row_14_who_ignores_sigterm_is_killed_after_the_grace_and_the_time_is_told(bench: Bench) -> None:
    attempt = bench.running("trap '' TERM; echo READY; while :; do sleep 0.05; done", grace_s=0.7)
    asked = time.monotonic()
    stop(attempt)
    ended = finish(attempt)
    assert 0.7 <= time.monotonic() - asked < 0.7 + 30
    assert (ended.why, ended.signal) == ("cancel", signal.SIGKILL)
    assert (ended.detail or "").startswith("asked to stop by alice; SIGTERM was ignored for 0.7 s; SIGKILL ended ")


@pytest.mark.skipif(
    os.geteuid() != 0, reason="RLIMIT_NPROC counts all of a user's processes: a user of its own is needed"
)
def test_row_15_a_fork_bomb_is_bounded_and_others_answer(bench: Bench, tmp_path: Path) -> None:
    """Without a unit: RLIMIT_NPROC, which holds everybody but root; in a unit TasksMax, see test_launch_systemd."""
    who = {"uid": 54399, "gid": 54399, "groups": ()}
    attempt = bench.launched("while :; do sleep 600 & done", tasks_max=200, grace_s=0.5, **who)
    until(lambda: b"Resource temporarily unavailable" in log(attempt))
    assert 100 < len([pid for pid in os.listdir("/proc") if pid.isdigit() and _uid(pid) == 54399]) <= 200
    assert bench.run("echo hello").code == 0, "another job of another user"
    stop(attempt)
    ended = finish(attempt)
    assert ended.why == "cancel"
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _uid(pid) == 54399]


def _uid(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def test_the_grace_belongs_to_all_of_the_job_not_to_its_shell(bench: Bench, tmp_path: Path) -> None:
    """Bash dies of SIGTERM at once; the training that it started saves for a while."""
    saver = program(
        tmp_path / "saver",
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.4)\n"
        "    print('SAVED', flush=True)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('READY', flush=True)\n"
        "while True: time.sleep(1)\n",
    )
    attempt = bench.running(f"{saver}; echo not reached", grace_s=20)
    stop(attempt)
    ended = finish(attempt)
    assert log(attempt) == b"READY\nSAVED\n"
    assert (ended.signal, ended.why, ended.swept) == (signal.SIGTERM, "cancel", 0)
    assert ended.detail is not None
    assert ended.detail.startswith("asked to stop by alice; ended ")


def test_a_job_that_ends_well_when_asked_keeps_its_code(bench: Bench) -> None:
    attempt = bench.running("trap 'exit 0' TERM; echo READY; while :; do sleep 0.01; done")
    stop(attempt, "preempt", "scheduler")
    ended = finish(attempt)
    assert (ended.code, ended.signal, ended.why) == (0, None, "preempt")


def test_a_stopped_process_hears_the_term(bench: Bench) -> None:
    attempt = bench.running("trap 'echo HEARD; exit 0' TERM; echo READY; kill -STOP $$; sleep 60", grace_s=20)
    until(lambda: (stat := procs.read_stat(started(attempt).job_pid)) is not None and stat.state == "T")
    stop(attempt)
    assert finish(attempt).code == 0
    assert log(attempt) == b"READY\nHEARD\n"


def test_twice_is_as_good_as_once_and_the_first_wish_stands(bench: Bench) -> None:
    attempt = bench.running("trap 'echo HEARD' TERM; echo READY; while :; do sleep 0.05; done", grace_s=0.6)
    stop(attempt)
    until(lambda: b"HEARD" in log(attempt))
    stop(attempt, "preempt", "bob")
    ended = finish(attempt)
    assert log(attempt).count(b"HEARD") == 1
    assert (ended.why, ended.signal) == ("cancel", signal.SIGKILL)
    assert "alice" in (ended.detail or "")


def test_a_stop_that_came_before_the_shim_is_obeyed_at_the_gate(bench: Bench, tmp_path: Path) -> None:
    attempt = bench.attempt(f"touch {tmp_path}/ran")
    stop(attempt)
    launch(attempt)
    ended = finish(attempt)
    assert (ended.code, ended.signal, ended.why, ended.run_s) == (None, None, "cancel", 0)
    assert "before it began" in (ended.detail or "")
    assert not (tmp_path / "ran").exists()


def test_a_stop_at_any_moment_of_the_start_is_never_lost(bench: Bench) -> None:
    """A stop on disk first and a signal when there is somebody: whatever the moment, the job does not run on."""
    for step in range(16):
        attempt = bench.attempt("exec sleep 60", grace_s=5)
        child = shim(attempt)
        assert child.stderr is not None
        child.stderr.close()
        time.sleep(step * 0.003)
        stop(attempt)
        assert finish(attempt).why == "cancel", crash(attempt)
        assert child.wait(timeout=30) == 0


def test_a_stop_after_the_end_changes_nothing(bench: Bench) -> None:
    ended = bench.run("exit 3")
    stop(bench.last)
    assert bench.last.read_exit() == ended


def test_a_sigterm_without_a_stop_record_came_from_outside(bench: Bench) -> None:
    attempt = bench.running("echo READY; exec sleep 60")
    who = started(attempt)
    assert procs.signal_exact(who.shim_pid, who.shim_start, signal.SIGTERM)
    ended = finish(attempt)
    assert (ended.why, ended.signal) == ("outside", signal.SIGTERM)
    assert "supervisor" in (ended.detail or "")


def test_other_signals_do_not_end_the_shim(bench: Bench) -> None:
    attempt = bench.holding(4)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        os.kill(started(attempt).shim_pid, number)
    bench.let_go()
    assert finish(attempt).code == 4


def test_a_job_that_stops_itself_by_the_stop_file_ends_by_itself(bench: Bench) -> None:
    """The stop record is there for the job's own use too, but without a signal nothing is forced."""
    attempt = bench.holding(9)
    (attempt.path / "stop").write_text(json.dumps({"why": "cancel", "by": "x"}))
    bench.let_go()
    ended = finish(attempt)
    assert (ended.code, ended.why) == (9, None)


# --- time limit -------------------------------------------------------------------------------------------------------


def test_the_time_limit_is_kept_with_nobody_watching(bench: Bench) -> None:
    attempt = bench.launched("trap '' TERM; while :; do sleep 0.05; done", time_limit_s=1, grace_s=0.4)
    ended = finish(attempt)
    assert (ended.why, ended.signal) == ("limit", signal.SIGKILL)
    assert (ended.detail or "").startswith("reached its time limit of 1 s; SIGTERM was ignored for 0.4 s")
    assert 1.3 <= ended.run_s < 30


def test_a_job_within_its_limit_is_left_alone(bench: Bench) -> None:
    assert bench.run("sleep 0.1; exit 2", time_limit_s=30).code == 2


# --- the shim itself dies ---------------------------------------------------------------------------------------------


def test_a_shim_that_dies_before_the_gate_has_run_nothing(bench: Bench, tmp_path: Path) -> None:
    """Killed at every few milliseconds of its start: one run in the end, whoever did it."""
    for step in range(8):
        runs = tmp_path / f"runs{step}"
        attempt = bench.attempt(f"echo x >> {runs}; exit 0")
        child = shim(attempt)
        assert child.stderr is not None
        child.stderr.close()
        time.sleep(step * 0.004)
        child.kill()
        child.wait(timeout=30)
        if attempt.read_started() is None and attempt.read_exit() is None:
            until(lambda attempt=attempt: not attempt.locked())  # type: ignore[misc]
            assert not runs.exists()
            launch(attempt)
            assert finish(attempt).code == 0
            assert runs.read_text() == "x\n"


def test_killing_the_launcher_loses_nothing(bench: Bench) -> None:
    """The process that launched is killed with everything in its session; the job does not notice."""
    attempt = bench.attempt("sleep 0.5; echo whole; exit 6")
    code = f"""
import asyncio, pathlib, time
from agent.engine.launch import ForkLauncher
from agent.engine.records import AttemptDir
asyncio.run(ForkLauncher().launch(1, AttemptDir(pathlib.Path({str(attempt.path)!r}))))
print("handed off", flush=True)
time.sleep(600)
"""
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=_house(), start_new_session=True)
    assert agent.stdout is not None
    with agent.stdout:
        assert agent.stdout.readline() == b"handed off\n"
    os.killpg(agent.pid, signal.SIGKILL)
    agent.wait(timeout=30)
    assert finish(attempt).code == 6
    assert log(attempt) == b"whole\n"


def _house() -> Path:
    return Path(procs.__file__).parents[2]


@pytest.mark.parametrize(
    ("why", "by", "due"),
    [
        ("cancel", "alice", ""),
        ("limit", "stoker", " DUE TO TIME LIMIT"),
        ("preempt", "job 18", " DUE TO PREEMPTION"),
        ("preempt", "alice", " DUE TO JOB REQUEUE"),
    ],
)
def test_the_output_of_a_job_that_is_ended_says_so_in_slurms_words(
    bench: Bench, tmp_path: Path, why: str, by: str, due: str
) -> None:
    """People grep their logs for it. The job has closed its own ends by then."""
    env = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "17", "SLURMD_NODENAME": "n1"}
    files = {"output_path": f"{tmp_path}/out", "error_path": f"{tmp_path}/err"}
    attempt = bench.running("echo READY; exec >&- 2>&-; sleep 600", env=env, **files)
    stop(attempt, why, by)
    assert finish(attempt).why == why
    said = (tmp_path / "err").read_text()
    assert re.fullmatch(rf"slurmstepd-n1: error: \*\*\* JOB 17 ON n1 CANCELLED AT \d{{4}}-[-\d:T]+{due} \*\*\*\n", said)
    assert (tmp_path / "out").read_text() == "READY\n"
    assert log(attempt).decode() == "READY\n" + said
