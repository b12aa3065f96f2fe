"""What travels between site and vendor beside licences and leases, good and bad, from the fixed seeds of `vendor`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from licensing import armour, keys, paseto
from licensing.armour import LINK, Label
from licensing.document import Document, Issuer, encode, short, sign, sign_content
from licensing.exchange import (
    Crl,
    Receipt,
    Release,
    Request,
    RevokedKey,
    RevokedLicence,
    SeatPeak,
    Usage,
    UsageTotal,
    Want,
)
from tests.fakes.vendor import (
    AFTER_9999,
    BOUND,
    DAY,
    ISSUER,
    ISSUER_TERMS,
    LEASE,
    NODE,
    NOW,
    ROOT,
    SITE,
    VOUCHER,
    changed,
    deeper,
    seeded,
)

RESELLER = seeded("reseller")
SITE_KEY, NODE_KEY = keys.public_hex(SITE), keys.public_hex(NODE)
LONGEST_S = 65_880_000
"""25 twelfths of a leap year, 762.5 days: the longest that `vendor keys issuer` ever made a certificate for."""
WEAK = "01" + "00" * 31
"""A key of small order: OpenSSL calls the signature (this point, S = 0) good for every content."""

DELEGATING = changed(ISSUER_TERMS, delegate=1, perpetual=True)
RESELLER_TERMS: Issuer = changed(
    ISSUER_TERMS,
    id="iss-reseller",
    name="Test reseller",
    key=keys.public_hex(RESELLER),
    nbf=NOW - 10 * DAY,
    exp=NOW + 500 * DAY,
    max_seats=16,
    max_term_s=380 * DAY,
)
REQUEST = Request(
    id="0123456789abcdef01234567",
    iat=NOW,
    want=Want.ACTIVATE,
    licence="lic-test",
    counter=17,
    head=short(hashlib.sha256(b"row").digest()),
    fingerprint=short(hashlib.sha256(b"hardware").digest()),
    crl=3,
)
RELEASE = Release(
    id="rel-test", iat=NOW, licence="lic-test", rev=1, site=SITE_KEY, counter=18, head=hashlib.sha256(b"x").hexdigest()
)
NODE_RELEASE = changed(RELEASE, id="rel-node", node="n1", key=NODE_KEY, lease=LEASE.id, gpus=LEASE.gpus)
USAGE = Usage(
    id="use-1",
    iat=NOW + 31 * DAY,
    licence="lic-test",
    rev=1,
    site=SITE_KEY,
    number=1,
    prev="",
    begins=NOW,
    ends=NOW + 30 * DAY,
    totals=(
        UsageTotal(day="2027-01-15", sku="H100", gpu_ms=3_600_000),
        UsageTotal(day="2027-01-16", sku="H100", gpu_ms=1_800_000),
    ),
    gpu_ms=5_400_000,
    cumulative_gpu_ms=5_400_000,
    peak=SeatPeak(seats=3, at=NOW + DAY),
    head=hashlib.sha256(b"rows").hexdigest(),
)
RECEIPT = Receipt(
    id="rec-1",
    iat=NOW,
    licence="lic-test",
    site=SITE_KEY,
    usage="use-1",
    number=1,
    digest=hashlib.sha256(encode(USAGE)).hexdigest(),
    report_by=NOW + 95 * DAY,
)
CRL = Crl(
    id="crl-7",
    iat=NOW,
    number=7,
    licences=(RevokedLicence(id="lic-test", at=NOW, reason="unpaid"),),
    keys=(RevokedKey(key=keys.public_hex(ISSUER), at=NOW, allow=("lic-true",), reason="stolen"),),
)


# --- chains and files ---


def reseller_chain(last: Document, terms: Issuer = RESELLER_TERMS, above: Issuer = DELEGATING) -> str:
    """A document of the reseller, behind both certificates."""
    return LINK.join((sign(ROOT, above), sign(ISSUER, terms), sign(RESELLER, last)))


def reseller_file(licence: Document = VOUCHER, terms: Issuer = RESELLER_TERMS, above: Issuer = DELEGATING) -> str:
    """A licence file of the reseller."""
    return armour.wrap(Label.LICENCE, reseller_chain(licence, terms, above))


def cert(terms: Issuer = ISSUER_TERMS) -> str:
    """The vendor's own certificate file."""
    return armour.wrap(Label.ISSUER, sign(ROOT, terms))


def reseller_cert(terms: Issuer = RESELLER_TERMS, above: Issuer = DELEGATING) -> str:
    """A reseller's certificate file."""
    return armour.wrap(Label.ISSUER, LINK.join((sign(ROOT, above), sign(ISSUER, terms))))


def request(terms: Request = REQUEST) -> str:
    """A request file."""
    return armour.wrap(Label.REQUEST, sign(SITE, terms))


def released(terms: Release = RELEASE) -> str:
    """A tombstone file of the site."""
    return armour.wrap(Label.RELEASE, sign(SITE, terms))


def usage(terms: Usage = USAGE) -> str:
    """A usage file."""
    return armour.wrap(Label.USAGE, sign(SITE, terms))


def receipt(terms: Receipt = RECEIPT) -> str:
    """A receipt file."""
    return armour.wrap(Label.RECEIPT, LINK.join((sign(ROOT, ISSUER_TERMS), sign(ISSUER, terms))))


def root_list(terms: Crl = CRL) -> str:
    """A root's revocation list file."""
    return armour.wrap(Label.CRL, sign(ROOT, terms))


def issuer_list(terms: Crl = CRL) -> str:
    """An issuer's revocation list, as a chain."""
    return LINK.join((sign(ROOT, DELEGATING), sign(ISSUER, terms)))


def flipped(text: str, label: Label) -> str:
    """The same file with the first bit of the last signature turned."""
    *above, token = armour.unwrap(label, text).split(LINK)
    parts = paseto.split(token)
    wrong = paseto._encode(parts.payload + bytes([parts.signature[0] ^ 1]) + parts.signature[1:])
    return armour.wrap(label, LINK.join((*above, f"{paseto.HEADER}{wrong}.{paseto._encode(parts.footer)}")))


def _edited(document: Document, edit: Callable[[str], str], by: object = SITE) -> str:
    """Properly signed content that was edited as text before."""
    return sign_content(by, type(document), edit(encode(document).decode()).encode())  # type: ignore[arg-type]


def _with(document: Document, **fields: object) -> str:
    return _edited(document, lambda text: json.dumps({**json.loads(text), **fields}))


def _forged(document: Document) -> str:
    """Under a key of small order: nobody signed it."""
    footer = f'{{"kid":"{WEAK}"}}'.encode()
    return (
        f"{paseto.HEADER}{paseto._encode(encode(document) + bytes.fromhex(WEAK) + bytes(32))}.{paseto._encode(footer)}"
    )


def _in(label: Label, chain: str) -> str:
    return armour.wrap(label, chain)


BAD_CERTS: dict[str, Callable[[], str]] = {
    "signed-by-another-root": lambda: _in(Label.ISSUER, sign(seeded("x"), ISSUER_TERMS)),
    "signature-bit-flipped": lambda: flipped(cert(), Label.ISSUER),
    "key-of-small-order": lambda: cert(changed(ISSUER_TERMS, key=WEAK)),
    "key-not-canonical": lambda: cert(changed(ISSUER_TERMS, key="ee" + "ff" * 30 + "7f")),
    "delegates-twice": lambda: _in(Label.ISSUER, _edited(ISSUER_TERMS, _set("delegate", 2), ROOT)),
    "of-another-product": lambda: cert(changed(ISSUER_TERMS, products=("boiler",))),
    "lives-longer-than-25-months": lambda: cert(changed(ISSUER_TERMS, exp=ISSUER_TERMS.nbf + LONGEST_S + 1)),
    "reseller-of-one-who-may-not": lambda: reseller_cert(above=ISSUER_TERMS),
    "reseller-of-a-reseller": lambda: reseller_cert(changed(RESELLER_TERMS, delegate=1)),
    "reseller-outlives-its-issuer": lambda: reseller_cert(changed(RESELLER_TERMS, exp=NOW + 601 * DAY)),
    "reseller-with-more-seats": lambda: reseller_cert(changed(RESELLER_TERMS, max_seats=65)),
    "reseller-with-longer-terms": lambda: reseller_cert(changed(RESELLER_TERMS, max_term_s=401 * DAY)),
    "reseller-with-more-features": lambda: reseller_cert(changed(RESELLER_TERMS, features=("slurm", "training"))),
    "reseller-with-more-products": lambda: reseller_cert(changed(RESELLER_TERMS, products=("stoker", "boiler"))),
    "reseller-for-ever": lambda: reseller_cert(
        changed(RESELLER_TERMS, perpetual=True), changed(DELEGATING, perpetual=False)
    ),
    "reseller-signed-by-a-stranger": lambda: _in(
        Label.ISSUER, LINK.join((sign(ROOT, DELEGATING), sign(seeded("x"), RESELLER_TERMS)))
    ),
    "reseller-key-of-small-order": lambda: reseller_cert(changed(RESELLER_TERMS, key=WEAK)),
    "three-issuers": lambda: _in(
        Label.ISSUER, LINK.join((sign(ROOT, DELEGATING), sign(ISSUER, RESELLER_TERMS), sign(RESELLER, RESELLER_TERMS)))
    ),
}

BAD_REQUESTS: dict[str, Callable[[], str]] = {
    "signature-bit-flipped": lambda: flipped(request(), Label.REQUEST),
    "site-key-of-small-order": lambda: _in(Label.REQUEST, _forged(REQUEST)),
    "wants-something-else": lambda: _in(Label.REQUEST, _with(REQUEST, want="everything")),
    "nonce-twice": lambda: _in(Label.REQUEST, _edited(REQUEST, lambda t: t.replace('"n":17', '"n":17,"n":18'))),
    "counter-below-zero": lambda: _in(Label.REQUEST, _with(REQUEST, n=-1)),
    "counter-as-float": lambda: _in(Label.REQUEST, _edited(REQUEST, lambda t: t.replace('"n":17', '"n":17.0'))),
    "head-of-other-length": lambda: _in(Label.REQUEST, _with(REQUEST, head="AAAA")),
    "fingerprint-with-padding": lambda: _in(Label.REQUEST, _with(REQUEST, fp="A" * 20 + "==")),
    "escape-in-its-id": lambda: _in(Label.REQUEST, _with(REQUEST, id="a\x1b[2J")),
    "release-shown-as-request": lambda: _in(Label.REQUEST, sign(SITE, RELEASE)),
    "licence-instead": lambda: _in(Label.LICENCE, sign(SITE, REQUEST)),
    "nested-deeper-than-the-stack": lambda: _in(Label.REQUEST, _edited(REQUEST, deeper)),
    "made-after-the-year-9999": lambda: request(changed(REQUEST, iat=AFTER_9999)),
    "version-2": lambda: _in(Label.REQUEST, _with(REQUEST, v=2)),
    "longer-than-64-kib": lambda: _in(Label.REQUEST, sign(SITE, REQUEST) + "A" * 66_000),
}

BAD_RELEASES: dict[str, Callable[[], str]] = {
    "signature-bit-flipped": lambda: flipped(released(), Label.RELEASE),
    "names-another-site": lambda: released(changed(RELEASE, site=keys.public_hex(seeded("x")))),
    "node-of-another-key": lambda: released(NODE_RELEASE),
    "node-without-key": lambda: _in(Label.RELEASE, sign(NODE, changed(NODE_RELEASE, key=None))),
    "generation-below-zero": lambda: _in(Label.RELEASE, _with(RELEASE, gen=0, generation=-1)),
    "part-too-many": lambda: _in(Label.RELEASE, LINK.join((sign(SITE, RELEASE), sign(SITE, REQUEST), "v4.public.AA"))),
    "head-cut-short": lambda: _in(Label.RELEASE, _with(RELEASE, head="abc")),
    "request-shown-as-release": lambda: _in(Label.RELEASE, sign(SITE, REQUEST)),
    "site-key-of-small-order": lambda: _in(Label.RELEASE, _forged(changed(RELEASE, site=WEAK))),
}

BAD_USAGES: dict[str, Callable[[], str]] = {
    "signature-bit-flipped": lambda: flipped(usage(), Label.USAGE),
    "sum-is-not-the-totals": lambda: usage(changed(USAGE, gpu_ms=5_400_001, cumulative_gpu_ms=5_400_001)),
    "less-in-all-than-in-it": lambda: usage(changed(USAGE, cumulative_gpu_ms=5)),
    "ends-before-it-begins": lambda: usage(changed(USAGE, ends=NOW - 1)),
    "first-with-a-parent": lambda: usage(changed(USAGE, prev="ab" * 32)),
    "second-without-parent": lambda: usage(changed(USAGE, number=2)),
    "names-another-site": lambda: usage(changed(USAGE, site=keys.public_hex(seeded("x")))),
    "ends-after-the-year-9999": lambda: usage(changed(USAGE, ends=AFTER_9999)),
    "nested-deeper-than-the-stack": lambda: _in(Label.USAGE, _edited(USAGE, deeper)),
    "total-below-zero": lambda: _in(
        Label.USAGE, _edited(USAGE, lambda text: text.replace('"gpu_ms":1800000', '"gpu_ms":-1800000'))
    ),
    "total-of-no-day": lambda: _in(Label.USAGE, _edited(USAGE, lambda text: text.replace("2027-01-16", "tomorrow"))),
    "receipt-shown-as-usage": lambda: _in(Label.USAGE, sign(SITE, RECEIPT)),
}

BAD_RECEIPTS: dict[str, Callable[[], str]] = {
    "signature-bit-flipped": lambda: flipped(receipt(), Label.RECEIPT),
    "signed-by-the-site": lambda: _in(Label.RECEIPT, LINK.join((sign(ROOT, ISSUER_TERMS), sign(SITE, RECEIPT)))),
    "without-issuer": lambda: _in(Label.RECEIPT, sign(ISSUER, RECEIPT)),
    "before-its-issuer": lambda: receipt(changed(RECEIPT, iat=ISSUER_TERMS.nbf - 1)),
    "site-key-of-small-order": lambda: receipt(changed(RECEIPT, site=WEAK)),
    "due-after-the-year-9999": lambda: receipt(changed(RECEIPT, report_by=AFTER_9999)),
    "digest-cut-short": lambda: _in(
        Label.RECEIPT,
        LINK.join((sign(ROOT, ISSUER_TERMS), _edited(RECEIPT, _set("digest", "ab"), ISSUER))),
    ),
    "licence-shown-as-receipt": lambda: _in(Label.RECEIPT, LINK.join((sign(ROOT, ISSUER_TERMS), sign(ISSUER, BOUND)))),
}

BAD_LISTS: dict[str, Callable[[], str]] = {
    "signature-bit-flipped": lambda: flipped(root_list(), Label.CRL),
    "signed-by-a-stranger": lambda: _in(Label.CRL, sign(seeded("x"), CRL)),
    "signed-by-the-site": lambda: _in(Label.CRL, LINK.join((sign(ROOT, ISSUER_TERMS), sign(SITE, CRL)))),
    "number-zero": lambda: _in(Label.CRL, _edited(CRL, _set("number", 0), ROOT)),
    "number-as-text": lambda: _in(Label.CRL, _edited(CRL, _set("number", "7"), ROOT)),
    "key-cut-short": lambda: _in(
        Label.CRL, _edited(CRL, lambda text: text.replace(keys.public_hex(ISSUER), "abcd"), ROOT)
    ),
    "licence-shown-as-list": lambda: _in(Label.CRL, sign(ROOT, VOUCHER)),
    "two-lists": lambda: root_list() + root_list(),
}


def _set(name: str, value: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), name: value})


BAD_PAPERS: dict[str, dict[str, Callable[[], str]]] = {
    "cert": BAD_CERTS,
    "request": BAD_REQUESTS,
    "release": BAD_RELEASES,
    "usage": BAD_USAGES,
    "receipt": BAD_RECEIPTS,
    "crl": BAD_LISTS,
}
GOOD_PAPERS: dict[str, Callable[[], str]] = {
    "cert": reseller_cert,
    "request": request,
    "release": released,
    "usage": usage,
    "receipt": receipt,
    "crl": root_list,
}
