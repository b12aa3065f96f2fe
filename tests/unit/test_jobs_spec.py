"""A submission becomes a job, or an error that says where."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.options import OPTIONS
from agent.api.types import SubmitRequest
from agent.jobs.errors import SpecError
from agent.jobs.parse import check_fits, parse
from agent.jobs.script import split_words
from agent.jobs.spec import Export, JobSpec


def request(*directives: str, **fields: Any) -> SubmitRequest:
    script = "\n".join(["#!/bin/bash", *(f"#SBATCH {each}" for each in directives), "true", ""])
    return SubmitRequest(**{"script": script, "script_name": "/home/ada/train.sh", "work_dir": "/home/ada", **fields})


def refusal(*directives: str, **fields: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(request(*directives, **fields))
    return caught.value


def test_defaults() -> None:
    assert parse(request()) == JobSpec(
        name="train.sh", script_name="train.sh", submit_dir="/home/ada", work_dir="/home/ada"
    )


def test_everything_honoured() -> None:
    spec = parse(
        request(
            "-J nm --gres=gpu:h100:2 -c 4",
            "--mem 16G -t 1-0 --requeue",
            "-o out/%j.out -e err/%j.err --open-mode=append",
            "-D /data --export=ALL,SEED=7 -N1 -n 1-1",
            args=("--lr", "0.1"),
            umask=0o027,
        )
    )
    assert spec == JobSpec(
        name="nm",
        script_name="train.sh",
        args=("--lr", "0.1"),
        submit_dir="/home/ada",
        work_dir="/data",
        umask=0o027,
        gpus=2,
        gpu_type="h100",
        cpus_per_task=4,
        cpus_said=True,
        memory_bytes=16 * 2**30,
        time_limit_s=86_400,
        output="out/%j.out",
        error="err/%j.err",
        open_mode="append",
        requeue=True,
        export=Export(values={"SEED": "7"}),
    )


def test_a_spec_survives_its_json() -> None:
    spec = parse(request("-J 実験 -G2 --export=A,B='x,y'", args=("\n", "é")))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=JobSpec) == spec


# --- precedence -------------------------------------------------------------------------------------------------------

PRECEDENCE = [
    ("job-name", "name", ["a", "b", "c"], ["a", "b", "c"]),
    ("time", "time_limit_s", ["1", "2", "3"], [60, 120, 180]),
    ("gres", "gpus", ["gpu:1", "gpu:2", "gpu:3"], [1, 2, 3]),
    ("gpus", "gpus", ["1", "2", "3"], [1, 2, 3]),
    ("mem", "memory_bytes", ["1K", "1024K", "2"], [2**20, 2**20, 2**21]),
    ("output", "output", ["a", "b", "none"], ["a", "b", "/dev/null"]),
    ("error", "error", ["a", "b", "c"], ["a", "b", "c"]),
    ("open-mode", "open_mode", ["a", "t", "a"], ["append", "truncate", "append"]),
]


@pytest.mark.parametrize(("option", "field", "texts", "meanings"), PRECEDENCE)
def test_flag_over_variable_over_script(option: str, field: str, texts: list[str], meanings: list[Any]) -> None:
    variable = next(each.variable for each in OPTIONS if each.long == option)
    assert variable is not None
    script = f"--{option}={texts[0]}"
    assert getattr(parse(request(script)), field) == meanings[0]
    env = {variable: texts[1]}
    assert getattr(parse(request(script, env=env)), field) == meanings[1]
    assert getattr(parse(request(script, env=env, flags=(f"--{option}", texts[2]))), field) == meanings[2]


def test_export_by_variable() -> None:
    assert parse(request(env={"SBATCH_EXPORT": "NONE"})).export == Export(everything=False)


@pytest.mark.parametrize(
    ("directives", "env", "flags", "requeue"),
    [
        ([], {}, (), False),
        (["--requeue"], {}, (), True),
        (["--requeue", "--no-requeue"], {}, (), False),
        (["--no-requeue"], {"SBATCH_REQUEUE": ""}, (), True),
        (["--requeue"], {"SBATCH_NO_REQUEUE": "1"}, (), False),
        (["--requeue"], {"SBATCH_NO_REQUEUE": "1"}, ("--requeue",), True),
        ([], {"SBATCH_REQUEUE": "1"}, ("--no-requeue",), False),
    ],
)
def test_requeue_is_what_was_said_last(
    directives: list[str], env: dict[str, str], flags: tuple[str, ...], requeue: bool
) -> None:
    assert parse(request(*directives, env=env, flags=flags)).requeue is requeue


def test_default_time() -> None:
    assert parse(request(), default_time_s=600).time_limit_s == 600
    assert parse(request("-t 0"), default_time_s=600).time_limit_s is None


def test_a_relative_folder_is_taken_from_where_the_user_stood() -> None:
    assert parse(request("-D runs/1")).work_dir == "/home/ada/runs/1"


def test_variables_of_other_programs_are_left_alone() -> None:
    env = {"SBATCH_SOMETHING_ELSE": "x", "SLURM_JOB_ID": "3", "PATH": "/bin"}
    assert parse(request(env=env)).name == "train.sh"


# --- the script -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("echo hi\n", "does not look like a job script"),
        (" #!/bin/sh\n", "does not look like a job script"),
        ("#!\necho\n", "names no interpreter"),
        ("#!/bin/sh\r\necho\r\n", "DOS line breaks"),
        ("\x7fELF\x02\x01\x01\0\0", "binary file"),
        ("#!/bin/sh\necho \0\n", "binary file"),
        ("#!/bin/sh\n" + "#" * (10 * 2**20), "KiB long; the most is 512 KiB"),
        ("#!/bin/sh\n\ud800", "not UTF-8"),
    ],
    ids=["empty", "blank", "no-shebang", "late-shebang", "bare-shebang", "dos", "elf", "nul", "10MB", "surrogate"],
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
        (r" -J two\ words", ["-J", "two words"]),
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
        ("-N 2", "train.sh:3: --nodes=2 needs the cluster engine"),
        ("-n4", "train.sh:3: --ntasks=4 needs the cluster engine"),
        ("--exclusive", "train.sh:3: --exclusive is not supported"),
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
    error = refusal("--exclusive", "-J fine -p gpu", flags=("--qos=high",))
    assert str(error) == (
        "train.sh:2: --exclusive, train.sh:3: --partition=gpu, --qos=high are not supported by this node's engine; "
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
    assert refusal(env={"SBATCH_PARTITION": "gpu"}).field == "SBATCH_PARTITION"


def test_a_value_overruled_is_not_read() -> None:
    assert parse(request("-t soon", "-t 5")).time_limit_s == 300


def test_gpus_said_twice_must_agree() -> None:
    assert parse(request("--gres=gpu:2", "-G2")).gpus == 2
    error = refusal("--gres=gpu:2", flags=("-G4",))
    assert str(error) == "--gpus=4 contradicts train.sh:2: --gres=gpu:2; say how many GPUs once"


# --- the rest of a request --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"work_dir": "runs"}, "$.work_dir"),
        ({"work_dir": ""}, "$.work_dir"),
        ({"work_dir": "/a\0b"}, "$.work_dir"),
        ({"work_dir": "/" + "x" * 5000}, "$.work_dir"),
        ({"work_dir": "/\ud800"}, "$.work_dir"),
        ({"script_name": ""}, "$.script_name"),
        ({"script_name": "a\0"}, "$.script_name"),
        ({"script_name": "\x1b[2J.sh"}, "$.script_name"),
        ({"script_name": "x" * 300}, "$.script_name"),
        ({"args": ("ok", "a\0b")}, "$.args[1]"),
        ({"args": ("x" * 131_072,)}, "$.args[0]"),
        ({"args": ("\ud800",)}, "$.args[0]"),
        ({"env": {"A": "\0"}}, "$.env"),
        ({"env": {"A=B": "1"}}, "$.env"),
        ({"env": {"": "1"}}, "$.env"),
        ({"env": {"A": "x" * 131_072}}, "$.env"),
    ],
)
def test_what_could_not_be_executed_is_refused(fields: dict[str, Any], field: str) -> None:
    error = refusal(**fields)
    assert error.field == field
    assert str(error).isprintable()
    assert len(str(error)) < 300


def test_hostile_arguments_pass_unchanged() -> None:
    args = ("$HOME", "$(id)", "%j", "a\nb", "'", "--", "")
    assert parse(request(args=args)).args == args


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("-G8",), None),
        (("-G9",), "asks for 9 GPUs; n1 has 8"),
        (("--gres=gpu:h100:4",), None),
        (("--gres=gpu:h100:5",), "asks for 5 GPUs of type h100; n1 has 4 (NVIDIA A100, NVIDIA H100 80GB)"),
        (("--gres=gpu:b200:1",), "asks for 1 GPU of type b200; n1 has none (NVIDIA A100, NVIDIA H100 80GB)"),
        (("-c", "64"), None),
        (("-c", "65"), "asks for 65 CPUs; n1 has 64"),
        ((), None),
    ],
)
def test_what_the_node_cannot_ever_run(flags: tuple[str, ...], sentence: str | None) -> None:
    gpus = [(f"GPU-{index}", "NVIDIA H100 80GB" if index < 4 else "NVIDIA A100") for index in range(8)]
    assert check_fits(parse(request(flags=flags)), gpus, "n1", cpu_count=64) == sentence


def test_a_node_without_gpus_says_so() -> None:
    assert check_fits(parse(request("-G1")), [], "n1") == "asks for 1 GPU; n1 has none"


# --- never anything but a SpecError -----------------------------------------------------------------------------------

words = st.one_of(
    st.text(max_size=12),
    st.builds(lambda option, value: f"{option}={value}", st.sampled_from(OPTIONS), st.text(max_size=8)),
    st.builds(lambda option, value: f"-{option.short or 'Z'}{value}", st.sampled_from(OPTIONS), st.text(max_size=5)),
)


@given(
    lines=st.lists(st.one_of(st.text(), words.map(lambda word: f"#SBATCH {word}")), max_size=5),
    flags=st.lists(words, max_size=4),
    env=st.dictionaries(
        st.one_of(st.text(max_size=5), st.sampled_from([o.variable for o in OPTIONS if o.variable])),
        st.text(max_size=8),
    ),
    work_dir=st.one_of(st.just("/x"), st.text()),
    name=st.one_of(st.just("s.sh"), st.text()),
)
def test_any_submission_is_read_or_refused(
    lines: list[str], flags: list[str], env: dict[str, str], work_dir: str, name: str
) -> None:
    script = "\n".join(["#!/bin/sh", *lines])
    try:
        spec = parse(SubmitRequest(script=script, script_name=name, flags=tuple(flags), env=env, work_dir=work_dir))
    except SpecError as error:
        assert error.message
        assert error.field
    else:
        assert msgspec.json.decode(msgspec.json.encode(spec), type=JobSpec) == spec
        assert spec.name.isprintable()
        assert spec.work_dir.startswith("/")


@given(st.text())
def test_any_text_as_script_is_read_or_refused(script: str) -> None:
    try:
        parse(request(script=script))
    except SpecError as error:
        assert error.field
