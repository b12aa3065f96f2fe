"""The signed documents, and the one way from a token to a document: verify, then parse, then check.

Rules kept here: the document's kind is the token's implicit assertion; the footer is exactly `{"kid": KEY}` with the
signer's public key; content is read by `strictjson`; unknown fields are allowed and stay under the signature, because
a document is kept and passed on as the token it came in and is never encoded again. Times are whole Unix seconds.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from licensing import keys, paseto, strictjson
from licensing.ed25519 import PrivateKey, PublicKey
from licensing.errors import ContentError, TokenError
from licensing.plans import NEVER

MAX_LEASE_S = 7 * 86400
"""No licence allows a longer lease."""
PRODUCT = "stoker"
"""The product whose licences this program takes."""

_encoder = msgspec.json.Encoder()
_PLAIN = bytes(code for code in range(0x20, 0x7F) if code != ord("\\"))
"""What an encoder leaves as it is: printable ASCII without the one that begins an escape."""
_FOOTER = re.compile(rb'\{"kid":"(?:([0-9a-f]{64})|([A-Za-z0-9_-]{43}))"\}')

Time = Annotated[int, Meta(ge=0, le=NEVER)]
"""Unix seconds that a calendar can show: to the end of the year 9999."""
Duration = Annotated[int, Meta(ge=1, le=2**33)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Number = Annotated[int, Meta(ge=0, le=strictjson.MAX_INTEGER)]
Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
GpuUuid = Annotated[str, Meta(min_length=1, max_length=96)]
Short = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22}$")]
"""The first 128 bits of a digest in base64url: in what has to fit into a QR code."""
Revision = Annotated[int, Meta(ge=1, le=1_000_000)]
Generation = Annotated[int, Meta(ge=0, le=1_000_000)]
"""How often a licence moved from one site to another."""
Names = Annotated[tuple[Name, ...], Meta(max_length=64)]


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the documents."""

    kind: ClassVar[str]
    """The implicit assertion under which it is signed."""
    compact: ClassVar[bool] = False
    """Whether the footer names the key in base64url, 21 characters shorter than in hex."""

    v: Literal[1] = msgspec.field(default=1)
    id: Id
    iat: Time
    """When it was signed."""


class Issuer(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by a root key, or by an issuer that may delegate: who may sign licences, for what, and how many."""

    kind = "issuer"

    nbf: Time
    exp: Time
    """No licence of this issuer reaches beyond it; at most 25 months after `nbf` (`verify`)."""
    key: Key
    name: Name
    products: Annotated[tuple[Name, ...], Meta(max_length=32)]
    max_seats: Count
    max_term_s: Duration
    features: Names = ()
    delegate: Annotated[int, Meta(ge=0, le=1)] = 0
    """How many further issuers may stand below this one: 1 lets it make resellers, who make none."""
    perpetual: bool = False
    """Whether its licences may run for ever; what no `max_term_s` could bound."""


class Licence(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by an issuer: the terms. Without `site` it is a voucher, good for anybody's first 14 days.

    What each plan means is said in `plans`.
    """

    kind = "licence"

    rev: Revision = 1
    """Goes up when the same licence is changed; a lower one is refused where a higher one was seen."""
    nbf: Time
    exp: Time
    customer: Name
    plan: Name
    product: Name = PRODUCT
    seats: Count
    """Physical GPUs that may be schedulable at the same time."""
    edition: Name | None = None
    features: Names = ()
    """What it opens, in full: the edition is only the name under which it was sold."""
    site: Key | None = None
    """The public key of the site it is bound to."""
    fingerprint: Short | None = None
    """The commitment to the site's hardware that its request named; `None` binds to the key alone."""
    generation: Generation = 0
    request: Id | None = None
    """The request that it answers; it is then installed where that request is pending, and once."""
    vm: bool = False
    """Whether a site without hardware marks of its own may use it."""
    updates_until: Time | None = None
    """For a perpetual licence: builds up to this date run for ever."""
    gpu_hours: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    """For a prepaid licence: how many are paid."""
    report_by: Time | None = None
    """For a pay-per-use licence: until when the first usage report must be acknowledged; receipts move it."""
    reseller: Id | None = None
    brand: Name | None = None
    """The name beside the customer's under which a reseller sells it."""
    term_s: Duration | None = None
    """Counted from activation, where that ends before `exp`."""
    lease_s: Annotated[int, Meta(ge=3600, le=MAX_LEASE_S)] = 86400
    max_nodes: Count | None = None
    """How many machines with an agent it is for; counted and told, never refused. `None`: any number."""
    max_admins: Count | None = None
    """How many persons may use admin verbs in 30 days; the same."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's word that new jobs are to wait, for a reason that a node cannot see by itself."""

    code: Annotated[str, Meta(pattern=r"^LIC-4[0-9]{2}$")]
    since: Time
    why: Annotated[str, Meta(max_length=400)]


class Lease(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by the hub's site key: the GPUs of one node that hold a seat, for a day."""

    kind = "lease"

    exp: Time
    cluster: Name
    node: Name
    key: Key
    """The node's own public key; no other node may use this lease."""
    site: Key
    licence: Id
    rev: Revision
    activated_at: Time
    """When this site activated the licence; what `term_s` and a voucher's days count from."""
    gpus: Annotated[tuple[GpuUuid, ...], Meta(max_length=256)]
    epoch: Number
    seq: Annotated[int, Meta(ge=1, le=strictjson.MAX_INTEGER)]
    prev: Digest
    """SHA-256 of the content of the lease before this one; empty for a node's first."""
    report_by: Time | None = None
    """What a receipt moved the licence's own `report_by` to."""
    resets: Number = 0
    """How often the hub's time was set right by hand or by the vendor; nodes take its time when it goes up."""
    extended_until: Time | None = None
    """The site's own word that it took the emergency hours of this term, and until when."""
    borrowed: bool = False
    """Made out for as long as 30 days, for a node that is away from its hub."""
    held: Held | None = None
    """Set: no new job starts under it (`restricted`); the next lease without it lifts that."""


class Attestation(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Signed by a node's own key: the digest of each field of a report that it wrote (`attest`)."""

    kind = "attestation"

    subject: Name
    """What the report is about; another subject's does not pass for it."""
    key: Key
    fields: Annotated[dict[Name, Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]], Meta(max_length=64)]


D = TypeVar("D", bound=Document)

_READERS: dict[type[Document], Any] = {}


def learn(*kinds: type[Document]) -> None:
    """Make the readers of these kinds; at import, because msgspec is not to learn a kind from two threads at once."""
    for kind in kinds:
        _READERS[kind] = msgspec.json.Decoder(kind)  # noqa: TID251


learn(Issuer, Licence, Lease, Attestation)


def sign(key: PrivateKey, document: Document) -> str:
    """Make the token of a document."""
    return sign_content(key, type(document), encode(document))


def sign_content(key: PrivateKey, kind: type[Document], content: bytes, named: bytes | None = None) -> str:
    """Make the token of content that was encoded before, as a grant is: stored first, signed afterwards.

    `named` is the footer of that key and kind, from who signs so many that working it out each time is felt.
    """
    return paseto.sign(key, content, footer=named or footer(key, kind), implicit=kind.kind.encode())


def footer(key: PrivateKey, kind: type[Document]) -> bytes:
    """What names the key of a token."""
    named = _b64(key.public.raw) if kind.compact else keys.public_hex(key)
    return f'{{"kid":"{named}"}}'.encode()


def encode(document: Document) -> bytes:
    """The content that is signed: JSON in the order of the fields, the version always said.

    `omit_defaults` leaves the version out, which is its only value; so it is put in front.
    """
    return b'{"v":%d,' % document.v + _encoder.encode(document)[1:]


def signer(token: str | paseto.Parts) -> str:
    """The public key that the footer names, in hex. Not verified: it only chooses among keys that are trusted already.

    Raises:
        TokenError: the footer is not exactly `{"kid":"…"}`, the key in hex or in base64url.
    """
    parts = token if isinstance(token, paseto.Parts) else paseto.split(token)
    found = _FOOTER.fullmatch(parts.footer)
    if found is None:
        raise TokenError("the token's footer does not name the key that signed it")
    if found[1]:
        return found[1].decode()
    key = base64.urlsafe_b64decode(found[2] + b"=")
    if _b64(key) != found[2].decode():
        raise TokenError("the token's footer names its key in another spelling than the canonical one")
    return key.hex()


def short(digest: bytes) -> str:
    """The first 128 bits of a digest, as a request carries them (`Short`)."""
    return _b64(digest[:16])


def open_token(kind: type[D], token: str | paseto.Parts, key: PublicKey) -> D:
    """Verify a token, then read its document.

    Raises:
        FormatError, SignatureError: see `errors`.
    """
    content = paseto.verify(key, token, implicit=kind.kind.encode())
    return decode(kind, content)


def decode(kind: type[D], content: bytes) -> D:
    """Read content whose signature held.

    Raises:
        ContentError: with the path of the field.
    """
    document = _as_we_write(kind, content)
    return document if document is not None else _as_others_write(kind, content)


def _as_we_write(kind: type[D], content: bytes) -> D | None:
    """Content in the very bytes of `encode`, `None` for all else: four times as fast as the strict reader.

    As strict too: what says a field twice, has a float or a field that is not known is encoded as other bytes. Escapes
    and what is not printable are left to the strict reader, whose rules for texts no encoder knows.
    """
    if content.translate(None, _PLAIN):
        return None
    try:
        document: D = _READERS[kind].decode(content)
    except (KeyError, RecursionError, msgspec.DecodeError):
        return None
    return document if encode(document) == content else None


def _as_others_write(kind: type[D], content: bytes) -> D:
    fields = strictjson.loads(content)
    if fields.get("v") != 1:
        raise ContentError(
            f"the {kind.kind} is of version {fields.get('v', 'none')}, this program reads version 1; upgrade Stoker"
        )
    try:
        return msgspec.convert(fields, kind, strict=True)  # noqa: TID251
    except msgspec.ValidationError as error:
        raise ContentError(f"the {kind.kind} cannot be used: {error}") from error


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
