"""Documents in their files: what survives mail, and what is refused, each for its own reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licensing import armour, document, strictjson, verify
from licensing.document import Licence, decode, encode
from licensing.errors import (
    ArmourError,
    ChainError,
    ContentError,
    LicenceError,
    SignatureError,
    TokenError,
    WeakKeyError,
)
from tests.fakes import vendor
from tests.fakes.vendor import BAD_LICENCES, FOLDER, ROOTS, VOUCHER, changed, file

BY_THE_FILE_ITSELF: dict[str, tuple[type[LicenceError], str]] = {
    "empty": (ArmourError, "no LICENCE block"),
    "no-armour": (ArmourError, "no LICENCE block"),
    "two-blocks": (ArmourError, "more than one document"),
    "begin-and-end-differ": (ArmourError, "begins as LICENCE and ends as ISSUER"),
    "issuer-certificate-instead": (ArmourError, "of kind ISSUER"),
    "foreign-character": (ArmourError, "characters that do not belong"),
    "base64-padded": (ArmourError, "characters that do not belong"),
    "cut-short": (ChainError, "cut short"),
    "without-issuer": (ChainError, "1 signed parts where 2 belong"),
    "link-too-many": (ChainError, "3 signed parts where 2 belong"),
    "version-2-token": (TokenError, "not a v4.public token"),
    "local-token": (TokenError, "not a v4.public token"),
    "base64-trailing-bits": (TokenError, "canonical spelling"),
    "longer-than-64-kib": (TokenError, "at most 65536"),
    "no-signature": (TokenError, "too short to hold a signature"),
    "signature-bit-flipped": (SignatureError, "does not hold"),
    "more-seats-after-signing": (SignatureError, "does not hold"),
    "unknown-root": (SignatureError, "not signed by a root key"),
    "signed-by-another-issuer": (SignatureError, "not signed by Test issuer"),
    "lease-shown-as-licence": (SignatureError, "does not hold"),
    "licence-signed-as-issuer": (SignatureError, "does not hold"),
    "footer-without-kid": (TokenError, "footer does not name the key"),
    "footer-kid-twice": (TokenError, "footer does not name the key"),
    "duplicate-field": (ContentError, "'seats' twice"),
    "float-seats": (ContentError, "8.0"),
    "nan-seats": (ContentError, "NaN"),
    "infinite-seats": (ContentError, "1e400"),
    "true-as-seats": (ContentError, r"got `bool` - at `\$\.seats`"),
    "seats-as-text": (ContentError, r"got `str` - at `\$\.seats`"),
    "negative-seats": (ContentError, r">= 0 - at `\$\.seats`"),
    "number-beyond-2-53": (ContentError, "beyond ±2"),
    "nested-too-deep": (ContentError, "deeper than 8"),
    "nested-deeper-than-the-stack": (ContentError, "deeper than 8"),
    "ends-after-the-year-9999": (ContentError, r"<= 253402300799 - at `\$\.exp`"),
    "signed-after-the-year-9999": (ContentError, r"<= 253402300799 - at `\$\.iat`"),
    "control-character": (ContentError, r"U\+001B"),
    "lone-surrogate": (ContentError, r"U\+D800"),
    "not-utf-8": (ContentError, "not UTF-8 at byte"),
    "not-json": (ContentError, "not JSON at character"),
    "not-an-object": (ContentError, "not a JSON object"),
    "without-version": (ContentError, "version none"),
    "version-from-the-future": (ContentError, "version 2, this program reads version 1; upgrade"),
    "without-seats": (ContentError, "missing required field `seats`"),
    "more-seats-than-issuer": (ChainError, "65 seats, and its issuer Test issuer may give 64"),
    "outlives-issuer": (ChainError, "beyond the dates of its issuer"),
    "older-than-issuer": (ChainError, "beyond the dates of its issuer"),
    "longer-than-issuer-allows": (ChainError, "longer than its issuer"),
    "feature-beyond-issuer": (ChainError, "features its issuer Test issuer may not give: training"),
    "other-product": (ChainError, "for boiler, not for stoker"),
    "issuer-of-other-product": (ChainError, "may not sign for stoker, only for boiler"),
    "issuer-lives-longer-than-25-months": (ChainError, "Test issuer runs from .*, longer than the 25 months"),
    "ends-before-it-begins": (ChainError, "ends before it begins"),
    "issuer-key-of-small-order": (WeakKeyError, "small order"),
    "site-key-of-small-order": (WeakKeyError, "small order"),
    "site-key-not-canonical": (WeakKeyError, "canonical"),
    "for-ever-without-leave": (ChainError, "runs for ever, and its issuer Test issuer may not allow that"),
    "perpetual-without-updates": (ChainError, "is perpetual and does not say updates_until"),
    "prepaid-without-hours": (ChainError, "is prepaid and does not say gpu_hours"),
    "yearly-with-hours": (ChainError, "is yearly and says gpu_hours, which belongs to prepaid"),
    "pay-per-use-without-report": (ChainError, "is pay-per-use and does not say report_by"),
    "updates-beyond-its-dates": (ChainError, "has updates beyond its own dates"),
    "voucher-with-a-generation": (ChainError, "bound to no site, and says how it is bound"),
}
BY_ITS_SITE = {"bound-to-another-site", "ended-last-month", "begins-next-month"}
"""Genuine files that only a site at a time refuses; see tests/component/test_licensing_site.py."""


def test_every_bad_file_has_its_verdict() -> None:
    files = {path.stem for path in FOLDER.glob("*.licence")} - {"good"}
    assert files == set(BAD_LICENCES) == set(BY_THE_FILE_ITSELF) | BY_ITS_SITE


@pytest.mark.parametrize("name", BY_THE_FILE_ITSELF)
def test_a_bad_file_is_refused_for_its_own_reason(name: str) -> None:
    kind, words = BY_THE_FILE_ITSELF[name]
    with pytest.raises(LicenceError, match=words) as refusal:
        verify.licence_file((FOLDER / f"{name}.licence").read_text("utf-8"), ROOTS)
    assert type(refusal.value) is kind


def test_the_good_file_is_what_was_signed() -> None:
    chain = verify.licence_file((FOLDER / "good.licence").read_text("utf-8"), ROOTS)
    assert chain.licence == VOUCHER
    assert chain.issuer == vendor.ISSUER_TERMS


@given(st.data())
def test_no_single_bit_of_a_licence_can_change(data: st.DataObject) -> None:
    good = vendor.chain()
    spot = data.draw(st.integers(0, len(good) * 8 - 1))
    raw = bytearray(good.encode())
    raw[spot // 8] ^= 1 << spot % 8
    with pytest.raises(LicenceError):
        verify.licence_chain(raw.decode("latin-1"), ROOTS)


@pytest.mark.parametrize(
    "mangle",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "Dear customer,\n\n" + text + "\nYours, the vendor\n",
        lambda text: text.replace("\n", " \n\t", 3),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\nv4", "\n\n\nv4"),
    ],
    ids=["crlf", "in a mail", "blanks", "no last newline", "blank lines"],
)
def test_a_file_survives_mail(mangle: Any) -> None:
    assert verify.licence_file(mangle(file()), ROOTS).licence == VOUCHER


def test_unknown_fields_are_kept_under_the_signature() -> None:
    content = json.dumps({**json.loads(encode(VOUCHER)), "colour": "red"}).encode()
    assert decode(Licence, content) == VOUCHER
    text = vendor._with(colour="red")
    chain = verify.licence_file(text, ROOTS)
    assert chain.text == armour.unwrap(armour.Label.LICENCE, text)


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~", min_size=1, max_size=400))
def test_armour_round_trip(chain: str) -> None:
    text = armour.wrap(armour.Label.LICENCE, chain)
    assert max(map(len, text.splitlines())) <= 64
    assert armour.unwrap(armour.Label.LICENCE, text) == chain


@given(
    chain=st.text("AZaz09-_.~", min_size=1, max_size=400),
    mark=st.sampled_from(["> ", ">", ">> ", "> > ", "  ", ""]),
    end=st.sampled_from(["\n", "\r\n", "\r", "  \n"]),
)
def test_armour_survives_mail(chain: str, mark: str, end: str) -> None:
    text = armour.wrap(armour.Label.LICENCE, chain)
    sent = "".join(f"{mark}{line}{end}" for line in ["Hello,", *text.splitlines(), "Regards"])
    assert armour.unwrap(armour.Label.LICENCE, sent) == chain
    assert armour.unwrap(armour.Label.LICENCE, text.replace("\n", " ")) == chain


def test_a_mark_within_a_line_is_no_quotation() -> None:
    text = armour.wrap(armour.Label.LICENCE, "abc>def")
    with pytest.raises(ArmourError, match=r"do not belong there \(the first: U\+003E\)"):
        armour.unwrap(armour.Label.LICENCE, text)


@given(
    seats=st.integers(0, 1_000_000),
    customer=st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=200),
    term=st.none() | st.integers(1, 2**33),
)
def test_a_document_round_trip(seats: int, customer: str, term: int | None) -> None:
    licence = changed(VOUCHER, seats=seats, customer=customer, term_s=term)
    assert decode(Licence, encode(licence)) == licence


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abcdef"), JSON_VALUES, max_size=4))
def test_strict_json_reads_what_is_plain(value: dict[str, object]) -> None:
    try:
        assert strictjson.loads(json.dumps(value).encode()) == value
    except ContentError as error:
        assert "deeper than 8" in str(error)


@given(st.binary(max_size=200))
def test_strict_json_never_fails_another_way(data: bytes) -> None:
    with contextlib.suppress(ContentError):
        assert isinstance(strictjson.loads(data), dict)


@pytest.mark.parametrize("depth", [9, 1000, 60_000])
def test_any_depth_is_refused_in_words(depth: int) -> None:
    with pytest.raises(ContentError, match="deeper"):
        strictjson.loads(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


PIECES = [
    '"seats":9,',
    '"extra":1,',
    "8.0",
    "8e0",
    "-0",
    "08",
    "true",
    " ",
    "\\u0041",
    "\\\\",
    "\x7f",
    "é",
    "null",
    "{",
    "]",
]


@given(
    at=st.integers(0, 200), cut=st.integers(0, 12), piece=st.sampled_from(["", *PIECES]), customer=st.text(max_size=6)
)
def test_the_fast_reader_says_what_the_strict_one_says(at: int, cut: int, piece: str, customer: str) -> None:
    """Content in our own bytes is read without the strict reader: whatever else is made of it, both agree."""
    text = encode(changed(VOUCHER, customer=f"A{customer}")).decode("utf-8", "surrogatepass")
    content = (text[:at] + piece + text[at + cut :]).encode("utf-8", "surrogatepass")
    assert _read(lambda: decode(Licence, content)) == _read(lambda: document._as_others_write(Licence, content))


def test_what_we_write_goes_the_fast_way_and_all_else_the_strict_one() -> None:
    plain = encode(VOUCHER)
    assert document._as_we_write(Licence, plain) == VOUCHER
    for other in (
        plain.replace(b'"seats":8', b'"seats":8,"seats":8'),
        plain.replace(b'"seats":8', b'"seats":8.0'),
        plain.replace(b'"seats":8', b'"seats": 8'),
        plain.replace(b'"seats":8', b'"extra":1,"seats":8'),
        plain.replace(b"ACME", b"AC\\u004dE"),
        plain.replace(b"ACME", b"AC\x7fME"),
        plain.replace(b"ACME", "ACMÉ".encode()),
        plain.replace(b'"v":1', b'"v":2'),
    ):
        assert other != plain
        assert document._as_we_write(Licence, other) is None


def _read(read: Callable[[], Licence]) -> Licence | type[LicenceError]:
    try:
        return read()
    except LicenceError as error:
        return type(error)
