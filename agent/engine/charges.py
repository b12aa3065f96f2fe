"""What the fair share is charged: GPU-seconds, in the transaction that ends the span they were held in.

Rules kept here: of a running job the time up to which it was charged is stored beside the charge (`charged` on the
shelf), so a crash between two charges costs nothing and gives nothing; what is told of a run is charged, what is not
(the node was off) is not.
"""

from __future__ import annotations

import msgspec

from agent.config import Config
from agent.jobs.machine import Event, Lost, Rebooted
from agent.jobs.row import JobRow
from agent.jobs.store import JobStore

SHELF = "charged"


class Charged(msgspec.Struct, frozen=True, kw_only=True):
    """How far an attempt was charged."""

    attempt: int
    until: int
    """Unix seconds."""


def gpus_of(row: JobRow, shards_per_gpu: int) -> float:
    """GPUs that a row holds; of one in shards, its part."""
    if row.spec.shards and row.status.gpu_uuids:
        return min(1.0, row.spec.shards / max(1, shards_per_gpu))
    return float(len(row.status.gpu_uuids))


def settle(store: JobStore, config: Config, event: Event, before: JobRow, after: JobRow, now: int) -> None:
    """Charge what an event ended: from the last charge to the end that is told. Of a run whose end nobody recorded it
    stays at the last charge: it may have ended long before we heard of it.
    """
    holding = before.status.started_at is not None and before.status.gpu_uuids
    ended = after.status.state.is_final or after.status.attempt != before.status.attempt or not after.status.gpu_uuids
    if not holding or not ended or before.status.state.is_final:
        return
    if not isinstance(event, Rebooted | Lost):
        _charge(store, config, before, after.status.ended_at or now)
    store.drop(SHELF, before.id)


def charge_running(store: JobStore, config: Config, now: int) -> None:
    """Charge what running jobs have used since the last time: those of the store, since one that memory still knows as
    running may have ended, and been charged, a moment ago.
    """
    for row in store.active():
        if row.status.started_at is None or not row.status.gpu_uuids:
            continue
        _charge(store, config, row, now)
        store.put(SHELF, row.id, Charged(attempt=row.status.attempt, until=now))


def usage(store: JobStore, config: Config, now: int) -> dict[tuple[str, str], float]:
    """(account, user) → decayed GPU-seconds."""
    return store.usage_as_of(now, config.scheduler.half_life_s)


def _charge(store: JobStore, config: Config, row: JobRow, until: int) -> None:
    """From where the last charge ended."""
    since = row.status.started_at or until
    known = store.one(SHELF, row.id, Charged)
    if known is not None and known.attempt == row.status.attempt:
        since = max(since, known.until)
    gpu_seconds = gpus_of(row, config.jobs.shards_per_gpu) * max(0, until - since)
    if gpu_seconds > 0:
        store.charge(row.spec.account or "", row.user, gpu_seconds, until)
