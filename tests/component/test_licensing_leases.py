"""Leases over a real ledger: when they are renewed, how far the seats go, what a node keeps in grace."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from licensing import armour, verify
from licensing.errors import (
    StoreError,
    WeakKeyError,
)
from licensing.keys import public_hex
from licensing.leases import RENEW_S, Ask
from licensing.paseto import split
from licensing.seats import NoSeat
from licensing.site import Site
from tests.fakes.site import KEYS, NODE_KEY, bound, read, token
from tests.fakes.site import boot as boot
from tests.fakes.site import site as site
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file, seeded


def test_a_lost_reply_is_answered_with_the_same_lease(site: Site) -> None:
    site.activate(file(), NOW)
    first = token(site)
    assert token(site, now=NOW + 60) == first
    assert len(site.report(NOW).holds) == 1


def test_nothing_is_sent_until_it_is_due(site: Site, boot: Boot) -> None:
    site.activate(bound(site), NOW)
    token(site)
    assert site.lease("n1", NODE_KEY, ["GPU-0"], 1, boot.at(NOW + RENEW_S * 9 // 10 - 1)) is None
    late = NOW + RENEW_S * 11 // 10
    renewed = read(token(site, seq=1, now=boot.at(late))).lease
    assert (renewed.seq, renewed.exp) == (2, late + DAY)


def test_nodes_that_began_together_are_renewed_apart(site: Site, boot: Boot) -> None:
    names = [f"node-{number}" for number in range(40)]
    site.activate(bound(site, seats=40), NOW)
    for name in names:
        assert isinstance(site.lease(name, public_hex(seeded(name)), [f"GPU-{name}"], 0, NOW), str)

    def due(share: float) -> int:
        at = boot.at(NOW + int(RENEW_S * share))
        asks = [Ask(node=each, key=public_hex(seeded(each)), gpus=(f"GPU-{each}",), seq=1) for each in names]
        return sum(isinstance(each, str) for each in site.leases(asks, at))

    assert due(0.899) == 0
    assert 5 < due(1.0) < 35, "half of them, by their ids"
    assert due(1.1) == 40


@pytest.mark.parametrize(("lease_s", "age"), [(DAY, 2 * 3600), (3600, 300), (7 * DAY, 2 * 3600)])
def test_a_node_that_is_reached_again_is_renewed_sooner(site: Site, boot: Boot, lease_s: int, age: int) -> None:
    site.activate(bound(site, lease_s=lease_s), NOW)
    token(site)
    ask = Ask(node="n1", key=NODE_KEY, gpus=("GPU-0",), seq=1, contact=True)
    assert site.leases([ask], boot.at(NOW + age - 1)) == [None]
    assert site.leases([dataclasses.replace(ask, contact=False)], boot.at(NOW + age)) == [None]
    (renewed,) = site.leases([ask], boot.at(NOW + age))
    assert isinstance(renewed, str)
    assert read(renewed).lease.exp == NOW + age + lease_s


def test_each_lease_names_the_one_before(site: Site) -> None:
    site.activate(bound(site), NOW)
    first = token(site)
    content = split(first.split(armour.LINK)[2]).payload
    second = read(token(site, gpus=("GPU-0", "GPU-1"), seq=1)).lease
    assert read(first).lease.prev == ""
    assert second.prev == hashlib.sha256(content).hexdigest()


def test_short_of_seats_a_node_gets_a_part_and_more_when_they_are_free(site: Site) -> None:
    site.activate(bound(site, seats=3, plan="trial"), NOW)
    token(site, "n1", ("A", "B"))
    assert read(token(site, "n2", ("C", "D"))).lease.gpus == ("C",)
    assert site.lease("n2", KEYS["n2"], ["C", "D"], 1, NOW) is None
    token(site, "n1", ("A",), seq=1)
    assert read(token(site, "n2", ("C", "D"), seq=1)).lease.gpus == ("C", "D")


def test_a_node_without_gpus_gets_a_lease(site: Site) -> None:
    site.activate(bound(site, seats=0), NOW)
    assert read(token(site, gpus=())).lease.gpus == ()


def test_an_expired_hold_frees_its_seat(site: Site, boot: Boot) -> None:
    site.activate(bound(site, seats=1, plan="trial"), NOW)
    token(site, "n1", ("A",))
    assert read(token(site, "n2", ("B",), now=boot.at(NOW + DAY - 1))).lease.gpus == ()
    assert read(token(site, "n2", ("B",), seq=1, now=boot.at(NOW + DAY))).lease.gpus == ("B",)


def test_a_gpu_that_moved_is_counted_at_its_new_node(site: Site) -> None:
    site.activate(bound(site, seats=1, plan="trial"), NOW)
    token(site, "n1", ("A",))
    assert read(token(site, "n2", ("A",))).lease.gpus == ("A",)
    assert [(hold.gpu, hold.node) for hold in site.report(NOW).holds] == [("A", "n2")]


def test_a_smaller_licence_is_carried_not_refused(site: Site) -> None:
    site.activate(bound(site, seats=3, plan="trial"), NOW)
    token(site, gpus=("A", "B", "C"))
    site.activate(bound(site, rev=2, seats=1, plan="trial"), NOW + 10)
    renewed = read(token(site, gpus=("A", "B", "C"), seq=1, now=NOW + 10))
    assert renewed.lease.gpus == ("A",)
    assert renewed.lease.rev == 2


def test_a_lease_never_outlives_its_licence(site: Site) -> None:
    site.activate(file(changed(VOUCHER, exp=NOW + 100)), NOW)
    assert read(token(site)).lease.exp == NOW + 100
    assert site.lease("n1", NODE_KEY, ["GPU-0"], 1, NOW + 99) is None


def test_grace_renews_what_there_is_and_adds_nothing(site: Site, boot: Boot) -> None:
    end = NOW + 100 * DAY
    site.activate(bound(site, exp=end), NOW)
    token(site, gpus=("A",), now=boot.at(end - 3600))
    kept = read(token(site, gpus=("A", "B"), seq=1, now=boot.at(end + 60)))
    assert kept.lease.gpus == ("A",)
    new = site.lease("n9", KEYS["n9"], ["Z"], 0, end + 60)
    assert isinstance(new, NoSeat)
    assert new.code == "LIC-421"


def test_a_hub_that_was_down_for_days_in_grace_takes_no_seat_by_that(site: Site, boot: Boot) -> None:
    end = NOW + 100 * DAY
    site.activate(bound(site, exp=end), NOW)
    token(site, gpus=("A",), now=boot.at(end - 3600))
    assert site.report(boot.at(end + 3 * DAY)).holds == ()
    kept = read(token(site, gpus=("A", "B"), seq=1, now=end + 3 * DAY))
    assert kept.lease.gpus == ("A",), "what it had, and nothing beyond"


def test_a_restored_ledger_jumps_past_its_nodes(site: Site) -> None:
    site.activate(bound(site), NOW)
    assert read(token(site, seq=41)).lease.seq == 42


def test_a_weak_node_key_is_not_enrolled(site: Site) -> None:
    site.activate(bound(site), NOW)
    with pytest.raises(WeakKeyError):
        site.lease("n1", "00" * 32, ["GPU-0"], 0, NOW)
    assert site.report(NOW).holds == ()


def test_a_node_with_a_new_key_keeps_its_seats_in_grace(site: Site, boot: Boot) -> None:
    end = NOW + 100 * DAY
    site.activate(bound(site, exp=end), NOW)
    token(site, gpus=("A",), now=boot.at(end - 3600))
    other = public_hex(seeded("reinstalled"))
    answer = site.lease("n1", other, ["A", "B"], 0, boot.at(end + 60))
    assert isinstance(answer, str)
    assert verify.lease_chain(answer, ROOTS, other).lease.gpus == ("A",)


def test_a_node_with_a_new_key_gets_a_lease_of_its_own(site: Site) -> None:
    site.activate(bound(site), NOW)
    token(site)
    other = public_hex(seeded("reinstalled"))
    answer = site.lease("n1", other, ["GPU-0"], 0, NOW)
    assert isinstance(answer, str)
    assert verify.lease_chain(answer, ROOTS, other).lease.seq == 2
    assert len(site.report(NOW).holds) == 1


# --- GPUs that were never read ---


def test_a_gpu_without_uuid_gets_no_seat(site: Site) -> None:
    site.activate(bound(site, seats=2), NOW)
    lease = read(token(site, gpus=("unknown:0", "GPU-1", "unknown:2"))).lease
    assert lease.gpus == ("GPU-1",)
    assert site.lease("n1", NODE_KEY, ["GPU-1", "unknown:7"], 1, NOW) is None
    assert [hold.gpu for hold in site.report(NOW).holds] == ["GPU-1"]


@pytest.mark.parametrize("gpu", ["unknown:0", ""])
def test_nor_does_the_ledger_take_it(site: Site, gpu: str) -> None:
    with pytest.raises(StoreError, match="has no UUID and gets no seat"):
        site._ledger.hold("n1", ["GPU-0", gpu], since=NOW, until=NOW + DAY, gen=1)
    assert site.report(NOW).holds == ()
