"""The hub's side: which licence is installed, how it stands, and the door to its leases.

Rules kept here: a licence id keeps the moment of its first activation, whatever is installed afterwards; a lower
revision is refused; the stored chain is verified again at every start. Errors are for bad documents; that there is
nothing to give is a value (`NoSeat`, `None`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from licensing import clock, keys, stage, verify
from licensing.document import Licence
from licensing.errors import ClockError, ExpiredError, LicenceError, OtherSiteError, ReplayError
from licensing.leases import Ask, Leases, Terms
from licensing.roots import Roots, pinned
from licensing.seats import Hold, NoSeat
from licensing.stage import Stage, Standing
from licensing.store import Installed, Ledger

log = logging.getLogger(__name__)

_CLOCK_WRITE_S = 600


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
        installed = self._ledger.installed()
        self._current = self._load(installed) if installed else None

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
        at = max(self._effective(now), licence.iat)
        known = self._ledger.known(licence.id)
        self._refuse_elsewhere(licence)
        _refuse_early(licence, at)
        self._refuse_old(licence, known, at)
        activated_at = known.activated_at if known else at
        installed = Installed(id=licence.id, rev=licence.rev, text=chain.text, activated_at=activated_at)
        self._install(installed, licence.iat, now)
        self._current = chain, activated_at
        log.info("licence=%s rev=%d activated seats=%d", licence.id, licence.rev, licence.seats)
        return self.report(now)

    def activate_evaluation(self, now: int) -> Report:
        """Install the evaluation voucher of this build unless some licence is installed already.

        Raises:
            LicenceError: this build has none.
        """
        if self._ledger.installed() is not None:
            return self.report(now)
        return self.activate(evaluation_voucher(), now)

    def report(self, now: int) -> Report:
        """What holds at `now` (the wall clock, Unix seconds)."""
        at = self._effective(now)
        self._note_time(now)
        terms = self._terms(at)
        return Report(
            standing=terms.standing if terms else self._missing,
            licence=terms.licence if terms else None,
            activated_at=terms.activated_at if terms else None,
            site_key=self.key_hex,
            holds=tuple(self._ledger.holds(at)),
            development=self._roots.development,
        )

    def lease(self, node: str, node_key: str, gpus: Sequence[str], node_seq: int, now: int) -> str | NoSeat | None:
        """The lease to hand to a node now; `None` when the one it has will do.

        Ask as often as you like: a new lease is made when the node has none, its GPUs or the licence changed, seats
        became free, or the last one is 8 h old. `node_seq` is the `seq` the node says it holds, 0 for none.

        Raises:
            WeakKeyError: the node's key is no sound key.
            StoreError: the ledger cannot be written; nothing was granted.
        """
        terms = self._terms(self._effective(now))
        if terms is None:
            return NoSeat(code=self._missing.code or "LIC-401", message=self._missing.message)
        mark = clock.advance(self._ledger.clock(), now, self._uptime())
        return self._leases.answer(Ask(node=node, key=node_key, gpus=tuple(gpus), seq=node_seq), terms, mark)

    # --- what may be installed ---

    def _refuse_elsewhere(self, licence: Licence) -> None:
        if licence.site is not None and licence.site != self.key_hex:
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

    def _install(self, installed: Installed, signed_at: int, now: int) -> None:
        uptime = self._uptime()
        mark = clock.trust(clock.advance(self._ledger.clock(), now, uptime), signed_at, uptime)
        with self._ledger.transaction():
            self._ledger.put_licence(installed)
            self._ledger.audit(mark.time, "activated", installed.id, rev=installed.rev, since=installed.activated_at)
            self._ledger.put_clock(mark)

    # --- underneath ---

    def _load(self, installed: Installed) -> tuple[verify.LicenceChain, int] | None:
        """Verify the stored licence again: after an upgrade other roots may be pinned."""
        try:
            return verify.licence_chain(installed.text, self._roots), installed.activated_at
        except LicenceError as error:
            log.error("licence=%s is not usable with this version: %s", installed.id, error)
            self._missing = stage.unusable(installed.id, error.message)
            return None

    def _terms(self, at: int) -> Terms | None:
        if self._current is None:
            return None
        chain, activated_at = self._current
        standing = stage.of_licence(chain.licence, activated_at, at)
        return Terms(chain=chain, activated_at=activated_at, standing=standing, at=at)

    def _effective(self, now: int) -> int:
        return clock.effective(self._ledger.clock(), now, self._uptime())

    def _note_time(self, now: int) -> None:
        """Keep the high-water mark within ten minutes of the truth also while no lease is due."""
        stored = self._ledger.clock()
        mark = clock.advance(stored, now, self._uptime())
        if stored is not None and mark.time - stored.time < _CLOCK_WRITE_S:
            return
        with self._ledger.transaction():
            self._ledger.put_clock(mark)


def evaluation_voucher() -> str:
    """The text of the voucher shipped with this build.

    Raises:
        ExpiredError: this build was made without one.
    """
    file = resources.files("licensing").joinpath("data", "evaluation.voucher")
    if not file.is_file():
        raise ExpiredError("this build has no evaluation voucher; ask the vendor for a voucher or licence file")
    return file.read_text(encoding="ascii")


def _refuse_early(licence: Licence, at: int) -> None:
    if licence.nbf > at:
        raise ClockError(
            f"the licence {licence.id} begins {stage.when(licence.nbf)}, and here it is {stage.when(at)}; "
            "install it then, or correct the clock: timedatectl set-ntp true"
        )
