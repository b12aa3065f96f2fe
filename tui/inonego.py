"""Many tasks of an array, asked with one call: ten thousand calls would take minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from tui import arrays, safe

if TYPE_CHECKING:
    from agent.api.tasks import TasksRefused, TasksReply, TaskVerb
    from tui.client import ClusterClient


class Tasks(msgspec.Struct, frozen=True):
    """Two or more tasks of one array."""

    array: JobRef
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return name(self.array, arrays.ranges(self.numbers))

    @property
    def refs(self) -> list[JobRef]:
        """Each by its own name."""
        return [msgspec.structs.replace(self.array, task=number) for number in self.numbers]


def parts(refs: Iterable[JobRef]) -> list[JobRef | Tasks]:
    """What is asked with a call each: the tasks of one array together, where the first of them was named."""
    groups: dict[tuple[JobRef, bool], dict[JobRef, None]] = {}
    for ref in refs:
        array = msgspec.structs.replace(ref, task=None)
        groups.setdefault((array, ref.task is None), {})[ref] = None
    found: list[JobRef | Tasks] = []
    for (array, _), of in groups.items():
        numbers = tuple(sorted(ref.task for ref in of if ref.task is not None))
        found += [Tasks(array, numbers)] if len(numbers) > 1 else of
    return found


def ask(client: ClusterClient, verb: TaskVerb, tasks: Tasks, *, hold: bool = False) -> TasksReply | None:
    """Ask it of all of them; `None` where the call is not known (an agent of the version before): ask one by one.

    Raises:
        ApiError: it is refused to all, or there is no such array.
    """
    try:
        return client.ask_tasks(verb, tasks.array, arrays.ranges(tasks.numbers), hold=hold)
    except ApiError as error:
        if error.code not in ("not_found", "bad_method"):
            raise
        client.job(tasks.array)  # where there is none either, that is the answer
        return None


def refusal(refused: TasksRefused) -> ApiError:
    """As the call for one of them would be refused."""
    return ApiError(refused.status, refused.code, refused.message)


def name(array: JobRef, tasks: str) -> str:
    """`17_[1-5]`, `17_3`."""
    return f"{array}_{tasks}" if tasks.isdecimal() else f"{array}_[{safe.text(tasks)}]"
