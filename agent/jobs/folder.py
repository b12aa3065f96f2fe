"""The job folder `jobs/ID`: what was submitted, kept where a damaged database cannot take it along.

    jobs/ID/script     the script's bytes, which the shim executes; mended from `spec` if a power cut tore it
    jobs/ID/spec       a `Submission` as JSON; there once the submission is complete, and stored
    jobs/ID/spec.new   the same before it is stored: see `promises`
    jobs/ID/cancelled  written by older versions: who cancelled it while it waited (now among the `notes`)

Rules kept here: whoever reads a file has the whole of it (temporary name → rename); what a power cut tears before
`flush` is mended from the store (`promises`); `spec` comes last, so a folder without it was never stored; names are
ids, never text from outside; nothing that stands at a name already is followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.api.decode import decode
from agent.jobs.durable import sync_file, sync_folder, write_whole
from agent.jobs.errors import FolderError
from agent.jobs.row import JobRow, new_rows
from agent.jobs.spec import JobSpec

_PASSABLE = 0o711
"""The job's user must reach `script`, and need not see what else is there."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A job, or an array of them, as it was accepted; all that is needed to make its rows again."""

    id: int
    user: str
    uid: int
    key: str | None
    digest: str
    submitted_at: int
    spec: JobSpec
    env: dict[str, str]
    """The submitter's environment, whole; kept here and not in the database, where it would be most of its bytes."""
    script: str | None = None
    """The script once more: one file that is flushed holds all that was accepted. `None`: an older version wrote it."""
    cron_id: int | None = None

    def rows(self) -> list[JobRow]:
        """The rows it stands for, as they were when it was accepted: one, or one for each task of its array."""
        return new_rows(
            self.id,
            self.spec,
            user=self.user,
            uid=self.uid,
            key=self.key,
            digest=self.digest,
            submitted_at=self.submitted_at,
            cron_id=self.cron_id,
        )


def job_dir(state_dir: Path, job_id: int) -> Path:
    """The folder of a job."""
    return state_dir / "jobs" / str(job_id)


def write_spec(folder: Path, submission: Submission, *, owner: tuple[int, int] | None = None) -> None:
    """Write a submission; it counts once `confirm` was called. Done again, it replaces what a first try left.

    It is not brought to the disk, which is for the store to do, and for `flush`.

    Args:
        folder: `job_dir(…)`; made when missing.
        submission: goes to `spec.new`, readable by the agent alone: it holds the user's environment; its script goes to
            `script`, executable.
        owner: uid and gid of the script; `None` leaves it to the caller's own account.

    Raises:
        OSError: the disk is full or read-only; nothing was accepted.
    """
    for each in (folder.parent, folder):
        each.mkdir(parents=True, exist_ok=True)
        each.chmod(_PASSABLE)  # the umask must not decide
    _write_script(folder, submission, owner)
    write_whole(folder / "spec.new", msgspec.json.encode(submission), mode=0o600)


def confirm(folder: Path) -> None:
    """Let a submission count that was written: it is stored. Done again, it changes nothing.

    Raises:
        OSError: the disk refuses.
    """
    with suppress(FileNotFoundError):
        (folder / "spec.new").rename(folder / "spec")


def flush(folders: Sequence[Path]) -> dict[Path, OSError]:
    """Bring submissions to the disk: each file, its folder, and once for all of them what holds the folders.

    Nothing is tried twice: after a refusal the kernel takes the pages for written, and a second fsync tells nothing.

    Returns:
        Those that the disk refused, and why. One that is gone was forgotten since, and is none of them.
    """
    refused: dict[Path, OSError] = {}
    for each in folders:
        try:
            sync_file(each / "spec")
            sync_folder(each)
        except FileNotFoundError:
            continue
        except OSError as error:
            refused[each] = error
    for parent in {each.parent for each in folders}:
        try:
            sync_folder(parent)
        except OSError as error:
            refused |= {each: error for each in folders if each.parent == parent}
    return refused


def is_there(state_dir: Path, job_id: int) -> bool:
    """Whether a submission's folder holds it, stored or about to be."""
    where = job_dir(state_dir, job_id)
    return (where / "spec").exists() or is_unconfirmed(where)


def is_unconfirmed(folder: Path) -> bool:
    """Whether a submission was written and does not count yet."""
    return (folder / "spec.new").exists()


def mend_script(folder: Path, submission: Submission, *, owner: tuple[int, int] | None = None) -> None:
    """Make `script` what was submitted, where it is not: a power cut came before the disk had it, or it was changed.

    Raises:
        OSError: the disk refuses.
    """
    if submission.script is not None and not _holds(folder / "script", submission.script.encode()):
        _write_script(folder, submission, owner)


def _write_script(folder: Path, submission: Submission, owner: tuple[int, int] | None) -> None:
    write_whole(folder / "script", (submission.script or "").encode(), mode=0o500, owner=owner)


def _holds(path: Path, data: bytes) -> bool:
    """Whether a file has these bytes; one that its owner made huge is not read."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(len(data) + 1) == data
    except FileNotFoundError:
        return False


def read_spec(folder: Path) -> Submission:
    """Read a submission back.

    Raises:
        FolderError: there is none, or it is damaged.
    """
    try:
        return decode((folder / "spec").read_bytes(), Submission)
    except (OSError, msgspec.DecodeError) as error:
        raise FolderError(f"cannot read the stored submission {folder / 'spec'}: {error}") from error


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was cancelled while it waited, as versions before `notes` stored it."""

    by: str
    at: int
    reason: str | None = None


def read_cancelled(folder: Path) -> Cancelled | None:
    """What an older version left, if it did.

    Raises:
        FolderError: it is damaged.
    """
    try:
        return decode((folder / "cancelled").read_bytes(), Cancelled)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FolderError(f"cannot read {folder / 'cancelled'}: {error}") from error


def submissions(state_dir: Path) -> Iterator[Submission | FolderError]:
    """Every stored submission in the order of ids; what cannot be read comes as the error that says why."""
    for folder in sorted((each for each in _entries(state_dir / "jobs") if each.name.isdecimal()), key=_id_of):
        if not (folder / "spec").exists():
            continue
        try:
            yield read_spec(folder)
        except FolderError as error:
            yield error


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _id_of(folder: Path) -> int:
    return int(folder.name)
