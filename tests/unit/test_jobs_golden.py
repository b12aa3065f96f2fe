"""The parser against recorded answers of real sbatch (Slurm 22.05), case by case.

Every recorded case belongs to one of three sets, and the sets together must be the whole file:
HONOURED: sbatch accepted it, and we give the same answer;
REFUSED: sbatch refused it for a reason that holds here too, and so do we;
OUTSIDE: it uses an option that this version does not honour: we refuse it naming the option and its line, whatever
sbatch said.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.api.types import SubmitRequest
from agent.jobs import environ, grammar
from agent.jobs.errors import SpecError
from agent.jobs.parse import parse
from agent.jobs.spec import JobSpec
from tests.fakes.slurm_words import format_memory, format_time_limit

GOLDEN = {
    case["case"]: case
    for case in map(json.loads, (Path(__file__).parents[1] / "data" / "sbatch-golden.jsonl").read_text().splitlines())
}
SITE_DEFAULT_TIME_S = 600
"""The recorded cluster's DefaultTime; ours is `jobs.default_time_s`."""

HONOURED = {
    "plain",
    "env-beats-script",
    "env-SBATCH_TIMELIMIT=7",
    "after-first-command",
    "leading-space",
    "trailing-comment",
    "lower-case",
    "last-wins",
    "time-90",
    "time-0:0",
    "time-2-12",
    "time-1-2:3:4",
    "time-UNLIMITED",
    "mem-512",
    "mem-1T",
    "gpu --gres=gpu:h100:2",
    "gpu --gres=gpu:a100:2",
    "gpu --gres=gpu:9",
    "gpu -G2",
    "gpu --gpus=h100:2",
    "gpu --gres=none",
    "cpu -c 17",
    "out-%x-%j.out",
    "out-logs/%A_%a.out",
    "out-%5j.out",
    "opt --export=NONE",
}
REFUSED = {"crlf": "DOS line breaks"}
OUTSIDE = {
    "several-on-a-line": "--nodes=2",
    "--mem-per-cpu=1G": "--mem-per-cpu=1G",
    "cpu -N2 -n4": "--nodes=2",
    "cpu -N 1-2": "--nodes=1-2",
    "cpu --ntasks-per-node=2": "--ntasks-per-node=2",
    "cpu -n 100": "--ntasks=100",
    "array-1-5": "--array=1-5",
    "array-1-10:3": "--array=1-10:3",
    "array-5-1": "--array=5-1",
    "array-1-20000": "--array=1-20000",
    "dep-after:ID+5": "--dependency=after:ID+5",
    "dep-afterok:ID,afternotok:ID": "--dependency=afterok:ID,afternotok:ID",
    "dep-singleton": "--dependency=singleton",
    "dep-aftersometime:ID": "--dependency=aftersometime:ID",
    "signal-USR1": "--signal=USR1",
    "signal-USR1@60": "--signal=USR1@60",
    "signal-10@120": "--signal=10@120",
    "signal-R:USR1": "--signal=R:USR1",
    "begin-now+1hour": "--begin=now+1hour",
    "begin-midnight": "--begin=midnight",
    "begin-soon": "--begin=soon",
    "opt --nice=100": "--nice=100",
    "opt --exclusive": "--exclusive",
    "opt --mail-type=END,FAIL": "--mail-type=END,FAIL",
    "opt --mail-type=SOMETIMES": "--mail-type=SOMETIMES",
    "opt -p nowhere": "--partition=nowhere",
    "opt --qos=high": "--qos=high",
    "opt --account=lab": "--account=lab",
    "opt --licenses=matlab:2": "--licenses=matlab:2",
    "opt --licenses=nolic:1": "--licenses=nolic:1",
    "opt --reservation=none": "--reservation=none",
    "opt -C fast": "--constraint=fast",
    "opt -x n1": "--exclude=n1",
}


def submit(case: dict[str, Any]) -> JobSpec:
    variable = re.fullmatch(r"env-(SBATCH_\w+)=(.*)", case["case"])
    request = SubmitRequest(
        script=case["script"],
        script_name="s.sh",
        flags=tuple(case["cli"].split()),
        env={variable[1]: variable[2]} if variable else {},
        work_dir="/DIR",
    )
    return parse(request, default_time_s=SITE_DEFAULT_TIME_S)


def answer(spec: JobSpec, case: str) -> dict[str, str]:
    """The spec in scontrol's words."""
    names = environ.pattern_names(spec, job_id=4711, user="ada", node="n1")
    # The recorded scontrol shows a pattern with a width as it stands; the job's file has it filled in, see below.
    shown = {"StdOut": f"{spec.work_dir}/{spec.output}"} if case == "out-%5j.out" else {}
    said = {
        "JobName": spec.name,
        "TimeLimit": format_time_limit(spec.time_limit_s),
        "NumNodes": "1",
        "NumTasks": "1",
        "CPUs/Task": str(spec.cpus_per_task),
        "StdOut": shown.get("StdOut", environ.output_path(spec, names)),
        "StdErr": shown.get("StdOut", environ.error_path(spec, names)),
        "WorkDir": spec.work_dir,
    }
    if spec.memory_bytes is not None:
        said["MinMemoryNode"] = format_memory(spec.memory_bytes)
    return said


def gpus(recorded: dict[str, str]) -> tuple[int, str | None]:
    tres = recorded.get("TresPerNode") or recorded.get("TresPerJob")
    if tres is None:
        return 0, None
    asked = grammar.gres(tres)
    return asked.count, asked.type


def test_every_recorded_case_is_in_one_set() -> None:
    assert {*HONOURED, *REFUSED, *OUTSIDE} == set(GOLDEN)
    assert len(HONOURED) + len(REFUSED) + len(OUTSIDE) == len(GOLDEN) == 60


@pytest.mark.parametrize("name", sorted(HONOURED))
def test_honoured_as_sbatch_does(name: str) -> None:
    case = GOLDEN[name]
    assert case["ok"]
    recorded = case["job"]
    spec = submit(case)
    said = answer(spec, name)
    # Left out: what the recorded site sets for a job that does not ask (partition, DefMemPerCPU, nice), and Requeue,
    # which Slurm's default grants unasked and we do not: a second run of a job must have been wished for.
    left_out = {"MinMemoryCPU", "TresPerNode", "TresPerJob", "Licenses", "Requeue", "Nice", "Partition"}
    expected = {
        key: value.replace("DIR", "/DIR").replace("JOBID", "4711").replace("ARRAYID", "4711")
        for key, value in recorded.items()
        if key not in left_out
    }
    assert said == expected
    assert (spec.gpus, spec.gpu_type) == gpus(recorded)
    assert spec.requeue is False


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_as_sbatch_does(name: str) -> None:
    case = GOLDEN[name]
    assert not case["ok"]
    assert REFUSED[name] in case["error"]
    with pytest.raises(SpecError, match=REFUSED[name]):
        submit(case)


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_outside_this_version_is_refused_by_name_and_line(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        submit(GOLDEN[name])
    assert caught.value.field == "s.sh:2"
    assert str(caught.value).startswith(f"s.sh:2: {OUTSIDE[name]} ")


def test_export_none_takes_nothing_of_the_submitter() -> None:
    spec = submit(GOLDEN["opt --export=NONE"])
    assert spec.export.everything is False
    assert spec.export.names == ()


def test_a_width_in_a_pattern_is_filled_in_for_the_file() -> None:
    spec = submit(GOLDEN["out-%5j.out"])
    names = environ.pattern_names(spec, job_id=42, user="ada", node="n1")
    assert environ.output_path(spec, names) == "/DIR/00042.out"
