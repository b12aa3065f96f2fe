"""Following a job from a plain command: its log on its way out, its end, and the broken links in between.

Rules kept here: into a file or a pipe the job's bytes go unchanged, on a terminal its lines go through `safe`; after a
break the log goes on at the byte where it broke; a refusal is final, a missing answer is retried for ten minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO, TypeVar

from agent.api.errors import StokerError, TransportError
from agent.api.refs import JobRef
from agent.api.types import Job, LogChunk, LogEnd
from tui import plain, units
from tui.links import ClusterClient
from tui.logtext import LogText

PIECE_BYTES = 1024 * 1024
RETRY_FOR_S = 600.0
"""How long a broken link is bridged."""
_RETRY_S = 1.0
_FIRST_ASK_S, _LAST_ASK_S = 0.1, 2.0

T = TypeVar("T")
Write = Callable[[LogChunk | LogEnd | None], None]
"""Takes pieces of a log, and `None` at its end."""


def writer(out: TextIO, *, json: bool) -> Write:
    """How a log is to be written to `out`."""
    if json:
        return _json_log(out)
    return _terminal_log(out) if out.isatty() else _raw_log(out)


def copy_log(client: ClusterClient, ref: JobRef, write: Write) -> None:
    """Write what the job has written so far."""
    offset = 0
    while True:
        piece = client.log(ref, offset, PIECE_BYTES)
        if not piece.data:
            break
        write(LogChunk(offset=piece.offset, data=piece.data))
        offset = piece.offset + len(piece.data)
    write(None)


def follow_log(client: ClusterClient, ref: JobRef, write: Write) -> None:
    """Write the log until the job has ended.

    Raises:
        StokerError: there is no such job, or the link stayed broken.
    """
    client.job(ref)  # a job that does not exist is told at once; only a link that breaks later is bridged
    _retrying(_Following(client, ref, write).attempt, f"following job {ref}")
    write(None)


def wait_end(client: ClusterClient, ref: JobRef) -> Job:
    """The job once it has ended.

    Raises:
        StokerError: there is no such job, or the link stayed broken.
    """
    client.job(ref)
    return _retrying(lambda: _ask_until_final(client, ref), f"waiting for job {ref}")


class _Following:
    """One attempt after the other to follow a log; knows how far it came."""

    def __init__(self, client: ClusterClient, ref: JobRef, write: Write) -> None:
        self._client = client
        self._ref = ref
        self._write = write
        self._offset = 0

    def attempt(self) -> None:
        """Follow one stream to the end of the job.

        Raises:
            TransportError: the stream ended before.
        """
        stream = self._client.follow_log(self._ref, self._offset)
        try:
            for message in stream:
                if isinstance(message, LogChunk):
                    self._write(message)
                    self._offset = message.offset + len(message.data)
                if isinstance(message, LogEnd):
                    self._write(message)
                    return
        finally:
            stream.close()
        raise TransportError("the server ended the log before the job did")


def _raw_log(out: TextIO) -> Write:
    """Byte for byte, for files and pipes; what the cap left out is said on stderr."""
    expected = 0

    def write(piece: LogChunk | LogEnd | None) -> None:
        nonlocal expected
        if isinstance(piece, LogChunk):
            if piece.offset > expected:
                plain.complain(
                    f"{units.size(piece.offset - expected)} of the output were left out here by the log's cap"
                )
            out.buffer.write(piece.data)
            out.buffer.flush()
            expected = piece.offset + len(piece.data)

    return write


def _terminal_log(out: TextIO) -> Write:
    """Line by line and safe, for a terminal."""
    text = LogText()

    def write(piece: LogChunk | LogEnd | None) -> None:
        lines = text.feed(piece.offset, piece.data) if isinstance(piece, LogChunk) else text.finish()
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


def _ask_until_final(client: ClusterClient, ref: JobRef) -> Job:
    """Ask until the job has ended: often at first, for short jobs, then every two seconds."""
    pause = _FIRST_ASK_S
    while not (job := client.job(ref)).state.is_final:
        time.sleep(pause)
        pause = min(_LAST_ASK_S, pause * 1.3)
    return job


def _retrying(work: Callable[[], T], what: str) -> T:
    """Do `work` again while no answer comes; refusals are final.

    Raises:
        StokerError: refused, or the link was broken for longer than `RETRY_FOR_S`.
    """
    broken_at: float | None = None
    while True:
        began = time.monotonic()
        try:
            return work()
        except TransportError as error:
            now = time.monotonic()
            if broken_at is None or now - began > 2 * _RETRY_S + 15:
                broken_at = now
                plain.complain(f"{what}: the link broke, trying again: {error}")
            if now - broken_at > RETRY_FOR_S:
                raise StokerError(
                    f"{what}: no link for {RETRY_FOR_S / 60:.0f} minutes; the job goes on without us"
                ) from error
            time.sleep(_RETRY_S)
