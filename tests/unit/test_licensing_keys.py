"""Key files and the keys that may not be enrolled."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from licensing import keys
from licensing.errors import KeyFileError, WeakKeyError
from tests.fakes.vendor import seeded

P = 2**255 - 19
Y8 = int("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", 16).to_bytes(32, "big")
"""The y of a point of order 8, in the bytes of the wire."""


def encodings(y: int) -> list[str]:
    """Every 32-byte text that a lax decoder reads as this y: with either sign, and with p added where it fits."""
    values = [y, y + P] if y + P < 2**255 else [y]
    return [(value | sign << 255).to_bytes(32, "little").hex() for value in values for sign in (0, 1)]


SMALL_Y = [0, 1, P - 1, int.from_bytes(Y8, "little"), P - int.from_bytes(Y8, "little")]


@pytest.mark.parametrize("text", [text for y in SMALL_Y for text in encodings(y)])
def test_small_order_keys_are_refused_in_every_encoding(text: str) -> None:
    with pytest.raises(WeakKeyError):
        keys.public_key(text)


@pytest.mark.parametrize("y", [P, P + 1, P + 2, 2**255 - 1])
def test_keys_that_are_not_canonical_are_refused(y: int) -> None:
    with pytest.raises(WeakKeyError, match="canonical"):
        keys.public_key(y.to_bytes(32, "little").hex())


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "AB" * 32, "ab" * 33, "\n" + "ab" * 32])
def test_texts_that_are_no_keys_are_refused(text: str) -> None:
    with pytest.raises(WeakKeyError, match="64 lower-case hex digits"):
        keys.public_key(text)


@given(st.text(max_size=20))
def test_every_real_key_is_taken(name: str) -> None:
    text = keys.public_hex(seeded(name))
    assert keys.public_key(text).raw.hex() == text


def test_a_key_beside_the_curve_is_refused() -> None:
    with pytest.raises(WeakKeyError, match="not a point"):
        keys.public_key((2).to_bytes(32, "little").hex())


def test_under_a_key_beside_the_curve_nothing_verifies() -> None:
    key = keys.verifying_key((2).to_bytes(32, "little").hex())
    for signature in (seeded("x").sign(b"text"), bytes(64), (1).to_bytes(32, "little") + bytes(32)):
        assert not key.has_signed(signature, b"text")


@pytest.mark.parametrize("text", [text for y in SMALL_Y for text in encodings(y)])
def test_nor_is_a_small_order_key_taken_for_verifying(text: str) -> None:
    with pytest.raises(WeakKeyError):
        keys.verifying_key(text)


def test_a_new_key_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    first = keys.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.public_hex(keys.load_or_create(path)) == keys.public_hex(first)
    assert [each.name for each in tmp_path.iterdir()] == ["node.key"]


def test_a_key_is_written_as_openssl_writes_it(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "a.key")
    pem = Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert (tmp_path / "a.key").read_bytes() == pem


def test_a_key_that_somebody_else_wrote_is_read(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "a.key")
    text = (tmp_path / "a.key").read_text()
    for number, other in enumerate((text.replace("\n", "\r\n"), f"a comment\n{text}", text.rstrip("\n"), text)):
        path = tmp_path / f"{number}.key"
        path.write_text(other, newline="")
        assert keys.public_hex(keys.load(path)) == keys.public_hex(key)


def test_a_daemon_with_its_own_key_loads_no_readers_of_other_forms(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from licensing import keys; keys.load_or_create(Path(sys.argv[1]))"
    look = f"{code}; sys.exit('cryptography' in sys.modules)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", look, str(tmp_path / "node.key")], check=True)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    keys.create(path)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        keys.create(path)
    assert path.read_bytes() == before


def test_a_damaged_key_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(b"not a key")
    with pytest.raises(KeyFileError, match=r"node\.key is not an Ed25519 private key"):
        keys.load_or_create(path)
    assert path.read_bytes() == b"not a key"


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ec.key"
    path.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(KeyFileError, match="another kind of key"):
        keys.load(path)
