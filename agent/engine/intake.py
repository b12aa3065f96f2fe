"""A submission taken in: read, judged, stored, told. Accepted means stored.

Rules kept here: a key that came before gives the job made then, whatever has become of the queue or the GPUs since;
what no waiting could help is refused while the submitter is still there; a dependency names jobs of this node.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
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

    def __init__(self, core: Core, arrangements: Arrangements) -> None:
        self._core = core
        self._arrangements = arrangements
        self._on_the_way: Counter[str] = Counter()
        """User → jobs that were judged and are being stored: they count, so that no two submits share one place."""
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
        self._on_the_way[who.user] += judged.tasks
        try:
            rows, created = await core.store.call(steps.store_submission, core.config, judged.spec, request, who)
        finally:
            self._on_the_way[who.user] -= judged.tasks
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
        judged = Judged(spec=spec, owner=identity.owner)
        self._check_reservation(spec)
        await self._check_dependency(spec)
        self._check_room(judged.tasks, user, spec)  # last: nothing is waited for between it and the place it takes
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

    def _check_room(self, tasks: int, user: str, spec: JobSpec) -> None:
        config, jobs = self._core.config, self._core.jobs
        pending = jobs.counts()[1] + self._on_the_way.total()
        if pending + tasks > config.jobs.max_pending:
            more = f", and these are {tasks} more" if tasks > 1 else ""
            sentence = f"{pending} jobs wait already{more}; jobs.max_pending is {config.jobs.max_pending}"
            raise ApiError(429, "queue_full", f"{sentence}; submit again when some have run")
        own = jobs.count_of(user) + self._on_the_way[user]
        self._check_limit(own, tasks, config.limits.max_submit_per_user, "limits.max_submit_per_user")
        qos = next((each for each in config.qos if each.name == spec.qos), None)
        if qos is not None and qos.max_submit_per_user is not None:
            same = sum(row.spec.qos == spec.qos for row in jobs.of_user(user)) + self._on_the_way[user]
            self._check_limit(same, tasks, qos.max_submit_per_user, f"max_submit_per_user of QOS {qos.name}")

    def _check_limit(self, have: int, more: int, most: int | None, name: str) -> None:
        if most is not None and have + more > most:
            raise ApiError(
                429,
                "user_limit",
                f"{have} of your jobs wait or run, and {more} more would be over {name} = {most}; submit when some "
                "have ended",
            )

    def _check_reservation(self, spec: JobSpec) -> None:
        if spec.reservation is not None and self._arrangements.find(spec.reservation) is None:
            known = ", ".join(each.name for each in self._arrangements.reservations()) or "none"
            sentence = f"there is no reservation {spec.reservation}; known: {known}"
            raise ApiError(400, "bad_option", sentence, "--reservation")

    async def _check_dependency(self, spec: JobSpec) -> None:
        """At submit each must be a job of this node; what is forgotten later has ended."""
        if spec.dependency is None:
            return
        ids = dependency.referenced(spec.dependency)
        unknown = await self._core.store.read(steps.unknown_ids, ids)
        if unknown:
            sentence = f"the dependency names job {unknown[0]}, which this node does not know; see stoker jobs --all"
            raise ApiError(400, "bad_option", sentence, "--dependency")
