"""What an admin arranges around the queue, and who may see it: drains, reservations, shares, partitions, notices."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import msgspec

from agent.api.commandline import Parser, meant
from agent.api.errors import ApiError, StokerError
from agent.api.queue import Drain, DrainRequest, QueueRules, ReservationRequest
from agent.api.types import Gpu, Node, NodeStatus
from tui import drained, plain, safe, tables, units, words
from tui.verbs.call import Call


class DrainLine(Drain, frozen=True, kw_only=True):
    """`stoker drains --json`: a drain with the node it is on."""

    node: str
    gpu_index: int | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A node, or a GPU of one."""

    node: str
    gpu: str | None = None
    """Index or UUID."""

    def __str__(self) -> str:
        return f"{self.node}:{self.gpu}" if self.gpu is not None else self.node


def options(parser: Parser, name: str) -> None:
    """What each takes."""
    if name in ("drain", "resume"):
        _drain_options(parser, name)
    elif name == "reservation":
        _reservation_options(parser)
    else:
        parser.add_argument("--node", type=words.said, metavar="NAME", help="of this node alone")
        if name == "notices":
            parser.add_argument("what", nargs="?", choices=("list", "retry"), metavar="retry", help="send them again")
            words.examples(parser, "stoker notices", "stoker notices retry")
        work = {"drains": drains, "shares": shares, "partitions": partitions, "notices": notices}[name]
        parser.set_defaults(work=lambda call, args: work(call, args))


# --- drains -----------------------------------------------------------------------------------------------------------


def _drain_options(parser: Parser, name: str) -> None:
    parser.add_argument(
        "targets", type=words.said, nargs="+", metavar="NODE|NODE:GPU|GPU", help="n1, n1:3, 3, GPU-8f3a…"
    )
    if name == "drain":
        parser.add_argument("--reason", type=words.said, required=True, help="why, for whoever looks next")
        words.examples(
            parser,
            "stoker drain n1 --reason 'new power supply'     no new job on the node; what runs there runs on",
            "stoker drain n1:3 --reason 'memory errors'      one GPU",
        )
    else:
        words.examples(parser, "stoker resume n1:3", "stoker resume n1 n2")
    parser.set_defaults(work=_drain if name == "drain" else _resume)


def drains(call: Call, args: argparse.Namespace) -> int:
    """Print what takes no new job."""
    return _show_drains(call, [each.name for each in call.client.nodes() if args.node in (None, each.name)])


def _drain(call: Call, args: argparse.Namespace) -> int:
    return _ask_drain(call, args.targets, reason=args.reason)


def _resume(call: Call, args: argparse.Namespace) -> int:
    return _ask_drain(call, args.targets, reason=None)


def _ask_drain(call: Call, targets: Sequence[str], *, reason: str | None) -> int:
    """Drain for a reason, or resume without one; a refusal of one does not keep the others from it."""
    known = safe.clean(call.client.nodes())
    wanted = [find_target(text, known) for text in targets]
    failed = False
    for target in wanted:
        try:
            said = _change(call, target, reason)
        except ApiError as error:
            plain.refuse(error, json=call.json, about=f"{target} is not {'drained' if reason else 'resumed'}: ")
            failed = True
            continue
        if not call.json:
            print(said, file=call.out)
    if call.json:
        _show_drains(call, sorted({target.node for target in wanted}))
    return int(failed)


def _change(call: Call, target: Target, reason: str | None) -> str:
    request = DrainRequest(gpu=target.gpu, reason=reason)
    if reason is None:
        change = safe.clean(call.client.resume(request, target.node))
        return drained.resumed(str(target), change, gpu=target.gpu is not None)
    return drained.drained(str(target), safe.clean(call.client.drain(request, target.node)))


def find_target(text: str, known: Sequence[NodeStatus]) -> Target:
    """What a word means: a node's name, `NODE:GPU`, a GPU's UUID, or its index where there is one node.

    Raises:
        StokerError: nothing, or nothing for certain.
    """
    names = [each.name for each in known]
    if text in names:
        return Target(node=text)
    node, colon, gpu = text.rpartition(":")
    if colon and node in names and gpu:
        return Target(node=node, gpu=_gpu(gpu, next(each for each in known if each.name == node)))
    if not colon:
        holders = [each for each in known if any(_is(text, gpu) for gpu in _gpus(each))]
        if len(holders) == 1:
            return Target(node=holders[0].name, gpu=text)
        if len(holders) > 1:
            raise StokerError(f"{text} is a GPU of {len(holders)} nodes; write {holders[0].name}:{text}")
    hint = meant(node or text, names) or f"; there is {', '.join(names[:8])}, and stoker gpus lists the GPUs"
    raise StokerError(f"{text!r} is no node and no GPU{hint}")


def _gpu(text: str, status: NodeStatus) -> str:
    """The GPU of a node; one that the node does not show is left to the node to judge."""
    if status.node is not None and not any(_is(text, gpu) for gpu in _gpus(status)):
        raise StokerError(f"{status.name} has no GPU {text!r}; stoker gpus lists them")
    return text


def _is(text: str, gpu: Gpu) -> bool:
    return text in (gpu.uuid, str(gpu.index))


def _gpus(status: NodeStatus) -> tuple[Gpu, ...]:
    return status.node.gpus if status.node is not None else ()


def _show_drains(call: Call, names: Sequence[str]) -> int:
    """Ask each node itself: what a hub was told last may be a second old. One that is away is told of."""
    lines: list[DrainLine] = []
    for name in names:
        try:
            lines += _drain_lines(name, call.client.node(name))
        except ApiError as error:
            plain.complain(f"the drains of {name} are not known: {error}")
    return call.listed(lines, tables.DRAIN_TITLES, lambda each: tables.drain_line(each.node, each.gpu_index, each))


def _drain_lines(name: str, node: Node) -> list[DrainLine]:
    all_of_it = [(None, node.drain)] if node.drain else []
    gpus = [(gpu.index, gpu.drain) for gpu in node.gpus if gpu.drain]
    return [
        DrainLine(
            node=name,
            gpu_index=index,
            gpu_uuid=drain.gpu_uuid,
            reason=drain.reason,
            by=drain.by,
            owner=drain.owner,
            at=drain.at,
            earlier=drain.earlier,
        )
        for index, drain in (*all_of_it, *gpus)
    ]


# --- reservations -----------------------------------------------------------------------------------------------------


def _reservation_options(parser: Parser) -> None:
    what = parser.add_subparsers(dest="what", metavar="add|list|remove")
    common = words.common()
    add = what.add_parser("add", help="keep GPUs for some users, or for nobody", parents=[common])
    add.add_argument("name", nargs="?", type=words.said, help="made up when left out")
    add.add_argument("--start", default="now", type=words.said, metavar="WHEN", help="as --begin reads times (now)")
    add.add_argument("--duration", type=words.said, metavar="TIME", help="as --time reads them; or --end")
    add.add_argument("--end", type=words.said, metavar="WHEN")
    add.add_argument("--users", type=_names, default=(), metavar="A,B")
    add.add_argument("--accounts", type=_names, default=(), metavar="A,B")
    add.add_argument("--gpus", type=words.said, metavar="N|=0,1", help="a number, or =indexes; else the whole node")
    add.add_argument("--maintenance", action="store_true", help="nobody may use it")
    add.add_argument("--comment", type=words.said)
    add.add_argument("--node", type=words.said, metavar="NAME")
    words.examples(
        add,
        "stoker reservation add course --start 2026-11-23T09:00 --duration 4:00:00 --users alice,bob --gpus 4",
        "stoker reservation add --maintenance --start tomorrow --duration 2:00:00 --node n1",
    )
    listing = what.add_parser("list", help="those that are not over", parents=[common])
    remove = what.add_parser("remove", help="delete one", parents=[common])
    remove.add_argument("name", type=words.said)
    for each in (listing, remove):
        each.add_argument("--node", type=words.said, metavar="NAME")
    add.set_defaults(work=_reserve, check=lambda args: _whole_reservation(add, args))
    listing.set_defaults(work=reservations)
    remove.set_defaults(work=_unreserve)
    parser.set_defaults(work=reservations, node=None)
    words.examples(parser, "stoker reservation", "stoker reservation add --help", "stoker reservation remove course")


def reservations(call: Call, args: argparse.Namespace) -> int:
    """Print reservations that are not over."""
    found = call.client.reservations(args.node)
    indexes = {} if call.json else {gpu.uuid: gpu.index for each in call.client.nodes() for gpu in _gpus(each)}
    return call.listed(found, tables.RESERVATION_TITLES, lambda each: tables.reservation_line(each, indexes))


def _reserve(call: Call, args: argparse.Namespace) -> int:
    request = ReservationRequest(
        name=args.name,
        start=args.start,
        duration=args.duration,
        end=args.end,
        users=args.users,
        accounts=args.accounts,
        gpus=args.gpus,
        maintenance=args.maintenance,
        comment=args.comment,
    )
    made = call.client.reserve(request, args.node)
    if call.json:
        plain.as_json(made, call.out)
        return 0
    safely = safe.clean(made)
    times = f"{units.moment(safely.start_at)} to {units.moment(safely.end_at)}"
    print(f"Reservation {safely.name}, {times}", file=call.out)
    return 0


def _whole_reservation(parser: Parser, args: argparse.Namespace) -> None:
    if (args.duration is None) == (args.end is None):
        parser.error("a reservation has a --duration or an --end, and not both; write --duration 2:00:00")
    if not (args.users or args.accounts or args.maintenance):
        parser.error("a reservation is for --users or --accounts, or is --maintenance; name one of them")


def _unreserve(call: Call, args: argparse.Namespace) -> int:
    left = call.client.unreserve(args.name, args.node)
    if call.json:
        plain.as_json(left, call.out)
    else:
        print(f"Reservation {safe.text(args.name)} is removed", file=call.out)
    return 0


def _names(text: str) -> tuple[str, ...]:
    found = tuple(each.strip() for each in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; write alice,bob")
    return found


# --- shares, partitions, notices --------------------------------------------------------------------------------------


def shares(call: Call, args: argparse.Namespace) -> int:
    """Print the fair share."""
    return call.listed(call.client.shares(args.node), tables.SHARE_TITLES, tables.share_line)


def partitions(call: Call, args: argparse.Namespace) -> int:
    """Print what a submit may name."""
    found: QueueRules = call.client.rules(args.node)
    if call.json:
        plain.as_json(found, call.out)
        return 0
    safely = safe.clean(found)
    plain.table(tables.PARTITION_TITLES, [tables.partition_line(each) for each in safely.partitions], call.out)
    if safely.qos:
        print(file=call.out)
        plain.table(tables.QOS_TITLES, [tables.qos_line(each) for each in safely.qos], call.out)
    for title, values in (("Accounts", safely.accounts), ("Features", safely.features)):
        if values:
            print(f"\n{title}: {', '.join(values)}", file=call.out)
    return 0


def notices(call: Call, args: argparse.Namespace) -> int:
    """Print notices that are not delivered, given up or still tried; or have all of them tried now."""
    retry = args.what == "retry"
    found = (call.client.retry_dead_letters if retry else call.client.dead_letters)(args.node)
    if call.json:
        plain.as_json(found, call.out)
    elif retry and found:
        print(f"{units.count(len(found), 'notice')} tried again now; stoker notices shows what is left", file=call.out)
    elif retry:
        print("All notices are delivered", file=call.out)
    else:
        now = time.time()
        plain.table(tables.LETTER_TITLES, [tables.letter_line(each, now) for each in safe.clean(found)], call.out)
    return 0
