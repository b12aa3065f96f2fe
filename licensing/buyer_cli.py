"""What a buyer sends to the vendor, and what `doctor` looks at: verbs beside `status` and `activate`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from licensing.clock import SKEW_S
from licensing.errors import KeyFileError, UsageError
from licensing.plans import DAY_S
from licensing.words import FIX, FIX_HARDWARE, when

WANTS = ("activate", "renew", "transfer", "usage")
VERBS = ("export-request", "release", "transfer", "doctor")
_OLD_REQUEST_S = 14 * DAY_S
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
    doctor = verbs.add_parser("doctor", help="look at everything a licence depends on, and say what to do")
    return [ask, release, transfer, doctor]


def run(args: argparse.Namespace, hub: Hub, read_text: Callable[[str], str]) -> int:
    """Do what the parsed arguments say; gives the exit code.

    Raises:
        LicenceError: refused; nothing was changed.
    """
    if args.verb == "export-request":
        return _export_request(args, hub)
    if args.verb == "doctor":
        return _doctor(hub.licence(args.config), int(time.time()))
    to = read_text(args.request) if args.verb == "transfer" else None
    return _give_back(args, hub, to)


def _export_request(args: argparse.Namespace, hub: Hub) -> int:
    want = args.want or ("renew" if hub.licence(args.config).get("bound") else "activate")
    if args.out is not None:
        _refuse_existing(args.out)
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
        _refuse_existing(args.out)
    given = hub.release(to, args.config)
    if args.out is not None:
        _write(args.out, given["document"])
    else:
        sys.stdout.write(given["document"])
    more = "with the other site's request in it" if to is not None else "with the request of the site that it goes to"
    print(f"licence {given['id']} is given back. Send this to your vendor, {more}", file=sys.stderr)
    return 0


def _refuse_existing(out: str) -> None:
    """Before the hub is asked: what it answers is not to be lost."""
    if Path(out).exists():
        raise KeyFileError(f"{out} exists and is not overwritten; name another file")


def _write(out: str, text: str) -> None:
    """A disk that is full is no reason to lose what the hub answered: it is then printed."""
    from licensing import files

    try:
        files.create_new(Path(out), text.encode(), mode=0o644)
        print(out)
    except OSError as error:
        sys.stdout.write(text)
        raise KeyFileError(f"cannot write {out}: {error.strerror}; it is printed instead, copy it") from error


# --- doctor ---

_OK, _WARN, _BAD = "ok", "warn", "bad"
_EXIT = {_OK: 0, _WARN: 3, _BAD: 4}


def _doctor(licence: Mapping[str, Any], now: int) -> int:
    worst = 0
    for grade, subject, words in _looks(licence, now):
        print(f"{grade:<5}{subject:<10}{_plain(words)}")
        worst = max(worst, _EXIT[grade])
    return worst


def _looks(licence: Mapping[str, Any], now: int) -> Iterator[tuple[str, str, str]]:
    yield _OK, "hub", "answers"
    held = licence["stage"] in ("RESTRICTED", "PERPETUAL")
    grade = _BAD if held else _OK if licence["stage"] == "ACTIVE" else _WARN
    fix = f" Run: {licence['fix']}" if licence.get("fix") else ""
    code = f" {licence['code']}" if licence.get("code") else ""
    yield grade, "licence", f"{licence['stage']}{code}: {licence['message']}{fix}"
    yield from _binding(licence)
    yield from _machine(licence)
    yield _clock(licence, now)
    yield from _chains(licence)
    yield from _seats(licence)
    yield from _requests(licence, now)
    if licence.get("development_roots"):
        yield _WARN, "roots", "DEVELOPMENT: anybody can sign licences for this build; install a build of your vendor"


def _binding(licence: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if licence.get("licence_id") is None:
        return
    if licence.get("bound"):
        yield _OK, "binding", f"{licence['licence_id']} rev {licence.get('rev')} is bound to this site"
    elif not licence.get("evaluation"):
        yield _WARN, "binding", f"{licence['licence_id']} is a voucher; bind it: stoker-license export-request"


def _machine(licence: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Names of groups only; what is in them stays with the hub."""
    hardware = licence.get("hardware")
    if hardware is None:
        return
    parts = [f"{what} {', '.join(hardware[what]) or 'none'}" for what in ("seen", "enrolled", "matching")]
    bad, sure = hardware["verdict"] == "other" and not hardware.get("grace_until"), hardware["verdict"] == "match"
    words = hardware["told"] + "".join(f"; {each}" for each in parts if hardware["mode"] == "hardware")
    if hardware["mode"] != "hardware":
        words += f"; {parts[0]}"
    yield _BAD if bad else _OK if sure else _WARN, "machine", words + ("" if sure else f". Run: {FIX_HARDWARE}")
    missing = [each for each in hardware["enrolled"] if each not in hardware["seen"]]
    if missing:
        why = "; the platform is read by root when the hub starts: systemctl restart stoker-hub"
        yield _WARN, "machine", f"not seen: {', '.join(missing)}" + (why if "platform" in missing else "")
    for remark in hardware.get("remarks") or ():
        yield _WARN, "machine", remark


def _clock(licence: Mapping[str, Any], now: int) -> tuple[str, str, str]:
    at = licence.get("at") or now
    confirmed = licence.get("confirmed_at") or now
    if at - confirmed > SKEW_S and licence.get("licence_id") is not None:
        words = f"says {when(now)}, and uptime explains no more than {when(confirmed)}; believed after 24 h of uptime"
        return _WARN, "clock", f"{words}. If it is right: stoker-license clock confirm --yes"
    if abs(at - now) <= SKEW_S:
        return _OK, "clock", "agrees with what was signed and seen"
    words = f"says {when(now)}, and licences go by {when(at)}; set it: timedatectl set-ntp true"
    more = ". If it is right, the answer to a request made now sets time back: stoker-license export-request"
    return _WARN, "clock", words + (more if at > now else ". If it is right: stoker-license clock confirm --yes")


def _chains(licence: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    heard, own = licence.get("epoch_heard") or 0, licence.get("epoch") or 1
    if heard > own:
        words = f"a node has a lease of epoch {heard}, this one speaks with {own}: another hub took over, none is given"
        yield _BAD, "hub", f"{words}. Stop it; if it is the one to lead: stoker-license standby promote"
    for each in licence.get("forked") or ():
        yield _WARN, "node", f"{forked(each)}: stoker-license node adopt --new {each['node']}"


def forked(each: Mapping[str, Any]) -> str:
    """A node with the identity of another machine, in words."""
    of = "another machine" if each["of"] == each["node"] else each["of"]
    return f"{each['node']} shows lease {each['seq']} and the identity of {of} since {when(each['since'])}"


def _seats(licence: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if licence.get("licence_id") is None:
        return
    used, total = licence["seats_used"], licence["seats_total"]
    if licence.get("seats_overdraft"):
        until = when(licence["overdraft_until"])
        yield _WARN, "seats", f"{used} of {total} GPUs are held; the overdraft is until {until}. For more: {FIX}"
        return
    full = f"; no seat is left for more GPUs. For more: {FIX}" if used >= total else ""
    yield _WARN if full else _OK, "seats", f"{used} of {total} GPUs are held{full}"
    for node in licence.get("resting") or ():
        yield _WARN, "seats", f"{node} gave its seats back; seats again: stoker-license node adopt {node}"


def _requests(licence: Mapping[str, Any], now: int) -> Iterator[tuple[str, str, str]]:
    for each in licence.get("pending") or ():
        old = now - each["made_at"] > _OLD_REQUEST_S
        words = f"{each['id']} to {each['want']} waits since {when(each['made_at'])}, until {when(each['until'])}"
        yield _WARN if old else _OK, "request", words + ("; ask your vendor for it" if old else "")


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
