"""The shim's side of an attempt's folder: the lock, and records read and written by folder descriptor.

The agent's side of the same files is `records`. Every name is opened relative to the folder with O_NOFOLLOW, so a
planted link is refused. Cheap imports only (see `lean`).
"""

from __future__ import annotations

import fcntl
import os
import time

from agent.engine.lean import parse_json, read_all, to_json

EXIT_TAKEN = 73
EXIT_BAD_CLAIM = 65
EXIT_NO_RECORDS = 74

_LOCK_TRIES = 20
_LOCK_PAUSE_S = 0.005
"""An agent that probes the lock holds it for microseconds; a shim that meets the probe tries for 0.1 s."""

_RESERVED_BYTES = 4096
"""Set aside for `exit` before the job starts, so that a disk that fills up later cannot swallow the outcome."""

_RETRY_S = 1.0

Scalar = str | int | float | bool | None


class Refused(Exception):  # noqa: N818  (not a failure: the answer to the launcher)
    """The shim ends before it did anything; `status` and the sentence are for the launcher."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Folder:
    """An attempt's folder, locked by us."""

    def __init__(self, path: str) -> None:
        """Take the attempt.

        Raises:
            Refused: another shim has it, or had it; or the folder cannot be used.
        """
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            self._lock = os.open("run.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=self.fd)
            self._take_lock()
            if self.exists("started") or self.exists("exit"):
                raise Refused(EXIT_TAKEN, f"{path}: this attempt was run already")
            self._reserved = self._open_temporary("exit")
            os.posix_fallocate(self._reserved, 0, _RESERVED_BYTES)
        except OSError as error:
            raise Refused(EXIT_NO_RECORDS, f"{path}: {error.strerror}; free or mend the disk of the state") from error

    def exists(self, name: str) -> bool:
        """Whether a record is there."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> dict[str, object] | None:
        """A record; `None` when there is none.

        Raises:
            ValueError: it is damaged.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        try:
            record = parse_json(read_all(fd))
        finally:
            os.close(fd)
        if not isinstance(record, dict):
            raise ValueError("not an object")
        return record

    def write_started(self, fields: dict[str, Scalar]) -> None:
        """Write `started`: temp → fsync → rename → fsync(folder), and fsync(its folder), where it is new itself.

        Raises:
            OSError: the disk refuses.
        """
        fd = self._open_temporary("started")
        try:
            os.write(fd, to_json(fields))
            self._publish(fd, "started")
        finally:
            os.close(fd)
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        try:
            os.fsync(above)
        finally:
            os.close(above)

    def write_exit(self, fields: dict[str, Scalar]) -> None:
        """Write `exit` into the space set aside for it. Does not give up: see `_RETRY_S`.

        A file system that turned read-only may be mended, and an outcome is worth a waiting process of 4 MB; this is
        the one wait of ours without an end but the folder's own. Meanwhile the lock says that the attempt is not over.
        """
        data = _fitting(fields)
        while os.fstat(self.fd).st_nlink:
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(self._reserved, data[written:], written)
                os.ftruncate(self._reserved, len(data))
                self._publish(self._reserved, "exit")
                return
            except OSError:
                time.sleep(_RETRY_S)

    def _take_lock(self) -> None:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
        raise Refused(EXIT_TAKEN, f"{self.path}: this attempt has a shim already")

    def _open_temporary(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        return os.open(f"{name}.tmp", flags, 0o600, dir_fd=self.fd)

    def _publish(self, fd: int, name: str) -> None:
        os.fsync(fd)
        try:
            os.rename(f"{name}.tmp", name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            if not self.exists(name):  # else it has its name since a try that failed later
                raise
        os.fsync(self.fd)


def _fitting(fields: dict[str, Scalar]) -> bytes:
    """The record's bytes, its `detail` cut until they fit into the space set aside: JSON may need 12 for a letter."""
    while len(data := to_json(fields)) > _RESERVED_BYTES:
        detail = str(fields["detail"])
        fields = {**fields, "detail": detail[: len(detail) // 2]}
    return data
