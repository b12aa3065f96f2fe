"""Usage metered: each run on GPUs is opened and closed in the ledger (`agent.jobs.meter`), on the store's thread.

Rules kept here: a run is opened in the transaction that stores its start, and closed in the one that stores its end, so
neither costs a flush of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from agent.api.usage import SHARE_WHOLE
from agent.config import Config
from agent.engine import procs
from agent.engine.accept import Resources
from agent.jobs.machine import Event, Lost, Rebooted, Started
from agent.jobs.meter import Metered, Tick
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore


def read_tick() -> Tick:
    """Now."""
    uptime = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    return Tick(wall=int(time.time()), uptime=uptime, boot=procs.boot_id())


def settle(
    store: JobStore, config: Config, resources: Resources | None, event: Event, before: JobRow, after: JobRow
) -> None:
    """Open what an event began, close what it ended."""
    if isinstance(event, Started) and before.status.started_at is None and after.status.gpu_uuids:
        _open(store, config, resources, after, read_tick())
    elif before.status.started_at is not None and before.status.gpu_uuids and _is_over(before, after):
        known = None if isinstance(event, Rebooted | Lost) else after.status.ended_at
        store.meter_close(before.id, known or _told(event), read_tick())


def mark(store: JobStore, claimed: Sequence[JobRow]) -> None:
    """With claims: what they start is no older than this."""
    on_gpus = [row.id for row in claimed if row.status.gpu_uuids]
    if on_gpus:
        store.meter_claim(on_gpus, read_tick())


def adopt(store: JobStore, config: Config, resources: Resources) -> None:
    """At the start, before anything else: see `Meter.meter_adopt`. What runs and was not known is counted from now."""
    active = [row for row in store.active() if row.status.gpu_uuids]
    running = {row.id: row for row in active if row.status.started_at is not None}
    now = read_tick()
    for job_id in store.meter_adopt(config.name, list(running), anew=store.suspect, active=[row.id for row in active]):
        _open(store, config, resources, running[job_id], now, started_at=now.wall)


def metered(config: Config, resources: Resources | None, row: JobRow) -> list[Metered]:
    """The GPUs of a row as they are counted; one that is not known any more counts as a whole one."""
    names = {gpu.uuid: gpu.name for gpu in resources.gpus} if resources is not None else {}
    parts = resources.metered if resources is not None else {}
    whole = SHARE_WHOLE
    if row.spec.shards:
        whole = min(SHARE_WHOLE, SHARE_WHOLE * row.spec.shards // max(1, config.jobs.shards_per_gpu))
    return [
        parts.get(uuid) or Metered(gpu=uuid, sku=names.get(uuid) or "unknown", share=whole)
        for uuid in row.status.gpu_uuids
    ]


def _open(
    store: JobStore,
    config: Config,
    resources: Resources | None,
    row: JobRow,
    tick: Tick,
    *,
    started_at: int | None = None,
) -> None:
    gpus = metered(config, resources, row)
    at = started_at if started_at is not None else row.status.started_at
    assert at is not None, "opened when it started"
    store.meter_open(row.id, gpus, at, tick, user=row.user, account=row.spec.account or "")


def _is_over(before: JobRow, after: JobRow) -> bool:
    if before.status.state.is_final:
        return False
    status = after.status
    return status.state.is_final or status.attempt != before.status.attempt or not status.gpu_uuids


def _told(event: Event) -> int | None:
    """When a run ended that goes back into the queue, and so has no end of its own."""
    outcome = getattr(event, "outcome", None)
    return outcome.ended_at if outcome is not None else None
