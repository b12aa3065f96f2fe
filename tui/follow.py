"""Following a job from a plain command: its log on its way out, its end, and the broken links in between.

Rules kept here: into a file or a pipe the job's bytes go unchanged, on a terminal its lines go through `safe`; after a
break the log goes on at the byte where it broke; only the job's end, or knowing that there is no such job, is an end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import msgspec

from agent.api.errors import ApiError, TransportError
from agent.api.refs import JobRef
from agent.api.types import Job, LinkState, LogChunk, LogEnd
from tui import arrays, plain, units
from tui.grep import Choice
from tui.logtext import LogText
from tui.outage import Bridge

if TYPE_CHECKING:
    from tui.client import ClusterClient

PIECE_BYTES = 1024 * 1024
_FIRST_ASK_S, _LAST_ASK_S = 0.1, 2.0

Write = Callable[[LogChunk | LogEnd | None], None]
"""Takes pieces of a log, and `None` at its end."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a log."""

    since: int | None = None
    """What was written from then on, Unix seconds."""
    grep: Choice | None = None
    """These lines alone."""


ALL = Wanted()


def writer(out: TextIO, *, json: bool, gaps: bool = True) -> Write:
    """How a log is to be written to `out`; without `gaps`, what is left out was not wanted and is not spoken of."""
    if json:
        return _json_log(out)
    return _terminal_log(out, gaps=gaps) if out.isatty() else _raw_log(out, gaps=gaps)


def copy_log(client: ClusterClient, ref: JobRef, write: Write, wanted: Wanted = ALL) -> None:
    """Write what the job has written so far."""
    offset = 0
    while True:
        piece = client.log(ref, offset, PIECE_BYTES, since=wanted.since)  # lines are chosen here: fewer questions
        if not piece.data:
            break
        write(LogChunk(offset=piece.offset, data=piece.data))
        offset = piece.offset + len(piece.data)
    write(None)


def follow_log(client: ClusterClient, ref: JobRef, write: Write, wanted: Wanted = ALL) -> None:
    """Write the log until the job has ended, over every outage in between.

    Raises:
        StokerError: there is no such job, it may not be read, or no server was ever reached.
    """
    bridge = Bridge(f"following job {ref}")
    job = bridge.over(lambda: _look_up(client, ref))
    bridge.over(Following(client, _found(job), write, bridge, wanted).attempt)
    write(None)


def find(client: ClusterClient, ref: JobRef, what: str) -> Job:
    """The job, over every outage; `what` begins the sentence about one: `waiting for job 17`.

    Raises:
        StokerError: there is no such job, or no server was ever reached.
    """
    return Bridge(what).over(lambda: _look_up(client, ref))


def wait_end(client: ClusterClient, ref: JobRef) -> Job:
    """The job once it has ended, over every outage in between.

    Asks often at first, for short jobs, and then every two seconds.

    Raises:
        StokerError: there is no such job, or no server was ever reached.
    """
    bridge = Bridge(f"waiting for job {ref}")
    job = bridge.over(lambda: _look_up(client, ref))
    at, pause = _found(job), _FIRST_ASK_S
    while not job.state.is_final:
        time.sleep(pause)
        pause = min(_LAST_ASK_S, pause * 1.3)
        job = bridge.over(lambda: client.job(at))
    return job


def _look_up(client: ClusterClient, ref: JobRef) -> Job:
    """The job, by whatever the user calls it.

    A hub that cannot ask all of its nodes does not know that a job does not exist: that is an outage too.
    """
    try:
        return client.job(ref)
    except ApiError as error:
        if error.status != 404 or ref.node is not None:
            raise
        if all(status.link is LinkState.UP for status in client.nodes()):
            raise
        raise ApiError(503, error.code, error.message) from error


def _found(job: Job) -> JobRef:
    """With its node: asked for so, a job of a node that is away is not mistaken for one that does not exist."""
    return arrays.ref(job)


class Following:
    """One attempt after the other to follow a log; knows how far it came."""

    def __init__(self, client: ClusterClient, ref: JobRef, write: Write, bridge: Bridge, wanted: Wanted = ALL) -> None:
        self._client = client
        self._ref = ref
        self._write = write
        self._bridge = bridge
        self._wanted = wanted
        self._offset = 0

    def attempt(self) -> Job:
        """Follow one stream to the end of the job, which is the answer.

        Raises:
            StokerError: it could not be opened, or ended before.
        """
        wanted = self._wanted
        text = wanted.grep.text if wanted.grep is not None else None  # what a server may leave out; a pattern is ours
        stream = self._client.follow_log(self._ref, self._offset, since=wanted.since, grep=text)
        try:
            for message in stream:
                self._bridge.answered()
                if isinstance(message, LogChunk):
                    self._write(message)
                    self._offset = message.offset + len(message.data)
                if isinstance(message, LogEnd):
                    self._write(message)
                    return message.job
        finally:
            stream.close()
        raise TransportError("the server ended the log before the job did")


def _raw_log(out: TextIO, *, gaps: bool) -> Write:
    """Byte for byte, for files and pipes; what the cap left out is said on stderr."""
    expected = 0

    def write(piece: LogChunk | LogEnd | None) -> None:
        nonlocal expected
        if isinstance(piece, LogChunk):
            if gaps and piece.offset > expected:
                plain.complain(
                    f"{units.size(piece.offset - expected)} of the output were left out here by the log's cap"
                )
            out.buffer.write(piece.data)
            out.buffer.flush()
            expected = piece.offset + len(piece.data)

    return write


def _terminal_log(out: TextIO, *, gaps: bool) -> Write:
    """Line by line and safe, for a terminal."""
    text, written = LogText(), 0

    def write(piece: LogChunk | LogEnd | None) -> None:
        nonlocal written
        if isinstance(piece, LogChunk):
            lines = text.feed(piece.offset if gaps else written, piece.data)
            written += len(piece.data)
        else:
            lines = text.finish()
        for line in lines:
            print(line.text, file=out)
        out.flush()

    return write


def _json_log(out: TextIO) -> Write:
    """One JSON object a line: `LogChunk`s, and a `LogEnd` when the end was followed."""

    def write(piece: LogChunk | LogEnd | None) -> None:
        if piece is not None:
            plain.as_json(piece, out)

    return write
