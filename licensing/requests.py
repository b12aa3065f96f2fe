"""What a site sends its vendor, and what it takes back from it: requests, tombstones, answers, receipts.

Rules kept here: a request is on disk before it is shown, waits 90 days, and is answered once; a licence that was given
back comes back only with a higher generation; a tombstone asked for twice is the same text.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from licensing import armour, keys, verify
from licensing.document import Licence, short, sign
from licensing.ed25519 import PrivateKey
from licensing.errors import OtherSiteError, ReplayError, UsageError
from licensing.exchange import Receipt, Release, Request, Want
from licensing.moments import when
from licensing.plans import DAY_S
from licensing.store import Asked, Installed, Ledger, Tombstone
from licensing.verify import LicenceChain, ReceiptChain

PENDING_S = 90 * DAY_S
_OF_MACHINE = "request-of-machine"
"""Names the request that the site made by itself, because of its machine."""
_KEEP = 32
"""Requests that may be pending at once; the oldest make way."""

Commitment = Callable[[], str | None]
"""Gives the commitment to this site's hardware (`Short`), `None` where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """Something to send to the vendor."""

    id: str
    token: str
    """Bare: what a QR code or a paste carries."""
    file: str
    """In armour: what a file carries."""
    until: int | None = None
    """Until when its answer is taken."""


class Requests:
    """The requests of one site. Used from the thread that owns the ledger."""

    def __init__(self, ledger: Ledger, key: PrivateKey, commitment: Commitment) -> None:
        self._ledger = ledger
        self._key = key
        self._hex = keys.public_hex(key)
        self._commitment = commitment

    def ask(self, want: Want, licence: Licence | None, crl: int, at: int, *, about_machine: bool = False) -> Outgoing:
        """Make a request, and keep it as pending.

        `about_machine`: nobody asked for it but the machine, which is not the one of the licence.
        """
        counter, head = self._ledger.audit_head()
        request = Request(
            id=secrets.token_hex(12),
            iat=at,
            want=want,
            licence=licence.id if licence else None,
            generation=licence.generation if licence else 0,
            counter=counter,
            head=short(bytes.fromhex(head)),
            fingerprint=self._commitment(),
            crl=crl,
        )
        token, until = sign(self._key, request), at + PENDING_S
        with self._ledger.transaction():
            self._ledger.put_request(Asked(id=request.id, want=want, made_at=at, until=until, text=token), keep=_KEEP)
            if about_machine:
                self._ledger.run("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (_OF_MACHINE, request.id))
            self._ledger.audit(at, "requested", request.id, want=want, licence=request.licence)
        return Outgoing(id=request.id, token=token, file=armour.wrap(armour.Label.REQUEST, token), until=until)

    def again(self, want: Want, licence: Licence, at: int) -> Outgoing | None:
        """The newest request that waits and asks for just this, about the machine as it is."""
        for asked in self._ledger.pending(at):
            paper = verify.site_paper(Request, asked.text).paper
            if (paper.want, paper.licence, paper.fingerprint) == (want, licence.id, self._commitment()):
                file = armour.wrap(armour.Label.REQUEST, asked.text)
                return Outgoing(id=asked.id, token=asked.text, file=file, until=asked.until)
        return None

    def superseded(self, pending: Sequence[Asked], licence: Licence | None, *, machine_fits: bool) -> frozenset[str]:
        """Those of them (newest first) that nobody waits for any more, though an answer would still be taken.

        A newer one asks for the same; a licence of this site was signed after they were made, or answers a later
        one; or it was made because of the machine, and the machine fits the licence now.
        """
        signed = licence.iat if licence is not None and licence.site is not None else 0
        before = self._before(licence.request) if licence is not None and licence.request else frozenset[str]()
        row = self._ledger.one("SELECT value FROM meta WHERE name = ?", (_OF_MACHINE,)) if machine_fits else None
        found, wants = {row[0]} if row else set[str](), set[str]()
        for each in pending:
            is_older = each.made_at < signed or each.id in before
            if each.want in wants or (each.want != Want.USAGE and is_older):
                found.add(each.id)
            wants.add(each.want)
        return frozenset(found & {each.id for each in pending})

    def release(self, licence: Licence, at: int, to: str | None = None) -> Outgoing:
        """Give the licence back; with `to`, the text of another site's request, ask for it to go there.

        Raises:
            UsageError: a voucher is bound to nobody.
            LicenceError: `to` is no request of another site.
        """
        if licence.site is None:
            raise UsageError(f"{licence.id} is a voucher and bound to no site: there is nothing to give back")
        other = self._request_of_other(to) if to is not None else None
        stone = self._ledger.tombstone(licence.id)
        if stone is None or stone.generation < licence.generation:
            stone = self._bury(licence, at)
        chain = stone.text if other is None else armour.LINK.join((stone.text, other))
        return Outgoing(id=licence.id, token=chain, file=armour.wrap(armour.Label.RELEASE, chain))

    def refuse_returned(self, licence: Licence) -> None:
        """Let only a licence pass that was not given back, or came back since.

        Raises:
            ReplayError: it was given back.
        """
        stone = self._ledger.tombstone(licence.id)
        if stone is not None and licence.generation <= stone.generation:
            raise ReplayError(
                f"the licence {licence.id} was given back by this site {when(stone.at)}; ask the vendor for a new one: "
                "stoker-license export-request"
            )

    def refuse_unasked(self, licence: Licence, known: Installed | None, at: int) -> None:
        """Let an answer pass only where its request is pending; a licence that answers none passes.

        Raises:
            ReplayError: the request is not one of this site's, was answered, or waited too long.
        """
        if licence.request is None or (known is not None and known.rev == licence.rev):
            return
        asked = self._ledger.request(licence.request)
        new = "make a new one: stoker-license export-request"
        if asked is None:
            raise ReplayError(f"the licence {licence.id} answers the request {licence.request}, not one of here; {new}")
        if asked.answer:
            raise ReplayError(f"the request {asked.id} was answered before, by {asked.answer}; {new}")
        if asked.until <= at:
            raise ReplayError(f"the request {asked.id} could be answered until {when(asked.until)}; {new}")

    def refuse_receipt(self, chain: ReceiptChain, installed: LicenceChain) -> None:
        """Let only a receipt pass for the installed licence, by its issuer or one above.

        Raises:
            OtherSiteError: it is another site's or licence's, or of another issuer.
        """
        receipt: Receipt = chain.receipt
        if receipt.site != self._hex or receipt.licence != installed.licence.id:
            raise OtherSiteError(
                f"the receipt {receipt.id} is for the licence {receipt.licence} of site {receipt.site[:16]}…, here is "
                f"{installed.licence.id} of {self._hex[:16]}…; import it there"
            )
        if len(chain.path) > 1 and chain.path[-1].name != installed.issuer.name:
            raise OtherSiteError(
                f"the receipt {receipt.id} is of {chain.path[-1].name}, and "
                f"the licence of {installed.issuer.name}; ask them"
            )

    def _before(self, request_id: str) -> frozenset[str]:
        """Those that were made before one."""
        sql = "SELECT id FROM request WHERE rowid < (SELECT rowid FROM request WHERE id = ?)"
        return frozenset(str(row[0]) for row in self._ledger.run(sql, (request_id,)))

    def _bury(self, licence: Licence, at: int) -> Tombstone:
        counter, head = self._ledger.audit_head()
        release = Release(
            id=f"rel-{secrets.token_hex(8)}",
            iat=at,
            licence=licence.id,
            rev=licence.rev,
            generation=licence.generation,
            site=self._hex,
            counter=counter,
            head=head,
        )
        stone = Tombstone(licence=licence.id, generation=licence.generation, at=at, text=sign(self._key, release))
        with self._ledger.transaction():
            self._ledger.put_tombstone(stone)
            self._ledger.audit(at, "released", licence.id, generation=licence.generation)
        return stone

    def _request_of_other(self, text: str) -> str:
        found = verify.site_paper(Request, armour.bare(armour.Label.REQUEST, text))
        if found.key == self._hex:
            raise UsageError(
                "that request was made by this site itself; export one at the site that the licence goes to"
            )
        refuse_unmoving(found.paper)
        return found.text


def refuse_unmoving(asked: Request) -> None:
    """Let only a request pass with which a site asks for a licence that another one gives back.

    Raises:
        UsageError: it asks for something else.
    """
    if asked.want not in (Want.TRANSFER, Want.ACTIVATE):
        raise UsageError(
            f"the request {asked.id} asks for {asked.want}; make one at the site that the licence goes to: "
            "stoker-license export-request --want transfer"
        )
