"""What a desk has taken back: licences and issuers' keys, and the numbered lists that say so.

Rules kept here: a list gets a new number only when something was added; nobody is on a list that he signs.
"""

from __future__ import annotations

from licensing import armour, keys
from licensing.armour import Label
from licensing.document import open_token
from licensing.ed25519 import PrivateKey
from licensing.errors import OtherSiteError
from licensing.exchange import Crl, RevokedKey, RevokedLicence
from licensing.vendor.sign import Signer, sign_root_list
from licensing.vendor.store import DeskStore


class Revocations:
    """The lists in one desk's ledger. `now` is Unix seconds."""

    def __init__(self, store: DeskStore) -> None:
        self._store = store

    def revoke(self, subject: str, reason: str, now: int) -> str:
        """Take back a licence id, or an issuer's key (64 hex digits); gives which of the two it was.

        Raises:
            OtherSiteError: no such licence was issued here.
        """
        what = "key" if len(subject) == 64 and set(subject) <= set("0123456789abcdef") else "licence"
        if what == "licence" and self._store.latest(subject) is None:
            raise OtherSiteError(f"this desk issued no licence {subject}; search it: stoker-license vendor list WORD")
        with self._store.transaction():
            self._store.put_revoked(what, subject, now, reason)
        return what

    def truly_issued(self, key: str) -> int:
        """How many licences of an issuer's key live on when it is revoked: those that this desk signed with it."""
        return len(self._store.ids_signed_by(key))

    def crl(self, by: Signer | PrivateKey, now: int) -> tuple[Crl, str]:
        """The newest revocation list of an issuer, or of a root's key; numbered anew when something was added.

        Gives the list and its file.
        """
        key = keys.public_hex(by.key if isinstance(by, Signer) else by)
        newest = self._store.newest_list(key)
        crl = self._list(key, (newest[0] if newest else 0) + 1, now)
        if newest is not None:
            old = self._opened_list(by, newest[1])
            if (old.licences, old.keys) == (crl.licences, crl.keys):
                return old, armour.wrap(Label.CRL, newest[1])
        chain = by.crl(crl) if isinstance(by, Signer) else sign_root_list(by, crl)
        with self._store.transaction():
            self._store.put_list(key, crl.number, now, chain)
        return crl, armour.wrap(Label.CRL, chain)

    def newest(self) -> tuple[str, ...]:
        """The newest list of each signer, as every file carries them."""
        return tuple(self._store.newest_lists()[-armour.MAX_LISTS :])

    def _list(self, signer: str, number: int, now: int) -> Crl:
        """A root's own key and an issuer's are never on their own list."""
        return Crl(
            id=f"crl-{signer[:8]}-{number}",
            iat=now,
            number=number,
            licences=tuple(
                RevokedLicence(id=subject, at=at, reason=reason)
                for subject, at, reason in self._store.revoked("licence")
            ),
            keys=tuple(
                RevokedKey(key=subject, at=at, reason=reason, allow=tuple(self._store.ids_signed_by(subject)))
                for subject, at, reason in self._store.revoked("key")
                if subject != signer
            ),
        )

    def _opened_list(self, by: Signer | PrivateKey, chain: str) -> Crl:
        key = by.key if isinstance(by, Signer) else by
        return open_token(Crl, chain.split(armour.LINK)[-1], key.public)
