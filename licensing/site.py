"""The hub's side: the installed licence, and the leases made out from it.

Rules kept here: what is granted is committed first and signed afterwards, so no lease exists without its row; the same
renewal asked twice is answered with the same lease; a renewal is never refused because too many seats are taken, it
covers what there is. Values (`NoSeat`, `None`) say that there is nothing to send; errors are for bad documents.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from licensing import armour, clock, keys, stage, verify
from licensing.document import Lease, Licence, decode, encode, sign_content
from licensing.errors import ClockError, ExpiredError, LicenceError, OtherSiteError, ReplayError
from licensing.roots import Roots, pinned
from licensing.seats import Hold, share
from licensing.stage import Stage, Standing
from licensing.store import Grant, Installed, Ledger

log = logging.getLogger(__name__)

RENEW_S = 8 * 3600
_EPOCH = 1
"""Which hub of this site speaks; a standby that takes over will speak with a higher one."""
_CLOCK_WRITE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSeat:
    """No lease is to be had now; the node keeps what it has."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Licence and seats at a moment."""

    standing: Standing
    licence: Licence | None
    activated_at: int | None
    site_key: str
    holds: tuple[Hold, ...]
    development: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Current:
    """The installed licence, verified."""

    chain: verify.LicenceChain
    activated_at: int

    @property
    def licence(self) -> Licence:
        return self.chain.licence


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
        self._current: _Current | None = None

    def open(self) -> None:
        """Open the ledger and the key, making both on the first start.

        Raises:
            StoreError, KeyFileError: they cannot be used.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        self._key = keys.load_or_create(self._dir / "site.key")
        self.key_hex = keys.public_hex(self._key)
        self._ledger.open()
        self._mark = self._ledger.clock()
        installed = self._ledger.installed()
        self._current = self._load(installed) if installed else None

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    # --- the licence ---

    def activate(self, text: str, now: int) -> Report:
        """Install a voucher or licence file. Installing the same one twice changes nothing.

        Raises:
            LicenceError: it is not genuine, for another site, older than what is held, used up, or from the future.
        """
        chain = verify.licence_file(text, self._roots)
        licence = chain.licence
        if licence.site is not None and licence.site != self.key_hex:
            raise OtherSiteError(
                f"the licence {licence.id} of {licence.customer} is bound to site {licence.site[:16]}…, this is site "
                f"{self.key_hex[:16]}…; ask the vendor for one made out to {self.key_hex}"
            )
        at = max(self._effective(now), licence.iat)
        self._refuse_early(licence, at)
        known = self._ledger.known(licence.id)
        self._refuse_old(licence, known, at)
        activated_at = known.activated_at if known else at
        self._install(
            Installed(id=licence.id, rev=licence.rev, text=chain.text, activated_at=activated_at), licence.iat, now
        )
        self._current = _Current(chain=chain, activated_at=activated_at)
        log.info(
            "licence=%s rev=%d activated customer=%s seats=%d", licence.id, licence.rev, licence.customer, licence.seats
        )
        return self.report(now)

    def activate_evaluation(self, now: int) -> Report:
        """Install the evaluation voucher of this build unless some licence is installed already.

        Raises:
            LicenceError: this build has none.
        """
        if self._current is not None:
            return self.report(now)
        return self.activate(evaluation_voucher(), now)

    def report(self, now: int) -> Report:
        """What holds at `now` (the wall clock, Unix seconds)."""
        at = self._effective(now)
        self._note_time(now)
        current = self._current
        return Report(
            standing=self._standing(at),
            licence=current.licence if current else None,
            activated_at=current.activated_at if current else None,
            site_key=self.key_hex,
            holds=tuple(self._ledger.holds(at)),
            development=self._roots.development,
        )

    # --- leases ---

    def lease(self, node: str, node_key: str, gpus: Sequence[str], node_seq: int, now: int) -> str | NoSeat | None:
        """The lease to hand to a node now; `None` when the one it has will do.

        Ask as often as you like: a new lease is made when the node has none, its GPUs or the licence changed, seats
        became free, or the last one is 8 h old. `node_seq` is the `seq` the node says it holds, 0 for none.

        Raises:
            WeakKeyError: the node's key is no sound key.
            StoreError: the ledger cannot be written; nothing was granted.
        """
        at = self._effective(now)
        standing = self._standing(at)
        if self._current is None or standing.stage is Stage.RESTRICTED:
            return NoSeat(code=standing.code or "LIC-404", message=standing.message)
        last = self._ledger.grant(node)
        if last is not None and last.key != node_key:
            last = None
        if last is None and standing.stage is Stage.GRACE:
            return NoSeat(
                code="LIC-421", message=f"{standing.message} {node} had no lease before and gets none in grace."
            )
        if last is not None and not self._is_due(last, gpus, node_seq, standing, at):
            return None if node_seq == last.seq else self._signed(last)
        keys.public_key(node_key)
        return self._signed(self._checkout(node, node_key, gpus, node_seq, standing, now))

    def _is_due(self, last: Grant, gpus: Sequence[str], node_seq: int, standing: Standing, at: int) -> bool:
        lease = decode(Lease, last.content)
        current = self._must_current
        if node_seq > last.seq or tuple(gpus) != last.wanted:
            return True
        if (lease.licence, lease.rev) != (current.licence.id, current.licence.rev):
            return True
        if self._share(lease.node, gpus, standing, at) != lease.gpus:
            return True
        return at >= lease.iat + min(RENEW_S, current.licence.lease_s // 3) and self._until(standing, at) > lease.exp

    def _checkout(self, node: str, key: str, gpus: Sequence[str], node_seq: int, standing: Standing, now: int) -> Grant:
        """One transaction: expire → count → hold → audit → time. Signing comes after the commit."""
        at = self._effective(now)
        with self._ledger.transaction():
            for freed in self._ledger.expire(at):
                self._ledger.audit(at, "expired", freed.gpu, node=freed.node, until=freed.until)
            seq = self._next_seq(node, node_seq, at)
            seated = self._share(node, gpus, standing, at)
            lease = self._make_lease(node, key, seated, seq, self._until(standing, at), at)
            self._ledger.hold(node, seated, since=at, until=lease.exp, gen=seq)
            grant = Grant(node=node, key=key, seq=seq, wanted=tuple(gpus), content=encode(lease))
            self._ledger.put_grant(grant)
            self._ledger.audit(at, "granted", node, lease=lease.id, gpus=list(seated), asked=len(gpus), until=lease.exp)
            mark = clock.advance(self._mark, now, self._uptime())
            self._ledger.put_clock(mark)
        self._mark = mark
        log.info("node=%s leased seq=%d gpus=%d/%d until=%d", node, seq, len(seated), len(gpus), lease.exp)
        return grant

    def _next_seq(self, node: str, node_seq: int, at: int) -> int:
        """One above both sides. A node ahead of the ledger means that the ledger was restored from a backup."""
        last = self._ledger.grant(node)
        known = last.seq if last else 0
        if node_seq > known:
            self._ledger.audit(at, "restored", node, node_seq=node_seq, ledger_seq=known)
        return max(node_seq, known) + 1

    def _make_lease(self, node: str, key: str, gpus: tuple[str, ...], seq: int, until: int, at: int) -> Lease:
        current = self._must_current
        previous = self._ledger.grant(node)
        return Lease(
            id=f"lease-{node}-{_EPOCH}-{seq}",
            iat=at,
            exp=until,
            cluster=self._cluster,
            node=node,
            key=key,
            site=self.key_hex,
            licence=current.licence.id,
            rev=current.licence.rev,
            activated_at=current.activated_at,
            gpus=gpus,
            epoch=_EPOCH,
            seq=seq,
            prev=hashlib.sha256(previous.content).hexdigest() if previous else "",
        )

    def _signed(self, grant: Grant) -> str:
        """The token of a committed grant, behind the chain that proves it. Signing twice gives the same text."""
        token = sign_content(self._key, Lease, grant.content)
        return armour.LINK.join((self._must_current.chain.text, token))

    def _share(self, node: str, gpus: Sequence[str], standing: Standing, at: int) -> tuple[str, ...]:
        return share(
            gpus,
            self._ledger.holds(at),
            node=node,
            seats=self._must_current.licence.seats,
            may_grow=standing.stage is not Stage.GRACE,
        )

    def _until(self, standing: Standing, at: int) -> int:
        """A lease never outlives what its licence allows."""
        assert standing.restricted_at is not None
        return min(at + self._must_current.licence.lease_s, standing.restricted_at)

    # --- underneath ---

    @property
    def _must_current(self) -> _Current:
        assert self._current is not None
        return self._current

    def _standing(self, at: int) -> Standing:
        if self._current is None:
            return stage.no_licence()
        return stage.of_licence(self._current.licence, self._current.activated_at, at)

    def _load(self, installed: Installed) -> _Current | None:
        """Verify the stored licence again: after an upgrade other roots may be pinned."""
        try:
            chain = verify.licence_chain(installed.text, self._roots)
        except LicenceError as error:
            log.error("licence=%s is not usable with this version: %s", installed.id, error)
            return None
        return _Current(chain=chain, activated_at=installed.activated_at)

    def _refuse_early(self, licence: Licence, at: int) -> None:
        if licence.nbf > at:
            raise ClockError(
                f"the licence {licence.id} begins {stage.when(licence.nbf)}, and here it is {stage.when(at)}; "
                "install it then, or correct the clock: timedatectl set-ntp true"
            )

    def _refuse_old(self, licence: Licence, known: Installed | None, at: int) -> None:
        if known is not None and licence.rev < known.rev:
            raise ReplayError(
                f"the licence {licence.id} rev {licence.rev} is older than rev {known.rev}, seen here before"
            )
        standing = stage.of_licence(licence, known.activated_at if known else at, at)
        if standing.stage is not Stage.RESTRICTED:
            return
        if known is not None and at < licence.exp:
            raise ReplayError(
                f"the voucher {licence.id} was used here from {stage.when(known.activated_at)} and ended "
                f"{stage.when(standing.expires_at or at)}; it works once. "
                f"Ask the vendor for a licence bound to {self.key_hex}"
            )
        raise ExpiredError(f"the licence {licence.id} ended {stage.when(standing.expires_at or at)}; ask for a renewal")

    def _install(self, installed: Installed, signed_at: int, now: int) -> None:
        uptime = self._uptime()
        mark = clock.trust(clock.advance(self._mark, now, uptime), signed_at, uptime)
        with self._ledger.transaction():
            self._ledger.put_licence(installed)
            self._ledger.audit(
                mark.time, "activated", installed.id, rev=installed.rev, activated_at=installed.activated_at
            )
            self._ledger.put_clock(mark)
        self._mark = mark

    def _effective(self, now: int) -> int:
        return clock.effective(self._mark, now, self._uptime())

    def _note_time(self, now: int) -> None:
        """Keep the high-water mark within ten minutes of the truth also while no lease is due."""
        mark = clock.advance(self._mark, now, self._uptime())
        if self._mark is not None and mark.time - self._mark.time < _CLOCK_WRITE_S:
            return
        with self._ledger.transaction():
            self._ledger.put_clock(mark)
        self._mark = mark


def evaluation_voucher() -> str:
    """The text of the voucher shipped with this build.

    Raises:
        ExpiredError: this build was made without one.
    """
    file = resources.files("licensing").joinpath("data", "evaluation.voucher")
    if not file.is_file():
        raise ExpiredError("this build has no evaluation voucher; ask the vendor for a voucher or licence file")
    return file.read_text(encoding="ascii")
