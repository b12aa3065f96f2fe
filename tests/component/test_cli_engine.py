"""The verbs of the queue before a real agent and a real hub: what they ask for really happens."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.component.test_cli_jobs import DEADLINE_S, ENTRY, Desk
from tests.fakes.daemons import box, wait_until


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with box(tmp_path_factory.mktemp("cli"), gpus=4) as made:
        yield Desk(made)


def line_of(stream: subprocess.Popen[str], text: str) -> str:
    """The next line on stderr that holds a text."""
    assert stream.stderr is not None
    return next(line for line in stream.stderr if text in line)


def test_run_shows_the_output_and_ends_with_the_jobs_code(desk: Desk) -> None:
    done = desk.run("run", "--gpus=1", "--", "sh", "-c", 'echo "$1"; exit 3', "sh", "two words")
    assert (done.returncode, done.stdout) == (3, "two words\n")
    assert "FAILED" in done.stderr
    assert desk.run("run", "--wrap", "kill -9 $$").returncode == 137
    assert desk.run("run", desk.script("true")).returncode == 0
    assert not [each.name for each in desk.box.work_dir.glob("slurm-*.out") if each.read_text() == "two words\n"]


def test_the_first_interrupt_asks_to_end_and_the_second_leaves_the_job_alone(desk: Desk) -> None:
    stubborn = desk.start("run", "--wrap", "trap '' TERM; echo up; sleep 600 & wait; sleep 600")
    assert stubborn.stdout is not None and stubborn.stdout.readline() == "up\n"
    stubborn.send_signal(signal.SIGINT)
    number = line_of(stubborn, "is asked to end").split()[2]
    stubborn.send_signal(signal.SIGINT)
    assert "not waiting any more" in line_of(stubborn, "not waiting")
    assert stubborn.wait(timeout=DEADLINE_S) == 130
    assert desk.run("wait", number).returncode == 1
    gentle = desk.start("run", "--", "sleep", "600")
    line_of(gentle, "on n1")
    wait_until(lambda: desk.json("jobs", "--json", "-t", "R", "--name", "sleep"), "it runs")
    gentle.send_signal(signal.SIGINT)
    assert gentle.wait(timeout=DEADLINE_S) == 143, "128 and SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_run_that_is_ended_takes_its_job_with_it(desk: Desk, number: signal.Signals) -> None:
    for words in (("--", "sleep", "600"), ("--hold", "--", "true")):
        watched = desk.start("run", *words)
        name = line_of(watched, " on n1").split()[2]
        if "sleep" in words:
            wait_until(lambda: desk.json("jobs", "--json", "-t", "R", "--name", "sleep"), "it runs")
        watched.send_signal(number)
        assert watched.wait(timeout=DEADLINE_S) == 128 + number
        assert f"{number.name}: job {name} is cancelled" in line_of(watched, number.name)
        assert "CANCELLED" in desk.run("wait", name).stdout


def test_a_terminal_that_closes_takes_the_job_of_run_with_it_but_not_under_nohup(desk: Desk) -> None:
    left = {}
    for before in ("", "trap '' HUP;"):
        fd, inner = pty.openpty()
        words = (sys.executable, "-c", ENTRY, "run", "--wrap", "echo $SLURM_JOB_ID=up; sleep 600")
        shell = f"{before} exec {shlex.join(words)}"
        with os.fdopen(fd, "rb", 0) as mine:
            child = subprocess.Popen(
                ["sh", "-c", f"exec 3<>{os.ttyname(inner)}; {shell}"],
                stdin=inner,
                stdout=inner,
                stderr=inner,
                start_new_session=True,  # its first terminal is its controlling one
                cwd=desk.box.work_dir,
                env=desk.environ,
            )
            os.close(inner)
            seen = b""
            while b"=up" not in seen:
                seen += mine.read(4096)
        left[before] = child, seen.split(b"=up")[0].split()[-1].decode()
    child, name = left[""]
    assert child.wait(timeout=DEADLINE_S) == 128 + signal.SIGHUP
    assert "CANCELLED" in desk.run("wait", name).stdout
    child, name = left["trap '' HUP;"]
    assert desk.json("show", "--json", name)["state"] == "RUNNING"
    desk.run("cancel", name, check=True)
    child.wait(timeout=DEADLINE_S)


def test_run_tells_why_it_waits_and_an_interrupt_then_cancels_it(desk: Desk) -> None:
    waiting = desk.start("run", "--hold", "--", "true")
    assert "JobHeldUser" in line_of(waiting, " waits: ")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=DEADLINE_S) == 130


def test_a_dry_run_then_a_sweep_with_its_results(desk: Desk) -> None:
    words = ("--sweep", "lr=0.1,0.01", "--sweep", "bs=16,32", "-J", "sw")
    name = desk.script('echo "{\\"loss\\": $lr}" > "$JOB_DIR/metrics.jsonl"; echo "$lr $bs"')
    plan = desk.json("submit", "--json", "--dry-run", *words, name)
    assert (plan["tasks"], plan["job"]["id"]) == (4, 0)
    said = desk.run("submit", "--dry-run", "--gpus=1", "--wrap", "true").stdout
    assert "GPUs         1 simulated #" in said
    array = str(desk.json("submit", "--json", *words, name)["id"])
    assert desk.run("wait", array).stdout.count("COMPLETED") == 4
    lines = desk.run("sweep", array, "--sort", "loss", check=True).stdout.splitlines()
    assert lines[0].split()[-3:] == ["lr", "bs", "loss"]
    assert lines[1].split()[-3:] == ["0.01", "16", "0.01"]
    assert desk.run("logs", f"{array}_3").stdout == "0.01 32\n"
    assert [each["array_task_id"] for each in desk.json("show", "--json", array)] == [0, 1, 2, 3]
    assert [each["job"]["array_task_id"] for each in desk.json("report", "--json", array)] == [0, 1, 2, 3]
    account = desk.run("report", array, check=True).stdout
    assert [line.split()[0] for line in account.splitlines()[1:6]] == [f"{array}_{n}" for n in range(4)] + ["total"]
    assert f"{array}_[0-3]" in desk.run("jobs", "--array", array).stdout
    assert desk.run("jobs", "--array", array, "-r").stdout.count("\n") == 5


def test_tasks_are_held_released_reniced_and_cancelled(desk: Desk) -> None:
    array = str(desk.json("submit", "--json", "--hold", "--array=0-3", desk.script("true"))["id"])
    assert desk.run("release", f"{array}_[0-1]", check=True).stdout.startswith(f"job {array}_[0-1]: PENDING")
    assert desk.run("wait", f"{array}_0", f"{array}_1").returncode == 0
    assert "nice 7" in desk.run("nice", "7", f"{array}_2", check=True).stdout
    desk.run("update", f"{array}_2", "Comment=second try", "TimeLimit=5", check=True)
    told = desk.run("show", f"{array}_2", check=True).stdout
    assert "second try" in told and "05:00" in told and f"stoker release {array}_2" in told and "History" in told
    wrong = desk.run("update", f"{array}_2", "TimeLimt=5")
    assert wrong.returncode == 1 and "did you mean TimeLimit" in wrong.stderr
    told = desk.run("cancel", "--name", "job.sh", "--state", "PD", check=True).stdout
    assert told == f"job n1:{array}_[2-3]: CANCELLED\n"
    assert desk.run("requeue", f"{array}_2", check=True).stdout.startswith(f"job {array}_2: PENDING")
    desk.run("cancel", array, check=True)


def test_a_drained_gpu_gets_no_job_until_it_is_resumed(desk: Desk) -> None:
    desk.run("drain", "n1:0", "n1:1", "n1:2", "--reason", "fan", check=True)
    assert [each["gpu_index"] for each in json.loads(desk.run("drains", "--json").stdout)] == [0, 1, 2]
    assert desk.run("run", "--gpus=1", "--", "true").returncode == 0
    waiting = desk.start("run", "--gpus=2", "--", "true")
    assert "drained" in line_of(waiting, " waits: ")
    assert desk.run("resume", "0", "1", "2", check=True).stdout.count("resumed") == 3
    assert waiting.wait(timeout=DEADLINE_S) == 0
    assert desk.json("drains", "--json") == []


def test_reservations_partitions_shares_and_recurring_jobs(desk: Desk) -> None:
    words = ("--duration", "1:00:00", "--start", "now+1hour", "--users", "alice", "--gpus", "2")
    desk.run("reservation", "add", "course", *words, check=True)
    assert "alice" in desk.run("reservation").stdout
    desk.run("reservation", "remove", "course", check=True)
    assert desk.json("partitions", "--json")["partitions"]
    assert desk.run("shares", check=True).stdout.startswith("ACCOUNT")
    assert desk.json("notices", "--json") == []
    made = desk.json("submit", "--json", "--cron", "0 3 * * 1", "--missed", "run", desk.script("true"))
    assert "0 3 * * 1" in desk.run("cron").stdout
    desk.run("cron", "remove", str(made["id"]), check=True)
    assert desk.run("submit", "--cron", "0 3 * *", desk.script("true")).returncode == 1


def test_the_report_is_a_page(desk: Desk) -> None:
    number = str(desk.json("submit", "--json", "--gpus=1", desk.script("echo done"))["id"])
    desk.run("wait", number)
    assert desk.run("logs", "--since", "1h", number).stdout == desk.run("logs", "-f", "--grep", "on", number).stdout
    assert (
        desk.run("logs", "--since", "4000000000", number).stdout
        == desk.run("logs", "--grep", "xx", number).stdout
        == ""
    )
    assert "History" in desk.run("report", number, check=True).stdout
    assert desk.run("report", number, "--html", "page.html", check=True).stdout.startswith("Wrote page.html")
    page = (desk.box.work_dir / "page.html").read_text(encoding="utf-8")
    assert "<html" in page and number in page
    assert desk.run("report", number, "--html", "/no/such/folder/page.html").returncode == 1
