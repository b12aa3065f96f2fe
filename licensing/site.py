"""The hub's side: which licence is installed, how it stands, and the door to its leases.

Rules kept here: a licence id keeps the moment of its first activation, whatever is installed afterwards; what is
refused changes nothing. Errors are for bad documents; that there is nothing to give is a value (`NoSeat`, `None`). The
licence itself is in `inuse`, the time in `timekeeper`, what goes to the vendor and comes back in `requests`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from licensing import armour, clock, keys, release, revocation, verify
from licensing.armour import Label
from licensing.binding import Binding
from licensing.document import Licence
from licensing.errors import ArmourError, LicenceError, OtherSiteError, UsageError
from licensing.exchange import Want
from licensing.fingerprint import Mark
from licensing.inuse import InUse
from licensing.leases import Ask, Leases, Outcome, Terms
from licensing.orders import Order, Orders
from licensing.report import Report as Report
from licensing.requests import Outgoing, Requests
from licensing.restricted import Restrictions
from licensing.revocation import Revocations
from licensing.roots import Roots, pinned
from licensing.seats import NoSeat, has_uuid
from licensing.stage import Standing
from licensing.store import Entry, Installed, Ledger
from licensing.timekeeper import Timekeeper
from licensing.units import Units
from licensing.usage_book import UsageBook
from licensing.usage_events import Period
from licensing.usage_prune import Pruning
from licensing.usage_report import Reports
from licensing.usage_rows import Page, Told

log = logging.getLogger(__name__)


class Site:
    """One site's licence and seats, in `state_dir`: `licence.db`, `site.key` and `fingerprint.salt`.

    Used from the thread that opens it.
    """

    def __init__(
        self,
        state_dir: Path,
        cluster: str,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
        *,
        built_at: int = release.AT,
        gpu_ms_used: Callable[[str], int] | None = None,
    ) -> None:
        """`gpu_ms_used` tells how much of a licence id was used, in ms of GPUs; else the usage ledger does."""
        self._dir = state_dir
        self._cluster = cluster
        self._roots = roots or pinned()
        self._ledger = Ledger(state_dir / "licence.db")
        self._binding = Binding(self._ledger, state_dir / "fingerprint.salt")
        self._in_use = InUse(
            self._ledger,
            self._roots,
            state_dir / "site.key",
            self._binding,
            built_at=built_at,
            gpu_ms_used=gpu_ms_used or (lambda licence_id: self._book.used_of(licence_id)),
        )
        self._time = Timekeeper(self._ledger, self._in_use, uptime)
        self._units = Units(self._ledger)
        self._waiting: dict[str, Ask] = {}
        """What nodes said they hold, and is not counted yet."""

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
        self._pruning = Pruning(self._ledger, self._book)
        self._reports = Reports(self._ledger, self._book, self._units, key)
        self._requests = Requests(self._ledger, key, self._binding.commitment)
        self._orders = Orders(self._ledger, self.key_hex, self._binding)
        self._binding.open(key)
        self._in_use.open(self.key_hex)
        self._time.open()

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
        lists = self._in_use.lists_with(text)
        self._time.look(now)
        before = self._time.advance(now)
        proven = self._time.proven(licence, before, now)
        if proven is not None:
            before = clock.put_back(before, proven)
        mark = clock.trust(before, licence.iat, now)
        at = clock.believed(mark, now)
        known = self._ledger.known(licence.id)
        self._in_use.refuse_elsewhere(licence)
        lists.refuse(chain)
        self._in_use.refuse_early(licence, at)
        self._in_use.refuse_old(licence, known, at, mark)
        self._requests.refuse_returned(licence)
        self._requests.refuse_unasked(licence, known, at)
        self._binding.refuse(licence)
        doubted = clock.is_doubtful(self._in_use.certain(licence), now)
        new = Installed(id=licence.id, rev=licence.rev, text=chain.text, activated_at=mark.time, doubted=doubted)
        if not doubted:
            new = replace(new, activated_at=at)
        self._install(new, licence, lists, mark, was=self._time.advance(now).time if proven is not None else None)
        log.info("licence=%s rev=%d activated seats=%d", licence.id, licence.rev, licence.seats)
        self._judge(now)
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
            self._in_use.keep_lists(lists, mark.time)
            self._ledger.audit(mark.time, "activated", installed.id, rev=installed.rev, since=installed.activated_at)
            self._ledger.put_clock(mark)
        self._time.keep(mark)
        self._in_use.lists = lists
        self._in_use.reload()

    def _take_list(self, text: str, now: int) -> Report:
        (new,) = revocation.lists_in(text, self._roots)
        self._in_use.lists.refuse_older(new)
        lists, at = self._in_use.lists.with_list(new), self._time.confirmed(now)
        with self._ledger.transaction():
            self._in_use.keep_lists(lists, at)
        self._in_use.lists = lists
        self._in_use.load()
        return self.report(now)

    def _take_receipt(self, text: str, now: int) -> Report:
        chain = verify.receipt_chain(armour.unwrap(Label.RECEIPT, text), self._roots)
        current = self._in_use.current
        if current is None:
            raise OtherSiteError(
                f"the receipt {chain.receipt.id} is for {chain.receipt.licence}, which is not in use here"
            )
        self._in_use.lists.refuse_receipt(chain)
        self._requests.refuse_receipt(chain, current.chain)
        at, row = self._time.confirmed(now), {"usage": chain.receipt.usage, "report_by": chain.receipt.report_by}
        with self._ledger.transaction():
            self._ledger.put_report_by(chain.receipt.licence, chain.receipt.report_by)
            self._pruning.acknowledge(chain.receipt)
            self._ledger.audit(at, "receipt", chain.receipt.licence, **row)
        self._in_use.reload()
        return self.report(now)

    # --- what goes to the vendor ---

    def request(self, want: Want, now: int) -> Outgoing:
        """Make a request about the installed licence; its answer is taken for 90 days, once.

        Raises:
            UsageError: there is no licence that it could be about.
            StoreError: the ledger cannot be written.
        """
        return self._ask(want, now)

    def _ask(self, want: Want, now: int, *, about_machine: bool = False) -> Outgoing:
        licence = self._in_use.current.licence if self._in_use.current else None
        if licence is None and want in (Want.RENEW, Want.USAGE):
            raise UsageError(f"no licence is installed, so there is nothing to {want}; ask for one: --want activate")
        at = clock.believed(self._time.look(now), now)
        self._binding.offer(at)
        ready = self._requests.again(want, licence, at) if licence is not None and self._binding.is_another else None
        number = self._in_use.lists.number
        return ready or self._requests.ask(want, licence, number, at, about_machine=about_machine)

    def release(self, now: int, to: str | None = None) -> Outgoing:
        """Give the licence back: from now on nothing is leased. `to` is the request of the site that it goes to.

        Raises:
            UsageError: there is none, or it is a voucher.
            LicenceError: `to` is no request of another site.
        """
        licence = self._last("so there is none to give back")
        sent = self._requests.release(licence, clock.believed(self._time.look(now), now), to)
        self._in_use.load()
        log.info("licence=%s given back", licence.id)
        return sent

    def _last(self, why: str) -> Licence:
        """The installed licence, also one that was given back or revoked: its tombstone and its last usage are owed."""
        installed = self._ledger.installed()
        if installed is None:
            raise UsageError(f"no licence is installed, {why}")
        licence = verify.licence_chain(installed.text, self._roots).licence
        self._in_use.refuse_elsewhere(licence)
        return licence

    def _last_known(self) -> Licence | None:
        try:
            return self._last("none")
        except LicenceError:
            return None

    # --- the machine ---

    def see(self, marks: Iterable[Mark], now: int) -> None:
        """Take note of what was read of this machine (`hardware.Reader`): at the start, daily, before each request.

        Raises:
            StoreError: what is new could not be written; what was noted before holds.
        """
        self._binding.see(marks)
        self._judge(now)

    def _judge(self, now: int) -> None:
        """Hold the machine against the licence; where it is another one only since now, have a request ready."""
        current = self._in_use.current
        if current is None:
            return
        licence, mark = current.licence, self._time.look(now)
        doubted = clock.is_doubtful(self._in_use.certain(licence), now)
        at = mark.time if doubted else clock.believed(mark, now)
        if self._binding.judge(licence, at, doubted=doubted):
            self._ask(Want.RENEW, now, about_machine=True)

    # --- how it stands ---

    def report(self, now: int) -> Report:
        """What holds at `now` (the wall clock, Unix seconds)."""
        mark = self._time.look(now)
        terms = self._terms(mark, now)
        pending = tuple(self._ledger.pending(mark.time))
        return Report(
            standing=terms.standing if terms else self._absent(mark),
            licence=terms.licence if terms else None,
            activated_at=terms.activated_at if terms else None,
            site_key=self.key_hex,
            holds=tuple(self._ledger.holds(mark.time)),
            development=self._roots.development,
            pending=pending,
            superseded=self._requests.superseded(
                pending, terms.licence if terms else self._last_known(), machine_fits=not self._binding.is_another
            ),
            crl=self._in_use.lists.number,
            issuer=terms.chain.issuer.name if terms else None,
            at=terms.at if terms else mark.time,
            confirmed_at=mark.time,
            epoch=self._ledger.epoch(),
            overdraft=self._leases.overdraft(terms) if terms else None,
            borrowed=frozenset(node for node, until in self._ledger.borrowed().items() if until > mark.time),
            resting=frozenset(self._ledger.resting()),
            pinned=self._ledger.pinned(),
            forked=tuple(self._ledger.forked()),
            epoch_heard=self._ledger.epoch_heard(),
            rollbacks=self._time.rollbacks,
            hardware=self._binding.hardware(terms.licence if terms else None, mark, terms.at if terms else mark.time),
            units=self._units.counts(terms.licence if terms else None, mark.time),
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
        terms = self._terms(self._time.look(now), now)
        if terms is None:
            raise UsageError(f"no licence is in use here, so no seats can be ordered. {self._in_use.missing.detail}")
        self._orders.do(order, terms)
        return self.report(now)

    def confirm_clock(self, now: int, *, sure: bool) -> Report:
        """Take the wall clock for right, on an operator's word: here at once, on each node with its next lease.

        Raises:
            UsageError: nothing is kept yet, it is behind what is known, or the word is missing.
            StoreError: it cannot be written; nothing was changed.
        """
        self._time.confirm(now, self.key_hex[:16], sure=sure)
        return self.report(now)

    def lease(
        self, node: str, node_key: str, gpus: Sequence[str], node_seq: int, now: int, held: str | None = None
    ) -> str | NoSeat | None:
        """The lease to hand to a node now; `None` when the one it has will do.

        Ask as often as you like: a new lease is made when the node has none, its GPUs or the licence changed, seats
        became free, or the last one is 8 h old. `node_seq` is the `seq` the node says it holds, 0 for none, and `held`
        the token of that lease. A GPU without a UUID is left out.

        Raises:
            WeakKeyError: the node's key is no sound key.
            StoreError: the ledger cannot be written; nothing was granted.
        """
        ask = Ask(node=node, key=node_key, gpus=tuple(gpus), seq=node_seq, held=held)
        (outcome,) = self.leases([ask], now)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def leases(self, asks: Sequence[Ask], now: int) -> list[Outcome]:
        """The same for up to `seats.MAX_BATCH` nodes with one flush of the disk; errors are among the outcomes."""
        mark = self._time.look(now)
        terms = self._terms(mark, now)
        named = [_named(each) for each in asks]
        if terms is not None:
            self._hear_waiting(terms)
        if terms is not None and not terms.standing.stage.holds:
            return self._leases.answer_all(named, terms)
        standing = terms.standing if terms else self._absent(mark)
        return self._restrictions.answer_all(named, standing, clock.believed(mark, now))

    def hear(self, ask: Ask, now: int) -> None:
        """Count what a node holds, before anybody gets more: this ledger may be an older one that was put back.

        Raises:
            StoreError: the ledger cannot be written.
        """
        self._waiting[ask.node] = _named(ask)
        terms = self._terms(self._time.look(now), now)
        if terms is not None:
            self._hear_waiting(terms)

    def _hear_waiting(self, terms: Terms) -> None:
        """Without a licence nothing can be counted: what nodes said then counts before the first lease under one.

        One that cannot be counted is not tried again before that node asks: it must not stand in the others' way.
        """
        while self._waiting:
            _, ask = self._waiting.popitem()
            self._leases.hear(ask, terms)

    def _terms(self, mark: clock.HighWater, now: int) -> Terms | None:
        """What may be given now, with the moment since when what only a hub knows holds new jobs."""
        terms = self._in_use.terms(mark, now)
        if terms is None:
            return None
        return replace(terms, standing=self._restrictions.dated(terms.standing, terms.licence.id, terms.at))

    def _absent(self, mark: clock.HighWater) -> Standing:
        """How it stands without a usable licence."""
        installed = self._ledger.installed()
        return self._restrictions.dated(self._in_use.missing, installed.id if installed else None, mark.time)

    # --- usage ---

    def usage_wanted(self, node: str, told: Sequence[Told], now: int) -> list[tuple[str, int]]:
        """Which rows of a node's usage ledger are not here yet; see `UsageBook.wanted`."""
        return self._book.wanted(node, told, self._time.look(now).time)

    def usage_merge(self, node: str, chain: str, first: int, before: str, rows: Sequence[str], now: int) -> int:
        """Take rows of a node; see `UsageBook.merge`."""
        page = Page(chain=chain, first=first, before=before, rows=tuple(rows))
        return self._book.merge(node, page, self._time.look(now).time)

    def usage_seats(self, now: int) -> None:
        """Note who holds a seat now."""
        at = self._time.look(now).time
        self._book.note_seats([(each.node, each.gpu) for each in self._ledger.holds(at)], at)
        self._settle_units(at)

    def note_nodes(self, heard: Collection[str], known: Collection[str], now: int) -> None:
        """Note which nodes' agents are heard; see `Units`."""
        at = self._time.look(now).time
        self._units.note_nodes(heard, known, at)
        self._settle_units(at)

    def note_admin(self, user: str, now: int, ago_s: int = 0) -> bool:
        """Note that somebody used an admin verb, so many seconds before `now`; whether that was news."""
        at = self._time.look(now).time
        if news := self._units.note_admin(user, at, at - ago_s):
            self._settle_units(at)
        return news

    def _settle_units(self, at: int) -> None:
        current = self._in_use.current
        self._units.settle(current.licence if current else None, at)

    def usage_prune(self, now: int, kept_s: int) -> int:
        """Forget some rows that the vendor acknowledged and that are older than this; see `Pruning.prune`."""
        return self._pruning.prune(self._time.look(now).time, kept_s)

    def usage_export(self, begins: int, ends: int, now: int, *, rows: bool) -> tuple[str, str]:
        """The signed report of a time: a name for its file, and the text; see `Reports.export`."""
        at = clock.believed(self._time.look(now), now)
        why = "and usage is reported under one; stoker-license activate FILE comes first"
        return self._reports.export(self._last(why), Period(begins=begins, ends=ends), at, rows=rows)


def _named(ask: Ask) -> Ask:
    if all(has_uuid(gpu) for gpu in ask.gpus):
        return ask
    return replace(ask, gpus=tuple(gpu for gpu in ask.gpus if has_uuid(gpu)))
