"""`stoker nodes`, `gpus`, `license`, and the overview for a terminal that cannot show the screen."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence

import msgspec

from agent.api import program
from agent.api.commandline import Parser
from agent.api.decode import convert
from agent.api.errors import StokerError
from agent.api.types import FINAL_STATES, Gpu, GpuSource, JobState, LicenceStage, NodeStatus, NodeUpdate
from tui import plain, printed, safe
from tui.cluster import Cluster, NodeView
from tui.verbs import exported, past
from tui.verbs.call import Call
from tui.verbs.site import Target, find_target

_ACTIVE = ",".join(state for state in JobState if state not in FINAL_STATES)


class GpuLine(Gpu, frozen=True, kw_only=True):
    """`stoker gpus --json`: a GPU with the node it is in."""

    node: str
    link: str
    """The node's `LinkState`."""
    gpu_source: GpuSource


def options(parser: Parser, name: str) -> None:
    """What they take."""
    parser.set_defaults(work={"nodes": nodes, "gpus": gpus}.get(name, licence))
    if name in ("nodes", "gpus"):
        past.options(parser, name)
        exported.options(parser, name)


def overview(call: Call) -> int:
    """Print what the screen opens with."""
    from tui.verbs.listing import jobs

    nodes(call)
    print(file=call.out)
    jobs(call)
    print(file=call.out)
    return licence(call)


def nodes(call: Call, args: argparse.Namespace | None = None) -> int:
    """Print the nodes, or what was measured of them."""
    if args is not None:
        exported.check(args, json=call.json)
    known = call.client.nodes()
    if args is not None and args.history:
        return past.show(call, args, known)
    found = _named(args, known)
    if args is not None and args.csv:
        return exported.nodes(call, found)
    if call.json:
        plain.as_json(found, call.out)
        return 0
    plain.table(printed.NODE_TITLES, [printed.node_line(view) for view in _views(found)], call.out, fold=True)
    if args is not None:
        _tell_ending(call)
    return 0


def gpus(call: Call, args: argparse.Namespace | None = None) -> int:
    """Print the GPUs of all nodes, or what was measured of them."""
    if args is not None:
        exported.check(args, json=call.json)
    known = call.client.nodes()
    if args is not None and args.follow:
        return exported.follow(call, [find_target(word, known) for word in args.of], as_csv=args.csv)
    if args is not None and args.history:
        return past.show(call, args, known)
    found = _named(args, known)
    if args is not None and args.csv:
        return exported.gpus(call, found, call.jobs(state=_ACTIVE))
    if call.json:
        plain.as_json([line for each in found for line in _gpu_values(each)], call.out)
        return 0
    held = {(job.node, job.id): job for job in safe.clean(call.jobs(state=_ACTIVE))}
    lines = [printed.gpu_line(view, gpu, held) for view in _views(found) for gpu in view.gpus]
    plain.table(printed.GPU_TITLES, lines, call.out, fold=True)
    return 0


def licence(call: Call, _: argparse.Namespace | None = None) -> int:
    """Print how the licence stands: a line while all is well."""
    held = call.client.licence()
    if call.json:
        plain.as_json(held, call.out)
    else:
        for line in printed.licence_lines(safe.clean(held), time.time(), program.columns(call.out)):
            print(line, file=call.out)
    return 0


def _tell_ending(call: Call) -> None:
    """A line on stderr where the licence is about to end, or runs in its grace; all else is for `stoker license`."""
    with contextlib.suppress(StokerError):  # who asks for the nodes is told of them, whatever the licence
        held = safe.clean(call.client.licence())
        if held.stage in (LicenceStage.NOTICE, LicenceStage.GRACE):
            code = f" {held.code}" if held.code else ""
            fix = f" Run: {held.fix}" if held.fix else ""
            plain.complain(f"licence {held.stage}{code}: {held.message}{fix}")


def _named(args: argparse.Namespace | None, found: Sequence[NodeStatus]) -> Sequence[NodeStatus]:
    """The nodes and GPUs that a command names; all if it names none.

    Raises:
        StokerError: a word means nothing, or an option is of use with `--history` alone.
    """
    if args is None:
        return found
    if args.metric or args.until:
        raise StokerError(f"{'--metric' if args.metric else '--until'} is for a history; say --history 6h as well")
    targets = [find_target(word, found) for word in args.of]
    return [_only(each, targets) for each in found if not targets or any(each.name == it.node for it in targets)]


def _only(status: NodeStatus, targets: Sequence[Target]) -> NodeStatus:
    wanted = [each.gpu for each in targets if each.node == status.name]
    if status.node is None or not wanted or None in wanted:
        return status
    gpus = tuple(gpu for gpu in status.node.gpus if gpu.uuid in wanted or str(gpu.index) in wanted)
    return msgspec.structs.replace(status, node=msgspec.structs.replace(status.node, gpus=gpus))


def _views(found: Sequence[NodeStatus]) -> list[NodeView]:
    """The nodes of one answer in order, with ages as they are now."""
    cluster = Cluster()
    for each in found:
        cluster.apply(NodeUpdate(status=safe.clean(each)), 0.0)
    return cluster.nodes(0.0)


def _gpu_values(found: NodeStatus) -> list[GpuLine]:
    if found.node is None:
        return []
    own = {"node": found.name, "link": found.link.value, "gpu_source": found.node.gpu_source}
    return [convert(msgspec.to_builtins(gpu) | own, GpuLine) for gpu in found.node.gpus]
