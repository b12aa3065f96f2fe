"""Files that are whole or absent after a power cut: temporary name → fsync → rename → fsync of the folder; and lines
that are added to a file for good.

Nothing that stands at a name already is followed; the umask does not decide a mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GROW = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def write_durably(
    path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None = None, sync_folder_too: bool = True
) -> None:
    """Put a file in place so that after a power cut it is whole or absent.

    Raises:
        OSError: it could not be written; the name holds what it held before.
    """
    write_whole(path, data, mode=mode, owner=owner, flush=True)
    if sync_folder_too:
        sync_folder(path.parent)


def write_whole(
    path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None = None, flush: bool = False
) -> None:
    """Put a file in place so that whoever reads it has the whole of it. Without `flush` a power cut may tear it.

    Raises:
        OSError: it could not be written; the name holds what it held before.
    """
    final = os.fspath(path)
    folder, name = os.path.split(final)
    temporary = f"{folder}/.{name}.tmp"
    descriptor = _new(temporary, mode)
    try:
        try:
            os.fchmod(descriptor, mode)  # the umask must not decide
            if owner is not None:
                os.fchown(descriptor, *owner)
            _write_all(descriptor, data)
            if flush:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, final)  # noqa: PTH104
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def _new(path: str, mode: int) -> int:
    """A new file; what an earlier try left at its name makes way."""
    try:
        return os.open(path, _NEW, mode)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108
        return os.open(path, _NEW, mode)


def append_durably(path: Path, lines: bytes, *, mode: int) -> int:
    """Add whole lines to the end of a file; on return they are on disk.

    A line that a power cut tore is left as it is, and the new ones begin behind it on a line of their own.

    Returns:
        Where they begin.

    Raises:
        OSError: they could not be written; the file ends where it ended before, as far as the disk lets us.
    """
    descriptor = os.open(path, _GROW, mode)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        try:
            _write_all(descriptor, b"\n" * torn + lines)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if size == 0:
        sync_folder(path.parent)
    return size + torn


def change_durably(path: Path, before: bytes, after: bytes, places: Iterable[int]) -> None:
    """Put one byte in place of another in a file that is there; where neither stands, nothing is changed.

    Needs no room on a disk that is full. It is written also where it stands already: a first try that the disk refused
    reads well, and is not there after a power cut.

    Raises:
        OSError: it could not be written; some places may be changed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for place in places:
            if os.pread(descriptor, 1, place) in (before, after):
                os.pwrite(descriptor, after, place)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable: a rename in it, or a folder made in it.

    Raises:
        OSError: the disk refuses.
    """
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make durable what is in a file.

    Raises:
        OSError: the disk refuses.
    """
    _sync(path, os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
