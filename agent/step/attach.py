"""The job's half of `salloc` and `srun --pty`: a command inside of the job, on the terminal of whoever waits outside.

`python -I -S attach.py SOCKET [--pty] COMMAND [ARGS]`, run as a job's script by the wrapper `stoker-attach`.

    salloc (outside)                            attach (inside: its GPUs, its limits, its end)
     listens on SOCKET  ◄───── connect ─────────  same account on both ends, or nothing is said
     own 0, 1, 2        ────── descriptors ────►  COMMAND reads and writes them
     or the terminal    ◄───── pty's master ────  COMMAND on a pty of its own (--pty)
     signals            ────── `signal N` ─────►  to COMMAND's process group
     exit code          ◄───── `exit N` ────────

Rules kept here: when whoever waits is gone, the command ends, and the job with it; descriptors are handed over, so no
byte of the terminal passes through us. Standard library only.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
import time

_HANG_UP_S = 5.0
"""From SIGHUP to SIGKILL, once nobody waits any more."""

_PEER = struct.Struct("3i")
_UNREACHED = 69
"""sysexits(3): EX_UNAVAILABLE."""


def main(argv: list[str]) -> None:
    """The program; ends the process."""
    path, words = argv[0], argv[1:]
    pty = words[:1] == ["--pty"]
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(path)
            _check_peer(link)
        except OSError as error:
            where = os.environ.get("SLURMD_NODENAME", "")
            _say(f"cannot reach the terminal from {where}: {error}; run it on that node itself")
            os._exit(_UNREACHED)
        code = _Session(link, words[1:] if pty else words, pty=pty).run()
    os._exit(code)


class _Session:
    """One command, from the hand-over to its exit code."""

    def __init__(self, link: socket.socket, command: list[str], *, pty: bool) -> None:
        self._link = link
        self._command = command
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self._pid = self._on_pty() if pty else self._on_given()

    def run(self) -> int:
        """Wait for the command's end; its exit code."""
        said = b""
        while True:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                return self._tell(status)
            ready, _, _ = select.select([self._link.fileno(), self._woken], [], [])
            if self._woken in ready and signal.SIGTERM in os.read(self._woken, 64):
                self._signal(signal.SIGHUP)  # the job is to end: a shell ignores SIGTERM
            if self._link.fileno() not in ready:
                continue
            piece = self._link.recv(4096)
            if not piece:
                return self._hang_up()
            *whole, said = (said + piece).split(b"\n")
            for line in whole:
                word, _, number = line.partition(b" ")
                if word == b"signal" and number.isdigit():
                    self._signal(int(number))

    def _on_given(self) -> int:
        """The command on the descriptors that are handed in."""
        fds = array.array("i")
        _, ancillary, _, _ = self._link.recvmsg(1, socket.CMSG_LEN(3 * fds.itemsize))
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if len(fds) != 3:
            _say("no descriptors came from outside")
            os._exit(_UNREACHED)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for place, fd in enumerate(fds):
                os.dup2(fd, place)
            self._become()
        for fd in fds:
            os.close(fd)
        return pid

    def _on_pty(self) -> int:
        """The command on a new pty, whose other end is handed out."""
        master, slave = os.openpty()
        self._link.sendmsg([b"p"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))])
        self._link.recv(1)  # the window's size is set
        pid = os.fork()
        if pid == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for place in range(3):
                os.dup2(slave, place)
            self._become()
        os.close(slave)
        os.close(master)
        return pid

    def _become(self) -> None:
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(self._command[0], self._command)  # noqa: S606
        except OSError as error:
            _say(f"{self._command[0]}: {error.strerror}")
        os._exit(127)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._pid, number)
        except (OSError, ValueError):
            return

    def _tell(self, status: int) -> int:
        code = os.waitstatus_to_exitcode(status)
        code = code if code >= 0 else 128 - code
        try:
            self._link.sendall(b"exit %d\n" % code)
        except OSError:
            return code
        return code

    def _hang_up(self) -> int:
        """Nobody waits any more: SIGHUP, then SIGKILL."""
        self._signal(signal.SIGHUP)
        self._signal(signal.SIGCONT)
        end = time.monotonic() + _HANG_UP_S
        while time.monotonic() < end:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                return self._tell(status)
            select.select([self._woken], [], [], 0.2)
        self._signal(signal.SIGKILL)
        return 128 + signal.SIGKILL


def _check_peer(link: socket.socket) -> None:
    """Only our own account may hand us a terminal.

    Raises:
        OSError: it is another's.
    """
    data = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    if _PEER.unpack(data)[1] != os.getuid():
        raise PermissionError(1, "the terminal belongs to another account")


def _say(line: str) -> None:
    os.write(2, f"stoker: {line}\n".encode("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1:])
