"""Handing a job in when the answer may be lost on its way: the same key is asked again, so that there is one job.

A submit whose answer is missing may have been stored. It is repeated with its key for `TRY_FOR_S`; what is still
unknown then is said to be, with the key under which it may be repeated by hand. What surely was not sent is no riddle:
the client's own patience (`agent.api.patience`) waits out a restart, and what it gives up is told at once.
"""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

from agent.api.errors import ApiError, AuthError, ConnectError, HostKeyError, StokerError, TransportError
from agent.api.patience import UnsentInterrupt
from agent.api.types import SubmitReply, SubmitRequest
from tui import plain

if TYPE_CHECKING:
    from tui.client import ClusterClient

TRY_FOR_S = 30.0
_PAUSE_S = 1.0


class UnknownOutcomeError(StokerError):
    """The job may have been queued, or not."""

    code = "unknown"

    def __init__(self, what: str, key: str) -> None:
        super().__init__(
            f"{what}: the job may have been queued; the same command with --key {shlex.quote(key)} is safe to repeat"
        )


def hand_in(client: ClusterClient, request: SubmitRequest, key: str) -> SubmitReply:
    """Submit, and find out what became of it.

    Raises:
        UnknownOutcomeError: no answer came for `TRY_FOR_S`, though the server may have stored the job.
        StokerError: it was refused, or never sent.
    """
    began = time.monotonic()
    open_question: StokerError | None = None
    try:
        while True:
            try:
                return client.submit(request, key)
            except StokerError as error:
                if not _may_be_stored(error, asked_before=open_question is not None):
                    raise
                if open_question is None:
                    plain.complain(f"no answer to the submit, asking again with the same key: {error}")
                open_question = error
            if time.monotonic() - began >= TRY_FOR_S:
                raise UnknownOutcomeError(f"no answer to the submit ({open_question})", key) from open_question
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, UnsentInterrupt) and open_question is None:
            raise
        plain.complain(str(UnknownOutcomeError("interrupted before an answer came", key)))
        raise


def _may_be_stored(error: StokerError, *, asked_before: bool) -> bool:
    """Whether the job may be in the queue although this was the answer.

    A refusal settles it even for the tries before: a server looks for the key first.
    """
    if isinstance(error, ApiError):
        return error.status >= 500 and (asked_before or error.status != 503)  # 503: nothing was sent, or stored
    if isinstance(error, ConnectError | AuthError | HostKeyError):
        return asked_before
    return isinstance(error, TransportError)
