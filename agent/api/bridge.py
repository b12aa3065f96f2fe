"""`dial-stdio`: the far end of an ssh channel. Copies stdin to a daemon's socket and the socket to stdout.

Rules kept here: the bytes are not interpreted; nothing is imported beyond the standard library's core, because every
channel pays for the start; no threads and no busy loop; it ends when either side has ended. Once connected it says so
in one line on stderr, so that the client knows where the noise of a login shell ends and the daemon begins.
"""

from __future__ import annotations

import os
import select
import socket
import sys

CONNECTED = b"stoker: connected\n"
NO_SOCKET = 69
"""Exit status when the daemon's socket cannot be reached: `EX_UNAVAILABLE` of sysexits.h."""

_PIECE_BYTES = 64 * 1024
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def dial_stdio(socket_path: str | os.PathLike[str]) -> int:
    """Connect stdin and stdout with the socket; returns the exit status."""
    path = os.fspath(socket_path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError as error:
        daemon = "stoker-" + os.path.basename(path).removesuffix(".sock")  # noqa: PTH119 — pathlib costs 5 ms here
        print(f"{daemon} does not answer at {path}: {error.strerror or error}", file=sys.stderr)
        return NO_SOCKET
    os.write(2, CONNECTED)
    fds = (0, 1, sock.fileno())
    # A terminal's descriptors are shared with the shell that started us: leave them as they were.
    before = [(fd, os.get_blocking(fd)) for fd in fds]
    try:
        for fd in fds:
            os.set_blocking(fd, False)
        _copy(_Way(0, sock.fileno()), _Way(sock.fileno(), 1), sock)
    except (BrokenPipeError, ConnectionResetError):
        pass  # one side has gone without a word: an end like any other
    finally:
        for fd, blocking in before:
            os.set_blocking(fd, blocking)
        sock.close()
    return 0


class _Way:
    """One direction: at most one piece, read from `source` and not yet written to `sink`."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.held = b""
        self.ended = False

    @property
    def wants_more(self) -> bool:
        return not self.held and not self.ended

    @property
    def is_done(self) -> bool:
        return self.ended and not self.held

    def read(self) -> None:
        try:
            self.held = os.read(self.source, _PIECE_BYTES)
        except BlockingIOError:
            return
        self.ended = not self.held

    def write(self) -> None:
        try:
            self.held = self.held[os.write(self.sink, self.held) :]
        except BlockingIOError:
            return


def _copy(up: _Way, down: _Way, sock: socket.socket) -> None:
    """Copy until the daemon has ended and all it said is out, or until nobody reads stdout."""
    told = False
    while not down.is_done:
        ready = _wait(up, down)
        if ready.get(down.sink, 0) & _GONE:
            return
        for way in (up, down):
            if way.wants_more and ready.get(way.source, 0) & (select.POLLIN | _GONE):
                way.read()
            if way.held:
                way.write()
        if up.is_done and not told:
            told = True
            sock.shutdown(socket.SHUT_WR)


def _wait(up: _Way, down: _Way) -> dict[int, int]:
    """Sleep until something can be done; what can be done by descriptor, as poll(2) tells it."""
    wanted = {down.sink: 0}  # asked for nothing, poll still tells when the reader of stdout is gone
    for way in (up, down):
        # A source that we do not want to read is left out: its hang-up would wake us for ever.
        if way.wants_more:
            wanted[way.source] = wanted.get(way.source, 0) | select.POLLIN
        if way.held:
            wanted[way.sink] = wanted.get(way.sink, 0) | select.POLLOUT
    poll = select.poll()
    for fd, events in wanted.items():
        poll.register(fd, events)
    return dict(poll.poll())
