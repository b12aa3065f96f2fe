"""`--csv` and `--follow` of `stoker gpus` and `nodes`: rows for spreadsheets and programs.

Rules kept here: a header says the unit of each column; what is not known is an empty cell, never 0; a GPU that does not
answer has a state and an age and no values, and with `--follow` no new rows; text from outside is made printable and
cannot be taken for a formula by a spreadsheet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import msgspec

from agent.api.errors import StokerError, TransportError
from agent.api.telemetry import HOST, MetricHistory
from agent.api.types import Gpu, GpuState, Job, JobUpdate, Node, NodeStatus, NodeUpdate
from tui import plain, safe
from tui.client import WatchStream
from tui.verbs.call import Call
from tui.verbs.site import Target

_VALUES = (
    "utilization_percent",
    "memory_utilization_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "memory_reserved_bytes",
    "power_mw",
    "power_limit_mw",
    "temperature_c",
    "memory_temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "fan_percent",
    "encoder_percent",
    "decoder_percent",
    "sm_active_percent",
    "sm_occupancy_percent",
    "tensor_active_percent",
    "dram_active_percent",
    "throttled_percent",
    "pcie_rx_bytes_per_s",
    "pcie_tx_bytes_per_s",
    "nvlink_rx_bytes_per_s",
    "nvlink_tx_bytes_per_s",
    "energy_mj",
    "performance_state",
)
"""Fields of `GpuReading`."""
GPU_COLUMNS = ("time", "node", "gpu", "uuid", "name", "state", "age_s", "job_id", "job_name", "user", *_VALUES)
NODE_COLUMNS = (
    "time",
    "node",
    "link",
    "age_s",
    "gpus",
    "gpus_held",
    "jobs_running",
    "jobs_pending",
    "cpu_count",
    "cpu_percent",
    "load_1m",
    "memory_total_bytes",
    "memory_available_bytes",
)
_FORMULA = ("=", "+", "-", "@")

_Jobs = dict[tuple[str, int], Job]


def options(parser: argparse.ArgumentParser, name: str) -> None:
    """Of `gpus` and `nodes`."""
    parser.add_argument("--csv", action="store_true", help="comma-separated, with a header that has the units")
    if name == "gpus":
        parser.add_argument(
            "-f",
            "--follow",
            action="store_true",
            help="a row for each reading as it comes; with --csv or --json (lines)",
        )


def check(args: argparse.Namespace, *, json: bool) -> None:
    """Refuse what does not go together.

    Raises:
        StokerError: with what to leave out.
    """
    if args.csv and json:
        raise StokerError("--csv and --json are two forms; say one of them")
    if args.history and getattr(args, "follow", False):
        raise StokerError("--follow is of what comes and --history of what was; say one of them")


def gpus(call: Call, found: Sequence[NodeStatus], jobs: Sequence[Job]) -> int:
    """Print the GPUs of some nodes as CSV."""
    held = {(job.node, job.id): job for job in jobs}
    rows = _writer(call.out)
    rows.writerow(GPU_COLUMNS)
    for status in found:
        if status.node is not None:
            rows.writerows(_gpu_row(status.node, gpu, held) for gpu in status.node.gpus)
    return 0


def nodes(call: Call, found: Sequence[NodeStatus]) -> int:
    """Print some nodes as CSV."""
    rows = _writer(call.out)
    rows.writerow(NODE_COLUMNS)
    rows.writerows(_node_row(status) for status in found)
    return 0


def history(call: Call, found: Sequence[tuple[str, str | None, MetricHistory]]) -> int:
    """Print one metric of some series as CSV; a gap is a row with empty cells.

    Args:
        call: where to.
        found: node, index of the GPU (`None`: the node itself), and what was kept.
    """
    rows = _writer(call.out)
    metric = found[0][2].metric if found else "value"
    rows.writerow(
        ("time", "node", "gpu", "uuid", "seconds", *(f"{metric}_{each}" for each in ("least", "mean", "most")))
    )
    for node, gpu, past in found:
        uuid = None if past.series == HOST else past.series
        for place, values in enumerate(zip(past.least, past.mean, past.most, strict=True)):
            begin = past.begin + place * past.width_s
            rows.writerow([_cell(each) for each in (_moment(begin), node, gpu, uuid, past.width_s, *values)])
    return 0


def follow(call: Call, targets: Sequence[Target], *, as_csv: bool) -> int:
    """Print a row for each new reading of the GPUs that are meant (none: all) until interrupted.

    Raises:
        StokerError: neither `--csv` nor `--json` was said, or the server is away for longer than it is borne with.
    """
    if as_csv == call.json:
        raise StokerError("--follow prints rows for programs: say either --json or --csv; stoker alone is the screen")
    rows = _writer(call.out)
    if as_csv:
        rows.writerow(GPU_COLUMNS)
        call.out.flush()
    told: dict[str, object] = {}
    held: _Jobs = {}
    while True:
        stream = call.client.watch()  # who cannot be reached again after some seconds ends it
        try:
            for status in _heard(stream, held):
                _tell(call, rows if as_csv else None, _new(status, targets, told), held)
        except TransportError as error:
            plain.complain(f"{error}; trying again")


def _heard(stream: WatchStream, held: _Jobs) -> Iterator[NodeStatus]:
    """Nodes as they are told of; `held` is kept up to date meanwhile."""
    try:
        for message in stream:
            if isinstance(message, JobUpdate):
                _keep(held, message.job)
            elif isinstance(message, NodeUpdate):
                yield message.status
    finally:
        stream.close()


def _keep(held: _Jobs, job: Job) -> None:
    if job.state.is_final:
        held.pop((job.node, job.id), None)
    else:
        held[job.node, job.id] = job


def _new(status: NodeStatus, targets: Sequence[Target], told: dict[str, object]) -> list[tuple[Node, Gpu]]:
    """The GPUs of a node that were read since they were told of, or whose state is another."""
    found = []
    for gpu in status.node.gpus if status.node is not None else ():
        meant = not targets or any(
            each.node == status.name and each.gpu in (None, gpu.uuid, str(gpu.index)) for each in targets
        )
        now = (gpu.sampled_at, gpu.state) if gpu.state is GpuState.OK else gpu.state
        if meant and told.get(gpu.uuid) != now:
            told[gpu.uuid] = now
            assert status.node is not None
            found.append((status.node, gpu))
    return found


def _tell(call: Call, rows: Any, found: Sequence[tuple[Node, Gpu]], held: _Jobs) -> None:
    for node, gpu in found:
        if rows is not None:
            rows.writerow(_gpu_row(node, gpu, held))
        else:
            plain.as_json({"time": node.time, "node": node.name, **msgspec.to_builtins(gpu)}, call.out)
    call.out.flush()


def _gpu_row(node: Node, gpu: Gpu, held: _Jobs) -> list[str]:
    job = None if gpu.job_id is None else held.get((node.name, gpu.job_id))
    values = [getattr(gpu, name) for name in _VALUES] if gpu.state is GpuState.OK else [None] * len(_VALUES)
    what = (node.name, gpu.index, gpu.uuid, gpu.name, gpu.state.value, round(gpu.age_s, 3), gpu.job_id)
    whose = (None, None) if job is None else (job.name, job.user)
    return [_cell(each) for each in (_moment(node.time), *what, *whose, *values)]


def _node_row(status: NodeStatus) -> list[str]:
    known = (status.name, status.link.value, round(status.age_s, 3))
    node = status.node
    if node is None:
        return [_cell(each) for each in (None, *known, *[None] * (len(NODE_COLUMNS) - 4))]
    values = (
        len(node.gpus),
        sum(gpu.job_id is not None for gpu in node.gpus),
        *(getattr(node, name) for name in NODE_COLUMNS[6:]),
    )
    return [_cell(each) for each in (_moment(node.time), *known, *values)]


def _writer(out: TextIO) -> Any:
    import csv  # for this alone: every start of a command pays for what is imported

    return csv.writer(out, lineterminator="\n")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        text = safe.text(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _moment(at: float) -> str:
    """ISO 8601 in UTC, which spreadsheets and databases read alike."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}{f'.{int(at % 1 * 1000):03}' if at % 1 else ''}Z"
