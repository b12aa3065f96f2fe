"""What a buyer orders about seats and time: verbs of `stoker-license` that the hub carries out at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Protocol

from licensing.clock import SKEW_S
from licensing.errors import UsageError
from licensing.moments import when

VERBS = ("borrow", "clock", "extend", "node", "pin", "standby")


class Hub(Protocol):
    """The hub, as far as these verbs need it. Raises `LicenceError`."""

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        """The licence as it stands."""

    def order(
        self, verb: str, subject: str, *, days: int = 0, force: bool = False, config: Path | None = None
    ) -> dict[str, Any]:
        """Do something about a node's seats or a GPU's; gives the licence as it stands then."""


def add_verbs(verbs: Any) -> list[argparse.ArgumentParser]:
    """Hang these verbs under `stoker-license`; gives the parsers that take `--json`."""
    borrow = verbs.add_parser("borrow", help="let a node keep its seats for days, away from the hub")
    borrow.add_argument("node", metavar="NODE")
    borrow.add_argument("days", metavar="DAYS", type=int, help="1 to 30")
    node = verbs.add_parser("node", help="what a node is to the licence")
    adopt = node.add_subparsers(dest="node_verb", required=True, metavar="VERB").add_parser(
        "adopt", help="give seats again to a node that gave them back, or shows the identity of another machine"
    )
    adopt.add_argument("node", metavar="NODE")
    adopt.add_argument(
        "--new", action="store_true", help="NODE is a copy of another machine: it makes itself an identity of its own"
    )
    pin = verbs.add_parser("pin", help="a GPU that gets a seat before the others of its node where seats are short")
    pin.add_argument("gpu", metavar="UUID")
    pin.add_argument("--force", action="store_true", help="though no node shows it: it is still to come")
    pin.add_argument("--off", action="store_true", help="as the others again")
    confirm = (
        verbs.add_parser("clock", help="the hub's clock")
        .add_subparsers(dest="clock_verb", required=True, metavar="VERB")
        .add_parser("confirm", help="the hub's clock is right, though it jumped: on your word, here and on each node")
    )
    confirm.add_argument(
        "--yes", action="store_true", help="there is no way back but the vendor's answer: that is meant"
    )
    extend = verbs.add_parser("extend", help="let new jobs start for 72 h more, once a term, when all is over")
    extend.add_argument("--emergency", action="store_true", required=True, help="it is reported with the next usage")
    promote = (
        verbs.add_parser("standby", help="a second hub that took over this site's state")
        .add_subparsers(dest="standby_verb", required=True, metavar="VERB")
        .add_parser("promote", help="this hub leads from now on: nodes take nothing of the one before it any more")
    )
    for each in (borrow, adopt, pin, confirm, extend, promote):
        each.add_argument("--json", action="store_true", help="print the licence as it stands then")
    return [borrow, adopt, pin, confirm, extend, promote]


def run(args: argparse.Namespace, hub: Hub) -> tuple[dict[str, Any], str]:
    """Have the hub do it; gives the licence as it stands then, and what was done in words.

    Raises:
        LicenceError: refused; nothing was changed.
    """
    if args.verb == "borrow":
        done = hub.order("borrow", args.node, days=args.days, config=args.config)
        return done, f"{args.node} has its seats for {args.days} days, once it heard so from the hub"
    if args.verb == "clock":
        return _confirm_clock(args, hub)
    if args.verb == "extend":
        done = hub.order("extend", "", config=args.config)
        return done, f"new jobs start until {when(done['restricted_at'])}, once in this term"
    if args.verb == "standby":
        done = hub.order("promote", "", config=args.config)
        return done, f"this hub leads with epoch {done['epoch']}; stop the one before it"
    if args.verb == "node":
        done = hub.order("adopt", args.node, force=args.new, config=args.config)
        return done, f"{args.node} {'is a copy no more, and ' if args.new else ''}gets seats again"
    if args.verb == "pin":
        done = hub.order("unpin" if args.off else "pin", args.gpu, force=args.force, config=args.config)
        return done, f"{args.gpu} is {'as the others again' if args.off else 'first where seats are short'}"
    return _release(args, hub)


def _confirm_clock(args: argparse.Namespace, hub: Hub) -> tuple[dict[str, Any], str]:
    before = hub.licence(args.config)
    done = hub.order("clock-confirm", "", force=args.yes, config=args.config)
    is_known = all(abs((done[time] or 0) - (before[time] or 0)) <= SKEW_S for time in ("at", "confirmed_at"))
    if is_known and not args.yes:
        return done, (
            f"the clock agrees with what was signed and seen ({when(done['at'])}): there is nothing to confirm. "
            "Where a node's own time is wrong: stoker-license clock confirm --yes"
        )
    how = "as was known here" if is_known else "on your word"
    return done, f"it is {when(done['at'])}, {how}; each node goes by it from its next lease on"


def _release(args: argparse.Namespace, hub: Hub) -> tuple[dict[str, Any], str]:
    if args.out is not None:
        raise UsageError("-o writes the proof that a whole licence was given back; a node's release writes no file")
    done = hub.order("release", args.node, force=args.force, config=args.config)
    if args.force:
        return done, f"the seats of {args.node} are free; its old lease may still run until it ends"
    return done, f"{args.node} gave its seats back; seats again: stoker-license node adopt {args.node}"
