"""`srun --multi-prog` inside of a job, held against what srun 22.05 made of the same files, and what a step tells.

`multi_prog.jsonl` is recorded: a file, the ranks and further words; the labelled output, the sentences, the exit code.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agent.api.queue import JobStep
from agent.engine import stepbook
from agent.step import book, programs
from agent.step.words import StepError
from tests.fakes.steps import Steps, wait

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "slurm" / "multi_prog.jsonl").read_text().splitlines()
]


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, cpus=8)


@pytest.mark.parametrize("case", RECORDED, ids=[repr(case["file"])[:40] for case in RECORDED])
def test_files_are_read_as_srun_reads_them(steps: Steps, case: dict[str, Any]) -> None:
    (steps.folder / "mp.conf").write_text(case["file"])
    three = steps.folder / "three.sh"
    three.write_text("#!/bin/sh\nexit $1\n")
    three.chmod(0o755)
    done = steps.run("-n", str(case["ranks"]), "-l", "--multi-prog", "mp.conf", *case["more"])
    assert sorted(done.stdout.splitlines()) == case["out"]
    said = [line for line in done.stderr.splitlines() if line.startswith("srun: error: ") and ": task" not in line]
    assert (said, done.returncode) == (case["err"], case["exit"])


@pytest.mark.parametrize(
    "text", [b"0 'echo", b"\0", b"a" * (1 << 20) + b"bc", b"0 \\", b"9" * 50 + b" x", b"\xff echo"]
)
def test_no_file_is_a_traceback(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "mp"
    file.write_bytes(text)
    with pytest.raises(StepError) as caught:
        programs.read(str(file), 1, [])
    assert caught.value.message.replace("\n", "").isprintable()


def told(steps: Steps, attempt: int = 1) -> tuple[JobStep, ...]:
    return stepbook.read(steps.folder, attempt)


def test_a_step_tells_its_name_ranks_end_and_use(steps: Steps) -> None:
    assert steps.run("-n2", "sh", "-c", "exit $((SLURM_PROCID * 3))").returncode == 3
    assert steps.run("-n1", "-J", "named one", "true").returncode == 0
    assert steps.run("-n1", "sh", "-c", "kill -9 $$").returncode == 137
    assert steps.run("-n1", "sh", "-c", "exit 137").returncode == 137
    first, second, third, fourth = told(steps)
    assert (first.id, first.name, first.tasks, first.cpus, first.exit_code, first.signal) == (0, "sh", 2, 2, 3, None)
    assert (second.id, second.name, second.exit_code) == (1, "named one", 0)
    assert (third.exit_code, third.signal, third.cancelled) == (None, 9, False)
    assert (fourth.exit_code, fourth.signal) == (137, None)
    assert first.ended_at is not None
    assert first.ended_at >= first.started_at
    assert (first.max_rss_bytes or 0) > 100_000
    assert first.cpu_seconds is not None


def test_steps_of_an_earlier_attempt_are_not_told(steps: Steps) -> None:
    steps.run("-n1", "true")
    steps.run("-n1", "false", JOB_ATTEMPT="2")
    assert [(each.id, each.name) for each in told(steps, 2)] == [(0, "false")]
    with (steps.folder / book.FILE).open("ab") as file:  # the guard of an srun that was killed in the first attempt
        file.write(b"S 2 1 1 1 100.5 late\nE 1 1 101.5 - 9 1 - -\n")
    assert told(steps, 2)[1].ended_at is None


def test_a_step_whose_srun_is_killed_is_told_by_its_guard(steps: Steps) -> None:
    started = steps.start("-n1", "sh", "-c", "echo up; exec sleep 300")
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    (running,) = told(steps)
    assert (running.ended_at, running.exit_code, running.signal) == (None, None, None)
    started.kill()
    started.wait(30)
    started.stdout.read()  # its end: the guard has killed the ranks
    wait(lambda: [steps.folder] if told(steps)[0].ended_at is not None else [], "the guard's line")
    (ended,) = told(steps)
    assert (ended.signal, ended.cancelled) == (signal.SIGKILL, True)


def test_a_folder_that_takes_nothing_costs_the_account_and_not_the_step(steps: Steps) -> None:
    (steps.folder / book.FILE).mkdir()
    assert steps.run("-n1", "echo", "ok").stdout == "ok\n"
    assert told(steps) == ()


@pytest.mark.parametrize(
    "lines",
    [
        b"S 1 0 2 2 100.5 x\nE 1 0 101.5 0 - 0 - -\nS 1 0 2",
        b"garbage\nS 1 0 2 2 100.5 x\nE 1 9 101.5 0 - 0 - -\nE 1 0 101.5 0 - 0 - -\n\xff\xfe\n",
        b"S 1 0 99999999999999999999 2 1 big\nS 1 0 2 2 100.5 x\nE 1 0 101.5 0 - 0 - -\nE 1 0 nan x y z 1 2\n",
        b"S 1 0 2 2 nan x\nS 1 0 2 2 1e999 x\nS 1 0 2 2 100.5 x\nE 1 0 101.5 0 - 0 - -\n",
    ],
)
def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path, lines: bytes) -> None:
    (tmp_path / book.FILE).write_bytes(lines)
    (step,) = stepbook.read(tmp_path, 1)
    assert step == JobStep(id=0, name="x", tasks=2, cpus=2, started_at=100.5, ended_at=101.5, exit_code=0)


def test_a_planted_link_or_fifo_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"S 1 0 1 1 1.0 secret\n")
    inside = tmp_path / "files"
    inside.mkdir()
    (inside / book.FILE).symlink_to(secret)
    assert stepbook.read(inside, 1) == ()
    (inside / book.FILE).unlink()
    os.mkfifo(inside / book.FILE)
    assert stepbook.read(inside, 1) == ()
