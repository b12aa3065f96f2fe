"""Ended jobs that have been kept long enough lose their folder, then their row.

The order is what makes it safe to be cut short anywhere. First the submission's folder is renamed to a name that is no
job's, and the folders of its tasks after it: from then on no rebuild can take the jobs in again, and least of all run
them. Then the contents go, and the rows last: a row without a folder is an ended job of which only the log is gone, and
the next round finds it again. Were the row to go first, a folder would be left that makes it anew.

Users own what is inside: nothing there is followed, and no name of theirs decides where we are.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.api.types import JobState
from agent.jobs.filters import JobFilter
from agent.jobs.store import JobStore

_GOING = ".forgotten-"
_ROUNDS_AT_MOST = 10_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

logger = logging.getLogger(__name__)


def due(store: JobStore, *, before: int, limit: int) -> dict[int, list[int]]:
    """First step: what is to be forgotten, folder → the jobs whose submission it holds; see `JobStore.expired`.

    A job that another one waits for stays: how it ended is still asked for.
    """
    awaited = _awaited(store)
    expired = store.expired(before, limit + len(awaited))
    return dict([(folder_id, ids) for folder_id, ids in expired.items() if awaited.isdisjoint(ids)][:limit])


def remove_folders(state_dir: Path, doomed: Mapping[int, Sequence[int]]) -> None:
    """Second step, which may take long: not on the store's thread. The third is `JobStore.forget`.

    What users had written elsewhere, as `--output` names it, stays. What cannot be removed is named in the log.

    Raises:
        OSError: the disk refuses; do not forget the rows.
    """
    with _opened(state_dir / "jobs") as jobs:
        if jobs is None:
            return
        for folder_id, ids in doomed.items():
            for job_id in [folder_id, *(each for each in ids if each != folder_id)]:
                _take_name(jobs, job_id)
        os.fsync(jobs)
        _sweep(jobs)
    if doomed:
        logger.info("removed the folders of %d submissions that ended long ago", len(doomed))


def _awaited(store: JobStore) -> set[int]:
    waiting = store.find(JobFilter(states=[JobState.PENDING]))
    named = (row.spec.dependency.conditions for row in waiting if row.spec.dependency is not None)
    return {each.job_id for conditions in named for each in conditions if each.job_id is not None}


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(folder, _FOLDER)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take_name(jobs: int, job_id: int) -> None:
    """Under a name of its own each time: what a round left that was cut short may stand at the job's."""
    with suppress(FileNotFoundError):
        os.rename(str(job_id), f"{_GOING}{job_id}-{secrets.token_hex(4)}", src_dir_fd=jobs, dst_dir_fd=jobs)


def _sweep(jobs: int) -> None:
    """Remove what lies under names that were taken away, now or before a crash. What cannot be removed is named."""
    for name in os.listdir(jobs):
        if not name.startswith(_GOING):
            continue
        try:
            remove_tree(jobs, name)
        except OSError as error:
            logger.error("the folder %s of a forgotten job cannot be removed: %s; remove it by hand", name, error)


def remove_tree(parent: int, name: str) -> None:
    """Remove a folder and all in it, following nothing; a folder in it comes up one level before it goes, so that no
    depth is too deep.

    Args:
        parent: descriptor of the folder it is in.
        name: its name there.

    Raises:
        OSError: it cannot be removed, or somebody goes on filling it.
    """
    top = _open_folder(parent, name)
    try:
        for _ in range(_ROUNDS_AT_MOST):
            names = os.listdir(top)  # noqa: PTH208 - by descriptor
            if not names:
                break
            for each in names:
                _remove_or_lift(top, each)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _remove_or_lift(top: int, name: str) -> None:
    """Remove an entry; the folders in a folder are lifted to `top`, under names that nobody can have put there."""
    if not _is_folder(top, name):
        os.unlink(name, dir_fd=top)
        return
    inner = _open_folder(top, name)
    try:
        for each in os.listdir(inner):  # noqa: PTH208
            if _is_folder(inner, each):
                os.close(_open_folder(inner, each))
                os.rename(each, f"{_GOING}{secrets.token_hex(16)}", src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(each, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open_folder(parent: int, name: str) -> int:
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:  # in user mode the job's owner is us, and took the right away
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, 0o700)
    return descriptor
