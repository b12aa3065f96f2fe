"""What everybody is told of the configuration's partitions and QOS, and what is the node's own business."""

from __future__ import annotations

import msgspec

from agent.config import Config, PartitionTable, QosTable, load
from agent.engine.policy import queue_rules

PARTITION = PartitionTable(
    name="long", default=True, max_time_s=7200, priority_tier=3, gpus=(0, 1), allow_groups=("staff",)
)
QOS = QosTable(
    name="high",
    priority=10,
    preempts=("low",),
    max_wall_s=60,
    max_gpus_per_user=4,
    max_jobs_per_user=5,
    max_submit_per_user=6,
    allow_groups=("staff",),
)


def config(default_time_s: int | None = None) -> Config:
    made = load(None, environ={"HOME": "/tmp"})
    jobs = msgspec.structs.replace(made.jobs, default_time_s=default_time_s)
    return msgspec.structs.replace(made, partitions=(PARTITION,), qos=(QOS,), jobs=jobs)


def test_what_stands_in_the_tables_is_told_and_their_groups_are_not() -> None:
    told = msgspec.to_builtins(queue_rules(config(), (), drained=False, states={}))
    (partition,) = told["partitions"]
    assert partition == {
        "name": "long",
        "default": True,
        "default_time_s": None,
        "max_time_s": 7200,
        "priority_tier": 3,
        "gpu_indexes": (0, 1),
        "state": "UP",
    }
    (qos,) = told["qos"]
    assert qos == {
        "name": "high",
        "priority": 10,
        "preempts": ("low",),
        "max_wall_s": 60,
        "max_gpus_per_user": 4,
        "max_jobs_per_user": 5,
        "max_submit_per_user": 6,
    }


def test_a_partition_without_a_time_of_its_own_has_the_nodes_and_a_drained_node_is_told() -> None:
    (partition,) = queue_rules(config(900), (), drained=True, states={}).partitions
    assert (partition.default_time_s, partition.state) == (900, "DRAIN")
