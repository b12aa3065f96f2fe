"""A node's side: its lease, its answer to new jobs, and its signature under what it measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.api.types import LeaseReply, Licence, LicenceStage
from agent.gate.refusals import translated
from agent.gate.wire import as_told
from licensing import attest, clock
from licensing.node import NodeLease, Refusal
from licensing.roots import Roots

Signed = attest.Attested
"""A report whose signature holds: its fields, the key that signed it, and when."""


@dataclass(frozen=True, slots=True)
class Admit:
    """The job may start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The job stays PENDING with reason `License`; `detail` says since when, what still works, and what to run."""

    code: str
    detail: str


class NodeGate:
    """The node's key, its lease, and the answer to new jobs.

    Cheap: a lease is verified once, when it arrives, and only `accept` and `tick` touch the disk.
    """

    def __init__(
        self,
        state_dir: Path,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
    ) -> None:
        """Load or create what is in `state_dir`; what is damaged there is moved aside and never stops the start."""
        self._lease = NodeLease(state_dir, roots, uptime)

    @property
    def key_hex(self) -> str:
        """The node's public key, 64 hex digits."""
        return self._lease.key_hex

    def accept(self, token: str, now: int) -> LeaseReply:
        """Take the lease that the hub hands out; on disk when this returns.

        Raises:
            ApiError: it is refused, or cannot be written (503); what is held stays.
        """
        with translated():
            self._lease.accept(token, now)
        return self.lease_reply(now)

    def give_back(self, now: int) -> str:
        """Give the lease back; gives this node's word for it. New jobs are held from then on.

        Raises:
            ApiError: none is held, or it cannot be written.
        """
        with translated():
            return self._lease.give_back(now)

    def tick(self, now: int) -> None:
        """Bring to disk how far time has come; once a minute, from a worker thread. Never fails: it logs."""
        self._lease.tick(now)

    def lease_reply(self, now: int) -> LeaseReply:
        """What is held: number 0 and no end when there is no lease."""
        held = self._lease.held
        return LeaseReply(
            seq=held.lease.seq if held else 0,
            expires_at=held.lease.exp if held else None,
            stage=self.stage(now),
            lease=held.token if held else None,
            refused=self._lease.refused,
        )

    def hear(self, code: str, message: str, fix: str | None = None) -> None:
        """The hub says why it gives this node no further lease; shown, and nothing else. Without a code it is over."""
        self._lease.hear(Refusal(code=code, detail=message, fix=fix) if code else None)

    def renew_identity(self, now: int) -> str:
        """Make this node a key of its own, where another machine has the same; gives its public half.

        Raises:
            ApiError: it cannot be written; key and lease stay.
        """
        with translated():
            return self._lease.renew_identity(now)

    def admit(self, gpu_uuids: Collection[str], now: int) -> Admit | Hold:
        """Whether a new job on these GPUs may start now; without GPUs only the lease itself counts."""
        refusal = self._lease.refusal(frozenset(gpu_uuids), now)
        return Hold(code=refusal.code, detail=refusal.detail) if refusal else Admit()

    def seated(self, now: int) -> frozenset[str]:
        """GPUs on which new jobs may start now."""
        return self._lease.seated(now)

    def locked(self) -> dict[str, str]:
        """Feature → what a new job says that needs it and waits; changes only with the lease."""
        return self._lease.locked()

    @property
    def lease_id(self) -> str | None:
        """Names the lease held now: what `seated` and `admit` answer for a moment changes only with it."""
        return self._lease.held.lease.id if self._lease.held else None

    def stage(self, now: int) -> LicenceStage:
        """The stage as this node sees it."""
        return LicenceStage(self._lease.standing(now).stage)

    def licence(self, now: int) -> Licence:
        """The licence as far as this node's lease tells of it; the hub knows the whole."""
        standing, held = self._lease.standing(now), self._lease.held
        terms, used = (held.licence, len(held.lease.gpus)) if held else (None, 0)
        return as_told(standing, terms, used=used, features=self._lease.opened())


class NodeSignature:
    """The node's signature under what it measured (a self-test). It has nothing to do with seats."""

    def __init__(self, state_dir: Path) -> None:
        """`state_dir` holds the node's key; one is made where no agent ever ran.

        Raises:
            ApiError: the key cannot be read or made.
        """
        self._dir = state_dir
        with translated():
            self.key_hex = attest.key_of(state_dir)

    def sign(self, subject: str, fields: Mapping[str, object], now: int) -> bytes:
        """The report as the text of a file.

        Raises:
            ApiError: the key cannot be read any more.
        """
        with translated():
            return attest.sign(self._dir, subject, fields, now)

    @staticmethod
    def verify(subject: str, data: bytes) -> Signed:
        """Read a signed report, of whichever node.

        Raises:
            ApiError: it is none, or was changed; says what.
        """
        with translated():
            return attest.verify(subject, data)
