"""From a claimed job to the claim its shim obeys: account, environment, files, limits. Nothing is started here."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.api.errors import StokerError
from agent.config import Config, Mode
from agent.engine.address import reachable
from agent.engine.capabilities import Roots, instances
from agent.engine.records import AttemptDir, Claim, HookOrders, RecordDiskError
from agent.jobs import environ
from agent.jobs.environ import ArrayTask
from agent.jobs.folder import job_dir
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec

TASKS_MAX = 32_768
"""Most processes and threads of one job: far above what eight ranks with their loaders need, far below what a fork bomb
would take. Linux's own ceiling for a machine is 4,194,304."""


class AccountError(StokerError):
    """The account a job belongs to is not there any more."""


class ConfineError(StokerError):
    """`jobs.confine_gpus = "on"`, and it cannot be had here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDevice:
    """One GPU of the node, as a claim needs it; a MIG instance has its parent's `minor`."""

    uuid: str
    index: int
    """NVML's."""
    minor: int | None
    """N of `/dev/nvidiaN`; `None` where the driver does not tell, and for simulated ones."""
    mig: tuple[int, int] | None = None
    """Ids of a MIG instance's GPU instance and compute instance; `None` for a whole GPU, or where it is not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a claim gives to a job, besides what its row says."""

    gpus: Sequence[GpuDevice] = ()
    """Those it was given, or the one it has shards of."""
    others: Sequence[GpuDevice] = ()
    """The node's other GPUs, which the job must not open."""
    array: ArrayTask | None = None
    folder_id: int | None = None
    """The job whose folder holds the script; `None`: its own. Of an array's task: its first task's."""
    at: int | None = None
    """Unix seconds of the start, for `SLURM_JOB_START_TIME`."""
    tools_dir: str | None = None
    """Folder of `srun` and `scontrol`."""

    def hidden(self, roots: Roots) -> tuple[str, ...]:
        """Device nodes of the others. One that is shared stays open: a GPU's by two of its MIG instances, a GPU
        instance's by two compute instances in it. Their capabilities keep those apart.
        """
        own = {each.minor for each in self.gpus}
        minors = sorted({each.minor for each in self.others if each.minor is not None} - own)
        nodes = [roots.dev / f"nvidia{minor}" for minor in minors]
        return tuple(str(each) for each in [*nodes, *self._hidden_instances(roots)])

    def _hidden_instances(self, roots: Roots) -> list[Path]:
        if any(each.minor is None for each in self.gpus):
            return []  # simulated, or a driver that does not tell: whose instances are meant is not known
        whole = {each.minor for each in self.gpus if each.mig is None}
        own = {(each.minor, *each.mig) for each in self.gpus if each.mig is not None}
        own_gis = {(minor, gi) for minor, gi, _ in own}
        return [
            each.node
            for each in instances(roots)
            if each.gpu_minor not in whole
            and (
                (each.gpu_minor, each.gi) not in own_gis
                if each.ci is None
                else (each.gpu_minor, each.gi, each.ci) not in own
            )
        ]


def attempt_dir(state_dir: Path, job_id: int, attempt: int) -> AttemptDir:
    """The record folder of one attempt."""
    return AttemptDir(job_dir(state_dir, job_id) / str(attempt))


def files_dir(state_dir: Path, job_id: int) -> Path:
    """The folder that is the job's own, `$JOB_DIR`: metrics, checkpoints, results. Our records are not in it."""
    return job_dir(state_dir, job_id) / "files"


def tmp_dir(state_dir: Path, job_id: int) -> Path:
    """The job's `TMPDIR` while it runs.

    On the disk of the state and not in /tmp: the agent's own /tmp is a private one, so what a crash left in the real
    one would be out of its reach; names there can be taken by anybody; /tmp may be memory. `$JOB_DIR` is here too.
    """
    return job_dir(state_dir, job_id) / "tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccount:
    """The Unix account of a job: passwd(5) and its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def account_of(uid: int) -> JobAccount:
    """The account with this uid. May block for as long as a directory server does: call it in a thread.

    Raises:
        AccountError: there is none.
    """
    try:
        found = pwd.getpwuid(uid)
    except KeyError as error:
        raise AccountError(f"no account has uid {uid} on this node; create it, then submit again") from error
    return JobAccount(
        name=found.pw_name,
        uid=found.pw_uid,
        gid=found.pw_gid,
        groups=tuple(os.getgrouplist(found.pw_name, found.pw_gid)),
        home=found.pw_dir,
        shell=found.pw_shell,
    )


def build_claim(
    config: Config,
    row: JobRow,
    account: JobAccount,
    submitted_env: Mapping[str, str],
    grant: Grant,
    roots: Roots = Roots(),  # noqa: B008 - a frozen value
) -> Claim:
    """The claim of the row's current attempt.

    Args:
        config: limits, hooks and mode.
        row: a claimed job.
        account: whom it belongs to.
        submitted_env: the submitter's environment.
        grant: the GPUs it was given, and what else its row does not tell.
        roots: where the device nodes are.

    Raises:
        ConfineError: the configuration insists on what cannot be had.
    """
    spec, limits, switch = row.spec, config.jobs, config.mode is Mode.SYSTEM
    script = job_dir(config.state_dir, row.id if grant.folder_id is None else grant.folder_id) / "script"
    run = _run(config, row, grant)
    who = environ.Account(name=account.name, uid=account.uid, home=account.home, shell=account.shell)
    return Claim(
        argv=(str(script), *spec.args),
        env=environ.build(spec, submitted_env, who, run),
        work_dir=spec.work_dir,
        umask=spec.umask,
        uid=account.uid if switch else None,
        gid=account.gid if switch else None,
        groups=account.groups if switch else None,
        time_limit_s=spec.time_limit_s,
        grace_s=limits.grace_s,
        job_dir=run.job_dir,
        **_warning(spec),
        **_streams(config, row, grant),
        log_head_bytes=limits.log_head_bytes,
        log_tail_bytes=limits.log_tail_bytes,
        output_max_bytes=limits.output_max_bytes,
        cpus=spec.cpus if spec.cpus_said and not spec.exclusive else None,
        memory_bytes=spec.memory_bytes,
        tasks_max=TASKS_MAX,
        hidden_devices=_hidden_devices(config, grant, roots),
        confine="on" if limits.confine_gpus == "on" else "auto",
        tmp_dir=run.tmp_dir,
        hooks=_hooks(config, row, account, run),
    )


def _warning(spec: JobSpec) -> dict[str, Any]:
    """What `--signal` asked for."""
    if spec.signal is None:
        return {}
    return {
        "warn_signal": spec.signal.number,
        "warn_before_s": spec.signal.before_s,
        "warn_batch_only": spec.signal.batch_only,
    }


def _streams(config: Config, row: JobRow, grant: Grant) -> dict[str, Any]:
    """Where the job reads and writes, with the patterns in the names filled in."""
    spec = row.spec
    names = environ.pattern_names(spec, job_id=row.id, user=row.user, node=config.name, array=grant.array)
    return {
        "input_path": environ.input_path(spec, names),
        "output_path": environ.output_path(spec, names),
        "error_path": environ.error_path(spec, names) if spec.error else None,
        "open_mode": "append" if environ.open_mode(spec, row.status.attempt) == "append" else "truncate",
    }


def _run(config: Config, row: JobRow, grant: Grant) -> environ.Run:
    return environ.Run(
        job_id=row.id,
        attempt=row.status.attempt,
        node=config.name,
        host=reachable(config.name),
        cluster=config.cluster,
        node_cpus=config.cpus,
        job_dir=str(files_dir(config.state_dir, row.id)),
        partition=row.status.partition,
        gpus=[(each.uuid, each.index) for each in grant.gpus],
        array=grant.array,
        started_at=grant.at,
        tmp_dir=str(tmp_dir(config.state_dir, row.id)) if config.jobs.private_tmp else None,
        tools_dir=grant.tools_dir,
    )


def _hidden_devices(config: Config, grant: Grant, roots: Roots) -> tuple[str, ...]:
    if config.jobs.confine_gpus == "off":
        return ()
    if config.mode is Mode.SYSTEM:
        return grant.hidden(roots)
    if config.jobs.confine_gpus == "on":
        raise ConfineError(
            'jobs.confine_gpus = "on" cannot be had: only an agent that is root can hide GPUs from a job; '
            'run it in system mode, or write "auto"'
        )
    return ()


def _hooks(config: Config, row: JobRow, account: JobAccount, run: environ.Run) -> HookOrders | None:
    hooks = config.hooks
    paths = {name: getattr(hooks, name) for name in ("prolog", "epilog", "task_prolog", "task_epilog")}
    if not any(paths.values()):
        return None
    env = environ.of_hooks(row.spec, run, user=account.name, uid=account.uid, gid=account.gid)
    return HookOrders(
        **{name: None if path is None else str(path) for name, path in paths.items()},
        env=env,
        timeout_s=hooks.timeout_s,
    )


def make_files_dir(config: Config, row: JobRow, account: JobAccount) -> None:
    """Make `$JOB_DIR`, the job's own; a second attempt finds what the first one left.

    Raises:
        RecordDiskError: the disk refuses.
    """
    folder = files_dir(config.state_dir, row.id)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if config.mode is Mode.SYSTEM:
            os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    except OSError as error:
        raise RecordDiskError(f"cannot make the job's folder {folder}: {error.strerror}; see its disk") from error
