"""From a claimed job to the claim its shim obeys: account, environment, files, limits. Nothing is started here."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.api.errors import StokerError
from agent.config import Config, Mode
from agent.engine.records import AttemptDir, Claim
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


def account_of(uid: int) -> pwd.struct_passwd:
    """The account with this uid.

    Raises:
        AccountError: there is none.
    """
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise AccountError(f"no account has uid {uid} on this node; create it, then submit again") from error


def build_claim(
    config: Config, row: JobRow, submitted_env: Mapping[str, str], gpus: Sequence[tuple[str, int]]
) -> Claim:
    """The claim of the row's current attempt.

    Args:
        config: limits and mode.
        row: a claimed job.
        submitted_env: the submitter's environment.
        gpus: UUID and NVML index of each GPU it was given.

    Raises:
        AccountError: its account has gone.
    """
    spec, attempt = row.spec, row.status.attempt
    account = account_of(row.uid)
    switch = config.mode is Mode.SYSTEM
    names = environ.pattern_names(spec, job_id=row.id, user=row.user, node=config.name)
    run = environ.Run(
        job_id=row.id,
        attempt=attempt,
        node=config.name,
        cluster=config.cluster,
        job_dir=str(files_dir(config.state_dir, row.id)),
        gpus=gpus,
    )
    who = environ.Account(name=account.pw_name, uid=account.pw_uid, home=account.pw_dir, shell=account.pw_shell)
    return Claim(
        argv=(str(job_dir(config.state_dir, row.id) / "script"), *spec.args),
        env=environ.build(spec, submitted_env, who, run),
        work_dir=spec.work_dir,
        umask=spec.umask,
        uid=account.pw_uid if switch else None,
        gid=account.pw_gid if switch else None,
        groups=tuple(os.getgrouplist(account.pw_name, account.pw_gid)) if switch else None,
        time_limit_s=spec.time_limit_s,
        grace_s=config.jobs.grace_s,
        output_path=environ.output_path(spec, names),
        error_path=environ.error_path(spec, names) if spec.error else None,
        open_mode="append" if environ.open_mode(spec, attempt) == "append" else "truncate",
        log_head_bytes=config.jobs.log_head_bytes,
        log_tail_bytes=config.jobs.log_tail_bytes,
        output_max_bytes=config.jobs.output_max_bytes,
        cpus_per_task=spec.cpus_per_task,
        memory_bytes=spec.memory_bytes,
    )


def make_files_dir(config: Config, row: JobRow) -> None:
    """Make `$JOB_DIR`, the job's own; a second attempt finds what the first one left.

    Raises:
        OSError: the disk refuses.
    """
    folder = files_dir(config.state_dir, row.id)
    folder.mkdir(mode=0o700, exist_ok=True)
    if config.mode is Mode.SYSTEM:
        account = account_of(row.uid)
        os.chown(folder, account.pw_uid, account.pw_gid, follow_symlinks=False)
