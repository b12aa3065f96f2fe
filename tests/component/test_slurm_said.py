"""More of what Slurm 22.05 printed (tests/data/slurm), what it refused, and what it said to odd words."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from agent.api.queue import JobStep, Reloaded, Reservation
from agent.api.types import ErrorBody, JobState, LinkState, NodeStatus, Plan
from tests.fakes.slurm_queue import job
from tests.fakes.slurm_screen import RUN, SUBMITTED, Screen, host, recorded
from tests.fakes.slurm_screen import screen as screen
from tui.slurm import __main__ as slurm


def three_nodes(**more: Any) -> list[NodeStatus]:
    known = host(cpu_count=16, **more).node
    assert known is not None
    return [
        NodeStatus(name=name, link=LinkState.UP, age_s=0.0, node=msgspec.structs.replace(known, name=name))
        for name in ("n1", "n2", "n3")
    ]


def the_reservations() -> list[Reservation]:
    at = 1_795_344_026
    return [
        Reservation(name="root_1", start_at=at, end_at=at + 3600, users=("root",)),
        Reservation(name="win", start_at=at, end_at=at + 3600, users=("root",), maintenance=True),
        Reservation(name="tre", start_at=2_082_758_400, end_at=2_082_844_800, users=("root",)),
    ]


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_what_is_reserved_is_listed_in_the_same_layout(screen: Screen) -> None:
    screen.queue.nodes[:], screen.queue.reservations[:] = three_nodes(), the_reservations()
    theirs = [re.sub(r"  n[23]$", "  n[1-3]", line) for line in recorded("sinfo_T")]  # here it is the whole cluster
    assert screen.lines("sinfo", "-T") == theirs
    assert screen.lines("sinfo", "-T", "-h") == theirs[1:]
    assert screen.lines("sinfo", "-T", "-l")[1:] == theirs


def test_a_reservation_is_shown_in_the_same_layout(screen: Screen) -> None:
    screen.queue.nodes[:], screen.queue.reservations[:] = three_nodes(), the_reservations()
    ours, theirs = screen.lines("scontrol", "show", "reservation"), recorded("scontrol_resv")
    assert ours[12:18] == [line.replace(",ALL_NODES", "") for line in theirs[12:18]]
    for mine, recorded_line in zip(ours, theirs, strict=True):
        assert [word.partition("=")[0] for word in mine.split()] == [
            word.partition("=")[0] for word in recorded_line.split()
        ]
    assert screen.run("scontrol", "show", "reservation", "nope") == (1, "", "Reservation nope not found\n")


@pytest.mark.parametrize("tool", ["squeue", "sinfo"])
def test_every_field_has_slurms_title(screen: Screen, tool: str) -> None:
    recorded_names = [line.split("|") for line in (recorded(f"{tool}_names") or [])]
    assert len(recorded_names) > 40
    for name, title, *_ in recorded_names:
        words = ["-O", f"{name}:40", *(["-j", "1"] if tool == "squeue" else ["-p", "main"])]
        assert screen.lines(tool, *words)[0].rstrip() == title, name


@pytest.mark.parametrize("tool", ["squeue", "sinfo"])
def test_all_fields_at_once(screen: Screen, tool: str) -> None:
    theirs = [title.strip() for title in recorded(f"{tool}_all")[0].split("|")]
    assert [title.strip() for title in screen.lines(tool, "-o", "%all")[0].split("|")] == theirs


def stepped() -> Any:
    told = (
        JobStep(id=0, name="sleep", tasks=2, cpus=2, started_at=SUBMITTED + 0.0),
        JobStep(id=1, name="done", started_at=SUBMITTED + 0.0, ended_at=SUBMITTED + 1.0, exit_code=0),
    )
    return job(70044, JobState.RUNNING, name="stepped", user="root", tasks=2, steps=told, time_limit_s=1800, **RUN)


def test_steps_that_run_are_listed_in_the_same_layout(screen: Screen) -> None:
    screen.queue.jobs[:] = [stepped()]
    theirs = [line.replace("      gpu ", "     main ").replace("0:04", "0:02") for line in recorded("squeue_steps")]
    assert screen.lines("squeue", "-s") == theirs
    theirs = [line.replace("gpu", "main").replace("0:04", "0:02") for line in recorded("squeue_steps_o")]
    ours = screen.lines("squeue", "-s", "-o", "%A %i %j %u %P %M %N %S %l %b")
    assert ours == [line.replace("2026-11-22T09:42:50", "2026-11-22T05:24:50") for line in theirs]
    assert screen.lines("squeue", "-h", "-s70044.0") == [theirs_line(recorded("squeue_steps")[1])]
    assert screen.run("squeue", "-s70044")[2] == "squeue: error: Invalid job_step id: 70044.??\n"


def theirs_line(line: str) -> str:
    return line.replace("      gpu ", "     main ").replace("0:04", "0:02")


def test_a_step_is_shown_in_the_same_layout(screen: Screen) -> None:
    screen.queue.jobs[:] = [stepped()]
    now = {"StartTime", "SrunHost:Pid", "Partition", "TRES"}
    ours, theirs = screen.lines("scontrol", "show", "step"), recorded("scontrol_step")

    def pairs(lines: list[str]) -> list[list[tuple[str, str]]]:
        split = [[word.partition("=")[::2] for word in line.split()] for line in lines]
        return [[(name, "" if name in now else value) for name, value in line] for line in split]

    assert pairs(ours) == pairs(theirs)
    assert screen.lines("scontrol", "show", "step", "70044.0")[0].startswith("StepId=70044.0 UserId=0 ")
    assert screen.run("scontrol", "show", "steps", "999")[2].startswith("slurm_get_job_steps error: Invalid job id")


def test_a_node_shows_its_features_and_all_lines(screen: Screen) -> None:
    screen.queue.nodes[:] = [host(features=("h100", "nvlink"))]
    ours = [line for line in screen.lines("scontrol", "show", "node", "n1") if line.strip()]
    theirs = [line for line in recorded("scontrol_node_free") if line.strip() and "OS=" not in line]
    apart = {"Arch", "Port", "Version", "Reason"}
    for mine, recorded_line in zip(ours, theirs, strict=True):
        names = [word.partition("=")[0] for word in recorded_line.split()]
        assert [word.partition("=")[0] for word in mine.split()] == [name for name in names if name not in apart] or (
            "NodeAddr" in mine
        )
    assert "   AvailableFeatures=h100,nvlink" in ours
    assert screen.lines("sinfo", "-h", "-p", "main", "-o", "%20f %b|%f") == [
        "h100,nvlink          h100,nvlink|h100,nvlink"
    ]


def test_a_jobs_gpus_are_told_by_ranges_of_their_indexes_as_slurm_does(screen: Screen) -> None:
    screen.queue.jobs[:] = [job(1, JobState.RUNNING, gpus=4, **RUN | {"gpu_indexes": (0, 1, 2, 6)})]
    shown = screen.lines("scontrol", "-d", "show", "job", "1")
    assert "   JOB_GRES=gpu:4" in shown
    assert [line.split()[-1] for line in shown if "CPU_IDs=" in line] == ["GRES=gpu:4(IDX:0-2,6)"]
    told = json.loads("\n".join(screen.lines("squeue", "--json")))
    assert told["jobs"][0]["gres_detail"] == ["gpu:4(IDX:0-2,6)"]


def test_what_a_job_asked_for_is_shown(screen: Screen) -> None:
    asked: dict[str, Any] = {
        "features": ("h100", "nvlink"), "licenses": {"matlab": 2}, "command": "/home/alice/train.sh",
        "args": ("a", "b"),
        "memory_per_cpu_bytes": 2**30, "ntasks_per_node": 4, "mail_types": ("END",), "mail_user": "a@example.org",
        "input_path": "/home/alice/in", "kill_on_invalid_dep": True, "output_path": "/home/alice/slurm-1.out",
        "priority": 77,
    }  # fmt: skip
    screen.queue.jobs[:] = [job(1, JobState.RUNNING, **RUN, **asked), job(2, held=True, **asked | {"priority": 0})]
    shown = "\n".join(screen.lines("scontrol", "-d", "show", "job", "1"))
    for words in (
        "Features=h100&nvlink ", "Licenses=matlab:2 ", "Command=/home/alice/train.sh a b\n", "MinMemoryCPU=1G ",
        "NtasksPerN:B:S:C=4:0:*:*", "MailUser=a@example.org MailType=END", "StdIn=/home/alice/in\n",
        "KillOInInvalidDependent=Yes", "Priority=77 ", "DerivedExitCode=0:0",
    ):  # fmt: skip
        assert words in shown
    waiting = "\n".join(screen.lines("scontrol", "show", "job", "2"))
    assert "EligibleTime=Unknown" in waiting
    assert "AccrueTime=Unknown" in waiting
    assert "StdOut=/home/alice/slurm-1.out\n" in waiting


def test_licenses_are_counted(screen: Screen) -> None:
    assert screen.lines("scontrol", "show", "licenses") == ["No licenses configured in Slurm."]
    screen.queue.rules = msgspec.structs.replace(screen.queue.rules, licenses={"matlab": 4, "seat": 32})
    assert screen.lines("scontrol", "show", "licenses") == recorded("scontrol_lic")
    screen.queue.jobs.append(job(90, JobState.RUNNING, licenses={"matlab": 3}, **RUN))
    assert "    Total=4 Used=3 Free=1 Reserved=0 Remote=no" in screen.lines("scontrol", "show", "licenses")
    assert screen.lines("squeue", "-h", "-L", "matlab", "-o", "%i %W") == ["90 matlab:3"]


# --- scontrol update, create, delete, reconfigure ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("job=4 timelimit+=30", {"timelimit": "+30"}),
        ("jobid=4 TimeLimit-=1-00:00:00", {"TimeLimit": "-1-00:00:00"}),
        ("job 4 timelimit=12", {"timelimit": "12"}),
        ("JobId=4 TimeLimit=+5 Comment='a b'", {"TimeLimit": "+5", "Comment": "a b"}),
        ("jobid=4 name=x", {"name": "x"}),
    ],
)
def test_update_reads_slurms_words(screen: Screen, line: str, asked: dict[str, str]) -> None:
    screen.lines("scontrol", "update", *re.findall(r"(?:[^ ']|'[^']*')+", line))
    assert screen.queue.seen == [("POST", "/v1/jobs/4/update", {"changes": asked, "revision": None})]


def test_update_names_several_jobs_or_one_by_its_name(screen: Screen) -> None:
    screen.lines("scontrol", "update", "jobid=4,5", "nice=3")
    screen.lines("scontrol", "update", "jobname=train", "nice=3")
    assert [path for _, path, _ in screen.queue.seen] == [
        "/v1/jobs/4/update", "/v1/jobs/5/update", "/v1/jobs/1/update",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("update", "too few arguments for update keyword\n"),
        ("update jobid=4 TimeLimit+5", "Invalid input: TimeLimit+5\nRequest aborted\n"),
        ("update jobid=4 nice+=5", "Invalid input: nice+=5\nRequest aborted\n"),
        ("update job=abc timelimit=12", "Invalid job id specified for job abc\n"),
        ("update job=999 timelimit=12", "Invalid job id specified for job 999\n"),
        ("update job=4", "No changes specified\n"),
        ("update nodename=n9 state=drain reason=x", "slurm_update error: Invalid node name specified\n"),
        ("update nodename=n1", "No changes specified\n"),
        ("update nodename=n1 state=foo", "Invalid input: state=foo\nRequest aborted\nValid states are: "),
        ("update nodename=n1 weight=3", "Update of this parameter is not supported: weight=3\nRequest aborted\n"),
        ("update partition=nope state=up", "slurm_update error: Invalid partition name specified\n"),
        ("update partition=main maxtime=30",
         "scontrol: error: maxtime=30 is not changed here: it is in the configuration, change [[partitions]] main"),
        ("update partition=main foo=1",
         "scontrol: error: Update of this parameter is not supported: foo=1\nscontrol: error: Request aborted\n"),
        ("update partition=main state=foo",
         "scontrol: error: Invalid input: state=foo\n"
         "scontrol: error: Acceptable State values are UP, DOWN, DRAIN and INACTIVE\n"),
        ("update partition=main", "scontrol: error: No changes specified\n"),
        ("update partition=nope state=up", "slurm_update error: Invalid partition name specified\n"),
        ("update reservation=nope duration=5",
         "Error updating the reservation: Requested reservation is invalid\n"),
        ("update reservation=c foo=bar", "scontrol: error: Unknown parameter foo=bar.  No reservation update.\n"),
        ("update reservation=c flags=FOO", "scontrol: error: Error parsing flags FOO.  No reservation update.\n"),
        ("update reservation=c nodes=n2", "scontrol: error: nodes=n2 is not changed: scontrol delete it, and create"),
        ("create", "too few arguments for create keyword\n"),
        ("create foo", "scontrol: error: Invalid creation entity: foo\n"),
        ("create reservation", "scontrol: error: A start time must be given.  No reservation created.\n"),
        ("create reservation user=root starttime=now duration=60",
         "scontrol: error: CoreCnt, Nodes, NodeCnt, BurstBuffer, Licenses or Watts must be specified.  No reservation"),
        ("create reservation=f starttime=now nodes=n1 duration=5",
         "scontrol: error: Either Users/Groups and/or Accounts must be specified.  No reservation created.\n"),
        ("create reservation=f user=root starttime=now nodes=n1 duration=5 flags=FOO",
         "scontrol: error: Error parsing flags FOO.  No reservation created.\n"),
        ("create reservation=f user=root starttime=now nodes=n1 duration=5 flags=DAILY",
         "scontrol: error: flags=DAILY is not offered here"),
        ("create reservation=f user=root starttime=now nodes=n1 duration=5 foo=bar",
         "scontrol: error: Unknown parameter foo=bar.  No reservation created.\n"),
        ("create reservation=f user=root starttime=now nodes=n9 duration=5",
         "Error creating the reservation: Invalid node name specified\n"),
        ("delete", "too few arguments for delete keyword\n"),
        ("delete foo=bar", "Invalid deletion entity: foo=bar\n"),
        ("delete reservationname=win", "delete_reservation reservationname=win: Requested reservation is invalid\n"),
        ("show job nope", "scontrol_print_job error: Invalid job id specified\n"),
    ],
)  # fmt: skip
def test_what_scontrol_refuses_in_slurms_words(screen: Screen, line: str, sentence: str) -> None:
    code, out, err = screen.run("scontrol", *line.split())
    assert (code, out) == (1, "")
    assert err.startswith(sentence)


def test_a_word_that_cannot_be_changed_is_named(screen: Screen) -> None:
    known = "'foo' cannot be changed; known: TimeLimit"
    screen.queue.refuse = ErrorBody(code="bad_option", message=known, field="foo")
    screen.queue.status = 400
    code, _, err = screen.run("scontrol", "update", "jobid=4", "foo=bar")
    assert (code, err) == (1, f"Update of this parameter is not supported: {known}\nRequest aborted\n")


def test_what_a_server_says_of_itself_does_nothing_to_the_terminal(screen: Screen) -> None:
    screen.queue.refuse = ErrorBody(code="bad_option", message="one\n\x1b]0;owned\x07two", field=None)
    screen.queue.status = 400
    assert screen.run("scontrol", "update", "jobid=4", "Nice=1")[2] == "one\ntwo\n"
    screen.queue.cluster = "\x1b[2Jlab"
    assert "Cluster: lab\n" in screen.run("seff", "4")[1]


def test_reservations_are_made_and_deleted(screen: Screen) -> None:
    line = "create reservation user=root starttime=now+1hour duration=60 nodes=n1"
    assert screen.lines("scontrol", *line.split()) == ["Reservation created: root_1"]
    line = "create reservationname=win flags=maint,ignore_jobs starttime=now endtime=now+1hour nodes=ALL"
    assert screen.lines("scontrol", *line.split()) == ["Reservation created: win"]
    line = "create reservation=two accounts=lab starttime=now duration=1:00:00 tres=gres/gpu=2"
    assert screen.lines("scontrol", *line.split()) == ["Reservation created: two"]
    bodies = [body for _, _, body in screen.queue.seen]
    assert [(each["name"], each["start"], each["duration"], each["end"]) for each in bodies] == [
        (None, "now+1hour", "60", None), ("win", "now", None, "now+1hour"), ("two", "now", "1:00:00", None),
    ]  # fmt: skip
    assert [(each["users"], each["maintenance"], each["gpus"]) for each in bodies] == [
        (["root"], False, None), ([], True, None), ([], False, "2"),
    ]  # fmt: skip
    assert screen.lines("scontrol", "delete", "reservation=win") == []
    assert [each.name for each in screen.queue.reservations] == ["root_1", "two"]


def test_a_reservation_that_one_node_refuses_is_made_nowhere(screen: Screen) -> None:
    screen.queue.nodes[:] = three_nodes()
    asked: list[str] = []
    answer = screen.queue.answer

    def refuse_the_third(method: str, path: str, body: bytes) -> tuple[int, object]:
        if method == "POST" and path.startswith("/v1/nodes/n3/"):
            return 409, ErrorBody(code="not_free", message="reservation x has it for a part of that time")
        if method != "GET":
            asked.append(f"{method} {path}")
        return answer(method, path, body)

    screen.queue.answer = refuse_the_third  # type: ignore[method-assign]
    line = "create reservation=r user=root starttime=now duration=60 nodes=n[1-3]"
    assert screen.run("scontrol", *line.split())[2].startswith("Error creating the reservation: reservation x has it")
    assert screen.queue.reservations == []
    assert asked == [
        "POST /v1/nodes/n1/reservations", "POST /v1/nodes/n2/reservations",
        "DELETE /v1/nodes/n1/reservations/r", "DELETE /v1/nodes/n2/reservations/r",
    ]  # fmt: skip


def test_reconfigure_has_every_node_read_its_rules_again(screen: Screen) -> None:
    assert screen.lines("scontrol", "reconfigure") == []
    screen.queue.reloaded = Reloaded(need_restart=("node.cpus",))
    code, out, err = screen.run("scontrol", "reconfig")
    assert (code, out) == (0, "")
    assert err == "n1: read again; node.cpus will hold after: systemctl restart stoker-agent\n"
    screen.queue.refuse = ErrorBody(code="bad_config", message="the configuration is not taken")
    assert screen.run("scontrol", "reconfigure")[2] == ("slurm_reconfigure error: n1: the configuration is not taken\n")


def test_test_only_names_the_number_that_the_job_would_get(screen: Screen) -> None:
    would = job(0, tasks=2)
    screen.queue.plan = Plan(job=would, next_id=70003, starts_at=SUBMITTED, sentence="at once")
    said = "Job 70003 to start at 2026-11-22T05:24:50 using 2 processors on nodes n1 in partition main\n"
    assert screen.run("sbatch", "--test-only", "--wrap", "true") == (0, "", f"sbatch: {said}")
    assert screen.run("srun", "--test-only", "-n2", "true") == (0, "", f"srun: {said}")
    assert screen.run("sbatch", "--test-only", "-Q", "--wrap", "true") == (0, "", "")
    screen.queue.plan = Plan(job=would, sentence="asks for 9 GPUs")
    assert screen.run("sbatch", "--test-only", "--wrap", "true") == (1, "", "allocation failure: asks for 9 GPUs\n")


# --- whatever is typed ------------------------------------------------------------------------------------------------

HOSTILE = ["", " ", "\x1b[2J", "\x00", "ä" * 300, "-", "--", "=", ",", "9" * 40, "-9", "[", "n[1-", "1_[", "%", "a=b=c"]


@pytest.mark.parametrize(
    "tool", ["squeue", "sacct", "sinfo", "scancel", "scontrol", "seff", "sprio", "sshare", "sbatch"]
)
def test_nothing_that_is_typed_is_a_traceback(screen: Screen, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    verbs = {"scontrol": [["show"], ["show", "job"], ["show", "node"], ["update"], ["update", "jobid=1"], ["create"],
                          ["create", "reservation"], ["delete"], ["hold"], ["show", "hostnames"], ["show", "step"], []],
             "sacct": [["-j"], ["-S"], ["-s"], ["-o"], ["-E"], ["-u"], []],
             "squeue": [["-j"], ["-o"], ["-O"], ["-S"], ["-t"], ["-w"], ["-u"], ["-M"], ["-i"], []],
             "sinfo": [["-o"], ["-n"], ["-t"], ["-O"], []]}.get(tool, [[]])  # fmt: skip
    for verb in verbs:
        for word in HOSTILE:
            code, out, err = screen.run(tool, *verb, word)
            assert "Traceback" not in err
            assert "\x1b" not in err
            assert "\x1b" not in out or verb == ["-o"]  # a format's own letters are its user's
            assert isinstance(code, int)


def test_every_name_has_help(screen: Screen) -> None:
    for name in slurm.NAMES:
        assert screen.lines(name, "--help")[0].lower().startswith("usage")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("scontrol suspend 4", "scontrol: error: suspend is not offered here: scancel -s STOP JOB stops its processes"),
        ("scontrol notify 4 hi", "scontrol: error: notify is not offered here: "),
        ("scontrol re 4", "invalid keyword: re\n"),
        ("scontrol nonsense", "invalid keyword: nonsense\n"),
        ("scontrol upd", "too few arguments for upd keyword\n"),
        ("scontrol write foo", "invalid write argument:foo\n"),
        ("scontrol show job 4 5", "too many arguments for keyword:show\n"),
        ("scontrol show topo", "scontrol: error: show topology is not offered here\n"),
        ("sacct -g staff", "sacct: error: --gid is not offered here\n"),
        ("sacct --timelimit-min 1:00:00", "sacct: error: --timelimit-min is not offered here\n"),
        ("sacct -R Resources", "sacct: error: --reason is not offered here\n"),
        ("squeue --notme", "squeue: error: --notme is not offered here\n"),
        ("scancel -u nosuchuser", "scancel: error: Invalid user name: nosuchuser\n"),
        ("scancel 0", "scancel: error: Invalid job id 0\n"),
        ("sinfo -t foo", 'sinfo: error: Bad state string: "foo"\nsinfo: error: valid states: '),
    ],
)
def test_odd_words_are_refused_as_slurm_does(screen: Screen, line: str, sentence: str) -> None:
    name, *words = line.split()
    code, out, err = screen.run(name, *words)
    assert (code, out) == (1, "")
    assert err.startswith(sentence)


def test_scontrols_words_may_be_cut_short(screen: Screen) -> None:
    whole = screen.lines("scontrol", "show", "partition")
    assert screen.lines("scontrol", "sho", "part") == screen.lines("scontrol", "s", "partition") == whole
    screen.lines("scontrol", "u", "jobid=4", "nice=3")
    assert screen.queue.seen[-1][1] == "/v1/jobs/4/update"


def test_a_user_whom_nobody_knows_is_told(screen: Screen) -> None:
    code, out, err = screen.run("squeue", "-h", "-u", "nosuchuser")
    assert (code, out, err) == (0, "", "squeue: error: Invalid user: nosuchuser\n")
