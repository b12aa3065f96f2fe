"""What a job finds around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import environ
from agent.jobs.environ import Account, ArrayTask, Run
from agent.jobs.spec import ArraySpec, Dependency, DependencySpec, Export, JobSpec

ADA = Account(name="ada", uid=1001, home="/home/ada", shell="/bin/bash")
RUN = Run(
    job_id=17,
    attempt=2,
    node="n1",
    host="box",
    cluster="lab",
    node_cpus=64,
    job_dir="/var/lib/stoker/jobs/17/2",
    gpus=(("GPU-a", 3), ("GPU-b", 5)),
)


def spec(**fields: object) -> JobSpec:
    known = {"name": "nm", "script_name": "s.sh", "submit_dir": "/home/ada", "work_dir": "/data", "gpus": 2}
    return JobSpec(**{**known, **fields})  # type: ignore[arg-type]


def test_slurms_variables() -> None:
    env = environ.build(spec(cpus_per_task=4, memory_bytes=16 * 2**30), {}, ADA, RUN)
    assert env == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "HOME": "/home/ada",
        "JOB_ATTEMPT": "2",
        "JOB_DIR": "/var/lib/stoker/jobs/17/2",
        "LOGNAME": "ada",
        "PATH": environ.DEFAULT_PATH,
        "SHELL": "/bin/bash",
        "SLURMD_NODENAME": "n1",
        "SLURM_CLUSTER_NAME": "lab",
        "SLURM_CPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_GPUS": "2",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOBID": "17",
        "SLURM_JOB_CPUS_PER_NODE": "4",
        "SLURM_JOB_GPUS": "3,5",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "nm",
        "SLURM_JOB_NODELIST": "box",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_UID": "1001",
        "SLURM_JOB_USER": "ada",
        "SLURM_LOCALID": "0",
        "SLURM_MEM_PER_NODE": "16384",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "box",
        "SLURM_NPROCS": "1",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_PRIO_PROCESS": "0",
        "SLURM_PROCID": "0",
        "SLURM_RESTART_COUNT": "1",
        "SLURM_SUBMIT_DIR": "/home/ada",
        "SLURM_SUBMIT_HOST": "n1",
        "SLURM_TASKS_PER_NODE": "1",
        "SLURM_TOPOLOGY_ADDR": "n1",
        "SLURM_TOPOLOGY_ADDR_PATTERN": "node",
        "USER": "ada",
    }


def test_a_job_that_has_the_node_to_itself_has_its_cpus() -> None:
    env = environ.build(spec(exclusive=True, cpus_per_task=2), {}, ADA, RUN)
    assert (env["SLURM_CPUS_ON_NODE"], env["SLURM_JOB_CPUS_PER_NODE"], env["SLURM_CPUS_PER_TASK"]) == ("64", "64", "2")
    assert environ.of_hooks(spec(exclusive=True), RUN, user="ada", uid=1, gid=1)["SLURM_CPUS_ON_NODE"] == "64"


def test_without_gpus_none_is_visible() -> None:
    env = environ.build(
        spec(gpus=0),
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        ADA,
        Run(job_id=1, attempt=1, node="n", host="n", cluster="c", node_cpus=4, job_dir="/j"),
    )
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["SLURM_GPUS"] == "0"
    assert "SLURM_MEM_PER_NODE" not in env


def run(**fields: object) -> Run:
    known = {"job_id": 17, "attempt": 1, "node": "n1", "host": "n1", "cluster": "lab", "node_cpus": 64, "job_dir": "/j"}
    return Run(**{**known, **fields})  # type: ignore[arg-type]


def test_an_arrays_task_knows_which_it_is_and_how_many_there_are() -> None:
    array = ArraySpec(tasks=(1, 4, 7, 10), text="1-10:3")
    env = environ.build(spec(array=array), {}, ADA, run(job_id=19, array=ArrayTask(job_id=17, task_id=7)))
    assert {name: value for name, value in env.items() if "ARRAY" in name or name == "SLURM_JOB_ID"} == {
        "SLURM_ARRAY_JOB_ID": "17",
        "SLURM_ARRAY_TASK_COUNT": "4",
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MAX": "10",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_STEP": "3",
        "SLURM_JOB_ID": "19",
    }
    alone = ArraySpec(tasks=(5,), text="5")
    env = environ.build(spec(array=alone), {}, ADA, run(array=ArrayTask(job_id=17, task_id=5)))
    assert (env["SLURM_ARRAY_TASK_COUNT"], env["SLURM_ARRAY_TASK_STEP"]) == ("1", "1")


def test_a_sweeps_parameters_come_by_their_names() -> None:
    sweep = {"lr": ("1e-3", "1e-4"), "bs": ("16", "32"), "SLURM_JOB_ID": ("9",)}
    seen = []
    for task_id in range(4):
        env = environ.build(spec(sweep=sweep), {"lr": "old"}, ADA, run(array=ArrayTask(job_id=17, task_id=task_id)))
        seen.append((env["lr"], env["bs"]))
        assert env["SLURM_JOB_ID"] == "17"
    assert seen == [("1e-3", "16"), ("1e-3", "32"), ("1e-4", "16"), ("1e-4", "32")]


def test_the_shape_of_a_job_with_several_tasks() -> None:
    asked = spec(tasks=4, cpus_per_task=3, gpus_per_task=2, memory_bytes=2**34, memory_per_gpu_bytes=2**32)
    env = environ.build(asked, {}, ADA, run())
    expected = {
        "SLURM_NTASKS": "4",
        "SLURM_NPROCS": "4",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_TASKS_PER_NODE": "4",
        "SLURM_CPUS_PER_TASK": "3",
        "SLURM_CPUS_ON_NODE": "12",
        "SLURM_JOB_CPUS_PER_NODE": "12",
        "SLURM_GPUS_PER_TASK": "2",
        "SLURM_MEM_PER_NODE": "16384",
        "SLURM_MEM_PER_GPU": "4096",
    }
    assert expected.items() <= env.items()


def test_memory_per_cpu_is_told_in_the_place_of_memory_per_node_as_slurm_does() -> None:
    env = environ.build(spec(memory_bytes=2**30, memory_per_cpu_bytes=2**28), {"SLURM_MEM_PER_NODE": "7"}, ADA, run())
    assert env["SLURM_MEM_PER_CPU"] == "256"
    assert "SLURM_MEM_PER_NODE" not in env


def test_the_queues_words_are_told_as_far_as_the_job_has_them() -> None:
    conditions = (
        Dependency(kind="afterok", job_id=17, task_id=3),
        Dependency(kind="after", job_id=18, delay_s=300),
        Dependency(kind="singleton"),
    )
    asked = spec(
        account="ml", partition="main", qos="high", reservation="r1", dependency=DependencySpec(conditions=conditions)
    )
    expected = {
        "SLURM_JOB_ACCOUNT": "ml",
        "SLURM_JOB_DEPENDENCY": "afterok:17_3,after:18+5,singleton",
        "SLURM_JOB_PARTITION": "main",
        "SLURM_JOB_QOS": "high",
        "SLURM_JOB_RESERVATION": "r1",
    }
    assert expected.items() <= environ.build(asked, {}, ADA, run()).items()
    assert not set(expected) & set(environ.build(spec(), {}, ADA, run()))
    any_of = DependencySpec(conditions=conditions[:2], any_of=True)
    env = environ.build(spec(dependency=any_of), {}, ADA, run())
    assert env["SLURM_JOB_DEPENDENCY"] == "afterok:17_3?after:18+5"


def test_start_and_end_are_told_where_there_is_a_limit() -> None:
    env = environ.build(spec(time_limit_s=600), {}, ADA, run(started_at=1000))
    assert (env["SLURM_JOB_START_TIME"], env["SLURM_JOB_END_TIME"]) == ("1000", "1600")
    assert "SLURM_JOB_END_TIME" not in environ.build(spec(), {}, ADA, run(started_at=1000))
    assert "SLURM_JOB_START_TIME" not in environ.build(spec(), {}, ADA, run())


def test_shards_make_their_gpu_visible() -> None:
    env = environ.build(spec(gpus=0, shards=2), {}, ADA, run(gpus=(("GPU-a", 3),)))
    assert (env["CUDA_VISIBLE_DEVICES"], env["SLURM_SHARDS_ON_NODE"], env["SLURM_JOB_GPUS"]) == ("GPU-a", "2", "3")


@pytest.mark.parametrize(
    ("submitted", "path"),
    [
        ({}, f"/tools:{environ.DEFAULT_PATH}"),
        ({"PATH": "/opt:/bin"}, "/tools:/opt:/bin"),
        ({"PATH": ""}, f"/tools:{environ.DEFAULT_PATH}"),
    ],
)
def test_our_tools_go_first_on_the_path(submitted: dict[str, str], path: str) -> None:
    assert environ.build(spec(), submitted, ADA, run(tools_dir="/tools"))["PATH"] == path


def test_the_temporary_folder_is_the_jobs_own_where_it_has_one() -> None:
    exported = {"TMPDIR": "/run/user/1001"}
    assert environ.build(spec(), exported, ADA, run(tmp_dir="/s/17/tmp"))["TMPDIR"] == "/s/17/tmp"
    assert environ.build(spec(), exported, ADA, run())["TMPDIR"] == "/run/user/1001"


def test_row_54_a_hooks_environment_holds_nothing_that_the_user_chose() -> None:
    hostile = "$(rm -rf /)`x`\n;"
    asked = spec(name=hostile, work_dir=f"/{hostile}", comment=hostile, account=hostile, partition="main")
    env = environ.of_hooks(asked, RUN, user="ada", uid=1001, gid=100)
    assert env == {
        "PATH": environ.DEFAULT_PATH,
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "SLURMD_NODENAME": "n1",
        "SLURM_CLUSTER_NAME": "lab",
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_GPUS": "2",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOBID": "17",
        "SLURM_JOB_GID": "100",
        "SLURM_JOB_GPUS": "3,5",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_JOB_PARTITION": "main",
        "SLURM_JOB_UID": "1001",
        "SLURM_JOB_USER": "ada",
        "SLURM_NODELIST": "n1",
        "SLURM_RESTART_COUNT": "1",
        "SLURM_UID": "1001",
    }


SUBMITTED = {"PATH": "/opt/bin", "LANG": "C.UTF-8", "SEED": "1", "HOME": "/tmp", "LD_PRELOAD": "/x.so"}


@pytest.mark.parametrize(
    ("export", "seen"),
    [
        (Export(), {"PATH": "/opt/bin", "LANG": "C.UTF-8", "SEED": "1", "HOME": "/tmp", "LD_PRELOAD": "/x.so"}),
        (Export(everything=False), {"PATH": environ.DEFAULT_PATH, "HOME": "/home/ada"}),
        (Export(everything=False, names=("SEED", "MISSING")), {"PATH": environ.DEFAULT_PATH, "SEED": "1"}),
        (Export(values={"SEED": "7"}), {"PATH": "/opt/bin", "SEED": "7"}),
        (Export(everything=False, values={"A": ""}), {"A": "", "PATH": environ.DEFAULT_PATH}),
    ],
)
def test_export_decides_what_of_the_submitter_goes_in(export: Export, seen: dict[str, str]) -> None:
    env = environ.build(spec(export=export), SUBMITTED, ADA, RUN)
    assert seen.items() <= env.items()
    extra = set(env) & (set(SUBMITTED) - {"PATH", "HOME"}) - set(seen)
    assert not extra or export.everything


def test_options_of_this_submission_and_facts_of_another_job_stay_out() -> None:
    env = environ.build(spec(), {"SBATCH_GPUS": "8", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "1"}, ADA, RUN)
    assert "SBATCH_GPUS" not in env
    assert "SLURM_ARRAY_TASK_ID" not in env
    assert env["SLURM_JOB_ID"] == "17"


@given(st.dictionaries(st.sampled_from(["SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "JOB_DIR", "SLURM_GPUS"]), st.text()))
def test_nobody_overrides_what_the_agent_says(values: dict[str, str]) -> None:
    plain = environ.build(spec(), {}, ADA, RUN)
    assert environ.build(spec(export=Export(values=values)), values, ADA, RUN) == plain


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("slurm-%j.out", "slurm-17.out"),
        ("%x-%u-%N.log", "nm-ada-n1.log"),
        ("%A_%a", "17_4294967294"),
        ("%5j", "00017"),
        ("%99j", "0000000017"),
        ("%0j", "17"),
        ("%%j", "%j"),
        ("%n%t%s", "00batch"),
        ("%J", "17"),
        ("%b", "4"),
        ("%q%", "%q%"),
        (r"\%j", "%j"),
        (r"a\%j-%j", "a%j-%j"),
        ("100%", "100%"),
    ],
)
def test_patterns(pattern: str, path: str) -> None:
    names = environ.pattern_names(spec(), job_id=17, user="ada", node="n1.lab.example")
    assert environ.expand(pattern, names) == path


def test_patterns_of_an_arrays_task() -> None:
    names = environ.pattern_names(spec(), job_id=19, user="ada", node="n1", array=ArrayTask(job_id=17, task_id=12))
    assert environ.expand("%A_%a-%3a-%b-%j-%J", names) == "17_12-012-2-19-19"


def test_an_input_file_is_named_like_an_output_file() -> None:
    names = environ.pattern_names(spec(), job_id=17, user="ada", node="n1")
    assert environ.input_path(spec(), names) is None
    assert environ.input_path(spec(input="in-%j"), names) == "/data/in-17"


def test_files_of_a_job() -> None:
    names = environ.pattern_names(spec(), job_id=17, user="ada", node="n1")
    assert environ.output_path(spec(), names) == "/data/slurm-17.out"
    assert environ.error_path(spec(), names) == "/data/slurm-17.out"
    apart = spec(output="/logs/%j", error="e/%j")
    assert environ.output_path(apart, names) == "/logs/17"
    assert environ.error_path(apart, names) == "/data/e/17"


@pytest.mark.parametrize(
    ("said", "attempt", "mode"),
    [(None, 1, "truncate"), (None, 2, "append"), ("append", 1, "append"), ("truncate", 2, "truncate")],
)
def test_a_second_run_does_not_wipe_what_the_first_said(said: str | None, attempt: int, mode: str) -> None:
    assert environ.open_mode(spec(open_mode=said), attempt) == mode


@given(st.text())
def test_any_pattern_expands(pattern: str) -> None:
    names = environ.pattern_names(spec(), job_id=17, user="ada", node="n1")
    environ.expand(pattern, names)
