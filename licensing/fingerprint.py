"""What tells one machine from another: five groups of marks, and when two readings are of the same machine.

    group        marks                                              matches when
    P platform   TPM endorsement key; SMBIOS UUID, board's and      the key is equal, or two of the three are
                 chassis' serial numbers
    N network    permanent MACs of physical NICs                    at least half of the enrolled are seen
    G gpus       UUIDs                                              at least half of the enrolled are seen
    D disk       WWID or serial of the disk under /                 equal
    M machine-id                                                    equal

It is the same machine when 60 % of the enrolled groups match, rounded up. Junk that many machines share counts as
absent. What is kept is HMAC-SHA-256 under a salt that never leaves the site; the vendor sees one commitment. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from licensing.document import short

LEAST = 3
"""With fewer groups than these a machine cannot be told from another."""
SALT_BYTES = 32
DRIFTS_MOST = 3
"""Drifts a year above which they are reported."""
_MOST = 128
"""Characters of a mark, and marks of a group: what is longer or more is no reading of a machine."""
_DOMAIN = b"stoker fingerprint 1\0"


class Group(StrEnum):
    """The five."""

    PLATFORM = "platform"
    NETWORK = "network"
    GPUS = "gpus"
    DISK = "disk"
    MACHINE_ID = "machine-id"


class Kind(StrEnum):
    """What a mark is; stands before its value."""

    TPM = "tpm"
    UUID = "uuid"
    BOARD = "board"
    CHASSIS = "chassis"
    MAC = "mac"
    GPU = "gpu"
    DISK = "disk"
    MACHINE_ID = "id"


_GROUP_OF = {
    Kind.TPM: Group.PLATFORM,
    Kind.UUID: Group.PLATFORM,
    Kind.BOARD: Group.PLATFORM,
    Kind.CHASSIS: Group.PLATFORM,
    Kind.MAC: Group.NETWORK,
    Kind.GPU: Group.GPUS,
    Kind.DISK: Group.DISK,
    Kind.MACHINE_ID: Group.MACHINE_ID,
}
_SERIALS = (Kind.UUID, Kind.BOARD, Kind.CHASSIS)

Mark = tuple[Kind, str]
"""A mark as it was read."""
Print = Mapping[Group, frozenset[str]]
"""The groups that are there; each mark is its kind, a colon, and an HMAC in hex."""


class Verdict(StrEnum):
    """Whether a reading is of the enrolled machine."""

    MATCH = "match"
    SHORT = "short"
    """Two groups match, which is too few."""
    OTHER = "other"
    """None or one."""
    UNMARKED = "unmarked"
    """Nothing was enrolled, and too little is seen to begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A reading held against what is enrolled."""

    verdict: Verdict
    matching: frozenset[Group]
    changed: frozenset[Group]
    """Groups in which something is seen that is not enrolled. What is only missing is no change: it may come back."""


class Mode(StrEnum):
    """What holds a licence to this site."""

    HARDWARE = "hardware"
    KEY = "key"
    """The site's key alone, which a copy of the disk has as well."""
    NONE = "none"
    """Nothing: a voucher, or no licence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """How the machine stands to what is enrolled, in names; no mark of it is in here."""

    mode: Mode
    verdict: Verdict = Verdict.MATCH
    seen: tuple[Group, ...] = ()
    enrolled: tuple[Group, ...] = ()
    matching: tuple[Group, ...] = ()
    since: int | None = None
    """When it was first noticed that it is not the enrolled machine."""
    grace_until: int | None = None
    """Until when new jobs start all the same; `None` where there is no grace."""
    is_salt_lost: bool = False
    """What is enrolled is under another salt than the site's."""
    drifts: int = 0
    """How often a part of it changed in the last 365 days."""
    platform_changes: int = 0
    """How often the platform was among it in the last 90 days."""

    @property
    def told(self) -> str:
        """The mode in a line."""
        if self.mode is Mode.NONE:
            return f"bound to none; {len(self.seen)} of {len(Group)} groups of marks are seen here"
        if self.mode is Mode.KEY:
            return "key only, which is weaker: the licence is for machines without marks"
        if self.verdict is Verdict.UNMARKED:
            return (
                f"not bound by hardware: {len(self.seen)} of {len(Group)} groups of marks are seen, {LEAST} are needed"
            )
        if not self.seen:
            return "bound by hardware, which was not looked at yet"
        matching = f"{len(self.matching)} of {len(self.enrolled)} groups match"
        return f"bound by hardware: {matching}" + (f", {self.needed} must" if self.verdict is not Verdict.MATCH else "")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is reported, and never refused."""
        found = []
        if self.mode is Mode.KEY:
            found.append(
                "the licence is held by the site's key alone, which a copy of its disk has too: that is weaker"
            )
        if self.drifts > DRIFTS_MOST:
            found.append(f"its hardware changed {self.drifts} times in 365 days, more often than {DRIFTS_MOST}")
        if self.platform_changes > 1:
            found.append(f"its platform changed {self.platform_changes} times in 90 days")
        return tuple(found)

    @property
    def needed(self) -> int:
        """How many of the enrolled groups must match."""
        return needed(len(self.enrolled))


def in_order(groups: Iterable[Group]) -> tuple[Group, ...]:
    """As the table above has them."""
    held = frozenset(groups)
    return tuple(group for group in Group if group in held)


def salted(marks: Iterable[Mark], salt: bytes) -> Print:
    """The groups of a reading, without junk, each mark under the salt."""
    found: dict[Group, set[str]] = {}
    for kind, value in marks:
        clean = cleaned(kind, value)
        if clean is not None:
            found.setdefault(_GROUP_OF[kind], set()).add(f"{kind}:{_digest(salt, kind, clean)}")
    return {group: frozenset(held) for group, held in found.items() if _is_usable(group, held)}


def compare(enrolled: Print, seen: Print) -> Match:
    """Hold a reading against what is enrolled."""
    matching = frozenset(
        group for group, marks in enrolled.items() if _RULES[group](marks, seen.get(group, frozenset()))
    )
    changed = frozenset(group for group, marks in seen.items() if not marks <= enrolled.get(group, frozenset()))
    if len(matching) >= needed(len(enrolled)):
        verdict = Verdict.MATCH
    else:
        verdict = Verdict.SHORT if len(matching) >= 2 else Verdict.OTHER
    return Match(verdict=verdict, matching=matching, changed=changed)


def needed(groups: int) -> int:
    """How many of so many enrolled groups must match: 60 %, rounded up, and never fewer than two."""
    return max(2, -(-groups * 3 // 5))


def renewed(enrolled: Print, seen: Print) -> Print:
    """What to enrol after a match: where something new is seen, what is seen; where not, what was enrolled.

    Of the platform each kind by itself: a board's serial number that could not be read this time stays.
    """
    kept = dict(enrolled)
    for group in compare(enrolled, seen).changed:
        news = seen[group]
        if group is Group.PLATFORM:
            kinds = {_kind(mark) for mark in news}
            news |= {mark for mark in enrolled.get(group, frozenset()) if _kind(mark) not in kinds}
        kept[group] = news
    return kept


def commitment(print_: Print) -> str:
    """One digest over all of it (`Short`): what a request names."""
    return short(hashlib.sha256(_DOMAIN + dump(print_).encode()).digest())


def salt_id(salt: bytes) -> str:
    """Names a salt without telling it."""
    return short(hmac.digest(salt, b"salt", "sha256"))


def dump(print_: Print) -> str:
    """As text, in one spelling."""
    return json.dumps({group.value: sorted(marks) for group, marks in print_.items()}, sort_keys=True)


def load(text: str) -> Print:
    """Read what `dump` wrote; groups of a newer build are left out.

    Raises:
        ValueError: it is no such text.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a fingerprint")
    known = {group.value for group in Group}
    return {Group(name): frozenset(map(str, marks)) for name, marks in found.items() if name in known}


# --- junk ---


def cleaned(kind: Kind, value: str) -> str | None:
    """A mark in its one spelling; `None` for what tells no machine from another."""
    text = " ".join(value.split()).lower()
    if not text or len(text) > _MOST or not text.isprintable():
        return None
    return _CLEANERS.get(kind, _serial)(text)


def _serial(text: str) -> str | None:
    bare = re.sub(r"[^a-z0-9]", "", text.removeprefix("eui.").removeprefix("naa.").removeprefix("nvme."))
    if len(bare) < 3 or len(set(bare)) == 1 or text in _JUNK or bare in _BARE_JUNK or _COUNTING.startswith(bare):
        return None
    return text


def _uuid(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) and _serial(text) else None


def _disk(text: str) -> str | None:
    """Emulators number their disks alike on every machine."""
    return None if re.search(r"\bqm\d{5}\b|qemu", text) else _serial(text)


def _mac(text: str) -> str | None:
    """Only what its maker gave it: not locally administered, not a group's address, not all alike."""
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text):
        return None
    return None if int(text[:2], 16) & 0b11 or len(set(text.replace(":", ""))) == 1 else text


def _gpu(text: str) -> str | None:
    return text if text.startswith("gpu-") and _uuid(text.removeprefix("gpu-")) else None


def _machine_id(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{32}", text) and len(set(text)) > 1 else None


_CLEANERS: Mapping[Kind, Callable[[str], str | None]] = {
    Kind.UUID: _uuid,
    Kind.MAC: _mac,
    Kind.GPU: _gpu,
    Kind.DISK: _disk,
    Kind.MACHINE_ID: _machine_id,
}
_COUNTING = "01234567890123456789"
_JUNK = frozenset(
    {
        "to be filled by o.e.m.",
        "to be filled by o.e.m",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "03020100-0504-0706-0809-0a0b0c0d0e0f",
        "4c4c4544-0000-2010-8020-80c04f202020",
        "11111111-2222-3333-4444-555555555555",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
    }
)
"""What boards are sold with whose maker filled in nothing."""
_BARE_JUNK = frozenset(
    {
        "123456789",
        "1234567890",
        "12345678",
        "123456",
        "asset1234567890",
        "assettag",
        "baseboardserialnumber",
        "chassisserialnumber",
        "default",
        "defaultstring",
        "empty",
        "invalid",
        "nil",
        "none",
        "notapplicable",
        "notavailable",
        "notspecified",
        "notset",
        "null",
        "oem",
        "serial",
        "serialnumber",
        "systemserialnumber",
        "tobefilledbyoem",
        "undefined",
        "uninitialized",
        "unknown",
    }
)


# --- when a group matches ---


def _is_usable(group: Group, marks: set[str]) -> bool:
    """Whether it could ever match: the platform needs its key, or two of the serial numbers."""
    if len(marks) > _MOST:
        return False
    return group is not Group.PLATFORM or _platform(frozenset(marks), frozenset(marks))


def _platform(enrolled: frozenset[str], seen: frozenset[str]) -> bool:
    equal = [_kind(mark) for mark in enrolled & seen]
    return Kind.TPM in equal or sum(kind in _SERIALS for kind in equal) >= 2


def _half(enrolled: frozenset[str], seen: frozenset[str]) -> bool:
    return 2 * len(enrolled & seen) >= len(enrolled)


def _equal(enrolled: frozenset[str], seen: frozenset[str]) -> bool:
    return enrolled == seen


_RULES: Mapping[Group, Callable[[frozenset[str], frozenset[str]], bool]] = {
    Group.PLATFORM: _platform,
    Group.NETWORK: _half,
    Group.GPUS: _half,
    Group.DISK: _equal,
    Group.MACHINE_ID: _equal,
}


def _kind(mark: str) -> str:
    return mark.partition(":")[0]


def _digest(salt: bytes, kind: Kind, value: str) -> str:
    return hmac.digest(salt, f"{kind}\0{value}".encode(), "sha256").hex()
