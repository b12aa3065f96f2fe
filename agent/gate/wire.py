"""How licence and seats stand, in the words of the wire; what is on its way to the vendor as well."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import msgspec

from agent.api.types import (
    ForkedNode,
    Licence,
    LicenceFile,
    LicenceHardware,
    LicenceStage,
    LicenceUnit,
    LockedFeature,
    PendingRequest,
    SeatHolder,
)
from licensing import plans
from licensing.document import Licence as Terms
from licensing.errors import UsageError
from licensing.fingerprint import Hardware
from licensing.plans import OVERDRAFT_S
from licensing.stage import EVALUATION, Standing

if TYPE_CHECKING:
    from licensing.report import Report
    from licensing.requests import Outgoing


def as_licence(report: Report) -> Licence:
    """All that the hub can tell."""
    return msgspec.structs.replace(
        as_told(
            report.standing,
            report.licence,
            used=len(report.holds),
            features=plans.opened(report.licence, development=report.development),
        ),
        holders=_holders(report),
        site_key=report.site_key,
        issuer=report.issuer,
        pending=tuple(
            PendingRequest(
                id=each.id,
                want=each.want,
                made_at=each.made_at,
                until=each.until,
                superseded=each.id in report.superseded,
            )
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
        units=tuple(
            LicenceUnit(unit=each.unit, used=each.used, limit=each.limit, names=each.names, told=each.told)
            for each in report.units
        ),
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


def as_told(standing: Standing, terms: Terms | None, *, used: int, features: tuple[str, ...]) -> Licence:
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
        LockedFeature(
            feature=each,
            edition=plans.first_with(each),
            sold_with=plans.sold_with(each),
            planned=each in plans.PLANNED,
        )
        for each in plans.FEATURES
        if each not in opened
    )


def as_file(sent: Outgoing) -> LicenceFile:
    """A request or release on its way to the vendor."""
    return LicenceFile(id=sent.id, token=sent.token, document=sent.file, until=sent.until, qr=_code(sent.token))


def _code(token: str) -> tuple[str, ...]:
    """The token drawn for a screen, which knows us by the wire only."""
    from licensing import qr

    try:
        return tuple(qr.draw(token).split("\n"))
    except UsageError:
        return ()  # too long for one: the file says it


def plain(detail: Mapping[str, object]) -> dict[str, str | int | bool | list[str] | None]:
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
