"""What a job finds around it: its environment, and the files its output goes to.

Rules kept here: the environment is built from nothing, first the account, then what `--export` lets through, then our
own words, which nobody can override; GPUs are named by UUID, since indexes change between boots; with no GPU the list
is empty, so that none is visible. Variables are those of sbatch(1), OUTPUT ENVIRONMENT VARIABLES. Some that Slurm sets
only where the option was given are always set here (`SLURM_NTASKS_PER_NODE`, which PyTorch Lightning insists on).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.jobs import dependency
from agent.jobs.spec import JobSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_ARRAY_TASK = "4294967294"
"""What Slurm writes for `%a` in a job that is no array: NO_VAL of slurm.h."""
_MIB = 1024 * 1024
_PLAIN = re.compile(r"[\w.:,+?@-]*", re.ASCII)
_PATTERN = re.compile(r"%(\d*)([AajJnNstuxb%])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The Unix account a job runs as, from passwd(5)."""

    name: str
    uid: int
    home: str
    shell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayTask:
    """Which task of which array a job is."""

    job_id: int
    """The array's id, which is its first task's."""
    task_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The facts of one attempt."""

    job_id: int
    attempt: int
    node: str
    host: str
    """A name by which the job's programs reach the node; where nobody can look `node` up it is another."""
    cluster: str
    node_cpus: int
    """Which a job that has the node to itself may use all of, whatever it asked for."""
    job_dir: str
    """The folder the job may write its metrics and checkpoints to."""
    gpus: Sequence[tuple[str, int]] = ()
    """UUID and NVML index of each GPU it was given, or of the one it has shards of."""
    array: ArrayTask | None = None
    started_at: int | None = None
    """Unix seconds."""
    tmp_dir: str | None = None
    """The job's own temporary folder; `None` leaves `TMPDIR` as it was exported."""
    tools_dir: str | None = None
    """Folder of our `srun` and `scontrol`, put first on `PATH`."""
    submit_host: str | None = None
    """`None`: this node."""
    partition: str | None = None
    """In which it runs, of several that it names."""


def build(spec: JobSpec, submitted: Mapping[str, str], account: Account, run: Run) -> dict[str, str]:
    """The complete environment of one attempt.

    Args:
        spec: the job; its `export` decides what of `submitted` goes in.
        submitted: the submitter's environment at submit.
        account: whom it runs as.
        run: which attempt, where, with what.
    """
    chosen = {**_of_account(account), **_exported(spec, submitted), **_of_sweep(spec, run)}
    ours = {
        **_of_job(spec, account, run),
        **_of_array(spec, run),
        **_of_queue(spec, run),
        **_of_times(spec, run),
        **_of_gpus(spec, run),
    }
    return {**chosen, **ours, "PATH": _path(chosen["PATH"], run.tools_dir)}


def of_hooks(spec: JobSpec, run: Run, *, user: str, uid: int, gid: int) -> dict[str, str]:
    """The whole environment of prolog and epilog, which may be root's: facts of ours, nothing that the user chose.

    Names as Slurm gives them to its Prolog and Epilog. The job's name, folder and comment are the user's words and
    stay out; `scontrol show job` tells them.
    """
    job_id, count = str(run.job_id), str(len(run.gpus))
    return {
        "PATH": DEFAULT_PATH,
        "CUDA_VISIBLE_DEVICES": ",".join(uuid for uuid, _ in run.gpus),
        "SLURM_CLUSTER_NAME": run.cluster,
        "SLURM_CPUS_ON_NODE": str(_cpus(spec, run)),
        "SLURM_GPUS": count,
        "SLURM_GPUS_ON_NODE": count,
        "SLURM_JOBID": job_id,
        "SLURM_JOB_GID": str(gid),
        "SLURM_JOB_GPUS": ",".join(str(index) for _, index in run.gpus),
        "SLURM_JOB_ID": job_id,
        "SLURM_JOB_NODELIST": run.node,
        "SLURM_JOB_UID": str(uid),
        "SLURM_JOB_USER": user,
        "SLURM_NODELIST": run.node,
        "SLURM_RESTART_COUNT": str(run.attempt - 1),
        "SLURM_UID": str(uid),
        "SLURMD_NODENAME": run.node,
        **_of_array(spec, run),
        **{name: word for name, word in _of_queue(spec, run).items() if _PLAIN.fullmatch(word)},
    }


def pattern_names(
    spec: JobSpec, *, job_id: int, user: str, node: str, array: ArrayTask | None = None
) -> dict[str, str]:
    """What each letter of a file name pattern stands for. sbatch(1), FILENAME PATTERN."""
    task = str(array.task_id) if array else _NO_ARRAY_TASK
    return {
        "A": str(array.job_id if array else job_id),
        "a": task,
        "b": str(int(task) % 10),
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


def input_path(spec: JobSpec, names: Mapping[str, str]) -> str | None:
    """The file for standard input, absolute; `None`: there is none, and the job reads an empty one."""
    return None if spec.input is None else posixpath.join(spec.work_dir, expand(spec.input, names))


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


def _of_sweep(spec: JobSpec, run: Run) -> dict[str, str]:
    """The parameters of this task of a sweep, by their own names."""
    return spec.sweep_values(run.array.task_id) if spec.sweep and run.array else {}


def _of_job(spec: JobSpec, account: Account, run: Run) -> dict[str, str]:
    job_id, node, cpus, tasks = str(run.job_id), run.node, str(_cpus(spec, run)), str(spec.tasks)
    names = {
        "JOB_ATTEMPT": str(run.attempt),
        "JOB_DIR": run.job_dir,
        "SLURM_CLUSTER_NAME": run.cluster,
        "SLURM_CPUS_ON_NODE": cpus,
        "SLURM_CPUS_PER_TASK": str(spec.cpus_per_task),
        "SLURM_JOBID": job_id,
        "SLURM_JOB_CPUS_PER_NODE": cpus,
        "SLURM_JOB_ID": job_id,
        "SLURM_JOB_NAME": spec.name,
        "SLURM_JOB_NODELIST": run.host,
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_UID": str(account.uid),
        "SLURM_JOB_USER": account.name,
        "SLURM_LOCALID": "0",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": run.host,
        "SLURM_NPROCS": tasks,
        "SLURM_NTASKS": tasks,
        "SLURM_NTASKS_PER_NODE": tasks,
        "SLURM_PRIO_PROCESS": "0",
        "SLURM_PROCID": "0",
        "SLURM_RESTART_COUNT": str(run.attempt - 1),
        "SLURM_SUBMIT_DIR": spec.submit_dir,
        "SLURM_SUBMIT_HOST": run.submit_host or node,
        "SLURM_TASKS_PER_NODE": tasks,
        "SLURM_TOPOLOGY_ADDR": node,
        "SLURM_TOPOLOGY_ADDR_PATTERN": "node",
        "SLURMD_NODENAME": node,
    }
    if run.tmp_dir is not None:
        names["TMPDIR"] = run.tmp_dir
    if spec.memory_per_cpu_bytes is not None:  # one of the two, as sbatch(1) has it
        names["SLURM_MEM_PER_CPU"] = str(spec.memory_per_cpu_bytes // _MIB)
    elif spec.memory_bytes is not None:
        names["SLURM_MEM_PER_NODE"] = str(spec.memory_bytes // _MIB)
    if spec.open_mode is not None:  # for `srun -o`, which may name the script's own file: sbatch.c sets it so
        names["SLURM_OPEN_MODE"] = spec.open_mode[0]
    return names


def _cpus(spec: JobSpec, run: Run) -> int:
    """As in Slurm: `--exclusive` is given every CPU, so that `srun -n 8` finds room without `-n` in the script."""
    return max(spec.cpus, run.node_cpus) if spec.exclusive else spec.cpus


def _of_array(spec: JobSpec, run: Run) -> dict[str, str]:
    if run.array is None:
        return {}
    tasks = spec.array.tasks if spec.array else (run.array.task_id,)
    return {
        "SLURM_ARRAY_JOB_ID": str(run.array.job_id),
        "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
        "SLURM_ARRAY_TASK_ID": str(run.array.task_id),
        "SLURM_ARRAY_TASK_MAX": str(tasks[-1]),
        "SLURM_ARRAY_TASK_MIN": str(tasks[0]),
        "SLURM_ARRAY_TASK_STEP": str(tasks[1] - tasks[0] if len(tasks) > 1 else 1),
    }


def _of_queue(spec: JobSpec, run: Run) -> dict[str, str]:
    """Whose turn it was; a word that the job does not have is not set, as in Slurm."""
    words = {
        "SLURM_JOB_ACCOUNT": spec.account,
        "SLURM_JOB_DEPENDENCY": dependency.text(spec.dependency) if spec.dependency else None,
        "SLURM_JOB_PARTITION": run.partition or spec.partition,
        "SLURM_JOB_QOS": spec.qos,
        "SLURM_JOB_RESERVATION": spec.reservation,
    }
    return {name: word for name, word in words.items() if word is not None}


def _of_times(spec: JobSpec, run: Run) -> dict[str, str]:
    """When it started and when its limit ends it: the script can tell how long it has."""
    if run.started_at is None:
        return {}
    names = {"SLURM_JOB_START_TIME": str(run.started_at)}
    if spec.time_limit_s is not None:
        names["SLURM_JOB_END_TIME"] = str(run.started_at + spec.time_limit_s)
    return names


def _of_gpus(spec: JobSpec, run: Run) -> dict[str, str]:
    count = str(len(run.gpus))
    names = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(uuid for uuid, _ in run.gpus),
        "SLURM_GPUS": count,
        "SLURM_GPUS_ON_NODE": count,
        "SLURM_JOB_GPUS": ",".join(str(index) for _, index in run.gpus),
    }
    if spec.gpus_per_task is not None:
        names["SLURM_GPUS_PER_TASK"] = str(spec.gpus_per_task)
    if spec.memory_per_gpu_bytes is not None:
        names["SLURM_MEM_PER_GPU"] = str(spec.memory_per_gpu_bytes // _MIB)
    if spec.shards:
        names["SLURM_SHARDS_ON_NODE"] = str(spec.shards)
    return names


def _path(chosen: str, tools_dir: str | None) -> str:
    """An empty PATH would mean the working folder to execvp(3)."""
    return f"{tools_dir}:{chosen or DEFAULT_PATH}" if tools_dir else chosen
