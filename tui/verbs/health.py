"""`stoker incidents` and `stoker inventory`: what is or was wrong with GPUs, whom it hit, what to do; what is there."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import msgspec

from agent.api.commandline import Parser
from agent.api.errors import ApiError, StokerError
from agent.api.health import Incident, KnownGpu
from tui import plain, safe, tables, units, words
from tui.verbs.call import Call


def options(parser: Parser, name: str) -> None:
    """List incidents, acknowledge or clear one; list the inventory, or accept what is there."""
    if name == "inventory":
        parser.add_argument("node", type=words.said, nargs="?", metavar="NODE", help="this one alone")
        parser.add_argument("--accept", action="store_true", help="take what is there now for right; for admins")
        words.examples(parser, "stoker inventory", "stoker inventory n1 --accept     after a GPU was exchanged")
        parser.set_defaults(work=inventory)
        return
    what = parser.add_subparsers(dest="what", metavar="list|acknowledge|clear")
    common = words.common()
    listing = what.add_parser("list", help="what is wrong now", parents=[common])
    listing.add_argument("--all", action="store_true", help="those that are over as well")
    listing.add_argument("--node", type=words.said, metavar="NAME", help="of this node alone")
    seen = what.add_parser("acknowledge", help="say that you have seen one", parents=[common], aliases=["ack"])
    seen.add_argument("incident", type=_incident, metavar="ID", help="3, or n1:3 where two nodes have a 3")
    over = what.add_parser("clear", help="say that one is over, where that does not show yet", parents=[common])
    over.add_argument("incident", type=_incident, metavar="ID", help="3, or n1:3 where two nodes have a 3")
    listing.set_defaults(work=incidents)
    seen.set_defaults(work=_acknowledge)
    over.set_defaults(work=_clear)
    parser.set_defaults(work=incidents, all=False, node=None)
    words.examples(
        parser,
        "stoker incidents",
        "stoker incidents list --all",
        "stoker incidents acknowledge 3",
        "stoker incidents clear 3",
    )


def incidents(call: Call, args: argparse.Namespace) -> int:
    """Print them, the newest first; exit code 1 when a node could not be asked."""
    found: list[Incident] = []
    failed = False
    for name in _names(call, args.node):
        try:
            found += call.client.incidents(over=args.all, node=name)
        except ApiError as error:
            plain.refuse(error, json=call.json, about=f"{name} is left out: ")
            failed = True
    found.sort(key=lambda each: -each.opened_at)
    if not found and not call.json and not failed:
        print("No incident is open" if not args.all else "There was no incident", file=call.out)
        return 0
    call.listed(found, tables.INCIDENT_TITLES, tables.incident_line)
    return int(failed)


def inventory(call: Call, args: argparse.Namespace) -> int:
    """Print the GPUs that each node is known to have, and whether they are there; exit code 1 as for `incidents`."""
    statuses = {each.name: each for each in call.client.nodes()}
    rows, values, said = [], [], []
    failed = False
    for name in _names(call, args.node):
        try:
            before = call.client.inventory(name)
            known = call.client.accept_inventory(name) if args.accept else before
        except ApiError as error:
            plain.refuse(error, json=call.json, about=f"{name} is left out: ")
            failed = True
            continue
        node = statuses[name].node
        there = frozenset(gpu.uuid for gpu in node.gpus) if node is not None else frozenset[str]()
        values += [{"node": name, **msgspec.to_builtins(each), "there": each.uuid in there} for each in known]
        rows += [tables.inventory_line(safe.text(name), each, there) for each in safe.clean(known)]
        said += [_accepted(safe.text(name), safe.clean(before), safe.clean(known))] if args.accept else []
    if call.json:
        plain.as_json(values, call.out)
        return int(failed)
    for line in said:
        print(line, file=call.out)
    if rows or not (said or failed):
        plain.table(tables.INVENTORY_TITLES, rows, call.out)
    return int(failed)


def _accepted(node: str, before: Sequence[KnownGpu], known: Sequence[KnownGpu]) -> str:
    """What a node takes for right now, and what is other than it was."""
    if not known:
        was = f"; the {units.count(len(before), 'GPU')} of before {'is' if len(before) == 1 else 'are'} forgotten"
        return f"{node} has no GPU, and none is expected there{was if before else ''}"
    models = ", ".join(f"{number} x {name}" for name, number in Counter(each.name for each in known).items())
    had, has = {each.uuid for each in before}, {each.uuid for each in known}
    new = f"; {len(has - had)} new, {len(had - has)} no longer expected" if had and had != has else ""
    same = "; nothing is changed" if list(before) == list(known) else ""
    return f"{node} accepts {units.count(len(known), 'GPU')} ({models}){new}{same}; kept in its agent.db"


def _acknowledge(call: Call, args: argparse.Namespace) -> int:
    node, number = _open(call, args.incident)
    seen = call.client.acknowledge(number, node)
    return _said(call, seen, f"Incident {number} on {safe.text(node)} is acknowledged; it stays open until it is over")


def _clear(call: Call, args: argparse.Namespace) -> int:
    node, number = _open(call, args.incident)
    over = call.client.clear_incident(number, node)
    status = next((each.node for each in call.client.nodes() if each.name == node), None)
    gpus = status.gpus if status is not None else ()
    drained = any(gpu.uuid == over.gpu_uuid and gpu.drain is not None for gpu in gpus)
    held = f"; GPU {over.gpu_index} is still drained: stoker resume {node}:{over.gpu_index}" if drained else ""
    return _said(call, over, f"Incident {number} on {safe.text(node)} is over{held}")


def _said(call: Call, incident: Incident, sentence: str) -> int:
    if call.json:
        plain.as_json(incident, call.out)
    else:
        print(sentence, file=call.out)
    return 0


def _open(call: Call, asked: tuple[str | None, int]) -> tuple[str, int]:
    """The node that has this incident, which is open there; one that cannot be asked keeps nobody from the others."""
    node, number = asked
    having, silent = [], []
    for name in _names(call, node):
        try:
            if any(each.id == number for each in call.client.incidents(node=name)):
                having.append(name)
        except ApiError:
            silent.append(name)
    if not having:
        away = f" where it can be seen, and {', '.join(silent)} cannot be asked now" if silent else ""
        raise StokerError(f"no incident {number} is open{away}; stoker incidents lists them")
    if len(having) > 1:
        raise StokerError(f"{' and '.join(having)} each have an incident {number}; write {having[0]}:{number}")
    return having[0], number


def _names(call: Call, node: str | None) -> list[str]:
    names = [each.name for each in call.client.nodes()]
    if node is not None and node not in names:
        raise StokerError(f"{node!r} is no node; there is {', '.join(names[:8])}")
    return names if node is None else [node]


def _incident(text: str) -> tuple[str | None, int]:
    try:
        ref = words.job(text)
    except argparse.ArgumentTypeError:
        ref = None
    if ref is None or ref.task is not None:
        sentence = f"{text!r} is not the number of an incident; write 3, or n1:3; stoker incidents lists them"
        raise argparse.ArgumentTypeError(sentence)
    return ref.node, ref.id
