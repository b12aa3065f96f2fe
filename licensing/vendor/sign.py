"""The signing half: keys, certificates, licences, lists, receipts. Runs at the vendor's or a reseller's desk.

Private keys stay in their files (0600, never overwritten, encrypted where a passphrase was given). Whatever is signed
here is read once more the way a buyer will read it, before anybody gets it; and it is written as a file that carries
its whole chain, so the buyer needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from licensing import armour, files, keys, verify
from licensing.armour import Label
from licensing.document import Issuer, Licence, sign, signer
from licensing.ed25519 import PrivateKey
from licensing.errors import ArmourError, ChainError, KeyFileError, UsageError
from licensing.exchange import Crl, Receipt
from licensing.keys import Passphrase
from licensing.plans import DAY_S, NEVER
from licensing.roots import Root, Roots, pinned

ROOT_NAMES = ("current", "next", "spare")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """An issuer's key with its certificate, ready to sign.

    The certificate is trusted as the root's holder gave it: the vendor's own desk may know newer roots than this build.
    """

    key: PrivateKey
    chain: str
    """Its certificate, behind the one of the issuer above it where it is a reseller's."""
    path: tuple[Issuer, ...]

    @property
    def issuer(self) -> Issuer:
        """Who signs."""
        return self.path[-1]

    @property
    def trusted(self) -> Roots:
        """The certificate's own root."""
        return own_root(self.chain)

    def licence(self, licence: Licence, lists: tuple[str, ...] = ()) -> str:
        """Sign a licence or voucher; gives the file's text, with revocation lists beside it.

        Raises:
            ChainError: the licence goes beyond what the certificate allows.
        """
        text = armour.wrap(Label.LICENCE, armour.LINK.join((self.chain, sign(self.key, licence))), lists)
        verify.licence_file(text, self.trusted)
        return text

    def receipt(self, receipt: Receipt, lists: tuple[str, ...] = ()) -> str:
        """Sign a receipt; gives the file's text.

        Raises:
            ChainError: beyond the certificate's dates.
        """
        chain = armour.LINK.join((self.chain, sign(self.key, receipt)))
        verify.receipt_chain(chain, self.trusted)
        return armour.wrap(Label.RECEIPT, chain, lists)

    def crl(self, crl: Crl) -> str:
        """Sign a revocation list for what stands below this issuer; gives its chain."""
        chain = armour.LINK.join((self.chain, sign(self.key, crl)))
        verify.crl_chain(chain, self.trusted)
        return chain


def load_signer(key: Path, cert: Path, passphrase: Passphrase | None = None) -> Signer:
    """Read an issuer's key and certificate.

    Raises:
        KeyFileError: one cannot be read, or they do not belong together.
    """
    opened, text = keys.load(key, passphrase), read_text(cert)
    try:
        return make_signer(opened, text)
    except ArmourError as error:
        raise KeyFileError(f"cannot use the certificate {cert}: {error.message}") from error


def make_signer(key: PrivateKey, cert: str) -> Signer:
    """Put a key and its certificate together.

    Raises:
        KeyFileError: the key is not the certificate's.
    """
    chain = armour.unwrap(Label.ISSUER, cert)
    path = verify.issuer_file(cert, own_root(chain)).path
    if path[-1].key != keys.public_hex(key):
        raise KeyFileError(
            f"the key is not the one that the certificate of {path[-1].name} is for; name the matching pair"
        )
    return Signer(key=key, chain=chain, path=path)


def sign_root_list(root_key: PrivateKey, crl: Crl) -> str:
    """A revocation list of a root: it may take back everything."""
    return sign(root_key, crl)


def make_roots(name: str, folder: Path, *, development: bool = False, passphrase: str | None = None) -> Roots:
    """Write `NAME-root-{current,next,spare}.key` and `NAME-roots.json`, the file that a build pins.

    Raises:
        KeyFileError: one of the files exists or cannot be written.
    """
    path = folder / f"{name}-roots.json"
    _refuse_existing(path, *(folder / f"{name}-root-{which}.key" for which in ROOT_NAMES))
    made = [
        Root(name=f"{name}-root-{which}", key=_new_key(folder / f"{name}-root-{which}.key", passphrase))
        for which in ROOT_NAMES
    ]
    roots = Roots(development=development, roots=tuple(made))
    write_new(path, msgspec.json.format(msgspec.json.encode(roots), indent=2).decode() + "\n")
    return roots


def make_issuer(
    by: Path | Signer,
    folder: Path,
    terms: Issuer,
    *,
    passphrase: Passphrase | None = None,
    new_passphrase: str | None = None,
) -> Path:
    """Write `NAME.key` for a new issuer and its certificate `NAME.cert`; gives the certificate's path.

    `by` is a root's key file, or an issuer that may delegate: the new one is then its reseller. `terms.key` is filled
    in with the new key.

    Raises:
        KeyFileError: the signing key cannot be read, or a file exists.
        ChainError: the terms go beyond the issuer above; nothing was written.
    """
    cert, key = folder / f"{terms.name}.cert", folder / f"{terms.name}.key"
    _refuse_existing(cert, key)
    if isinstance(by, Signer) and by.issuer.delegate == 0:
        raise ChainError(f"{by.issuer.name} may make no further issuers; an issuer may that was made with --delegate")
    signing, above = (by.key, by.chain) if isinstance(by, Signer) else (keys.load(by, passphrase), None)
    trial = msgspec.structs.replace(terms, key=keys.public_hex(PrivateKey.generate()))
    _read_back(_cert(signing, above, trial))
    issuer = msgspec.structs.replace(terms, key=_new_key(key, new_passphrase))
    write_new(cert, _cert(signing, above, issuer))
    return cert


def issue(issuer_key: PrivateKey, issuer_cert: str, licence: Licence) -> str:
    """Sign a licence or voucher; gives the file's text.

    Raises:
        KeyFileError: the key is not the certificate's.
        ChainError: the licence goes beyond what the certificate allows.
    """
    return make_signer(issuer_key, issuer_cert).licence(licence)


def end_of_day(date: str) -> int:
    """The last second of a day (`YYYY-MM-DD`) anywhere on Earth: its end at UTC-12, so never before a local midnight.

    Raises:
        UsageError: not a date, or one whose end no calendar has.
    """
    try:
        day = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageError(f"{date!r} is not a date; write YYYY-MM-DD") from error
    end = int(day.timestamp()) + DAY_S + 12 * 3600
    if end > NEVER:
        raise UsageError(f"{date} is over after the year 9999 somewhere on Earth; name an earlier day")
    return end


def write_new(path: Path, text: str) -> None:
    """Write a file that did not exist, readable by all. One that holds just this text already is fine.

    Raises:
        KeyFileError: it exists or cannot be written.
    """
    try:
        files.create_new(path, text.encode(), mode=0o644)
    except FileExistsError as error:
        if path.is_file() and path.read_bytes() == text.encode():
            return
        raise KeyFileError(f"{path} exists and is not overwritten; name another file") from error
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        KeyFileError: it cannot be read, is far too large, or is no text.
    """
    try:
        return _text(files.read_given(path, armour.MAX_FILE_CHARS), str(path))
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error


def read_paper(path: Path) -> str:
    """What a site or another desk sent: a file, or pasted on standard input for `-`.

    Raises:
        KeyFileError: it cannot be read, is far too large, or is no text.
    """
    origin = files.origin(path)
    try:
        return _text(files.read_given_or_stdin(path, armour.MAX_FILE_CHARS), origin)
    except OSError as error:
        raise KeyFileError(f"cannot read {origin}: {error.strerror}; name the file, or - to paste it") from error


def _text(data: bytes, origin: str) -> str:
    if len(data) > armour.MAX_FILE_CHARS:
        raise KeyFileError(f"{origin} is larger than {armour.MAX_FILE_CHARS} bytes, which no such file is")
    try:
        return files.as_text(data)
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{origin} is not text; such a file begins with -----BEGIN STOKER …-----") from error


def _cert(key: PrivateKey, above: str | None, terms: Issuer) -> str:
    token = sign(key, terms)
    return armour.wrap(Label.ISSUER, token if above is None else armour.LINK.join((above, token)))


def _read_back(cert: str) -> None:
    verify.issuer_file(cert, own_root(armour.unwrap(Label.ISSUER, cert)))


def own_root(chain: str) -> Roots:
    """The root that a chain names, trusted because this desk keeps the chain."""
    root, known = signer(chain.split(armour.LINK)[0]), pinned()
    development = known.development and known.find(root) is not None
    return Roots(development=development, roots=(Root(name="the certificate's own root", key=root),))


def _new_key(path: Path, passphrase: str | None) -> str:
    return keys.public_hex(keys.create(path, passphrase))


def _refuse_existing(*paths: Path) -> None:
    """Look at all of them before the first is written, so that nothing half made is left."""
    for path in paths:
        if path.exists():
            raise KeyFileError(f"{path} exists; nothing is overwritten. Name another folder or another --name")
