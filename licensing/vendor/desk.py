"""The vendor's desk: issues, renews, amends, binds, moves, revokes and acknowledges, and remembers all of it.

Rules kept here: what leaves the desk is in its ledger first; a request is answered once, and asked again it gets the
same answer; a licence moves twice a year; every file carries the newest revocation lists. What looks odd about a site
is said (`Answer.remarks`), and refuses nothing.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from licensing import armour, usage_check, usage_file, usage_verify, verify
from licensing.armour import Label
from licensing.document import Licence, short
from licensing.errors import ChainError, OtherSiteError, ReplayError, RevokedError, UsageError
from licensing.exchange import Receipt, Release, Request, Usage, Want
from licensing.moments import when
from licensing.plans import DAY_S, REPORT_DUE_S
from licensing.requests import refuse_unmoving
from licensing.usage_check import Finding, Grade
from licensing.usage_file import UsageFile
from licensing.vendor.revocations import Revocations
from licensing.vendor.sign import Signer, own_root
from licensing.vendor.store import COLUMNS, Answered, DeskStore, Issued
from licensing.verify import SiteToken

TRANSFERS_A_YEAR = 2
_YEAR_S = 365 * DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A file for a buyer."""

    licence: Licence
    text: str
    remarks: tuple[str, ...] = ()
    """What the vendor should know, and the buyer need not."""
    repeated: bool = False
    """The request was answered before, with this same file."""


class Desk:
    """One folder's ledger. `now` is Unix seconds."""

    def __init__(self, folder: Path) -> None:
        self._store = DeskStore(folder / "desk.db")
        self.revocations = Revocations(self._store)

    def close(self) -> None:
        """Close the ledger."""
        self._store.close()

    # --- licences ---

    def issue(self, signer: Signer, licence: Licence, now: int) -> Answer:
        """Sign a first revision.

        Raises:
            ReplayError: this desk issued the id before.
            ChainError: the licence goes beyond what the signer may give.
        """
        if self._store.latest(licence.id) is not None:
            raise ReplayError(f"the licence {licence.id} was issued before; renew or amend it, or choose another --id")
        return self._out(signer, licence, "issue", now)

    def renew(self, signer: Signer, licence_id: str, exp: int, now: int, **terms: object) -> Answer:
        """Let a licence run until `exp`; what it said besides stays. `terms` are fields of `Licence` that change.

        Raises:
            OtherSiteError: not of this desk.
            RevokedError: it was revoked.
        """
        licence = self._current(licence_id)
        terms = {"nbf": now, "exp": exp, **terms}
        if licence.updates_until is not None:
            terms.setdefault("updates_until", exp)
        answer = self._out(signer, _next(licence, now, request=None, **terms), "renew", now)
        if exp >= licence.exp:
            return answer
        earlier = (
            f"rev {answer.licence.rev} ends earlier than rev {licence.rev} did, which is until {when(licence.exp)}; if "
            "that is not meant, renew it once more before it is sent"
        )
        return replace(answer, remarks=(earlier,))

    def amend(self, signer: Signer, licence_id: str, now: int, **terms: object) -> Answer:
        """Change a licence in the middle of its term: seats, edition, features.

        Raises:
            OtherSiteError: not of this desk.
            RevokedError: it was revoked.
        """
        licence = self._current(licence_id)
        return self._out(signer, _next(licence, now, request=None, **terms), "amend", now)

    def activate(
        self, signer: Signer, text: str, now: int, *, licence_id: str | None = None, exp: int | None = None
    ) -> Answer:
        """Answer a request to activate or to renew: bind the licence to the site that asks.

        Raises:
            LicenceError: not a request, for a licence of another desk or site, or revoked.
        """
        asked = verify.site_paper(Request, armour.bare(Label.REQUEST, text))
        before = self._answered_before(asked)
        if before is not None:
            return before
        if asked.paper.want not in (Want.ACTIVATE, Want.RENEW):
            verb = "transfer RELEASE" if asked.paper.want is Want.TRANSFER else "receipt FILE"
            raise UsageError(f"the request is about {asked.paper.want}; answer it with: stoker-license vendor {verb}")
        licence = self._current(self._named(asked, licence_id))
        if licence.site not in (None, asked.key):
            raise OtherSiteError(
                f"the licence {licence.id} is bound to site {licence.site[:16]}…, and site {asked.key[:16]}… asks; "
                "have the first one give it back: stoker-license transfer; then: stoker-license vendor transfer RELEASE"
            )
        terms = {"nbf": now, "exp": exp} if exp is not None else {}
        return self._reply(signer, asked, _bound(licence, asked, now, **terms), now, "activate")

    def transfer(
        self, signer: Signer, text: str, now: int, *, request: str | None = None, beyond: str | None = None
    ) -> Answer:
        """Move a licence: from the site that gave it back to the one whose request came with it, or beside it.

        Raises:
            LicenceError: not a tombstone, an old one, or moved too often; `beyond` names why it may move once more.
        """
        tokens = armour.bare(Label.RELEASE, text).split(armour.LINK)
        stone = verify.site_paper(Release, tokens[0])
        if len(tokens) > 2:
            raise ChainError(
                f"{len(tokens)} signed parts where a release and one request belong; ask for the original file"
            )
        if stone.paper.node is not None:
            raise UsageError(f"{stone.paper.id} frees the seats of one node; a licence moves by a release of its site")
        if len(tokens) > 1:
            asked = verify.site_paper(Request, tokens[1])
        elif request is not None:
            asked = verify.site_paper(Request, armour.bare(Label.REQUEST, request))
        else:
            raise UsageError(
                "the release does not say where the licence goes; name the other site's request as well: --request FILE"
            )
        before = self._answered_before(asked)
        if before is not None:
            return before
        refuse_unmoving(asked.paper)
        licence = self._current(stone.paper.licence)
        self._refuse_move(licence, stone, now, beyond)
        new = _bound(licence, asked, now, generation=licence.generation + 1)
        sites = stone.key, asked.key
        answer = self._reply(signer, asked, new, now, "transfer", move=(sites, beyond or ""))
        head = short(bytes.fromhex(stone.paper.head)) if stone.paper.head else None
        gave = self._chain_remarks(stone.key, stone.paper.counter, head)
        return replace(answer, remarks=(*gave, *answer.remarks))

    # --- usage ---

    def verify_usage(self, given: Sequence[UsageFile], now: int) -> list[Finding]:
        """Check usage reports, together with those that this desk has of the same licences."""
        found: list[Finding] = []
        for licence_id in dict.fromkeys(each.usage.licence for each in given):
            named = {usage_check.digest(each.token) for each in given}
            stored = [usage_file.read(text) for text in self._store.reports(licence_id)]
            here = [each for each in stored if usage_check.digest(each.token) not in named]
            known = self._store.latest(licence_id)
            licence = _licence_of(known.text) if known else None
            mine = [each for each in given if each.usage.licence == licence_id]
            said = usage_verify.check([*here, *mine], licence, now)
            about = {each.usage.id for each in mine}
            found += [each for each in said if each.report in about or each.grade is not Grade.NOTE]
        return found

    def receipt(self, signer: Signer, given: UsageFile, now: int, report_by: int | None = None) -> tuple[Receipt, str]:
        """Accept a usage report; gives the receipt and its file. The next report is due 35 days after a like period.

        Raises:
            ReplayError: it contradicts a report that this desk has.
            LicenceError: it is wrong in itself, or of another desk's licence.
        """
        report, found = given.token, self.verify_usage([given], now)
        bad = [each for each in found if each.grade is not Grade.NOTE and each.report == report.paper.id]
        if bad:
            kind = ReplayError if any(each.grade is Grade.FORK for each in bad) else ChainError
            raise kind(f"no receipt for {report.paper.id}: it {bad[0].words}; talk to the buyer")
        usage, digest = report.paper, usage_check.digest(report)
        licence = self._current(usage.licence)
        before = self._store.receipt(digest)
        if before is not None:
            return verify.receipt_chain(armour.unwrap(Label.RECEIPT, before), signer.trusted).receipt, before
        due = report_by or usage.ends + (usage.ends - usage.begins) + REPORT_DUE_S
        receipt = Receipt(
            id=f"rec-{secrets.token_hex(8)}",
            iat=now,
            licence=licence.id,
            site=report.key,
            usage=usage.id,
            number=usage.number,
            digest=digest,
            report_by=due,
            first=self._held_from(usage, found),
        )
        file = signer.receipt(receipt, self.revocations.newest())
        with self._store.transaction():
            self._store.put_report(licence.id, usage.number, digest, usage.id, now, usage.gpu_ms, report.text)
            self._store.put_receipt(digest, receipt.id, now, due, file)
        return receipt, file

    def _held_from(self, usage: Usage, found: Iterable[Finding]) -> int:
        """The number from which on nothing is missing up to this report: each is here, by the digest in the next.

        A site numbers on under its next licence, so they may be of others.
        """
        bad = {each.report for each in found if each.grade is not Grade.NOTE}
        while (text := self._store.report(usage.prev)) is not None:
            before = usage_file.read(text).usage
            if before.id in bad:
                break
            usage = before
        return usage.number

    # --- looking things up ---

    def search(self, words: Sequence[str]) -> list[Issued]:
        """Every revision in which each of the words occurs, oldest first."""
        return self._store.search(words)

    def export_csv(self, words: Sequence[str]) -> str:
        """The same as a table for a spreadsheet; the files themselves are left out."""
        out = io.StringIO()
        names = [name for name in COLUMNS if name != "text"]
        table = csv.writer(out, lineterminator="\n")
        table.writerow(names)
        for each in self._store.search(words):
            table.writerow([_cell(getattr(each, name)) for name in names])
        return out.getvalue()

    # --- underneath ---

    def _current(self, licence_id: str) -> Licence:
        known = self._store.latest(licence_id)
        if known is None:
            raise OtherSiteError(
                f"this desk did not issue the licence {licence_id}; ask the reseller who did. If nobody did, an "
                "issuer's key may be in other hands: stoker-license vendor revoke KEY"
            )
        for subject, at, reason in self._store.revoked("licence"):
            if subject == licence_id:
                raise RevokedError(f"the licence {licence_id} was revoked {when(at)} ({reason}); issue another one")
        return _licence_of(known.text)

    def _named(self, asked: SiteToken[Request], licence_id: str | None) -> str:
        named = licence_id or asked.paper.licence
        if named is None:
            raise UsageError("the request names no licence, because none is installed there; add: --licence ID")
        return named

    def _refuse_move(self, licence: Licence, stone: SiteToken[Release], now: int, beyond: str | None) -> None:
        if (licence.site, licence.generation) != (stone.key, stone.paper.generation):
            raise ReplayError(
                f"the release {stone.paper.id} gives back generation {stone.paper.generation} of {licence.id} at site "
                f"{stone.key[:16]}…; it is at generation {licence.generation}, bound to "
                f"{(licence.site or 'no site')[:16]}. Ask that site for its release"
            )
        moved = self._store.transfers_since(licence.id, now - _YEAR_S)
        if moved >= TRANSFERS_A_YEAR and beyond is None:
            raise ReplayError(
                f"the licence {licence.id} moved {moved} times in the last 365 days, and {TRANSFERS_A_YEAR} are "
                "allowed; if you agree to one more, say why: --beyond REASON"
            )

    def _answered_before(self, asked: SiteToken[Request]) -> Answer | None:
        before = self._store.answered(asked.paper.id)
        if before is None:
            return None
        if before.token != asked.text:
            raise ReplayError(f"the request {asked.paper.id} was answered before, to another site; ask for a new one")
        return Answer(licence=_licence_of(before.answer), text=before.answer, repeated=True)

    def _reply(
        self,
        signer: Signer,
        asked: SiteToken[Request],
        licence: Licence,
        now: int,
        why: str,
        move: tuple[tuple[str, str], str] | None = None,
    ) -> Answer:
        remarks = self._remarks(asked, licence, self._current(licence.id))
        text = signer.licence(licence, self.revocations.newest())
        request = asked.paper
        with self._store.transaction():
            self._store.put_issued(_row(signer, licence, why, now, text))
            self._store.put_answered(
                Answered(
                    id=request.id,
                    site=asked.key,
                    want=request.want,
                    licence=licence.id,
                    counter=request.counter,
                    head=request.head or "",
                    crl=request.crl,
                    at=now,
                    token=asked.text,
                    answer=text,
                )
            )
            if move is not None:
                self._store.put_transfer(licence.id, licence.generation, now, *move)
        return Answer(licence=licence, text=text, remarks=remarks)

    def _remarks(self, asked: SiteToken[Request], licence: Licence, before: Licence) -> tuple[str, ...]:
        request = asked.paper
        remarks = self._chain_remarks(asked.key, request.counter, request.head)
        if request.fingerprint is None and not licence.vm:
            remarks.append(
                "the site names no hardware, and the licence is not for machines without: where fewer than 3 groups of "
                f"marks are seen it works for 14 days. If it may: stoker-license vendor amend {licence.id} --vm"
            )
        if before.site == asked.key and before.fingerprint not in (None, request.fingerprint):
            remarks.append(
                "the site's hardware is another than it was bound to: a part was replaced, the hub moved, or was copied"
            )
        return tuple(remarks)

    def _chain_remarks(self, site: str, counter: int, head: str | None) -> list[str]:
        """Whether a site's trail is an older one than it showed before, or another one of the same length."""
        for seen in self._store.seen_from(site):
            if counter < seen.counter or (counter == seen.counter and head is not None and head != seen.head):
                at = f"at row {counter} of its trail, and was at {seen.counter} on {when(seen.at)}"
                also = " with other content" if counter == seen.counter else ""
                return [
                    f"site {site[:16]}… is {at}{also}: it was restored from a backup, or two machines answer for it"
                ]
        return []

    def _out(self, signer: Signer, licence: Licence, why: str, now: int) -> Answer:
        text = signer.licence(licence, self.revocations.newest())
        with self._store.transaction():
            self._store.put_issued(_row(signer, licence, why, now, text))
        return Answer(licence=licence, text=text)


def _next(licence: Licence, now: int, **terms: object) -> Licence:
    return msgspec.structs.replace(licence, rev=licence.rev + 1, iat=now, **terms)


def _bound(licence: Licence, asked: SiteToken[Request], now: int, **terms: object) -> Licence:
    mine = {"site": asked.key, "fingerprint": asked.paper.fingerprint, "request": asked.paper.id}
    return _next(licence, now, **mine, **terms)


def _licence_of(text: str) -> Licence:
    """A licence of this desk's own ledger: verified once more, by whatever root its certificate names."""
    chain = armour.unwrap(Label.LICENCE, text)
    return verify.licence_chain(chain, own_root(chain)).licence


def _row(signer: Signer, licence: Licence, why: str, now: int, text: str) -> Issued:
    return Issued(
        id=licence.id,
        rev=licence.rev,
        why=why,
        at=now,
        customer=licence.customer,
        plan=licence.plan,
        edition=licence.edition or "",
        seats=licence.seats,
        nbf=licence.nbf,
        exp=licence.exp,
        site=licence.site or "",
        generation=licence.generation,
        request=licence.request or "",
        reseller=licence.reseller or "",
        issuer=signer.issuer.name,
        issuer_key=signer.issuer.key,
        text=text,
    )


def _cell(value: object) -> object:
    """A spreadsheet takes a text that begins so for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
