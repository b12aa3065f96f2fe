"""Writing a file so that after a crash it is either the old one or the new one, whole; reading one that was named.

Rules kept here: what a command is given to read is a plain file; where it takes standard input for `-`, also a pipe
that somebody writes to. All is read to a bound, and a pipe waited for only so long: one without a writer never ends.
"""

from __future__ import annotations

import codecs
import errno
import os
import select
import stat
import sys
import tempfile
import time
from pathlib import Path

STDIN = "-"
_PIPE_S = 5.0
"""How long somebody may take to write all into a pipe."""


def read_given(name: str | Path, most: int) -> bytes:
    """The bytes of a file, `most` of them, and one more where there are more, for the caller to refuse.

    Raises:
        OSError: it cannot be read; `strerror` says why, also that it is no plain file.
    """
    return _read(name, most, pipes=False)


def read_given_or_stdin(name: str | Path, most: int) -> bytes:
    """The same, also of a pipe, as `<(…)` of a shell is one; `-` is standard input, which somebody may paste into.

    Raises:
        OSError: it cannot be read.
    """
    if str(name) != STDIN:
        return _read(name, most, pipes=True)
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    if sys.stdin.isatty():
        print("paste it, then press Ctrl-D on a line of its own", file=sys.stderr)
    return sys.stdin.buffer.read(most + 1)


def _read(name: str | Path, most: int, *, pipes: bool) -> bytes:
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if pipes and stat.S_ISFIFO(mode):
            return _through_pipe(handle, most)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and not a plain file")
        return file.read(most + 1)


def _through_pipe(handle: int, most: int) -> bytes:
    """What comes until the last writer closes it, or one byte more than `most`."""
    data, until = bytearray(), time.monotonic() + _PIPE_S
    ready = select.poll()
    ready.register(handle, select.POLLIN)
    while len(data) <= most:
        try:
            piece = os.read(handle, most + 1 - len(data))
        except BlockingIOError:
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                raise OSError(errno.ETIMEDOUT, f"it is a pipe, and not all was written within {_PIPE_S:g} s") from None
            continue
        if not piece:
            break
        data += piece
    if not data:
        raise OSError(errno.EINVAL, "it is a pipe that nobody writes to, and not a plain file")
    return bytes(data)


def as_text(data: bytes) -> str:
    """The text of a file that was named: UTF-8, or UTF-16 where a mark says so, as some editors and shells write it.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def refuse_target(name: str | Path) -> None:
    """See that a new file can be written there, before anything is done that cannot be undone; `-` always can.

    Raises:
        OSError: it cannot: something is there, or the folder is none or may not be written.
    """
    path = Path(name)
    if str(name) == STDIN:
        return
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if not stat.S_ISDIR(path.parent.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def origin(name: str | Path) -> str:
    """What a refusal calls it."""
    return "standard input" if str(name) == STDIN else str(name)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` at `path`: temp → fsync → rename → fsync(dir).

    Raises:
        OSError: nothing was changed.
    """
    temp = _write_temp(path, data, mode)
    try:
        temp.replace(path)
    except OSError:
        temp.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Take `path` away, for good: unlink → fsync(dir). What is not there is gone already.

    Raises:
        OSError: it may still be there after a crash.
    """
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def create_new(path: Path, data: bytes, *, mode: int) -> None:
    """Put `data` at `path` unless something is there; the file appears whole or not at all.

    Raises:
        FileExistsError: something is there.
        OSError: nothing was changed.
    """
    temp = _write_temp(path, data, mode)
    try:
        path.hardlink_to(temp)
    finally:
        temp.unlink(missing_ok=True)
    _sync_folder(path.parent)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `NAME.damaged-TIME`, so that nothing is thrown away; gives its new place.

    TIME is when the file was last changed, in Unix seconds; files that share it are numbered.

    Raises:
        OSError: it stays where it is.
    """
    plain = f"{path.name}.damaged-{int(path.lstat().st_mtime)}"
    aside, number = path.with_name(plain), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{plain}.{number}")
    path.rename(aside)
    return aside


def _write_temp(path: Path, data: bytes, mode: int) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
