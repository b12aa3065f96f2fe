"""What Slurm's commands print, held against what those of Slurm 22.05 printed of the same jobs (tests/data/slurm)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.queue import Drain, Reservation, Share
from agent.api.tasks import TasksRefused, TasksReply
from agent.api.types import ErrorBody, JobState, LinkState, NodeStatus
from tests.fakes.slurm_queue import job
from tests.fakes.slurm_screen import RUN, SUBMITTED, Screen, ended_jobs, host, recorded
from tests.fakes.slurm_screen import screen as screen
from tui.slurm import __main__ as slurm
from tui.slurm import ask

# --- squeue -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("squeue", []),
        ("squeue_l", ["-l"]),
        ("squeue_r", ["-r"]),
        ("squeue_s", ["-s"]),
    ],
)
def test_squeue_prints_the_same_lines(screen: Screen, name: str, words: list[str]) -> None:
    """Jobs of one priority stand in another order there, which Slurm does not promise."""
    ours, theirs = screen.lines("squeue", *words), recorded(name)
    heads = 2 if name == "squeue_l" else 1
    assert ours[:heads] == theirs[:heads]
    assert sorted(ours) == sorted(theirs)


def test_squeue_start_prints_the_same_lines(screen: Screen) -> None:
    ours, theirs = screen.lines("squeue", "--start"), recorded("squeue_start")
    assert ours[:2] == theirs[:2]
    assert sorted(ours) == sorted(theirs)


def test_every_letter_of_squeue_has_the_same_title_and_value(screen: Screen) -> None:
    letters = "aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ"
    ours = [line.split("|") for line in screen.lines("squeue", "-o", "|".join(f"%{each}" for each in letters))]
    theirs = [line.split("|") for line in recorded("squeue_o")]
    assert ours[0] == theirs[0]
    place = {letter: index for index, letter in enumerate(letters)}
    by_id = {line[place["i"]]: line for line in ours[1:]}
    assert set(by_id) == {line[place["i"]] for line in theirs[1:]}
    for line in theirs[1:]:
        told = by_id[line[place["i"]]]
        differing = {letter for letter, index in place.items() if told[index] != line[index]}
        # A: there a waiting array's record has the array's own id; b: the jobs were asked for with -G; p: 24 digits of
        # a number that nobody reads.
        assert differing <= set("Abp"), line[place["i"]]


def test_squeue_sorts_and_chooses(screen: Screen) -> None:
    def ids(*words: str) -> list[str]:
        return screen.lines("squeue", "-h", "-o", "%i", *words)

    assert ids("-S", "-i") == ["7", "6", "5", "4", "3_[5-9%2]", "3_4", "3_3", "2", "1"]
    assert ids("-t", "R", "-S", "i") == ["1", "2", "3_3", "3_4"]
    assert ids("-t", "CD,F") == []
    assert ids("-p", "short") == ["5"]
    assert ids("-j", "2,3_4,3_[8-9]", "-S", "i") == ["2", "3_4", "3_[8-9%2]"]
    assert ids("-n", "train") == ["1"]
    assert ids("-u", "daemon") == []
    assert ids("--me", "-t", "pd", "-S", "i") == ["3_[5-9%2]", "4", "5", "6", "7"]
    assert ids("-w", "n1", "-A", "lab") == []
    assert ids("-P", "-q", "normal")[-1] == "5"


def test_squeue_variables_and_repeats(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SQUEUE_PARTITION", "short")
    assert screen.lines("squeue") == ["JOBID", "5"]
    monkeypatch.setenv("SQUEUE_FORMAT2", "jobid:4,name:3")
    assert screen.lines("squeue") == ["JOBINAM", "5   ave"]


def test_squeue_fields_by_name(screen: Screen) -> None:
    names = "jobid:10,name,statecompact,timeused,timeleft,tres-alloc:50,reasonlist,numcpus,restartcnt,stdout:30"
    ours = screen.lines("squeue", "-j", "1", "-O", names)
    assert ours[0].split() == ["JOBID", "NAME", "ST", "TIME", "TIME_LEFT", "TRES_ALLOC", "NODELIST(REASON)", "CPUS",
                               "RESTART_COUNT", "STDOUT"]  # fmt: skip
    assert ours[1].split() == ["1", "train", "R", "0:02", "9:58", "cpu=2,mem=100M,node=1,billing=2,gres/gpu=2", "n1",
                               "2", "0", "/home/alice/slurm-1.out"]  # fmt: skip
    assert ours[0].index("NAME") == 10
    assert ours[0].index("ST") == 30


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["squeue", "-j", "999"], 1, "slurm_load_jobs error: Invalid job id specified\n"),
        (["squeue", "-j", "abc"], 1, "squeue: error: Invalid job id: abc\n"),
        (["squeue", "--nope"], 1, "squeue: unrecognized option '--nope'\nTry \"squeue --help\" for more information\n"),
        (["squeue", "-i", "0"], 1, "squeue: error: --iterate=0 is not a number of seconds"),
        (["squeue", "-S", "1"], 1, "squeue: error: Invalid sort specification: 1"),
        (["squeue", "extra"], 1, "squeue: error: Unrecognized option: extra"),
        (["squeue", "-M", "other"], 1, "squeue: error: 'other' can't be reached now"),
        (["sacct", "-j", "abc"], 1, "sacct: fatal: Bad job/step specified: abc\n"),
        (["sacct", "-o", "Nope"], 1, 'sacct: error: Invalid field requested: "Nope"\n'),
        (["sacct", "-o", "JobID%x"], 1, 'sacct: error: Invalid field requested: "JobID%x"\n'),
        (["sacct", "-s", "XX"], 1, "sacct: fatal: unrecognized job state value 'XX'\n"),
        (["sacct", "-S", "nope"], 1, "Invalid time specification (pos=0): nope\n"),
        (["sacct", "-S", "2030-01-01"], 1, "sacct: error: Start time (2030-01-01T00:00:00) requested is after"),
        (["scancel"], 1, "scancel: error: No job identification provided\n"),
        (["scancel", "abc"], 1, "scancel: error: Invalid job id abc\n"),
        (["scancel", "-s", "NOPE", "1"], 1, "Unknown job signal: NOPE\n"),
        (["scontrol", "show", "job", "999"], 1, "slurm_load_jobs error: Invalid job id specified\n"),
        (["scontrol", "show", "node", "nope"], 1, "Node nope not found\n"),
        (["scontrol", "show", "partition", "nope"], 1, "Partition nope not found\n"),
        (["scontrol", "nope"], 1, "invalid keyword: nope\n"),
        (["scontrol", "show"], 1, "too few arguments for keyword:show\n"),
        (["scontrol", "hold"], 1, "too few arguments for keyword:hold\n"),
        (["scontrol", "hold", "999"], 1, "Invalid job id specified for job 999\n"),
        (["scontrol", "show", "hostnames", "n[1-"], 1, "scontrol: error: n[1- has a bracket that is not closed"),
        (["scontrol", "update", "JobId=1", "Nope"], 1, "Invalid input: Nope\nRequest aborted\n"),
        (["scontrol", "update", "TimeLimit=1"], 1, "No valid entity in update command"),
        (["scontrol", "update", "NodeName=n1", "State=DRAIN"], 1, "You must specify a reason when DOWNING or DRAINING"),
        (["sinfo", "--nope"], 1, "sinfo: unrecognized option '--nope'"),
        (["sinfo", "-n", "n[1-"], 1, "sinfo: error: Invalid node list: n[1- has a bracket"),
        (["seff"], 1, "seff: error: name a job, such as: seff 17"),
        (["seff", "999"], 1, "Job not found: 999"),
        (["sbatch", "--nope", "x"], 255, "sbatch: unrecognized option '--nope'; did you mean --nodes?\nTry "),
        (["sbatch", "-Zx"], 255, "sbatch: invalid option -- 'Z'\n"),
        (["sbatch", "-n"], 255, "sbatch: option requires an argument -- 'n'\n"),
        (["sbatch", "--mem"], 255, "sbatch: option '--mem' requires an argument\n"),
        (["sbatch", "--hold=3", "x"], 255, "sbatch: option '--hold' doesn't allow an argument\n"),
        (["sbatch", "--ntasks-p=2", "x"], 255, "sbatch: option '--ntasks-p' is ambiguous; it could be --ntasks-per-"),
        (["salloc", "--nope", "true"], 255, "salloc: unrecognized option '--nope'; did you mean --nodes?\n"),
        (["salloc", "-n"], 255, "salloc: option requires an argument -- 'n'\n"),
        (["srun", "--time"], 255, "srun: option '--time' requires an argument\n"),
        (["srun", "--wait"], 255, "srun: option '--wait' requires an argument\n"),
        (["sbatch", "nope.sh"], 1, "sbatch: error: Unable to open file nope.sh: there is no job script"),
        (["sbatch", "--wrap", "x", "y"], 1, "sbatch: error: Script arguments not permitted with --wrap option"),
        (["nonsense"], 2, "stoker slurm: name one of Slurm's commands"),
    ],
)  # fmt: skip
def test_refusals(screen: Screen, words: list[str], code: int, sentence: str) -> None:
    ended, out, err = screen.run(*words)
    assert (ended, out) == (code, "")
    assert err.startswith(sentence) or sentence in err


def test_a_wrong_state_lists_those_that_are(screen: Screen) -> None:
    code, out, err = screen.run("squeue", "-t", "XX")
    assert (code, out) == (1, "")
    told, theirs = err.splitlines(), recorded("squeue_t_bad")
    assert told[0] == theirs[0]
    assert set(told[1].rpartition(": ")[2].split(",")) <= set(theirs[1].rpartition(": ")[2].split(",")) | {"REQUEUED"}


def test_the_names_are_words_of_stoker_too(screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    from tui.__main__ import main

    assert main(["slurm", "squeue", "-h", "-j", "1", "-o", "%i %j"]) == 0
    assert capsys.readouterr().out == "1 train\n"
    assert slurm.main(["/usr/local/bin/squeue", "-h", "-j", "2", "-o", "%i"]) == 0
    assert capsys.readouterr().out == "2\n"
    assert slurm.main(["/usr/local/bin/sinfo", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: sinfo")


def test_nobody_listening_is_a_sentence(screen: Screen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STOKER_SOCKET", str(tmp_path / "no folder" / "nothing"))
    for name in ("squeue", "sinfo", "sacct", "sprio", "sshare"):
        code, out, err = screen.run(name)
        assert (code, out) == (1, "")
        assert err.startswith(f"{name}: error: ")
    assert screen.run("scontrol", "ping")[0] == 1


def test_hostile_names_do_not_reach_the_terminal(screen: Screen) -> None:
    screen.queue.jobs.append(job(50, name="\x1b]0;own\x07\u202ename\nnext", comment="\x9b2J"))
    lines = (
        "squeue -o %j%k",
        "sacct -a -o JobName%40,Comment",
        "scontrol show job 50",
        "squeue --json",
        "sacct --json -a",
    )
    for line in lines:
        _, out, _ = screen.run(*line.split())
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(out)


def test_jobs_are_read_page_by_page(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAGE", 3)
    assert len(screen.lines("squeue", "-h", "-r")) == 13


# --- scontrol ---------------------------------------------------------------------------------------------------------


def _pairs(lines: list[str]) -> list[list[tuple[str, str]]]:
    return [[(name, value) for name, _, value in (word.partition("=") for word in line.split())] for line in lines]


@pytest.mark.parametrize(("name", "ref"), [("scontrol_job", "1"), ("scontrol_array", "3")])
def test_a_job_is_shown_in_the_same_layout(screen: Screen, name: str, ref: str) -> None:
    ours, theirs = screen.lines("scontrol", "show", "job", ref), recorded(name)
    ours = [line for line in ours if line.strip()]
    theirs = [line for line in theirs if line.strip()]
    now = {"LastSchedEval", "AllocNode:Sid", "RunTime", "JobId", "EligibleTime", "StdOut", "StdErr"}
    for mine, recorded_line in zip(_pairs(ours[:30]), _pairs(theirs[:30]), strict=True):
        assert [pair[0] for pair in mine] == [pair[0] for pair in recorded_line]
        assert [pair for pair in mine if pair[0] not in now] == [pair for pair in recorded_line if pair[0] not in now]
    assert [len(line) - len(line.lstrip()) for line in ours[:30]] == [
        len(line) - len(line.lstrip()) for line in theirs[:30]
    ]


def test_a_job_in_one_line(screen: Screen) -> None:
    lines = screen.lines("scontrol", "-o", "show", "job", "1")
    assert len(lines) == 1
    assert lines[0].startswith("JobId=1 JobName=train UserId=alice(1001) ")


@pytest.mark.parametrize("name", ["scontrol_part"])
def test_partitions_are_shown_in_the_same_layout(screen: Screen, name: str) -> None:
    ours = _pairs([line for line in screen.lines("scontrol", "show", "partition") if line])
    theirs = _pairs([line for line in recorded(name) if line])
    assert [[pair for pair in line if pair[0] != "MaxNodes"] for line in ours] == [
        [pair for pair in line if pair[0] != "MaxNodes"] for line in theirs
    ]


def test_a_node_is_shown_in_the_same_layout(screen: Screen) -> None:
    drain = Drain(reason="bad gpu 3", by="root", at=SUBMITTED + 108)
    screen.queue.nodes[:] = [host(drain=drain)]
    ours = dict(pair for line in _pairs(screen.lines("scontrol", "show", "node")) for pair in line)
    theirs = dict(pair for line in _pairs(recorded("scontrol_node_drng")) for pair in line)
    assert set(ours) <= set(theirs)
    same = {"NodeName", "CPUTot", "RealMemory", "Sockets", "State", "Partitions", "CfgTRES", "Reason"}
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    code, _, err = screen.run("scontrol", "show", "node", "n[1-2]")
    assert (code, err) == (1, "Node n2 not found\n")


def test_a_refusal_names_the_job_once(screen: Screen) -> None:
    screen.queue.refuse = ErrorBody(code="conflict", message="job 4 is RUNNING: only a waiting job can be held")
    assert screen.run("scontrol", "hold", "4") == (1, "", "job 4 is RUNNING: only a waiting job can be held\n")
    screen.queue.refuse = ErrorBody(code="conflict", message="job 9 is RUNNING: only a waiting job can be held")
    assert screen.run("scontrol", "hold", "3_5")[2].endswith("can be held for job 3_5\n")
    assert "KillWait" not in "".join(screen.lines("scontrol", "show", "config"))


def test_verbs_reach_the_jobs_they_name(screen: Screen) -> None:
    for verb in ("hold", "release", "requeue", "requeuehold", "top"):
        screen.lines("scontrol", verb, "4", "3_[5-6]")
    screen.lines("scontrol", "update", "JobId=4", "TimeLimit=5", "Nice=3")
    screen.lines("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=fans")
    screen.lines("scontrol", "update", "nodename=n1", "state=resume")
    screen.lines("scancel", "1", "3_[5-6]")
    screen.lines("scancel", "-s", "SIGUSR1", "-b", "2")
    screen.lines("scancel", "-s", "9", "2")
    screen.lines("scancel", "-u", "alice", "-t", "RUNNING")
    asked = [(path.removeprefix("/v1/"), body) for _, path, body in screen.queue.seen]
    expected: list[tuple[str, Any]] = []
    for verb, body in (("hold", None), ("release", None), ("requeue", False), ("requeue", True), ("top", None)):
        said = None if body is None else {"hold": body, "revision": None}
        together = [(f"jobs/3/tasks/{verb}", {"tasks": "5-6", "hold": bool(body), "reason": None})]
        alone = [(f"jobs/{ref}/{verb}", said) for ref in ("3_5", "3_6")]
        expected += [(f"jobs/4/{verb}", said), *(alone if verb == "top" else together)]
    expected.append(("jobs/4/update", {"changes": {"TimeLimit": "5", "Nice": "3"}, "revision": None}))
    expected += [
        (verb, {"gpu": None, "reason": why, "tell": True}) for verb, why in (("drain", "fans"), ("resume", None))
    ]
    cancel = {"reason": None, "revision": None}
    expected += [
        ("jobs/3/tasks/cancel", {"tasks": "5-6", "hold": False, "reason": None}),
        ("jobs/1/cancel", cancel),
    ]
    expected.append(("jobs/2/signal", {"signal": "USR1", "batch_only": True}))
    expected.append(("jobs/2/cancel", cancel))
    assert asked[: len(expected)] == expected
    assert sorted(asked[len(expected) :], key=str) == sorted(
        [
            *((f"jobs/{ref}/cancel", cancel) for ref in ("1", "2")),
            ("jobs/3/tasks/cancel", {"tasks": "3-4", "hold": False, "reason": None}),
        ],
        key=str,
    )


def test_many_tasks_are_ended_with_one_call_or_one_by_one_where_that_is_not_known(screen: Screen) -> None:
    screen.queue.refuse = ErrorBody(code="not_found", message="/v1/jobs/3/tasks/cancel is no address of this API")
    screen.queue.status = 404
    screen.run("scancel", "3", "3_[3-20]", "4")
    asked = [(path.removeprefix("/v1/"), body) for _, path, body in screen.queue.seen]
    assert asked[0] == ("jobs/3/tasks/cancel", {"tasks": "3-20", "hold": False, "reason": None})
    assert [path for path, _ in asked[1:]] == [
        f"jobs/{ref}/cancel" for ref in ("3", *(f"3_{n}" for n in range(3, 21)), "4")
    ]


def test_what_is_refused_to_some_tasks_is_said_of_them_together(screen: Screen) -> None:
    refused = (
        TasksRefused(tasks="3-4", status=403, code="forbidden", message="is held by an admin; ask one to release it"),
        TasksRefused(tasks="9", status=404, code="no_such_job", message="the array has no such task"),
    )
    screen.queue.tasks = TasksReply(refused=refused)
    code, out, said = screen.run("scontrol", "release", "3_[3-9]")
    assert (code, out) == (1, "")
    assert said == (
        "Access/permission denied: is held by an admin; ask one to release it for job 3_[3-4]\n"
        "Invalid job id specified for job 3_9\n"
    )
    code, _, said = screen.run("scancel", "3_[3-9]")
    assert (code, said.count("\n")) == (1, 1), "one that is not there is no failure"
    assert "Kill job error on job id 3_[3-4]: is held by an admin" in said


def test_exact_parts_nodes_that_differ(screen: Screen) -> None:
    sizes = {"n2": 8, "n3": 16}
    screen.queue.nodes = [msgspec.structs.replace(host(cpu_count=count), name=name) for name, count in sizes.items()]
    words = ("-h", "-p", "main", "-o", "%D %c %m %N")
    assert screen.lines("sinfo", *words) == ["2 8+ 20000 n[2-3]"]
    assert screen.lines("sinfo", "--exact", *words) == ["1 8 20000 n2", "1 16 20000 n3"]


def test_nodes_are_named_by_a_host_list(screen: Screen) -> None:
    assert screen.lines("sacct", "-X", "-n", "-N", "n[1-3]") == screen.lines("sacct", "-X", "-n")
    assert screen.lines("sacct", "-X", "-n", "-N", "n[2-3]") == []
    for tool in ("scancel", "sacct", "squeue"):
        code, _, said = screen.run(tool, "--nodelist", "n[1-")
        assert (code, said.startswith(f"{tool}: error: Invalid node list: n[1- has a bracket")) == (1, True)
    screen.lines("scancel", "-w", "n[2-3]")
    assert screen.queue.seen == []
    screen.lines("scancel", "-w", "n[1-3]")
    assert screen.queue.seen


def test_ending_what_is_not_there_is_no_failure_as_in_slurm(screen: Screen) -> None:
    assert screen.run("scancel", "999") == (0, "", "")
    assert screen.run("scancel", "-v", "999")[0] == 1


def test_small_answers(screen: Screen) -> None:
    assert screen.lines("scontrol", "ping")[0].endswith(" is UP")
    assert screen.lines("scontrol", "show", "hostnames", "n[1-2]") == ["n1", "n2"]
    assert screen.lines("scontrol", "show", "hostlist", "n1,n2") == ["n[1-2]"]
    assert screen.lines("scontrol", "show", "res") == ["No reservations in the system"]
    assert "ClusterName             = lab" in screen.lines("scontrol", "show", "config")


# --- sinfo ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [("sinfo", []), ("sinfo_N", ["-N"]), ("sinfo_Nl", ["-N", "-l"]), ("sinfo_s", ["-s"]), ("sinfo_R", ["-R"])],
)
def test_sinfo_prints_the_same_lines(screen: Screen, name: str, words: list[str]) -> None:
    screen.queue.jobs.clear()
    ours, theirs = screen.lines("sinfo", *words), recorded(name)
    if name == "sinfo_Nl":
        ours, theirs = ours[1:], theirs[1:]
    assert ours == theirs


def test_sinfo_long_but_for_the_jobs_size(screen: Screen) -> None:
    screen.queue.jobs.clear()
    ours, theirs = screen.lines("sinfo", "-l")[1:], recorded("sinfo_l")[1:]
    assert [line.replace("         1 ", "1-infinite ", 1) for line in ours] == theirs


@pytest.mark.parametrize(("name", "words"), [("sinfo_Rd", ["-R"]), ("sinfo_Rl", ["-R", "-l"])])
def test_sinfo_tells_why_a_node_is_drained(screen: Screen, name: str, words: list[str]) -> None:
    screen.queue.nodes[:] = [host(drain=Drain(reason="bad gpu 3", by="root", at=SUBMITTED + 108))]
    assert screen.lines("sinfo", *words)[-2:] == recorded(name)[-2:]


def test_sinfo_puts_on_one_line_what_is_alike_in_all_that_is_shown(screen: Screen) -> None:
    """`sinfo -h -o %C` is the whole cluster's CPUs, of however many partitions and states."""
    screen.queue.jobs.clear()
    other = host(drain=Drain(reason="r", by="root", at=1), gpus=())
    screen.queue.nodes[:] = [host(), msgspec.structs.replace(other, name="n2")]
    assert screen.lines("sinfo", "-h", "-o", "%C %D %N") == ["0/8/8/16 2 n[1-2]"]
    assert screen.lines("sinfo", "-h", "-o", "%N %G") == ["n1 gpu:s:8", "n2 (null)"]
    assert screen.lines("sinfo", "-h", "-o", "%R %D") == ["main 2", "short 2"]
    assert screen.lines("sinfo", "-h", "-o", "%t %a") == ["idle up", "drain up"]
    assert screen.lines("sinfo", "-h", "-O", "nodelist:8,nodeaiot:8") == ["n[1-2]  0/1/1/2 "]
    assert screen.lines("sinfo", "-h", "-t", "down", "-o", "%D %t") == ["0 n/a"]
    assert len(screen.lines("sinfo", "-h", "-N", "-o", "%N")) == 4


@pytest.mark.parametrize("tool", ["sinfo", "squeue"])
def test_listings_that_are_repeated_say_when_each_was_made(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    made: list[float] = []

    def enough(seconds: float) -> None:
        made.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", enough)
    code, told, _ = screen.run(tool, "-i", "7")
    assert (code, made) == (130, [7])
    assert time.strptime(told.splitlines()[0], "%a %b %d %H:%M:%S %Y")
    assert not screen.run(tool, "-h", "-i", "7")[1].startswith(told.splitlines()[0][:10])


def test_states_of_a_node(screen: Screen) -> None:
    def state() -> str:
        return screen.lines("sinfo", "-h", "-p", "main", "-o", "%t %T %C")[0]

    assert state() == "mix mixed 5/3/0/8"
    screen.queue.nodes[:] = [host(drain=Drain(reason="r", by="root", at=1))]
    assert state() == "drng draining 5/0/3/8"
    screen.queue.jobs.clear()
    assert state() == "drain drained 0/0/8/8"
    screen.queue.nodes[:] = [host()]
    screen.queue.jobs.append(job(1, JobState.RUNNING, tasks=8, **RUN))
    assert state() == "alloc allocated 8/0/0/8"
    screen.queue.jobs[:] = [job(1, JobState.RUNNING, exclusive=True, **RUN)]
    assert state() == "alloc allocated 8/0/0/8"
    screen.queue.nodes[:] = [NodeStatus(name="n1", link=LinkState.LOST, age_s=20.0, reason="no route")]
    assert state() == "down* down* 0/0/0/0"
    gpu = msgspec.structs.replace(host().node.gpus[0], drain=Drain(gpu_uuid="GPU-n1-0", reason="ECC", by="bob", at=1))  # type: ignore[union-attr]
    screen.queue.nodes[:] = [host(gpus=(gpu,))]
    assert "gpu 0: ECC" in screen.lines("sinfo", "-R")[1]


def test_a_job_alone_on_its_node_is_shown_with_all_its_cpus_once_it_runs(screen: Screen) -> None:
    of: dict[str, Any] = {"exclusive": True, "tasks": 2, "cpus_per_task": 1, "memory_bytes": None}
    screen.queue.jobs[:] = [job(1, JobState.RUNNING, cpus=8, **of, **RUN), job(2, cpus=2, **of), job(3, **of)]
    assert screen.lines("squeue", "-h", "-S", "i", "-o", "%i %C") == ["1 8", "2 2", "3 2"], (
        "an older server does not say"
    )
    fields = screen.lines("squeue", "-h", "-j", "1", "-O", "NumCPUs,tres-alloc:40,MaxCPUs")[0].split()
    assert fields == ["8", "cpu=8,node=1,billing=8", "2"]
    assert screen.lines("sacct", "-X", "-n", "-P", "-j", "1", "-o", "AllocCPUS,ReqCPUS,AllocTRES,ReqTRES") == [
        "8|2|billing=8,cpu=8,node=1|billing=2,cpu=2,node=1"
    ]
    shown = "\n".join(screen.lines("scontrol", "show", "job", "1"))
    assert "NumCPUs=8 NumTasks=2 CPUs/Task=1" in shown and "TRES=cpu=8,node=1,billing=8" in shown


def test_sinfo_lists_what_is_reserved(screen: Screen) -> None:
    assert screen.lines("sinfo", "-T") == ["No reservations in the system"]
    at = SUBMITTED - 10
    screen.queue.reservations.append(Reservation(name="course", start_at=at, end_at=at + 3600, users=("ada",)))
    title, line = screen.lines("sinfo", "-T")
    assert title.split() == ["RESV_NAME", "STATE", "START_TIME", "END_TIME", "DURATION", "NODELIST"]
    assert line.split() == ["course", "ACTIVE", "2026-11-22T05:24:40", "2026-11-22T06:24:40", "01:00:00", "n1"]


# --- the small ones, and JSON -----------------------------------------------------------------------------------------


def test_sprio_and_sshare_have_the_same_columns(screen: Screen) -> None:
    assert screen.lines("sprio", "-j", "6")[0].split()[:7] == recorded("sprio")[0].split()
    assert [line.split()[0] for line in screen.lines("sprio", "-h")] == ["6", "3_[5-9%2]"]
    share = Share(
        account="lab", user="alice", shares=1, shares_norm=0.5, usage_gpu_s=7200.4, usage_norm=0.25, fairshare=0.7
    )
    screen.queue.shares.append(share)
    ours, theirs = screen.lines("sshare"), recorded("sshare")
    assert ours[:2] == theirs[:2]
    assert ours[2].split() == ["lab", "alice", "1", "0.500000", "7200", "0.250000", "0.700000"]
    assert screen.lines("sshare", "-h", "-P") == [" lab|alice|1|0.500000|7200|0.250000|0.700000"]


def test_json_in_slurms_shape(screen: Screen) -> None:
    told = msgspec.json.decode(screen.run("squeue", "--json")[1])
    assert told["meta"]["plugin"]["data_parser"] == "data_parser/v0.0.40"
    by_id = {each["job_id"]: each for each in told["jobs"]}
    assert by_id[1]["job_state"] == ["RUNNING"]
    assert by_id[1]["time_limit"] == {"set": True, "infinite": False, "number": 10}
    assert by_id[2]["end_time"]["number"] == SUBMITTED + 93_840
    assert by_id[11]["array_job_id"]["number"] == 3
    assert by_id[11]["time_limit"]["infinite"] is True
    assert len(told["jobs"]) == 13
    screen.queue.jobs[:] = ended_jobs()
    jobs = msgspec.json.decode(screen.run("sacct", "--json", "-j", "1")[1])["jobs"]
    assert jobs[0]["state"] == {"current": ["FAILED"], "reason": "NonZeroExitCode"}
    assert jobs[0]["exit_code"]["return_code"]["number"] == 3
    assert {"type": "gres", "name": "gpu", "id": 0, "count": 2} in jobs[0]["tres"]["requested"]
