"""A node as metrics, for `GET /metrics` and the textfile: the host here, its GPUs, jobs and health from their modules.

Rules kept here: names and labels are stable, units are base units and part of the name, a value that is absent or not
to be trusted is left out rather than guessed, no series carries a process id unless it is asked for, and a series of a
job is gone with the job. docs/metrics.md lists every one; a test compares it with this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.api.health import Incident
from agent.api.types import Job, JobState, Node
from agent.jobs.tally import QueueTally
from agent.telemetry.gpumetrics import gpu_families
from agent.telemetry.healthmetrics import Tally, health_families
from agent.telemetry.host import OwnUse
from agent.telemetry.jobmetrics import job_families, queue_families
from agent.telemetry.metrictext import Family, Samples, Value, counter, gauge, info, openmetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """What a page shows beside the node's snapshot; each is left out where it is not known."""

    queue: QueueTally = QueueTally()  # noqa: RUF009 - a frozen value
    """What waits."""
    incidents: Sequence[Incident] = ()
    """Those that are open and those that were."""
    tally: Tally | None = None
    totals: Mapping[str, int | None] | None = None
    """See `host.read_totals`."""
    own: OwnUse | None = None
    silent_s: float | None = None
    """For how long readings are overdue."""
    hub_silent_s: float | None = None
    """For how long the hub was not heard; `None` on a node without a lease."""
    textfile: tuple[float, int] | None = None
    """When the textfile was written last, Unix seconds (0: never), and how often it could not be."""
    process_ids: bool = False


def families(
    node: Node, jobs: Sequence[Job], counts: Mapping[JobState, int], more: More | None = None
) -> Iterator[Family]:
    """Everything of the node.

    Args:
        node: the node now.
        jobs: those that hold something: their accounts, and the users that the GPUs they hold are labelled with.
        counts: all jobs of the node by state; a state that is left out has none.
        more: what else there is.
    """
    more = more or More()
    yield from _node(node)
    yield from _host(node, more.totals or {})
    yield from gpu_families(node, jobs, process_ids=more.process_ids)
    yield from health_families(more.incidents, more.tally or Tally())
    yield _jobs(counts)
    yield from job_families(jobs)
    yield from queue_families(more.queue, node.time)
    yield from _agent(more)


def render(node: Node, jobs: Sequence[Job], counts: Mapping[JobState, int], more: More | None = None) -> str:
    """The page as OpenMetrics; see `families`."""
    return openmetrics(families(node, jobs, counts, more))


# --- parts ------------------------------------------------------------------------------------------------------------


def _node(node: Node) -> Iterator[Family]:
    build = {"version": node.version, "node": node.name, "mode": node.mode}
    yield info("stoker_build", "The agent that answers.", [build])
    source = {"source": node.gpu_source.value, "driver_version": node.driver_version or ""}
    yield info("stoker_gpu_source", "Where GPU readings come from.", [source])
    yield gauge(
        "stoker_page_timestamp_seconds",
        "When this page was made, Unix time: a textfile that is not renewed tells by it.",
        [({}, round(node.time, 3))],
        "seconds",
    )
    yield gauge("stoker_gpus", "GPUs the node shows, whatever their state.", [({}, len(node.gpus))])
    yield gauge("stoker_drained", "1 if the whole node takes no new job.", [({}, int(node.drain is not None))])


def _host(node: Node, totals: Mapping[str, int | None]) -> Iterator[Family]:
    yield gauge("stoker_host_cpus", "CPUs that jobs may have.", [({}, node.cpu_count)])
    busy = None if node.cpu_percent is None else node.cpu_percent / 100
    yield gauge("stoker_host_cpu_ratio", "Busy share of all CPUs.", [({}, busy)], "ratio")
    yield gauge("stoker_host_load1", "Load average of one minute.", [({}, node.load_1m)])
    memory = [("total", node.memory_total_bytes), ("available", node.memory_available_bytes)]
    for name, value in memory:
        yield gauge(f"stoker_host_memory_{name}_bytes", f"Memory {name} on the host.", [({}, value)], "bytes")
    yield gauge("stoker_host_swap_used_bytes", "Swap in use.", _one(totals.get("swap_used")), "bytes")
    for name, text in (
        ("disk_read", "Read from the host's disks since boot."),
        ("disk_written", "Written to the host's disks since boot."),
        ("network_received", "Received by the host's interfaces but the loopback since boot."),
        ("network_sent", "Sent by the host's interfaces but the loopback since boot."),
    ):
        yield counter(f"stoker_host_{name}_bytes", text, _one(totals.get(name)), "bytes")


def _jobs(counts: Mapping[JobState, int]) -> Family:
    samples = [({"state": state.value}, counts.get(state, 0)) for state in JobState]
    return gauge("stoker_jobs", "Jobs that the node knows, by state.", samples)


def _agent(more: More) -> Iterator[Family]:
    own = more.own
    cpu = _one(None if own is None else own.cpu_seconds)
    yield counter("stoker_agent_cpu_seconds", "CPU time of the agent, its sampler left out.", cpu, "seconds")
    memory = _one(None if own is None else own.resident_bytes)
    yield gauge("stoker_agent_resident_memory_bytes", "Memory of the agent.", memory, "bytes")
    hub = "For how long the hub was not heard by a node that holds its lease."
    yield gauge("lic_hub_unreachable_seconds", hub, _one(more.hub_silent_s), "seconds")
    yield gauge("stoker_sampler_silent_seconds", "For how long readings are overdue.", _one(more.silent_s), "seconds")
    written, failed = more.textfile or (None, None)
    yield gauge(
        "stoker_textfile_written_timestamp_seconds", "When the textfile was written last.", _one(written), "seconds"
    )
    yield counter("stoker_textfile_errors", "Times the textfile could not be written.", _one(failed))


def _one(value: Value) -> Samples:
    return [({}, value)]
