"""What a job is, once accepted: `agent.jobs.parse` makes it of a submission, and it is kept as JSON for good.

Rules kept here: every default is filled in and every value checked, so nobody reads the script again; a field is only
ever added, with a default that means what its absence meant before.
"""

from __future__ import annotations

import msgspec

DEFAULT_OUTPUT = "slurm-%j.out"
DEFAULT_ARRAY_OUTPUT = "slurm-%A_%a.out"


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """What of the submitter's environment the job sees."""

    everything: bool = True
    names: tuple[str, ...] = ()
    """Variables taken over although `everything` is false."""
    values: dict[str, str] = {}
    """Variables set outright; they win."""


class WarnSignal(msgspec.Struct, frozen=True, kw_only=True):
    """`--signal=[R][B:]SIG[@SECONDS]`: a signal some time before the end."""

    number: int
    before_s: int = 60
    batch_only: bool = False
    """`B:`: to the batch script alone; else to all of the job but the script, as Slurm does it."""


class ArraySpec(msgspec.Struct, frozen=True, kw_only=True):
    """`--array=0-9:3%2`."""

    tasks: tuple[int, ...]
    """Ascending, each once."""
    limit: int | None = None
    """Most tasks at a time."""
    text: str
    """As it was asked for, which Slurm shows."""


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of `--dependency`."""

    kind: str
    """`after`, `afterany`, `afterok`, `afternotok`, `aftercorr`, `singleton`."""
    job_id: int | None = None
    """`None` for `singleton`."""
    task_id: int | None = None
    """One task of the array `job_id`; `None`: the job, or all tasks of the array."""
    delay_s: int = 0
    """`after:17+5`: minutes after its start, in seconds."""


class DependencySpec(msgspec.Struct, frozen=True, kw_only=True):
    """All conditions of `--dependency`."""

    conditions: tuple[Dependency, ...]
    any_of: bool = False
    """Joined by `?`: one is enough; by `,`: all."""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A job as accepted: every default filled in, every value checked. Kept as JSON beside the job for good."""

    name: str
    script_name: str
    script_path: str | None = None
    """Where it was found, absolute; `None`: it was no file, or an older client did not say."""
    args: tuple[str, ...] = ()
    submit_dir: str
    """Where the user stood; absolute."""
    work_dir: str
    """Where the job starts; absolute."""
    umask: int = 0o022
    gpus: int = 0
    gpu_type: str | None = None
    cpus_per_task: int = 1
    cpus_said: bool = False
    """It asked for CPUs; where it did not, no quota is put on it."""
    memory_bytes: int | None = None
    """`None`: it did not say, or asked for all of the node's."""
    time_limit_s: int | None = None
    """`None`: unlimited."""
    time_said: bool = False
    """It named its limit itself; else `rules.apply` fills in the partition's."""
    output: str = DEFAULT_OUTPUT
    """Pattern of the file for standard output; relative to `work_dir`. `environ.output_path` fills it in."""
    error: str | None = None
    """The same for standard error; `None`: it goes where standard output goes."""
    input: str | None = None
    """Pattern of the file for standard input, as `output`; `None`: `/dev/null`."""
    open_mode: str | None = None
    """`append` or `truncate`; `None`: truncate, but a run after the first appends."""
    requeue: bool = False
    export: Export = Export()
    # --- shape
    tasks: int = 1
    """`--ntasks`; CPUs are `tasks * cpus_per_task`."""
    ntasks_per_node: int | None = None
    """As said; `tasks` has it in it. Kept for the job's environment."""
    gpus_per_task: int | None = None
    """Said with `--gpus-per-task`: `srun` then gives each rank its own."""
    shards: int = 0
    """`--gres=shard:N`: parts of one GPU shared with others; `gpus` is 0 then."""
    exclusive: bool = False
    """Alone on the node: `gpus` is then all of them, or 0 where it asked for none (Slurm gives all, and so do we at
    the start: see `schedule`)."""
    features: tuple[str, ...] = ()
    """`--constraint`, all of which the node or its GPUs must have; `h100|a100` is one that the scheduler may choose."""
    memory_per_cpu_bytes: int | None = None
    """As said; `memory_bytes` has it in it. Kept for the job's environment and for what Slurm's commands show."""
    memory_per_gpu_bytes: int | None = None
    """The same for `--mem-per-gpu`."""
    nodelist: tuple[str, ...] = ()
    """Nodes that it must run on; `rules` refuses all but this one."""
    exclude: tuple[str, ...] = ()
    """Nodes that it must not run on."""
    # --- when
    begin_at: int | None = None
    """Unix seconds; `--begin=now+1hour` was counted from the submit."""
    deadline_at: int | None = None
    dependency: DependencySpec | None = None
    kill_on_invalid_dep: bool = False
    """Cancel it once its dependency can never be satisfied; else it waits, as `DependencyNeverSatisfied`."""
    held: str | None = None
    """`user` or `admin`: who must release it before it may start. `--hold`, `hold` and `release` set it."""
    # --- order
    priority: int | None = None
    nice: int = 0
    account: str | None = None
    partition: str | None = None
    """Several with commas between: it runs in one of them. `None` only before `rules.apply` and in jobs of older
    versions: the default one."""
    qos: str | None = None
    reservation: str | None = None
    # --- while it runs and after
    signal: WarnSignal | None = None
    mail_types: tuple[str, ...] = ()
    """`BEGIN`, `END`, `FAIL`, `REQUEUE`, `TIME_LIMIT`, `TIME_LIMIT_90`, …; `ALL` is written out. `ARRAY_TASKS`: one
    notice a task, else one for the whole array."""
    mail_user: str | None = None
    comment: str | None = None
    wckey: str | None = None
    """Kept and shown; nothing is counted by it, as in Slurm without TrackWCKey."""
    licenses: tuple[tuple[str, int], ...] = ()
    """`--licenses=matlab:2`: counted against `jobs.licenses` of the configuration."""
    array: ArraySpec | None = None
    sweep: dict[str, tuple[str, ...]] = {}
    """Named parameters; the array has one task for each combination."""
    test_only: bool = False
    """`--test-only`: it is to be planned, never stored."""

    @property
    def cpus(self) -> int:
        """CPUs of the whole job."""
        return self.tasks * self.cpus_per_task

    def sweep_values(self, task_id: int) -> dict[str, str]:
        """The parameters of one task of a sweep; the last name changes fastest."""
        values: dict[str, str] = {}
        for name, choices in reversed(self.sweep.items()):
            task_id, place = divmod(task_id, len(choices))
            values[name] = choices[place]
        return dict(reversed(values.items()))
