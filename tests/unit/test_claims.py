"""From a claimed job to the claim its shim obeys."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import Config, GpuTable, HooksTable, JobsTable, Mode
from agent.engine.claims import TASKS_MAX, ConfineError, GpuDevice, Grant, JobAccount, build_claim
from agent.engine.records import AttemptDir, Claim, HookOrders
from agent.jobs.environ import ArrayTask
from agent.jobs.machine import Status
from agent.jobs.row import JobRow
from agent.jobs.spec import ArraySpec, JobSpec, WarnSignal

ADA = JobAccount(name="ada", uid=1001, gid=100, groups=(100, 200), home="/home/ada", shell="/bin/bash")


def gpu(index: int, minor: int | None) -> GpuDevice:
    return GpuDevice(uuid=f"GPU-{index}", index=index, minor=minor)


def claim(
    grant: Grant | None = None, *, mode: Mode = Mode.SYSTEM, hooks: HooksTable | None = None, **fields: object
) -> Claim:
    jobs = {name: fields.pop(name) for name in ("confine_gpus", "private_tmp") if name in fields}
    config = Config(
        path=None,
        name="n1",
        mode=mode,
        state_dir=Path("/state"),
        run_dir=Path("/run/stoker"),
        allow_root_jobs=False,
        act_for=(),
        gpu=GpuTable(),
        jobs=JobsTable(**jobs),  # type: ignore[arg-type]
        cluster="lab",
        hub_nodes=(),
        hooks=hooks or HooksTable(),
    )
    known = {"name": "nm", "script_name": "s.sh", "submit_dir": "/home/ada", "work_dir": "/data"}
    spec = JobSpec(**{**known, **fields})  # type: ignore[arg-type]
    status = Status(attempt=2)
    row = JobRow(
        id=19, folder_id=19, user="ada", uid=1001, key=None, digest="d", submitted_at=1, spec=spec, status=status
    )
    return build_claim(config, row, ADA, {"LANG": "C"}, grant or Grant())


def test_an_ordinary_job() -> None:
    made = claim(
        Grant(gpus=[gpu(0, 0)], at=1000, tools_dir="/tools"), time_limit_s=600, tasks=2, cpus_per_task=3, cpus_said=True
    )
    assert made.argv == ("/state/jobs/19/script",)
    assert (made.uid, made.gid, made.groups) == (1001, 100, (100, 200))
    assert (made.job_dir, made.tmp_dir) == ("/state/jobs/19/files", "/state/jobs/19/tmp")
    assert (made.env["JOB_DIR"], made.env["TMPDIR"]) == (made.job_dir, made.tmp_dir)
    assert made.env["PATH"].startswith("/tools:")
    assert made.env["SLURM_JOB_END_TIME"] == "1600"
    assert (made.cpus, made.tasks_max, made.time_limit_s) == (6, TASKS_MAX, 600)
    assert (made.warn_signal, made.hooks, made.input_path) == (None, None, None)
    assert made.open_mode == "append"


def test_an_arrays_task_runs_the_arrays_script_into_files_of_its_own() -> None:
    grant = Grant(array=ArrayTask(job_id=17, task_id=2), folder_id=17)
    made = claim(grant, array=ArraySpec(tasks=(0, 1, 2), text="0-2"), output="slurm-%A_%a.out", input="in.%a")
    assert made.argv == ("/state/jobs/17/script",)
    assert made.job_dir == "/state/jobs/19/files"
    assert (made.output_path, made.input_path) == ("/data/slurm-17_2.out", "/data/in.2")
    assert made.env["SLURM_ARRAY_JOB_ID"] == "17"


def test_a_warning_signal_is_passed_on() -> None:
    made = claim(signal=WarnSignal(number=10, before_s=90, batch_only=True))
    assert (made.warn_signal, made.warn_before_s, made.warn_batch_only) == (10, 90, True)


def test_a_job_that_has_the_node_to_itself_is_not_held_to_the_cpus_it_named() -> None:
    made = claim(exclusive=True)
    assert made.cpus is None
    assert int(made.env["SLURM_CPUS_ON_NODE"]) >= int(made.env["SLURM_NTASKS"]) * int(made.env["SLURM_CPUS_PER_TASK"])


# --- devices ----------------------------------------------------------------------------------------------------------


def test_the_nodes_of_the_other_gpus_are_hidden_by_their_minor_numbers() -> None:
    grant = Grant(gpus=[gpu(0, 3)], others=[gpu(1, 0), gpu(2, 1), gpu(3, None)])
    assert claim(grant).hidden_devices == ("/dev/nvidia0", "/dev/nvidia1")
    assert claim(grant).confine == "auto"
    assert claim(grant, confine_gpus="on").confine == "on"
    assert claim(Grant(others=[gpu(0, 0)])).hidden_devices == ("/dev/nvidia0",), "a job without GPUs sees none"


def test_a_node_that_two_mig_instances_share_stays_open() -> None:
    grant = Grant(gpus=[gpu(0, 0)], others=[gpu(1, 0), gpu(2, 1)])
    assert claim(grant).hidden_devices == ("/dev/nvidia1",)


def test_off_hides_nothing_and_a_user_mode_agent_cannot() -> None:
    grant = Grant(gpus=[gpu(0, 0)], others=[gpu(1, 1)])
    assert claim(grant, confine_gpus="off").hidden_devices == ()
    assert claim(grant, mode=Mode.USER).hidden_devices == ()
    with pytest.raises(ConfineError, match=r'jobs.confine_gpus = "on" cannot be had: only an agent that is root'):
        claim(grant, mode=Mode.USER, confine_gpus="on")


def test_no_private_folder_where_it_is_off() -> None:
    made = claim(private_tmp=False)
    assert made.tmp_dir is None
    assert "TMPDIR" not in made.env


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_are_taken_over_with_an_environment_of_ours(tmp_path: Path) -> None:
    hooks = HooksTable(prolog=Path("/site/prolog"), task_epilog=Path("/site/te"), timeout_s=7)
    made = claim(Grant(gpus=[gpu(4, 4)]), hooks=hooks)
    assert made.hooks is not None
    assert (made.hooks.prolog, made.hooks.epilog, made.hooks.task_epilog) == ("/site/prolog", None, "/site/te")
    assert (made.hooks.timeout_s, made.hooks.env["SLURM_JOB_GPUS"], made.hooks.env["SLURM_JOB_USER"]) == (7, "4", "ada")
    assert "LANG" not in made.hooks.env
    (attempt := AttemptDir(tmp_path / "1" / "1")).create(made)
    assert attempt.read_claim() == made
    assert isinstance(made.hooks, HookOrders)
