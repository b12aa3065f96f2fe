"""Which waiting jobs start now, in which order and where, and why the others wait. Pure: facts in, decision out."""

from agent.jobs.schedule.decide import decide
from agent.jobs.schedule.facts import (
    Decision,
    Demand,
    GpuFacts,
    PartitionFacts,
    Policy,
    Preempt,
    QosFacts,
    ReservationFacts,
    Running,
    Snapshot,
    Start,
    Waiting,
)
from agent.jobs.schedule.reasons import lacking

__all__ = [
    "Decision",
    "Demand",
    "GpuFacts",
    "PartitionFacts",
    "Policy",
    "Preempt",
    "QosFacts",
    "ReservationFacts",
    "Running",
    "Snapshot",
    "Start",
    "Waiting",
    "decide",
    "lacking",
]
