"""`stoker-license`: what a buyer types. What goes to the vendor: `buyer_cli`; the vendor's verbs: `vendor_cli`.

The hub owns the ledger, so the buyer's verbs only talk to it, through the `Hub` that the composition root passes in;
the vendor's need none. Results go to stdout, refusals to stderr: what failed, on what, what to do next.

    exit  0 fine   3 notice or grace   4 restricted   5 bad file   6 other site   7 replayed or old   8 clock
         64 usage  69 the hub does not answer  78 the configuration
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from licensing import audit_cli, buyer_cli, doctor, files, seats_cli, usage_words, vendor_cli
from licensing.armour import MAX_FILE_CHARS
from licensing.errors import ConfigFileError, FormatError, HubError, LicenceError, StoreError, UsageError
from licensing.moments import when
from licensing.words import Stage

_EXIT = {Stage.ACTIVE: 0, Stage.NOTICE: 3, Stage.GRACE: 3, Stage.PERPETUAL: 4, Stage.RESTRICTED: 4}


class Hub(buyer_cli.Hub, doctor.Hub, seats_cli.Hub, Protocol):
    """The hub, as far as a licence goes. What it answers are the wire's values as plain JSON.

    `config` is the configuration that says where the hub is; `None` when the command line names none.
    All raise `LicenceError`: the hub's refusal by `errors.from_code`, or `HubError` when it does not answer.
    """

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        """The licence as it stands."""

    def activate(self, text: str, config: Path | None = None) -> dict[str, Any]:
        """Take a vendor's file; gives the licence as it stands then."""

    def metrics(self, config: Path | None = None) -> str:
        """The licence's part of the hub's OpenMetrics page."""

    def state_dir(self, config: Path | None = None) -> Path:
        """Where the hub keeps its ledger on this machine."""


def main(
    argv: Sequence[str], hub: Hub, *, version: str = "unknown", export: usage_words.Export = usage_words.nowhere
) -> int:
    """Run one command; gives the exit code. `export` has the hub make a usage report."""
    try:
        args = _parser(version, vendor="vendor" in argv).parse_args(argv)
        if args.verb == "status":
            return _status(args, hub)
        if args.verb in ("activate", "import-response"):
            return _show(_taken(args.file, hub, args.config), as_json=False)
        if args.verb == "audit":
            return audit_cli.verify(args.file or hub.state_dir(args.config) / audit_cli.LEDGER)
        if args.verb == "usage":
            from licensing import usage_cli

            return usage_cli.run(args, export, now=int(time.time()))
        if args.verb in seats_cli.VERBS or (args.verb == "release" and args.node is not None):
            return _ordered(*seats_cli.run(args, hub), as_json=args.json)
        if args.verb == "doctor":
            return doctor.run(args, hub)
        if args.verb in buyer_cli.VERBS:
            return buyer_cli.run(args, hub, read_text)
        return vendor_cli.run(args, now=int(time.time()))
    except LicenceError as error:
        print(f"stoker-license: {_plain(error.message)}", file=sys.stderr)
        return error.exit_code


def _taken(name: str, hub: Hub, config: Path | None) -> dict[str, Any]:
    """Have the hub take a file; what is wrong with it names it."""
    text = read_text(name)
    try:
        return hub.activate(text, config)
    except (HubError, ConfigFileError, StoreError):
        raise
    except LicenceError as error:
        raise type(error)(f"{files.origin(name)}: {error.message}") from error


def read_text(name: str) -> str:
    """The text of a file, or of standard input for `-`.

    Raises:
        FormatError: it cannot be read or is no text.
    """
    origin = files.origin(name)
    try:
        data = files.read_given_or_stdin(name, MAX_FILE_CHARS)
        if len(data) > MAX_FILE_CHARS:
            raise FormatError(
                f"{origin} is larger than {MAX_FILE_CHARS} bytes, which no licence file is; "
                "name a voucher or licence file"
            )
        return files.as_text(data)
    except OSError as error:
        raise FormatError(f"cannot read {origin}: {error.strerror}; name a voucher or licence file") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{origin} is not text; a licence file begins with -----BEGIN STOKER LICENCE-----") from error


class _Parser(argparse.ArgumentParser):
    """argparse with suggestions; it ends with 2 on a usage error, ours is 64, as sysexits(3) has it."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        found, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"{extra[0]!r} is not known{_meant(extra[0].partition('=')[0], self._option_string_actions)}")
        return found, extra

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}{' See' if message.endswith('?') else '; see'}: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(each) for each in action.choices]
            self.error(f"{value!r} is not known{_meant(value, known) or '; known: ' + ', '.join(known)}")


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _parser(version: str, *, vendor: bool) -> argparse.ArgumentParser:
    """`vendor`: whether those verbs are wanted, whose hundred options are a seventh of the start of all others."""
    parser = _Parser(
        prog="stoker-license",
        description="Install and inspect the licence of this cluster.",
        epilog="The hub is found by the configuration: --config, $STOKER_CONFIG, or where the daemons look for it. "
        "Exit codes: 0 fine, 3 notice or grace, 4 restricted, 5 bad file, 6 other site, 7 replayed or old, "
        "8 clock, 64 usage, 69 the hub does not answer, 78 its configuration cannot be read.",
    )
    parser.add_argument("--version", action="version", version=f"stoker-license {version}")
    _add_config(parser, None)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    status = verbs.add_parser("status", help="stage, seats, who holds them, and when it ends")
    how = status.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print the whole record as one JSON object")
    how.add_argument("--metrics", action="store_true", help="print the lic_* metrics, as the hub's /metrics has them")
    activate = verbs.add_parser("activate", help="install a voucher or licence file; works without a network")
    answer = verbs.add_parser("import-response", help="take the vendor's answer, or any file of theirs; twice is once")
    for each in (activate, answer):
        each.add_argument("file", metavar="FILE", help="the file, or - to paste it on standard input")
    audit = audit_cli.add_verbs(verbs.add_parser("audit", help="check the trail of what was done with the licence"))
    usage = verbs.add_parser("usage", help="report the GPU time used, signed, to yourself and your vendor")
    export = usage_words.add_verbs(usage)
    more = (*buyer_cli.add_verbs(verbs), doctor.add_verb(verbs), *seats_cli.add_verbs(verbs))
    for verb in (status, activate, answer, audit, export, *more):
        _add_config(verb, argparse.SUPPRESS)
    desk = verbs.add_parser("vendor", help="make keys, sign and inspect licences (vendor, reseller)")
    if vendor:
        vendor_cli.add_verbs(desk)
    return parser


def _add_config(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--config", type=Path, default=default, metavar="FILE", help="the configuration to use; else $STOKER_CONFIG"
    )


def _status(args: argparse.Namespace, hub: Hub) -> int:
    if args.metrics:
        print(hub.metrics(args.config), end="")
        return 0
    return _show(hub.licence(args.config), as_json=args.json)


def _ordered(licence: dict[str, Any], done: str, *, as_json: bool) -> int:
    """What was ordered is done, whatever stage the licence is in."""
    print(json.dumps(licence, indent=2) if as_json else _plain(done))
    return 0


def _show(licence: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(licence, indent=2))
    else:
        for label, text in _lines(licence):
            print(_folded(f"{label:<11}{_plain(text)}", label))
    if _is_superseded(licence):
        return _EXIT[Stage.RESTRICTED]
    try:
        return _EXIT[Stage(licence["stage"])]
    except ValueError:
        return 3  # a newer hub's stage: it is shown above as it came, and it is not certain that all is well


def _is_superseded(licence: dict[str, Any]) -> bool:
    """Another hub leads, so new jobs wait for this one's leases in vain, whatever stage the licence is in."""
    return (licence.get("epoch_heard") or 0) > (licence.get("epoch") or 1)


def _folded(line: str, label: str) -> str:
    """On a terminal in lines of its width, but for a command and a key, which are there to be copied."""
    if not sys.stdout.isatty() or label in ("run", "site key"):
        return line
    width = max(40, shutil.get_terminal_size().columns)
    if len(line) <= width:
        return line
    return textwrap.fill(line, width, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)


def _lines(licence: dict[str, Any]) -> list[tuple[str, str]]:
    head = f"{licence['code']}: " if licence.get("code") else ""
    lines = [(licence["stage"], head + licence["message"])]
    if licence.get("fix"):
        lines.append(("run", licence["fix"]))
    if _is_superseded(licence):
        lines.append(("hub", f"LIC-424: a hub of epoch {licence['epoch_heard']} took over; this one gives no leases"))
        lines.append(("", "stop it; if it is the one to lead: stoker-license standby promote"))
    if licence.get("licence_id"):
        sold = f", sold by {licence['brand']}" if licence.get("brand") else ""
        lines.append(("licence", f"{licence['licence_id']}, {licence['plan']}, for {licence['customer']}{sold}"))
        lines.extend(_seat_lines(licence))
        lines.extend(_machine_lines(licence.get("hardware") or {}))
        lines.extend(_edition_lines(licence))
    lines.extend(_request_lines(licence.get("pending") or ()))
    if licence.get("site_key"):
        lines.append(("site key", licence["site_key"]))
    if licence.get("development_roots"):
        lines.append(("roots", "DEVELOPMENT: anybody can sign licences for this build; not for customers"))
    return lines


def _request_lines(pending: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What waits for the vendor; what was superseded is history, whose answers would still be taken."""
    for each in pending:
        if not each.get("superseded"):
            yield "request", f"{each['id']} to {each['want']}, answered until {when(each['until'])}"
    if old := [each for each in pending if each.get("superseded")]:
        what = "an earlier request" if len(old) == 1 else f"{len(old)} earlier requests"
        yield "history", f"{what}, the last of {when(old[0]['made_at'])}, superseded since"


def _edition_lines(licence: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the licence opens; then what it does not, by the edition that has it."""
    features = ", ".join(licence.get("features") or ()) or "the basis, which ordinary jobs need"
    yield "edition", f"{licence.get('edition') or 'none named'}: {features}"
    by_edition: dict[str, list[str]] = {}
    for each in licence.get("locked") or ():
        later = " (keeps no job from starting yet)" if each.get("planned") else ""
        sold = each.get("sold_with") or f"edition {each.get('edition') or 'none'}"
        by_edition.setdefault(sold, []).append(f"{each['feature']}{later}")
    for sold, locked in by_edition.items():
        yield "locked", f"{', '.join(locked)}: {sold}"


def _seat_lines(licence: dict[str, Any]) -> Iterator[tuple[str, str]]:
    beyond, away = licence.get("seats_overdraft"), licence.get("seats_borrowed")
    until = licence.get("overdraft_until")  # None: held since before the licence had so few
    beyond_words = f"overdrawn until {when(until)}" if until else "more than the licence has, until their leases end"
    more = f", {beyond} of them {beyond_words}" if beyond else ""
    lent = f", {away} borrowed" if away else ""
    yield "seats", f"{licence['seats_used']} of {licence['seats_total']} GPUs{more}{lent}"
    for holder in licence.get("holders", ()):
        how = "borrowed until" if holder.get("borrowed") else "until"
        yield "", f"{holder['node']}: {len(holder['gpu_uuids'])}, {how} {when(holder['until'])}"
    for unit in licence.get("units") or ():
        yield from _unit_lines(unit)
    for each in licence.get("forked") or ():
        yield "", f"{doctor.forked(each)}; for an own one: stoker-license node adopt --new {each['node']}"
    for node in licence.get("resting") or ():
        yield "", f"{node}: gave its seats back; seats again: stoker-license node adopt {node}"


def _unit_lines(unit: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Machines and admins: how many, of how many, and what there is to say of it."""
    if not unit["used"] and unit.get("limit") is None:
        return
    of = f" of {unit['limit']}" if unit.get("limit") is not None else ""
    who = f": {', '.join(unit['names'])}" if unit["unit"] == "admin" and unit.get("names") else ""
    what = {"node": "with an agent", "admin": "in the last 30 days"}.get(unit["unit"], "")
    yield f"{unit['unit']}s", f"{unit['used']}{of} {what}{who}".rstrip()
    if unit.get("told"):
        yield "", f"! {unit['told']}"


def _machine_lines(hardware: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if hardware.get("told"):
        until = hardware.get("grace_until")
        yield "machine", hardware["told"] + (f"; new jobs start until {when(until)}" if until else "")
    for remark in hardware.get("remarks") or ():
        yield "", remark


def _plain(text: str) -> str:
    """What came from elsewhere must not act on the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
