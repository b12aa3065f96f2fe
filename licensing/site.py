"""The hub's side: which licence is installed, how it stands, and the door to its leases.

Rules kept here: a licence id keeps the moment of its first activation, whatever is installed afterwards; a lower
revision is refused; the stored chain is verified again at every start. Errors are for bad documents; that there is
nothing to give is a value (`NoSeat`, `None`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from licensing import clock, keys, stage, verify
from licensing.document import Licence
from licensing.errors import ClockError, ExpiredError, LicenceError, OtherSiteError, ReplayError, StoreError, UsageError
from licensing.leases import Ask, Leases, Terms
from licensing.roots import Roots, pinned
from licensing.seats import Hold, NoSeat, has_uuid
from licensing.stage import Stage, Standing
from licensing.store import Installed, Ledger
from licensing.usage_book import UsageBook
from licensing.usage_report import Period, Reports
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


class Site:
    """One site's licence and seats, in `state_dir`: `licence.db` and `site.key`. Used from the thread that opens it."""

    def __init__(
        self,
        state_dir: Path,
        cluster: str,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
    ) -> None:
        self._dir = state_dir
        self._cluster = cluster
        self._roots = roots or pinned()
        self._uptime = uptime
        self._ledger = Ledger(state_dir / "licence.db")
        self._current: tuple[verify.LicenceChain, int] | None = None
        """The installed licence, verified, and when it was activated."""
        self._missing = stage.no_licence()
        """How the site stands while there is no usable licence."""
        self._mark: clock.HighWater | None = None
        """The highest time, from the first activation on: without a licence there is nothing to guard with it."""
        self._written: clock.HighWater | None = None
        self._behind = False
        self._failed_at: int | None = None
        """Uptime when the mark could not be written."""

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
        self._book = UsageBook(self._ledger)
        self._reports = Reports(self._ledger, self._book, key)
        installed = self._ledger.installed()
        self._current = self._load(installed) if installed else None
        self._mark = self._written = self._ledger.clock() if installed else None

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def activate(self, text: str, now: int) -> Report:
        """Install a voucher or licence file. Installing the same one twice changes nothing.

        Raises:
            LicenceError: it is not genuine, for another site, older than what is held, used up, or from the future.
        """
        chain = verify.licence_file(text, self._roots)
        licence = chain.licence
        mark = clock.trust(self._advance(now), licence.iat, now)
        at = clock.believed(mark, now)
        known = self._ledger.known(licence.id)
        self._refuse_elsewhere(licence)
        _refuse_early(licence, at)
        self._refuse_old(licence, known, at)
        activated_at = known.activated_at if known else at
        self._install(Installed(id=licence.id, rev=licence.rev, text=chain.text, activated_at=activated_at), mark)
        self._current = chain, activated_at
        log.info("licence=%s rev=%d activated seats=%d", licence.id, licence.rev, licence.seats)
        return self.report(now)

    def report(self, now: int) -> Report:
        """What holds at `now` (the wall clock, Unix seconds)."""
        mark = self._look(now)
        terms = self._terms(mark, now)
        return Report(
            standing=terms.standing if terms else self._missing,
            licence=terms.licence if terms else None,
            activated_at=terms.activated_at if terms else None,
            site_key=self.key_hex,
            holds=tuple(self._ledger.holds(mark.time)),
            development=self._roots.development,
        )

    def lease(self, node: str, node_key: str, gpus: Sequence[str], node_seq: int, now: int) -> str | NoSeat | None:
        """The lease to hand to a node now; `None` when the one it has will do.

        Ask as often as you like: a new lease is made when the node has none, its GPUs or the licence changed, seats
        became free, or the last one is 8 h old. `node_seq` is the `seq` the node says it holds, 0 for none. A GPU
        without a UUID is left out.

        Raises:
            WeakKeyError: the node's key is no sound key.
            StoreError: the ledger cannot be written; nothing was granted.
        """
        terms = self._terms(self._look(now), now)
        if terms is None:
            return NoSeat(code=self._missing.code or "LIC-401", message=self._missing.message)
        named = tuple(gpu for gpu in gpus if has_uuid(gpu))
        return self._leases.answer(Ask(node=node, key=node_key, gpus=named, seq=node_seq), terms)

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

    def _refuse_old(self, licence: Licence, known: Installed | None, at: int) -> None:
        if known is not None and licence.rev < known.rev:
            raise ReplayError(
                f"the licence {licence.id} rev {licence.rev} is older than rev {known.rev}, which is known here; "
                "install the newest file"
            )
        standing = stage.of_licence(licence, known.activated_at if known else at, at)
        if standing.stage is not Stage.RESTRICTED:
            return
        ended = stage.when(standing.expires_at or at)
        if known is not None and at < licence.exp:
            raise ReplayError(
                f"the voucher {licence.id} was used here from {stage.when(known.activated_at)} and ended {ended}; "
                f"it works once. Ask the vendor for a licence bound to {self.key_hex}"
            )
        raise ExpiredError(f"the licence {licence.id} ended {ended}; ask for a renewal")

    def _install(self, installed: Installed, mark: clock.HighWater) -> None:
        with self._ledger.transaction():
            self._ledger.put_licence(installed)
            self._ledger.audit(mark.time, "activated", installed.id, rev=installed.rev, since=installed.activated_at)
            self._ledger.put_clock(mark)
        self._mark = self._written = mark

    # --- underneath ---

    def _load(self, installed: Installed) -> tuple[verify.LicenceChain, int] | None:
        """Verify the stored licence again: other roots may be pinned after an upgrade, and `site.key` another one."""
        try:
            chain = verify.licence_chain(installed.text, self._roots)
            self._refuse_lost_key(chain.licence)
        except LicenceError as error:
            log.error("licence=%s is not usable: %s", installed.id, error)
            self._missing = stage.unusable(installed.id, error.message)
            return None
        return chain, installed.activated_at

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
        chain, activated_at = self._current
        at = clock.believed(mark, now)
        standing = stage.of_licence(chain.licence, activated_at, at)
        return Terms(chain=chain, activated_at=activated_at, standing=standing, at=at, mark=mark)

    # --- time ---

    def _advance(self, now: int) -> clock.HighWater:
        return clock.advance(self._mark, now, self._uptime())

    def _look(self, now: int) -> clock.HighWater:
        """The mark now; also kept within ten minutes of it on disk while no lease is due."""
        before, mark = self._mark, self._advance(now)
        if before is None:
            return mark
        if mark.ahead_since is not None and before.ahead_since is None:
            log.warning("%s", clock.doubt(mark, now))
        before_behind, self._behind = self._behind, clock.is_behind(mark, now)
        if self._behind and not before_behind:
            log.warning("%s", clock.lag(mark, now))
        self._mark = mark
        if clock.is_news(mark, self._written):
            self._write(mark)
        return mark

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
