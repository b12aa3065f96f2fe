"""A submission becomes a job, or an error that says where."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.options import OPTIONS
from agent.api.types import SubmitRequest
from agent.jobs.errors import SpecError
from agent.jobs.parse import check_fits
from agent.jobs.spec import ArraySpec, Dependency, DependencySpec, Export, JobSpec, WarnSignal
from tests.fakes.submissions import NOW, parse, refusal, request


def test_defaults() -> None:
    assert parse(request()) == JobSpec(
        name="train.sh",
        script_name="train.sh",
        script_path="/home/ada/train.sh",
        submit_dir="/home/ada",
        work_dir="/home/ada",
    )


def test_everything_honoured() -> None:
    spec = parse(
        request(
            "-J nm --gres=gpu:h100:2 -c 4",
            "--mem 16G -t 1-0 --requeue",
            "-o out/%j.out -e err/%j.err --open-mode=append",
            "-D /data --export=ALL,SEED=7 -N1 -n 2 --input=in.txt",
            "--account=lab -p gpu,cpu -q high --reservation=course --nice=5 --priority=7 --hold",
            "-b now+1hour --deadline 2026-12-24T08:00 --dependency=after:17+5,afterok:18_3 --kill-on-invalid-dep=yes",
            "-a 0-9:3%2 --signal=B:USR1@300 --exclusive -C h100&nvlink -w n[1-2] -x n3",
            "--mail-type=ALL --mail-user=ada@example.org --comment='first try' --wckey=w -L matlab:2,ansys",
            args=("--lr", "0.1"),
            umask=0o027,
        )
    )
    assert spec == JobSpec(
        name="nm",
        script_name="train.sh",
        script_path="/home/ada/train.sh",
        args=("--lr", "0.1"),
        submit_dir="/home/ada",
        work_dir="/data",
        umask=0o027,
        gpus=2,
        gpu_type="h100",
        cpus_per_task=4,
        cpus_said=True,
        tasks=2,
        memory_bytes=16 * 2**30,
        time_limit_s=86_400,
        time_said=True,
        output="out/%j.out",
        error="err/%j.err",
        input="in.txt",
        open_mode="append",
        requeue=True,
        export=Export(values={"SEED": "7"}),
        exclusive=True,
        features=("h100", "nvlink"),
        nodelist=("n1", "n2"),
        exclude=("n3",),
        begin_at=NOW + 3600,
        deadline_at=1_798_099_200,
        dependency=DependencySpec(
            conditions=(
                Dependency(kind="after", job_id=17, delay_s=300),
                Dependency(kind="afterok", job_id=18, task_id=3),
            )
        ),
        kill_on_invalid_dep=True,
        held="user",
        priority=7,
        nice=5,
        account="lab",
        partition="gpu,cpu",
        qos="high",
        reservation="course",
        signal=WarnSignal(number=10, before_s=300, batch_only=True),
        mail_types=("INVALID_DEPEND", "BEGIN", "END", "FAIL", "REQUEUE", "STAGE_OUT"),
        mail_user="ada@example.org",
        comment="first try",
        wckey="w",
        licenses=(("matlab", 2), ("ansys", 1)),
        array=ArraySpec(tasks=(0, 3, 6, 9), limit=2, text="0,3,6,9%2"),
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
    ("account", "account", ["a", "b", "c"], ["a", "b", "c"]),
    ("partition", "partition", ["a", "b,c", "c"], ["a", "b,c", "c"]),
    ("qos", "qos", ["a", "b", "c"], ["a", "b", "c"]),
    ("constraint", "features", ["a", "b", "b&c"], [("a",), ("b",), ("b", "c")]),
    ("reservation", "reservation", ["a", "b", "c"], ["a", "b", "c"]),
    ("wckey", "wckey", ["a", "b", "c"], ["a", "b", "c"]),
    ("gpus-per-node", "gpus", ["1", "2", "3"], [1, 2, 3]),
    ("mem-per-cpu", "memory_bytes", ["1K", "1024K", "2"], [2**20, 2**20, 2**21]),
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


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_sweep_is_an_array_of_its_combinations() -> None:
    spec = parse(request(sweep={"lr": ("1e-3", "1e-4"), "bs": ("16", "32", "64")}))
    assert spec.array == ArraySpec(tasks=(0, 1, 2, 3, 4, 5), text="0-5")
    assert spec.output == "slurm-%A_%a.out"
    assert [spec.sweep_values(task) for task in (0, 1, 2, 3, 5)] == [
        {"lr": "1e-3", "bs": "16"},
        {"lr": "1e-3", "bs": "32"},
        {"lr": "1e-3", "bs": "64"},
        {"lr": "1e-4", "bs": "16"},
        {"lr": "1e-4", "bs": "64"},
    ]


def test_small_letters_are_other_variables() -> None:
    assert parse(request(sweep={"env": ("CartPole",), "path": ("a",), "gpu_frac": ("1",)})).array is not None


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"PATH": ("x",)}, "would override"),
        ({"TMPDIR": ("x",)}, "would override"),
        ({"LD_PRELOAD": ("x",)}, "would override"),
        ({"HOME": ("x",)}, "would override"),
        ({"SLURM_JOB_ID": ("x",)}, "would override"),
        ({"CUDA_VISIBLE_DEVICES": ("x",)}, "would override"),
        ({"PYTHONPATH": ("x",)}, "would override"),
        ({"BASH_ENV": ("x",)}, "would override"),
        ({"JOB_DIR": ("x",)}, "would override"),
        ({"1a": ("x",)}, "is no name"),
        ({"a-b": ("x",)}, "is no name"),
        ({"": ("x",)}, "is no name"),
        ({"\x1b[2J": ("x",)}, "is no name"),
        ({"lr": ()}, "has no values"),
        ({"lr": ("1", "1")}, "has a value twice"),
        ({"lr": ("a\nb",)}, "control character"),
        ({"lr": ("\0",)}, "control character"),
        ({"lr": ("\ud800",)}, "control character"),
        ({"lr": ("x" * 131_072,)}, "is longer than"),
        ({name: tuple(map(str, range(100))) for name in "abcd"}, "has 100000000 combinations"),
    ],
)
def test_what_is_no_sweep(sweep: dict[str, tuple[str, ...]], said: str) -> None:
    error = refusal(sweep=sweep)
    assert said in str(error)
    assert error.field == "$.sweep"
    assert str(error).isprintable()


def test_a_sweep_and_an_array_contradict_each_other() -> None:
    error = refusal("-a 0-3", sweep={"lr": ("1",)})
    assert str(error).startswith("train.sh:2: --array=0-3 contradicts the sweep")


# --- what the node has ------------------------------------------------------------------------------------------------


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
        (("-n", "33", "-c", "2"), "asks for 66 CPUs; n1 has 64"),
        (("--gres=shard:1",), None),
        ((), None),
    ],
)
def test_what_the_node_cannot_ever_run(flags: tuple[str, ...], sentence: str | None) -> None:
    gpus = [(f"GPU-{index}", "NVIDIA H100 80GB" if index < 4 else "NVIDIA A100") for index in range(8)]
    assert check_fits(parse(request(flags=flags)), gpus, "n1", cpu_count=64) == sentence


def test_a_node_without_gpus_says_so() -> None:
    assert check_fits(parse(request("-G1")), [], "n1") == "asks for 1 GPU; n1 has none"
    assert check_fits(parse(request("--gres=shard:2")), [], "n1") == "asks for 2 shards of a GPU; n1 has no GPU"


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


HOSTILE = {
    "many flags in a line": "#SBATCH " + "-H " * 170_000,
    "many lines": "#SBATCH -H\n" * 45_000,
    "many comments": "#\n" * 250_000,
    "long name": "#SBATCH -J " + "'a'" * 170_000,
    "long list of nodes": "#SBATCH -w " + "n[1-9]," * 70_000,
    "brackets": "#SBATCH -w " + "n[1," * 100_000,
    "long dependency": "#SBATCH -d afterok" + ":1" * 200_000,
    "long array": "#SBATCH -a " + "1," * 200_000,
    "array over and over": "#SBATCH -a " + "0-999999," * 3000,
    "long licences": "#SBATCH -L " + "a," * 200_000,
    "long time": "#SBATCH -b '" + "noon " * 90_000 + "'",
    "long gres": "#SBATCH --gres=" + "gpu:1," * 80_000,
    "long signal": "#SBATCH --signal=" + "B:" * 200_000,
    "long features": "#SBATCH -C " + "a&" * 200_000,
    "long export": "#SBATCH --export=" + "A=1," * 100_000,
    "long mail": "#SBATCH --mail-type=" + "END," * 100_000,
    "backslashes": "#SBATCH -J " + "\\" * 500_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_submission_keeps_the_agent_busy(name: str) -> None:
    before = time.process_time()
    try:
        parse(request(script=f"#!/bin/sh\n{HOSTILE[name][:520_000]}\n"))
    except SpecError as error:
        assert len(str(error)) < 300
    assert time.process_time() - before < 2


@given(st.text())
def test_any_text_as_script_is_read_or_refused(script: str) -> None:
    try:
        parse(request(script=script))
    except SpecError as error:
        assert error.field


def test_the_name_that_a_job_was_told_of_its_node_is_the_nodes() -> None:
    """Where the node's name cannot be looked up, `sbatch -w $SLURM_JOB_NODELIST` names the machine."""
    inside = {"SLURM_JOB_NODELIST": "box.example.org", "SLURMD_NODENAME": "n1"}
    for asked in (
        request("-w box.example.org", env=inside),
        request(env=inside, script="#!/bin/sh\n#SBATCH --nodelist=box.example.org\n"),
        request("-w box.example.org,n1", env=inside),
    ):
        assert parse(asked).nodelist == ("n1",)
    assert parse(request("-x box.example.org", env=inside)).exclude == ("n1",)
    assert parse(request("-w n2", env=inside)).nodelist == ("n2",)
    assert parse(request("-w box.example.org")).nodelist == ("box.example.org",)


@pytest.mark.parametrize("name", ["stdin", "sbatch"])
def test_a_script_without_a_file_is_called_standard_input_and_its_job_as_sbatch_calls_it(name: str) -> None:
    told = str(refusal(script="echo hi\n", script_name=name))
    assert told.startswith("standard input does not look like a job script: ")
    assert str(refusal("--time=x", script_name=name))[:17] == "standard input:2:"
    assert str(refusal(script="echo hi\n", script_name=f"/home/ada/{name}")).startswith(f"{name} does not look ")
    assert parse(request(script_name=name)).name == name
