"""The job's half of `salloc` and `srun --pty`: a command inside of the job, on the terminal of whoever waits outside.

`python -I -S attach.py SOCKET [--pty] [--salloc] [--srun] [--else] COMMAND [ARGS]`, run as a job's script by the
wrapper `stoker-attach`. `--salloc`: what is wrong is said as salloc says it, else as srun. `--srun`: COMMAND is srun,
which passes signals on itself. `--else`: where whoever waits cannot be reached, from another node, COMMAND runs all the
same, and its output goes into the job's log.

    salloc (outside)                            attach (inside: its GPUs, its limits, its end)
     listens on SOCKET  ◄───── connect ─────────  same account on both ends, or nothing is said
     own 0, 1, 2        ────── descriptors ────►  COMMAND reads and writes them
     or the terminal    ◄───── pty's master ────  COMMAND on a pty of its own (--pty)
     signals            ────── `signal N` ─────►  to COMMAND's process group
     its end            ◄───── `exit N`, `killed N`, `revoked N`

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
    flags = set()
    while words[:1] and words[0] in ("--pty", "--salloc", "--srun", "--else"):
        flags.add(words.pop(0))
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(path)
            _check_peer(link)
            session = _Session(link, words, flags)
        except OSError as error:
            if "--else" in flags:
                link.close()
                _become(words, flags)
            where = os.environ.get("SLURMD_NODENAME", "")
            _say(f"cannot reach the terminal from {where}: {error}; run it on that node itself")
            os._exit(_UNREACHED)
        code = session.run()
    os._exit(code)


class _Session:
    """One command, from the hand-over to its exit code."""

    def __init__(self, link: socket.socket, command: list[str], flags: set[str]) -> None:
        """Start it.

        Raises:
            OSError: nothing to start it on came from outside.
        """
        self._link = link
        self._command = command
        self._flags = flags
        self._revoked = False
        """The job is ended from outside, and the command with it."""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self._pid = self._on_pty() if "--pty" in flags else self._on_given()

    def run(self) -> int:
        """Wait for the command's end; its exit code."""
        said = b""
        while True:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                return self._tell(status)
            ready, _, _ = select.select([self._link.fileno(), self._woken], [], [])
            if self._woken in ready and signal.SIGTERM in os.read(self._woken, 64) and "--srun" not in self._flags:
                self._revoked = True
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
            raise ConnectionError("no descriptors came from outside")
        for fd in fds:
            os.set_inheritable(fd, False)  # recvmsg(2) hands them over as the command would inherit them, once more
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for place, fd in enumerate(fds):
                os.dup2(fd, place)
            _become(self._command, self._flags)
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
            _become(self._command, self._flags)
        os.close(slave)
        os.close(master)
        return pid

    def _signal(self, number: int) -> None:
        try:
            os.kill(self._pid, number) if "--srun" in self._flags else os.killpg(self._pid, number)
        except (OSError, ValueError):
            return

    def _tell(self, status: int) -> int:
        code = os.waitstatus_to_exitcode(status)
        told = b"exit %d\n" % code if code >= 0 else b"killed %d\n" % -code
        if self._revoked and code < 0:
            told = b"revoked %d\n" % -code
        code = code if code >= 0 else 128 - code
        try:
            self._link.sendall(told)
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


def _become(command: list[str], flags: set[str]) -> None:
    """Be the command; ends the process where that cannot be, in the words and with the code of Slurm's."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)  # noqa: S606
    except (OSError, ValueError) as error:
        shown = "".join(char if char.isprintable() else "?" for char in command[0])
        if "--salloc" in flags:
            _write(f'salloc: error: _fork_command: Unable to find command "{shown}"')
            os._exit(1)
        node = os.environ.get("SLURMD_NODENAME", "")
        _write(f"slurmstepd-{node}: error: execve(): {shown}: {getattr(error, 'strerror', None) or error}")
        os._exit(getattr(error, "errno", None) or 1)
    os._exit(1)


def _check_peer(link: socket.socket) -> None:
    """Only our own account may hand us a terminal.

    Raises:
        OSError: it is another's.
    """
    data = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    if _PEER.unpack(data)[1] != os.getuid():
        raise PermissionError(1, "the terminal belongs to another account")


def _say(line: str) -> None:
    _write(f"stoker: {line}")


def _write(line: str) -> None:
    os.write(2, f"{line}\n".encode("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1:])
