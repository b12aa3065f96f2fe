"""A command inside of a job on this terminal: what `salloc` and `srun --pty` do once the job is in the queue.

The job's half is `agent.step.attach`, which has the picture. Rules kept here: the socket is in a folder that only we
may enter, and only our own account is let in; the terminal is put back as it was, whatever happens; while the job waits
Ctrl-C, SIGTERM and SIGHUP take it out of the queue; when we end, the job does.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.api.client import Client
from agent.api.errors import StokerError
from agent.api.types import Job, JobState
from tui import arrays, safe
from tui.endings import EndedError, Endings

INTERRUPTED = 130
_ABORT_WITHIN_S = 1.0
_ASK_S = 0.3
_SOCKET_PATH_BYTES = 107
"""unix(7): 108, the last of which is zero."""
_LEAF_BYTES = len("/stoker-12345678/s")
_PEER = struct.Struct("3i")
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Door:
    """The socket that the job comes to."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            StokerError: no folder takes the socket.
        """
        self._folder = _folder()
        self._listening = socket.socket(socket.AF_UNIX)
        try:
            self._listening.bind(str(self._folder / "s"))
            self._listening.listen(1)
        except OSError as error:
            self.close()
            raise StokerError(
                f"cannot make a socket in {self._folder}: {error}; set TMPDIR to a local folder"
            ) from error

    def command(self, words: Sequence[str], *flags: str) -> list[str]:
        """What the job's script is to run; the flags are `agent.step.attach`'s."""
        return ["stoker-attach", str(self._folder / "s"), *flags, *words]

    def accept(self, timeout_s: float) -> socket.socket | None:
        """The job's end of the link, if it comes within the time."""
        ready, _, _ = select.select([self._listening], [], [], timeout_s)
        if not ready:
            return None
        link, _ = self._listening.accept()
        data = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(data)[1] == os.geteuid():
            return link
        link.close()
        return None

    def close(self) -> None:
        """Leave nothing."""
        self._listening.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _folder() -> Path:
    """A new folder of our own, whose path leaves room for a socket: of a long `$TMPDIR` not its, but `/tmp`'s."""
    for base in dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), tempfile.gettempdir())):
        if len(os.fsencode(base)) + _LEAF_BYTES <= _SOCKET_PATH_BYTES:
            break
    else:
        base = "/tmp"  # noqa: S108 - mkdtemp makes a folder that only we may enter
    try:
        return Path(tempfile.mkdtemp(prefix="stoker-", dir=base))
    except OSError as error:
        raise StokerError(
            f"cannot make a folder in {base}: {error.strerror}; set TMPDIR to one that takes it"
        ) from error


def wait_start(client: Client, job: Job, door: Door, tell: Callable[[str], None]) -> socket.socket:
    """The link to the job, once it runs.

    Raises:
        StokerError: it ended without.
        KeyboardInterrupt: Ctrl-C, and the job is taken out of the queue.
    """
    link = wait_link(client, job, door, tell, late_s=None)
    if link is None:
        raise StokerError("the job did not come to the terminal; stoker logs tells why")
    return link


def wait_link(
    client: Client, job: Job, door: Door, tell: Callable[[str], None], *, late_s: float | None
) -> socket.socket | None:
    """The link to the job, once it runs; `None` when it has run for `late_s`, or ended, without coming.

    Raises:
        StokerError: it ended without, and `late_s` is `None`.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, and the job is taken out of the queue.
    """
    try:
        with Endings():
            return _wait_link(client, job, door, tell, late_s)
    except (KeyboardInterrupt, EndedError) as end:
        with contextlib.suppress(StokerError):
            client.cancel(arrays.ref(job))
        raise KeyboardInterrupt from end


def _wait_link(
    client: Client, job: Job, door: Door, tell: Callable[[str], None], late_s: float | None
) -> socket.socket | None:
    name, told, ref = arrays.label(job), False, arrays.ref(job)
    late_at = float("inf")
    while True:
        link = door.accept(_ASK_S)
        if link is not None:
            if told:
                tell(f"job {name} has been allocated resources")
            return link
        job = safe.clean(client.job(ref))
        if late_s is not None and job.state not in (JobState.PENDING, JobState.CONFIGURING):
            late_at = min(late_at, time.monotonic() + late_s)
            if job.state.is_final or time.monotonic() >= late_at:
                return None
        if job.state.is_final:
            raise StokerError(f"Job allocation {name} has been revoked: {_why(client, job)}")
        if job.state is JobState.PENDING and not told:
            tell(f"job {name} queued and waiting for resources")
            told = True


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int = 1
    signal: int = 0
    revoked: bool = False
    """The job was ended from outside."""

    @property
    def shell_code(self) -> int:
        """128 and the number where a signal ended it."""
        return 128 + self.signal if self.signal else self.code


def attend(link: socket.socket, *, pty: bool, abort: Callable[[], None] | None = None) -> Ended:
    """Be the command's terminal, or its three streams, until it ends.

    Args:
        link: from `wait_start` or `wait_link`.
        pty: the terminal.
        abort: what a second Ctrl-C right after the first does, instead of going to the command; a third one leaves.

    Raises:
        KeyboardInterrupt: that third one.
    """
    with link:
        return _Terminal(link).run() if pty else _Streams(link).run(abort)


class _Streams:
    """Our own descriptors, handed over."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        link.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])

    def run(self, abort: Callable[[], None] | None) -> Ended:
        """Pass signals on until the exit code comes."""
        with _passed_on(self._link, abort):
            return _ended(self._link)


class _Terminal:
    """This terminal, joined with the pty that the job hands out."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._master = _received(link)
        self._fit()
        link.sendall(b"w")

    def run(self) -> Ended:
        """Copy both ways until the pty closes."""
        before = termios.tcgetattr(0)
        old = signal.signal(signal.SIGWINCH, lambda *_: self._fit())
        try:
            tty.setraw(0, termios.TCSADRAIN)  # what was typed already is the shell's
            with _passed_on(self._link):
                self._copy()
        finally:
            signal.signal(signal.SIGWINCH, old)
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            os.close(self._master)
        return _ended(self._link)

    def _copy(self) -> None:
        watched = [0, self._master]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._master in ready:
                try:
                    data = os.read(self._master, 65536)
                except OSError:  # EIO: nobody has the other end any more
                    return
                if not data:
                    return
                _write_all(1, data)
            if 0 in ready:
                typed = os.read(0, 65536)
                if typed:
                    _write_all(self._master, typed)
                else:
                    watched.remove(0)

    def _fit(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))


@contextlib.contextmanager
def _passed_on(link: socket.socket, abort: Callable[[], None] | None = None) -> Iterator[None]:
    """What is sent to us goes to the command."""
    interrupted_at, aborted = float("-inf"), False

    def send(number: int, _: object) -> None:
        nonlocal interrupted_at, aborted
        if number == signal.SIGINT and abort is not None:
            if aborted:
                raise KeyboardInterrupt
            before, interrupted_at = interrupted_at, time.monotonic()
            if interrupted_at - before < _ABORT_WITHIN_S:
                aborted = True
                abort()
                return
        with contextlib.suppress(OSError):
            link.sendall(b"signal %d\n" % number)

    old = {number: signal.signal(number, send) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _ended(link: socket.socket) -> Ended:
    said = b""
    while b"\n" not in said:
        piece = link.recv(64)
        if not piece:
            return Ended(revoked=True)
        said += piece
    word, _, number = said.split(b"\n")[0].partition(b" ")
    if not number.isdigit():
        return Ended()
    if word in (b"killed", b"revoked"):
        return Ended(signal=int(number), revoked=word == b"revoked")
    return Ended(code=int(number))


def _received(link: socket.socket) -> int:
    fds = array.array("i")
    _, ancillary, _, _ = link.recvmsg(1, socket.CMSG_LEN(fds.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: fds.itemsize])
    if not fds:
        raise StokerError("the job handed out no terminal; stoker logs tells why")
    return fds[0]


def _why(client: Client, job: Job) -> str:
    """What became of a job that never came to the door: its own last words say it best."""
    said = ""
    with contextlib.suppress(StokerError):
        said = client.log(arrays.ref(job), limit=4096).data.decode("utf-8", "replace").strip()
    return safe.text(said.removeprefix("stoker: ")) if said else job.detail or job.reason or str(job.state.value)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def is_terminal() -> bool:
    """Whether somebody sits there."""
    return sys.stdin.isatty() and sys.stdout.isatty()
