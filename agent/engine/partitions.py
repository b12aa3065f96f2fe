"""Which partitions are open, by an admin's word: `scontrol update PartitionName=… State=…`.

The configuration says which partitions there are and what holds in them; their state is on the store's shelf, so that a
partition that was taken down stays down over restarts, until somebody says UP. Rules kept here: running jobs are never
touched; the words are Slurm's, see `OPEN_TO`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.api.errors import ApiError
from agent.api.queue import PartitionState, PartitionUpdate
from agent.engine.accept import as_api_error
from agent.engine.core import Core
from agent.jobs.store import JobStore

_SHELF = "partition"

OPEN_TO: Mapping[str, tuple[bool, bool]] = {
    "UP": (True, True), "DOWN": (True, False), "DRAIN": (False, True), "INACTIVE": (False, False),
}  # fmt: skip
"""State → whether jobs may be handed in, and whether those that wait may start. scontrol(1)."""


class Partitions:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._states: dict[str, PartitionState] = {}
        self._closed: dict[str, str] = {}

    async def load(self) -> None:
        """Take up what is on the shelf.

        Raises:
            StoreError: it cannot be read.
        """
        self._states = await self._core.store.read(JobStore.all, _SHELF, PartitionState)
        self._note()

    def states(self) -> Mapping[str, str]:
        """Partition → its state, of those that are not UP."""
        return {name: each.state for name, each in self._states.items()}

    def closed(self) -> Mapping[str, str]:
        """Partition → its state, of those in which nothing starts; the same object until one of them changes."""
        return self._closed

    async def change(self, name: str, request: PartitionUpdate, by: str, at: int) -> None:
        """Let another state hold.

        Raises:
            ApiError: 404 there is no such partition, 400 no such state, 503 not stored.
        """
        known = [each.name for each in self._core.config.partitions]
        if name not in known:
            raise ApiError(404, "no_such_partition", f"there is no partition {name[:80]!r}; known: {', '.join(known)}")
        state = request.state.upper()
        if state not in OPEN_TO:
            raise ApiError(400, "bad_field", f"{request.state[:40]!r} is not one of {', '.join(OPEN_TO)}", "$.state")
        told = PartitionState(state=state, by=by, at=at)
        with as_api_error():
            if state == "UP":
                await self._core.store.call(JobStore.drop, _SHELF, name)
            else:
                await self._core.store.call(JobStore.put, _SHELF, name, told)
        self._states.pop(name, None)
        if state != "UP":
            self._states[name] = told
        self._note()
        self._core.wake()

    def open_of(self, partitions: str) -> str:
        """Of the partitions that a job names, those that take jobs now.

        Raises:
            ApiError: 400, none does.
        """
        names = partitions.split(",")
        taking = [name for name in names if name not in self._states or OPEN_TO[self._states[name].state][0]]
        if not taking:
            each = self._states[names[0]]
            sentence = "Required partition not available (inactive or drain)"
            why = f"{each.by} set partition {names[0]} to {each.state}; name another one, or ask {each.by}"
            raise ApiError(400, "bad_option", f"{sentence}: {why}", "--partition")
        return ",".join(taking)

    def _note(self) -> None:
        self._closed = {name: each.state for name, each in self._states.items() if not OPEN_TO[each.state][1]}
