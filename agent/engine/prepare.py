"""The claim of a job that is about to start, written to its attempt's folder. Files only: runs in any thread."""

from __future__ import annotations

import time

from agent.config import Config, Mode
from agent.engine.accept import Resources
from agent.engine.claims import GpuDevice, Grant, JobAccount, account_of, build_claim, make_files_dir
from agent.engine.records import AttemptDir, RecordDiskError, RecordError
from agent.jobs import folder
from agent.jobs.environ import ArrayTask
from agent.jobs.row import JobRow
from agent.step import tools


def prepare(config: Config, row: JobRow, attempt: AttemptDir, resources: Resources) -> None:
    """Write the claim, unless an earlier agent did: a relaunch must not change what a late shim would read. One that a
    power cut tore is none: nobody reads it.

    Raises:
        RecordDiskError: the disk refuses.
        StokerError: the job can never be started: its account has gone, its submission is damaged, a limit that the
            configuration insists on cannot be had.
    """
    if _is_claimed(attempt):
        return
    account = account_of(row.uid)
    submission = _submission(config, row, account)
    if row.folder_id != row.id:
        attempt.make()  # and with it the folder of an array's task
    make_files_dir(config, row, account)
    attempt.create(build_claim(config, row, account, submission.env, grant_of(row, resources, _tools(config))))


def _is_claimed(attempt: AttemptDir) -> bool:
    try:
        return attempt.read_claim() is not None
    except RecordDiskError:
        raise
    except RecordError:
        if attempt.has_begun():
            raise
        return False


def _submission(config: Config, row: JobRow, account: JobAccount) -> folder.Submission:
    """What was submitted, its script in place."""
    job_dir = folder.job_dir(config.state_dir, row.folder_id)
    submission = folder.read_spec(job_dir)
    owner = (account.uid, account.gid) if config.mode is Mode.SYSTEM else None
    try:
        folder.mend_script(job_dir, submission, owner=owner)
    except OSError as error:
        raise RecordDiskError(f"cannot read or mend {job_dir}/script: {error.strerror}; see its disk") from error
    return submission


def grant_of(row: JobRow, resources: Resources, tools_dir: str | None = None) -> Grant:
    """What a claim gives to the job, besides what its row says."""
    devices = [
        GpuDevice(
            uuid=gpu.uuid,
            index=gpu.index,
            minor=resources.minors.get(gpu.uuid),
            mig=resources.mig_ids.get(gpu.uuid),
        )
        for gpu in resources.gpus
    ]
    known = {each.uuid: each for each in devices}
    array = None
    if row.array_job_id is not None and row.array_task_id is not None:
        array = ArrayTask(job_id=row.array_job_id, task_id=row.array_task_id)
    return Grant(
        gpus=[known.get(uuid) or GpuDevice(uuid=uuid, index=-1, minor=None) for uuid in row.status.gpu_uuids],
        others=[each for each in devices if each.uuid not in row.status.gpu_uuids],
        array=array,
        folder_id=row.folder_id,
        at=int(time.time()),
        tools_dir=tools_dir,
    )


def _tools(config: Config) -> str | None:
    """The folder of Slurm's names, if it could be written at the start."""
    folder = tools.folder(config.state_dir)
    return str(folder) if folder.is_dir() else None
