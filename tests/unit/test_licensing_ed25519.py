"""What the signature library takes and refuses, shown with points that no honest signer makes.

The curve's arithmetic is written out here (RFC 8032, 5.1.4, affine and slow), so that signatures can be made in every
crooked way: with the group's order added, with points of small and of mixed order, in encodings that are not canonical.
"""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError

import pytest

from licensing import keys
from licensing.ed25519 import PrivateKey, PublicKey
from licensing.errors import WeakKeyError
from tests.fakes.vendor import SITE

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
MESSAGE = b"a licence"
Point = tuple[int, int]
ZERO: Point = (0, 1)
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
"""Section 7.1: seed, public key, message, signature."""


def add(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P)
    return x % P, y % P


def times(number: int, point: Point) -> Point:
    total = ZERO
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def point(y: int, *, odd: bool) -> Point:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0
    return (P - x if x % 2 != odd else x), y


def encode(where: Point) -> bytes:
    return (where[1] | (where[0] & 1) << 255).to_bytes(32, "little")


BASE = point(4 * pow(5, -1, P) % P, odd=False)
EIGHTH = point(0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826, odd=False)
TORSION = [times(number, EIGHTH) for number in range(8)]
"""The eight points of small order."""


def secret(key: PrivateKey) -> tuple[int, bytes]:
    """The number behind a key, and what its nonces are made with."""
    digest = hashlib.sha512(key.seed).digest()
    number = int.from_bytes(digest[:32], "little") & ~(7 | 1 << 255) & ~(1 << 255) | 1 << 254
    return number, digest[32:]


def crooked(number: int, public: bytes, twist: Point = ZERO, *, nonce: int = 12345) -> bytes:
    """A signature by `number` under any encoding of a public key, with a point of small order added to R."""
    r = encode(add(times(nonce, BASE), twist))
    h = int.from_bytes(hashlib.sha512(r + public + MESSAGE).digest(), "little")
    return r + ((nonce + h * number) % L).to_bytes(32, "little")


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_the_standard(seed: str, public: str, message: str, signature: str) -> None:
    key = PrivateKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public.has_signed(bytes.fromhex(signature), bytes.fromhex(message))


def test_the_arithmetic_here_is_the_curve() -> None:
    number, prefix = secret(SITE)
    assert encode(times(number, BASE)) == SITE.public.raw
    nonce = int.from_bytes(hashlib.sha512(prefix + MESSAGE).digest(), "little") % L
    assert crooked(number, SITE.public.raw, nonce=nonce) == SITE.sign(MESSAGE)
    assert times(L, BASE) == ZERO
    assert len(set(TORSION)) == 8


@pytest.mark.parametrize("turns", range(1, 16))
def test_a_signature_with_the_group_order_added_is_refused(turns: int) -> None:
    """S + L is the same number in the group; all sums that fit into the 32 bytes."""
    signature = SITE.sign(MESSAGE)
    other = int.from_bytes(signature[32:], "little") + turns * L
    assert other < 2**256
    assert not SITE.public.has_signed(signature[:32] + other.to_bytes(32, "little"), MESSAGE)


@pytest.mark.parametrize("twist", TORSION[1:])
def test_a_point_of_small_order_in_r_is_refused_even_from_who_has_the_key(twist: Point) -> None:
    """A verifier that multiplies by the cofactor would take these: a second spelling of the same signature."""
    number, _ = secret(SITE)
    assert SITE.public.has_signed(crooked(number, SITE.public.raw), MESSAGE)
    assert not SITE.public.has_signed(crooked(number, SITE.public.raw, twist), MESSAGE)


@pytest.mark.parametrize("twist", TORSION)
def test_an_r_that_is_itself_of_small_order_is_refused(twist: Point) -> None:
    number, _ = secret(SITE)
    assert not SITE.public.has_signed(crooked(number, SITE.public.raw, twist, nonce=0), MESSAGE)


@pytest.mark.parametrize("twist", TORSION[1:])
def test_a_key_of_mixed_order_signs_now_and_then_and_only_for_who_has_the_key(twist: Point) -> None:
    """It holds where its small part falls out, h being a multiple of that part's order; nobody gains a signature."""
    number, _ = secret(SITE)
    mixed = PublicKey(encode(add(times(number, BASE), twist)))
    order = next(each for each in (2, 4, 8) if times(each, twist) == ZERO)
    for nonce in range(1, 33):
        signature = crooked(number, mixed.raw, nonce=nonce)
        h = int.from_bytes(hashlib.sha512(signature[:32] + mixed.raw + MESSAGE).digest(), "little") % L
        assert mixed.has_signed(signature, MESSAGE) is (h % order == 0)
    assert not mixed.has_signed(SITE.sign(MESSAGE), MESSAGE)


SMALL_KEYS = [
    (value | sign << 255).to_bytes(32, "little")
    for y in sorted({y for _, y in TORSION})
    for value in ((y, y + P) if y + P < 2**255 else (y,))
    for sign in (0, 1)
]


@pytest.mark.parametrize("raw", SMALL_KEYS, ids=bytes.hex)
def test_under_a_key_of_small_order_nothing_verifies_even_past_our_own_check(raw: bytes) -> None:
    """Anybody can make these: under such a key the private number plays no part."""
    with pytest.raises(WeakKeyError):
        keys.verifying_key(raw.hex())
    for nonce in range(1, 9):
        for twist in TORSION:
            assert not PublicKey(raw).has_signed(crooked(0, raw, twist, nonce=nonce), MESSAGE)


def test_all_fourteen_encodings_are_looked_at() -> None:
    assert len(set(SMALL_KEYS)) == 14


@pytest.mark.parametrize("offset", range(19))
def test_a_key_that_is_not_canonical_is_refused_whatever_point_it_is(offset: int) -> None:
    for sign in (0, 1):
        with pytest.raises(WeakKeyError, match="canonical"):
            keys.verifying_key((P + offset | sign << 255).to_bytes(32, "little").hex())


@pytest.mark.parametrize("length", [0, 1, 63, 65, 73])
def test_a_signature_of_another_length_does_not_hold(length: int) -> None:
    """The library takes both in one piece, and would not know where it was cut."""
    whole = SITE.sign(MESSAGE) + MESSAGE
    assert SITE.public.has_signed(whole[:64], whole[64:])
    assert not SITE.public.has_signed(whole[:length], whole[length:])


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_none(length: int) -> None:
    """The library reads 32 bytes from wherever it is pointed to."""
    for kind in (PrivateKey, PublicKey):
        with pytest.raises(ValueError, match="a key has 32 bytes"):
            kind(bytes(length))


def test_a_private_key_is_not_shown_and_not_changed() -> None:
    key = PrivateKey.generate()
    assert key.seed.hex() not in repr(key) and repr(key.seed) not in repr(key)
    assert repr(key) == f"PrivateKey(public={key.public!r})"
    with pytest.raises(FrozenInstanceError):
        key.seed = bytes(32)  # type: ignore[misc]
    assert PrivateKey.generate().seed != key.seed
