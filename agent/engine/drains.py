"""Drained GPUs and the drained node: no new job starts there, what runs runs on.

Rules kept here: a drain is on the store's shelf before it counts, and in memory a copy of that; they are made one at a
time; a drain has an owner, and what a person drained no check gives back; a newer reason takes the place of the one
before, as in Slurm, and keeps it; each change is a line in the agent's log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from msgspec.structs import replace

from agent.api.errors import ApiError
from agent.api.queue import Drain, DrainChange, DrainOwner, DrainRequest
from agent.engine.accept import as_api_error
from agent.engine.base import Asker, require_admin
from agent.engine.core import Core, now
from agent.jobs.store import JobStore

_DRAINS = "drain"
_NODE = "node"
"""Key of the node's own drain on the shelf."""

_US = "stoker"
_REASON_MOST = 1000
_EARLIER_MOST = 8
"""Reasons that one drain keeps of those it replaced."""

logger = logging.getLogger(__name__)


class Drains:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._drains: dict[str, Drain] = {}
        self._began_at = now()
        self._one_at_a_time = asyncio.Lock()

    async def load(self) -> None:
        """Take up what is on the shelf.

        Raises:
            StoreError: it cannot be read.
        """
        self._drains = await self._core.store.read(JobStore.all, _DRAINS, Drain)

    def gpus(self) -> Mapping[str, str]:
        """UUID → why it takes no new job."""
        return {each.gpu_uuid: _told(each) for each in self._drains.values() if each.gpu_uuid is not None}

    def node(self) -> str | None:
        """Why the node takes no new job."""
        drain = self._node_drain()
        return None if drain is None else _told(drain)

    def all(self) -> list[Drain]:
        """See `Engine.drains`."""
        node = self._node_drain()
        gpus = [each for each in self._drains.values() if each.gpu_uuid is not None]
        return [*([] if node is None else [node]), *sorted(gpus, key=lambda each: each.at)]

    # --- by a person --------------------------------------------------------------------------------------------------

    async def drain(self, request: DrainRequest, asker: Asker) -> DrainChange:
        """See `Engine.drain`."""
        require_admin(asker, "draining")
        reason = (request.reason or "").strip()
        if not reason:
            raise ApiError(400, "bad_field", "a drain needs a reason, for whoever finds it drained", "$.reason")
        if len(reason) > _REASON_MOST:
            raise ApiError(400, "bad_field", f"the reason is longer than {_REASON_MOST} characters", "$.reason")
        uuid = None if request.gpu is None else uuid_of(self._core, request.gpu)
        before, after = await self.take_out(uuid, reason=reason, by=asker.user, owner=DrainOwner.PERSON)
        return DrainChange(before=before, after=after, drains=tuple(self.all()))

    async def resume(self, request: DrainRequest, asker: Asker) -> DrainChange:
        """See `Engine.resume`. A person's word lifts a check's drain as well."""
        require_admin(asker, "resuming")
        key = _NODE if request.gpu is None else self._drained_uuid(request.gpu)
        async with self._one_at_a_time:
            before = await self._give_back(key, asker.user)
        return DrainChange(before=before, drains=tuple(self.all()))

    # --- by a person or a check ---------------------------------------------------------------------------------------

    async def take_out(
        self, uuid: str | None, *, reason: str, by: str, owner: DrainOwner
    ) -> tuple[Drain | None, Drain]:
        """Drain a GPU, or the node; what a person drained stays theirs. How it was drained before, and is now.

        Raises:
            ApiError: 503, not stored.
        """
        key = uuid or _NODE
        async with self._one_at_a_time:
            before = self._drains.get(key)
            if before is not None and (before.owner, before.reason) == (owner, reason):
                return before, before
            if before is not None and before.owner is DrainOwner.PERSON and owner is not DrainOwner.PERSON:
                return before, before
            drain = Drain(gpu_uuid=uuid, reason=reason, by=by, owner=owner, at=now())
            drain = drain if before is None else _in_place_of(before, drain)
            with as_api_error():
                await self._core.store.call(JobStore.put, _DRAINS, key, drain)
            self._drains[key] = drain
        was = "" if before is None else f"; was drained by {before.by}: {before.reason}"
        logger.info("%s is drained by %s: %s%s", self._name(key), by, reason, was)
        self._core.wake()
        return before, drain

    async def hook_failed(self, job_id: int, hook: str, problem: str) -> None:
        """Drain the node because its prolog or epilog failed, as Slurm does; who drained it before is not outdone.

        Only `resume` gives it back: that a later hook would pass, nobody can know while no job starts.

        Raises:
            StoreError: not stored.
        """
        async with self._one_at_a_time:
            if _NODE in self._drains:
                return
            reason = f"{hook} error: job {job_id}: {problem}"[:_REASON_MOST]
            drain = Drain(gpu_uuid=None, reason=reason, by=_US, owner=DrainOwner.CHECK, at=now())
            await self._core.store.call(JobStore.put, _DRAINS, _NODE, drain)
            self._drains[_NODE] = drain
        logger.error("node=%s is drained: %s; mend the hook, then: stoker resume", self._core.config.name, reason)
        self._core.wake()

    async def lift(self, uuid: str | None, owner: DrainOwner) -> None:
        """Take a drain back that is the owner's own."""
        async with self._one_at_a_time:
            drain = self._drains.get(uuid or _NODE)
            if drain is not None and drain.owner is owner:
                await self._give_back(uuid or _NODE, _US)

    async def _give_back(self, key: str, by: str) -> Drain | None:
        """How it was drained."""
        with as_api_error():
            await self._core.store.call(JobStore.drop, _DRAINS, key)
        before = self._drains.pop(key, None)
        if before is not None:
            logger.info("%s is resumed by %s; was drained by %s: %s", self._name(key), by, before.by, before.reason)
        self._core.wake()
        return before

    def _node_drain(self) -> Drain | None:
        """The node's own; a store that takes no writes is one, and nobody's to lift."""
        drain, why = self._drains.get(_NODE), self._core.store.read_only
        if why is None:
            return drain
        reason = why if drain is None else f"{why}; besides: {_told(drain)}"
        return Drain(gpu_uuid=None, reason=reason, by=_US, owner=DrainOwner.CHECK, at=self._began_at)

    def _drained_uuid(self, text: str) -> str:
        """Of a GPU that may have left the node since."""
        return text if text in self._drains else uuid_of(self._core, text)

    def _name(self, key: str) -> str:
        return f"node={self._core.config.name}" if key == _NODE else f"gpu={key}"


def uuid_of(core: Core, text: str) -> str:
    """The GPU of the node that is called by its index or UUID.

    Raises:
        ApiError: 404.
    """
    gpus = core.view.resources().gpus
    for gpu in gpus:
        if text == gpu.uuid or (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) == gpu.index):
            return gpu.uuid
    known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
    raise ApiError(404, "no_such_gpu", f"{core.config.name} has no GPU {text[:80]!r}; it has: {known}", "$.gpu")


def _in_place_of(before: Drain, drain: Drain) -> Drain:
    """What a check finds again stays drained since then: by that, `Incidents` knows which of them hold the GPU."""
    since = before.at if drain.owner is before.owner is DrainOwner.CHECK else drain.at
    return replace(drain, at=since, earlier=(replace(before, earlier=()), *before.earlier)[:_EARLIER_MOST])


def _told(drain: Drain) -> str:
    return f"{drain.reason} (by {drain.by}, {time.strftime('%Y-%m-%d %H:%M', time.localtime(drain.at))})"
