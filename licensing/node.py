"""The node's side: its key, the lease it holds, and what that lease allows now.

Rules kept here: a lease is verified down from the pinned roots by the node itself; its number never goes back; it is on
disk before it counts. The answer whether a new job may start is computed from what is held, without asking anybody and
without touching the disk. No damage to these files keeps the node from starting.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from licensing import clock, files, moments, plans, release, stage, verify
from licensing.clock import JUMP_S
from licensing.document import sign
from licensing.errors import (
    ClockError,
    ExpiredError,
    FormatError,
    LicenceError,
    ReplayError,
    StoreError,
    UsageError,
)
from licensing.exchange import Release
from licensing.memory import Memory
from licensing.nodekey import NodeKey
from licensing.paseto import split
from licensing.roots import Roots, pinned
from licensing.stage import FIX, LEASE_TOLERANCE_S, STILL_WORKS, Stage, Standing

log = logging.getLogger(__name__)

_RELEASED = "released"
"""This node's word that it gave its lease back; gone with the next lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a new job may not start."""

    code: str
    detail: str
    fix: str | None = None
    """The command that helps; in `detail` where it is not said apart."""


class NodeLease:
    """What one node may start. Files in `state_dir`: `node.key`, `lease`, `gate.json`. For use from any thread."""

    def __init__(
        self,
        state_dir: Path,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
        built_at: int = release.AT,
    ) -> None:
        self._dir = state_dir
        self._built_at = built_at
        self._roots = roots or pinned()
        with suppress(OSError):  # whoever must write there says so
            state_dir.mkdir(parents=True, exist_ok=True)
        self._key = NodeKey(state_dir / "node.key")
        self._memory = Memory(state_dir / "gate.json", uptime, built_at)
        self._problem: LicenceError | None = None
        self._held: verify.LeaseChain | None = None
        self._refused: Refusal | None = None
        """Why the hub gives no further lease; said until it gives one. In memory: the hub says it to each agent."""
        self._taking = threading.Lock()
        """One lease after the other, so that its number is compared with what is held then."""
        self._load_lease()

    @property
    def key_hex(self) -> str:
        """The node's public key, 64 hex digits."""
        return self._key.hex

    @property
    def held(self) -> verify.LeaseChain | None:
        """The lease held now, verified."""
        return self._held

    def accept(self, token: str, now: int) -> None:
        """Take a lease from the hub. The one that is held already is taken again without effect.

        Raises:
            LicenceError: not genuine, for another node, older than the one held, over, or from the future.
            StoreError: it cannot be written. What is held stays.
        """
        with self._taking:
            if self._held is None or self._held.text != token:
                self._take(token, now)

    def give_back(self, now: int) -> str:
        """Give the lease back before its end, for another node: gives this node's word for it. Twice is once.

        New jobs are held here from then on, running ones go on.

        Raises:
            UsageError: none is held.
            StoreError: it cannot be written; the lease stays.
        """
        with self._taking:
            if self._held is None:
                if (self._dir / _RELEASED).exists():
                    return (self._dir / _RELEASED).read_text("ascii")
                raise UsageError("this node holds no lease, so there is none to give back")
            token = sign(self._key.private, self._release(self._held, self._memory.look(now)))
            try:
                files.replace(self._dir / _RELEASED, token.encode("ascii"))
                files.remove(self._dir / "lease")
            except OSError as error:
                raise StoreError(f"the lease cannot be given back: {self._dir}: {error.strerror or error}") from error
            log.info("lease=%s given back", self._held.lease.id)
            self._held, self._problem = None, None
            return token

    def hear(self, refusal: Refusal | None) -> None:
        """The hub says why it gives no further lease, or that it does again. Shown, and changes nothing else."""
        self._refused = refusal

    @property
    def refused(self) -> str:
        """The code of that, empty while nothing is said."""
        return self._refused.code if self._refused is not None else ""

    def renew_identity(self, now: int) -> str:
        """Make a key of this node's own, where another machine has the same; gives its public half.

        The lease that was made out to the old one is dropped: new jobs wait for the hub's next, running ones go on.

        Raises:
            StoreError: it cannot be written; key and lease stay.
        """
        with self._taking:
            try:
                self._key.renew()
                files.remove(self._dir / "lease")
            except OSError as error:
                raise StoreError(f"no new key can be made: {self._dir}: {error.strerror or error}") from error
            finally:
                if self._held is not None and self._held.lease.key != self.key_hex:
                    self._held, self._problem, self._refused = None, None, None
        return self.key_hex

    def _release(self, held: verify.LeaseChain, at: int) -> Release:
        lease = held.lease
        return Release(
            id=f"rel-{secrets.token_hex(8)}",
            iat=at,
            licence=lease.licence,
            rev=lease.rev,
            generation=held.licence.generation,
            site=lease.site,
            node=lease.node,
            key=lease.key,
            lease=lease.id,
            gpus=lease.gpus,
            counter=lease.seq,
            head=hashlib.sha256(split(held.token).payload).hexdigest(),
        )

    def tick(self, now: int) -> None:
        """Write what `accept` left to write; once a minute, from a thread that may wait for the disk. Never fails."""
        with suppress(OSError):  # `NodeKey.problem` says it, in each refusal
            self._key.store()
        self._memory.tick(now)

    def standing(self, now: int) -> Standing:
        """The stage as this node sees it."""
        at = self._memory.look(now)
        standing = self._of_lease(self._held, at) if self._held else self._no_lease()
        refused = self._refused
        if refused is None:
            return standing
        return stage.refused(standing, refused.code, refused.detail, refused.fix)

    def seated(self, now: int) -> frozenset[str]:
        """GPUs on which new jobs may start now."""
        if self._held is None or self.standing(now).stage.holds:
            return frozenset()
        return frozenset(self._held.lease.gpus)

    def refusal(self, gpus: frozenset[str], now: int) -> Refusal | None:
        """Why a new job on these GPUs may not start; `None` when it may. A job without GPUs needs only the lease."""
        standing = self.standing(now)
        if standing.stage.holds:
            return Refusal(code=standing.code or "LIC-404", detail=standing.detail)
        missing = sorted(gpus - self.seated(now))
        return _no_seat(missing, self._held) if missing and self._held else None

    def locked(self) -> dict[str, str]:
        """Feature → what a job says that needs it and waits; nothing without a lease, which holds every job."""
        if self._held is None:
            return {}
        why = plans.held_jobs(self._held.licence, development=self._roots.development)
        return {feature: stage.locked(words) for feature, words in why.items()}

    def opened(self) -> tuple[str, ...]:
        """The features that the lease's licence opens."""
        return plans.opened(self._held.licence if self._held else None, development=self._roots.development)

    def _of_lease(self, held: verify.LeaseChain, at: int) -> Standing:
        standing, confirmed = self._standing(held, at), self._memory.confirmed
        if confirmed is None or at - confirmed <= clock.JUMP_S:
            return standing
        return stage.of_doubt(standing, self._standing(held, confirmed), at, confirmed)

    def _standing(self, held: verify.LeaseChain, at: int) -> Standing:
        lease = held.lease
        first_seen = self._memory.voucher_seen(lease.licence, at) or lease.activated_at
        return stage.of_lease(held.licence, lease, min(lease.activated_at, first_seen), at, self._built_at)

    def _no_lease(self) -> Standing:
        started = self._memory.first_start
        since = f"since its first start, {moments.when(started)}" if started else "yet"
        cannot_write = self._key.problem or (self._problem.message if isinstance(self._problem, StoreError) else None)
        if cannot_write is not None:
            return _unwritable(cannot_write, self._dir)
        if (self._dir / _RELEASED).exists():
            return stage.rested()
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

    def _take(self, token: str, now: int) -> None:
        try:
            chain = verify.lease_chain(token, self._roots, self.key_hex)
            self._refuse_old(chain)
            self._refuse_untimely(chain, now)
            self._keep(chain, now)
        except LicenceError as error:
            self._problem = error
            raise
        self._held, self._problem, self._refused = chain, None, None
        log.info("lease=%s accepted gpus=%d until=%d", chain.lease.id, len(chain.lease.gpus), chain.lease.exp)

    def _refuse_old(self, chain: verify.LeaseChain) -> None:
        if chain.lease.epoch < self._memory.epoch:
            raise ReplayError(
                f"the lease {chain.lease.id} is of epoch {chain.lease.epoch}, and this node had one of epoch "
                f"{self._memory.epoch}: a standby took over. Stop the hub that signed it"
            )
        if self._held is None:
            return
        held, offered = self._held.lease, chain.lease
        if (offered.epoch, offered.seq) <= (held.epoch, held.seq):
            raise ReplayError(
                f"the lease {offered.id} is not newer than {held.id}, which this node holds; the hub was restored from "
                "a backup, or two hubs serve this node"
            )

    def _refuse_untimely(self, chain: verify.LeaseChain, now: int) -> None:
        """The vendor's signed time counts before the comparison: hub and node then start from the same moment.

        A hub whose time was set right is right. One whose clock was ahead for a minute may date its leases up to
        `JUMP_S` ahead from then on.
        """
        lease = chain.lease
        if lease.resets > self._memory.resets:
            return
        at = max(self._memory.look(now), chain.licence.iat)
        if lease.iat > at + JUMP_S:
            raise ClockError(
                f"the lease {lease.id} was signed {moments.when(lease.iat)}, and here it is {moments.when(at)}; "
                "correct this node's clock: timedatectl set-ntp true"
            )
        if at > lease.exp + LEASE_TOLERANCE_S:
            raise ExpiredError(
                f"the lease {lease.id} ended {moments.when(lease.exp)}, and here it is {moments.when(at)}; "
                "compare this node's clock with the hub's"
            )

    def _keep(self, chain: verify.LeaseChain, now: int) -> None:
        """Key, memory, lease, in this order: a lease on disk is never without what it rests on."""
        try:
            self._key.store()
            self._memory.remember(chain.licence, chain.lease, now)
            files.replace(self._dir / "lease", chain.text.encode("ascii"))
            (self._dir / _RELEASED).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"the lease {chain.lease.id} cannot be written in {self._dir}: {error.strerror or error}; what this "
                "node held before stays. Free some space there, or correct the folder's owner"
            ) from error

    def _load_lease(self) -> None:
        path = self._dir / "lease"
        try:
            self._held = verify.lease_chain(path.read_text(encoding="ascii"), self._roots, self.key_hex)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            self._problem = FormatError(f"{path} is damaged: {error}")
            log.error("%s; waiting for the hub's next lease", self._problem)
            with suppress(OSError):
                log.error("the damaged file is kept as %s", files.set_aside(path))
        except LicenceError as error:
            self._problem = error
            log.error("%s cannot be used, waiting for the hub's next lease: %s", path, error)


def _unwritable(problem: str, folder: Path) -> Standing:
    message = (
        f"This node can keep no lease: {problem}. New jobs are held in the queue. {STILL_WORKS}. Once the folder can "
        "be written again, the hub's next lease comes within a minute."
    )
    return Standing(stage=Stage.RESTRICTED, code="LIC-414", message=message, fix=f"df -h {folder}; ls -ld {folder}")


def _no_seat(missing: list[str], held: verify.LeaseChain | None) -> Refusal:
    assert held is not None
    lease = held.lease
    detail = (
        f"LIC-420: no seat for {', '.join(missing)}. The lease of this node covers {len(lease.gpus)} GPUs since "
        f"{moments.when(lease.iat)}, and the licence {lease.licence} has {held.licence.seats} seats for the whole "
        f"site. The job starts when a seat is free. {STILL_WORKS}. For more seats run: {FIX}"
    )
    return Refusal(code="LIC-420", detail=detail)
