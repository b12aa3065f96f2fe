"""The laboratory with a licence that was bought: prepaid hours, an edition, its history, and who used what."""

from __future__ import annotations

import msgspec

from agent.api.licence import LockedFeature
from agent.api.types import Licence, LicenceEvent, LicenceStage, SeatHolder
from agent.api.usage import UsageBy, UsageMonth, UsageSum
from licensing import stage
from licensing.fingerprint import Group, Hardware, Mode, Verdict
from tests.fakes import vendor
from tests.fakes.cluster import FakeCluster
from tests.fakes.lab import lab
from tests.fakes.values import DAY, NOW

HOUR = 3600
HOUR_MS = 3_600_000
MONTH = "2026-11"
SPENT = (
    "1102.4 of the 1000 prepaid GPU-hours of the licence acme-7 are used, and 100.0 beyond them; new jobs are held in "
    "the queue since 2026-11-17 20:06 UTC. Running jobs go on to their end; login, monitoring, logs, export, drain, "
    "stop and every licence command work."
)


def prepaid() -> Licence:
    """In its last tenth, in the second edition, with a node that borrowed."""
    holders = [("gpu-a1", 8, False), ("gpu-a2", 8, False), ("gpu-b1", 4, True)]
    return Licence(
        stage=LicenceStage.NOTICE,
        code="LIC-402",
        message="941.6 of the 1000 prepaid GPU-hours of the licence acme-7 are used, 58.4 are left; buy more.",
        fix="stoker-license activate FILE",
        licence_id="acme-7",
        customer="ACME Labs",
        plan="prepaid",
        edition="team",
        features=("qos", "reservations", "recurring"),
        locked=(
            LockedFeature(feature="slurm", edition="enterprise", planned=True),
            LockedFeature(feature="training", edition="enterprise", planned=True),
        ),
        seats_total=24,
        seats_used=20,
        seats_borrowed=4,
        rev=3,
        bound=True,
        brand="Bright GPUs",
        expires_at=NOW + 200 * DAY,
        restricted_at=NOW + 214 * DAY,
        prepaid_gpu_seconds_left=int(58.4 * HOUR),
        site_key="ab" * 32,
        holders=tuple(
            SeatHolder(
                node=name, gpu_uuids=tuple(f"GPU-{name}-{i}" for i in range(count)), until=NOW + DAY, borrowed=away
            )
            for name, count, away in holders
        ),
    )


def _holder(name: str, count: int, away: bool) -> SeatHolder:
    gpus = tuple(f"GPU-{name}-{index}" for index in range(count))
    return SeatHolder(node=name, gpu_uuids=gpus, until=NOW + DAY, borrowed=away)


def spent() -> Licence:
    """All of it used, in the first edition: new jobs are held."""
    return msgspec.structs.replace(
        prepaid(),
        stage=LicenceStage.RESTRICTED,
        code="LIC-434",
        message=SPENT,
        edition="standard",
        features=(),
        locked=tuple(LockedFeature(feature=each, edition="team") for each in ("qos", "reservations", "recurring")),
        restricted_at=NOW - 3 * HOUR,
        prepaid_gpu_seconds_left=-int(102.4 * HOUR),
    )


def moved() -> Licence:
    """On another machine for 16 days, with its salt lost: the longest reason there is, in the server's own words."""
    since = NOW - 16 * DAY
    hardware = Hardware(
        mode=Mode.HARDWARE,
        verdict=Verdict.SHORT,
        seen=tuple(Group),
        enrolled=tuple(Group),
        matching=(Group.NETWORK, Group.MACHINE_ID),
        since=since,
        grace_until=since + 14 * DAY,
        is_salt_lost=True,
    )
    terms = vendor.changed(vendor.BOUND, id="lic-5f0c8f3a9a1f4e21", iat=since, nbf=since, exp=NOW + 200 * DAY)
    told = stage.of_licence(terms, since, NOW, stage.Facts(hardware=hardware))
    return msgspec.structs.replace(
        prepaid(),
        stage=LicenceStage(told.stage),
        code=told.code,
        message=told.message,
        fix=told.fix,
        restricted_at=told.restricted_at,
        prepaid_gpu_seconds_left=None,
    )


def licence_lab(licence: Licence | None = None) -> FakeCluster:
    """See the module."""
    cluster = lab()
    cluster.the_licence = licence or prepaid()
    cluster.the_history = _history()
    cluster.the_usage = {(MONTH, by): _month(by) for by in UsageBy}
    return cluster


def spent_lab() -> FakeCluster:
    """The same with all hours spent."""
    return licence_lab(spent())


def moved_lab() -> FakeCluster:
    """The same on another machine than the licence's."""
    return licence_lab(moved())


def _history() -> list[LicenceEvent]:
    told: list[tuple[int, str, str, dict[str, str | int | bool | list[str] | None]]] = [
        (HOUR, "restricted", "acme-7", {"code": "LIC-434"}),
        (2 * HOUR, "granted", "gpu-b1", {"lease": "lease-gpu-b1-1-31", "gpus": ["a", "b", "c", "d"], "asked": 8}),
        (5 * HOUR, "borrowed", "gpu-b1", {"seats": 4, "until": NOW + 9 * DAY}),
        (2 * DAY, "receipt", "acme-7", {"usage": "usage-abab-10", "report_by": NOW + 40 * DAY}),
        (9 * DAY, "drift", "acme-7", {"groups": "N, P"}),
        (30 * DAY, "activated", "acme-7", {"rev": 3, "since": NOW - 100 * DAY}),
    ]
    return [
        LicenceEvent(number=60 - at, at=NOW - ago, event=event, subject=subject, detail=detail)
        for at, (ago, event, subject, detail) in enumerate(told)
    ]


def _month(by: UsageBy) -> UsageMonth:
    named: dict[UsageBy, list[tuple[str, float, int]]] = {
        UsageBy.USER: [
            ("carol", 412.25, 9),
            ("alice", 333.9, 31),
            ("bob", 120.0, 118),
            ("eve", 75.42, 6),
            ("dan", 0.03, 1),
        ],
        UsageBy.ACCOUNT: [("vision", 532.25, 127), ("llm", 333.9, 31), ("", 75.45, 7)],
        UsageBy.MODEL: [("NVIDIA H100 80GB HBM3", 866.15, 158), ("NVIDIA A100-SXM4-80GB", 75.45, 7)],
    }
    sums = tuple(UsageSum(name=name, gpu_ms=int(hours * HOUR_MS), jobs=jobs) for name, hours, jobs in named[by])
    return UsageMonth(month=MONTH, by=by, sums=sums, nodes=("gpu-a1", "gpu-a2", "gpu-b1"), silent=("gpu-b2",))
