"""The hub's side: which licence is installed, how it stands, and the door to its leases.

Rules kept here: a licence id keeps the moment of its first activation, whatever is installed afterwards; a lower
revision is refused; the stored chain is verified again at every start. Errors are for bad documents; that there is
nothing to give is a value (`NoSeat`, `None`). What goes to the vendor and comes back is in `requests`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from licensing import armour, clock, keys, release, revocation, stage, verify
from licensing.armour import Label
from licensing.document import Licence
from licensing.errors import (
    ArmourError,
    ClockError,
    ExpiredError,
    LicenceError,
    OtherSiteError,
    ReplayError,
    RevokedError,
    StoreError,
    UsageError,
)
from licensing.exchange import Want
from licensing.leases import Ask, Leases, Overdraft, Terms, term_of
from licensing.orders import Order, Orders
from licensing.requests import Commitment, Outgoing, Requests
from licensing.restricted import Restrictions
from licensing.revocation import Revocations
from licensing.roots import Roots, pinned
from licensing.seats import Hold, NoSeat, has_uuid
from licensing.stage import Facts, Stage, Standing
from licensing.store import Asked, Entry, Installed, Ledger
from licensing.usage_book import UsageBook
from licensing.usage_events import Period
from licensing.usage_report import Reports
from licensing.usage_rows import Page, Told

log = logging.getLogger(__name__)

_RETRY_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Licence and seats at a moment."""

    standing: Standing
    licence: Licence | None
    activated_at: int | None
    site_key: str
    holds: tuple[Hold, ...]
    development: bool
    """The roots of this build are development keys."""
    pending: tuple[Asked, ...] = ()
    """Requests that the vendor may still answer, newest first."""
    crl: int = 0
    """The highest number of a revocation list that is known."""
    issuer: str | None = None
    at: int = 0
    """The time that all of it is told by."""
    epoch: int = 1
    confirmed_at: int = 0
    """The time without what the clock says beyond it."""
    overdraft: Overdraft | None = None
    borrowed: frozenset[str] = frozenset()
    """Nodes that borrowed their seats."""
    resting: frozenset[str] = frozenset()
    """Nodes that gave theirs back and get none until they are adopted."""
    pinned: frozenset[str] = frozenset()
    rollbacks: int = 0
    """How often since the hub's start its clock was seen behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Current:
    """The installed licence, verified."""

    chain: verify.LicenceChain
    installed: Installed


class Site:
    """One site's licence and seats, in `state_dir`: `licence.db` and `site.key`. Used from the thread that opens it."""

    def __init__(
        self,
        state_dir: Path,
        cluster: str,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
        *,
        built_at: int = release.AT,
        commitment: Commitment = lambda: None,
        gpu_ms_used: Callable[[str], int] | None = None,
    ) -> None:
        """`gpu_ms_used` tells how much of a licence id was used, in ms of GPUs; else the usage ledger does."""
        self._dir = state_dir
        self._cluster = cluster
        self._roots = roots or pinned()
        self._uptime = uptime
        self._built_at = built_at
        self._commitment = commitment
        self._gpu_ms_used = gpu_ms_used or self._used
        self._ledger = Ledger(state_dir / "licence.db")
        self._current: _Current | None = None
        self._missing = stage.no_licence()
        """How the site stands while there is no usable licence."""
        self._revocations = Revocations()
        self._mark: clock.HighWater | None = None
        """The highest time, from the first activation on: without a licence there is nothing to guard with it."""
        self._written: clock.HighWater | None = None
        self._behind = False
        self._rollbacks = 0
        """How often since the start the clock was seen behind what is known."""
        self._failed_at: int | None = None
        """Uptime when the mark could not be written."""
        self._noticed: int | None = None

    def open(self) -> None:
        """Open the ledger and the key, making both on the first start.

        Raises:
            StoreError, KeyFileError: they cannot be used.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        key = keys.load_or_create(self._dir / "site.key")
        self.key_hex = keys.public_hex(key)
        self._ledger.open()
        self._leases = Leases(self._ledger, key, self._cluster)
        self._restrictions = Restrictions(self._ledger, key, self._roots)
        self._restrictions.load()
        self._book = UsageBook(self._ledger)
        self._reports = Reports(self._ledger, self._book, key)
        self._requests = Requests(self._ledger, key, self._commitment)
        self._orders = Orders(self._ledger, self.key_hex)
        self._revocations = self._load_lists()
        installed = self._ledger.installed()
        self._current = self._load(installed) if installed else None
        self._mark = self._written = self._ledger.clock() if installed else None

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    # --- what the vendor sends ---

    def activate(self, text: str, now: int) -> Report:
        """Take a vendor's file: a voucher, licence, answer, receipt or revocation list. Twice is once.

        Raises:
            LicenceError: it is not genuine, for another site, older than what is held, used up, from the future, or
                revoked; nothing was changed.
        """
        label = armour.read(text).label if "-----BEGIN STOKER " in text else Label.LICENCE
        if label is Label.CRL:
            return self._take_list(text, now)
        if label is Label.RECEIPT:
            return self._take_receipt(text, now)
        if label in (Label.REQUEST, Label.RELEASE, Label.USAGE):
            raise ArmourError(
                f"the file is a {label.lower()} on its way to the vendor; send it there, import the answer"
            )
        return self._take_licence(text, now)

    def _take_licence(self, text: str, now: int) -> Report:
        chain = verify.licence_file(text, self._roots)
        licence = chain.licence
        lists = self._revocations
        for each in revocation.lists_in(text, self._roots):
            lists = lists.with_list(each)
        self._look(now)
        before = self._advance(now)
        proven = self._proven(licence, before, now)
        if proven is not None:
            before = clock.put_back(before, proven)
        mark = clock.trust(before, licence.iat, now)
        at = clock.believed(mark, now)
        known = self._ledger.known(licence.id)
        self._refuse_elsewhere(licence)
        lists.refuse(chain)
        _refuse_early(licence, at)
        self._refuse_old(licence, known, at, mark)
        self._requests.refuse_returned(licence)
        self._requests.refuse_unasked(licence, known, at)
        doubted = clock.is_doubtful(self._certain(licence), now)
        new = Installed(id=licence.id, rev=licence.rev, text=chain.text, activated_at=mark.time, doubted=doubted)
        if not doubted:
            new = replace(new, activated_at=at)
        self._install(new, licence, lists, mark, was=self._advance(now).time if proven is not None else None)
        log.info("licence=%s rev=%d activated seats=%d", licence.id, licence.rev, licence.seats)
        return self.report(now)

    def _take_list(self, text: str, now: int) -> Report:
        (new,) = revocation.lists_in(text, self._roots)
        self._revocations.refuse_older(new)
        lists = self._revocations.with_list(new)
        with self._ledger.transaction():
            self._keep_lists(lists, self._confirmed(now))
        self._revocations = lists
        installed = self._ledger.installed()
        self._current = self._load(installed) if installed else None
        return self.report(now)

    def _take_receipt(self, text: str, now: int) -> Report:
        chain = verify.receipt_chain(armour.unwrap(Label.RECEIPT, text), self._roots)
        if self._current is None:
            raise OtherSiteError(
                f"the receipt {chain.receipt.id} is for {chain.receipt.licence}, which is not in use here"
            )
        self._revocations.refuse_receipt(chain)
        self._requests.refuse_receipt(chain, self._current.chain)
        with self._ledger.transaction():
            self._ledger.put_report_by(chain.receipt.licence, chain.receipt.report_by)
            row = {"usage": chain.receipt.usage, "report_by": chain.receipt.report_by}
            self._ledger.audit(self._confirmed(now), "receipt", chain.receipt.licence, **row)
        self._reload()
        return self.report(now)

    # --- what goes to the vendor ---

    def request(self, want: Want, now: int) -> Outgoing:
        """Make a request about the installed licence; its answer is taken for 90 days, once.

        Raises:
            UsageError: there is no licence that it could be about.
            StoreError: the ledger cannot be written.
        """
        licence = self._current.chain.licence if self._current else None
        if licence is None and want in (Want.RENEW, Want.USAGE):
            raise UsageError(f"no licence is installed, so there is nothing to {want}; ask for one: --want activate")
        mark = self._look(now)
        return self._requests.ask(want, licence, self._revocations.number, clock.believed(mark, now))

    def release(self, now: int, to: str | None = None) -> Outgoing:
        """Give the licence back: from now on nothing is leased. `to` is the request of the site that it goes to.

        Raises:
            UsageError: there is none, or it is a voucher.
            LicenceError: `to` is no request of another site.
        """
        licence = self._releasable()
        sent = self._requests.release(licence, clock.believed(self._look(now), now), to)
        installed = self._ledger.installed()
        self._current = self._load(installed) if installed else None
        log.info("licence=%s given back", licence.id)
        return sent

    def _releasable(self) -> Licence:
        """The installed licence, also one that was given back already: the same tombstone is then written again."""
        installed = self._ledger.installed()
        if installed is None:
            raise UsageError("no licence is installed, so there is none to give back")
        licence = verify.licence_chain(installed.text, self._roots).licence
        self._refuse_elsewhere(licence)
        return licence

    # --- how it stands ---

    def report(self, now: int) -> Report:
        """What holds at `now` (the wall clock, Unix seconds)."""
        mark = self._look(now)
        terms = self._terms(mark, now)
        return Report(
            standing=terms.standing if terms else self._absent(mark),
            licence=terms.licence if terms else None,
            activated_at=terms.activated_at if terms else None,
            site_key=self.key_hex,
            holds=tuple(self._ledger.holds(mark.time)),
            development=self._roots.development,
            pending=tuple(self._ledger.pending(mark.time)),
            crl=self._revocations.number,
            issuer=terms.chain.issuer.name if terms else None,
            at=terms.at if terms else mark.time,
            confirmed_at=mark.time,
            epoch=self._ledger.epoch(),
            overdraft=self._leases.overdraft(terms) if terms else None,
            borrowed=frozenset(node for node, until in self._ledger.borrowed().items() if until > mark.time),
            resting=frozenset(self._ledger.resting()),
            pinned=self._ledger.pinned(),
            rollbacks=self._rollbacks,
        )

    def history(self, limit: int) -> list[Entry]:
        """What was done with licence and seats, newest first."""
        return self._ledger.trail(limit)

    def order(self, order: Order, now: int) -> Report:
        """Do what an operator orders about seats.

        Raises:
            UsageError: it cannot be, or there is no licence.
            StoreError: the ledger cannot be written; nothing was changed.
        """
        terms = self._terms(self._look(now), now)
        if terms is None:
            raise UsageError(f"no licence is in use here, so no seats can be ordered. {self._missing.detail}")
        self._orders.do(order, terms)
        return self.report(now)

    def lease(self, node: str, node_key: str, gpus: Sequence[str], node_seq: int, now: int) -> str | NoSeat | None:
        """The lease to hand to a node now; `None` when the one it has will do.

        Ask as often as you like: a new lease is made when the node has none, its GPUs or the licence changed, seats
        became free, or the last one is 8 h old. `node_seq` is the `seq` the node says it holds, 0 for none. A GPU
        without a UUID is left out.

        Raises:
            WeakKeyError: the node's key is no sound key.
            StoreError: the ledger cannot be written; nothing was granted.
        """
        mark = self._look(now)
        terms = self._terms(mark, now)
        named = tuple(gpu for gpu in gpus if has_uuid(gpu))
        ask = Ask(node=node, key=node_key, gpus=named, seq=node_seq)
        if terms is not None and not terms.standing.stage.holds:
            return self._leases.answer(ask, terms)
        standing = terms.standing if terms else self._absent(mark)
        return self._restrictions.answer(ask, standing, clock.believed(mark, now))

    def _absent(self, mark: clock.HighWater) -> Standing:
        """How it stands without a usable licence."""
        installed = self._ledger.installed()
        return self._restrictions.dated(self._missing, installed.id if installed else None, mark.time)

    # --- usage ---

    def usage_wanted(self, node: str, told: Sequence[Told], now: int) -> list[tuple[str, int]]:
        """Which rows of a node's usage ledger are not here yet; see `UsageBook.wanted`."""
        return self._book.wanted(node, told, self._look(now).time)

    def usage_merge(self, node: str, chain: str, first: int, before: str, rows: Sequence[str], now: int) -> int:
        """Take rows of a node; see `UsageBook.merge`."""
        page = Page(chain=chain, first=first, before=before, rows=tuple(rows))
        return self._book.merge(node, page, self._look(now).time)

    def usage_seats(self, now: int) -> None:
        """Note who holds a seat now."""
        at = self._look(now).time
        self._book.note_seats([(each.node, each.gpu) for each in self._ledger.holds(at)], at)

    def _used(self, licence_id: str) -> int:
        return self._book.used_of(licence_id)

    def usage_export(self, begins: int, ends: int, now: int, *, rows: bool) -> tuple[str, str]:
        """The signed report of a time: a name for its file, and the text; see `Reports.export`."""
        terms = self._terms(self._look(now), now)
        if terms is None:
            raise UsageError(
                "no licence is installed, and usage is reported under one; stoker-license activate FILE comes first"
            )
        return self._reports.export(terms.licence, Period(begins=begins, ends=ends), terms.at, rows=rows)

    # --- what may be installed ---

    def _refuse_elsewhere(self, licence: Licence) -> None:
        if licence.site not in (None, self.key_hex):
            raise OtherSiteError(
                f"the licence {licence.id} of {licence.customer} is bound to site {licence.site[:16]}…, this is site "
                f"{self.key_hex[:16]}…; ask the vendor for one made out to {self.key_hex}"
            )

    def _refuse_old(self, licence: Licence, known: Installed | None, at: int, mark: clock.HighWater) -> None:
        if known is not None and licence.rev < known.rev:
            raise ReplayError(
                f"the licence {licence.id} rev {licence.rev} is older than rev {known.rev}, which is known here; "
                "install the newest file"
            )
        activated_at = _since(known, mark, at) if known else at
        standing = stage.of_licence(licence, activated_at, at, self._facts(licence.id, known))
        if standing.stage is not Stage.RESTRICTED or standing.code not in ("LIC-404", "LIC-405", "LIC-406"):
            return  # hours and reports can be made good later; a date that is over cannot
        ended = stage.when(standing.expires_at or at)
        if known is not None and at < licence.exp:
            raise ReplayError(
                f"the voucher {licence.id} was used here from {stage.when(known.activated_at)} and ended {ended}; "
                f"it works once. Ask the vendor for a licence bound to {self.key_hex}"
            )
        raise ExpiredError(f"the licence {licence.id} ended {ended}; ask for a renewal")

    def _proven(self, licence: Licence, mark: clock.HighWater, now: int) -> int | None:
        """The time, where an answer to a request of here proves that what is known is too far ahead."""
        asked = self._ledger.request(licence.request) if licence.request is not None else None
        if asked is None or asked.answer or self._mark is None:
            return None
        return clock.proven(mark, now, asked=asked.made_at, at=clock.believed(mark, now), signed=licence.iat)

    def confirm_clock(self, now: int, *, sure: bool) -> Report:
        """Take the wall clock for right, on an operator's word: here at once, on each node with its next lease.

        Raises:
            UsageError: nothing is kept yet, it is behind what is known, or the word is missing.
            StoreError: it cannot be written; nothing was changed.
        """
        before = self._look(now)
        if self._mark is None:
            raise UsageError("without a licence no time is kept, so there is none to confirm")
        if before.time - now > clock.SKEW_S:
            raise UsageError(
                f"the clock says {stage.when(now)}, and it is at least {stage.when(before.time)} by what was signed "
                "and seen; time does not run back. Set the clock; if it is right, the answer to a request made now "
                "sets time back: stoker-license export-request"
            )
        if not sure:
            raise UsageError(
                f"the clock says {stage.when(now)}, and by the uptime it is {stage.when(before.time)}; only the "
                "vendor's answer leads back from a later time. If it is right: stoker-license clock confirm --yes"
            )
        mark = clock.confirm(before, now)
        with self._ledger.transaction():
            if self._current is not None and self._current.installed.doubted:
                self._ledger.settle(clock.jump(before, mark, self._uptime()), right=True)
            self._ledger.count_reset()
            self._ledger.audit(mark.time, "clock_confirmed", self.key_hex[:16], was=before.time)
            self._ledger.put_clock(mark)
        self._mark = self._written = mark
        self._reload()
        log.warning("time confirmed: %d, it was %d", mark.time, before.time)
        return self.report(now)

    def _install(
        self, installed: Installed, licence: Licence, lists: Revocations, mark: clock.HighWater, was: int | None
    ) -> None:
        """`was` is the time before, where the answer sets it back."""
        with self._ledger.transaction():
            if was is not None:
                self._ledger.count_reset()
                self._ledger.audit(mark.time, "clock_reset", licence.id, was=was, request=licence.request)
                log.warning("licence=%s sets time back: %d, it was %d", licence.id, mark.time, was)
            self._ledger.put_licence(installed)
            if licence.request is not None:
                self._ledger.answer_request(licence.request, licence.id)
            self._keep_lists(lists, mark.time)
            self._ledger.audit(mark.time, "activated", installed.id, rev=installed.rev, since=installed.activated_at)
            self._ledger.put_clock(mark)
        self._mark = self._written = mark
        self._revocations = lists
        self._reload()

    def _keep_lists(self, lists: Revocations, at: int) -> None:
        """Belongs inside a transaction; writes what is newer than before."""
        for signer, each in lists.lists.items():
            if self._revocations.lists.get(signer) is not each:
                self._ledger.put_list(signer, each.crl.number, each.text)
                self._ledger.audit(at, "crl", signer, number=each.crl.number)

    # --- underneath ---

    def _load_lists(self) -> Revocations:
        """Verify the stored lists again; one of other roots means nothing to this build, and stays on disk."""
        found = Revocations()
        for text in self._ledger.lists():
            try:
                found = found.with_list(verify.crl_chain(text, self._roots))
            except LicenceError as error:
                log.warning("a stored revocation list is not used: %s", error)
        return found

    def _load(self, installed: Installed) -> _Current | None:
        """Verify the stored licence again: other roots may be pinned after an upgrade, and `site.key` another one."""
        try:
            chain = verify.licence_chain(installed.text, self._roots)
            self._refuse_lost_key(chain.licence)
            stone = self._ledger.tombstone(installed.id)
            if stone is not None and chain.licence.generation <= stone.generation:
                self._missing = stage.released(installed.id, stone.at)
                return None
            self._revocations.refuse(chain)
        except RevokedError as error:
            log.error("licence=%s is revoked: %s", installed.id, error)
            self._missing = stage.revoked(error.message)
            return None
        except LicenceError as error:
            log.error("licence=%s is not usable: %s", installed.id, error)
            self._missing = stage.unusable(installed.id, error.message)
            return None
        return _Current(chain=chain, installed=installed)

    def _reload(self) -> None:
        """What is installed, as the ledger has it now."""
        installed = self._ledger.installed()
        if installed is None:
            return
        held = self._current
        if held is not None and held.installed.text == installed.text:
            self._current = replace(held, installed=installed)
        else:
            self._current = self._load(installed)

    def _refuse_lost_key(self, licence: Licence) -> None:
        if licence.site not in (None, self.key_hex):
            raise OtherSiteError(
                f"it is bound to site {licence.site}, and the key in {self._dir / 'site.key'} is {self.key_hex}; put "
                "that file back from the backup and restart the hub, or ask the vendor for a licence made out to this "
                "key"
            )

    def _terms(self, mark: clock.HighWater, now: int) -> Terms | None:
        if self._current is None:
            return None
        chain, installed = self._current.chain, self._current.installed
        at = clock.believed(mark, now)
        activated_at = _since(installed, mark, at)
        facts = replace(self._facts(installed.id, installed), extended_until=self._extended(chain.licence, at))
        standing = stage.of_licence(chain.licence, activated_at, at, facts)
        standing = self._restrictions.dated(standing, installed.id, at)
        self._say_notice(standing)
        return Terms(
            chain=chain,
            activated_at=activated_at,
            standing=standing,
            at=at,
            mark=mark,
            report_by=installed.report_by or None,
            extended_until=self._extended(chain.licence, at),
        )

    def _extended(self, licence: Licence, at: int) -> int | None:
        until = self._ledger.extended_until(term_of(licence))
        return until if until is not None and until > at else None

    def _facts(self, licence_id: str, known: Installed | None) -> Facts:
        return Facts(
            built_at=self._built_at,
            report_by=(known.report_by if known else 0) or None,
            gpu_ms_used=self._gpu_ms_used(licence_id),
        )

    def _say_notice(self, standing: Standing) -> None:
        """Once for each of the days at which it is due."""
        if standing.notice_days is not None and standing.notice_days != self._noticed:
            log.warning("%s", standing.detail)
        self._noticed = standing.notice_days

    # --- time ---

    def _advance(self, now: int) -> clock.HighWater:
        return clock.advance(self._mark, now, self._uptime())

    def _confirmed(self, now: int) -> int:
        return self._look(now).time

    def _look(self, now: int) -> clock.HighWater:
        """The mark now; also kept within ten minutes of it on disk while no lease is due."""
        before, mark = self._mark, self._advance(now)
        if before is None:
            return mark
        if mark.ahead_since is not None and before.ahead_since is None:
            log.warning("%s", clock.doubt(mark, now))
        before_behind, self._behind = self._behind, clock.is_behind(mark, now)
        self._rollbacks += self._behind and not before_behind
        if self._behind and not before_behind:
            log.warning("%s", clock.lag(mark, now))
        if not self._is_settled(mark, now):
            return mark
        self._mark = mark
        if clock.is_news(mark, self._written):
            self._write(mark)
        return mark

    def _is_settled(self, mark: clock.HighWater, now: int) -> bool:
        """Whether nothing is left to put right before this mark may be kept."""
        if self._current is None or not self._current.installed.doubted or self._mark is None:
            return True
        shift = clock.jump(self._mark, mark, self._uptime())
        right = clock.is_right(self._certain(self._current.chain.licence), mark, now)
        if shift == 0 and not right:
            return True
        try:
            with self._ledger.transaction():
                self._ledger.settle(shift, right=right)
                self._ledger.audit(mark.time, "clock", self._current.installed.id, shift_s=shift, right=right)
                self._ledger.put_clock(mark)
        except StoreError as error:
            log.warning("the days of a licence cannot be put right yet: %s", error)
            return False
        self._written = mark
        self._reload()
        return True

    def _certain(self, licence: Licence) -> int:
        """A moment that has certainly come."""
        return max(licence.iat, self._built_at)

    def _write(self, mark: clock.HighWater) -> None:
        """A mark that cannot be written holds nobody up; it is tried again after a minute."""
        if self._failed_at is not None and 0 <= mark.uptime - self._failed_at < _RETRY_S:
            return
        try:
            with self._ledger.transaction():
                self._ledger.put_clock(mark)
        except StoreError as error:
            if self._failed_at is None:
                log.warning("cannot note the time: %s", error)
            self._failed_at = mark.uptime
            return
        self._written, self._failed_at = mark, None


def _refuse_early(licence: Licence, at: int) -> None:
    if licence.nbf > at:
        raise ClockError(
            f"the licence {licence.id} begins {stage.when(licence.nbf)}, and here it is {stage.when(at)}; "
            "install it then, or correct the clock: timedatectl set-ntp true"
        )


def _since(installed: Installed, mark: clock.HighWater, at: int) -> int:
    """When it was activated. While the clock of then is not yet known to be right, what it jumped by is not counted."""
    return installed.activated_at + (at - mark.time if installed.doubted else 0)
