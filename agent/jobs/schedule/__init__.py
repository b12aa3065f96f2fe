"""Which waiting jobs start now, on which GPUs, in which order, and why the others wait. Pure: facts in, decision out."""

from agent.jobs.schedule.decide import Decision, GpuFacts, Snapshot, Start, Waiting, decide

__all__ = ["Decision", "GpuFacts", "Snapshot", "Start", "Waiting", "decide"]
