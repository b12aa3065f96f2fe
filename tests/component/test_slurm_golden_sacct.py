"""What sacct prints, held against what that of Slurm 22.05 printed of the same jobs (tests/data/slurm)."""

from __future__ import annotations

import pytest

from tests.fakes.slurm_queue import job
from tests.fakes.slurm_screen import Screen, comparable, ended_jobs, recorded
from tests.fakes.slurm_screen import screen as screen
from tui.slurm.sacct import FIELDS


@pytest.mark.parametrize(
    ("name", "words"), [("sacct_P", ["-P"]), ("sacct_p", ["-p"]), ("sacct", []), ("sacct_b", ["--brief"])]
)
def test_sacct_prints_the_same_lines(screen: Screen, name: str, words: list[str]) -> None:
    screen.queue.jobs[:] = ended_jobs()
    ours = comparable(screen.lines("sacct", "-a", *words))
    theirs = comparable(recorded(name))
    assert sorted(ours) == sorted(theirs)
    assert ours[0] == theirs[0]


def test_sacct_fields_have_the_same_widths_and_values(screen: Screen) -> None:
    screen.queue.jobs[:] = ended_jobs()
    names = recorded("sacct_fields_P")[0].split("|")
    theirs = dict(zip(names, recorded("sacct_fields_P")[1].split("|"), strict=True))
    known = {each.name for each in __import__("tui.slurm.sacct", fromlist=["FIELDS"]).FIELDS}
    assert set(names) - known == {"ReqCPUFreq", "MaxDiskRead"}
    asked = [name for name in names if name in known]
    titles, values = screen.lines("sacct", "-a", "-j", "1", "-X", "-P", "-o", ",".join(asked))
    assert titles.split("|") == asked
    ours = dict(zip(asked, values.split("|"), strict=True))
    measured = {
        "TotalCPU",
        "UserCPU",
        "SystemCPU",
        "Flags",
        "SubmitLine",
        "Start",
        "End",
        "Submit",
        "Eligible",
    }
    stored = {"Comment"}  # Slurm keeps it only where its configuration says so
    timed = {"Elapsed", "ElapsedRaw", "CPUTime", "CPUTimeRAW", "Reserved", "Reason", "Layout"}
    differing = {name for name in asked if ours[name] != theirs[name]} - measured - timed - stored
    assert differing == set()
    dashes = recorded("sacct_fields")[1].split(" ")
    widths = {name: len(each) for name, each in zip(names, dashes, strict=False)}
    shown = screen.lines("sacct", "-a", "-j", "1", "-X", "-o", ",".join(asked))[1].split(" ")
    assert {name: len(each) for name, each in zip(asked, shown, strict=False)} == {name: widths[name] for name in asked}


def test_sacct_widths_cut_with_a_plus(screen: Screen) -> None:
    screen.queue.jobs[:] = ended_jobs()
    ours = screen.lines("sacct", "-a", "-o", "JobID%20,State%5,JobName%-15,Elapsed")
    theirs = recorded("sacct_w")
    assert ours[:4] == theirs[:4]
    assert "FAIL+" in ours[2]


def test_sacct_chooses(screen: Screen) -> None:
    screen.queue.jobs[:] = [
        *ended_jobs(),
        *(job(40 + n, array_job_id=40, array_task_id=n, user="bob") for n in range(3)),
    ]

    def ids(*words: str) -> list[str]:
        return screen.lines("sacct", "-n", "-P", "-o", "JobID", *words)

    assert ids("-X") == ["1", "6", "3_3", "3_4", "11", "12"]
    assert ids("-X", "-a") == ["1", "6", "3_3", "3_4", "11", "12", "40_[0-2]"]
    assert ids("-X", "-u", "bob", "-s", "PD") == ["40_[0-2]"]
    assert ids("-j", "3") == ["3_3", "3_3.batch", "3_4", "3_4.batch"]
    assert ids("-j", "3_4") == ["3_4", "3_4.batch"]
    assert ids("-j", "1.batch") == ["1.batch"]
    assert ids("-j", "999") == []
    assert ids("-X", "-s", "CA,F") == ["1", "3_4", "11"]
    assert ids("-X", "--name", "train") == ["1"]
    assert ids("-X", "-S", "now-1hour", "-E", "now") == ["1", "6", "3_3", "3_4", "11", "12"]
    assert ids("-X", "-a", "--array", "-u", "bob") == ["40_0", "40_1", "40_2"]
    assert ids("-X", "-o", "State", "-j", "3_4") == ["3_4|CANCELLED by 0"]


def test_sacct_as_submitit_asks(screen: Screen) -> None:
    screen.queue.jobs[:] = [*ended_jobs(), *(job(40 + n, array_job_id=40, array_task_id=n) for n in range(3))]
    words = ["-o", "JobID,State,NodeList", "--parsable2", "-j", "1", "-j", "40"]
    assert screen.lines("sacct", *words) == [
        "JobID|State|NodeList",
        "1|FAILED|n1",
        "1.batch|FAILED|n1",
        "40_[0-2]|PENDING|None assigned",
    ]


def test_sacct_lists_its_fields(screen: Screen) -> None:
    ours = {name for line in screen.lines("sacct", "-e") for name in line.split()}
    assert {"JobID", "State", "MaxRSS", "AllocTRES", "Planned"} <= ours


def test_sacct_prints_all_fields_when_asked_for_all(screen: Screen) -> None:
    screen.queue.jobs[:] = ended_jobs()
    titles = screen.lines("sacct", "-a", "-P", "-o", "ALL")[0].split("|")
    assert titles == [each.name for each in FIELDS]
