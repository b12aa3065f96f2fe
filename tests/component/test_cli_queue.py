"""The verbs of the queue before an agent that keeps everything in memory: what they ask, print, and end with."""

from __future__ import annotations

import json
import resource
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.api.client import Client
from agent.api.queue import JobUsage, PriorityParts, Verdict
from agent.api.types import Job, JobState
from agent.api.unix import UnixTransport
from tests.fakes.agent import fake_agent, job
from tests.fakes.queue import NOT_YOURS
from tui.__main__ import main

HOSTILE = "\x1b]0;owned\x07\x1b[2Jrun\u202e\nme"


def task(number: int, index: int, state: JobState = JobState.PENDING, **more: Any) -> Job:
    return job(number, "n1", state, array_job_id=20, array_task_id=index, array_text="0-4%2", name="sweep", **more)


JOBS = (
    job(2, "n1", JobState.PENDING, name=HOSTILE, user="bob", reason="Resources", detail="2 GPUs wanted, 0 free. More.",
        priority=1520, priority_parts=PriorityParts(age=20, fairshare=1000, qos=600, nice=100, total=1520),
        expected_start_at=2_000_000_000, dependency="afterok:1", partition="main", account="lab"),
    job(3, "n1", JobState.PENDING, user=NOT_YOURS, name="theirs"),
    *(job(number, "n1", JobState.PENDING, name=f"own-{number}") for number in range(4, 12)),
    job(12, "n1", JobState.FAILED, exit_code=1, started_at=13, ended_at=14, name="old"),
    task(20, 0, JobState.RUNNING, started_at=21, sweep={"lr": "0.1"}, usage=JobUsage(gpu_seconds=3600,
        gpu_busy_seconds=3600, energy_kwh=0.5)),
    task(21, 1, JobState.COMPLETED, started_at=21, ended_at=60, exit_code=0, sweep={"lr": "0.01"}, usage=JobUsage(
        gpu_seconds=1800, gpu_busy_seconds=900, energy_kwh=0.25, verdict=Verdict.FINE)),
    *(task(20 + index, index, sweep={"lr": "1e-3"}) for index in (2, 3, 4)),
)  # fmt: skip


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("queue") / "a.sock"
    with fake_agent(path, jobs=JOBS):
        yield path


class Desk:
    """A user at the command line."""

    def __init__(self, socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.socket = socket
        self._capsys = capsys
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command that ends with `code`; what it printed."""
        self._capsys.readouterr()
        ended = main(["--socket", str(self.socket), *words])
        out, self.err = self._capsys.readouterr()
        assert ended == code, f"{words}: {ended}\n{out}\n{self.err}"
        for text in (out, self.err):
            assert all(char == "\n" or char.isprintable() for char in text), "nothing acts on a terminal"
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def asked(self) -> list[dict[str, Any]]:
        """What the agent was asked to change, in order."""
        with Client(UnixTransport(self.socket)) as client:
            answer = client.request_raw("GET", "/v1/asked", headers={})
            body = b"".join(iter(answer.read, b""))
        return json.loads(body)  # type: ignore[no-any-return]


@pytest.fixture
def desk(socket: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(socket, capsys)


# --- lists ------------------------------------------------------------------------------------------------------------


def test_waiting_tasks_of_an_array_are_one_line_until_expanded(desk: Desk) -> None:
    lines = desk("jobs", "--name", "sweep").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["20_0", "20_[2-4%2]", "20_1"]
    assert len(desk("jobs", "--array", "20", "-r").splitlines()) == 6
    assert len(desk.json("jobs", "--array", "20")) == 5, "JSON is never collapsed"


def test_the_list_tells_priority_expected_start_and_the_first_sentence_of_the_reason(desk: Desk) -> None:
    titles, line = desk("jobs", "-u", "bob").splitlines()
    assert "1520" in line and line.endswith("Resources: 2 GPUs wanted, 0 free")
    assert titles.split()[-3:] == ["PRIO", "STARTS", "REASON"]


def test_filters_are_the_servers_and_states_may_be_short(desk: Desk) -> None:
    assert [each["id"] for each in desk.json("jobs", "-t", "f")] == [12]
    assert [each["id"] for each in desk.json("jobs", "-t", "PD", "-p", "main", "-A", "lab")] == [2]
    assert desk.json("jobs", "--since", "2026-01-01", "-t", "ended") == []
    assert {each["id"] for each in desk.json("jobs", "-t", "ended", "--until", "1970-01-02")} == {12, 21}


def test_pages_lead_on_by_number_and_by_the_hint(desk: Desk) -> None:
    first = desk.json("jobs", "--all", "-n", "5")
    assert [each["id"] for each in first] == [24, 23, 22, 21, 20]
    assert desk("jobs", "--all", "-n", "5") and "--before 20" in desk.err
    assert desk.json("jobs", "-n", "5", "--before", "20") == desk.json("jobs", "--all", "-n", "5", "--page", "2")
    assert desk.json("jobs", "-n", "5", "--page", "9") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("jobs -t PENDNG", "did you mean PENDING?"),
        ("jobs -t x", "no state of a job"),
        ("jobs --since soon", "is not a moment"),
        ("jobs --limit -1", "is not a count"),
        ("jobs --all --page 0", "'0' is no page"),
        ("cancel", "no job is named"),
        ("cancel 17_[", "is not a job"),
        ("cancel 17_[5-1]", "counts down"),
        ("cancel 17_[0-99999]", "more than 10000 tasks"),
        ("hold 17_[a]", "is not a list of tasks"),
        ("hold", "JOB"),
        ("nice x 17", "not a whole number"),
        ("update 17 TimeLimit", "is not Key=Value"),
        ("update 17 Nice=1 nice=2", "given twice"),
        ("update 17 Nice+=1", "is not Key=Value"),
        ("drain n1", "--reason"),
        ("reservation add x", "--duration or an --end"),
        ("reservation add x --duration 1 --end 2", "not both"),
        ("reservation add x --duration 1", "--users or --accounts"),
        ("reservation ad x", "did you mean add?"),
        ("cron nope", "'nope' is none of list, remove   (stoker cron --help)"),
        ("cron remvoe 3", "'remvoe' is none of list, remove; did you mean remove?"),
        ("cron remove x", "is not the number of a recurring job"),
        ("cron remove 3_1", "is not the number of a recurring job"),
        ("notices rety", "did you mean retry?"),
        ("submit --cron x", "no job script"),
        ("submit --wrap true x.sh", "--wrap has the commands already"),
        ("submit --overlap --wrap true", "--cron"),
        ("submit --cron x --wait --wrap true", "does not go with --cron"),
        ("submit --missed later --cron x --wrap true", "run or skip"),
        ("submit --dry-rum x", "did you mean --dry-run?"),
        ("run", "nothing to run"),
        ("run --", "no command follows --"),
        ("run --cron x -- true", "is not an option"),
        ("shwo 1", "did you mean show?"),
    ],
)
def test_wrong_words_end_with_64_and_say_what_is_meant(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", str(tmp_path / "none.sock"), *words.split()]) == 64
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


# --- what is asked of jobs --------------------------------------------------------------------------------------------


def test_hold_release_top_nice_and_requeue_say_how_the_job_is_now(desk: Desk) -> None:
    assert desk("hold", "4", "5") == "job 4: PENDING, held, priority 0\njob 5: PENDING, held, priority 0\n"
    assert desk("release", "4") == "job 4: PENDING, Priority, priority 7\n"
    assert desk("top", "n1:5").endswith("priority 9999\n")
    assert desk("nice", "-100", "6").endswith("nice -100\n")
    assert desk("requeue", "--hold", "12") == "job 12: PENDING, held\n"
    wanted = [("hold", None), ("hold", None), ("release", None), ("top", None)]
    *before, nice, requeue = desk.asked()
    assert [(each["verb"], each["body"]) for each in before[-4:]] == wanted
    assert nice["body"]["changes"] == {"Nice": "-100"}
    assert requeue["body"]["hold"] is True


def test_one_refusal_does_not_keep_the_others(desk: Desk) -> None:
    assert desk("hold", "3", "7", "999", code=1).startswith("job 7: ")
    assert f"job 3 is not held: job 3 is {NOT_YOURS}'s" in desk.err and "job 999 is not held" in desk.err
    assert [each["id"] for each in json.loads(desk("release", "3", "7", "--json", code=1))] == [7]
    assert json.loads(desk.err)["error"]["code"] == "forbidden"


def test_tasks_are_named_as_a_list(desk: Desk) -> None:
    before = len(desk.asked())
    assert desk("hold", "20_[2-4]").count("\n") == 1
    desk("release", "n1:20_[2-4:2]")
    said = [(each["verb"], each["job"], each["body"]["tasks"]) for each in desk.asked()[before:]]
    assert said == [("hold", "20", "2-4"), ("release", "20", "2,4")], "one call for all that are named"
    assert desk("hold", "20").startswith("array 20: "), "an array's number means all of it"


def test_update_and_signal_send_the_words_as_they_are(desk: Desk) -> None:
    desk("update", "8", "Comment=second = try", "JobName=nu")
    assert desk.asked()[-1]["body"] == {"changes": {"Comment": "second = try", "JobName": "nu"}, "revision": None}
    assert desk.json("show", "8")["name"] == "nu"
    desk("update", "8", "TimeLmit=3", code=1)
    assert "TimeLmit is not a key" in desk.err
    desk("signal", "--batch", "USR1", "1")
    assert desk.asked()[-1]["body"] == {"signal": "USR1", "batch_only": True}


def test_cancel_by_filter_takes_what_has_not_ended_and_nothing_else(desk: Desk) -> None:
    assert desk("cancel", "--name", "own-9", "--state", "pending") == "job n1:9: CANCELLED\n"
    desk("cancel", "--name", "own-9")
    assert "nothing is cancelled" in desk.err
    assert desk("cancel", "--user", "alice", "10", "11", "--state", "PD").count("CANCELLED") == 2
    assert desk.json("show", "1")["state"] == "RUNNING"
    assert desk.json("cancel", "--name", "nobody") == []


# --- one job ----------------------------------------------------------------------------------------------------------


def test_show_tells_why_it_waits_what_helps_and_the_history(desk: Desk) -> None:
    said = desk("show", "2")
    for part in (
        "Priority        1520 = age 20 + fairshare 1000 + qos 600 - nice 100",
        "Reason          Resources: 2 GPUs wanted, 0 free. More.",
        "Waits for       afterok:1",
        "What helps      it has no time limit",
        "Expected start  2033-",
        "History",
        "started → RUNNING: attempt 1",
    ):
        assert part in said, part
    assert "Array     20, tasks 0-4%2" in desk("show", "20_3").replace("          ", "     ")
    assert "lr=1e-3" in desk("show", "20_3")


def test_an_arrays_own_number_shows_and_reports_every_task(desk: Desk, tmp_path: Path) -> None:
    said = desk("show", "20")
    assert said.count("tasks 0-4%2") == 5 and said.count("lr=1e-3") == 3
    assert said.endswith(
        "\nArray 20: 5 tasks, 1 RUNNING, 1 COMPLETED, 3 PENDING; the history of one: stoker show 20_0\n"
    )
    assert [each["array_task_id"] for each in desk.json("show", "20")] == [0, 1, 2, 3, 4]
    assert desk.json("show", "21")["array_task_id"] == desk.json("show", "20_1")["array_task_id"] == 1
    assert [each["array_task_id"] for each in desk.json("show", "n1:20")] == [0, 1, 2, 3, 4]
    lines = desk("report", "20").splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:7]}
    assert list(rows) == ["20_0", "20_1", "20_2", "20_3", "20_4", "total"]
    assert rows["20_1"][1:] == ["COMPLETED", "00:00", "00:39", "0", "0.50", "GPU", "h", "50%", "0.250", "kWh", "fine"]
    assert rows["total"][4:] == ["1.50", "GPU", "h", "83%", "0.750", "kWh"]
    assert lines[-1].startswith("Array 20: 5 tasks, ") and lines[-1].endswith("the account of one: stoker report 20_0")
    reports = desk.json("report", "20")
    assert [(each["job"]["array_task_id"], each["wait_s"]) for each in reports] == [(n, 5.0) for n in range(5)]
    desk("report", "20", "--html", str(tmp_path / "page.html"), code=1)
    assert "these are 20_[0-4]; write: stoker report 20_0 --html" in desk.err and not list(tmp_path.iterdir())


def test_report_gives_the_account(desk: Desk, tmp_path: Path) -> None:
    said = desk("report", "1")
    assert "data-starved: the GPUs wait for  input" in said and "0.250 kWh" in said and "▁▁▂▃▄▅▅▆▇█"[:3] in said
    assert desk.json("report", "1")["job"]["usage"]["verdict"] == "data-starved"
    desk("report", "99", code=1)


def test_results_of_a_sweep_are_sorted_by_a_metric(desk: Desk) -> None:
    lines = desk("sweep", "20", "--sort", "loss").splitlines()
    assert lines[0].split() == ["TASK", "STATE", "TIME", "DONE", "lr", "loss", "note"]
    assert [line.split()[0] for line in lines[1:]] == ["20_4", "20_3", "20_2", "20_0", "20_1"], "what has none is last"
    assert desk("sweep", "20", "--sort", "lr", "--reverse").splitlines()[1].split()[0] == "20_0"
    assert [each["job"]["array_task_id"] for each in desk.json("sweep", "20", "--sort", "loss")][:2] == [4, 3]
    desk("sweep", "20", "--sort", "los", code=1)
    assert "did you mean loss?" in desk.err


# --- handing in -------------------------------------------------------------------------------------------------------


def test_wrap_makes_sbatchs_own_script(desk: Desk) -> None:
    assert desk("submit", "--gpus=1", "--wrap", "echo hi; nvidia-smi").startswith("Submitted job ")
    body = desk.asked()[-1]["body"]
    assert body["script"] == "#!/bin/sh\n# This script was created by sbatch --wrap.\n\necho hi; nvidia-smi\n"
    assert (body["script_name"], body["flags"], body["args"]) == ("wrap", ["--gpus=1"], [])


def test_sbatchs_words_for_its_own_output_are_obeyed(desk: Desk) -> None:
    assert desk("submit", "--parsable", "--wrap", "true").strip().isdecimal()
    assert desk("submit", "-Q", "--wrap", "true") == ""
    assert "It would start at once" in desk("submit", "--test-only", "--wrap", "true")


def test_a_sweeps_values_may_be_quoted(desk: Desk) -> None:
    desk("submit", "--sweep", "lr=1e-3,1e-4", '--sweep=layers="2,4",8', "--wrap", "true")
    assert desk.asked()[-1]["body"]["sweep"] == {"lr": ["1e-3", "1e-4"], "layers": ["2,4", "8"]}
    for wrong in ("lr", "lr=", "lr=1,,2", "1x=2", 'lr="1', "lr=1\n2", "ü=1"):
        desk("submit", "--sweep", wrong, "--wrap", "true", code=1)
        assert "--sweep" in desk.err
    desk("submit", "--sweep", "a=1", "--sweep", "a=2", "--wrap", "true", code=1)
    assert "names a twice" in desk.err


def test_a_dry_run_says_what_would_happen_and_stores_nothing(desk: Desk) -> None:
    before = desk.json("jobs", "--all")
    said = desk("submit", "--dry-run", "--sweep", "a=1,2,3", "--wrap", "true")
    assert "Would make   3 jobs" in said and "It would start at once on GPUs 0 and 1." in said and "#0-1" in said
    assert desk.json("submit", "--dry-run", "--wrap", "true")["job"]["id"] == 0
    assert desk.json("jobs", "--all") == before
    desk("submit", "--dry-run", "--wrap", "fake: refuse 400", code=1)


def test_recurring_jobs_are_made_listed_and_removed(desk: Desk) -> None:
    said = desk("submit", "--cron", "0 3 * * 1", "--missed", "run", "--wrap", "true")
    assert said.startswith("Recurring job 1 on n1, next 1970-01-01")
    assert desk("cron").splitlines()[1].split()[3:8] == ["0", "3", "*", "*", "1"]
    assert desk.json("cron", "list")[0]["missed"] == "run"
    desk("submit", "--cron", "monday", "--wrap", "true", code=1)
    desk("cron", "remove", "7", code=1)
    assert "there is no recurring job 7" in desk.err
    assert desk("cron", "remove", "n1:1").startswith("Recurring job 1 on n1 is removed")
    assert desk.json("cron") == []


# --- around the queue -------------------------------------------------------------------------------------------------


def test_nodes_and_gpus_are_drained_for_a_reason_and_resumed(desk: Desk) -> None:
    assert desk("drain", "n1:3", "5", "--reason", "memory errors").count("drained: no new job") == 2
    assert desk("drain", "n1", "--reason", "power")
    rows = [line.split() for line in desk("drains").splitlines()]
    assert [(row[0], row[1], row[-1]) for row in rows[1:]] == [
        ("n1", "all", "power"),
        ("n1", "3", "errors"),
        ("n1", "5", "errors"),
    ]
    assert "drained by root: memory errors" in desk("gpus")
    assert "drained by root: power" in desk("nodes")
    assert [each["gpu_index"] for each in desk.json("drains")] == [None, 3, 5]
    assert desk("resume", "n1", "GPU-n1-3", "n1:5").count("resumed") == 3
    assert desk.json("drains") == []


def test_what_a_drain_or_a_resume_found_is_said(desk: Desk) -> None:
    assert desk("resume", "n1:3") == "n1:3 was not drained; nothing is changed\n"
    desk("drain", "n1:3", "--reason", "fan\x1b[2J")
    assert "n1:3 drained: " in (said := desk("drain", "n1:3", "--reason", "power"))
    assert said.endswith("; was drained by root: fan\n")
    assert desk("drain", "n1:3", "--reason", "power") == (
        "n1:3 was drained already by root: power; nothing is changed\n"
    )
    said = "n1 was not drained; nothing is changed (1 of the node's GPUs is drained: stoker drains)\n"
    assert desk("resume", "n1") == said
    desk("drain", "n1", "--reason", "cleaning")
    assert desk("resume", "n1:3") == "n1:3 resumed; its node is drained by root: cleaning\n"
    assert desk("resume", "n1") == "n1 resumed: jobs start there again\n"


@pytest.mark.parametrize(
    ("target", "said"),
    [("n2", "there is n1, and"), ("n1:99", "no GPU '99'"), ("99", "no node and no GPU"), ("n1:", "")],
)
def test_what_is_no_node_and_no_gpu_is_not_drained(target: str, said: str, desk: Desk) -> None:
    desk("drain", target, "--reason", "x", code=1)
    assert said in desk.err
    assert desk.json("drains") == []


def test_reservations_are_made_listed_and_removed(desk: Desk) -> None:
    said = desk("reservation", "add", "course", "--duration", "2:00:00", "--users", "alice,bob", "--gpus", "=0,1")
    assert said.startswith("Reservation course, ")
    body = desk.asked()[-1]["body"]
    assert (body["users"], body["gpus"], body["start"]) == (["alice", "bob"], "=0,1", "now")
    assert "alice,bob" in desk("reservation") and desk("reservation", "list") == desk("reservation")
    assert desk("reservation", "remove", "course") == "Reservation course is removed\n"
    desk("reservation", "remove", "course", code=1)
    assert desk.json("reservation") == []


def test_shares_partitions_and_notices(desk: Desk) -> None:
    assert desk("shares").splitlines()[1].split() == ["lab", "alice", "2", "50.0%", "2.0", "GPU", "h", "25.0%", "0.707"]
    said = desk("partitions")
    assert "main*" in said and "10:00" in said and "urgent" in said and "Accounts: lab" in said
    assert desk.json("partitions")["partitions"][0]["default"] is True
    given_up, tried = desk("notices").splitlines()[1:]
    assert "given up  no route" in given_up and "now" in tried and "no route" in tried
    assert desk("notices", "retry") == "2 notices tried again now; stoker notices shows what is left\n"
    assert desk("notices", "retry") == "All notices are delivered\n"
    assert desk.json("notices") == []


def test_the_path_of_a_name_is_quoted(desk: Desk) -> None:
    desk("reservation", "remove", "../../jobs", code=1)
    assert urllib.parse.quote("../../jobs", safe="") not in desk.err


def test_a_report_that_cannot_be_written_whole_leaves_the_older_one(desk: Desk, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    page.write_text("the older one")
    page.chmod(0o640)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))  # as a disk that is full after a block
    try:
        desk("report", "1", "--html", str(page), code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "name another file" in desk.err and page.read_text() == "the older one"
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"]
    desk("report", "1", "--html", str(page))
    assert "<html" in page.read_text() and page.stat().st_mode & 0o777 == 0o640
