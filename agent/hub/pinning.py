"""Which GPU may be pinned: one that a node of this hub shows, since a slip of the pen would pin nothing, silently."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Mapping, Sequence
from operator import eq

from agent.api.errors import ApiError

_NAMED = 4
"""How many of the others are named."""
_WEIGHED = 32
"""How many are held against it closely: all of a thousand nodes would take a second, for which everybody waits."""


def refuse_unknown(gpu: str, shown: Mapping[str, Sequence[str]]) -> None:
    """Let only a GPU pass that a node shows.

    Args:
        gpu: its UUID, as it was typed.
        shown: the UUIDs of each node that was heard.

    Raises:
        ApiError: 422, naming the GPUs that are nearest to it.
    """
    owner = {uuid: node for node, uuids in shown.items() for uuid in uuids}
    if gpu in owner:
        return
    alike = heapq.nlargest(_WEIGHED, owner, key=lambda uuid: _in_place(gpu, uuid))
    near = difflib.get_close_matches(gpu, alike, n=_NAMED, cutoff=0.4) or sorted(owner, key=owner.__getitem__)[:_NAMED]
    more = len(owner) - len(near)
    named = ", ".join(f"{uuid} ({owner[uuid]})" for uuid in near) + (f" and {more} more" if more else "")
    there = f"nodes show {named}; all of them: stoker gpus --json" if named else "no node shows any GPU now"
    message = (
        f"no node shows a GPU {gpu[:100]!r}; {there}. For one that is not there yet: stoker-license pin UUID --force"
    )
    raise ApiError(422, "usage", message)


def _in_place(typed: str, uuid: str) -> int:
    """How many characters stand where they should, from the front or from the end: one too few moves all behind it."""
    front: int = sum(map(eq, typed, uuid))
    end: int = sum(map(eq, reversed(typed), reversed(uuid)))
    return max(front, end)
