"""What a job finds around it: its environment, and the files its output goes to.

Rules kept here: the environment is built from nothing, first the account, then what `--export` lets through, then our
own words, which nobody can override; GPUs are named by UUID, since indexes change between boots; with no GPU the list
is empty, so that none is visible. Variables are those of sbatch(1), OUTPUT ENVIRONMENT VARIABLES.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.jobs.spec import JobSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_ARRAY_TASK = "4294967294"
"""What Slurm writes for `%a` in a job that is no array: NO_VAL of slurm.h."""
_MIB = 1024 * 1024
_PATTERN = re.compile(r"%(\d*)([AajJnNstuxb%])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The Unix account a job runs as, from passwd(5)."""

    name: str
    uid: int
    home: str
    shell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The facts of one attempt."""

    job_id: int
    attempt: int
    node: str
    cluster: str
    job_dir: str
    """The folder the job may write its metrics and checkpoints to."""
    gpus: Sequence[tuple[str, int]] = ()
    """UUID and NVML index of each GPU it was given."""


def build(spec: JobSpec, submitted: Mapping[str, str], account: Account, run: Run) -> dict[str, str]:
    """The complete environment of one attempt.

    Args:
        spec: the job; its `export` decides what of `submitted` goes in.
        submitted: the submitter's environment at submit.
        account: whom it runs as.
        run: which attempt, where, with what.
    """
    return {
        **_of_account(account),
        **_exported(spec, submitted),
        **_of_job(spec, account, run),
        **_of_gpus(run),
    }


def pattern_names(spec: JobSpec, *, job_id: int, user: str, node: str) -> dict[str, str]:
    """What each letter of a file name pattern stands for. sbatch(1), FILENAME PATTERN."""
    return {
        "A": str(job_id),
        "a": _NO_ARRAY_TASK,
        "b": str(int(_NO_ARRAY_TASK) % 10),
        "j": str(job_id),
        "J": str(job_id),
        "N": node.split(".")[0],
        "n": "0",
        "s": "batch",
        "t": "0",
        "u": user,
        "x": spec.name,
        "%": "%",
    }


def output_path(spec: JobSpec, names: Mapping[str, str]) -> str:
    """The file for standard output, absolute."""
    return posixpath.join(spec.work_dir, expand(spec.output, names))


def error_path(spec: JobSpec, names: Mapping[str, str]) -> str:
    """The file for standard error, absolute; the same as `output_path` when the job named none."""
    return posixpath.join(spec.work_dir, expand(spec.error or spec.output, names))


def expand(pattern: str, names: Mapping[str, str]) -> str:
    """Fill in a pattern: `%j`, `%5j` (zeros in front, 10 digits at most); a backslash anywhere turns all of it off."""
    if "\\" in pattern:
        return pattern.replace("\\", "")
    return _PATTERN.sub(lambda match: _padded(names[match[2]], match[1]), pattern)


def open_mode(spec: JobSpec, attempt: int) -> str:
    """`append` or `truncate`. A run after the first appends, so that what the first one said is not lost."""
    return spec.open_mode or ("append" if attempt > 1 else "truncate")


def _padded(text: str, width: str) -> str:
    return text.zfill(min(int(width), 10)) if width and text.isdecimal() else text


def _of_account(account: Account) -> dict[str, str]:
    return {
        "HOME": account.home,
        "LOGNAME": account.name,
        "PATH": DEFAULT_PATH,
        "SHELL": account.shell,
        "USER": account.name,
    }


def _exported(spec: JobSpec, submitted: Mapping[str, str]) -> dict[str, str]:
    export = spec.export
    names = submitted if export.everything else [name for name in export.names if name in submitted]
    # SBATCH_* were options of this submission and must not become options of what the job submits; SLURM_* tell of the
    # job that this one was submitted from.
    taken = {name: submitted[name] for name in names if not name.startswith(("SBATCH_", "SLURM_"))}
    return {**taken, **export.values}


def _of_job(spec: JobSpec, account: Account, run: Run) -> dict[str, str]:
    job_id, node, cpus = str(run.job_id), run.node, str(spec.cpus_per_task)
    names = {
        "JOB_ATTEMPT": str(run.attempt),
        "JOB_DIR": run.job_dir,
        "SLURM_CLUSTER_NAME": run.cluster,
        "SLURM_CPUS_ON_NODE": cpus,
        "SLURM_CPUS_PER_TASK": cpus,
        "SLURM_JOBID": job_id,
        "SLURM_JOB_CPUS_PER_NODE": cpus,
        "SLURM_JOB_ID": job_id,
        "SLURM_JOB_NAME": spec.name,
        "SLURM_JOB_NODELIST": node,
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_UID": str(account.uid),
        "SLURM_JOB_USER": account.name,
        "SLURM_LOCALID": "0",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": node,
        "SLURM_NPROCS": "1",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_RESTART_COUNT": str(run.attempt - 1),
        "SLURM_SUBMIT_DIR": spec.submit_dir,
        "SLURM_TASKS_PER_NODE": "1",
        "SLURMD_NODENAME": node,
    }
    if spec.memory_bytes is not None:
        names["SLURM_MEM_PER_NODE"] = str(spec.memory_bytes // _MIB)
    return names


def _of_gpus(run: Run) -> dict[str, str]:
    count = str(len(run.gpus))
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(uuid for uuid, _ in run.gpus),
        "SLURM_GPUS": count,
        "SLURM_GPUS_ON_NODE": count,
        "SLURM_JOB_GPUS": ",".join(str(index) for _, index in run.gpus),
    }
