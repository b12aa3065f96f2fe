"""What was told of a GPU, by its driver or the kernel's log, as findings: which GPU, whose job, what it means. Pure."""

from __future__ import annotations

from agent.api.health import IncidentKind, Severity
from agent.api.types import GpuReading
from agent.gpu.frames import EventKind, GpuEvent
from agent.telemetry.rules import Scene
from agent.telemetry.watch import Finding
from agent.telemetry.xid import Xid, meaning
from agent.telemetry.xidjoin import Heard

_RESET = "reset it when its jobs have ended (nvidia-smi --gpu-reset)"
_EVENTS = {
    EventKind.ECC: (
        IncidentKind.ECC, Severity.CRITICAL, "had a memory error that could not be mended",
        f"{_RESET}; again soon: have it replaced",
    ),
    EventKind.POISON: (
        IncidentKind.ECC, Severity.WARNING, "met wrong data in its memory and stopped the program that read it",
        "start that program again; again soon: have it looked at",
    ),
    EventKind.ROW_RETIRED: (
        IncidentKind.ROW_REMAP, Severity.WARNING, "took a bad memory row out of use", f"{_RESET} to make it good",
    ),
    EventKind.ROW_NOT_RETIRED: (
        IncidentKind.ROW_REMAP, Severity.CRITICAL, "could not take a bad memory row out of use", "have it replaced",
    ),
    EventKind.UNAVAILABLE: (
        IncidentKind.GPU_LOST, Severity.CRITICAL, "cannot be used any more, its driver says",
        "let its jobs end, reset it or reboot the node; again soon: have it replaced",
    ),
}  # fmt: skip


def of_event(event: GpuEvent) -> Xid | None:
    """The XID that NVML told of; `None`: it told of something else."""
    if event.kind is not EventKind.XID or event.code is None:
        return None
    return Xid(code=event.code, at=event.at, uuid=event.uuid, mig_gi=event.mig_gi)


def is_of(reading: GpuReading, xid: Xid) -> bool:
    """Whether an XID is this GPU's; of a divided one it is the whole."""
    if reading.mig_parent is not None:
        return False
    return reading.uuid == xid.uuid if xid.uuid is not None else xid.pci is not None and reading.pci == xid.pci


def xid_finding(heard: Heard, scene: Scene) -> Finding:
    """An XID, with what the code means; its user is left to who knows the jobs."""
    xid, told = heard.xid, meaning(heard.xid.code)
    reading = next((each for each in scene.readings if is_of(each, xid)), None)
    holder = scene.held.get(_hit(reading, xid.mig_gi, scene)) if reading is not None else None
    job_id = heard.job_id if heard.job_id is not None or holder is None else holder.job_id
    where = f"GPU {reading.index}" if reading is not None else f"the GPU at {xid.pci or xid.uuid or 'an unknown place'}"
    by = f", process {xid.pid}" + (f" ({xid.process})" if xid.process else "") if xid.pid is not None else ""
    return Finding(
        kind=IncidentKind.XID,
        severity=told.severity,
        what=f"XID {xid.code} on {where}{by}: {told.what}",
        advice=told.advice,
        gpu_uuid=reading.uuid if reading is not None else xid.uuid,
        gpu_index=reading.index if reading is not None else None,
        job_id=job_id,
        user=holder.user if holder is not None and holder.job_id == job_id else None,
        pid=xid.pid,
        code=xid.code,
        times=int(heard.is_new),
    )


def event_finding(event: GpuEvent, scene: Scene) -> Finding:
    """Something else that NVML told of."""
    kind, severity, what, advice = _EVENTS[event.kind]
    reading = next((each for each in scene.readings if each.uuid == event.uuid), None)
    holder = scene.held.get(_hit(reading, event.mig_gi, scene)) if reading is not None else None
    where = f"GPU {reading.index}" if reading is not None else event.uuid
    return Finding(
        kind=kind,
        severity=severity,
        what=f"{where} {what}",
        advice=advice,
        gpu_uuid=event.uuid,
        gpu_index=reading.index if reading is not None else None,
        job_id=holder.job_id if holder is not None else None,
        user=holder.user if holder is not None else None,
    )


def _hit(reading: GpuReading, mig_gi: int | None, scene: Scene) -> str:
    """The UUID that a job would hold: the GPU's, or that of its only instance with this number."""
    if mig_gi is None:
        return reading.uuid
    parts = [each.uuid for each in scene.readings if each.mig_parent == reading.uuid and each.mig_gi == mig_gi]
    return parts[0] if len(parts) == 1 else reading.uuid
