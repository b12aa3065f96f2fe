"""Certificates, requests, releases, usage reports, receipts and revocation lists: what is taken, what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licensing import armour, keys, paseto, revocation, usage_check, verify
from licensing.armour import LINK, Label
from licensing.document import Document, Issuer, Licence, decode, encode, sign, signer
from licensing.errors import (
    ArmourError,
    ChainError,
    ContentError,
    LicenceError,
    SignatureError,
    TokenError,
    WeakKeyError,
)
from licensing.exchange import MAX_REQUEST_CHARS, Crl, Receipt, Release, Request, Usage, Want
from licensing.roots import pinned
from tests.fakes import papers
from tests.fakes.papers import (
    BAD_PAPERS,
    CRL,
    NODE_RELEASE,
    RECEIPT,
    RELEASE,
    REQUEST,
    RESELLER_TERMS,
    SITE_KEY,
    USAGE,
)
from tests.fakes.vendor import (
    DAY,
    EVALUATION_FILE,
    FOLDER,
    ISSUER,
    LEASE,
    NODE,
    NOW,
    ROOT,
    ROOTS,
    SITE,
    VOUCHER,
    changed,
)

READ: dict[str, Callable[[str], Any]] = {
    "cert": lambda text: verify.issuer_file(text, ROOTS).issuer,
    "request": lambda text: verify.site_paper(Request, armour.bare(Label.REQUEST, text)).paper,
    "release": lambda text: verify.site_paper(Release, armour.bare(Label.RELEASE, text)).paper,
    "usage": lambda text: usage_check.read(text).paper,
    "receipt": lambda text: verify.receipt_chain(armour.unwrap(Label.RECEIPT, text), ROOTS).receipt,
    "crl": lambda text: revocation.lists_in(text, ROOTS)[0].crl,
}
GOOD: dict[str, Document] = {
    "cert": RESELLER_TERMS,
    "request": REQUEST,
    "release": RELEASE,
    "usage": USAGE,
    "receipt": RECEIPT,
    "crl": CRL,
}
HOLD_NOT = (SignatureError, "does not hold")
VERDICTS: dict[str, tuple[type[LicenceError], str]] = {
    "signed-by-another-root.cert": (SignatureError, "not signed by a root key"),
    "signature-bit-flipped.cert": HOLD_NOT,
    "key-of-small-order.cert": (WeakKeyError, "small order"),
    "key-not-canonical.cert": (WeakKeyError, "canonical"),
    "delegates-twice.cert": (ContentError, r"<= 1 - at `\$\.delegate`"),
    "of-another-product.cert": (ChainError, "may not sign for stoker"),
    "lives-longer-than-25-months.cert": (ChainError, "Test issuer runs from .*, longer than the 25 months"),
    "reseller-of-one-who-may-not.cert": (ChainError, "2 signed parts where 1 belong"),
    "reseller-of-a-reseller.cert": (ChainError, "may make further issuers"),
    "reseller-outlives-its-issuer.cert": (ChainError, "beyond the dates of Test issuer"),
    "reseller-with-more-seats.cert": (ChainError, "allows 65 seats, and Test issuer may allow 64"),
    "reseller-with-longer-terms.cert": (ChainError, "longer terms than Test issuer"),
    "reseller-with-more-features.cert": (ChainError, "features that Test issuer may not give: training"),
    "reseller-with-more-products.cert": (ChainError, "products that Test issuer may not give: boiler"),
    "reseller-for-ever.cert": (ChainError, "allows perpetual licences"),
    "reseller-signed-by-a-stranger.cert": (SignatureError, "not signed by Test issuer"),
    "reseller-key-of-small-order.cert": (WeakKeyError, "small order"),
    "three-issuers.cert": (ChainError, "3 signed parts where 1 belong"),
    "signature-bit-flipped.request": HOLD_NOT,
    "site-key-of-small-order.request": (WeakKeyError, "small order"),
    "wants-something-else.request": (ContentError, "'everything' - at `\\$.want`"),
    "nonce-twice.request": (ContentError, "'n' twice"),
    "counter-below-zero.request": (ContentError, r">= 0 - at `\$\.n`"),
    "counter-as-float.request": (ContentError, "17.0"),
    "head-of-other-length.request": (ContentError, r"at `\$\.head`"),
    "fingerprint-with-padding.request": (ContentError, r"at `\$\.fp`"),
    "escape-in-its-id.request": (ContentError, r"U\+001B"),
    "release-shown-as-request.request": HOLD_NOT,
    "licence-instead.request": (ArmourError, "of kind LICENCE, not REQUEST"),
    "nested-deeper-than-the-stack.request": (ContentError, "deeper than 8"),
    "made-after-the-year-9999.request": (ContentError, r"<= 253402300799 - at `\$\.iat`"),
    "version-2.request": (ContentError, "version 2"),
    "longer-than-64-kib.request": (TokenError, "at most 65536"),
    "signature-bit-flipped.release": HOLD_NOT,
    "names-another-site.release": (ChainError, "another site than the one that signed"),
    "node-of-another-key.release": (ChainError, "another node key than the one that signed"),
    "node-without-key.release": (ChainError, "another node key"),
    "generation-below-zero.release": (ContentError, r">= 0 - at `\$\.generation`"),
    "part-too-many.release": (TokenError, "not base64url"),
    "head-cut-short.release": (ContentError, r"at `\$\.head`"),
    "request-shown-as-release.release": HOLD_NOT,
    "site-key-of-small-order.release": (WeakKeyError, "small order"),
    "signature-bit-flipped.usage": HOLD_NOT,
    "sum-is-not-the-totals.usage": (ChainError, "do not add up to the 5400001 ms"),
    "less-in-all-than-in-it.usage": (ChainError, "less over all periods"),
    "ends-before-it-begins.usage": (ChainError, "ends before it begins"),
    "first-with-a-parent.usage": (ChainError, "is number 1 and has report before it"),
    "second-without-parent.usage": (ChainError, "is number 2 and names no report before it"),
    "names-another-site.usage": (ChainError, "another site than the one that signed"),
    "ends-after-the-year-9999.usage": (ContentError, r"<= 253402300799 - at `\$\.ends`"),
    "nested-deeper-than-the-stack.usage": (ContentError, "deeper than 8"),
    "total-below-zero.usage": (ContentError, r">= 0 - at `\$\.totals\[1\]\.gpu_ms`"),
    "total-of-no-day.usage": (ContentError, r"at `\$\.totals\[1\]\.day`"),
    "receipt-shown-as-usage.usage": HOLD_NOT,
    "signature-bit-flipped.receipt": HOLD_NOT,
    "signed-by-the-site.receipt": (SignatureError, "not signed by Test issuer"),
    "without-issuer.receipt": (ChainError, "1 signed parts where 2 belong"),
    "before-its-issuer.receipt": (ChainError, "beyond the dates of its issuer"),
    "site-key-of-small-order.receipt": (WeakKeyError, "small order"),
    "due-after-the-year-9999.receipt": (ContentError, r"<= 253402300799 - at `\$\.report_by`"),
    "digest-cut-short.receipt": (ContentError, r"at `\$\.digest`"),
    "licence-shown-as-receipt.receipt": HOLD_NOT,
    "signature-bit-flipped.crl": HOLD_NOT,
    "signed-by-a-stranger.crl": (SignatureError, "not signed by a root key"),
    "signed-by-the-site.crl": (SignatureError, "not signed by Test issuer"),
    "number-zero.crl": (ContentError, r">= 1 - at `\$\.number`"),
    "number-as-text.crl": (ContentError, r"got `str` - at `\$\.number`"),
    "key-cut-short.crl": (ContentError, r"at `\$\.keys\[0\]\.key`"),
    "licence-shown-as-list.crl": HOLD_NOT,
    "two-lists.crl": (ArmourError, "more than one document"),
}


def read(name: str) -> Any:
    kind = name.rpartition(".")[2]
    return READ[kind]((FOLDER / name).read_text("utf-8"))


def test_every_bad_file_has_its_verdict() -> None:
    files = {path.name for kind in BAD_PAPERS for path in FOLDER.glob(f"*.{kind}")} - {f"good.{kind}" for kind in GOOD}
    assert files == {f"{name}.{kind}" for kind, bad in BAD_PAPERS.items() for name in bad} == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_bad_file_is_refused_for_its_own_reason(name: str) -> None:
    kind, words = VERDICTS[name]
    with pytest.raises(LicenceError, match=words) as refusal:
        read(name)
    assert type(refusal.value) is kind


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_file_is_what_was_signed(kind: str) -> None:
    assert read(f"good.{kind}") == GOOD[kind]


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_no_single_bit_of_any_kind_can_change(kind: str, data: st.DataObject) -> None:
    good = armour.read((FOLDER / f"good.{kind}").read_text()).chain
    spot = data.draw(st.integers(0, len(good) * 8 - 1))
    raw = bytearray(good.encode())
    raw[spot // 8] ^= 1 << spot % 8
    text = raw.decode("latin-1")
    begin, end = f"-----BEGIN STOKER {LABELS[kind]}-----\n", f"\n-----END STOKER {LABELS[kind]}-----\n"
    if "".join(text.split()) == good:
        return  # a blank more or less inside the armour is no change
    with pytest.raises(LicenceError):
        READ[kind](begin + text + end)


LABELS = {
    "cert": Label.ISSUER,
    "request": Label.REQUEST,
    "release": Label.RELEASE,
    "usage": Label.USAGE,
    "receipt": Label.RECEIPT,
    "crl": Label.CRL,
}

TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
NUMBERS = st.integers(0, 2**53)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,23}", fullmatch=True)
SHORTS = st.from_regex(r"[A-Za-z0-9_-]{22}", fullmatch=True)


@given(
    request=st.builds(
        Request,
        id=st.from_regex(r"[0-9a-f]{24}", fullmatch=True),
        iat=st.integers(0, 2**33),
        want=st.sampled_from(Want),
        licence=st.none() | IDS,
        generation=st.integers(0, 99),
        counter=st.integers(0, 10**9),
        head=st.none() | SHORTS,
        fingerprint=st.none() | SHORTS,
        crl=st.integers(0, 9999),
    )
)
def test_every_request_fits_its_qr_code_and_comes_back(request: Request) -> None:
    token = sign(SITE, request)
    assert len(token) <= MAX_REQUEST_CHARS
    found = verify.site_paper(Request, token)
    assert (found.paper, found.key) == (request, SITE_KEY)


@given(
    plan=st.sampled_from(["trial", "monthly", "yearly", "enterprise"]),
    brand=st.none() | TEXTS,
    generation=st.integers(0, 1000),
    fingerprint=st.none() | SHORTS,
    vm=st.booleans(),
    number=st.integers(1, 2**40),
    reason=st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=200),
    gpu_ms=NUMBERS,
)
def test_round_trips(**drawn: Any) -> None:
    licence = changed(
        VOUCHER, **{name: drawn[name] for name in ("plan", "brand", "generation", "fingerprint", "vm")}, site=SITE_KEY
    )
    assert decode(Licence, encode(licence)) == licence
    crl = changed(CRL, number=drawn["number"], licences=(changed(CRL.licences[0], reason=drawn["reason"]),))
    assert decode(Crl, encode(crl)) == crl
    usage = changed(USAGE, gpu_ms=drawn["gpu_ms"], cumulative_gpu_ms=drawn["gpu_ms"])
    assert decode(Usage, encode(usage)) == usage
    for kind, good in ((Receipt, RECEIPT), (Release, NODE_RELEASE), (Issuer, RESELLER_TERMS)):
        assert decode(kind, encode(good)) == good


def test_a_request_names_its_key_in_one_spelling() -> None:
    token = sign(SITE, REQUEST)
    assert signer(token) == SITE_KEY
    named = paseto._encode(bytes.fromhex(SITE_KEY))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = named[:-1] + alphabet[alphabet.index(named[-1]) + 1]
    assert base64.urlsafe_b64decode(other + "=").hex() == SITE_KEY, "Python reads the same key"
    footer = f'{{"kid":"{other}"}}'.encode()
    with pytest.raises(TokenError, match="another spelling"):
        signer(paseto.sign(SITE, encode(REQUEST), footer=footer, implicit=b"request"))


def test_a_node_gives_its_seats_back_under_its_own_key() -> None:
    found = verify.site_paper(Release, sign(NODE, NODE_RELEASE))
    assert found.paper.gpus == ("GPU-0", "GPU-1")
    with pytest.raises(SignatureError):
        verify.site_paper(Release, sign(NODE, REQUEST))


def test_a_bare_token_is_as_good_as_its_file() -> None:
    assert READ["request"](sign(SITE, REQUEST)) == REQUEST
    assert READ["request"](" \n".join(sign(SITE, REQUEST)[at : at + 40] for at in range(0, 440, 40))) == REQUEST


# --- resellers ---


def test_a_reseller_signs_within_its_limits() -> None:
    chain = verify.licence_file(papers.reseller_file(), ROOTS)
    assert [issuer.name for issuer in chain.path] == ["Test issuer", "Test reseller"]
    assert chain.issuer == RESELLER_TERMS


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        (changed(VOUCHER, seats=17), "17 seats, and its issuer Test reseller may give 16"),
        (changed(VOUCHER, nbf=NOW - 11 * DAY), "beyond the dates of its issuer Test reseller"),
        (changed(VOUCHER, exp=NOW + 381 * DAY), "longer than its issuer Test reseller"),
        (changed(VOUCHER, features=("standby",)), "features its issuer Test reseller may not give"),
    ],
)
def test_and_not_beyond_them(licence: Licence, words: str) -> None:
    with pytest.raises(ChainError, match=words):
        verify.licence_file(papers.reseller_file(licence), ROOTS)


def test_the_vendor_cannot_sign_in_its_resellers_name() -> None:
    chain = LINK.join((sign(ROOT, papers.DELEGATING), sign(ISSUER, RESELLER_TERMS), sign(ISSUER, VOUCHER)))
    with pytest.raises(SignatureError, match="not signed by Test reseller"):
        verify.licence_chain(chain, ROOTS)


def test_a_whole_chain_of_four_is_what_a_node_verifies() -> None:
    lease = changed(LEASE, gpus=("GPU-0",))
    text = LINK.join((papers.reseller_chain(VOUCHER), sign(SITE, lease)))
    chain = verify.lease_chain(text, ROOTS, keys.public_hex(NODE))
    assert (len(chain.path), chain.lease) == (2, lease)


# --- how long a certificate lives ---


def test_the_longest_certificate_that_was_ever_made_is_taken() -> None:
    longest = changed(papers.DELEGATING, exp=papers.DELEGATING.nbf + papers.LONGEST_S)
    reseller = changed(RESELLER_TERMS, exp=longest.exp)
    assert verify.issuer_file(papers.cert(longest), ROOTS).issuer == longest
    assert verify.licence_file(papers.reseller_file(terms=reseller, above=longest), ROOTS).issuer == reseller


def test_only_the_certificate_of_a_development_build_lives_longer() -> None:
    chain = armour.unwrap(Label.LICENCE, EVALUATION_FILE.read_text())
    assert verify.licence_chain(chain, pinned()).issuer.name == "DEVELOPMENT-issuer"
    with pytest.raises(ChainError, match="longer than the 25 months"):
        verify.licence_chain(chain, changed(pinned(), development=False))
