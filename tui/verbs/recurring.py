"""`stoker cron`: recurring jobs, which `stoker submit --cron` makes."""

from __future__ import annotations

import argparse

from agent.api.commandline import Parser
from agent.api.errors import StokerError
from agent.api.queue import Cron
from tui import plain, safe, tables, words
from tui.verbs.call import Call


def options(parser: Parser, _: str) -> None:
    """List them, or remove one."""
    what = parser.add_subparsers(dest="what", metavar="list|remove")
    common = words.common()
    listing = what.add_parser("list", help="recurring jobs with their next time", parents=[common])
    remove = what.add_parser("remove", help="delete one; jobs that it made stay", parents=[common])
    remove.add_argument("cron", type=_cron, metavar="ID", help="3, or n1:3 where two nodes have a 3")
    listing.add_argument("--node", type=words.said, metavar="NAME")
    listing.set_defaults(work=crons)
    remove.set_defaults(work=_remove)
    parser.set_defaults(work=crons, node=None)
    words.examples(
        parser,
        'stoker submit --cron "0 3 * * 1" --missed run train.sh     Mondays at 3, once more after an outage',
        "stoker cron",
        "stoker cron remove 3",
    )


def crons(call: Call, args: argparse.Namespace) -> int:
    """Print recurring jobs."""
    return call.listed(call.client.crons(args.node), tables.CRON_TITLES, tables.cron_line)


def _remove(call: Call, args: argparse.Namespace) -> int:
    node, number = args.cron
    meant = [each for each in call.client.crons(node) if each.id == number and node in (None, each.node)]
    if not meant:
        raise StokerError(f"there is no recurring job {number}; stoker cron lists them")
    if len(meant) > 1:
        raise StokerError(f"{_nodes(meant)} each have a recurring job {number}; write {meant[0].node}:{number}")
    left = call.client.remove_cron(number, meant[0].node)
    if call.json:
        plain.as_json(left, call.out)
    else:
        print(f"Recurring job {number} on {safe.text(meant[0].node)} is removed; jobs that it made stay", file=call.out)
    return 0


def _nodes(found: list[Cron]) -> str:
    return " and ".join(safe.text(each.node) for each in found)


def _cron(text: str) -> tuple[str | None, int]:
    try:
        ref = words.job(text)
    except argparse.ArgumentTypeError:
        ref = None
    if ref is None or ref.task is not None:
        sentence = f"{text!r} is not the number of a recurring job; write 3, or n1:3; stoker cron lists them"
        raise argparse.ArgumentTypeError(sentence)
    return ref.node, ref.id
