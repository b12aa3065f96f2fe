"""Steps side by side in one job: what they have apart, and who waits for it."""

from __future__ import annotations

import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fakes.steps import READY, Steps

HOLDS = READY.replace("$SLURM_PROCID", "$NAME") + "read line"
BUSY = "srun: Job 17 step creation temporarily disabled, retrying (Requested nodes are busy)\n"


def holding(steps: Steps, *words: str, name: str) -> subprocess.Popen[str]:
    return steps.start(*words, "sh", "-c", HOLDS, NAME=name)


def told(step: subprocess.Popen[str]) -> str:
    assert step.stderr is not None
    assert select.select([step.stderr], [], [], 30)[0], "it says nothing"
    return step.stderr.readline()


def end(*steps: subprocess.Popen[str]) -> list[str]:
    return [step.communicate("go\n", timeout=30)[1] for step in steps]


@pytest.mark.parametrize("word", ["--exclusive", "--exact"])
def test_more_steps_than_cpus_wait_for_each_other(tmp_path: Path, word: str) -> None:
    steps = Steps(tmp_path, cpus=2)
    first = [holding(steps, word, "-n1", name=str(number)) for number in (1, 2)]
    steps.ready(2)
    third, fourth = (holding(steps, word, "-n1", name=str(number)) for number in (3, 4))
    assert [told(third), told(fourth)] == [BUSY] * 2
    assert len(list(tmp_path.glob("ready-*"))) == 2
    assert end(*first) == ["", ""]
    steps.ready(4)
    assert sorted(end(third, fourth)) == [f"srun: Step created for StepId=17.{number}\n" for number in (2, 3)]


def test_a_step_takes_all_its_cpus_or_none(tmp_path: Path) -> None:
    steps = Steps(tmp_path, cpus=3)
    one = holding(steps, "--exact", "-n1", name="1")
    steps.ready(1)
    wide = holding(steps, "--exact", "-n1", "-c3", name="3")
    assert told(wide) == BUSY
    two = holding(steps, "--exact", "-n2", name="2")  # room for it: what waits holds nothing
    steps.ready(2)
    end(one, two)
    steps.ready(3)
    end(wide)


def test_a_step_that_was_killed_frees_its_cpus(tmp_path: Path) -> None:
    steps = Steps(tmp_path, cpus=1, tasks=1)
    first = holding(steps, "--exclusive", name="1")
    steps.ready(1)
    second = holding(steps, "--exclusive", name="2")
    assert told(second) == BUSY
    first.kill()
    first.communicate(timeout=30)
    steps.ready(2)
    end(second)


def test_steps_that_overlap_or_name_no_share_do_not_wait(tmp_path: Path) -> None:
    steps = Steps(tmp_path, cpus=1, tasks=1)
    held = holding(steps, "--exclusive", name="1")
    steps.ready(1)
    for words in (("--exclusive", "--overlap"), ("--exclusive=user",), ()):
        assert steps.run(*words, "echo", "ok").stdout == "ok\n"
    third = steps.start("true", SLURM_EXACT="1")
    assert told(third) == BUSY
    end(held, third)


def test_cpus_and_gpus_are_had_together(tmp_path: Path) -> None:
    steps = Steps(tmp_path, cpus=2, gpus=2)
    gpu = holding(steps, "-n1", "-G1", name="1")
    steps.ready(1)
    both = holding(steps, "-n1", "-c2", "--exact", "--gpus=1", name="2")
    steps.ready(2)
    third = holding(steps, "-n1", "--exact", "-G1", name="3")
    assert told(third) == BUSY
    end(gpu)  # a GPU is free, and no CPU: it takes neither
    assert steps.run("-n1", "-G1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES").stdout == "GPU-0\n"
    end(both)
    end(third)


def test_ctrl_c_ends_a_step_that_waits(tmp_path: Path) -> None:
    steps = Steps(tmp_path, cpus=1, tasks=1)
    held = holding(steps, "--exclusive", name="1")
    steps.ready(1)
    second = steps.start("--exclusive", "true")
    assert told(second) == BUSY
    second.send_signal(signal.SIGINT)
    said = second.communicate(timeout=30)[1]
    assert (second.returncode, said) == (1, "srun: Cancelled pending job step with signal 2\n")
    end(held)


def test_no_folder_to_share_in_is_an_error(tmp_path: Path) -> None:
    done = Steps(tmp_path).run("--exact", "-n1", "true", JOB_DIR=str(tmp_path / "gone"))
    assert done.returncode == 1
    assert done.stderr.startswith("srun: error: Unable to create step for job 17: cannot write in JOB_DIR")


def test_quiet_leaves_errors_only(tmp_path: Path) -> None:
    words = ("-K", "-n2", "sh", "-c", "[ $SLURM_PROCID = 1 ] || exit 3; exec sleep 60")
    loud, quiet = (Steps(tmp_path).run(*more, *words).stderr.splitlines() for more in ((), ("-Q",)))
    assert "srun: Terminating StepId=17.0" in loud
    assert quiet[0] == "srun: error: n1: task 0: Exited with exit code 3"
    assert not [line for line in quiet if "error: " not in line]
