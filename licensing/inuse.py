"""The licence in use at a site: verified, how it stands at a moment, and what may take its place.

Rules kept here: the stored chain is verified again at every start; a lower revision, a licence of another site and one
that is over are refused; a revocation list only ever gets newer. Nothing here goes by a clock of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from licensing import clock, moments, revocation, stage, verify
from licensing.binding import Binding
from licensing.document import Licence
from licensing.errors import ClockError, ExpiredError, LicenceError, OtherSiteError, ReplayError, RevokedError
from licensing.leases import Terms, term_of
from licensing.revocation import Revocations
from licensing.roots import Roots
from licensing.stage import Facts, Stage, Standing
from licensing.store import Installed, Ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The installed licence, verified."""

    chain: verify.LicenceChain
    installed: Installed

    @property
    def licence(self) -> Licence:
        """The licence itself."""
        return self.chain.licence


class InUse:
    """The licence of one site, with the revocation lists that it is held against. Used from the ledger's thread."""

    def __init__(
        self,
        ledger: Ledger,
        roots: Roots,
        key_file: Path,
        binding: Binding,
        *,
        built_at: int,
        gpu_ms_used: Callable[[str], int],
    ) -> None:
        self._ledger = ledger
        self._roots = roots
        self._key_file = key_file
        self.binding = binding
        self._built_at = built_at
        self._gpu_ms_used = gpu_ms_used
        self._site_key = ""
        self._noticed: int | None = None
        self.current: Current | None = None
        self.missing = stage.no_licence()
        """How the site stands while there is no usable licence."""
        self.lists = Revocations()

    def open(self, site_key: str) -> None:
        """Take up what the ledger holds."""
        self._site_key = site_key
        self.lists = self._load_lists()
        self.load()

    def load(self) -> None:
        """Verify what is installed again."""
        installed = self._ledger.installed()
        self.current = self._verified(installed) if installed else None

    def reload(self) -> None:
        """What is installed, as the ledger has it now; verified again where it is another text."""
        installed = self._ledger.installed()
        if installed is None:
            return
        held = self.current
        if held is not None and held.installed.text == installed.text:
            self.current = replace(held, installed=installed)
        else:
            self.current = self._verified(installed)

    def certain(self, licence: Licence) -> int:
        """A moment that has certainly come."""
        return max(licence.iat, self._built_at)

    # --- how it stands ---

    def terms(self, mark: clock.HighWater, now: int) -> Terms | None:
        """What may be given now; `None` where `missing` says why nothing may."""
        if self.current is None:
            return None
        chain, installed = self.current.chain, self.current.installed
        at = clock.believed(mark, now)
        activated_at = _since(installed, mark, at)
        facts = replace(
            self._facts(installed.id, installed),
            extended_until=self._extended(chain.licence, at),
            hardware=self.binding.hardware(chain.licence, mark, at),
        )
        standing = stage.of_licence(chain.licence, activated_at, at, facts)
        if at - mark.time > clock.JUMP_S:
            sure = stage.of_licence(chain.licence, _since(installed, mark, mark.time), mark.time, facts)
            standing = stage.of_doubt(standing, sure, at, mark.time)
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
            gpu_ms_used=self._gpu_ms_used(licence_id) if known else 0,  # asking begins the count
        )

    def _say_notice(self, standing: Standing) -> None:
        """Once for each of the days at which it is due."""
        if standing.notice_days is not None and standing.notice_days != self._noticed:
            log.warning("%s", standing.detail)
        self._noticed = standing.notice_days

    # --- what may take its place ---

    def refuse_elsewhere(self, licence: Licence) -> None:
        """Let only a licence of this site pass, or one of none.

        Raises:
            OtherSiteError: it is bound to another.
        """
        if licence.site not in (None, self._site_key):
            raise OtherSiteError(
                f"the licence {licence.id} of {licence.customer} is bound to site {licence.site[:16]}…, this is site "
                f"{self._site_key[:16]}…; ask the vendor for one made out to {self._site_key}"
            )

    def refuse_early(self, licence: Licence, at: int) -> None:
        """Let only a licence pass that has begun.

        Raises:
            ClockError: it begins later.
        """
        if licence.nbf > at:
            raise ClockError(
                f"the licence {licence.id} begins {moments.when(licence.nbf)}, and here it is {moments.when(at)}; "
                "install it then, or correct the clock: timedatectl set-ntp true"
            )

    def refuse_old(self, licence: Licence, known: Installed | None, at: int, mark: clock.HighWater) -> None:
        """Let only a licence pass that is not over, and no older than what is known of it.

        Raises:
            ReplayError: a newer revision is known, or its voucher was used up here.
            ExpiredError: it is over.
        """
        if known is not None and licence.rev < known.rev:
            raise ReplayError(
                f"the licence {licence.id} rev {licence.rev} is older than rev {known.rev}, which is known here; "
                "install the newest file"
            )
        activated_at = _since(known, mark, at) if known else at
        standing = stage.of_licence(licence, activated_at, at, self._facts(licence.id, known))
        if standing.stage is not Stage.RESTRICTED or standing.code not in ("LIC-404", "LIC-405", "LIC-406"):
            return  # hours and reports can be made good later; a date that is over cannot
        ended = moments.when(standing.expires_at or at)
        if known is not None and at < licence.exp:
            raise ReplayError(
                f"the voucher {licence.id} was used here from {moments.when(known.activated_at)} and ended {ended}; "
                f"it works once. Ask the vendor for a licence bound to {self._site_key}"
            )
        raise ExpiredError(f"the licence {licence.id} ended {ended}; ask for a renewal")

    # --- revocation lists ---

    def lists_with(self, text: str) -> Revocations:
        """The known lists, and those that a file carries.

        Raises:
            LicenceError: one of the file's is not genuine, or older than what is known.
        """
        lists = self.lists
        for each in revocation.lists_in(text, self._roots):
            lists = lists.with_list(each)
        return lists

    def keep_lists(self, lists: Revocations, at: int) -> None:
        """Write what is newer than before; belongs inside a transaction."""
        for signer, each in lists.lists.items():
            if self.lists.lists.get(signer) is not each:
                self._ledger.put_list(signer, each.crl.number, each.text)
                self._ledger.audit(at, "crl", signer, number=each.crl.number)

    def _load_lists(self) -> Revocations:
        """Verify the stored lists again; one of other roots means nothing to this build, and stays on disk."""
        found = Revocations()
        for text in self._ledger.lists():
            try:
                found = found.with_list(verify.crl_chain(text, self._roots))
            except LicenceError as error:
                log.warning("a stored revocation list is not used: %s", error)
        return found

    # --- underneath ---

    def _verified(self, installed: Installed) -> Current | None:
        """Verify the stored licence again: other roots may be pinned after an upgrade, and `site.key` another one."""
        try:
            chain = verify.licence_chain(installed.text, self._roots)
            self._refuse_lost_key(chain.licence)
            stone = self._ledger.tombstone(installed.id)
            if stone is not None and chain.licence.generation <= stone.generation:
                self.missing = stage.released(installed.id, stone.at)
                return None
            self.lists.refuse(chain)
        except RevokedError as error:
            log.error("licence=%s is revoked: %s", installed.id, error)
            self.missing = stage.revoked(error.message)
            return None
        except LicenceError as error:
            log.error("licence=%s is not usable: %s", installed.id, error)
            self.missing = stage.unusable(installed.id, error.message)
            return None
        return Current(chain=chain, installed=installed)

    def _refuse_lost_key(self, licence: Licence) -> None:
        if licence.site not in (None, self._site_key):
            raise OtherSiteError(
                f"it is bound to site {licence.site}, and the key in {self._key_file} is {self._site_key}; put "
                "that file back from the backup and restart the hub, or ask the vendor for a licence made out to this "
                "key"
            )


def _since(installed: Installed, mark: clock.HighWater, at: int) -> int:
    """When it was activated. While the clock of then is not yet known to be right, what it jumped by is not counted."""
    return installed.activated_at + (at - mark.time if installed.doubted else 0)
