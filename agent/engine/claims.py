"""From a claimed job to the claim its shim obeys: account, environment, files, limits. Nothing is started here."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.api.errors import StokerError
from agent.config import Config, Mode
from agent.engine.records import AttemptDir, Claim, RecordDiskError
from agent.jobs import environ
from agent.jobs.folder import job_dir
from agent.jobs.row import JobRow


class AccountError(StokerError):
    """The account a job belongs to is not there any more."""


def attempt_dir(state_dir: Path, job_id: int, attempt: int) -> AttemptDir:
    """The record folder of one attempt."""
    return AttemptDir(job_dir(state_dir, job_id) / str(attempt))


def files_dir(state_dir: Path, job_id: int) -> Path:
    """The folder that is the job's own, `$JOB_DIR`: metrics, checkpoints, results. Our records are not in it."""
    return job_dir(state_dir, job_id) / "files"


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
    gpus: Sequence[tuple[str, int]],
) -> Claim:
    """The claim of the row's current attempt.

    Args:
        config: limits and mode.
        row: a claimed job.
        account: whom it belongs to.
        submitted_env: the submitter's environment.
        gpus: UUID and NVML index of each GPU it was given.
    """
    spec, attempt, limits = row.spec, row.status.attempt, config.jobs
    switch = config.mode is Mode.SYSTEM
    names = environ.pattern_names(spec, job_id=row.id, user=row.user, node=config.name)
    return Claim(
        argv=(str(job_dir(config.state_dir, row.id) / "script"), *spec.args),
        env=_environment(config, row, account, submitted_env, gpus),
        work_dir=spec.work_dir,
        umask=spec.umask,
        uid=account.uid if switch else None,
        gid=account.gid if switch else None,
        groups=account.groups if switch else None,
        time_limit_s=spec.time_limit_s,
        grace_s=limits.grace_s,
        output_path=environ.output_path(spec, names),
        error_path=environ.error_path(spec, names) if spec.error else None,
        open_mode="append" if environ.open_mode(spec, attempt) == "append" else "truncate",
        log_head_bytes=limits.log_head_bytes,
        log_tail_bytes=limits.log_tail_bytes,
        output_max_bytes=limits.output_max_bytes,
        cpus_per_task=spec.cpus_per_task if spec.cpus_said else None,
        memory_bytes=spec.memory_bytes,
    )


def _environment(
    config: Config,
    row: JobRow,
    account: JobAccount,
    submitted_env: Mapping[str, str],
    gpus: Sequence[tuple[str, int]],
) -> dict[str, str]:
    run = environ.Run(
        job_id=row.id,
        attempt=row.status.attempt,
        node=config.name,
        cluster=config.cluster,
        job_dir=str(files_dir(config.state_dir, row.id)),
        gpus=gpus,
    )
    who = environ.Account(name=account.name, uid=account.uid, home=account.home, shell=account.shell)
    return environ.build(row.spec, submitted_env, who, run)


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
