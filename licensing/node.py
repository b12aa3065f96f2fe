"""The node's side: its key, the lease it holds, and what that lease allows now.

Rules kept here: a lease is verified down from the pinned roots by the node itself; its number never goes back; it is on
disk before it counts. The answer whether a new job may start is computed from what is held, without asking anybody.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec

from licensing import clock, files, keys, stage, verify
from licensing.errors import ClockError, ExpiredError, LicenceError, ReplayError
from licensing.roots import Roots, pinned
from licensing.stage import FIX, LEASE_TOLERANCE_S, STILL_WORKS, Stage, Standing

log = logging.getLogger(__name__)

SKEW_S = 600
_CLOCK_WRITE_S = 600


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """`gate.json`: what the node remembers beside the lease itself."""

    clock: clock.HighWater | None = None
    first_start: int | None = None
    vouchers: dict[str, int] = {}
    """When this node first saw each voucher: its days count from then, whatever a new hub says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a new job may not start."""

    code: str
    detail: str


class NodeLease:
    """What one node may start. Files in `state_dir`: `node.key`, `lease`, `gate.json`."""

    def __init__(
        self,
        state_dir: Path,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
    ) -> None:
        self._dir = state_dir
        self._roots = roots or pinned()
        self._uptime = uptime
        state_dir.mkdir(parents=True, exist_ok=True)
        self.key_hex = keys.public_hex(keys.load_or_create(state_dir / "node.key"))
        self._state = self._load_state()
        self._problem: str | None = None
        self._held: verify.LeaseChain | None = None
        self._load_lease()

    @property
    def held(self) -> verify.LeaseChain | None:
        """The lease held now, verified."""
        return self._held

    def accept(self, token: str, now: int) -> None:
        """Take a lease from the hub. The one that is held already is taken again without effect.

        Raises:
            LicenceError: not genuine, for another node, older than the one held, over, or from the future.
        """
        if self._held is not None and self._held.text == token:
            return
        try:
            chain = verify.lease_chain(token, self._roots, self.key_hex)
            self._refuse_old(chain)
            self._refuse_untimely(chain, now)
        except LicenceError as error:
            self._problem = str(error)
            raise
        self._remember(chain, now)
        files.replace(self._dir / "lease", token.encode("ascii"))
        self._held, self._problem = chain, None
        log.info("lease=%s accepted gpus=%d until=%d", chain.lease.id, len(chain.lease.gpus), chain.lease.exp)

    def standing(self, now: int) -> Standing:
        """The stage as this node sees it."""
        return self._standing(self._effective(now))

    def seated(self, now: int) -> frozenset[str]:
        """GPUs on which new jobs may start now."""
        if self._held is None or self.standing(now).stage is Stage.RESTRICTED:
            return frozenset()
        return frozenset(self._held.lease.gpus)

    def refusal(self, gpus: frozenset[str], now: int) -> Refusal | None:
        """Why a new job on these GPUs may not start; `None` when it may. A job without GPUs needs only the lease."""
        standing = self.standing(now)
        if standing.stage is Stage.RESTRICTED:
            return Refusal(code=standing.code or "LIC-404", detail=standing.detail)
        missing = sorted(gpus - self.seated(now))
        return _no_seat(missing, self._held) if missing and self._held else None

    def _standing(self, at: int) -> Standing:
        if self._held is None:
            return self._no_lease()
        lease = self._held.lease
        first_seen = self._state.vouchers.get(lease.licence, lease.activated_at)
        return stage.of_lease(self._held.licence, lease, min(lease.activated_at, first_seen), at)

    def _no_lease(self) -> Standing:
        started = self._state.first_start
        since = f"since its first start, {stage.when(started)}" if started else "yet"
        if self._problem is not None:
            code, what = "LIC-413", f"The last lease was refused: {self._problem}."
        else:
            code, what = "LIC-410", f"This node was not handed a lease by its hub {since}."
        message = (
            f"{what} New jobs are held in the queue. {STILL_WORKS}. See on the hub whether it runs and reaches this "
            "node (stoker-license status); if it has no licence yet, install one there."
        )
        return Standing(stage=Stage.RESTRICTED, code=code, message=message, fix=FIX)

    # --- taking a lease ---

    def _refuse_old(self, chain: verify.LeaseChain) -> None:
        if self._held is None:
            return
        held, offered = self._held.lease, chain.lease
        if (offered.epoch, offered.seq) <= (held.epoch, held.seq):
            raise ReplayError(
                f"the lease {offered.id} is not newer than {held.id}, which this node holds; the hub was restored from "
                "a backup, or two hubs serve this node"
            )

    def _refuse_untimely(self, chain: verify.LeaseChain, now: int) -> None:
        """The vendor's signed time counts before the comparison: hub and node then start from the same moment."""
        lease = chain.lease
        at = max(self._effective(now), chain.licence.iat)
        if lease.iat > at + SKEW_S:
            raise ClockError(
                f"the lease {lease.id} was signed {stage.when(lease.iat)}, and here it is {stage.when(at)}; "
                "correct this node's clock: timedatectl set-ntp true"
            )
        if at > lease.exp + LEASE_TOLERANCE_S:
            raise ExpiredError(
                f"the lease {lease.id} ended {stage.when(lease.exp)}, and here it is {stage.when(at)}; "
                "compare this node's clock with the hub's"
            )

    def _remember(self, chain: verify.LeaseChain, now: int) -> None:
        uptime = self._uptime()
        mark = clock.trust(clock.advance(self._state.clock, now, uptime), chain.lease.iat, uptime)
        vouchers = dict(self._state.vouchers)
        if chain.licence.site is None:
            vouchers.setdefault(chain.licence.id, chain.lease.iat)
        self._store(msgspec.structs.replace(self._state, clock=mark, vouchers=vouchers))

    # --- state on disk ---

    def _effective(self, now: int) -> int:
        """The time to decide by; keeps the high-water mark on disk within ten minutes of it."""
        uptime = self._uptime()
        at = clock.effective(self._state.clock, now, uptime)
        mark = clock.advance(self._state.clock, now, uptime)
        if self._state.clock is None or mark.time - self._state.clock.time >= _CLOCK_WRITE_S:
            try:
                self._store(msgspec.structs.replace(self._state, clock=mark, first_start=self._state.first_start or at))
            except OSError as error:
                log.warning("cannot note the time in %s: %s", self._dir / "gate.json", error)
        return at

    def _store(self, state: _State) -> None:
        files.replace(self._dir / "gate.json", msgspec.json.encode(state))
        self._state = state

    def _load_state(self) -> _State:
        path = self._dir / "gate.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_State)
        except FileNotFoundError:
            return _State()
        except (OSError, msgspec.DecodeError) as error:
            log.error("%s cannot be read, starting it anew: %s", path, error)
            return _State()

    def _load_lease(self) -> None:
        path = self._dir / "lease"
        try:
            self._held = verify.lease_chain(path.read_text(encoding="ascii"), self._roots, self.key_hex)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError, LicenceError) as error:
            self._problem = str(error)
            log.error("%s cannot be used, waiting for the hub's next lease: %s", path, error)


def _no_seat(missing: list[str], held: verify.LeaseChain | None) -> Refusal:
    assert held is not None
    lease = held.lease
    detail = (
        f"LIC-420: no seat for {', '.join(missing)}. The lease of this node covers {len(lease.gpus)} GPUs since "
        f"{stage.when(lease.iat)}, and the licence {lease.licence} has {held.licence.seats} seats for the whole site. "
        f"The job starts when a seat is free. {STILL_WORKS}. For more seats run: {FIX}"
    )
    return Refusal(code="LIC-420", detail=detail)
