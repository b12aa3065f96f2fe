"""The signing half: keys, certificates, licences. Runs at the vendor's or a reseller's desk, never on a node.

Private keys stay in their files (0600, never overwritten). A certificate or licence is written as a file that carries
its whole chain, so the buyer needs nothing else.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from licensing import armour, files, keys, verify
from licensing.document import Issuer, Licence, sign, signer
from licensing.errors import KeyFileError, UsageError
from licensing.roots import Root, Roots

ROOT_NAMES = ("current", "next", "spare")


def make_roots(name: str, folder: Path, *, development: bool = False) -> Roots:
    """Write `NAME-root-{current,next,spare}.key` and `NAME-roots.json`, the file that a build pins.

    Raises:
        KeyFileError: one of the files exists or cannot be written.
    """
    path = folder / f"{name}-roots.json"
    _refuse_existing(path, *(folder / f"{name}-root-{which}.key" for which in ROOT_NAMES))
    made = [
        Root(name=f"{name}-root-{which}", key=_new_key(folder / f"{name}-root-{which}.key")) for which in ROOT_NAMES
    ]
    roots = Roots(development=development, roots=tuple(made))
    write_new(path, msgspec.json.format(msgspec.json.encode(roots), indent=2).decode() + "\n")
    return roots


def make_issuer(root_key: Path, folder: Path, terms: Issuer) -> Path:
    """Write `NAME.key` for a new issuer and its certificate `NAME.cert`; gives the certificate's path.

    `terms.key` is filled in with the new key.

    Raises:
        KeyFileError: the root's key cannot be read, or a file exists.
    """
    root = keys.load(root_key)
    cert = folder / f"{terms.name}.cert"
    _refuse_existing(cert, folder / f"{terms.name}.key")
    issuer = msgspec.structs.replace(terms, key=_new_key(folder / f"{terms.name}.key"))
    write_new(cert, armour.wrap(armour.Label.ISSUER, sign(root, issuer)))
    return cert


def issue(issuer_key: Ed25519PrivateKey, issuer_cert: str, licence: Licence) -> str:
    """Sign a licence or voucher; gives the file's text.

    The certificate is trusted as the root's holder gave it: the vendor's own desk may know newer roots than this build.
    What it allows is checked by reading the result the way a buyer will.

    Raises:
        KeyFileError: the key is not the certificate's.
        ChainError: the licence goes beyond what the certificate allows.
    """
    chain = armour.unwrap(armour.Label.ISSUER, issuer_cert)
    root = signer(chain)
    text = armour.wrap(armour.Label.LICENCE, armour.LINK.join((chain, sign(issuer_key, licence))))
    trusted = Roots(development=False, roots=(Root(name="the certificate's own root", key=root),))
    issuer = verify.issuer_file(issuer_cert, trusted).issuer
    if issuer.key != keys.public_hex(issuer_key):
        raise KeyFileError(
            f"the key is not the one that the certificate of {issuer.name} is for; name the matching pair"
        )
    verify.licence_file(text, trusted)
    return text


def end_of_day(date: str) -> int:
    """The last second of a day (`YYYY-MM-DD`) anywhere on Earth: its end at UTC-12, so never before a local midnight.

    Raises:
        UsageError: not a date.
    """
    try:
        day = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageError(f"{date!r} is not a date; write YYYY-MM-DD") from error
    return int((day + timedelta(days=1, hours=12)).timestamp())


def write_new(path: Path, text: str) -> None:
    """Write a file that did not exist, readable by all.

    Raises:
        KeyFileError: it exists or cannot be written.
    """
    try:
        files.create_new(path, text.encode(), mode=0o644)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists and is not overwritten; name another file") from error
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error


def _new_key(path: Path) -> str:
    return keys.public_hex(keys.create(path))


def _refuse_existing(*paths: Path) -> None:
    """Look at all of them before the first is written, so that nothing half made is left."""
    for path in paths:
        if path.exists():
            raise KeyFileError(f"{path} exists; nothing is overwritten. Name another folder or another --name")
