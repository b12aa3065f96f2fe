"""A job's own temporary folder: made before it, removed after it, whatever the job put there.

Rules kept here: everything goes by folder descriptor and no link is followed, so that nothing outside can be reached;
no other file system is entered, so that what a user mounted there is not emptied; no depth of folders costs more than
two descriptors, because a folder's folders are moved up to the top before it is removed; there is a time limit, and
what is left then is for the agent's next start (`set_aside`). Cheap imports only (see `lean`).
"""

# ruff: noqa: PTH102, PTH108

from __future__ import annotations

import errno
import itertools
import os
import time

from agent.jobs.foreign import same_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REMOVE_S = 10.0
"""How long the end of a job may wait for its folder's removal; a million files take about as long."""

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PART = 10_000


def make(path: str, uid: int | None, gid: int | None) -> None:
    """Make the folder anew, the user's alone; its own folder is ours, so nobody can interfere.

    Raises:
        OSError: the disk refuses.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        remove(path)
        os.mkdir(path, 0o700)
    os.chmod(path, 0o700)  # noqa: PTH101  (the umask must not decide)
    if uid is not None and gid is not None:
        os.chown(path, uid, gid, follow_symlinks=False)


def remove(path: str, timeout_s: float = REMOVE_S) -> str | None:
    """Remove the folder with all that is in it; `None` when nothing is left, else why something is."""
    give_up_at = time.monotonic() + timeout_s
    above, _, name = path.rpartition("/")
    try:
        parent = os.open(above, _OPEN)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _left(path, error)
    try:
        if not _was_empty(parent, name):
            _remove(parent, name, give_up_at)
        return None
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        os.unlink(path)
        return None
    except OSError as error:
        return _left(path, error)
    finally:
        os.close(parent)


def set_aside(jobs_dir: str, running: set[int]) -> list[str]:
    """Rename the folders that crashes left behind, so that new ones may take their names; returns what to `remove`.

    Quick, for before the first job of an agent's life starts; the removal may take its time while others run.

    Args:
        jobs_dir: the folder of the job folders.
        running: ids of the jobs whose folder must stay.
    """
    found = []
    for name in os.listdir(jobs_dir) if os.path.isdir(jobs_dir) else ():  # noqa: PTH112, PTH208
        path = os.path.join(jobs_dir, name, "tmp")  # noqa: PTH118
        if not name.isdecimal() or int(name) in running:
            continue
        try:  # noqa: SIM105 - contextlib is not worth its import in a shim
            os.rename(path, f"{path}.old")  # noqa: PTH104
        except OSError:  # there is none; or one of an earlier crash still is, and the next start takes this one
            pass
        if os.path.lexists(f"{path}.old"):
            found.append(f"{path}.old")
    return found


def _left(path: str, error: OSError) -> str:
    return f"its temporary folder {path} is not removed whole: {error.strerror or error}"


def _was_empty(parent: int, name: str) -> bool:
    """Whether it was, and is removed by that: most jobs leave nothing in it. A mount, or a link, is none."""
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _remove(parent: int, name: str, give_up_at: float) -> None:
    """Remove a folder. A folder in it is emptied in its turn, after its own folders have been moved up beside it."""
    numbers = itertools.count(1)

    def clear(top: int, entry: str) -> None:
        _empty(top, entry, give_up_at, lambda folder, deeper: _move_up(folder, deeper, top, numbers))

    _empty(parent, name, give_up_at, clear)


def _empty(parent: int, name: str, give_up_at: float, see_to: Callable[[int, str], None]) -> None:
    """Remove a folder of `parent`, after `see_to` has taken each folder (descriptor of where it is, name) out of it."""
    folder = _enter(parent, name)
    try:
        while entries := _entries(folder):
            for entry, is_folder in entries:
                _hurry(give_up_at)
                if is_folder:
                    see_to(folder, entry)
                else:
                    os.unlink(entry, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def _move_up(folder: int, name: str, top: int, numbers: Iterator[int]) -> None:
    """Rename into the top folder, to the next number that is free."""
    os.close(_pin(folder, name))
    for number in numbers:
        try:
            os.rename(name, f".stoker-{number}", src_dir_fd=folder, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        else:
            return


def _enter(folder: int, name: str) -> int:
    """Open a folder in `folder`.

    Raises:
        OSError: it cannot be entered, or is a mount.
    """
    os.close(_pin(folder, name))
    return os.open(name, _OPEN, dir_fd=folder)


def _pin(folder: int, name: str) -> int:
    """Hold a folder in `folder` that is on the same mount, with the rights on it that an ordinary account needs."""
    pin = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    if not same_mount(pin, folder):  # before anything that a file system of the user's would be asked to answer
        os.close(pin)
        raise OSError(f"another file system is mounted on {name!r} in it")
    if os.fstat(pin).st_mode & 0o700 != 0o700:
        os.chmod(f"/proc/self/fd/{pin}", 0o700)  # noqa: PTH101
    return pin


def _entries(folder: int) -> list[tuple[str, bool]]:
    """Names in a folder, and whether each is one; a big folder comes in parts."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found.append((entry.name, entry.is_dir(follow_symlinks=False)))
            if len(found) == _PART:
                break
    return found


def _hurry(give_up_at: float) -> None:
    if time.monotonic() > give_up_at:
        raise TimeoutError("it holds more than could be removed in time")
