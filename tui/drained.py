"""What is said after a drain or a resume: what it changed, and what it found. No Textual in here."""

from __future__ import annotations

from agent.api.queue import Drain, DrainChange


def drained(what: str, change: DrainChange | None) -> str:
    """After a drain. Two who drain the same hear of one another.

    Args:
        what: the node or the GPU, as the user knows it.
        change: the server's answer, made clean; `None` of an agent of the version before, which tells nothing.
    """
    said = f"{what} drained: no new job starts there, what runs runs on"
    if change is None or change.before is None:
        return said
    if change.before == change.after:
        return f"{what} was drained already {_by(change.before)}; nothing is changed"
    return f"{said}; was drained {_by(change.before)}"


def resumed(what: str, change: DrainChange | None, *, gpu: bool) -> str:
    """After a resume; a GPU of a node that is drained as a whole takes no job either."""
    said = f"{what} resumed: jobs start there again"
    if change is None:
        return said
    whole = next((each for each in change.drains if each.gpu_uuid is None), None)
    still = f"; its node is drained {_by(whole)}" if gpu and whole is not None else ""
    if change.before is None:
        return f"{what} was not drained; nothing is changed{still or _others(change)}"
    return f"{what} resumed{still}" if still else said


def _by(drain: Drain) -> str:
    return f"by {drain.by}: {drain.reason}"


def _others(change: DrainChange) -> str:
    """Whoever resumes a node that is not drained may mean its GPUs."""
    count = sum(each.gpu_uuid is not None for each in change.drains)
    return f" ({count} of the node's GPUs {'is' if count == 1 else 'are'} drained: stoker drains)" if count else ""
