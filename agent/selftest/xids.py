"""XIDs that the driver wrote to the kernel's log while the test ran: an error under load that no counter tells of."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.api.health import Severity
from agent.gpu.inspection import GpuInspection
from agent.selftest.checks import Check, Verdict, gpu
from agent.telemetry.kernellog import KMSG, parse_record
from agent.telemetry.xid import Xid, meaning

_RECORD_BYTES = 8192
"""The kernel gives one record a read, and refuses a smaller buffer."""


class XidWatch:
    """The log from now on. The kernel keeps what comes until it is asked for; no thread has to wait for it."""

    def __init__(self, path: Path = KMSG) -> None:
        self.problem: str | None = None
        """Why it cannot be read."""
        self._fd: int | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # ESPIPE: a pipe has no past to skip
                os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            self.problem = f"{path} cannot be read ({error.strerror}), so nobody looked for XIDs; run it as root"

    def come(self) -> list[Xid]:
        """Those that came since it was asked last."""
        return [] if self._fd is None else list(self._read(self._fd))

    def close(self) -> None:
        """Read no more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _read(self, fd: int) -> Iterator[Xid]:
        while True:
            try:
                record = os.read(fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten before we came to them: go on behind the gap
                    continue
                self.problem = f"the kernel's log cannot be read any more ({error.strerror})"
                return
            if not record:
                return
            found = parse_record(record, now=time.time(), monotonic=time.monotonic())
            if found is not None:
                yield found


def judge(tested: Sequence[GpuInspection], xids: Sequence[Xid]) -> Iterator[Check]:
    """A line for each GPU that was tested. What is of a program alone (31, 13, …) counts too: the programs are ours."""
    for each in tested:
        mine = [xid for xid in xids if each.reading.pci is not None and xid.pci == each.reading.pci]
        codes = sorted({xid.code for xid in mine})
        worst = next((code for code in codes if meaning(code).severity is Severity.CRITICAL), next(iter(codes), None))
        yield Check(
            subject=gpu(each.reading.index),
            name="XIDs during the test",
            found=", ".join(f"{code} ({sum(xid.code == code for xid in mine)} times)" for code in codes) or "none",
            expected="none",
            verdict=Verdict.FAIL if codes else Verdict.PASS,
            detail=None if worst is None else f"{meaning(worst).what}; {meaning(worst).advice}",
            uuid=each.reading.uuid,
        )
