"""What can go wrong with a job before it runs.

StokerError
├── SpecError             the script, a flag or a variable cannot be honoured; names which, and where
├── IllegalMoveError      the event cannot happen in the job's state; carries the job's history
├── FolderError           a job folder cannot be read, or was written by something else
└── StoreError            the job store refused
    ├── NoSuchJobError        no job has this id
    │   └── ForgottenJobError     it had: its folder went, and its row is about to
    ├── KeyConflictError      the idempotency key came before, with another request
    ├── StaleJobError         the job changed since the caller looked
    ├── GpuHeldError          another job holds the GPU
    ├── ReadOnlyStoreError    its disk takes no writes
    ├── StoreLockedError      another process holds the store
    └── NewerSchemaError      a newer Stoker wrote it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.api.errors import StokerError

if TYPE_CHECKING:
    from agent.jobs.machine import Event, Status


class SpecError(StokerError):
    """A job cannot be accepted as asked.

    `field` says where the bad value stands: `train.sh:7`, `--gres`, `SBATCH_TIMELIMIT`, or a field of the request
    such as `$.work_dir`.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class IllegalMoveError(StokerError):
    """The event cannot happen in this state. The caller holds an old view, or has a bug: the history tells which."""

    def __init__(self, status: Status, event: Event, history: Sequence[str] = ()) -> None:
        what = f"{type(event).__name__} cannot happen to a job that is {status.state}"
        super().__init__(f"{what}; so far: {'; '.join(history)}" if history else what)
        self.status = status
        self.event = event
        self.history = tuple(history)


class FolderError(StokerError):
    """A job folder cannot be read, or what is in it is not ours."""


class StoreError(StokerError):
    """The job store refused."""


class NoSuchJobError(StoreError):
    """No job has this id; `17_3` names a task that its array does not have."""

    def __init__(self, job_id: int | str) -> None:
        super().__init__(f"there is no job {job_id}")
        self.job_id = job_id


class ForgottenJobError(NoSuchJobError):
    """Its folder was removed, for it ended long ago; its row goes with the next round of `retention`."""

    def __init__(self, job_id: int) -> None:
        super().__init__(job_id)
        self.args = (f"job {job_id} ended longer ago than jobs are kept, and its script is removed: submit it anew",)


class KeyConflictError(StoreError):
    """The idempotency key came before, with another request: a retry must repeat the same bytes."""

    def __init__(self, key: str, job_id: int) -> None:
        super().__init__(f"the idempotency key {key!r} was used for job {job_id} with another request; use a new key")
        self.key = key
        self.job_id = job_id


class StaleJobError(StoreError):
    """The job changed since the caller looked; `revision` is the one it has now."""

    def __init__(self, job_id: int, revision: int) -> None:
        super().__init__(f"job {job_id} has changed meanwhile; look again and repeat")
        self.job_id = job_id
        self.revision = revision


class GpuHeldError(StoreError):
    """A claim named a GPU that another job holds: the scheduler's view was old."""

    def __init__(self, job_id: int, gpu_uuid: str, holder: int) -> None:
        super().__init__(f"job {job_id} cannot have GPU {gpu_uuid}: job {holder} holds it")
        self.job_id = job_id
        self.gpu_uuid = gpu_uuid
        self.holder = holder


class ReadOnlyStoreError(StoreError):
    """The disk of the store takes no writes: it is shown from memory and changed by nobody."""


class StoreLockedError(StoreError):
    """Another process holds the store."""


class NewerSchemaError(StoreError):
    """A newer Stoker wrote the store; this one would misread it."""
