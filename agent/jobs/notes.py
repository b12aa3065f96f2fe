"""What was asked of a job, beside its submission: `jobs/FOLDER/notes`, where a damaged database cannot take it along.

One line of JSON for each wish, in the order in which they came; one line for many tasks of an array where they were
asked the same. How a run went is not here but in its own records, `jobs/ID/ATTEMPT`.

Rules kept here: a line is on disk before the row that it explains, and marked until that row is committed
(`promises`); what is marked was never stored and is passed over, as is a line that a crash tore, which was never
answered for, and one that cannot be understood, loudly; nothing is ever changed but by a later line.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import msgspec

from agent.api.decode import decode
from agent.jobs.durable import append_durably, change_durably
from agent.jobs.errors import FolderError
from agent.jobs.machine import CancelAsked, Event, Expired, RequeueAsked
from agent.jobs.spec import ArraySpec, JobSpec

_NAME = "notes"
_NOT_YET, _HOLDS = b"?", b" "
"""The first byte of a line. A line of an older version has none, and holds."""

logger = logging.getLogger(__name__)


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One wish, and whom it is for."""

    at: int
    """Unix seconds."""
    event: str
    """`CancelAsked`, `RequeueAsked`, `Expired`, or the name of a change of the spec: `Held`, `Updated`, …"""
    ids: tuple[int, ...]
    """Jobs of the folder's submission."""
    attempt: int = 0
    """The run they had begun last."""
    running: bool = False
    """Asked of that run; else of jobs that waited, or had ended."""
    by: str = ""
    reason: str | None = None
    spec: JobSpec | None = None
    """What they ask for from now on; the tasks of the array are left out, they do not change."""

    def to_event(self) -> Event | None:
        """What happened to the jobs; `None` for a change of the spec, and for a word of a later version."""
        match self.event:
            case "CancelAsked":
                return CancelAsked(by=self.by, reason=self.reason)
            case "RequeueAsked":
                return RequeueAsked(by=self.by, reason=self.reason)
            case "Expired":
                return Expired()
            case _:
                return None


def noted(event: Event) -> bool:
    """Whether an event is a wish that only a note can tell of; of all others the records of the run tell."""
    return isinstance(event, CancelAsked | RequeueAsked | Expired)


def append(folder: Path, notes: Sequence[Note]) -> tuple[int, ...]:
    """Add notes to a submission's folder, with one flush. They count once `confirm` was called.

    Returns:
        Where they begin.

    Raises:
        OSError: the disk is full or read-only; none was added.
    """
    lines = [_NOT_YET + msgspec.json.encode(_without_tasks(note)) + b"\n" for note in notes]
    begin = append_durably(folder / _NAME, b"".join(lines), mode=0o600)
    return tuple(accumulate((len(line) for line in lines[:-1]), initial=begin))


def confirm(folder: Path, places: Sequence[int]) -> None:
    """Let notes count that `append` added: what they tell of is stored. Done again, it changes nothing.

    Raises:
        OSError: the disk refuses.
    """
    change_durably(folder / _NAME, _NOT_YET, _HOLDS, places)


def read(folder: Path, array: ArraySpec | None = None) -> list[Note]:
    """The notes of a submission's folder, in order; none is no error.

    Args:
        folder: `jobs/FOLDER`.
        array: the submission's; its tasks are put back into the specs.

    Raises:
        FolderError: they are there and cannot be read.
    """
    try:
        data = (folder / _NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FolderError(f"cannot read {folder / _NAME}: {error}") from error
    *lines, _torn = data.split(b"\n")
    numbered = ((number, line) for number, line in enumerate(lines, 1) if not line.startswith(_NOT_YET))
    return [_with_tasks(note, array) for number, line in numbered if (note := _note(folder, number, line))]


def _note(folder: Path, number: int, line: bytes) -> Note | None:
    try:
        return decode(line, Note)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.error("line %d of %s is damaged and is passed over: %s", number, folder / _NAME, error)
        return None


def _without_tasks(note: Note) -> Note:
    if note.spec is None or note.spec.array is None:
        return note
    array = msgspec.structs.replace(note.spec.array, tasks=())
    return msgspec.structs.replace(note, spec=msgspec.structs.replace(note.spec, array=array))


def _with_tasks(note: Note, array: ArraySpec | None) -> Note:
    if note.spec is None or note.spec.array is None or array is None:
        return note
    whole = msgspec.structs.replace(note.spec.array, tasks=array.tasks)
    return msgspec.structs.replace(note, spec=msgspec.structs.replace(note.spec, array=whole))
