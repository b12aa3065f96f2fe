"""The script of a submission: what is one, which of its lines are directives, and which of them are wrong."""

from __future__ import annotations

import pytest

from agent.api.options import wrapped
from agent.jobs.script import split_words
from tests.fakes.submissions import NOW, parse, refusal, request

# --- the script -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("echo hi\n", "does not look like a job script"),
        (" #!/bin/sh\n", "does not look like a job script"),
        ("\ufeff#!/bin/sh\necho\n", "begins with a byte order mark"),
        ("#!\necho\n", "names no interpreter"),
        ("#!/bin/sh\r\necho\r\n", "DOS line breaks"),
        ("\x7fELF\x02\x01\x01\0\0", "binary file"),
        ("#!/bin/sh\necho \0\n", "binary file"),
        ("#!/bin/sh\n" + "#" * (10 * 2**20), "KiB long; the most is 512 KiB"),
        ("#!/bin/sh\n\ud800", "not UTF-8"),
    ],
    ids=[
        "empty",
        "blank",
        "no-shebang",
        "late-shebang",
        "bom",
        "bare-shebang",
        "dos",
        "elf",
        "nul",
        "10MB",
        "surrogate",
    ],
)
def test_what_is_no_script(script: str, said: str) -> None:
    error = refusal(script=script)
    assert said in str(error)
    assert error.field == "train.sh"
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" -J a # name", ["-J", "a"]),
        (" -t 9 #min", ["-t", "9"]),
        ("-J a", ["-J", "a"]),
        (" -J 'two words' -o \"a b\"", ["-J", "two words", "-o", "a b"]),
        (r" -J two\ words", ["-J", "two", "words"]),  # as sbatch: a blank outside quotes ends the word all the same
        (r" -J 'two\ words'", ["-J", "two words"]),
        (" -J a\u00a0b", ["-J", "a\u00a0b"]),
        (" -J a\v-t\f5", ["-J", "a", "-t", "5"]),
        (" -J a\\", ["-J", "a"]),
        (r" -J a\#b", ["-J", "a#b"]),
        (" -J 'a#b'", ["-J", "a#b"]),
        (" -J a#b", ["-J", "a"]),
        (" -J ''", ["-J", ""]),
        (r" -J 'it\'s'", ["-J", "it's"]),
        (' -J a"b c"d', ["-J", "ab cd"]),
        ("", []),
        ("\t-J\ta\t", ["-J", "a"]),
    ],
)
def test_words_of_a_directive(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_directives_end_at_the_first_command_only() -> None:
    script = "#!/bin/bash\n# a comment\n\n#SBATCH -J one\n  # another\n#SBATCH -t 5\ntrue\n#SBATCH --bogus\n"
    spec = parse(request(script=script))
    assert (spec.name, spec.time_limit_s) == ("one", 300)


@pytest.mark.parametrize(
    ("directive", "message"),
    [
        ("--bogus=1", "train.sh:3: '--bogus' is not an option of sbatch"),
        ("--jobname=x", "did you mean --job-name?"),
        ("-J", "train.sh:3: '-J' needs a value"),
        ("-J 'x", "train.sh:3: the quote ' is not closed"),
        ("nonsense", "train.sh:3: 'nonsense' is not expected here"),
        ("-G1 : -G2", "heterogeneous jobs need the cluster engine"),
        ("--time=soon", "train.sh:3: --time=soon is not a time limit"),
        ("hetjob", "heterogeneous jobs need the cluster engine"),
        ("-N 2", "train.sh:3: --nodes=2 needs the cluster engine"),
        ("-n4 --ntasks-per-node=2", "train.sh:3: --ntasks=4 with train.sh:3: --ntasks-per-node=2 needs the cluster"),
        ("--time-min=5", "train.sh:3: --time-min=5 is not supported"),
        ("--exclusive=user", "train.sh:3: --exclusive=user is not supported"),
        ("--export-file=x", "train.sh:3: --export-file=x is not supported"),
        ("--gpus-per-socket=1", "train.sh:3: --gpus-per-socket=1 is not supported"),
        ("-C a*2", "train.sh:3: --constraint=a*2 asks for a number of nodes with '*'"),
        ("-b soon", "train.sh:3: --begin=soon is not a time"),
        ("--deadline=now", "train.sh:3: --deadline=now is over already"),
        ("-b now+2hours --deadline=now+1hour", "--begin=now+2hours contradicts train.sh:3: --deadline=now+1hour"),
        ("-d afterwards:17", "train.sh:3: --dependency=afterwards:17 is not a dependency"),
        ("-a 5-1", "train.sh:3: --array=5-1 is not a list of tasks"),
        ("--wait", "train.sh:3: --wait is for the submitting command"),
        ("--parsable", "train.sh:3: --parsable is for the submitting command"),
        ("--test-only", "train.sh:3: --test-only is for the submitting command"),
        ("--wrap=true", "train.sh:3: --wrap=true is for the submitting command"),
        ("-G -1", "train.sh:3: --gpus=-1 is not a number of GPUs"),
        ("--mem=99999999999T", "train.sh:3: --mem=99999999999T is more memory than"),
        ("-J \x1b[31mred", r"train.sh:3: --job-name=\x1b[31mred holds a control"),
    ],
)
def test_a_bad_directive_is_named_with_its_line(directive: str, message: str) -> None:
    error = refusal("-J fine", directive)
    assert message in str(error)
    assert error.field == "train.sh:3"
    assert str(error).isprintable()


def test_all_that_is_not_supported_is_named_at_once() -> None:
    error = refusal("--overcommit", "-J fine --tmp=1G", flags=("--hint=compute_bound",))
    assert str(error) == (
        "train.sh:2: --overcommit, train.sh:3: --tmp=1G, --hint=compute_bound are not supported by this node's engine; "
        "remove them"
    )
    assert error.field == "train.sh:2"


def test_a_script_whose_name_can_be_no_jobs_name_may_be_named_otherwise() -> None:
    assert str(refusal(script_name="a\tb.sh")).endswith("or name the job: -J NAME")
    assert parse(request("-J fine", script_name="a\tb.sh")).name == "fine"


def test_a_bad_flag_and_a_bad_variable_are_named() -> None:
    assert refusal(flags=("--gres=gpu:x:y",)).field == "--gres"
    assert refusal(flags=("-G", "-1")).field == "--gpus"
    assert refusal(flags=("--bogus",)).field == "--bogus"
    assert refusal(flags=("-G1", "extra")).field == "$.flags[1]"
    error = refusal(env={"SBATCH_TIMELIMIT": "soon"})
    assert error.field == "SBATCH_TIMELIMIT"
    assert str(error).startswith("SBATCH_TIMELIMIT=soon is not a time limit")
    assert refusal(env={"SBATCH_HINT": "compute_bound"}).field == "SBATCH_HINT"


def test_a_value_overruled_is_not_read() -> None:
    assert parse(request("-t soon", "-t 5")).time_limit_s == 300


def test_begin_in_the_past_says_nothing() -> None:
    assert parse(request("-b 2020-01-01")).begin_at is None
    assert parse(request("-b now")).begin_at is None
    assert parse(request("-b now+1")).begin_at == NOW + 1


def test_priority_0_holds() -> None:
    spec = parse(request("--priority=0"))
    assert (spec.held, spec.priority) == ("user", None)


@pytest.mark.parametrize("option", ["array", "dependency", "constraint", "licenses", "mail-user"])
def test_what_sbatch_takes_for_nothing_when_empty(option: str) -> None:
    assert parse(request(flags=(f"--{option}=",))) == parse(request())


def test_arrays_have_files_of_their_own() -> None:
    assert parse(request("-a 1-2")).output == "slurm-%A_%a.out"
    assert parse(request("-a 1-2 -o x")).output == "x"


@pytest.mark.parametrize("mark", ["#PBS -N name", "#BSUB -J name"])
def test_directives_of_other_systems_are_not_passed_over(mark: str) -> None:
    script = f"#!/bin/sh\n{mark}\ntrue\n{mark}\n"
    error = refusal(script=script)
    assert error.field == "train.sh:2"
    assert "write #SBATCH, or submit with --ignore-pbs" in str(error)
    assert parse(request(script=script, flags=("--ignore-pbs",))).name == "train.sh"
    assert parse(request(script=f"#!/bin/sh\ntrue\n{mark}\n")).name == "train.sh"


def test_flags_for_the_command_come_along() -> None:
    spec = parse(request(flags=("--parsable", "-Q", "-v", "--wait")))
    assert spec == parse(request())
    assert parse(request("-Q -v")) == spec
    assert parse(request(flags=("--test-only",))).test_only is True


def test_a_wrapped_command_is_the_script() -> None:
    script = wrapped("sleep 1")
    spec = parse(request(script=script, script_name="wrap", flags=("--wrap", "sleep 1")))
    assert spec.name == "wrap"
    assert refusal(script=script, flags=("--wrap", "rm -r x")).field == "--wrap"


@pytest.mark.parametrize(("value", "requeue"), [("", True), ("yes", True), ("1", True), ("0", False), ("no", False)])
def test_a_variable_of_an_option_without_value(value: str, requeue: bool) -> None:
    assert parse(request(env={"SBATCH_REQUEUE": value})).requeue is requeue


def test_variables_that_sbatch_does_not_read_are_none() -> None:
    env = {"SBATCH_DEPENDENCY": "bogus", "SBATCH_BEGIN": "bogus", "SBATCH_COMMENT": "x", "SBATCH_NTASKS": "5"}
    assert parse(request(env=env)) == parse(request())
