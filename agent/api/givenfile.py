"""Reading a file that somebody named: plain files alone, to a bound, without ever waiting for a writer.

The one home for this on our side of `licensing`, which knows nobody and has its own (`licensing.files.read_given`).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class NotPlainError(OSError):
    """A pipe, a socket or a device: what is read there may never come, or never end."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "it is a pipe, a socket or a device, and not a plain file")


def read_given(path: Path, most: int) -> bytes:
    """The file's bytes: `most` of them, and one more where there are more, for the caller to refuse.

    Raises:
        NotPlainError, OSError: it cannot be read; `strerror` says why.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise NotPlainError
        return file.read(most + 1)
