"""The kernel's log, from a FIFO in its place: records as the kernel writes them, one a read."""

import asyncio
import fcntl
import os
import sys
import termios
from pathlib import Path

from agent.telemetry.kernellog import KernelLog, parse_record
from agent.telemetry.xid import Xid

FELL = (
    b"3,1234,5000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, name=python3, GPU has fallen off the bus.\n"
    b" SUBSYSTEM=pci\n"
)


def test_a_record_tells_code_gpu_process_and_time() -> None:
    found = parse_record(FELL, now=1_800_000_000.0, monotonic=65.0)
    assert found is not None
    assert (found.code, found.pci, found.pid, found.at) == (79, "0000:3b:00", 4711, 1_799_999_940.0)
    assert found.detail == "GPU has fallen off the bus."


def test_other_records_are_none() -> None:
    for record in (b"", b"6,1,2,-;usb 1-1: new device", b"x", b"6,1,\xff,-;NVRM: Xid (PCI:0000:3b:00): 79", b";;;"):
        assert parse_record(record, now=0.0, monotonic=0.0) is None


def test_xids_are_handed_over_as_they_come(tmp_path: Path) -> None:
    path, taken = tmp_path / "kmsg", list[Xid]()
    os.mkfifo(path)

    async def act() -> None:
        log = KernelLog(taken.append, path)
        kernel = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        log.start()
        for record, heard in ((b"6,1,2,-;usb 1-1: new device", 0), (FELL, 1), (FELL.replace(b"79,", b"31,"), 2)):
            os.write(kernel, record)
            while _unread(kernel) or len(taken) < heard:
                await asyncio.sleep(0.001)  # one record a read, as the kernel gives them
        log.stop()
        os.close(kernel)

    asyncio.run(asyncio.wait_for(act(), 60))
    assert [each.code for each in taken] == [79, 31]


def _unread(fd: int) -> int:
    """Bytes in a pipe; ioctl_pipe(2)."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_the_real_log_or_a_reason(tmp_path: Path) -> None:
    """Where the log may be read nothing is heard of XIDs here; where not, the reason is told and nothing fails."""

    async def act() -> None:
        log = KernelLog(lambda xid: None)
        log.start()
        await asyncio.sleep(0)
        assert log.problem is None or "/dev/kmsg cannot be read" in log.problem
        log.stop()
        missing = KernelLog(lambda xid: None, tmp_path / "none")
        missing.start()
        assert missing.problem is not None
        missing.stop()

    asyncio.run(act())
