"""`stoker-license doctor`: everything a licence depends on, looked at, with what to do. `--json` gives the same.

The hub is asked, and the disk that its ledger is on looked at from here, because a hub whose disk is full may answer as
ever, or not at all. The worst that is found is the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from licensing.clock import JUMP_S, SKEW_S
from licensing.errors import LicenceError
from licensing.moments import when
from licensing.plans import DAY_S
from licensing.words import FIX, FIX_HARDWARE

_OLD_REQUEST_S = 14 * DAY_S
_OK, _WARN, _BAD = "ok", "warn", "bad"
_EXIT = {_OK: 0, _WARN: 3, _BAD: 4}
_MIB = 1 << 20
_FULL_BYTES, _SCARCE_BYTES = 4 * _MIB, 64 * _MIB
"""What the ledger needs for its next write with its journal; and when there is still time to make room."""

Look = tuple[str, str, str]
"""ok, warn or bad; of what; in words."""


class Hub(Protocol):
    """The hub, as far as this needs it. Each raises `LicenceError`."""

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        """The licence as it stands."""

    def state_dir(self, config: Path | None = None) -> Path:
        """Where the hub keeps its ledger on this machine."""


def add_verb(verbs: Any) -> argparse.ArgumentParser:
    """Hang it under `stoker-license`; gives its parser."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "doctor", help="look at everything a licence depends on, and say what to do"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON object")
    return parser


def run(args: argparse.Namespace, hub: Hub) -> int:
    """Look, and print what was found; gives the exit code."""
    looks, failed = [*_of_hub(hub, args.config)], 0
    try:
        licence = hub.licence(args.config)
    except LicenceError as error:
        looks[:0], failed = [(_BAD, "hub", error.message)], error.exit_code
    else:
        looks[:0] = [(_OK, "hub", "answers")]
        looks += of_licence(licence, int(time.time()))
    code = failed or max(_EXIT[grade] for grade, _, _ in looks)
    if args.json:
        found = [{"grade": grade, "subject": subject, "words": words} for grade, subject, words in looks]
        print(json.dumps({"exit_code": code, "found": found}, indent=2))
        return code
    for grade, subject, words in looks:
        print(f"{grade:<5}{subject:<10}{_plain(words)}")
    return code


def _of_hub(hub: Hub, config: Path | None) -> Iterator[Look]:
    try:
        folder = hub.state_dir(config)
    except LicenceError:
        return  # asking it for the licence says the same
    yield disk(folder)


def disk(folder: Path) -> Look:
    """Whether the disk of the hub's state folder takes writes."""
    try:
        found = os.statvfs(_nearest(folder))
    except OSError as error:
        return _WARN, "disk", f"{folder} cannot be looked at: {error.strerror}; run this as root"
    free = found.f_bavail * found.f_frsize
    room = f"make room, or nothing that changes a licence or its seats is taken: df -h {folder}"
    if found.f_flag & os.ST_RDONLY:
        return _BAD, "disk", f"{folder} is on a read-only disk; see why, then: mount -o remount,rw, restart the hub"
    if free < _FULL_BYTES:
        return _BAD, "disk", f"{folder} is on a full disk ({free // 1024} KiB are free); {room}"
    if found.f_files and not found.f_favail:
        return _BAD, "disk", f"{folder} is on a disk without a free inode; {room.replace('df -h', 'df -i')}"
    if free < _SCARCE_BYTES:
        return _WARN, "disk", f"{folder} has {free // _MIB} MiB left; {room}"
    return _OK, "disk", f"{folder} has {_size(free)} left"


def _nearest(folder: Path) -> Path:
    """The folder, or what there is of the way to it: it is private, and not there before the hub's first start."""
    for each in (folder, *folder.parents):
        try:
            if each.exists():
                return each
        except PermissionError:
            continue
    return Path("/")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count // _MIB} MiB"


def of_licence(licence: Mapping[str, Any], now: int) -> Iterator[Look]:
    """What the hub tells of it."""
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
    yield from _units(licence)
    yield from _requests(licence, now)
    if licence.get("development_roots"):
        yield _WARN, "roots", "DEVELOPMENT: anybody can sign licences for this build; install a build of your vendor"


def _binding(licence: Mapping[str, Any]) -> Iterator[Look]:
    if licence.get("licence_id") is None:
        return
    if licence.get("bound"):
        yield _OK, "binding", f"{licence['licence_id']} rev {licence.get('rev')} is bound to this site"
    elif not licence.get("evaluation"):
        yield _WARN, "binding", f"{licence['licence_id']} is a voucher; bind it: stoker-license export-request"


def _machine(licence: Mapping[str, Any]) -> Iterator[Look]:
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


def _clock(licence: Mapping[str, Any], now: int) -> Look:
    at = licence.get("at") or now
    confirmed = licence.get("confirmed_at") or now
    if at - confirmed > SKEW_S and licence.get("licence_id") is not None:
        words = f"says {when(now)}, and uptime explains no more than {when(confirmed)}; believed after 24 h of uptime"
        return _WARN, "clock", f"{words}. If it is right: stoker-license clock confirm --yes"
    if abs(at - now) <= SKEW_S:
        return _OK, "clock", "agrees with what was signed and seen"
    words = f"says {when(now)}, and licences go by {when(at)}; set it: timedatectl set-ntp true"
    if at < now:
        return _WARN, "clock", f"{words}. If it is right: stoker-license clock confirm --yes"
    if at - now <= JUMP_S:
        return _WARN, "clock", f"{words}. If it is right, it was ahead before, and there is nothing to do"
    more = "the answer to a request made now sets time back: stoker-license export-request"
    return _WARN, "clock", f"{words}. If it is right, {more}"


def _chains(licence: Mapping[str, Any]) -> Iterator[Look]:
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


def _seats(licence: Mapping[str, Any]) -> Iterator[Look]:
    if licence.get("licence_id") is None:
        return
    used, total = licence["seats_used"], licence["seats_total"]
    if licence.get("seats_overdraft"):
        until = licence.get("overdraft_until")
        why = f"the overdraft is until {when(until)}" if until else "what is beyond them ends with its lease"
        yield _WARN, "seats", f"{used} of {total} GPUs are held; {why}. For more: {FIX}"
        return
    full = f"; no seat is left for more GPUs. For more: {FIX}" if used >= total else ""
    yield _WARN if full else _OK, "seats", f"{used} of {total} GPUs are held{full}"
    for node in licence.get("resting") or ():
        yield _WARN, "seats", f"{node} gave its seats back; seats again: stoker-license node adopt {node}"


def _units(licence: Mapping[str, Any]) -> Iterator[Look]:
    for each in licence.get("units") or ():
        if each.get("told"):
            yield _WARN, f"{each['unit']}s", each["told"]


def _requests(licence: Mapping[str, Any], now: int) -> Iterator[Look]:
    for each in licence.get("pending") or ():
        if each.get("superseded"):
            continue
        old = now - each["made_at"] > _OLD_REQUEST_S
        words = f"{each['id']} to {each['want']} waits since {when(each['made_at'])}, until {when(each['until'])}"
        yield _WARN if old else _OK, "request", words + ("; ask your vendor for it" if old else "")


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
