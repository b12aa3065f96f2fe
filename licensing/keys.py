"""Ed25519 keys: the files they live in, and which public keys may be enrolled.

A private key file is PKCS#8 PEM, created with mode 0600 and never overwritten; a vendor's may be encrypted. A public
key is written as 64 lower-case hex digits. Anybody can sign under a public key of small order, and some libraries take
that (OpenSSL does, libsodium does not): such a key is refused here, where it enters, whatever verifies afterwards,
together with encodings that are not canonical or not a point of the curve (RFC 8032, 5.1.3).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from licensing.ed25519 import PrivateKey, PublicKey
from licensing.errors import KeyFileError, WeakKeyError
from licensing.files import create_new, read_given

Passphrase = Callable[[Path], str]
"""Asks for the passphrase of a key file."""

_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of an Ed25519 key in PKCS#8 without attributes (RFC 8410, section 7)."""
_MOST_BYTES = 64 * 1024
_HEX = re.compile(r"[0-9a-f]{64}")
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/]{64})\n-----END PRIVATE KEY-----\n")

_P = 2**255 - 19
_D = (-121665 * pow(121666, -1, _P)) % _P
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
"""The y of the points of order 8; with its negative, 0, 1 and -1 these are the y of all eight small-order points."""
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


@lru_cache(maxsize=256)
def public_key(text: str) -> PublicKey:
    """Read 64 hex digits as a key that may be trusted to identify somebody.

    Raises:
        WeakKeyError: not 64 lower-case hex digits, not canonical, not on the curve, or of small order.
    """
    key = verifying_key(text)
    if not _is_on_curve(_y(text)):
        raise WeakKeyError(f"the public key {text} is not a point of the curve; copy it again in full")
    return key


@lru_cache(maxsize=256)
def verifying_key(text: str) -> PublicKey:
    """The same for a key that is about to prove itself by a signature, or is held against one that did.

    Under what is no point of the curve nothing verifies, so the costly half of the check is left to libsodium.

    Raises:
        WeakKeyError: not 64 lower-case hex digits, not canonical, or of small order.
    """
    y = _y(text)
    if y >= _P:
        raise WeakKeyError(f"the public key {text} is not in its canonical encoding; make a new key")
    if y in _SMALL_ORDER_Y:
        raise WeakKeyError(f"the public key {text} is of small order: anybody can sign under it; make a new key")
    return PublicKey(bytes.fromhex(text))


def public_hex(key: PrivateKey) -> str:
    """The public half as 64 hex digits."""
    return key.public.raw.hex()


def load_or_create(path: Path) -> PrivateKey:
    """Read the key at `path`, or make one there (0600) if there is none; two processes starting at once get the same.

    Raises:
        KeyFileError: the file is there and is not such a key, or cannot be read or made.
    """
    if os.path.lexists(path):
        return load(path)
    key = PrivateKey.generate()
    try:
        store_new(path, key)
    except FileExistsError:
        return load(path)
    except OSError as error:
        raise KeyFileError(f"cannot create the key {path}: {error.strerror}; check the folder's owner") from error
    return key


def create(path: Path, passphrase: str | None = None) -> PrivateKey:
    """Make a new key at `path` (0600), encrypted where a passphrase is given.

    Raises:
        KeyFileError: something is there already, or the folder cannot be written.
    """
    key = PrivateKey.generate()
    try:
        store_new(path, key) if passphrase is None else _store_encrypted(path, key, passphrase)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists; a key is never overwritten. Name another file or folder") from error
    except OSError as error:
        raise KeyFileError(f"cannot create the key {path}: {error.strerror}") from error
    return key


def load(path: Path, passphrase: Passphrase | None = None) -> PrivateKey:
    """Read a private key; `passphrase` is asked where the file is encrypted.

    Raises:
        KeyFileError: missing, unreadable, not an Ed25519 key in PEM, or the passphrase is not its own.
    """
    try:
        data = read_given(path, _MOST_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot read the key {path}: {error.strerror}") from error
    return _as_we_write(data) or _as_others_write(data, path, passphrase)


def _as_we_write(data: bytes) -> PrivateKey | None:
    """A key in the form of `store_new`: what reads all others takes 9 MB, and a daemon would keep them for good."""
    found = _PEM.fullmatch(data)
    der = base64.b64decode(found[1]) if found else b""
    return PrivateKey(der[len(_PKCS8) :]) if der.startswith(_PKCS8) else None


def _as_others_write(data: bytes, path: Path, passphrase: Passphrase | None) -> PrivateKey:
    """In any other PEM: `cryptography` is here for that and for passphrases, and no daemon has a file that needs it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data
    if encrypted and passphrase is None:
        raise KeyFileError(f"{path} is encrypted with a passphrase, which cannot be asked for here")
    secret = passphrase(path) if encrypted and passphrase is not None else None
    try:
        key = serialization.load_pem_private_key(data, password=secret.encode() if secret is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise KeyFileError(f"the passphrase does not open {path}; try again, nothing was changed") from error
        raise KeyFileError(f"{path} is not an Ed25519 private key in PEM; restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds another kind of key; an Ed25519 key is needed")
    return PrivateKey(key.private_bytes_raw())


def _store_encrypted(path: Path, key: PrivateKey, passphrase: str) -> None:
    """PKCS#8 with what `cryptography` holds for best; openssl reads it too."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    create_new(
        path,
        Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase.encode()),
        ),
        mode=0o600,
    )


def store_new(path: Path, key: PrivateKey) -> None:
    """Write a key to a file (0600) that did not exist.

    Raises:
        FileExistsError: something is there.
        OSError: nothing was changed.
    """
    body = base64.b64encode(_PKCS8 + key.seed)
    create_new(path, b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n" % body, mode=0o600)


def _is_on_curve(y: int) -> bool:
    """Whether x² = (y² - 1) / (d·y² + 1) has a root modulo p: by Euler's criterion on the product, u/v = u·v / v²."""
    product = (y * y - 1) * (_D * y * y + 1) % _P
    return pow(product, (_P - 1) // 2, _P) == 1


def _y(text: str) -> int:
    if _HEX.fullmatch(text) is None:
        raise WeakKeyError(f"{text[:80]!r} is not a public key; a key is 64 lower-case hex digits")
    return int.from_bytes(bytes.fromhex(text), "little") & (2**255 - 1)
