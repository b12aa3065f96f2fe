"""The documents that travel between site and vendor after the sale: request, release, usage, receipt, crl.

The rules are those of `document`. A request is made for a QR code: short names in its content, 128 bits of each digest,
its key in base64url. What a usage report is too long to hold (each node's chain, the rows) is named by its digest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from licensing.document import (
    Count,
    Digest,
    Document,
    Generation,
    GpuUuid,
    Id,
    Key,
    Name,
    Number,
    Revision,
    Short,
    Time,
    learn,
)

MAX_REQUEST_CHARS = 440
"""So that its QR code, version 14 at most, fits an 80-column terminal."""


class Want(StrEnum):
    """What a request asks for."""

    ACTIVATE = "activate"
    RENEW = "renew"
    TRANSFER = "transfer"
    USAGE = "usage"


class Request(
    Document,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"licence": "lic", "generation": "gen", "counter": "n", "fingerprint": "fp"},
):
    """Signed by a site: what it asks of its vendor. `id` is drawn at random and is the nonce."""

    kind = "request"
    compact = True

    want: Want
    licence: Id | None = None
    generation: Generation = 0
    counter: Number = 0
    """Rows of the site's audit trail. A lower one than the vendor saw before is a site that was restored."""
    head: Short | None = None
    """Digest of the last of those rows."""
    fingerprint: Short | None = None
    crl: Number = 0
    """The highest number of a revocation list that the site knows."""


class Release(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by a site: it gave the licence back. Signed by a node: it gave its seats back before its lease ends."""

    kind = "release"

    licence: Id
    rev: Revision
    generation: Generation = 0
    site: Key
    node: Name | None = None
    """Set in a node's."""
    key: Key | None = None
    """The node's own key, in a node's."""
    lease: Id | None = None
    """The lease that ends with it, in a node's."""
    gpus: Annotated[tuple[GpuUuid, ...], Meta(max_length=256)] = ()
    counter: Number = 0
    head: Digest = ""
    """Where the chain ends: the site's audit trail, or the node's leases."""


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """What was allocated on one day of one kind of GPU."""

    day: Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    """In UTC."""
    sku: Name
    gpu_ms: Number
    """Milliseconds of whole GPUs, that is thousandths of GPU-seconds."""


class SeatPeak(msgspec.Struct, frozen=True, kw_only=True):
    """The most seats that were held at once, and when."""

    seats: Count
    at: Time


class UnitPeak(msgspec.Struct, frozen=True, kw_only=True):
    """The most nodes with an agent, or persons who used admin verbs, and when. How many, and never who."""

    unit: Name
    count: Count
    at: Time


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the vendor is told, and that changes no total."""

    at: Time
    event: Name
    """drift, overdraft, emergency, epoch, restored, late …"""
    subject: Name
    detail: Annotated[str, Meta(max_length=400)] = ""


class Usage(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by a site: what was used in a period, chained to the report before it."""

    kind = "usage"

    licence: Id
    rev: Revision
    generation: Generation = 0
    site: Key
    number: Annotated[int, Meta(ge=1, le=1_000_000)]
    prev: Digest
    """SHA-256 of the content of the report before this one; empty in the first."""
    begins: Time
    ends: Time
    """The first second after the period."""
    totals: Annotated[tuple[UsageTotal, ...], Meta(max_length=620)] = ()
    gpu_ms: Number
    """The sum of all totals."""
    cumulative_gpu_ms: Number
    """The sum over all reports up to this one."""
    peak: SeatPeak | None = None
    events: Annotated[tuple[UsageEvent, ...], Meta(max_length=64)] = ()
    open_nodes: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Nodes of which the period's end was not yet heard; what comes late counts in the next period."""
    head: Digest
    """Where the hub's chain of rows stands."""
    nodes: Digest = ""
    """SHA-256 of the part that names each node's first and last row with their heads."""
    rows: Digest = ""
    """SHA-256 of the part with all rows, where it was exported."""
    units: Annotated[tuple[UnitPeak, ...], Meta(max_length=8)] = ()
    """The other units that are counted: node and admin."""


class Receipt(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by an issuer: a usage report was accepted, and the next is due later."""

    kind = "receipt"

    licence: Id
    site: Key
    usage: Id
    number: Annotated[int, Meta(ge=1, le=1_000_000)]
    """Of the report that was accepted."""
    digest: Digest
    """SHA-256 of its content."""
    report_by: Time
    first: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """From this number on its desk has each report up to that one, by the digest in the next; `None`: only that."""


class RevokedLicence(msgspec.Struct, frozen=True, kw_only=True):
    """A licence that is over before its time, in all its revisions."""

    id: Id
    at: Time
    reason: Annotated[str, Meta(max_length=200)] = ""


class RevokedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that somebody else may hold: what it signed is void but for what is named here.

    Its owner cannot be told from the thief by dates, because the thief can back-date.
    """

    key: Key
    at: Time
    allow: Annotated[tuple[Id, ...], Meta(max_length=4096)] = ()
    """The licences that it truly issued."""
    reason: Annotated[str, Meta(max_length=200)] = ""


class Crl(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by a root, or by an issuer for what stands below it: the whole list, numbered."""

    kind = "crl"

    number: Annotated[int, Meta(ge=1, le=2**40)]
    licences: Annotated[tuple[RevokedLicence, ...], Meta(max_length=4096)] = ()
    keys: Annotated[tuple[RevokedKey, ...], Meta(max_length=64)] = ()


class Drift(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by a site, for its own trail: the hardware that a licence is bound to has changed in part."""

    kind = "drift"

    licence: Id
    bound: Name
    """What the licence names: its commitment; or its id, where it names no hardware and the site enrolled its own."""
    after: Short
    """The commitment to what is enrolled from now on."""
    changed: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    """Names of the groups; what is in them stays at the site."""


learn(Request, Release, Usage, Receipt, Crl, Drift)
