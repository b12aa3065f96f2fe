"""Licences: how long the refusal of each bad file takes, and documents made and read per CPU-second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from licensing import armour, keys, paseto, revocation, usage_check, verify
from licensing.armour import LINK, Label
from licensing.document import Lease, open_token, sign
from licensing.errors import LicenceError
from licensing.exchange import Release, Request
from tests.bench.table import Row, row_of
from tests.fakes import papers
from tests.fakes.vendor import FOLDER, LEASE, NODE, ROOTS, SITE, VOUCHER

REPEATS = 7
SPAN_S = 0.2
NODE_KEY = keys.public_hex(NODE)

_READ: dict[str, Callable[[str], object]] = {
    "licence": lambda text: verify.licence_file(text, ROOTS),
    "lease": lambda text: verify.lease_chain(text, ROOTS, NODE_KEY),
    "cert": lambda text: verify.issuer_file(text, ROOTS),
    "request": lambda text: verify.site_paper(Request, armour.bare(Label.REQUEST, text)),
    "release": lambda text: verify.site_paper(Release, armour.bare(Label.RELEASE, text)),
    "usage": usage_check.read,
    "receipt": lambda text: verify.receipt_chain(armour.unwrap(Label.RECEIPT, text), ROOTS),
    "crl": lambda text: revocation.lists_in(text, ROOTS),
}


def rows() -> list[Row]:
    """The slowest refusal of each kind, then the rates beside the floors of the design."""
    return [*_refusals(), *_rates()]


def _refusals() -> Iterator[Row]:
    for kind, read in _READ.items():
        times = {
            path.stem: min(_refusal_ms(read, path.read_text("utf-8")) for _ in range(3))
            for path in sorted(FOLDER.glob(f"*.{kind}"))
            if path.stem != "good"
        }
        slowest = max(times, key=lambda name: times[name])
        yield row_of(f"bad .{kind}: {len(times)} files, slowest {slowest}", list(times.values()), "ms", "each < 100")


def _rates() -> Iterator[Row]:
    token, key = sign(SITE, LEASE), SITE.public_key()
    chain = LINK.join((papers.reseller_chain(VOUCHER), token))
    parts = paseto.split(token)
    signed = paseto.pae(paseto.HEADER.encode(), parts.payload, parts.footer, b"lease")
    for what, aim, work in (
        ("bare Ed25519 verification, for comparison", "", lambda: key.verify(parts.signature, signed)),
        ("token made", "", lambda: sign(SITE, LEASE)),
        ("token verified and read", "≥ 8000", lambda: open_token(Lease, token, key)),
        ("chain of four verified, its keys known", "≥ 2000", lambda: verify.lease_chain(chain, ROOTS, NODE_KEY)),
        ("chain of four verified, all keys new", "≥ 2000", lambda: _cold(chain)),
    ):
        yield row_of(what, _per_cpu_s(work), "/CPU-s", aim)


def _refusal_ms(read: Callable[[str], object], text: str) -> float:
    keys.public_key.cache_clear()
    begin = time.perf_counter()
    with suppress(LicenceError):
        read(text)
    return (time.perf_counter() - begin) * 1000


def _cold(chain: str) -> None:
    keys.public_key.cache_clear()
    verify.lease_chain(chain, ROOTS, NODE_KEY)


def _per_cpu_s(work: Callable[[], object]) -> list[float]:
    rates = []
    for _ in range(REPEATS):
        begin, count = time.process_time(), 0
        while time.process_time() - begin < SPAN_S:
            work()
            count += 1
        rates.append(count / (time.process_time() - begin))
    return rates
