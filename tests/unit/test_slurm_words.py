"""Options, formats, times and ids of Slurm's commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import JobState
from tui.slurm import argv, ask, columns, sacct, squeue, squeue_fields, times
from tui.slurm.argv import Options, ToolError

OPTIONS = Options("user:u= noheader:h jobs:j? format:o= Format:O= clusters:M=!")


def test_options_are_read_among_words_bundled_and_cut_short() -> None:
    words = OPTIONS.read(["a", "-hu", "bob", "--use=eve", "-j5", "--jobs", "b", "-oX", "--", "-h"])
    assert words.said == {"noheader": [""], "user": ["bob", "eve"], "jobs": ["5", ""], "format": ["X"]}
    assert words.rest == ["a", "b", "-h"]
    assert words.last("user") == "eve"
    assert words.last("Format") is None


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["--nope"], "TOOL: unrecognized option '--nope'"),
        (["-z"], "TOOL: invalid option -- 'z'"),
        (["-u"], "TOOL: option requires an argument -- 'u'"),
        (["--user"], "TOOL: option '--user' requires an argument"),
        (["--noheader=1"], "TOOL: option '--noheader' doesn't allow an argument"),
        (["-M", "x"], "--clusters is not offered here"),
        (["--usre", "x"], "did you mean --user?"),
    ],
)
def test_wrong_options_are_named(line: list[str], sentence: str) -> None:
    with pytest.raises(ToolError) as caught:
        OPTIONS.read(line)
    assert sentence in str(caught.value)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_no_command_line_is_a_traceback(line: list[str]) -> None:
    for options in (squeue.OPTIONS, sacct.OPTIONS):
        try:
            words = options.read(line)
        except ToolError:
            continue
        assert set(words.rest) <= set(line)


@pytest.mark.parametrize(
    ("seconds", "short", "full"),
    [
        (0, "0:00", "00:00:00"),
        (6, "0:06", "00:00:06"),
        (600, "10:00", "00:10:00"),
        (3600, "1:00:00", "01:00:00"),
        (93_840, "1-02:04:00", "1-02:04:00"),
        (-5, "0:00", "00:00:00"),
    ],
)
def test_spans_are_written_as_slurm_does(seconds: int, short: str, full: str) -> None:
    assert (times.short(seconds), times.full(seconds)) == (short, full)


def test_sizes_and_moments() -> None:
    mebi = 2**20
    assert [times.size(each) for each in (None, 0, 100 * mebi, 4096 * mebi, 1536 * mebi)] == [
        "0",
        "0",
        "100M",
        "4G",
        "1536M",
    ]
    assert times.size(5 * 2**60) == "5120P"
    assert times.kibi(1025) == "2K"
    assert times.cpu(3.004) == "00:03.004"
    assert times.cpu(7200) == "02:00:00"
    assert times.whole_minutes(93_784) == 1564
    assert times.stamp(None, "N/A") == times.stamp(10**30, "N/A") == "N/A"


def test_formats_cut_pad_and_keep_what_stands_between(capsys: pytest.CaptureFixture[str]) -> None:
    fields: columns.Fields[str] = {"a": ("ALPHA", str), "b": ("BETA", lambda row: row * 2)}
    shown = columns.lines(columns.by_letters("squeue", "%3a|%.6b:%a", fields), ["xyz", "p"])
    assert shown == ["ALP|  BETA:ALPHA", "xyz|xyzxyz:xyz", "p  |    pp:p"]
    named = columns.lines(columns.by_names("squeue", "a:4,b:.5,A", {**fields, "a": ("ALPHA", str)}), ["xyz"])
    assert named == ["ALPH BETA" + "ALPHA".ljust(20), "xyz xyzxy" + "xyz".ljust(20)]
    assert columns.lines(columns.by_letters("squeue", "%@ %a %z", fields), ["x"]) == ["%@ ALPHA %z", "%@ x %z"]
    assert columns.by_names("squeue", "nope,a:x", fields) == []
    assert capsys.readouterr().err.splitlines() == [
        "squeue: error: Invalid job format specification: ",
        "squeue: error: Invalid job format specification: z",
        "squeue: error: Invalid job format specification: nope",
        "squeue: error: Invalid job format specification: a:x",
    ]


@given(st.text(max_size=40))
def test_no_format_is_a_traceback(text: str) -> None:
    columns.lines(columns.by_letters("squeue", text, squeue_fields.LETTERS), [])
    columns.lines(columns.by_names("squeue", text, squeue_fields.NAMED), [])


def test_ids_of_jobs_tasks_steps_and_lists() -> None:
    assert [str(ref) for ref in ask.refs(["17,18_3", "19_[1-2,5],n1:20", "21.batch"])] == [
        "17", "18_3", "19_1", "19_2", "19_5", "n1:20", "21",
    ]  # fmt: skip
    for bad in ("abc", "17_", "17_[3-1]", "-5", "17.0", "\x1b[31m"):
        with pytest.raises(ToolError) as caught:
            ask.refs([bad])
        assert "\x1b" not in str(caught.value)


def test_states_by_code_or_name() -> None:
    assert ask.states(["pd", "RUNNING", "OOM"]) == [JobState.PENDING, JobState.RUNNING, JobState.OUT_OF_MEMORY]
    assert ask.states(["pd", "all"]) is None
    assert ask.states(["SUSPENDED", "BF"]) == []
    with pytest.raises(KeyError):
        ask.states(["XX"])


def test_a_sentence_has_the_commands_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert argv.complain("sbatch", ToolError("no \x1b[31m script")) == 1
    assert argv.complain("squeue", ToolError("TOOL: what\nTry TOOL", code=255, bare=True)) == 255
    assert capsys.readouterr().err == "sbatch: error: no  script\nsqueue: what\nTry squeue\n"
