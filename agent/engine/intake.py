"""A submission taken in: read, judged, stored, told. Accepted means stored.

Rules kept here: a key that came before gives the job made then, whatever has become of the queue or the GPUs since;
what no waiting could help is refused while the submitter is still there; a dependency names jobs of this node.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from agent.api.errors import ApiError
from agent.api.types import Job, SubmitRequest
from agent.config import Config
from agent.engine import steps
from agent.engine.accept import Identity, accept, as_api_error, identify
from agent.engine.arrange import Arrangements
from agent.engine.core import Core, now
from agent.engine.room import Room
from agent.jobs import dependency
from agent.jobs.errors import SpecError
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore

_IDENTITY_KEPT_S = 60.0
"""How long an answer of the account database is trusted, as the server does (`agent.server.accounts`)."""
_IDENTITIES_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A submission that can be taken."""

    spec: JobSpec
    owner: tuple[int, int] | None
    """uid and gid that its files shall have; `None`: the agent's own."""

    @property
    def tasks(self) -> int:
        """Jobs it makes."""
        return len(self.spec.array.tasks) if self.spec.array else 1


class Intake:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, arrangements: Arrangements, room: Room) -> None:
        self._core = core
        self._arrangements = arrangements
        self._room = room
        self._identities: dict[int, tuple[Config, float, Identity]] = {}
        """By uid; under which rules, and when it was asked."""

    async def submit(
        self, request: SubmitRequest, *, user: str, uid: int, key: str, admin: bool, cron_id: int | None
    ) -> tuple[Job, bool]:
        """See `Engine.submit`."""
        digest = hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()
        with as_api_error():
            try:
                judged = await self.judge(request, user=user, uid=uid, admin=admin)
            except (SpecError, ApiError):
                seen = await self._core.store.read(JobStore.seen, uid, key, digest)
                if seen is None:
                    raise
                return self._core.wire(seen), False  # it was accepted before, whatever is full or gone by now
            if judged.spec.test_only:
                sentence = "--test-only is answered by a plan: stoker submit --dry-run"
                raise ApiError(400, "test_only", sentence, "--test-only")
            who = steps.Submitter(user=user, uid=uid, key=key, digest=digest, owner=judged.owner, cron_id=cron_id)
            rows, created = await self._store(request, judged, who)
        return self._core.wire(rows[0]), created

    async def _store(
        self, request: SubmitRequest, judged: Judged, who: steps.Submitter
    ) -> tuple[Sequence[JobRow], bool]:
        core = self._core
        with self._room.taken(judged.tasks, who.user, judged.spec.qos):
            rows, created = await core.store.call(steps.store_submission, core.config, judged.spec, request, who)
        if created:
            await core.keep_all(rows)
            core.wake()
        return rows, created

    async def judge(self, request: SubmitRequest, *, user: str, uid: int, admin: bool) -> Judged:
        """Whether it can be taken, as things stand.

        Raises:
            SpecError, ApiError: it cannot, and why.
        """
        identity = await self._identity(uid)
        resources, config = self._core.view.resources(), self._core.config
        spec = accept(config, request, resources, user=user, groups=identity.groups, now=now(), admin=admin)
        spec = msgspec.structs.replace(spec, partition=self._arrangements.partitions.open_of(spec.partition or ""))
        judged = Judged(spec=spec, owner=identity.owner)
        if spec.reservation is not None:
            refusal = self._arrangements.refusal_of(spec.reservation, user, spec.account)
            if refusal is not None:
                raise ApiError(400, "bad_option", refusal, "--reservation")
        await self._check_dependency(spec)
        self._room.check(judged.tasks, user, spec.qos)  # last: nothing is waited for between it and the place it takes
        return judged

    async def _identity(self, uid: int) -> Identity:
        """What an account may own here, as it was at most `_IDENTITY_KEPT_S` ago."""
        config, at = self._core.config, time.monotonic()
        kept = self._identities.get(uid)
        if kept is not None and kept[0] is config and at - kept[1] < _IDENTITY_KEPT_S:
            return kept[2]
        identity = await asyncio.to_thread(identify, config, uid)
        if len(self._identities) >= _IDENTITIES_MOST:
            self._identities.clear()
        self._identities[uid] = (config, at, identity)
        return identity

    async def _check_dependency(self, spec: JobSpec) -> None:
        """At submit each must be a job of this node; what is forgotten later has ended."""
        if spec.dependency is None:
            return
        ids = dependency.referenced(spec.dependency)
        unknown = await self._core.store.read(steps.unknown_ids, ids)
        if unknown:
            sentence = f"the dependency names job {unknown[0]}, which this node does not know; see stoker jobs --all"
            raise ApiError(400, "bad_option", sentence, "--dependency")
