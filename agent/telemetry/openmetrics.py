"""A node as OpenMetrics text, for `GET /metrics`; `gauge` and `page` write the hub's page too.

Rules kept here: names and labels are stable, units are base units and part of the name, a value that is absent or not
to be trusted is left out rather than guessed (a GPU that is not `ok` shows its state and age, not its old values), no
series carries a process id, and a series of a job is gone with the job. Labels hold foreign text: what is not printable
is replaced, so that the page is harmless in a terminal too.

Specification: https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.api.types import Gpu, GpuState, Job, JobState, Node

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_Labels = Mapping[str, str]
_Value = int | float | None
Samples = Sequence[tuple[_Labels, _Value]]
"""Labels and value; `None` where there is no value to show."""


@dataclass(frozen=True, slots=True)
class _Quantity:
    """One value of a GPU: the end of its name, its unit, what it is, and where it comes from."""

    name: str
    unit: str
    help: str
    of: Callable[[Gpu], _Value]


_QUANTITIES = (
    _Quantity(
        "utilization", "ratio", "Share of time with a kernel running.", lambda g: _scaled(g.utilization_percent, 1e-2)
    ),
    _Quantity("memory_total", "bytes", "Memory the GPU has.", lambda g: g.memory_total_bytes),
    _Quantity("memory_used", "bytes", "Memory in use.", lambda g: g.memory_used_bytes),
    _Quantity("power", "watts", "Power drawn.", lambda g: _scaled(g.power_mw, 1e-3)),
    _Quantity("power_limit", "watts", "Power limit in force.", lambda g: _scaled(g.power_limit_mw, 1e-3)),
    _Quantity("temperature", "celsius", "Temperature of the die.", lambda g: g.temperature_c),
    _Quantity("sm_clock", "hertz", "Clock of the multiprocessors.", lambda g: _scaled(g.sm_clock_mhz, 1e6)),
    _Quantity("memory_clock", "hertz", "Clock of the memory.", lambda g: _scaled(g.memory_clock_mhz, 1e6)),
    _Quantity("processes", "", "Compute processes with a context on the GPU.", lambda g: len(g.processes)),
)


def render(node: Node, jobs: Sequence[Job], counts: Mapping[JobState, int]) -> str:
    """The page.

    Args:
        node: the node now.
        jobs: its unfinished jobs, whose users the GPUs they hold are labelled with.
        counts: all jobs of the node by state; a state that is left out has none.
    """
    return page(_node_lines(node), _gpu_lines(node, jobs), _job_lines(counts))


def page(*parts: Iterable[str]) -> str:
    """Lines put together to a page."""
    return "\n".join([*(line for part in parts for line in part), "# EOF", ""])


def gauge(name: str, text: str, samples: Samples, unit: str = "") -> Iterator[str]:
    """The lines of a family, with those samples that have a value; nothing if none has.

    Args:
        name: ends with `unit` where there is one.
        text: what it is, in a sentence.
        samples: no two with the same labels.
        unit: a base unit.
    """
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return
    yield from _head(name, "gauge", text, unit)
    for labels, value in known:
        yield _sample(name, labels, value)


# --- parts ------------------------------------------------------------------------------------------------------------


def _node_lines(node: Node) -> Iterator[str]:
    yield from _head("stoker_build", "info", "The agent that answers.")
    yield _sample("stoker_build_info", {"version": node.version, "node": node.name, "mode": node.mode}, 1)
    yield from _head("stoker_gpu_source", "info", "Where GPU readings come from.")
    source = {"source": node.gpu_source.value, "driver_version": node.driver_version or ""}
    yield _sample("stoker_gpu_source_info", source, 1)
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
    yield from _head("stoker_gpu", "info", "What a GPU is.")
    for gpu in node.gpus:
        yield _sample("stoker_gpu_info", {"gpu": str(gpu.index), "uuid": gpu.uuid, "name": gpu.name}, 1)
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


def _gpu_labels(gpu: Gpu, users: Mapping[int, str]) -> dict[str, str]:
    """`job_id` and not `job`: that one is Prometheus's own, and a scrape would rename ours to `exported_job`."""
    labels = {"gpu": str(gpu.index), "uuid": gpu.uuid}
    if gpu.job_id is not None:
        labels |= {"job_id": str(gpu.job_id), "user": users.get(gpu.job_id, "")}
    return labels


def _job_lines(counts: Mapping[JobState, int]) -> Iterator[str]:
    samples = [({"state": state.value}, counts.get(state, 0)) for state in JobState]
    yield from gauge("stoker_jobs", "Jobs that the node knows, by state.", samples)


# --- the format -------------------------------------------------------------------------------------------------------


def _head(name: str, kind: str, text: str, unit: str = "") -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {text}"


def _sample(name: str, labels: _Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(text: str) -> str:
    """Foreign text for a label: printable, and unable to end the label or the line."""
    printable = "".join(each if each.isprintable() else "\ufffd" for each in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')


def _scaled(value: int | None, factor: float) -> float | None:
    """`value` in the base unit, without the digits that binary fractions add."""
    return None if value is None else round(value * factor, 6)
