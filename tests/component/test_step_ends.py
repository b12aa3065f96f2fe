"""How a step of srun ends: exit codes, signals, what is killed with it, and its limits."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.steps import READY, Steps, gone
from tests.fakes.steps import steps as steps

# --- ends -------------------------------------------------------------------------------------------------------------


def test_the_exit_code_is_the_highest(steps: Steps) -> None:
    done = steps.run("sh", "-c", "exit $((SLURM_PROCID * 3 + 4))")
    assert done.returncode == 7
    assert sorted(done.stderr.splitlines()) == [
        "srun: error: n1: task 0: Exited with exit code 4",
        "srun: error: n1: task 1: Exited with exit code 7",
    ]
    killed = steps.run("-n1", "sh", "-c", "kill -9 $$")
    assert killed.returncode == 137
    assert "srun: error: n1: task 0: Killed" in killed.stderr


def test_one_failure_ends_all_only_when_asked(steps: Steps) -> None:
    script = READY + "[ $SLURM_PROCID = 1 ] && exit 5; exec sleep 300"
    done = steps.run("-K", "sh", "-c", script)
    assert done.returncode == 128 + signal.SIGTERM
    assert "srun: Terminating StepId=17.0\n" in done.stderr
    assert re.search(
        r"slurmstepd-n1: error: \*\*\* STEP 17.0 ON n1 CANCELLED AT \d{4}-\d\d-\d\dT[\d:]{8} \*\*\*", done.stderr
    )
    for path in steps.folder.glob("ready-*"):
        path.unlink()
    free = steps.start("--kill-on-bad-exit=0", "sh", "-c", script)
    assert free.stderr is not None
    steps.ready(2)
    assert "task 1: Exited with exit code 5" in free.stderr.readline()
    assert free.poll() is None
    free.terminate()
    assert free.wait(timeout=30) == 128 + signal.SIGTERM
    free.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_signals_reach_every_rank_once(steps: Steps, number: signal.Signals) -> None:
    program = (
        "import os, signal, sys\n"
        f"got = []\nsignal.signal({int(number)}, lambda n, _: got.append(n))\n"
        "r = os.environ['SLURM_PROCID']\n"
        "open('.r' + r, 'w').write(str(os.getpid())); os.rename('.r' + r, 'ready-' + r)\n"
        "while not got: signal.pause()\n"
        "print(r, got, flush=True)\nsys.exit(3)\n"
    )
    step = steps.start(sys.executable, "-c", program)
    steps.ready(2)
    step.send_signal(number)
    out, _ = step.communicate(timeout=30)
    assert sorted(out.splitlines()) == [f"0 [{int(number)}]", f"1 [{int(number)}]"]
    assert step.returncode == 3


def test_a_signal_of_the_shim_is_not_passed_on(steps: Steps, tmp_path: Path) -> None:
    """The shim signals every process of the job: passed on, each rank would get it twice."""
    shim = tmp_path / "shim.py"
    shim.write_text(
        "import os, sys\nos.kill(int(sys.argv[1]), int(sys.argv[2]))\nprint(flush=True)\nsys.stdin.read()\n"
    )
    step = steps.start("-n1", "sh", "-c", "trap 'echo got it; exit 0' USR2; " + READY + "read line; echo none")
    steps.ready(1)
    sender = [sys.executable, str(shim), str(step.pid), str(int(signal.SIGUSR2))]
    # It lives for as long as its job runs, as a shim does.
    with subprocess.Popen(sender, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as alive:
        assert alive.stdout is not None
        assert alive.stdout.readline() == b"\n"
        out, _ = step.communicate("go\n", timeout=30)
        alive.communicate(timeout=30)
    assert out == "none\n"


def test_nothing_is_left_when_srun_is_killed(steps: Steps) -> None:
    script = (
        READY
        + "(exec setsid sleep 300) & echo $! > .b$SLURM_PROCID; mv .b$SLURM_PROCID ready-1$SLURM_PROCID; exec sleep 300"
    )
    step = steps.start("sh", "-c", script)
    pids = steps.ready(4)
    step.kill()
    step.communicate(timeout=30)
    assert gone(pids)


def test_what_ranks_leave_behind_ends_with_the_step(steps: Steps) -> None:
    step = steps.run("-n1", "sh", "-c", "setsid sleep 300 > /dev/null 2>&1 & echo $!")
    assert gone([int(step.stdout)])


def test_a_step_inside_of_a_step_ends_with_it(steps: Steps) -> None:
    step = steps.start("-n1", "srun", "-n2", "sh", "-c", READY + "exec sleep 300")
    pids = steps.ready(2)
    step.kill()
    step.communicate(timeout=30)
    assert gone(pids)


def test_ranks_that_ignore_the_end_are_killed_and_a_second_interrupt_asks_for_it(steps: Steps) -> None:
    step = steps.start("-n1", "sh", "-c", "trap '' INT; " + READY + "while :; do sleep 1; done")
    steps.ready(1)
    assert step.stderr is not None
    step.send_signal(signal.SIGINT)
    assert "one more within 1 sec to abort" in step.stderr.readline()
    assert step.stderr.readline() == "srun: StepId=17.0 task 0: running\n"
    step.send_signal(signal.SIGINT)
    _, err = step.communicate(timeout=30)
    told = "srun: forcing job termination\nsrun: Job step aborted: Waiting up to 32"
    assert err.startswith(told)
    assert step.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(("words", "got"), [((), "none"), (("-X",), "got it")], ids=["status", "passed on"])
def test_an_interrupt_reaches_the_ranks_only_where_that_is_asked_for(
    steps: Steps, words: tuple[str, ...], got: str
) -> None:
    script = "trap 'echo got it; exit 0' INT; " + READY + "read line; echo none"
    step = steps.start(*words, "-n1", "sh", "-c", script)
    steps.ready(1)
    assert step.stderr is not None
    step.send_signal(signal.SIGINT)
    assert step.stderr.readline().startswith("srun: ")  # it has heard
    assert step.stdout is not None
    heard = step.stdout.readline() if words else ""  # it goes on to the rank after it was told; so may our line
    out, _ = step.communicate("go\n", timeout=30)
    assert heard + out == f"{got}\n"


def test_a_time_limit_and_a_wait_end_a_step(steps: Steps) -> None:
    limited = steps.run("-t", "0:01", "sleep", "300")
    assert limited.returncode == 128 + signal.SIGTERM
    assert "DUE TO TIME LIMIT" in limited.stderr
    waited = steps.run("-W1", "sh", "-c", "[ $SLURM_PROCID = 0 ] || exec sleep 300")
    assert waited.returncode == 128 + signal.SIGTERM
