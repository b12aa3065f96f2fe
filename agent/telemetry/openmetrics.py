"""A node as OpenMetrics text, for `GET /metrics`; `gauge` and `page` of `metrictext` write the hub's page too.

Rules kept here: names and labels are stable, units are base units and part of the name, a value that is absent or not
to be trusted is left out rather than guessed (a GPU that is not `ok` shows its state and age, not its old values), no
series carries a process id, and a series of a job is gone with the job. Labels hold foreign text: what is not printable
is replaced, so that the page is harmless in a terminal too (`metrictext`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.api.types import Gpu, GpuState, Job, JobState, Node
from agent.telemetry.jobmetrics import job_lines, queue_lines
from agent.telemetry.metrictext import CONTENT_TYPE as CONTENT_TYPE
from agent.telemetry.metrictext import Value, counter, info, scaled
from agent.telemetry.metrictext import gauge as gauge
from agent.telemetry.metrictext import page as page


@dataclass(frozen=True, slots=True)
class _Quantity:
    """One value of a GPU: the end of its name, its unit, what it is, and where it comes from."""

    name: str
    unit: str
    help: str
    of: Callable[[Gpu], Value]


_QUANTITIES = (
    _Quantity(
        "utilization", "ratio", "Share of time with a kernel running.", lambda g: scaled(g.utilization_percent, 1e-2)
    ),
    _Quantity(
        "memory_utilization",
        "ratio",
        "Share of time with memory read or written.",
        lambda g: scaled(g.memory_utilization_percent, 1e-2),
    ),
    _Quantity("memory_total", "bytes", "Memory the GPU has.", lambda g: g.memory_total_bytes),
    _Quantity("memory_used", "bytes", "Memory in use.", lambda g: g.memory_used_bytes),
    _Quantity("power", "watts", "Power drawn.", lambda g: scaled(g.power_mw, 1e-3)),
    _Quantity("power_limit", "watts", "Power limit in force.", lambda g: scaled(g.power_limit_mw, 1e-3)),
    _Quantity("temperature", "celsius", "Temperature of the die.", lambda g: g.temperature_c),
    _Quantity("sm_clock", "hertz", "Clock of the multiprocessors.", lambda g: scaled(g.sm_clock_mhz, 1e6)),
    _Quantity("memory_clock", "hertz", "Clock of the memory.", lambda g: scaled(g.memory_clock_mhz, 1e6)),
    _Quantity("processes", "", "Compute processes with a context on the GPU.", lambda g: len(g.computing())),
)


def render(node: Node, jobs: Sequence[Job], counts: Mapping[JobState, int]) -> str:
    """The page.

    Args:
        node: the node now.
        jobs: its unfinished jobs: their waits, their accounts, and the users that the GPUs they hold are labelled with.
        counts: all jobs of the node by state; a state that is left out has none.
    """
    return page(
        _node_lines(node), _gpu_lines(node, jobs), _job_lines(counts), job_lines(jobs), queue_lines(jobs, node.time)
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _node_lines(node: Node) -> Iterator[str]:
    build = {"version": node.version, "node": node.name, "mode": node.mode}
    yield from info("stoker_build", "The agent that answers.", [build])
    source = {"source": node.gpu_source.value, "driver_version": node.driver_version or ""}
    yield from info("stoker_gpu_source", "Where GPU readings come from.", [source])
    yield from gauge("stoker_gpus", "GPUs the node shows, whatever their state.", [({}, len(node.gpus))])
    yield from gauge("stoker_host_cpus", "CPUs the agent may use.", [({}, node.cpu_count)])
    busy = None if node.cpu_percent is None else node.cpu_percent / 100
    yield from gauge("stoker_host_cpu_ratio", "Busy share of all CPUs.", [({}, busy)], "ratio")
    yield from gauge("stoker_host_load1", "Load average of one minute.", [({}, node.load_1m)])
    memory = [("total", node.memory_total_bytes), ("available", node.memory_available_bytes)]
    for name, value in memory:
        yield from gauge(f"stoker_host_memory_{name}_bytes", f"Memory {name} on the host.", [({}, value)], "bytes")


def _gpu_lines(node: Node, jobs: Sequence[Job]) -> Iterator[str]:
    users = {job.id: job.user for job in jobs}
    gpus = [(gpu, _gpu_labels(gpu, users)) for gpu in node.gpus]
    yield from info("stoker_gpu", "What a GPU is.", [_what(gpu) for gpu in node.gpus])
    yield from gauge(
        "stoker_gpu_state",
        "1 for the state the GPU is in, 0 for the others.",
        [({**labels, "state": state.value}, int(gpu.state is state)) for gpu, labels in gpus for state in GpuState],
    )
    ages = [(labels, gpu.age_s) for gpu, labels in gpus]
    yield from gauge("stoker_gpu_data_age_seconds", "Time since the GPU was last read.", ages, "seconds")
    seats = [(labels, int(gpu.seated)) for gpu, labels in gpus]
    yield from gauge("stoker_gpu_seated", "1 if a licence seat covers the GPU.", seats)
    healthy = [(gpu, labels) for gpu, labels in gpus if gpu.state is GpuState.OK]
    for quantity in _QUANTITIES:
        name = f"stoker_gpu_{quantity.name}_{quantity.unit}".rstrip("_")
        yield from gauge(name, quantity.help, [(labels, quantity.of(gpu)) for gpu, labels in healthy], quantity.unit)
    energy = [(labels, scaled(gpu.energy_mj, 1e-3)) for gpu, labels in healthy]
    yield from counter("stoker_gpu_energy_joules", "Energy since the driver was loaded.", energy, "joules")


def _what(gpu: Gpu) -> dict[str, str]:
    labels = {"gpu": str(gpu.index), "uuid": gpu.uuid, "name": gpu.name}
    if gpu.mig_parent is not None:
        labels |= {"mig_parent": gpu.mig_parent, "mig_profile": gpu.mig_profile or ""}
    return labels


def _gpu_labels(gpu: Gpu, users: Mapping[int, str]) -> dict[str, str]:
    """`job_id` and not `job`: that one is Prometheus's own, and a scrape would rename ours to `exported_job`."""
    labels = {"gpu": str(gpu.index), "uuid": gpu.uuid}
    if gpu.job_id is not None:
        labels |= {"job_id": str(gpu.job_id), "user": users.get(gpu.job_id, "")}
    return labels


def _job_lines(counts: Mapping[JobState, int]) -> Iterator[str]:
    samples = [({"state": state.value}, counts.get(state, 0)) for state in JobState]
    yield from gauge("stoker_jobs", "Jobs that the node knows, by state.", samples)
