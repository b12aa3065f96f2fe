"""Files of a folder that belongs to somebody else, read without trusting it.

Whoever owns the folder may put anything at any name, at any moment: a link to /etc/shadow, a fifo that nobody writes, a
device, a terabyte, a file system of its own whose reads never return. Rules kept here: a name is pinned first without
opening it (O_PATH | O_NOFOLLOW), looked at, and only then read; it must be a regular file on the folder's own mount
that belongs to the folder's owner; at most so many bytes are read. So no read blocks, and none tells of a file that is
not the owner's.

Used by the shim as well as the agent: nothing but cheap imports here (see `agent.engine.lean`).
"""

from __future__ import annotations

import os
import stat

_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class ForeignError(Exception):
    """What stands at a name is not a file that may be read; the message says what it is."""


class Part:
    """Bytes of a file."""

    __slots__ = ("data", "identity", "modified_at", "whole")

    def __init__(self, data: bytes, whole: bool, facts: os.stat_result) -> None:
        self.data = data
        self.whole = whole
        """Nothing was left out."""
        self.modified_at = facts.st_mtime
        """Unix seconds."""
        self.identity = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        """Changes with every writing of the file."""


def open_folder(path: str) -> int:
    """Pin a folder that somebody else owns; its own parent must be ours. Close it.

    Raises:
        ForeignError: it is a link, or a mount of its own.
        OSError: there is none.
    """
    parent = os.open(os.path.dirname(path), _PIN | os.O_DIRECTORY)  # noqa: PTH120
    try:
        folder = os.open(os.path.basename(path), _PIN | os.O_DIRECTORY, dir_fd=parent)  # noqa: PTH119
        if _mount_of(folder) == _mount_of(parent):
            return folder
        os.close(folder)
        raise ForeignError("a file system is mounted on it")
    finally:
        os.close(parent)


def read_part(folder: int, name: str, most: int, *, tail: bool = False) -> Part | None:
    """Up to `most` bytes of a file, its first or its last ones; `None` when there is none.

    Args:
        folder: from `open_folder`.
        name: no path.
        most: bytes.
        tail: the last ones.

    Raises:
        ForeignError: something else is there.
        OSError: it cannot be read.
    """
    try:
        pin = os.open(name, _PIN, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        _check(folder, pin)
        fd = os.open(f"/proc/self/fd/{pin}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(pin)
    try:
        facts = os.fstat(fd)
        begin = max(0, facts.st_size - most) if tail else 0
        data = os.pread(fd, most, begin)
        return Part(data, begin == 0 and len(data) >= facts.st_size, facts)
    finally:
        os.close(fd)


def same_mount(one: int, other: int) -> bool:
    """Whether two descriptors are on one mount."""
    return _mount_of(one) == _mount_of(other)


def _check(folder: int, pin: int) -> None:
    if not same_mount(folder, pin):  # before fstat(2), which a file system of the owner's would be asked to answer
        raise ForeignError("a file system is mounted on it")
    facts = os.fstat(pin)
    if not stat.S_ISREG(facts.st_mode):
        raise ForeignError(f"it is {_kind(facts.st_mode)} and not a file")
    if facts.st_uid != os.fstat(folder).st_uid:
        raise ForeignError("it belongs to somebody else than its folder")


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a fifo" if stat.S_ISFIFO(mode) else "a device or socket"


def _mount_of(fd: int) -> bytes:
    """The id of its mount, proc_pid_fdinfo(5): told by the kernel alone, whatever file system it is."""
    told = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(told, 4096).splitlines()
    finally:
        os.close(told)
    for line in lines:
        if line.startswith(b"mnt_id:"):
            return line
    raise ForeignError("its mount is unknown")
