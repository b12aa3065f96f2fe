"""What a buyer sends to the vendor: verbs beside `status` and `activate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from licensing.errors import KeyFileError, UsageError
from licensing.moments import when

WANTS = ("activate", "renew", "transfer", "usage")
VERBS = ("export-request", "release", "transfer")
_SEND = "Send it to your vendor; the answer is taken until {until}, once: stoker-license import-response FILE"
_MOVE = "Take it to the site that has the licence, and there: stoker-license transfer FILE --yes. " + _SEND.replace(
    "it to your vendor", "what that writes to your vendor"
)


class Hub(Protocol):
    """The hub, as far as these verbs need it. Each raises `LicenceError`."""

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        """The licence as it stands."""

    def request(self, want: str, config: Path | None = None) -> dict[str, Any]:
        """Make a request to the vendor: `id`, `token`, `document`, `until`."""

    def release(self, to: str | None, config: Path | None = None) -> dict[str, Any]:
        """Give the licence back: `id`, `token`, `document`."""


def add_verbs(verbs: Any) -> list[argparse.ArgumentParser]:
    """Hang these verbs under `stoker-license`; gives their parsers."""
    ask = verbs.add_parser("export-request", help="ask the vendor for a licence, without a network: file, paste or QR")
    ask.add_argument("--want", choices=WANTS, help="what for (default: activate, or renew where a licence is bound)")
    ask.add_argument("--qr", action="store_true", help="draw it as a QR code of 77 columns and 39 rows")
    ask.add_argument("--invert", action="store_true", help="for a terminal with dark letters on light ground")
    release = verbs.add_parser(
        "release", help="give back a node's seats; without NODE the licence, with proof for the vendor"
    )
    release.add_argument("node", metavar="NODE", nargs="?", help="whose seats are to be free before its lease ends")
    release.add_argument("--force", action="store_true", help="NODE is gone: at most a tenth of the seats in 30 days")
    release.add_argument("--json", action="store_true", help="with NODE: print the licence as it stands then")
    transfer = verbs.add_parser("transfer", help="give the licence back for another site, which asked for it")
    transfer.add_argument("request", metavar="REQUEST", help="what export-request --want transfer wrote there")
    for each in (release, transfer):
        each.add_argument("--yes", action="store_true", help="new jobs are held here from then on: that is meant")
    for each in (ask, release, transfer):
        each.add_argument("-o", "--out", metavar="FILE", help="write it there (default: print it)")
    return [ask, release, transfer]


def run(args: argparse.Namespace, hub: Hub, read_text: Callable[[str], str]) -> int:
    """Do what the parsed arguments say; gives the exit code.

    Raises:
        LicenceError: refused; nothing was changed.
    """
    if args.verb == "export-request":
        return _export_request(args, hub)
    to = read_text(args.request) if args.verb == "transfer" else None
    return _give_back(args, hub, to)


def _export_request(args: argparse.Namespace, hub: Hub) -> int:
    want = args.want or ("renew" if hub.licence(args.config).get("bound") else "activate")
    if args.out is not None:
        _refuse_target(args.out)
    asked = hub.request(want, args.config)
    if args.qr:
        from licensing import qr

        print(qr.draw(asked["token"], invert=args.invert))
    if args.out is not None:
        _write(args.out, asked["document"])
    elif not args.qr:
        sys.stdout.write(asked["document"])
    then = (_MOVE if want == "transfer" else _SEND).format(until=when(asked["until"]))
    print(f"request {asked['id']} to {want}. {then}", file=sys.stderr)
    return 0


def _give_back(args: argparse.Namespace, hub: Hub, to: str | None) -> int:
    if getattr(args, "force", False):
        raise UsageError("--force is for a node that is gone; name it: stoker-license release NODE --force")
    if not args.yes:
        raise UsageError(
            "giving the licence back holds new jobs here from that moment, and cannot be undone here; running jobs go "
            "on. If that is meant, add: --yes"
        )
    if args.out is not None:
        _refuse_target(args.out)
    given = hub.release(to, args.config)
    if args.out is not None:
        _write(args.out, given["document"])
    else:
        sys.stdout.write(given["document"])
    more = "with the other site's request in it" if to is not None else "with the request of the site that it goes to"
    print(f"licence {given['id']} is given back. Send this to your vendor, {more}", file=sys.stderr)
    return 0


def _refuse_target(out: str) -> None:
    """Before the hub is asked: what it answers is not to be lost."""
    from licensing import files

    try:
        files.refuse_target(out)
    except FileExistsError as error:
        raise KeyFileError(f"{out} exists and is not overwritten; name another file") from error
    except OSError as error:
        raise KeyFileError(f"cannot write {out}: {error.strerror}; name another file") from error


def _write(out: str, text: str) -> None:
    """A disk that is full is no reason to lose what the hub answered: it is then printed."""
    from licensing import files

    try:
        files.create_new(Path(out), text.encode(), mode=0o644)
        print(out)
    except OSError as error:
        sys.stdout.write(text)
        raise KeyFileError(f"cannot write {out}: {error.strerror}; it is printed instead, copy it") from error
