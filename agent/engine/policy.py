"""The site's rules as the scheduler knows them, made of the configuration once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.api.queue import Partition, PartitionTerms, Qos, QosTerms, QueueRules
from agent.api.words import Wire
from agent.config import Config
from agent.config.tables import AccountTable, PartitionTable, QosTable
from agent.jobs.rules import gpu_features
from agent.jobs.schedule import GpuFacts, PartitionFacts, Policy, QosFacts


def policy_of(config: Config, gpus: Sequence[GpuFacts], closed: Mapping[str, str]) -> Policy:
    """The rules, with the GPUs' indexes as UUIDs; `closed`: partitions in which nothing starts, and their states."""
    scheduler = config.scheduler
    return Policy(
        backfill=scheduler.backfill,
        preempt=scheduler.preempt,
        preempt_cancels=scheduler.preempt_mode == "cancel",
        max_age_s=scheduler.max_age_s,
        weight_age=scheduler.weight_age,
        weight_fairshare=scheduler.weight_fairshare,
        weight_jobsize=scheduler.weight_jobsize,
        weight_partition=scheduler.weight_partition,
        weight_qos=scheduler.weight_qos,
        favour_small=scheduler.favour_small,
        partitions={each.name: _partition(each, gpus, closed) for each in config.partitions},
        qos={each.name: _qos(each, config.qos) for each in config.qos},
        max_running_per_user=config.limits.max_running_per_user,
        max_gpus_per_user=config.limits.max_gpus_per_user,
        shares=shares_of(config.accounts),
    )


def shares_of(accounts: Sequence[AccountTable]) -> dict[tuple[str, str], float]:
    """(account, user) → part of the whole that is its due: the account's part, divided among its users."""
    whole = sum(each.shares for each in accounts)
    found: dict[tuple[str, str], float] = {}
    for account in accounts:
        if whole and not account.users:
            found[account.name, ""] = account.shares / whole  # anybody's: divided among those who are known
        inside = sum(account.users.values())
        for user, shares in account.users.items():
            if whole and inside:
                found[account.name, user] = account.shares / whole * shares / inside
    return found


def queue_rules(config: Config, gpu_names: Iterable[str], *, drained: bool, states: Mapping[str, str]) -> QueueRules:
    """What a submit may name; `states` of partitions that an admin gave one."""
    of_gpus = {feature for name in gpu_names for feature in gpu_features(name)}
    return QueueRules(
        partitions=tuple(
            _told_partition(each, config, states.get(each.name, "DRAIN" if drained else "UP"))
            for each in config.partitions
        ),
        qos=tuple(Qos(**_terms(each, QosTerms)) for each in config.qos),
        accounts=tuple(each.name for each in config.accounts),
        features=tuple(dict.fromkeys([*config.jobs.features, *sorted(of_gpus)])),
        licenses=dict(config.jobs.licenses),
    )


def _told_partition(table: PartitionTable, config: Config, state: str) -> Partition:
    terms = _terms(table, PartitionTerms) | {"default_time_s": table.default_time_s or config.jobs.default_time_s}
    return Partition(**terms, gpu_indexes=table.gpus, state=state)


def _terms(table: PartitionTable | QosTable, kind: type[Wire]) -> dict[str, Any]:
    """What of a table everybody is told as it stands."""
    return {name: getattr(table, name) for name in kind.__struct_fields__}


def _partition(table: PartitionTable, gpus: Sequence[GpuFacts], closed: Mapping[str, str]) -> PartitionFacts:
    uuids = None if table.gpus is None else frozenset(gpu.uuid for gpu in gpus if gpu.index in table.gpus)
    return PartitionFacts(
        name=table.name,
        max_time_s=table.max_time_s,
        tier=table.priority_tier,
        gpu_uuids=uuids,
        closed=closed.get(table.name),
    )


def _qos(table: QosTable, tables: Sequence[QosTable]) -> QosFacts:
    highest = max(each.priority for each in tables)
    return QosFacts(
        name=table.name,
        factor=table.priority / highest if highest > 0 else 0.0,
        preempts=frozenset(table.preempts),
        max_wall_s=table.max_wall_s,
        max_gpus_per_user=table.max_gpus_per_user,
        max_jobs_per_user=table.max_jobs_per_user,
    )
