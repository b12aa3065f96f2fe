"""A job's row brought to where its folder says it is: claims, starts, ends and wishes happen to it once more.

Rules kept here: what cannot happen any more has happened already and is passed over; an attempt that was begun counts
as begun, whatever the row says, so that none is run twice; the end of the run that was last is left to the engine for a
job that the store knew (it has more to do then than to store it), and told here for one that it had lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from agent.api.types import JobState
from agent.engine.claims import attempt_dir, files_dir
from agent.engine.ends import end_event, told_state
from agent.engine.records import AttemptDir, RecordError
from agent.jobs import machine, notes
from agent.jobs.errors import FolderError, IllegalMoveError
from agent.jobs.folder import job_dir, read_cancelled, read_spec
from agent.jobs.machine import Event
from agent.jobs.notes import Note
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore

logger = logging.getLogger(__name__)

_GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
_PARTITION_VARIABLE = "SLURM_JOB_PARTITION"
_RUNNING = (JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING)

_T = TypeVar("_T")


class Replay:
    """Brings the rows of one store up to its folders."""

    def __init__(self, store: JobStore, state_dir: Path, on_disk: Collection[int], *, now: int, boot_id: str) -> None:
        self._store = store
        self._state_dir = state_dir
        self._on_disk = on_disk
        self._now = now
        self._boot_id = boot_id
        self._notes: dict[int, dict[int, list[Note]]] = {}
        self._compared: dict[tuple[int, int], tuple[bool, JobSpec, JobSpec]] = {}
        """By identity; the specs are kept so that no other gets their place in memory."""

    def take_in(self, row: JobRow) -> None:
        """Tell a job that was lost and is PENDING again everything that its folder knows."""
        row = self._amend(row)
        row = self._happen(row, self._old_note(row))
        row = self._wishes(row, attempt=0, running=False)
        attempts = self._attempts(row)
        for attempt in attempts:
            row = self._begin(row, attempt)
            if attempt is not attempts[-1] or self._is_over(row, attempt):
                row = self._finish(row, attempt)

    def bring_up(self, row: JobRow) -> bool:
        """Tell a job that the store knew what its folder knows besides; whether that was anything."""
        before = row.revision
        row = self._amend(row)
        newer = [attempt for attempt in self._attempts(row) if attempt.attempt > row.status.attempt]
        if newer and row.status.state in _RUNNING:
            row = self._finish(row, attempt_dir(self._state_dir, row.id, row.status.attempt))
        for attempt in newer:
            row = self._begin(row, attempt)
            if attempt is not newer[-1]:
                row = self._finish(row, attempt)
        if row.status.state in _RUNNING:
            row = self._wishes(row, attempt=row.status.attempt, running=True)
            row = self._put_back(row)
        if row.status.state not in _RUNNING:
            row = self._last_wish(row)
        return row.revision != before

    def _put_back(self, row: JobRow) -> JobRow:
        """A run that is over, as far as the folder tells by what was asked of the job after it."""
        attempt = attempt_dir(self._state_dir, row.id, row.status.attempt)
        if not any((note.attempt, note.running) == (row.status.attempt, False) for note in self._wishes_of(row)):
            return row
        if self._read(attempt.read_started) is not None or self._read(attempt.read_exit) is not None:
            return self._finish(row, attempt)
        row = self._happen(row, machine.RequeueAsked(by="stoker", reason="it was taken back before it started"))
        return self._happen(row, machine.NeverRan())

    # --- one attempt --------------------------------------------------------------------------------------------------

    def _begin(self, row: JobRow, attempt: AttemptDir) -> JobRow:
        """It was claimed, it started, somebody wished that it ends."""
        claim, started = self._read(attempt.read_claim), self._read(attempt.read_started)
        if claim is None and started is None:
            return row  # its folder was made, and no more
        if row.status.state.is_final:  # who asked for this run is not known any more, and it was begun
            again = machine.RequeueAsked(by="stoker", reason=f"the folder of attempt {attempt.attempt} is there")
            row = self._happen(row, again)
        uuids = claim.env.get(_GPU_VARIABLE, "").split(",") if claim else ()
        at = started.at if started else self._now
        given = claim.env.get(_PARTITION_VARIABLE) if claim and row.names_several else None
        gpu_uuids = tuple(each for each in uuids if each)
        row = self._happen(row, machine.Claimed(attempt=attempt.attempt, gpu_uuids=gpu_uuids, partition=given), at)
        if started is not None:
            row = self._happen(row, machine.Started(at=started.at), at)
        row = self._wishes(row, attempt=attempt.attempt, running=True)
        stop = self._read(attempt.read_stop)
        if stop is not None and stop.why == "cancel" and row.status.wish is None:
            row = self._happen(row, machine.CancelAsked(by=stop.by))
        return row

    def _is_over(self, row: JobRow, attempt: AttemptDir) -> bool:
        """Whether the engine has nothing more to watch: it ended, or something was asked of the job after its end."""
        if self._read(attempt.read_exit) is not None:
            return True
        return any(note.attempt == attempt.attempt and not note.running for note in self._wishes_of(row))

    def _finish(self, row: JobRow, attempt: AttemptDir) -> JobRow:
        """It ended as its record says, or unrecorded; then it was asked for again, or cancelled."""
        end, started = self._read(attempt.read_exit), self._read(attempt.read_started)
        if end is not None:
            told = told_state(files_dir(self._state_dir, row.id), started)
            row = self._happen(row, end_event(end, started, self._boot_id, told), end.ended_at)
        if row.status.state in _RUNNING:
            row = self._happen(row, machine.Lost())
        return self._wishes(row, attempt=attempt.attempt, running=False)

    def _attempts(self, row: JobRow) -> list[AttemptDir]:
        if row.id not in self._on_disk:
            return []
        folder = job_dir(self._state_dir, row.id)
        numbers = sorted(int(each.name) for each in folder.iterdir() if each.name.isdecimal() and each.name.isascii())
        return [attempt_dir(self._state_dir, row.id, number) for number in numbers]

    # --- what was asked -----------------------------------------------------------------------------------------------

    def _amend(self, row: JobRow) -> JobRow:
        """The last change of what it asks for stands."""
        amended = [note for note in self._notes_of(row) if note.spec is not None]
        if not amended:
            return row
        last = amended[-1]
        assert last.spec is not None, "chosen by its spec"
        if self._same(last.spec, row.spec):
            return row
        return self._store.amend(row.id, last.spec, last.at, event=last.event, by=last.by)

    def _same(self, one: JobSpec, other: JobSpec) -> bool:
        """Compared once for all tasks of an array, which share both: their list of tasks may be long."""
        pair = (id(one), id(other))
        if pair not in self._compared:
            self._compared[pair] = (one == other, one, other)
        return self._compared[pair][0]

    def _wishes(self, row: JobRow, *, attempt: int, running: bool) -> JobRow:
        for note in self._wishes_of(row):
            if (note.attempt, note.running) == (attempt, running):
                row = self._happen(row, note.to_event(), note.at)
        return row

    def _last_wish(self, row: JobRow) -> JobRow:
        """Of a job that does not run only the last word counts: it may have been cancelled and requeued many times."""
        attempt = row.status.attempt
        wishes = [note for note in self._wishes_of(row) if (note.attempt, note.running) == (attempt, False)]
        return self._happen(row, wishes[-1].to_event(), wishes[-1].at) if wishes else row

    def _wishes_of(self, row: JobRow) -> list[Note]:
        return [note for note in self._notes_of(row) if note.to_event() is not None]

    def _notes_of(self, row: JobRow) -> list[Note]:
        if row.folder_id not in self._notes:
            self._notes[row.folder_id] = self._read_notes(row.folder_id)
        return self._notes[row.folder_id].get(row.id, [])

    def _read_notes(self, folder_id: int) -> dict[int, list[Note]]:
        found: dict[int, list[Note]] = {}
        folder = job_dir(self._state_dir, folder_id)
        try:
            written = notes.read(folder)
            if any(note.spec is not None and note.spec.array is not None for note in written):
                written = notes.read(folder, read_spec(folder).spec.array)
        except FolderError as error:
            logger.error("%s; what was asked of job %d besides is not known", error, folder_id)
            return found
        for note in written:
            for job_id in note.ids:
                found.setdefault(job_id, []).append(note)
        return found

    def _old_note(self, row: JobRow) -> Event | None:
        """Versions before the notes kept a file for the one wish they knew."""
        try:
            cancelled = read_cancelled(job_dir(self._state_dir, row.id))
        except FolderError as error:
            logger.error("%s", error)
            return None
        return machine.CancelAsked(by=cancelled.by, reason=cancelled.reason) if cancelled else None

    # --- below --------------------------------------------------------------------------------------------------------

    def _happen(self, row: JobRow, event: Event | None, at: int | None = None) -> JobRow:
        when = self._now if at is None else at
        try:
            if event is None or machine.handle(row.status, event, when) == row.status:
                return row
        except IllegalMoveError:
            return row
        return self._store.apply(row.id, event, when)

    def _read(self, read: Callable[[], _T | None]) -> _T | None:
        """A record; one that is damaged tells nothing here, and makes the run a lost one."""
        try:
            return read()
        except RecordError as error:
            logger.error("%s", error)
            return None
