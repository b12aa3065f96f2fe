"""Revocation lists: the newest of each signer, and what they take back.

Rules kept here: the list with the highest number counts, per signing key; an older one changes nothing and holds nobody
up, because a site without a network may never see a newer one. A root may take back everything; an issuer only what
stands below it, so a list does not reach beyond its signer. The lists of a key that was itself taken back are void.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from licensing import armour, verify
from licensing.document import Issuer
from licensing.errors import LicenceError, ReplayError, RevokedError
from licensing.exchange import RevokedKey, RevokedLicence
from licensing.moments import when
from licensing.roots import Roots
from licensing.verify import CrlChain, LicenceChain, ReceiptChain


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """What is known of revocations: one list per signer."""

    lists: dict[str, CrlChain] = field(default_factory=dict)
    """By the signer's public key."""

    @property
    def number(self) -> int:
        """The highest number among the lists, 0 for none: what a request tells the vendor."""
        return max((each.crl.number for each in self.lists.values()), default=0)

    def with_list(self, new: CrlChain) -> Revocations:
        """The same with this list, if it is newer than the one of its signer; else the very same object."""
        known = self.lists.get(new.signer)
        if known is not None and new.crl.number <= known.crl.number:
            return self
        return Revocations(lists={**self.lists, new.signer: new})

    def refuse_older(self, new: CrlChain) -> None:
        """For a list that comes on its own.

        Raises:
            ReplayError: a newer one of the same signer is known.
        """
        known = self.lists.get(new.signer)
        if known is not None and new.crl.number < known.crl.number:
            raise ReplayError(
                f"the revocation list number {new.crl.number} is older than number {known.crl.number}, which is known "
                "here; nothing was changed. Ask the vendor for the newest"
            )

    def refuse(self, chain: LicenceChain) -> None:
        """Let only a licence pass that nobody took back.

        Raises:
            RevokedError: says who did, when and why.
        """
        licence = chain.licence
        for crl in self._in_force(chain.path):
            for entry in crl.crl.licences:
                if entry.id == licence.id:
                    raise RevokedError(_words(f"the licence {licence.id}", entry, crl))
        key = self._key_entry(chain.path)
        if key is not None and licence.id not in key[0].allow:
            raise RevokedError(
                _words(f"the licence {licence.id} is signed with a key that", key[0], key[1])
                + " The licence is not among those that its owner issued"
            )

    def refuse_receipt(self, chain: ReceiptChain) -> None:
        """Let only a receipt pass whose signer's key nobody took back.

        Raises:
            RevokedError: its key was taken back.
        """
        key = self._key_entry(chain.path)
        if key is not None:
            raise RevokedError(_words(f"the receipt {chain.receipt.id} is signed with a key that", key[0], key[1]))

    def _in_force(self, path: tuple[Issuer, ...]) -> Iterable[CrlChain]:
        """The lists that reach a document with these issuers above it: the roots', then each issuer's own."""
        above = {issuer.key for issuer in path}
        for crl in self.lists.values():
            if (not crl.path or crl.signer in above) and self._key_entry(crl.path) is None:
                yield crl

    def _key_entry(self, path: tuple[Issuer, ...]) -> tuple[RevokedKey, CrlChain] | None:
        """The entry that takes back one of these keys, by a root or by an issuer strictly above that key."""
        for at, issuer in enumerate(path):
            above = {each.key for each in path[:at]}
            for crl in self.lists.values():
                if crl.path and (crl.signer not in above or self._key_entry(crl.path) is not None):
                    continue
                for entry in crl.crl.keys:
                    if entry.key == issuer.key:
                        return entry, crl
        return None


def lists_in(text: str, roots: Roots) -> list[CrlChain]:
    """The genuine revocation lists of a vendor's file. One that is not is left out: the document counts without it."""
    content = armour.read(text)
    chains = (content.chain,) if content.label is armour.Label.CRL else content.lists
    found = []
    for chain in chains:
        try:
            found.append(verify.crl_chain(chain, roots))
        except LicenceError:
            if content.label is armour.Label.CRL:
                raise
    return found


def _words(what: str, entry: RevokedLicence | RevokedKey, crl: CrlChain) -> str:
    by = crl.path[-1].name if crl.path else "the vendor"
    reason = f" ({entry.reason})" if entry.reason else ""
    return (
        f"{what} was revoked by {by} on {when(entry.at)}{reason}, list number {crl.crl.number}; ask them for another."
    )
