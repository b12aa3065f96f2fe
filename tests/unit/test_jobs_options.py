"""sbatch's command line: which words are options, where the script stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.options import OPTIONS, OptionError, SplitArgv, Takes, find, scan, split_argv, wrapped


def values(*words: str) -> list[tuple[str, str | None]]:
    flags, used = scan(words)
    assert used == len(words)
    return [(flag.option.long, flag.value) for flag in flags]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-G2"], [("gpus", "2")]),
        (["-G", "2"], [("gpus", "2")]),
        (["-J", "name"], [("job-name", "name")]),
        (["-HJname"], [("hold", None), ("job-name", "name")]),
        (["-HQJ", "name"], [("hold", None), ("quiet", None), ("job-name", "name")]),
        (["--mem=1G"], [("mem", "1G")]),
        (["--mem", "1G"], [("mem", "1G")]),
        (["--mem="], [("mem", "")]),
        (["--job-name=a=b"], [("job-name", "a=b")]),
        (["--time", "-1"], [("time", "-1")]),
        (["-t", "--", "--requeue"], [("time", "--"), ("requeue", None)]),
        (["--nice"], [("nice", None)]),
        (["--nice=5"], [("nice", "5")]),
        (["-k"], [("no-kill", None)]),
        (["-koff"], [("no-kill", "off")]),
        (["--tasks=1"], [("ntasks-per-node", "1")]),  # as sbatch: cut short, and no word of its own,
        (["--job=x"], [("job-name", "x")]),
        (["--out", "x"], [("output", "x")]),
        (["--requ"], [("requeue", None)]),
    ],
)
def test_options_are_read_as_getopt_long_does(words: list[str], expected: list[tuple[str, str | None]]) -> None:
    assert values(*words) == expected


def test_an_optional_value_is_never_the_next_word() -> None:
    assert split_argv(["--exclusive", "user"]) == SplitArgv(flags=("--exclusive",), script="user", args=())


def test_an_exact_name_wins_over_longer_ones() -> None:
    assert find("mem").long == "mem"
    assert find("time").long == "time"
    assert find("gpus").long == "gpus"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.sh"], SplitArgv(flags=(), script="train.sh", args=())),
        (["-G", "2", "train.sh", "-G", "4"], SplitArgv(flags=("-G", "2"), script="train.sh", args=("-G", "4"))),
        (["--mem", "1G", "a b.sh", ""], SplitArgv(flags=("--mem", "1G"), script="a b.sh", args=("",))),
        (["-J", "train.sh"], SplitArgv(flags=("-J", "train.sh"), script=None, args=())),
        (["-G2", "--", "-odd.sh", "x"], SplitArgv(flags=("-G2",), script="-odd.sh", args=("x",))),
        (["-t5", "-"], SplitArgv(flags=("-t5",), script="-", args=())),
        ([], SplitArgv(flags=(), script=None, args=())),
        (["--requeue", "s.sh", "--", "x"], SplitArgv(flags=("--requeue",), script="s.sh", args=("--", "x"))),
    ],
)
def test_the_script_is_the_first_word_that_is_no_option(words: list[str], expected: SplitArgv) -> None:
    assert split_argv(words) == expected


@pytest.mark.parametrize(
    ("words", "word", "message"),
    [
        (["--jobname=x"], "--jobname", "did you mean --job-name?"),
        (["--gpu=2"], "--gpu", "could be --gpus, --gpus-per-node, --gpus-per-task, --gpu-bind or 2 more"),
        (["--no"], "--no", "write it out"),
        (["--frobnicate"], "--frobnicate", "is not an option of sbatch"),
        (["-Z"], "-Z", "'-Z' is not an option of sbatch"),
        (["-HZ"], "-HZ", "'-Z' (in '-HZ') is not an option"),
        (["-requeue"], "-requeue", "did you mean --requeue?"),
        (["--mem"], "--mem", "needs a value: --mem=VALUE"),
        (["-J"], "-J", "needs a value: --job-name=VALUE"),
        (["--requeue=yes"], "--requeue=yes", "takes no value"),
        (["--=x"], "--", "is not an option"),
    ],
)
def test_a_bad_word_is_named(words: list[str], word: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        split_argv([*words, "s.sh"] if "needs a value" not in message else words)
    assert caught.value.word == word
    assert message in str(caught.value)


def test_the_table_is_consistent() -> None:
    names = [option.long for option in OPTIONS]
    letters = [option.short for option in OPTIONS if option.short]
    variables = [option.variable for option in OPTIONS if option.variable]
    for column in (names, letters, variables):
        assert len(set(column)) == len(column)
    assert not [option for option in OPTIONS if (option.client or option.moot) and not option.honoured]
    assert not [option for option in OPTIONS if option.client and option.moot]


def test_what_is_refused_is_exactly_this() -> None:
    """So that an option becomes honoured, or stops being so, on purpose only."""
    assert {option.long for option in OPTIONS if not option.honoured} == {
        *("acctg-freq", "batch", "bb", "bbf", "cluster-constraint", "clusters", "container", "container-id"),
        *("core-spec", "cores-per-socket", "cpu-freq", "distribution", "export-file", "extra", "extra-node-info"),
        *("get-user-env", "gid", "gpu-bind", "gpu-freq", "gpus-per-socket", "gres-flags", "help", "hint"),
        *("mcs-label", "mem-bind", "mincpus", "network", "nodefile", "ntasks-per-core", "ntasks-per-socket"),
        *("oom-kill-step", "overcommit", "power", "prefer", "profile", "propagate", "reboot", "resv-ports"),
        *("segment", "sockets-per-node", "stepmgr", "thread-spec", "threads-per-core", "time-min", "tmp"),
        *("tres-bind", "tres-per-task", "uid", "usage", "version"),
    }


def test_what_is_honoured_by_doing_nothing_has_a_reason() -> None:
    moot = {option.long: option.moot for option in OPTIONS if option.moot}
    assert set(moot) == {
        *("contiguous", "delay-boot", "ignore-pbs", "no-kill", "oversubscribe", "spread-job", "switches"),
        *("use-min-nodes", "wait-all-nodes"),
    }


def test_the_script_of_a_wrapped_command() -> None:
    assert wrapped("echo hi").splitlines() == [
        "#!/bin/sh",
        "# This script was created by sbatch --wrap.",
        "",
        "echo hi",
    ]


@given(
    st.lists(st.one_of(st.text(max_size=8), st.sampled_from(["-G", "-H", "--mem", "--", "-", "--nice"])), max_size=6)
)
def test_splitting_keeps_every_word(words: list[str]) -> None:
    try:
        split = split_argv(words)
    except OptionError:
        return
    rebuilt = [*split.flags, *([] if split.script is None else [split.script]), *split.args]
    assert rebuilt == words or [*split.flags, "--", *rebuilt[len(split.flags) :]] == words


@given(st.sampled_from([option for option in OPTIONS if option.takes is Takes.REQUIRED]), st.text(max_size=10))
def test_every_way_to_give_a_value_means_the_same(option: object, value: str) -> None:
    long = str(option)
    assert [flag.value for flag in scan([f"{long}={value}"])[0]] == [value]
    assert [flag.value for flag in scan([long, value])[0]] == [value]
