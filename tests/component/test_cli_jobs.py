"""The plain commands before a real agent and a real hub: jobs really run, end, are waited for and cancelled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemons import Box, box, wait_until

ENTRY = "import sys; from tui.__main__ import main; sys.exit(main())"
DEADLINE_S = 60.0


class Desk:
    """A user in a folder of the box."""

    def __init__(self, made: Box) -> None:
        self.box = made
        self.socket = made.hub.socket

    @property
    def environ(self) -> dict[str, str]:
        house = Path(__file__).parents[2]
        return {**os.environ, "STOKER_SOCKET": str(self.socket), "PYTHONPATH": str(house)}

    def run(self, *words: str, stdin: str = "", check: bool = False) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", ENTRY, *words]
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=check,
            cwd=self.box.work_dir,
            env=self.environ,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", ENTRY, *words]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.box.work_dir, env=self.environ
        )

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, check=True).stdout)

    def script(self, body: str, name: str = "job.sh") -> str:
        (self.box.work_dir / name).write_text(f"#!/bin/sh\n{body}\n")
        return name


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with box(tmp_path_factory.mktemp("cli"), gpus=4) as made:
        yield Desk(made)


def test_submit_wait_and_logs(desk: Desk) -> None:
    name = desk.script("#SBATCH --gpus=2\necho on $SLURM_JOB_ID with $1; echo err >&2; exit 3")
    said = desk.run("submit", "-J", "three", name, "--epochs", check=True).stdout
    number = said.split()[2]
    assert said == f"Submitted job {number} on n1\n"
    ended = desk.run("wait", number)
    assert ended.returncode == 3
    assert ended.stdout.startswith(f"job {number}: FAILED")
    assert sorted(desk.run("logs", number).stdout.splitlines()) == ["err", f"on {number} with --epochs"]
    assert desk.run("logs", "-f", number).stdout == desk.run("logs", number).stdout
    shown = desk.run("show", number).stdout
    assert "2 simulated #" in shown and "Exit code      3" in shown and "three" in shown
    listed = desk.run("jobs").stdout
    assert "three" in listed and "simulated" in listed
    assert "three" not in desk.run("jobs", "-n", "0").stdout
    assert "three" in desk.run("jobs", "-t", "failed").stdout
    assert "three" not in desk.run("jobs", "-u", "nobody-else").stdout


def test_wait_while_submitting_and_a_script_from_a_pipe(desk: Desk) -> None:
    done = desk.run("submit", "--wait", "-", stdin="#!/bin/sh\nexit 5\n")
    assert done.returncode == 5
    assert json.loads(desk.run("submit", "-W", "--json", "-", stdin="#!/bin/sh\ntrue\n").stdout)["state"] == "COMPLETED"


def test_a_job_ended_by_a_signal_counts_as_1(desk: Desk) -> None:
    done = desk.run("submit", "--wait", desk.script("kill -9 $$"))
    assert done.returncode == 1


def test_cancel_ends_a_running_job_and_what_follows_it(desk: Desk) -> None:
    number = str(desk.json("submit", "--json", desk.script("echo up; exec sleep 600"))["id"])
    follower = desk.start("logs", "-f", number)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "up\n"
    assert desk.run("cancel", number).returncode == 0
    assert desk.run("wait", number).returncode == 1
    assert follower.wait(timeout=DEADLINE_S) == 0
    assert desk.json("show", number, "--json")["state"] == "CANCELLED"
    assert desk.run("cancel", number).returncode == 0, "cancelling what has ended changes nothing"


def test_the_environment_the_folder_and_the_umask_travel(desk: Desk) -> None:
    name = desk.script("pwd; echo $STOKER_SOCKET; umask")
    old = os.umask(0o027)
    try:
        number = str(desk.json("submit", "--json", name)["id"])
    finally:
        os.umask(old)
    desk.run("wait", number)
    lines = desk.run("logs", number).stdout.splitlines()
    assert lines == [str(desk.box.work_dir), str(desk.socket), "0027"]


def test_refusals_are_the_servers_own_sentences(desk: Desk) -> None:
    too_many = desk.run("submit", "--gpus=5", desk.script("true"))
    assert too_many.returncode == 1 and "4" in too_many.stderr and "GPU" in too_many.stderr
    wrong = desk.run("submit", desk.script("#SBATCH --no-such-thing\ntrue"))
    assert wrong.returncode == 1 and "no-such-thing" in wrong.stderr and ":2" in wrong.stderr
    elsewhere = desk.run("submit", "--node", "n7", desk.script("true"))
    assert elsewhere.returncode == 1 and "n7" in elsewhere.stderr


def test_the_licence_in_a_line_and_gpus_with_their_owner(desk: Desk) -> None:
    line = desk.run("license").stdout
    assert line.count("\n") == 1
    assert "evaluation, 13 d 23 h left" in line and "seats 4/" in line
    assert desk.json("license", "--json")["evaluation"] is True
    number = str(desk.json("submit", "--json", "--gpus=1", desk.script("exec sleep 600"))["id"])
    wait_until(lambda: any(gpu["job_id"] == int(number) for gpu in desk.json("gpus", "--json")), "it holds a GPU")
    index = next(str(gpu["index"]) for gpu in desk.json("gpus", "--json") if gpu["job_id"] == int(number))
    owner = [line.split() for line in desk.run("gpus").stdout.splitlines() if line.split()[1] == index]
    assert len(owner) == 1 and number in owner[0]
    desk.run("cancel", number)
    desk.run("wait", number)


def test_a_bare_agent_answers_the_same_questions(desk: Desk) -> None:
    alone = Desk(desk.box)
    alone.socket = desk.box.agent.socket
    assert alone.json("nodes", "--json")[0]["name"] == "n1"
    assert alone.run("license").returncode == 0
    done = alone.run("submit", "--wait", alone.script("exit 7"))
    assert done.returncode == 7


def test_following_outlives_a_restart_of_the_hub(desk: Desk) -> None:
    gate = desk.box.work_dir / "gate"
    os.mkfifo(gate)
    number = str(desk.json("submit", "--json", desk.script(f"echo one; read x < {gate}; echo two; exit 6"))["id"])
    follower = desk.start("logs", "-f", number)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "one\n"
    desk.box.hub.kill()
    desk.box.hub.start()
    gate.write_text("go\n")
    rest, said = follower.communicate(timeout=DEADLINE_S)
    assert rest == "two\n", "on at the byte where it broke"
    assert follower.returncode == 0
    assert "trying again" in said
    assert desk.run("wait", number).returncode == 6


def test_waiting_and_following_outlive_a_crash_of_the_agent(desk: Desk) -> None:
    gate = desk.box.work_dir / "gate-of-the-crash"
    os.mkfifo(gate)
    number = str(desk.json("submit", "--json", desk.script(f"echo one; read x < {gate}; echo two; exit 6"))["id"])
    waiter, follower = desk.start("wait", number), desk.start("logs", "-f", number)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "one\n"
    desk.box.agent.kill()
    for command in (waiter, follower):
        assert command.stderr is not None
        assert "the link is lost, trying again" in command.stderr.readline()
    gate.write_text("go\n")  # it ends while nobody looks
    desk.box.agent.start()
    assert follower.communicate(timeout=DEADLINE_S) == ("two\n", "")
    out, said = waiter.communicate(timeout=DEADLINE_S)
    assert (follower.returncode, waiter.returncode) == (0, 6)
    assert out.startswith(f"job {number}: FAILED") and said == ""


def test_many_tasks_of_an_array_are_cancelled_in_one_go(desk: Desk) -> None:
    desk.run("submit", "--hold", "-a", "1-40", "-J", "many", "--wrap", "true")
    said = desk.run("cancel", "--name", "many", "--yes").stdout
    assert (said.startswith("job "), said.endswith("_[1-40]: CANCELLED\n"), said.count("\n")) == (True, True, 1)
    assert "nothing is cancelled" in desk.run("cancel", "--name", "many", "--yes").stderr


def test_a_range_of_tasks_is_one_line_and_those_it_is_refused_to_are_named(desk: Desk) -> None:
    number = desk.json("submit", "--json", "--hold", "-a", "1-40", "--wrap", "true")["id"]
    desk.run("cancel", f"{number}_40", check=True)
    done = desk.run("hold", f"{number}_[2-9,39-41]", str(number), f"{number}_1")
    assert done.returncode == 1
    assert done.stdout == (
        f"job {number}_[1-9,39]: PENDING, held, priority 0\narray {number}: PENDING, held, priority 0\n"
    )
    assert f"job {number}_40 is not held: CANCELLED: only a waiting job can be held" in done.stderr
    assert f"job {number}_41 is not held: the array has no such task" in done.stderr
    again = desk.run("requeue", "--json", "--hold", f"{number}_[39-40]")
    assert [(each["array_task_id"], each["held"]) for each in json.loads(again.stdout)] == [(40, True)]
    assert json.loads(again.stderr)["error"]["code"] == "changed"
    nobody = desk.run("release", f"{number + 100}_[1-5]")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr.count("\n") == 1 and f"job {number + 100}_[1-5] is not released: " in nobody.stderr
    desk.run("cancel", str(number), check=True)


def test_one_refusal_does_not_keep_others_from_being_cancelled(desk: Desk) -> None:
    number = str(desk.json("submit", "--json", desk.script("exec sleep 600"))["id"])
    done = desk.run("cancel", "999999", number)
    assert done.returncode == 1
    assert done.stdout.startswith(f"job {number}: ")
    assert "job 999999 is not cancelled" in done.stderr
    assert desk.run("wait", number).returncode == 1
    assert desk.run("logs", "999999").returncode == 1
    as_json = desk.run("cancel", "--json", "999999")
    assert json.loads(as_json.stdout) == []
    assert json.loads(as_json.stderr)["error"]["code"] == "no_such_job"


def test_the_logs_of_an_array_are_all_tasks_each_line_with_its_own(desk: Desk) -> None:
    go = desk.box.work_dir / "go-on"
    script = desk.script(f"echo first; while [ ! -e {go}$SLURM_ARRAY_TASK_ID ]; do sleep 0.05; done; printf last")
    number = str(desk.json("submit", "--json", "--array=3,5%1", script)["id"])
    follower = desk.start("logs", "-f", number)
    assert follower.stdout is not None
    assert follower.stdout.readline() == f"{number}_3: first\n"
    Path(f"{go}3").touch()
    assert [follower.stdout.readline() for _ in range(2)] == [f"{number}_3: last\n", f"{number}_5: first\n"]
    so_far = desk.run("logs", number)
    assert so_far.stdout == f"{number}_3: first\n{number}_3: last\n{number}_5: first\n"
    assert so_far.stderr == f"array {number} has 2 tasks, 3,5; one task alone: stoker logs {number}_3\n"
    Path(f"{go}5").touch()
    out, err = follower.communicate(timeout=DEADLINE_S)
    assert (out, follower.returncode) == (f"{number}_5: last\n", 0)
    assert err.startswith(f"array {number} has 2 tasks, 3,5") and "one task alone" in err
    assert desk.run("logs", f"{number}_5").stdout == "first\nlast"
    assert desk.run("logs", "--grep", "las", number).stdout == f"{number}_3: last\n{number}_5: last\n"
    assert desk.run("logs", "-f", "--grep", "^l.*t$", number).stdout == f"{number}_3: last\n{number}_5: last\n"
    assert desk.run("logs", "--grep", "^l.*t$", f"{number}_5").stdout == "last"
    assert desk.run("logs", "-f", "--grep", "^l.*t$", f"{number}_5").stdout == "last"
    assert desk.run("logs", "-F", "--grep", "^l.*t$", f"{number}_5").stdout == ""
    bad = desk.run("logs", "--grep", "a(b", number)
    assert (bad.returncode, bad.stdout) == (64, "") and "at character 2" in bad.stderr
    assert desk.run("logs", "-F", number).returncode == 64
    told = [json.loads(line) for line in desk.run("logs", "--json", number).stdout.splitlines()]
    assert [each["task"] for each in told] == [f"{number}_3", f"{number}_5"]
    waits = str(desk.json("submit", "--json", "--hold", "--array=0-1", script)["id"])
    nothing = desk.run("logs", waits)
    assert (nothing.stdout, f"{waits}_[0-1] not begun" in nothing.stderr) == ("", True)
    desk.run("cancel", waits)
