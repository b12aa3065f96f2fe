"""The kernel's log as it is written, for the XIDs in it; kmsg in Documentation/ABI/testing/dev-kmsg.

Read from the end of what is there when we begin. A node on which the log may not be read (no root, a container) goes
without; NVML tells of XIDs as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from agent.telemetry.xid import Xid, parse_line

KMSG = Path("/dev/kmsg")
_RECORD_BYTES = 8192
"""The kernel gives one record a read, and refuses a smaller buffer."""
_RECORDS_AT_ONCE = 200

logger = logging.getLogger(__name__)


class KernelLog:
    """Hands over each XID of the log. Lives on the event loop."""

    def __init__(self, take: Callable[[Xid], None], path: Path = KMSG) -> None:
        self._take = take
        self._path = path
        self._fd: int | None = None
        self.problem: str | None = None
        """Why it is not read; `None` while it is."""

    def start(self) -> None:
        """Begin to listen, where that is allowed."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # ESPIPE: a pipe has no past to skip
                os.lseek(self._fd, 0, os.SEEK_END)
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        except OSError as error:
            self.problem = f"{self._path} cannot be read: {error.strerror}; XIDs come from NVML alone"
            logger.info("%s", self.problem)
            self.stop()

    def stop(self) -> None:
        """Listen no more."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _read(self) -> None:
        """All records that are there, up to a bound: a log that floods leaves the loop to others."""
        assert self._fd is not None, "the reader is removed before the file is closed"
        for _ in range(_RECORDS_AT_ONCE):
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten before we came to them: go on behind the gap
                    continue
                self.problem = f"{self._path} cannot be read any more: {error.strerror}"
                logger.warning("%s", self.problem)
                self.stop()
                return
            if not record:
                return
            found = parse_record(record, now=time.time(), monotonic=time.monotonic())
            if found is not None:
                self._take(found)


def parse_record(record: bytes, *, now: float, monotonic: float) -> Xid | None:
    """An XID from a record, `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;MESSAGE`; `None`: it is none.

    Args:
        record: as the kernel gives it, without its continuation lines' use.
        now: Unix seconds.
        monotonic: CLOCK_MONOTONIC seconds, which the record's time is told in.
    """
    head, found, text = record.decode("utf-8", "replace").partition(";")
    fields = head.split(",")
    if not found or len(fields) < 3 or not fields[2].isascii() or not fields[2].isdecimal():
        return None
    at = now - max(0.0, monotonic - int(fields[2][:18]) / 1e6)
    return parse_line(text.partition("\n")[0], at)
