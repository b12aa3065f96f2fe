"""May this job start? The one door to `licensing`, for the node (`NodeGate`) and the hub (`HubLicence`).

Rules kept here: the start of a *new* job is the only thing a licence can hold back; nothing here ever touches a running
one. Refused documents come out as `ApiError` with licensing's stable code; `now` is the wall clock in Unix seconds and
is corrected inside, so a clock that is set back gains nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.api.errors import ApiError, StokerError
from agent.api.types import (
    ForkedNode,
    LeaseReply,
    Licence,
    LicenceEvent,
    LicenceFile,
    LicenceHardware,
    LicenceStage,
    LockedFeature,
    PendingRequest,
    SeatHolder,
)
from agent.api.usage import UsageHead, UsageRows
from licensing import attest, clock, hardware, plans
from licensing.chains import Ask
from licensing.document import Licence as Terms
from licensing.errors import HubError, LicenceError, OtherSiteError, ReplayError, StoreError, UsageError, from_code
from licensing.exchange import Want
from licensing.fingerprint import Hardware, Mark
from licensing.node import NodeLease, Refusal
from licensing.plans import OVERDRAFT_S
from licensing.roots import Roots
from licensing.seats import MAX_BATCH, NoSeat
from licensing.stage import EVALUATION, Standing
from licensing.usage_rows import Told

if TYPE_CHECKING:
    from licensing.orders import Order
    from licensing.requests import Outgoing
    from licensing.site import Report

__all__ = [
    "MAX_BATCH",
    "Admit",
    "Ask",
    "HardwareReader",
    "Hold",
    "HubLicence",
    "Mark",
    "NoSeat",
    "NodeGate",
    "NodeSignature",
    "Signed",
    "as_licence_errors",
    "collect_hardware",
]

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
        with _translated():
            self._lease.accept(token, now)
        return self.lease_reply(now)

    def give_back(self, now: int) -> str:
        """Give the lease back; gives this node's word for it. New jobs are held from then on.

        Raises:
            ApiError: none is held, or it cannot be written.
        """
        with _translated():
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
        )

    def hear(self, code: str, message: str) -> None:
        """The hub says why it gives this node no further lease; shown, and nothing else."""
        self._lease.hear(Refusal(code=code, detail=message))

    def renew_identity(self, now: int) -> str:
        """Make this node a key of its own, where another machine has the same; gives its public half.

        Raises:
            ApiError: it cannot be written; key and lease stay.
        """
        with _translated():
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
        return _licence(standing, terms, used=used, features=self._lease.opened())


class HubLicence:
    """The site's licence and seats, in `state_dir` (the hub's own). All calls from the one thread that opened it."""

    def __init__(
        self,
        state_dir: Path,
        cluster: str,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
    ) -> None:
        # Here, because only the hub keeps a ledger: a node's agent is spared the database tools, some 20 MB.
        from licensing.site import Site

        self._site = Site(state_dir, cluster, roots, uptime)

    def open(self) -> None:
        """Open the ledger.

        Raises:
            ApiError: it is in use by another hub, or damaged.
        """
        with _translated():
            self._site.open()

    def close(self) -> None:
        """Close the ledger; closing twice is fine."""
        self._site.close()

    def activate(self, text: str, now: int) -> Licence:
        """Take the text of a vendor's file (voucher, licence, answer, receipt, revocation list); lifts a stage at once.

        Raises:
            ApiError: refused; nothing was changed.
        """
        with _translated():
            return _wire(self._site.activate(text, now))

    def request(self, want: str, now: int) -> LicenceFile:
        """Make a request to the vendor; its answer is taken for 90 days, once.

        Raises:
            ApiError: there is nothing that it could be about, or it cannot be kept.
        """
        with _translated():
            return _file(self._site.request(_want(want), now))

    def release(self, to: str | None, now: int) -> LicenceFile:
        """Give the licence back, for the site whose request `to` is.

        Raises:
            ApiError: there is none, or it is a voucher; nothing was changed.
        """
        with _translated():
            return _file(self._site.release(now, to))

    def order(self, verb: str, subject: str, now: int, *, days: int = 0, release: str = "") -> Licence:
        """Do what an operator orders about the seats of a node, or about a GPU (`licensing.orders`).

        Raises:
            ApiError: refused; nothing was changed.
        """
        with _translated():
            return _wire(self._site.order(_order(verb, subject, days, release), now))

    def see_hardware(self, marks: Sequence[Mark], now: int) -> None:
        """Take note of what was read of this machine.

        Raises:
            ApiError: the ledger cannot be used; what was noted before holds.
        """
        with _translated():
            self._site.see(marks, now)

    def confirm_clock(self, now: int, *, sure: bool) -> Licence:
        """Take the wall clock for right, on an operator's word.

        Raises:
            ApiError: it is behind what is known, or the word is missing; nothing was changed.
        """
        with _translated():
            return _wire(self._site.confirm_clock(now, sure=sure))

    def status(self, now: int) -> Licence:
        """The licence line and who holds the seats.

        Raises:
            ApiError: the ledger cannot be read.
        """
        with _translated():
            return _wire(self._site.report(now))

    def history(self, limit: int) -> list[LicenceEvent]:
        """What was done with licence and seats, newest first.

        Raises:
            ApiError: the ledger cannot be read.
        """
        with _translated():
            entries = self._site.history(limit)
        return [
            LicenceEvent(
                number=each.number, at=each.at, event=each.event, subject=each.subject, detail=_plain(each.detail)
            )
            for each in entries
        ]

    def lease(
        self,
        node_name: str,
        node_key_hex: str,
        gpu_uuids: Sequence[str],
        node_seq: int,
        now: int,
        held: str | None = None,
    ) -> str | NoSeat | None:
        """The token to `PUT /v1/lease` of a node; `None` when the lease it has will do; `NoSeat` when there is none.

        Call it with every snapshot of the node: it writes only when something is due. `node_seq` is what the node's
        `GET /v1/lease` said last, and `held` the lease that it showed there.

        Raises:
            ApiError: the node's key is no sound key, or the ledger cannot be written.
        """
        with _translated():
            return self._site.lease(node_name, node_key_hex, gpu_uuids, node_seq, now, held)

    def leases(self, asks: Sequence[Ask], now: int) -> list[str | NoSeat | Exception | None]:
        """The same for up to `MAX_BATCH` nodes with one flush of the disk; one that fails costs no other its lease.

        Errors are among the outcomes, as `ApiError` where `lease` would raise one.

        Raises:
            ApiError: the ledger cannot be read, so there is an answer for nobody.
        """
        with _translated():
            return [_outcome(each) for each in self._site.leases(asks, now)]

    def hear(self, ask: Ask, now: int) -> None:
        """Count what a node holds, before anybody gets more: the ledger may be an older one that was put back.

        Raises:
            ApiError: the ledger cannot be written.
        """
        with _translated():
            self._site.hear(ask, now)

    def usage_wanted(self, node: str, heads: Sequence[UsageHead], now: int) -> list[tuple[str, int]]:
        """Which rows of a node's usage ledger are not here yet: (chain, after); nothing when all are.

        Raises:
            ApiError: the ledger cannot be used.
        """
        with _translated():
            return self._site.usage_wanted(node, [_told(each) for each in heads], now)

    def usage_merge(self, node: str, rows: UsageRows, now: int) -> int:
        """Take rows of a node; how many are new. Those that are here already change nothing.

        Raises:
            ApiError: the ledger cannot be used; nothing was stored.
        """
        with _translated():
            return self._site.usage_merge(node, rows.chain, rows.first, rows.before, rows.rows, now)

    def usage_seats(self, now: int) -> None:
        """Note who holds a seat now, for the reports; once a minute, and after each change.

        Raises:
            ApiError: the ledger cannot be used.
        """
        with _translated():
            self._site.usage_seats(now)

    def usage_export(self, begins: int, ends: int, now: int, *, rows: bool) -> tuple[str, str]:
        """The signed report of a time: a name for its file, and the text.

        Raises:
            ApiError: there is none to be made, or the ledger cannot be used.
        """
        with _translated():
            return self._site.usage_export(begins, ends, now, rows=rows)


class HardwareReader:
    """Reads what tells this machine from another. Blocks for 3 s at most, and never fails."""

    def __init__(self, run_dir: Path, root: Path = Path("/")) -> None:
        """`run_dir` is where the hub listens, and root's own reading lies."""
        self._reader = hardware.Reader(root, run_dir / hardware.COLLECTED)

    def read(self) -> list[Mark]:
        """What could be read now."""
        return self._reader.read()


def collect_hardware(run_dir: Path, owner: int, root: Path = Path("/")) -> tuple[Path, int]:
    """Write what only root can read of this machine, for `owner` alone; the file, and how many marks.

    Raises:
        OSError: it cannot be written.
    """
    path = run_dir / hardware.COLLECTED
    return path, hardware.collect(path, owner, root)


class NodeSignature:
    """The node's signature under what it measured (a self-test). It has nothing to do with seats."""

    def __init__(self, state_dir: Path) -> None:
        """`state_dir` holds the node's key; one is made where no agent ever ran.

        Raises:
            ApiError: the key cannot be read or made.
        """
        self._dir = state_dir
        with _translated():
            self.key_hex = attest.key_of(state_dir)

    def sign(self, subject: str, fields: Mapping[str, object], now: int) -> bytes:
        """The report as the text of a file.

        Raises:
            ApiError: the key cannot be read any more.
        """
        with _translated():
            return attest.sign(self._dir, subject, fields, now)

    @staticmethod
    def verify(subject: str, data: bytes) -> Signed:
        """Read a signed report, of whichever node.

        Raises:
            ApiError: it is none, or was changed; says what.
        """
        with _translated():
            return attest.verify(subject, data)


@contextmanager
def as_licence_errors() -> Iterator[None]:
    """What a client of the hub raises, as `stoker-license` understands it: its exit codes follow from the error's code.

    Raises:
        LicenceError: the hub's refusal made again, or `HubError` when no answer came.
    """
    try:
        yield
    except ApiError as error:
        raise from_code(error.code, error.message) from error
    except StokerError as error:
        raise HubError(str(error)) from error


@contextmanager
def _translated() -> Iterator[None]:
    """Licensing knows nobody, so its refusals become answers of the API here."""
    try:
        yield
    except LicenceError as error:
        raise _as_api_error(error) from error


def _outcome(found: str | NoSeat | Exception | None) -> str | NoSeat | Exception | None:
    return _as_api_error(found) if isinstance(found, LicenceError) else found


def _as_api_error(error: LicenceError) -> ApiError:
    return ApiError(_http_status(error), error.code, error.message)


def _http_status(error: LicenceError) -> int:
    if isinstance(error, StoreError):
        return 503
    return 409 if isinstance(error, OtherSiteError | ReplayError) else 422


def _told(head: UsageHead) -> Told:
    return Told(chain=head.chain, seq=head.seq, head=head.head, gpu_ms=head.gpu_ms, open_gpu_ms=head.open_gpu_ms)


def _wire(report: Report) -> Licence:
    return msgspec.structs.replace(
        _licence(
            report.standing,
            report.licence,
            used=len(report.holds),
            features=plans.opened(report.licence, development=report.development),
        ),
        holders=_holders(report),
        site_key=report.site_key,
        issuer=report.issuer,
        pending=tuple(
            PendingRequest(id=each.id, want=each.want, made_at=each.made_at, until=each.until)
            for each in report.pending
        ),
        crl=report.crl,
        at=report.at,
        confirmed_at=report.confirmed_at,
        epoch=report.epoch,
        seats_borrowed=sum(1 for hold in report.holds if hold.node in report.borrowed),
        **_overdraft(report),
        resting=tuple(sorted(report.resting)),
        pinned=tuple(sorted(report.pinned)),
        hardware=_hardware(report.hardware),
        forked=tuple(ForkedNode(node=each.node, of=each.of, seq=each.seq, since=each.since) for each in report.forked),
        epoch_heard=report.epoch_heard,
        clock_rollbacks=report.rollbacks,
        development_roots=report.development,
    )


def _hardware(found: Hardware | None) -> LicenceHardware | None:
    if found is None:
        return None
    return LicenceHardware(
        mode=found.mode,
        verdict=found.verdict,
        told=found.told,
        seen=tuple(found.seen),
        enrolled=tuple(found.enrolled),
        matching=tuple(found.matching),
        needed=found.needed if found.enrolled else 0,
        since=found.since,
        grace_until=found.grace_until,
        drifts=found.drifts,
        platform_changes=found.platform_changes,
        remarks=found.remarks,
    )


def _overdraft(report: Report) -> dict[str, int | None]:
    beyond, seats = report.overdraft, report.licence.seats if report.licence else 0
    since = beyond.since if beyond else None
    return {
        "seats_overdraft": max(0, len(report.holds) - seats) if report.licence else 0,
        "overdraft_since": since,
        "overdraft_until": since + OVERDRAFT_S if since is not None else None,
    }


def _licence(standing: Standing, terms: Terms | None, *, used: int, features: tuple[str, ...]) -> Licence:
    """What hub and node both can tell."""
    return Licence(
        stage=LicenceStage(standing.stage),
        code=standing.code,
        message=standing.message,
        fix=standing.fix,
        licence_id=terms.id if terms else None,
        customer=terms.customer if terms else None,
        plan=terms.plan if terms else None,
        evaluation=terms is not None and terms.plan == EVALUATION,
        seats_total=terms.seats if terms else 0,
        seats_used=used,
        expires_at=standing.expires_at,
        restricted_at=standing.restricted_at,
        bound=terms is not None and terms.site is not None,
        rev=terms.rev if terms else None,
        edition=terms.edition if terms else None,
        features=features,
        locked=_locked(features) if terms else (),
        reseller=terms.reseller if terms else None,
        brand=terms.brand if terms else None,
        updates_until=terms.updates_until if terms else None,
        report_by=standing.report_by,
        prepaid_gpu_seconds_left=None if standing.gpu_ms_left is None else standing.gpu_ms_left // 1000,
    )


def _locked(opened: Collection[str]) -> tuple[LockedFeature, ...]:
    return tuple(
        LockedFeature(feature=each, edition=plans.first_with(each), planned=each in plans.PLANNED)
        for each in plans.FEATURES
        if each not in opened
    )


def _want(word: str) -> Want:
    try:
        return Want(word)
    except ValueError as error:
        raise UsageError(f"{word!r} is nothing to ask a vendor for; ask for {', '.join(Want)}") from error


def _order(verb: str, subject: str, days: int, release: str) -> Order:
    from licensing.orders import Order, Verb

    try:
        return Order(verb=Verb(verb), subject=subject, days=days, release=release)
    except ValueError as error:
        raise UsageError(f"{verb!r} is nothing to order; order {', '.join(Verb)}") from error


def _file(sent: Outgoing) -> LicenceFile:
    return LicenceFile(id=sent.id, token=sent.token, document=sent.file, until=sent.until, qr=_code(sent.token))


def _code(token: str) -> tuple[str, ...]:
    """The token drawn for a screen, which knows us by the wire only."""
    from licensing import qr

    try:
        return tuple(qr.draw(token).split("\n"))
    except UsageError:
        return ()  # too long for one: the file says it


def _plain(detail: Mapping[str, object]) -> dict[str, str | int | bool | list[str] | None]:
    """What a newer build wrote may be of any shape, and must not break the wire."""
    return {
        name: value
        if value is None or isinstance(value, str | int)
        else [str(each) for each in value]
        if isinstance(value, list)
        else str(value)
        for name, value in detail.items()
    }


def _holders(report: Report) -> tuple[SeatHolder, ...]:
    by_node: dict[str, list[str]] = {}
    until: dict[str, int] = {}
    for hold in report.holds:
        by_node.setdefault(hold.node, []).append(hold.gpu)
        until[hold.node] = max(hold.until, until.get(hold.node, 0))
    return tuple(
        SeatHolder(node=node, gpu_uuids=tuple(gpus), until=until[node], borrowed=node in report.borrowed)
        for node, gpus in sorted(by_node.items())
    )
