"""Steps of a job from outside of it: `srun --jobid`, and `scancel` of one step."""

from __future__ import annotations

import os
import pty
import re
import signal
from pathlib import Path

import pytest

from tests.fakes.daemons import wait_until
from tests.fakes.shell import Shell
from tests.fakes.shell import made as made
from tests.fakes.shell import shell as shell

READY = "import os, sys, time; print('ready', os.getpid(), flush=True); time.sleep(300)"
EXPIRED = "srun: Check SLURM_JOB_ID environment variable. Expired or invalid job {}"


@pytest.fixture
def job(shell: Shell) -> str:
    """One that runs, with a GPU and two CPUs."""
    number = shell.submit("-G1", "-n2", "-J", "host", "--wrap", "sleep 300")
    wait_until(lambda: shell.state(number) == "RUNNING", "it runs")
    return number


def test_a_step_is_of_the_job_and_stands_where_its_caller_does(shell: Shell, job: str) -> None:
    script = "echo $SLURM_JOB_ID.$SLURM_STEP_ID $SLURM_NTASKS; pwd; cat; cat /proc/self/cgroup | tail -n 1 >&2; exit 3"
    done = shell.run("srun", f"--jobid={job}", "sh", "-c", script, given="typed\n")
    assert (done.returncode, done.stdout) == (3, f"{job}.0 1\n{shell.folder}\ntyped\n")
    cgroup, told = done.stderr.splitlines()
    assert told == "srun: error: n1: task 0: Exited with exit code 3"
    pid = _job_pid(shell, job)
    assert cgroup == Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1]
    gpus = "env | grep ^CUDA_VISIBLE_DEVICES="
    assert shell.out("srun", "--jobid", job, "sh", "-c", gpus).strip().encode() in _environ(pid)
    steps = shell.out("sacct", "-n", "-P", "-j", job, "-o", "JobID,State,ExitCode").splitlines()
    assert steps[2:] == [f"{job}.0|FAILED|3:0", f"{job}.1|COMPLETED|0:0"]
    assert shell.state(job) == "RUNNING"


def test_options_are_the_steps_and_slurm_job_id_names_the_job(shell: Shell, job: str) -> None:
    done = shell.run("srun", "-n2", "-l", "-I", "sh", "-c", "echo $SLURM_PROCID", SLURM_JOB_ID=job)
    assert sorted(done.stdout.splitlines()) == ["0: 0", "1: 1"]
    shell.out("srun", f"--jobid={job}", "-n2", "-o", "o-%t", "echo", "hi")
    assert [(shell.folder / name).read_text() for name in ("o-0", "o-1")] == ["hi\n", "hi\n"]
    many = shell.run("srun", f"--jobid={job}", "-n9", "true")
    told = f"srun: error: Unable to create step for job {job}: More processors requested than permitted\n"
    assert (many.returncode, many.stderr) == (1, told)


def test_a_step_on_a_terminal(shell: Shell, job: str) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(shell.folder)
        words = shell.words("srun", f"--jobid={job}", "--pty", "sh", "-c", "test -t 0 && test -t 1 && exit 7")
        os.execve(words[0], words, shell.env)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    os.close(fd)


def test_jobs_that_take_no_step(shell: Shell, job: str) -> None:
    held = shell.submit("-H", "--wrap", "true")
    asked = {
        "99999": "Unable to confirm allocation for job 99999: Invalid job id specified",
        held: f"Unable to confirm allocation for job {held}: Job is pending execution",
    }
    for number, sentence in asked.items():
        done = shell.run("srun", f"--jobid={number}", "true")
        assert (done.returncode, done.stderr) == (1, f"srun: error: {sentence}\n{EXPIRED.format(number)}\n")
    assert shell.run("srun", "--jobid=x", "true").stderr == 'srun: error: Invalid numeric value "x" for --jobid.\n'
    assert shell.run("srun", "--jobid=", "true").stderr == 'srun: error: Invalid numeric value "" for --jobid.\n'
    odd = shell.run("srun", f"--jobid={job}", "echo", "\udcff")
    assert odd.returncode == 1
    assert odd.stderr.startswith("srun: error: ")
    assert "udcff' has bytes that are not UTF-8, which a job cannot be given" in odd.stderr
    shell.out("scancel", job)
    wait_until(lambda: shell.state(job).startswith("CANCELLED"), "it has ended")
    assert f"Slurm job {job} has expired" in shell.run("srun", f"--jobid={job}", "true").stderr


def test_a_step_ends_with_its_job_and_with_its_caller(shell: Shell, job: str) -> None:
    stays = shell.start("srun", f"--jobid={job}", "sh", "-c", "trap '' TERM; echo ready $$; while :; do sleep 1; done")
    goes = shell.start("srun", f"--jobid={job}", "sh", "-c", "echo ready $$; exec sleep 300")
    pids = [int(_ready(step)) for step in (stays, goes)]
    goes.kill()
    goes.communicate(timeout=60)
    wait_until(lambda: not Path(f"/proc/{pids[1]}").exists(), "nothing of it is left")
    assert shell.state(job) == "RUNNING"
    shell.out("scancel", job)
    _, said = stays.communicate(timeout=60)
    assert stays.returncode == 137
    assert f"srun: error: Job step aborted: job {job} has ended" in said
    wait_until(lambda: not Path(f"/proc/{pids[0]}").exists(), "nothing of the other is left")


def test_scancel_ends_one_step_and_leaves_the_job(shell: Shell, job: str) -> None:
    steps = [shell.start("srun", f"--jobid={job}", "python3", "-c", READY) for _ in range(2)]
    for step in steps:
        _ready(step)
    assert shell.out("scancel", "-v", f"{job}.1") == ""
    wait_until(lambda: [step.poll() for step in steps].count(None) == 1, "one of them has ended")
    other, ended = sorted(steps, key=lambda step: step.returncode is not None)
    _, said = ended.communicate()
    assert ended.returncode == 128 + signal.SIGTERM
    assert "srun: Job step aborted: Waiting up to 32 seconds for job step to finish.\n" in said
    assert re.search(rf"slurmstepd-n1: error: \*\*\* STEP {job}\.1 ON n1 CANCELLED AT ", said)
    assert shell.state(job) == "RUNNING"
    lines = shell.out("sacct", "-n", "-P", "-j", job, "-o", "JobID,State").splitlines()
    assert f"{job}.1|CANCELLED" in lines
    assert f"{job}.0|RUNNING" in lines
    shell.out("scancel", "-s", "USR1", f"{job}.0")
    _, said = other.communicate(timeout=60)
    assert (other.returncode, "task 0: User defined signal 1" in said) == (128 + signal.SIGUSR1, True)
    assert shell.state(job) == "RUNNING"


def test_what_is_no_step_that_runs(shell: Shell, job: str) -> None:
    missing = shell.run("scancel", f"{job}.7")
    told = f"scancel: error: Kill job error on job step id {job}.7: Invalid job id specified: "
    assert (missing.returncode, missing.stderr.startswith(told)) == (1, True)
    assert shell.run("scancel", "-s", "USR1", f"{job}.7").returncode == 0  # as scancel
    for word in (f"{job}.batch", f"{job}.x", f"{job}.0.1", f"{job}."):
        assert shell.run("scancel", word).stderr == f"scancel: error: Invalid job id {word}\n"
    assert shell.state(job) == "RUNNING"


def _ready(step: object) -> str:
    """The pid that a step tells once it runs."""
    line = step.stdout.readline()  # type: ignore[attr-defined]
    assert line.startswith("ready "), line
    return str(line.split()[1])


def _job_pid(shell: Shell, job: str) -> int:
    import json

    record = shell.box.root / "state" / "jobs" / job / "1" / "started"
    return int(json.loads(record.read_text())["job_pid"])


def _environ(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
