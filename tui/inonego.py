"""Many tasks of an array, ended with one call: ten thousand calls would take minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from tui import arrays

if TYPE_CHECKING:
    from tui.client import ClusterClient

MANY = 16
"""Tasks of one array that are ended with one call."""


def end_tasks(client: ClusterClient, refs: Iterable[JobRef]) -> dict[JobRef, list[int]]:
    """End the tasks of arrays of which many are named; returns them by array.

    An array is left out where the call is not understood (an agent of the version before) or refused: whoever then ends
    its tasks one by one is told why.
    """
    tasks: dict[JobRef, list[int]] = {}
    for ref in refs:
        if ref.task is not None:
            tasks.setdefault(array_of(ref), []).append(ref.task)
    done = {}
    for array, numbers in tasks.items():
        if len(numbers) < MANY:
            continue
        try:
            client.cancel_tasks(array, arrays.ranges(numbers))
        except ApiError:
            continue
        done[array] = numbers
    return done


def array_of(ref: JobRef) -> JobRef:
    """The array that a task is of."""
    return msgspec.structs.replace(ref, task=None)
