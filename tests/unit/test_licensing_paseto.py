"""PASETO v4.public against the standard's own vectors, and against every single changed bit."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from licensing import paseto
from licensing.ed25519 import PrivateKey, PublicKey
from licensing.errors import LicenceError, SignatureError, TokenError
from tests.fakes.vendor import SITE, seeded

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "paseto" / "v4-public.json").read_text()
)["tests"]
GOOD = [vector for vector in VECTORS if not vector["expect-fail"]]
BAD = [vector for vector in VECTORS if vector["expect-fail"]]
ORDER = 2**252 + 27742317777372353535851937790883648493
"""The order of the curve's prime subgroup, RFC 8032 5.1."""


def by_name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def test_all_vectors_of_the_standard_are_here() -> None:
    assert [by_name(vector) for vector in VECTORS] == ["4-S-1", "4-S-2", "4-S-3", "4-F-1", "4-F-2", "4-F-3", "4-F-4"]


@pytest.mark.parametrize("vector", GOOD, ids=by_name)
def test_a_vector_is_signed_to_the_letter(vector: dict[str, Any]) -> None:
    key = PrivateKey(bytes.fromhex(vector["secret-key-seed"]))
    token = paseto.sign(
        key,
        vector["payload"].encode(),
        footer=vector["footer"].encode(),
        implicit=vector["implicit-assertion"].encode(),
    )
    assert token == vector["token"]


@pytest.mark.parametrize("vector", GOOD, ids=by_name)
def test_a_vector_verifies(vector: dict[str, Any]) -> None:
    key = PublicKey(bytes.fromhex(vector["public-key"]))
    payload = paseto.verify(key, vector["token"], implicit=vector["implicit-assertion"].encode())
    assert payload == vector["payload"].encode()
    assert paseto.split(vector["token"]).footer == vector["footer"].encode()


@pytest.mark.parametrize("vector", BAD, ids=by_name)
def test_a_failing_vector_is_refused(vector: dict[str, Any]) -> None:
    key = PublicKey(bytes.fromhex(GOOD[0]["public-key"]))
    with pytest.raises((TokenError, SignatureError)):
        paseto.verify(key, vector["token"], implicit=vector["implicit-assertion"].encode())


def test_pae_as_the_standard_writes_it() -> None:
    assert paseto.pae() == bytes(8)
    assert paseto.pae(b"") == b"\x01" + bytes(15)
    assert paseto.pae(b"test") == b"\x01" + bytes(7) + b"\x04" + bytes(7) + b"test"


@given(payload=st.binary(max_size=300), footer=st.binary(max_size=80), implicit=st.binary(max_size=20))
def test_what_was_signed_comes_back(payload: bytes, footer: bytes, implicit: bytes) -> None:
    token = paseto.sign(SITE, payload, footer=footer, implicit=implicit)
    assert paseto.verify(SITE.public, token, implicit=implicit) == payload
    assert paseto.split(token).footer == footer


@given(st.data())
def test_any_changed_bit_is_refused(data: st.DataObject) -> None:
    token = paseto.sign(SITE, b'{"seats":8}', footer=b'{"kid":"x"}', implicit=b"licence")
    spot = data.draw(st.integers(0, len(token) * 8 - 1))
    raw = bytearray(token.encode())
    raw[spot // 8] ^= 1 << spot % 8
    with pytest.raises(LicenceError):
        paseto.verify(SITE.public, raw.decode("latin-1"), implicit=b"licence")


def test_another_implicit_assertion_is_refused() -> None:
    token = paseto.sign(SITE, b"{}", implicit=b"lease")
    with pytest.raises(SignatureError):
        paseto.verify(SITE.public, token, implicit=b"licence")


def test_another_key_is_refused() -> None:
    with pytest.raises(SignatureError):
        paseto.verify(seeded("somebody else").public, paseto.sign(SITE, b"{}"))


def test_a_signature_with_the_group_order_added_is_refused() -> None:
    """S + L is the same number in the group: a verifier that does not compare with L takes a second spelling."""
    token = paseto.sign(SITE, b"{}")
    parts = paseto.split(token)
    s = int.from_bytes(parts.signature[32:], "little") + ORDER
    other = parts.payload + parts.signature[:32] + s.to_bytes(32, "little")
    with pytest.raises(SignatureError):
        paseto.verify(SITE.public, paseto.HEADER + base64.urlsafe_b64encode(other).rstrip(b"=").decode())


@pytest.mark.parametrize("tail", ["=", "==", " ", "\n", ".", "é", "+", "/", "A" * 65536])
def test_other_spellings_are_refused(tail: str) -> None:
    with pytest.raises(LicenceError):
        paseto.verify(SITE.public, paseto.sign(SITE, b"{}") + tail)


@given(st.text("AQgwBEz09-_+/=\n é", max_size=9))
@example("AB")
@example("AAB")
@example("AA==")
@example("A+/A")
@example("A")
@example("")
def test_a_text_is_read_if_it_is_what_its_bytes_are_written_as(text: str) -> None:
    """Base64 by the standard library and compared whole, which is the slower way to the same answer."""
    padded = text + "=" * (-len(text) % 4)
    try:
        data = base64.b64decode(padded, altchars="-_", validate=True)
        canonical = base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text
    except ValueError:
        canonical = False
    if canonical:
        assert paseto._decode(text) == data
    else:
        with pytest.raises(TokenError):
            paseto._decode(text)
