"""The time that a site goes by: `clock`'s rules, what the ledger remembers of it, and what a jump puts right.

Rules kept here: before the first licence no time is kept; looking at the time writes only what is news, and a disk that
takes nothing holds nobody up; days that were counted by a clock in doubt are put right before the new time is kept.
"""

from __future__ import annotations

import logging

from licensing import clock, moments
from licensing.document import Licence
from licensing.errors import StoreError, UsageError
from licensing.inuse import InUse
from licensing.store import Ledger

log = logging.getLogger(__name__)

_RETRY_S = 60


class Timekeeper:
    """The highest time of one site. Used from the ledger's thread; `now` is always the wall clock."""

    def __init__(self, ledger: Ledger, in_use: InUse, uptime: clock.UptimeReader) -> None:
        self._ledger = ledger
        self._in_use = in_use
        self._uptime = uptime
        self._mark: clock.HighWater | None = None
        """The highest time, from the first activation on: without a licence there is nothing to guard with it."""
        self._written: clock.HighWater | None = None
        self._behind = False
        self.rollbacks = 0
        """How often since the start the clock was seen behind what is known."""
        self._failed_at: int | None = None
        """Uptime when the mark could not be written."""

    def open(self) -> None:
        """Take up what the ledger remembers."""
        self._mark = self._written = self._ledger.clock() if self._ledger.installed() else None

    def advance(self, now: int) -> clock.HighWater:
        """The mark now, of which nothing is kept."""
        return clock.advance(self._mark, now, self._uptime())

    def confirmed(self, now: int) -> int:
        """The time without what the clock says beyond it."""
        return self.look(now).time

    def look(self, now: int) -> clock.HighWater:
        """The mark now; also kept within ten minutes of it on disk while no lease is due."""
        before, mark = self._mark, self.advance(now)
        if before is None:
            return mark
        if mark.ahead_since is not None and before.ahead_since is None:
            log.warning("%s", clock.doubt(mark, now))
        is_settled, was_behind = self._is_settled(mark, now), self._behind
        self._behind = mark.behind
        if mark.behind and not was_behind:
            self._tell_back(mark, now, is_noted=before.behind, is_settled=is_settled)
        if not is_settled:
            return mark
        self._mark = mark
        if clock.is_news(mark, self._written):
            self._write(mark)
        return mark

    def keep(self, mark: clock.HighWater) -> None:
        """Go on from a mark that a committed transaction wrote."""
        self._mark = self._written = mark

    def proven(self, licence: Licence, mark: clock.HighWater, now: int) -> int | None:
        """The time, where an answer to a request of here proves that what is known is too far ahead."""
        asked = self._ledger.request(licence.request) if licence.request is not None else None
        if asked is None or asked.answer or self._mark is None:
            return None
        return clock.proven(mark, now, asked=asked.made_at, at=clock.believed(mark, now), signed=licence.iat)

    def confirm(self, now: int, subject: str, *, sure: bool) -> None:
        """Take the wall clock for right, on an operator's word; `subject` is whom the trail names.

        A clock that agrees with what is known needs no word; where one is given all the same, nodes go by the hub's.

        Raises:
            UsageError: nothing is kept yet, it is behind what is known, or the word is missing.
            StoreError: it cannot be written; nothing was changed.
        """
        before = self.look(now)
        if self._mark is None:
            raise UsageError("without a licence no time is kept, so there is none to confirm")
        if clock.agrees(before, now) and not sure:
            return
        if before.time - now > clock.SKEW_S:
            raise UsageError(
                f"the clock says {moments.when(now)}, and it is at least {moments.when(before.time)} by what was "
                "signed and seen; time does not run back. Set the clock; if it is right, the answer to a request "
                "made now sets time back: stoker-license export-request"
            )
        if not sure:
            raise UsageError(
                f"the clock says {moments.when(now)}, and by the uptime it is {moments.when(before.time)}; only the "
                "vendor's answer leads back from a later time. If it is right: stoker-license clock confirm --yes"
            )
        mark = clock.confirm(before, now)
        with self._ledger.transaction():
            if self._is_doubted():
                self._settle(clock.jump(before, mark, self._uptime()), right=True)
            self._ledger.count_reset()
            self._ledger.audit(mark.time, "clock_confirmed", subject, was=before.time)
            self._ledger.put_clock(mark)
        self.keep(mark)
        self._reload()
        log.warning("time confirmed: %d, it was %d", mark.time, before.time)

    def _tell_back(self, mark: clock.HighWater, now: int, *, is_noted: bool, is_settled: bool) -> None:
        """Tell, and keep in the trail, that the clock was set back: it gains nothing, and whoever reads on may ask.

        `is_noted`: the trail has it, of before a restart. `is_settled`: the mark, which says so too, may be kept.
        """
        self.rollbacks += 1
        log.warning("%s", clock.lag(mark, now))
        if is_noted:
            return
        current = self._in_use.current
        try:
            with self._ledger.transaction():
                self._ledger.audit(mark.time, "clock_back", current.installed.id if current else "site", wall=now)
                if is_settled:
                    self._ledger.put_clock(mark)
        except StoreError as error:
            log.warning("cannot note in the trail that the clock is behind: %s", error)

    def _is_doubted(self) -> bool:
        """Whether something was dated by a clock that certainly stood too early."""
        current = self._in_use.current
        return current is not None and (current.installed.doubted or self._in_use.binding.is_doubted)

    def _is_settled(self, mark: clock.HighWater, now: int) -> bool:
        """Whether nothing is left to put right before this mark may be kept."""
        current = self._in_use.current
        if current is None or not self._is_doubted() or self._mark is None:
            return True
        shift = clock.jump(self._mark, mark, self._uptime())
        right = clock.is_right(self._in_use.certain(current.licence), mark, now)
        if shift == 0 and not right:
            return True
        try:
            with self._ledger.transaction():
                self._settle(shift, right=right)
                self._ledger.audit(mark.time, "clock", current.installed.id, shift_s=shift, right=right)
                self._ledger.put_clock(mark)
        except StoreError as error:
            log.warning("the days of a licence cannot be put right yet: %s", error)
            return False
        self._written = mark
        self._reload()
        return True

    def _settle(self, shift_s: int, *, right: bool) -> None:
        self._ledger.settle(shift_s, right=right)
        self._in_use.binding.settle(shift_s, right=right)

    def _reload(self) -> None:
        self._in_use.reload()
        self._in_use.binding.reload()

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
