"""What is wrong with the node's GPUs, kept: seen each second, opened, drained for, told of, acknowledged, cleared.

    sampler ─► rules.look ─► watch.look ─► Incident on the shelf ─► notices
    XIDs (kernel log, NVML) ──┘                 └─ policy ─► a drain of the check's own ─► the scheduler

Rules kept here: an incident is on disk before anything is done about it; what was open when the agent stopped is open
when it starts again; only a critical one drains, as the policy of its kind says, and only a drain of ours is lifted by
us; nothing is ever reset by us.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from agent.api.errors import ApiError, StokerError
from agent.api.health import Incident, IncidentKind, KnownGpu, Severity
from agent.api.queue import DrainOwner
from agent.api.types import GpuReading, GpuState
from agent.engine.arrange import Arrangements, require_admin
from agent.engine.base import Asker
from agent.engine.core import Core
from agent.engine.shelf import Shelf
from agent.gpu.frames import UNKNOWN_UUID
from agent.telemetry import rules
from agent.telemetry.rules import HeldBy, Scene
from agent.telemetry.watch import Changes, Finding, Key, Watch
from agent.telemetry.xid import Xid, meaning

KIND = "incident"
_INVENTORY = "inventory"
LOOK_S = 1.0
SETTLED_LOOKS = 10
"""Looks at the same GPUs, all of them well, after which a new node's inventory is remembered."""
KEPT = 1000
"""Incidents that are over; beyond, the oldest go."""
SAME_S = 5.0
"""Within so long the kernel's log and NVML tell of the same XID."""

POLICY: dict[IncidentKind, str] = {
    IncidentKind.XID: "hold",
    IncidentKind.GPU_LOST: "hold",
    IncidentKind.GPU_HUNG: "drain",
    IncidentKind.ECC: "hold",
    IncidentKind.ROW_REMAP: "hold",
    IncidentKind.NVLINK_ERRORS: "hold",
    IncidentKind.MEMORY_LEAKED: "drain",
}
"""What a critical incident does to its GPU: `drain` until it clears, `hold` until it is resumed; others `tell`."""

logger = logging.getLogger(__name__)


class Seen(Protocol):
    """What can be seen of the node."""

    def readings(self) -> Sequence[GpuReading]:
        """All GPUs as they were read last."""

    def silent_s(self) -> float:
        """For how long readings are overdue; 0 while they come."""

    @property
    def pids(self) -> Mapping[int, int]:
        """Process id → job."""


class Incidents:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core, arrangements: Arrangements, seen: Seen) -> None:
        self._core = core
        self._arrangements = arrangements
        self._shelf = Shelf(core.store)
        self._seen = seen
        self._watch = Watch()
        self._open: dict[Key, Incident] = {}
        self._over: dict[int, Incident] = {}
        self._xids: list[Xid] = []
        self._told: dict[Key, float] = {}
        """When an XID was told of last, by whichever way."""
        self._known: dict[str, KnownGpu] = {}
        """The GPUs at install, by UUID."""
        self._settling: tuple[frozenset[str], int] = (frozenset(), 0)
        """GPUs of a node without an inventory, and for how many looks they have been the same."""

    async def load(self) -> None:
        """Take up what is on the shelf.

        Raises:
            StoreError: it cannot be read.
        """
        self._known = {each.uuid: each for each in await self._shelf.all(_INVENTORY, KnownGpu)}
        for each in await self._shelf.all(KIND, Incident):
            if each.cleared_at is not None:
                self._over[each.id] = each
                continue
            finding = _finding(each)
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

    def take(self, xid: Xid) -> None:
        """An XID was told; it is looked at with the next look."""
        self._xids.append(xid)

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
        found = next(((key, each) for key, each in self._open.items() if each.id == number), None)
        if found is None:
            if number in self._over:
                raise ApiError(409, "changed", f"incident {number} is over already")
            raise ApiError(404, "no_such_incident", f"there is no incident {number}; stoker incidents lists them")
        key, each = found
        if each.acknowledged_at is None:
            each = msgspec.structs.replace(each, acknowledged_at=int(time.time()), acknowledged_by=asker.user)
            await self._shelf.change([(KIND, each.id, each)])
            self._open[key] = each
        return each

    def inventory(self) -> list[KnownGpu]:
        """The GPUs that the node is known to have, by index; none on a node that is still new."""
        return sorted(self._known.values(), key=lambda each: each.index)

    async def accept(self, asker: Asker) -> list[KnownGpu]:
        """Take what is there now for right.

        Raises:
            ApiError: 403; 409, a GPU cannot be read.
        """
        require_admin(asker, "accepting the inventory")
        readings = [each for each in self._seen.readings() if each.mig_parent is None]
        bad = next((each for each in readings if each.state is not GpuState.OK), None)
        if bad is not None:
            sentence = (
                f"GPU {bad.index} cannot be read ({bad.state.value}), so it is not known what it is; mend it first"
            )
            raise ApiError(409, "not_readable", sentence)
        await self._remember(readings)
        return self.inventory()

    async def _remember(self, readings: Sequence[GpuReading]) -> None:
        known = {each.uuid: _known(each) for each in readings}
        gone = [(_INVENTORY, uuid) for uuid in self._known if uuid not in known]
        await self._shelf.change([(_INVENTORY, uuid, each) for uuid, each in known.items()], gone)
        self._known = known
        logger.info("the node's GPUs are remembered: %d", len(known))

    async def _settle(self) -> None:
        """Remember a new node's GPUs once they have been the same for some looks, and all well."""
        readings = [each for each in self._seen.readings() if each.mig_parent is None]
        uuids = frozenset(each.uuid for each in readings if each.state is GpuState.OK)
        before, looks = self._settling
        self._settling = (uuids, looks + 1 if uuids == before and len(uuids) == len(readings) else 0)
        if uuids and self._settling[1] >= SETTLED_LOOKS:
            await self._remember(readings)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def look(self, now: float, monotonic: float) -> None:
        """Look once, keep what changed, then do what the policy says.

        Raises:
            StoreError: what changed is not kept; the drain is not made either, and the next look sees it again.
        """
        if not self._known:
            await self._settle()
        scene = self._scene()
        findings = [*self._of_xids(scene, monotonic), *rules.look(scene)]
        changes = self._watch.look(findings, monotonic, blind=rules.blind(scene))
        opened = await self._keep(changes, int(now))
        for finding in [*opened, *changes.again]:
            await self._obey(finding)
        for key in changes.cleared:
            await self._give_back(key)

    def _scene(self) -> Scene:
        held: dict[str, HeldBy] = {}
        shared: set[str] = set()
        for row in self._core.jobs.active():
            for uuid in row.status.gpu_uuids:
                if uuid in held:
                    shared.add(uuid)
                held[uuid] = HeldBy(job_id=row.id, user=row.user, gpus=len(row.status.gpu_uuids))
        return Scene(
            readings=[self._named(each) for each in self._seen.readings()],
            held={uuid: holder for uuid, holder in held.items() if uuid not in shared},
            known=self.inventory(),
            sampler_silent_s=self._seen.silent_s(),
        )

    def _named(self, reading: GpuReading) -> GpuReading:
        """A reading under the UUID that it is known by: a GPU that is lost from the start on does not tell its own."""
        if not reading.uuid.startswith(UNKNOWN_UUID):
            return reading
        known = next((each for each in self._known.values() if each.index == reading.index), None)
        return reading if known is None else msgspec.structs.replace(reading, uuid=known.uuid, name=known.name)

    def _of_xids(self, scene: Scene, monotonic: float) -> list[Finding]:
        """Findings of the XIDs that came; the same one told by log and NVML is one."""
        xids, self._xids = self._xids, []
        found = []
        for xid in xids:
            finding = self._of_xid(xid, scene)
            last = self._told.get(finding.key)
            self._told[finding.key] = monotonic
            if last is None or monotonic - last > SAME_S:
                found.append(finding)
        return found

    def _of_xid(self, xid: Xid, scene: Scene) -> Finding:
        told = meaning(xid.code)
        reading = next((each for each in scene.readings if xid.uuid == each.uuid or _is_at(each, xid.pci)), None)
        holder = scene.held.get(reading.uuid) if reading is not None else None
        job_id = self._seen.pids.get(xid.pid) if xid.pid is not None else None
        job_id = job_id if job_id is not None else holder.job_id if holder is not None else None
        row = self._core.jobs.get(job_id) if job_id is not None else None
        where = f"GPU {reading.index}" if reading is not None else f"the GPU at {xid.pci or 'an unknown place'}"
        by = f", process {xid.pid}" + (f" ({xid.process})" if xid.process else "") if xid.pid is not None else ""
        return Finding(
            kind=IncidentKind.XID,
            severity=told.severity,
            what=f"XID {xid.code} on {where}{by}: {told.what}",
            advice=told.advice,
            gpu_uuid=reading.uuid if reading is not None else xid.uuid,
            gpu_index=reading.index if reading is not None else None,
            job_id=job_id,
            user=row.user if row is not None else None,
            pid=xid.pid,
            code=xid.code,
        )

    # --- keeping ------------------------------------------------------------------------------------------------------

    async def _keep(self, changes: Changes, now: int) -> list[Finding]:
        """Bring a look's changes to disk, then to mind; what was opened."""
        put: list[tuple[Key, Incident]] = []
        for finding in changes.opened:
            number = await self._shelf.next_number(KIND)
            put.append((finding.key, _incident(self._core.config.name, number, finding, now)))
        for finding in changes.again:
            put.append((finding.key, _again(self._open[finding.key], finding, now)))
        over = [
            msgspec.structs.replace(self._open[key], cleared_at=now) for key in changes.cleared if key in self._open
        ]
        if not put and not over:
            return []
        old = sorted(self._over)[: max(0, len(self._over) + len(over) - KEPT)]
        await self._shelf.change(
            [(KIND, each.id, each) for each in [*(each for _, each in put), *over]], [(KIND, number) for number in old]
        )
        self._open.update(put)
        for key in changes.cleared:
            self._open.pop(key, None)
        self._over = {number: each for number, each in self._over.items() if number not in old}
        self._over |= {each.id: each for each in over}
        for _, each in put:
            logger.warning("incident=%d %s %s: %s; %s", each.id, each.severity, each.kind, each.what, each.advice)
        for each in over:
            logger.info("incident=%d %s is over", each.id, each.kind)
        return list(changes.opened)

    async def _obey(self, finding: Finding) -> None:
        """Take a GPU out of use where the policy says so."""
        if (
            finding.severity is Severity.CRITICAL
            and finding.gpu_uuid is not None
            and self._policy(finding.kind) != "tell"
        ):
            reason = f"{finding.what}; {finding.advice}"
            await self._arrangements.take_out(finding.gpu_uuid, reason=reason, by="stoker", owner=DrainOwner.CHECK)

    async def _give_back(self, key: Key) -> None:
        """Let a GPU be used again whose trouble is over, unless other trouble of its own goes on."""
        kind, uuid, _ = key
        others = [
            each for (_, gpu, _), each in self._open.items() if gpu == uuid and each.severity is Severity.CRITICAL
        ]
        if uuid is not None and self._policy(kind) == "drain" and not others:
            await self._arrangements.lift(uuid, DrainOwner.CHECK)

    def _policy(self, kind: IncidentKind) -> str:
        return self._core.config.health.policy.get(kind.value) or POLICY.get(kind, "tell")


def _known(reading: GpuReading) -> KnownGpu:
    bus = reading.bus
    return KnownGpu(
        uuid=reading.uuid,
        index=reading.index,
        name=reading.name,
        pcie_width=None if bus is None else bus.pcie_width,
        pcie_generation=None if reading.limits is None else reading.limits.pcie_generation_max,
        nvlinks=None if bus is None else bus.nvlinks_active,
    )


def _is_at(reading: GpuReading, pci: str | None) -> bool:
    return pci is not None and reading.pci == pci


def _incident(node: str, number: int, finding: Finding, now: int) -> Incident:
    return Incident(
        id=number,
        node=node,
        kind=finding.kind,
        severity=finding.severity,
        gpu_uuid=finding.gpu_uuid,
        gpu_index=finding.gpu_index,
        job_id=finding.job_id,
        user=finding.user,
        pid=finding.pid,
        code=finding.code,
        what=finding.what,
        advice=finding.advice,
        opened_at=now,
        seen_at=now,
    )


def _again(incident: Incident, finding: Finding, now: int) -> Incident:
    return msgspec.structs.replace(
        incident,
        severity=finding.severity,
        job_id=finding.job_id,
        user=finding.user,
        pid=finding.pid,
        what=finding.what,
        advice=finding.advice,
        seen_at=now,
        count=incident.count + 1,
    )


def _finding(incident: Incident) -> Finding:
    return Finding(
        kind=incident.kind,
        severity=incident.severity,
        what=incident.what,
        advice=incident.advice,
        gpu_uuid=incident.gpu_uuid,
        gpu_index=incident.gpu_index,
        job_id=incident.job_id,
        user=incident.user,
        pid=incident.pid,
        code=incident.code,
    )
