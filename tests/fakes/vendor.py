"""A vendor for tests: roots, an issuer and licences from fixed seeds, so that the same call gives the same text.

Run as a program it writes the bad files of tests/data/leases anew:  python -m tests.fakes.vendor
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import licensing
from licensing import armour, keys, paseto
from licensing.clock import Uptime
from licensing.document import Document, Issuer, Lease, Licence, encode, sign, sign_content
from licensing.ed25519 import PrivateKey
from licensing.roots import Root, Roots

NOW = 1_800_000_000
"""2027-01-15 08:00 UTC; every test's wall clock begins here."""
DAY = 86400
FOLDER = Path(__file__).parent.parent / "data" / "leases"
EVALUATION_FILE = Path(licensing.__file__).parent / "data" / "evaluation.voucher"
"""The voucher that this build ships."""


def seeded(name: str) -> PrivateKey:
    """The private key that belongs to a name in these tests."""
    return PrivateKey(hashlib.sha256(f"stoker tests: {name}".encode()).digest())


ROOT, ISSUER, SITE, NODE = seeded("root"), seeded("issuer"), seeded("site"), seeded("node")
ROOTS = Roots(development=False, roots=(Root(name="test root", key=keys.public_hex(ROOT)),))

ISSUER_TERMS = Issuer(
    id="iss-test",
    iat=NOW - 100 * DAY,
    nbf=NOW - 100 * DAY,
    exp=NOW + 600 * DAY,
    key=keys.public_hex(ISSUER),
    name="Test issuer",
    products=("stoker",),
    max_seats=64,
    max_term_s=400 * DAY,
    features=("slurm",),
)
FOR_EVER = msgspec.structs.replace(ISSUER_TERMS, perpetual=True)
VOUCHER = Licence(id="lic-test", iat=NOW, nbf=NOW, exp=NOW + 300 * DAY, customer="ACME", plan="yearly", seats=8)
LEASE = Lease(
    id="lease-n1-1-5",
    iat=NOW,
    exp=NOW + DAY,
    cluster="test",
    node="n1",
    key=keys.public_hex(NODE),
    site=keys.public_hex(SITE),
    licence=VOUCHER.id,
    rev=1,
    activated_at=NOW,
    gpus=("GPU-0", "GPU-1"),
    epoch=1,
    seq=5,
    prev="",
)


def changed(document: Any, **fields: Any) -> Any:
    """The document with some fields replaced."""
    return msgspec.structs.replace(document, **fields)


def chain(licence: Licence = VOUCHER, *, issuer: Issuer = ISSUER_TERMS, by: PrivateKey = ISSUER) -> str:
    """Issuer and licence as tokens."""
    return armour.LINK.join((sign(ROOT, issuer), sign(by, licence)))


def file(licence: Licence = VOUCHER, **how: Any) -> str:
    """A licence file."""
    return armour.wrap(armour.Label.LICENCE, chain(licence, **how))


def lease(terms: Lease = LEASE, *, licence: Licence = VOUCHER, by: PrivateKey = SITE) -> str:
    """A lease with everything above it."""
    return armour.LINK.join((chain(licence), sign(by, terms)))


class Boot:
    """An uptime that moves when the test says so."""

    def __init__(self, seconds: int = 1000, boot_id: str = "boot-1") -> None:
        self.seconds, self.boot_id = seconds, boot_id
        self._first = seconds

    def at(self, now: int) -> int:
        """Let the uptime go along with a clock that is right and stood at `NOW` in the beginning; gives `now`."""
        self.seconds = self._first + now - NOW
        return now

    def __call__(self) -> Uptime:
        return Uptime(boot_id=self.boot_id, seconds=self.seconds)


# --- the bad files ----------------------------------------------------------------------------------------------------


def _raw_licence(edit: Callable[[str], str]) -> str:
    """A properly signed licence whose content was edited as text before it was signed."""
    content = edit(encode(VOUCHER).decode()).encode("utf-8", "surrogatepass")
    token = sign_content(ISSUER, Licence, content)
    return armour.wrap(armour.Label.LICENCE, armour.LINK.join((sign(ROOT, ISSUER_TERMS), token)))


def deeper(text: str) -> str:
    """An object with a field of lists in lists, deeper than a reader that calls itself has room for."""
    return f'{text[:-1]},"x":{"[" * 10_000}{"]" * 10_000}}}'


AFTER_9999 = 253_402_300_800
"""The first second that no calendar shows."""


def _with(**fields: Any) -> str:
    """A properly signed licence with fields of any JSON type."""
    return _raw_licence(lambda text: json.dumps({**json.loads(text), **fields}))


def _signature_bit_flipped() -> str:
    """The first bit of the licence's signature."""
    issuer, token = chain().split(armour.LINK)
    parts = paseto.split(token)
    wrong = bytes([parts.signature[0] ^ 1]) + parts.signature[1:]
    return armour.wrap(armour.Label.LICENCE, armour.LINK.join((issuer, _token(parts.payload, wrong, parts.footer))))


def _more_seats_after_signing() -> str:
    issuer, token = chain().split(armour.LINK)
    parts = paseto.split(token)
    payload = parts.payload.replace(b'"seats":8', b'"seats":9')
    return armour.wrap(armour.Label.LICENCE, armour.LINK.join((issuer, _token(payload, parts.signature, parts.footer))))


def _token(payload: bytes, signature: bytes, footer: bytes) -> str:
    return f"{paseto.HEADER}{_b64(payload + signature)}.{_b64(footer)}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _trailing_bits() -> str:
    """The last character of the issuer's footer spelled another way: Python's decoder gives the same bytes."""
    text = chain()
    first, rest = text.split(armour.LINK)
    last = first[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return armour.wrap(armour.Label.LICENCE, first[:-1] + alphabet[alphabet.index(last) ^ 1] + armour.LINK + rest)


def _footer(footer: bytes) -> str:
    token = paseto.sign(ISSUER, encode(VOUCHER), footer=footer, implicit=b"licence")
    return armour.wrap(armour.Label.LICENCE, armour.LINK.join((sign(ROOT, ISSUER_TERMS), token)))


def _as_kind(document: Document, kind: type[Document]) -> str:
    """Signed under another document's implicit assertion."""
    token = sign_content(ISSUER, kind, encode(document))
    return armour.wrap(armour.Label.LICENCE, armour.LINK.join((sign(ROOT, ISSUER_TERMS), token)))


def _in_armour(text: str) -> str:
    return armour.wrap(armour.Label.LICENCE, text)


def _small_order_site_lease() -> str:
    """S = 0, R = the neutral element, key of small order: OpenSSL calls this a good signature for every content."""
    weak = "01" + "00" * 31
    content = encode(changed(LEASE, site=weak))
    footer = f'{{"kid":"{weak}"}}'.encode()
    return armour.LINK.join((chain(), _token(content, bytes.fromhex(weak) + bytes(32), footer)))


BAD_LICENCES: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "no-armour": lambda: chain() + "\n",
    "two-blocks": lambda: file() + file(),
    "begin-and-end-differ": lambda: file().replace("END STOKER LICENCE", "END STOKER ISSUER"),
    "issuer-certificate-instead": lambda: armour.wrap(armour.Label.ISSUER, sign(ROOT, ISSUER_TERMS)),
    "foreign-character": lambda: file().replace("\nv4.public.", "\nv4.public.€", 1),
    "cut-short": lambda: "\n".join(file().splitlines()[:4]) + "\n-----END STOKER LICENCE-----\n",
    "without-issuer": lambda: _in_armour(sign(ISSUER, VOUCHER)),
    "link-too-many": lambda: _in_armour(lease()),
    "version-2-token": lambda: _in_armour(chain().replace("v4.public.", "v2.public.")),
    "local-token": lambda: _in_armour(chain().replace("~v4.public.", "~v4.local.")),
    "base64-trailing-bits": _trailing_bits,
    "base64-padded": lambda: _in_armour(chain().replace("~", "==~")),
    "longer-than-64-kib": lambda: _in_armour(chain() + "A" * 66_000),
    "no-signature": lambda: _in_armour(f"{sign(ROOT, ISSUER_TERMS)}~v4.public.e30"),
    "signature-bit-flipped": _signature_bit_flipped,
    "more-seats-after-signing": _more_seats_after_signing,
    "unknown-root": lambda: _in_armour(armour.LINK.join((sign(seeded("x"), ISSUER_TERMS), sign(ISSUER, VOUCHER)))),
    "signed-by-another-issuer": lambda: file(by=seeded("another issuer")),
    "lease-shown-as-licence": lambda: _as_kind(LEASE, Lease),
    "licence-signed-as-issuer": lambda: _as_kind(VOUCHER, Issuer),
    "footer-without-kid": lambda: _footer(b'{"key":1}'),
    "footer-kid-twice": lambda: _footer(b'{"kid":"' + b"0" * 64 + b'","kid":"' + b"1" * 64 + b'"}'),
    "duplicate-field": lambda: _raw_licence(lambda text: text.replace('"seats":8', '"seats":8,"seats":800')),
    "float-seats": lambda: _raw_licence(lambda text: text.replace('"seats":8', '"seats":8.0')),
    "nan-seats": lambda: _raw_licence(lambda text: text.replace('"seats":8', '"seats":NaN')),
    "infinite-seats": lambda: _raw_licence(lambda text: text.replace('"seats":8', '"seats":1e400')),
    "true-as-seats": lambda: _with(seats=True),
    "seats-as-text": lambda: _with(seats="8"),
    "negative-seats": lambda: _with(seats=-1),
    "number-beyond-2-53": lambda: _with(extra=2**53 + 1),
    "nested-too-deep": lambda: _with(extra=[[[[[[[[1]]]]]]]]),
    "nested-deeper-than-the-stack": lambda: _raw_licence(deeper),
    "ends-after-the-year-9999": lambda: _with(exp=AFTER_9999),
    "signed-after-the-year-9999": lambda: _with(iat=AFTER_9999),
    "control-character": lambda: _with(customer="ACME\x1b[2J"),
    "lone-surrogate": lambda: _raw_licence(lambda text: text.replace("ACME", "\\ud800")),
    "not-utf-8": lambda: _raw_licence(lambda text: text.replace("ACME", "\ud800")),
    "not-json": lambda: _raw_licence(lambda text: text[:-1]),
    "not-an-object": lambda: _raw_licence(lambda text: f"[{text}]"),
    "without-version": lambda: _raw_licence(lambda text: text.replace('"v":1,', "")),
    "version-from-the-future": lambda: _with(v=2),
    "without-seats": lambda: _raw_licence(lambda text: text.replace(',"seats":8', "")),
    "more-seats-than-issuer": lambda: file(changed(VOUCHER, seats=65)),
    "outlives-issuer": lambda: file(changed(VOUCHER, nbf=NOW + 300 * DAY, exp=NOW + 601 * DAY)),
    "older-than-issuer": lambda: file(changed(VOUCHER, nbf=NOW - 101 * DAY)),
    "longer-than-issuer-allows": lambda: file(changed(VOUCHER, exp=NOW + 401 * DAY)),
    "feature-beyond-issuer": lambda: file(changed(VOUCHER, features=("slurm", "training"))),
    "other-product": lambda: file(changed(VOUCHER, product="boiler")),
    "issuer-of-other-product": lambda: file(issuer=changed(ISSUER_TERMS, products=("boiler",))),
    "issuer-lives-longer-than-25-months": lambda: file(issuer=changed(ISSUER_TERMS, nbf=NOW, exp=NOW + 763 * DAY)),
    "ends-before-it-begins": lambda: file(changed(VOUCHER, exp=NOW - 1)),
    "issuer-key-of-small-order": lambda: file(issuer=changed(ISSUER_TERMS, key="00" * 32)),
    "site-key-of-small-order": lambda: file(changed(VOUCHER, site="01" + "00" * 31)),
    "site-key-not-canonical": lambda: file(changed(VOUCHER, site="ee" + "ff" * 30 + "7f")),
    "bound-to-another-site": lambda: file(changed(VOUCHER, site=keys.public_hex(seeded("another site")))),
    "ended-last-month": lambda: file(changed(VOUCHER, iat=NOW - 60 * DAY, nbf=NOW - 60 * DAY, exp=NOW - 30 * DAY)),
    "begins-next-month": lambda: file(changed(VOUCHER, nbf=NOW + 30 * DAY)),
    "for-ever-without-leave": lambda: file(changed(VOUCHER, plan="perpetual", updates_until=NOW + 300 * DAY)),
    "perpetual-without-updates": lambda: file(changed(VOUCHER, plan="perpetual"), issuer=FOR_EVER),
    "prepaid-without-hours": lambda: file(changed(VOUCHER, plan="prepaid")),
    "yearly-with-hours": lambda: file(changed(VOUCHER, gpu_hours=5)),
    "pay-per-use-without-report": lambda: file(changed(VOUCHER, plan="pay-per-use")),
    "updates-beyond-its-dates": lambda: file(
        changed(VOUCHER, plan="perpetual", updates_until=NOW + 301 * DAY), issuer=FOR_EVER
    ),
    "voucher-with-a-generation": lambda: file(changed(VOUCHER, generation=1)),
}

BOUND = changed(VOUCHER, site=keys.public_hex(SITE))
OVER = changed(BOUND, iat=NOW - 60 * DAY, nbf=NOW - 60 * DAY, exp=NOW - 30 * DAY)
"""A licence whose grace is over, too."""

BAD_LEASES: dict[str, Callable[[], str]] = {
    "licence-without-lease": chain,
    "for-another-node": lambda: lease(changed(LEASE, key=keys.public_hex(seeded("another node")))),
    "signed-by-another-site": lambda: lease(
        changed(LEASE, site=keys.public_hex(seeded("x"))), licence=BOUND, by=seeded("x")
    ),
    "names-another-site": lambda: lease(changed(LEASE, site=keys.public_hex(seeded("x")))),
    "site-key-of-small-order": _small_order_site_lease,
    "node-key-of-small-order": lambda: lease(changed(LEASE, key="00" * 32)),
    "for-another-licence": lambda: lease(changed(LEASE, licence="lic-other")),
    "for-another-revision": lambda: lease(changed(LEASE, rev=2)),
    "outlives-the-voucher": lambda: lease(changed(LEASE, exp=NOW + 14 * DAY + 1)),
    "older-than-its-licence": lambda: lease(changed(LEASE, iat=NOW - 1, activated_at=NOW - 1)),
    "older-than-activation": lambda: lease(changed(LEASE, activated_at=NOW + 1)),
    "more-gpus-than-seats": lambda: lease(changed(LEASE, gpus=tuple(f"GPU-{n}" for n in range(9)))),
    "gpu-twice": lambda: lease(changed(LEASE, gpus=("GPU-0", "GPU-0"))),
    "seq-zero": lambda: armour.LINK.join(
        (chain(), sign_content(SITE, Lease, encode(LEASE).replace(b'"seq":5', b'"seq":0')))
    ),
    "signed-by-the-issuer-as-licence": lambda: armour.LINK.join((chain(), sign(ISSUER, VOUCHER))),
    "from-next-week": lambda: lease(changed(LEASE, seq=6, iat=NOW + 7 * DAY, exp=NOW + 8 * DAY)),
    "older-than-the-one-held": lambda: lease(changed(LEASE, seq=4, id="lease-n1-1-4")),
    "longer-than-its-licence-allows": lambda: lease(changed(LEASE, exp=NOW + DAY + 1), licence=BOUND),
    "a-day-where-an-hour-is-allowed": lambda: lease(LEASE, licence=changed(BOUND, lease_s=3600)),
    "borrowed-for-longer-than-30-days": lambda: lease(
        changed(LEASE, borrowed=True, exp=NOW + 30 * DAY + 1), licence=BOUND
    ),
    "borrowed-beyond-its-licence": lambda: lease(
        changed(LEASE, borrowed=True, exp=NOW + 25 * DAY), licence=changed(BOUND, exp=NOW + 5 * DAY)
    ),
    "emergency-for-longer-than-72-hours": lambda: lease(
        changed(LEASE, activated_at=OVER.nbf, extended_until=NOW + 72 * 3600 + 1), licence=OVER
    ),
    "beyond-its-emergency-hours": lambda: lease(
        changed(LEASE, activated_at=OVER.nbf, extended_until=NOW + 3600), licence=OVER
    ),
    "over-and-no-emergency": lambda: lease(changed(LEASE, activated_at=OVER.nbf), licence=OVER),
    "more-gpus-than-seats-and-overdraft": lambda: lease(
        changed(LEASE, gpus=tuple(f"GPU-{n}" for n in range(10))), licence=BOUND
    ),
    "epoch-lower-than-known": lambda: lease(changed(LEASE, epoch=0, seq=99, id="lease-n1-0-99")),
    "number-beyond-2-53": lambda: armour.LINK.join(
        (chain(), sign_content(SITE, Lease, encode(LEASE).replace(b'"seq":5', b'"seq":9007199254740993')))
    ),
    "ends-after-the-year-9999": lambda: lease(changed(LEASE, exp=AFTER_9999)),
    "digest-of-the-one-before-cut-short": lambda: lease(changed(LEASE, seq=6, prev="0" * 63)),
    "same-number-other-content": lambda: lease(changed(LEASE, gpus=("GPU-7",))),
}


def main() -> None:
    """Write every bad file and one good one of each kind."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in {**BAD_LICENCES, "good": file}.items():
        (FOLDER / f"{name}.licence").write_text(make(), encoding="utf-8")
    for name, make in {**BAD_LEASES, "good": lease}.items():
        (FOLDER / f"{name}.lease").write_text(make(), encoding="utf-8")
    from tests.fakes.papers import BAD_PAPERS, GOOD_PAPERS

    for kind, bad in BAD_PAPERS.items():
        for name, make in {**bad, "good": GOOD_PAPERS[kind]}.items():
            (FOLDER / f"{name}.{kind}").write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
