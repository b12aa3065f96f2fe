"""What is wrong with the node's GPUs, kept: seen each second, opened, drained for, told of, acknowledged, cleared.

    sampler ─► rules.look ─► watch.look ─► Incident on the shelf ─► courier ─► command, URL
    events (kernel log, NVML) ┘                 └─ policy ─► a drain of the check's own ─► the scheduler

Rules kept here: an incident is on disk, with what is told of it, before anything is done about it; what was open when
the agent stopped is open when it starts again, and what was not done for it yet is done then; only a critical one
drains (or one of a kind that never is), as the policy of its kind says, and only a drain of ours is lifted by us;
nothing is ever reset by us.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from agent.api.errors import ApiError, StokerError
from agent.api.health import Incident, IncidentKind, KnownGpu, Severity
from agent.api.queue import DrainOwner
from agent.api.types import GpuReading
from agent.engine.base import Asker, require_admin
from agent.engine.cases import finding_of, opened, seen_again
from agent.engine.core import Core
from agent.engine.courier import Courier
from agent.engine.drains import Drains
from agent.engine.inventory import Inventory
from agent.engine.message import IncidentEvent, of_incident, wants, worse
from agent.engine.shelf import Shelf
from agent.gpu.frames import GpuEvent
from agent.telemetry import rules
from agent.telemetry.rises import Busy, Rises
from agent.telemetry.rules import HeldBy, Scene
from agent.telemetry.told import event_finding, is_of, of_event, xid_finding
from agent.telemetry.watch import Changes, Finding, Key, Watch
from agent.telemetry.xid import Xid
from agent.telemetry.xidjoin import Heard, XidJoin

KIND = "incident"
LOOK_S = 1.0
KEPT = 1000
"""Incidents that are over; beyond, the oldest go."""
SAME_MOST = 1000
"""Of the same GPU and sort that wait to be kept; the incident counts no further."""
SAME_S = 5.0
"""Within so long, and a period of the sampler, the kernel's log and NVML tell of the same XID."""

POLICY: dict[IncidentKind, str] = {
    IncidentKind.XID: "hold",
    IncidentKind.GPU_LOST: "hold",
    IncidentKind.GPU_HUNG: "drain",
    IncidentKind.ECC: "hold",
    IncidentKind.ROW_REMAP: "hold",
    IncidentKind.NVLINK_ERRORS: "hold",
    IncidentKind.RECOVERY_ACTION: "drain",
    IncidentKind.MEMORY_LEAKED: "drain",
}
"""What a critical incident does to its GPU: `drain` until it clears, `hold` until it is resumed; others `tell`."""
_NEVER_CRITICAL = frozenset(
    {
        IncidentKind.GPU_EXCHANGED,
        IncidentKind.LINK_DEGRADED,
        IncidentKind.THERMAL_THROTTLE,
        IncidentKind.POWER_THROTTLE,
        IncidentKind.HUNG_COLLECTIVE,
        IncidentKind.HELD_IDLE,
        IncidentKind.STRAGGLER,
    }
)
"""A site that names one of these in its policy means each of them."""

logger = logging.getLogger(__name__)


class Seen(Protocol):
    """What can be seen of the node."""

    def readings(self) -> Sequence[GpuReading]:
        """All GPUs as they were read last."""

    def silent_s(self) -> float:
        """For how long readings are overdue; 0 while they come."""

    def none_found(self) -> str | None:
        """Why there is no GPU; `None` while there are some, and before that is known."""

    def job_of(self, pid: int) -> int | None:
        """Whose process it is, or was."""


class Incidents:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, drains: Drains, seen: Seen, courier: Courier) -> None:
        self._core = core
        self._courier = courier
        self._drains = drains
        self._shelf = Shelf(core.store)
        self._seen = seen
        self._watch = Watch()
        self._open: dict[Key, Incident] = {}
        self._over: dict[int, Incident] = {}
        self._join = XidJoin(SAME_S + core.config.gpu.period_s)
        self._told: list[Heard | GpuEvent] = []
        """Since the last look."""
        self._waiting: Counter[tuple[str | None, str | int]] = Counter()
        """How many of them are of the same GPU and sort."""
        self._inventory = Inventory(self._shelf)
        self._rises = Rises()
        self._busy = Busy()

    async def load(self) -> None:
        """Take up what is on the shelf.

        Raises:
            StoreError: it cannot be read.
        """
        await self._inventory.load()
        for each in await self._shelf.all(KIND, Incident):
            if each.cleared_at is not None:
                self._over[each.id] = each
                continue
            finding = finding_of(each)
            self._open[finding.key] = each
            self._watch.resume(finding, time.monotonic())

    async def serve(self) -> None:
        """Look every second until cancelled."""
        while True:
            try:
                await self.look(time.time(), time.monotonic())
            except StokerError as error:
                logger.error("what is wrong with the GPUs is not kept: %s; trying again", error)
            except Exception:
                logger.exception("looking after the GPUs failed; it goes on")
            await asyncio.sleep(LOOK_S)

    def take(self, told: Xid | GpuEvent) -> None:
        """Something was told; it is looked at with the next look. Whose process it was is asked at once: it dies."""
        xid = of_event(told) if isinstance(told, GpuEvent) else told
        if xid is None:
            assert isinstance(told, GpuEvent)
            if self._has_room(told):
                self._told.append(told)
            return
        if not self._has_room(xid):
            return
        job_id = self._seen.job_of(xid.pid) if xid.pid is not None else None
        place = next((each.uuid for each in self._seen.readings() if is_of(each, xid)), xid.uuid or xid.pci)
        self._told.append(self._join.take(xid, place, job_id, time.monotonic()))

    def _has_room(self, told: Xid | GpuEvent) -> bool:
        """Whether it can wait for the next look: of each kind so many do, while the disk refuses and they flood."""
        self._waiting[key := _sort(told)] += 1
        if self._waiting[key] == SAME_MOST + 1:
            logger.warning("more than %d times the same was told of a GPU before it was kept: not counted", SAME_MOST)
        return self._waiting[key] <= SAME_MOST

    def all(self, *, over: bool = False) -> list[Incident]:
        """Those that are open, the newest first; with `over` those that were, behind them."""
        found = sorted(self._open.values(), key=lambda each: -each.id)
        return found + (sorted(self._over.values(), key=lambda each: -each.id) if over else [])

    async def acknowledge(self, number: int, asker: Asker) -> Incident:
        """Somebody has seen it: it stays open, and is not told of again.

        Raises:
            ApiError: 403, 404, 409; 503, not stored.
        """
        require_admin(asker, "acknowledging incidents")
        key, each = self._one(number)
        if each.acknowledged_at is None:
            each = msgspec.structs.replace(each, acknowledged_at=int(time.time()), acknowledged_by=asker.user)
            await self._store([(each, IncidentEvent.ACKNOWLEDGED)])
            self._open[key] = each
        return each

    async def clear(self, number: int, asker: Asker) -> Incident:
        """Somebody says that it is over, and does not want to wait until that shows. A drain that holds stays.

        Raises:
            ApiError: 403, 404; 409, it is over already, or it is still so; 503, not stored.
        """
        require_admin(asker, "clearing incidents")
        key, each = self._one(number)
        if self._watch.is_so(key):
            raise ApiError(
                409, "still_so", f"incident {number} is not over: {each.what}; it clears itself when that ends"
            )
        each = msgspec.structs.replace(each, cleared_at=int(time.time()), cleared_by=asker.user)
        await self._store([(each, IncidentEvent.CLEARED)])
        self._watch.drop(key)
        self._close({key: each})
        await self._give_back(key)
        return each

    def _one(self, number: int) -> tuple[Key, Incident]:
        found = next(((key, each) for key, each in self._open.items() if each.id == number), None)
        if found is not None:
            return found
        if number in self._over:
            raise ApiError(409, "changed", f"incident {number} is over already")
        raise ApiError(404, "no_such_incident", f"there is no incident {number}; stoker incidents lists them")

    def inventory(self) -> list[KnownGpu]:
        """The GPUs that the node is known to have, by index; none on a node that is still new."""
        return self._inventory.all()

    async def accept(self, asker: Asker) -> list[KnownGpu]:
        """Take what is there now for right.

        Raises:
            ApiError: 403; 409, a GPU cannot be read, or none was yet.
        """
        require_admin(asker, "accepting the inventory")
        readings = self._seen.readings()
        if not readings and self._seen.none_found() is None:
            sentence = "the GPUs have not been read yet, so it is not known what is there; ask again in some seconds"
            raise ApiError(409, "not_readable", sentence)
        return await self._inventory.accept(readings)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def look(self, now: float, monotonic: float) -> None:
        """Look once, keep what changed, then do what the policy says.

        Raises:
            StoreError: what changed is not kept; the drain is not made either, and the next look sees it again.
        """
        await self._inventory.settle(self._seen.readings())
        scene, told, before = self._scene(monotonic), self._told, self._watch.copy()
        self._told, health = [], self._core.config.health
        self._watch.for_s, self._watch.clear_s = health.for_s, health.clear_s
        findings = [*self._of_events(told, scene), *rules.look(scene)]
        changes = self._watch.look(findings, monotonic, blind=rules.blind(scene), unsure=rules.unsure(scene))
        try:
            fresh, again = await self._keep(changes, int(now))
        except StokerError:
            self._watch, self._told = before, told + self._told
            raise
        finally:
            self._waiting = Counter(_sort(each.xid if isinstance(each, Heard) else each) for each in self._told)
        await self._obey_all(fresh | again)
        for key in fresh:
            await self._tell_jobs(self._open[key])
        for key in changes.cleared:
            await self._give_back(key)

    def _scene(self, monotonic: float) -> Scene:
        readings = [self._inventory.named(each) for each in self._seen.readings()]
        held: dict[str, HeldBy] = {}
        shared: set[str] = set()
        for row in self._core.jobs.active():
            for uuid in row.status.gpu_uuids:
                if uuid in held:
                    shared.add(uuid)
                held[uuid] = HeldBy(job_id=row.id, user=row.user, gpus=len(row.status.gpu_uuids))
        return Scene(
            readings=readings,
            held={uuid: holder for uuid, holder in held.items() if uuid not in shared},
            shared=shared,
            known=self.inventory(),
            none_found=self._seen.none_found(),
            sampler_silent_s=self._seen.silent_s(),
            rises=self._rises.look(readings, monotonic),
            busy_s=self._busy.look(readings, monotonic),
        )

    def _of_events(self, told: Sequence[Heard | GpuEvent], scene: Scene) -> list[Finding]:
        """Findings of what was told since the last look; the same one more than once is one that says how often."""
        found: dict[Key, Finding] = {}
        for each in told:
            finding = event_finding(each, scene) if isinstance(each, GpuEvent) else self._of_xid(each, scene)
            before = found.get(finding.key)
            times = finding.times + (before.times if before is not None else 0)
            found[finding.key] = dataclasses.replace(finding, times=times)
        return list(found.values())

    def _of_xid(self, heard: Heard, scene: Scene) -> Finding:
        finding = xid_finding(heard, scene)
        row = self._core.jobs.get(finding.job_id) if finding.job_id is not None else None
        return finding if row is None else dataclasses.replace(finding, user=row.user)

    # --- keeping ------------------------------------------------------------------------------------------------------

    async def _keep(self, changes: Changes, now: int) -> tuple[set[Key], set[Key]]:
        """Bring a look's changes to disk, then to mind; what is new or got worse, and what happened again."""
        fresh: set[Key] = {finding.key for finding in changes.opened}
        again: set[Key] = set()
        put: dict[Key, tuple[Incident, IncidentEvent | None]] = {}
        for finding in changes.opened:
            number = await self._shelf.next_number(KIND)
            put[finding.key] = opened(self._core.config.name, number, finding, now), IncidentEvent.OPENED
        for finding in changes.again:
            before = self._open[finding.key]
            graver = worse(before.severity, finding.severity)
            put[finding.key] = seen_again(before, finding, now), IncidentEvent.WORSE if graver else None
            if graver:
                fresh.add(finding.key)
            elif finding.kind is IncidentKind.XID and finding.times:
                again.add(finding.key)
        over = {
            key: msgspec.structs.replace(self._open[key], cleared_at=now)
            for key in changes.cleared
            if key in self._open
        }
        if not put and not over:
            return fresh, again
        await self._store([*put.values(), *((each, IncidentEvent.CLEARED) for each in over.values())])
        self._open.update({key: each for key, (each, _) in put.items()})
        for each, _ in put.values():
            logger.warning("incident=%d %s %s: %s; %s", each.id, each.severity, each.kind, each.what, each.advice)
        self._close(over)
        return fresh, again

    async def _store(self, changed: Sequence[tuple[Incident, IncidentEvent | None]]) -> None:
        """Bring incidents to disk, and with them what is told of them."""
        hooks, now = self._core.config.hooks, int(time.time())
        heard = hooks.notify_command is not None or hooks.notify_url is not None
        made = [
            of_incident(each, event, now)
            for each, event in changed
            if heard and event is not None and wants(each, hooks.notify_incidents)
        ]
        spare = len(self._over) + sum(each.cleared_at is not None for each, _ in changed) - KEPT
        old = sorted(self._over)[: max(0, spare)]
        await self._shelf.change(
            [*((KIND, each.id, each) for each, _ in changed), *(("notice", each.id, each) for each in made)],
            [(KIND, number) for number in old],
        )
        for number in old:
            del self._over[number]
        self._courier.take(made)

    def _close(self, over: Mapping[Key, Incident]) -> None:
        for key, each in over.items():
            self._open.pop(key, None)
            self._over[each.id] = each
            logger.info("incident=%d %s is over", each.id, each.kind)

    # --- what is done about it ----------------------------------------------------------------------------------------

    async def _obey_all(self, again: Collection[Key]) -> None:
        """Take GPUs out of use where the policy says so: once for each incident, and for each time it comes again."""
        for key, each in list(self._open.items()):
            if each.drained_at is not None and key not in again:
                continue
            grave = each.severity is Severity.CRITICAL or each.kind in _NEVER_CRITICAL
            if not grave or each.gpu_uuid is None or self._policy(each.kind) == "tell":
                continue
            reason = f"{each.what}; {each.advice}"
            for uuid in self._whole(each.gpu_uuid):
                await self._drains.take_out(uuid, reason=reason, by="stoker", owner=DrainOwner.CHECK)
            drained = msgspec.structs.replace(each, drained_at=int(time.time()))
            await self._store([(drained, None)])
            self._open[key] = drained

    async def _give_back(self, key: Key) -> None:
        """Let a GPU be used again whose trouble is over, unless other trouble of its own goes on or holds it."""
        kind, uuid, _ = key
        if uuid is None or self._policy(kind) != "drain" or self._is_held(uuid):
            return
        for each in self._whole(uuid):
            await self._drains.lift(each, DrainOwner.CHECK)

    def _is_held(self, uuid: str) -> bool:
        """Whether an incident keeps a GPU out of use: one that is open, or one that holds until somebody resumes."""
        since = next((each.at for each in self._drains.all() if each.gpu_uuid == uuid), None)
        if since is None:
            return False
        if any(each.gpu_uuid == uuid and each.drained_at is not None for each in self._open.values()):
            return True
        ended = (each for each in self._over.values() if each.gpu_uuid == uuid and each.drained_at is not None)
        return any(self._policy(each.kind) == "hold" and (each.drained_at or 0) >= since for each in ended)

    async def _tell_jobs(self, incident: Incident) -> None:
        """A line in the history of each job that it hits; that an idle job is idle, the reaper tells it."""
        if incident.severity is Severity.INFO and incident.kind is not IncidentKind.XID:
            return
        hit = set(self._whole(incident.gpu_uuid)) if incident.gpu_uuid is not None else set[str]()
        for row in list(self._core.jobs.active()):
            if row.id != incident.job_id and (incident.code is not None or not hit.intersection(row.status.gpu_uuids)):
                continue  # an XID is its process's job's, a sick GPU is everybody's on it
            by = f"stoker: incident {incident.id}: {incident.what}; {incident.advice}"
            try:
                await self._core.amend(row.id, row.spec, event="Incident", by=by, revision=row.revision)
            except StokerError as error:
                logger.warning("job=%d is not told of incident %d: %s", row.id, incident.id, error)

    def _whole(self, uuid: str) -> list[str]:
        """A GPU and its MIG instances, which are given out in its place."""
        return [uuid, *(each.uuid for each in self._seen.readings() if each.mig_parent == uuid)]

    def _policy(self, kind: IncidentKind) -> str:
        return self._core.config.health.policy.get(kind.value) or POLICY.get(kind, "tell")


def _sort(told: Xid | GpuEvent) -> tuple[str | None, str | int]:
    """What floods together: the kernel's log and NVML name a GPU in different ways, so those are two."""
    return (told.uuid, told.kind.value) if isinstance(told, GpuEvent) else (told.uuid or told.pci, told.code)
