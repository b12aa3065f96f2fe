"""`stoker gpus --history 6h` and `stoker nodes --history 6h`: what the node itself has kept, drawn in the terminal."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from agent.api.commandline import Parser, meant
from agent.api.errors import StokerError
from agent.api.telemetry import GPU_METRICS, HOST_METRICS, MAX_POINTS
from agent.api.types import NodeStatus
from tui import areaplot, moments, plain, safe, words
from tui.verbs import exported
from tui.verbs.call import Call
from tui.verbs.site import find_target

_SHORT = {
    "util": "utilization_percent",
    "utilization": "utilization_percent",
    "memory": "memory_used_bytes",
    "power": "power_mw",
    "temperature": "temperature_c",
    "temp": "temperature_c",
    "clock": "sm_clock_mhz",
    "fan": "fan_percent",
    "tensor": "tensor_active_percent",
    "sm": "sm_active_percent",
    "dram": "dram_active_percent",
    "throttled": "throttled_percent",
    "cpu": "cpu_percent",
    "load": "load_1m",
    "swap": "swap_used_bytes",
}
"""What one says for the metrics that one asks for most."""

_LABEL_CELLS = 12
"""Room for the scale beside the picture."""


def options(parser: Parser, name: str) -> None:
    """Of `gpus` and `nodes`."""
    known = GPU_METRICS if name == "gpus" else HOST_METRICS
    what = "NODE:GPU" if name == "gpus" else "NODE"
    parser.add_argument("of", nargs="*", type=words.said, metavar=what, help="these alone; all if none is named")
    parser.add_argument(
        "--history", type=words.said, metavar="SINCE", help="draw what was measured since: 6h, 30d, 14:30"
    )
    parser.add_argument("--until", type=words.said, metavar="MOMENT", help="of the history; now if not said")
    parser.add_argument("--metric", type=words.said, metavar="NAME", help=f"what to draw: {', '.join(known)}")
    words.examples(
        parser,
        f"stoker {name} --history 6h",
        "stoker gpus n1:3 --history 30d --metric power"
        if name == "gpus"
        else "stoker nodes n1 --history 2d --metric memory",
        f"stoker {name} --history 1d --csv > day.csv",
        *(["stoker gpus n1 --follow --json        a line for each reading"] if name == "gpus" else []),
    )


def show(call: Call, args: argparse.Namespace, known: Sequence[NodeStatus]) -> int:
    """Ask the nodes and draw, or print as JSON."""
    of_gpus = args.verb == "gpus"
    metric = _metric(args.metric, GPU_METRICS if of_gpus else HOST_METRICS)
    now = time.time()
    since, until = moments.read(args.history, now), moments.read(args.until or "now", now)
    if since >= until:
        raise StokerError(
            f"the history from {args.history} to {args.until or 'now'} is empty; say an earlier beginning"
        )
    width = shutil.get_terminal_size().columns if call.out.isatty() else 80
    points = MAX_POINTS if call.json or args.csv else max(10, width - _LABEL_CELLS)
    found = []
    for node, gpu in _wanted(args.of, known, of_gpus=of_gpus):
        past = call.client.history(metric, gpu=gpu, since=since, until=until, points=points, node=node)
        found.append((node, gpu, past))
        name = node if gpu is None else f"{node}:{gpu}"
        if past.begin > since:
            print(f"stoker: {_cut(name, since, past.begin)}", file=sys.stderr)
        if not call.json and not args.csv:
            print(f"{name}  {metric}: {areaplot.summary(past)}", file=call.out)
            for line in areaplot.lines(safe.clean(past), width):
                print(line, file=call.out)
    if args.csv:
        return exported.history(call, found)
    if call.json:
        plain.as_json([past for _, _, past in found], call.out)
    return 0


def _cut(name: str, since: int, begin: int) -> str:
    asked, kept = (time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) for moment in (since, begin))
    return (
        f"{name} keeps nothing from before {kept}, and was asked from {asked} on; "
        "telemetry.history in its configuration says how far back it keeps"
    )


def _wanted(asked: Sequence[str], known: Sequence[NodeStatus], *, of_gpus: bool) -> Iterator[tuple[str, str | None]]:
    """Node and GPU index of everything that is to be drawn.

    Raises:
        StokerError: a word means nothing.
    """
    targets = [find_target(word, known) for word in asked] or [find_target(each.name, known) for each in known]
    for target in targets:
        if not of_gpus and target.gpu is not None:
            raise StokerError(f"{target} is a GPU; write: stoker gpus {target} --history …")
        if not of_gpus or target.gpu is not None:
            yield target.node, target.gpu
            continue
        status = next(each for each in known if each.name == target.node)
        for gpu in status.node.gpus if status.node is not None else ():
            if gpu.mig_parent is None:
                yield target.node, str(gpu.index)


def _metric(asked: str | None, known: Mapping[str, str]) -> str:
    """The metric that a word means; the first one where none is said.

    Raises:
        StokerError: it means none.
    """
    if asked is None:
        return next(iter(known))
    full = _SHORT.get(asked, asked)
    if full not in known:
        raise StokerError(f"there is no metric {asked!r}{meant(asked, known)}; known: {', '.join(known)}")
    return full
