"""What an operator orders about seats, over a real ledger and real nodes: overdraft, borrow, release, adopt, pin."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.gate import Hold, HubLicence, NodeGate, NoSeat
from licensing import plans, verify
from licensing.errors import ChainError
from licensing.keys import public_hex
from tests.fakes import vendor
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file

HOUR = 3600


class House:
    """A hub with a licence bound to it, and nodes that talk with it."""

    def __init__(self, folder: Path, seats: int, **fields: object) -> None:
        self.folder, self.boot, self.now = folder, Boot(), NOW
        self.hub = HubLicence(folder / "hub", "test", ROOTS, self.boot)
        self.hub.open()
        site = self.hub.status(NOW).site_key
        self.site_key = site
        self.terms = changed(VOUCHER, **{"site": site, "seats": seats, **fields})
        self.hub.activate(file(self.terms), NOW)
        self.nodes: dict[str, NodeGate] = {}

    def offer(self, name: str, *gpus: str) -> AbstractSet[str] | NoSeat:
        """The hub offers a node its lease; what the node may start on then."""
        node = self.nodes.setdefault(name, NodeGate(self.folder / name, ROOTS, self.boot))
        token = self.hub.lease(name, node.key_hex, gpus, node.lease_reply(self.now).seq, self.now)
        if isinstance(token, NoSeat):
            return token
        if token is not None:
            node.accept(token, self.now)
        return node.seated(self.now)

    def give_back(self, name: str) -> None:
        """What the hub does for `release NODE`."""
        self.hub.order("rest", name, self.now)
        self.hub.order("return", name, self.now, release=self.nodes[name].give_back(self.now))

    def later(self, seconds: int) -> None:
        self.now = self.boot.at(self.now + seconds)

    def trail(self, event: str) -> list[tuple[int, str, dict[str, object]]]:
        """Audit rows of a kind; closes the ledger to read it past its own code."""
        self.hub.close()
        conn = sqlite3.connect(self.folder / "hub" / "licence.db")
        rows = conn.execute("SELECT at, subject, detail FROM audit WHERE event = ? ORDER BY n", (event,)).fetchall()
        conn.close()
        self.hub.open()
        return [(at, subject, json.loads(detail)) for at, subject, detail in rows]


def gpus(name: str, count: int) -> list[str]:
    return [f"GPU-{name}-{n}" for n in range(count)]


# --- overdraft ---


def test_a_tenth_more_for_30_days_once_a_term(tmp_path: Path) -> None:
    house = House(tmp_path, 20)
    house.offer("n1", *gpus("n1", 20))
    assert house.hub.status(house.now).overdraft_since is None
    house.later(HOUR)
    assert house.offer("n2", *gpus("n2", 5)) == set(gpus("n2", 2))
    status = house.hub.status(house.now)
    assert (status.seats_used, status.seats_overdraft) == (22, 2)
    assert (status.overdraft_since, status.overdraft_until) == (NOW + HOUR, NOW + HOUR + 30 * DAY)
    assert house.trail("overdraft") == [
        (NOW + HOUR, "lic-test", {"of": 20, "seats": 22, "since": NOW + HOUR, "until": NOW + HOUR + 30 * DAY})
    ]
    for _ in range(31):
        house.later(DAY)
        house.offer("n1", *gpus("n1", 20))
        last = house.offer("n2", *gpus("n2", 5))
    assert last == frozenset()
    house.hub.activate(file(changed(house.terms, rev=2, exp=NOW + 310 * DAY)), house.now)
    assert house.offer("n2", *gpus("n2", 5)) == set(gpus("n2", 2)), "another term"


def test_a_small_site_has_one_and_an_evaluation_none(tmp_path: Path) -> None:
    assert House(tmp_path / "a", 3).offer("n1", *gpus("n1", 6)) == set(gpus("n1", 4))
    assert House(tmp_path / "b", 3, plan="trial").offer("n1", *gpus("n1", 6)) == set(gpus("n1", 3))
    assert House(tmp_path / "c", 3, site=None).offer("n1", *gpus("n1", 6)) == set(gpus("n1", 3))
    assert House(tmp_path / "d", 0).offer("n1", *gpus("n1", 6)) == set()


def test_amending_begins_no_other_overdraft(tmp_path: Path) -> None:
    house = House(tmp_path, 10)
    house.offer("n1", *gpus("n1", 11))
    began = house.hub.status(NOW).overdraft_since
    house.later(31 * DAY)
    house.hub.activate(file(changed(house.terms, rev=2, customer="ACME AG")), house.now)
    assert house.offer("n1", *gpus("n1", 11)) == set(gpus("n1", 10))
    assert house.hub.status(house.now).overdraft_since == began == NOW


# --- borrow ---


def test_a_borrowed_node_starts_jobs_for_as_long_without_its_hub(tmp_path: Path) -> None:
    house = House(tmp_path, 20)
    house.offer("n1", *gpus("n1", 4))
    house.hub.order("borrow", "n1", NOW, days=30)
    assert house.offer("n1", *gpus("n1", 4)) == set(gpus("n1", 4))
    status = house.hub.status(NOW)
    assert (status.seats_borrowed, status.holders[0].borrowed, status.holders[0].until) == (4, True, NOW + 30 * DAY)
    house.later(29 * DAY)
    assert house.nodes["n1"].seated(house.now) == set(gpus("n1", 4))
    assert house.offer("n2", *gpus("n2", 20)) == set(gpus("n2", 18)), "20 and 2 overdrawn, less 4"
    house.later(DAY + HOUR)
    assert house.hub.status(house.now).seats_borrowed == 0
    assert house.trail("borrowed") == [(NOW, "n1", {"seats": 4, "until": NOW + 30 * DAY})]


def test_what_is_away_is_bounded(tmp_path: Path) -> None:
    house = House(tmp_path, 20)
    house.offer("n1", *gpus("n1", 3))
    house.offer("n2", *gpus("n2", 2))
    for order, subject, days, words in [
        ("borrow", "n1", 31, "say 1 to 30"),
        ("borrow", "n1", 0, "say 1 to 30"),
        ("borrow", "n9", 3, "n9 holds no seats"),
    ]:
        with pytest.raises(ApiError, match=words):
            house.hub.order(order, subject, NOW, days=days)
    house.hub.order("borrow", "n1", NOW, days=3)
    with pytest.raises(ApiError, match="n1 has its seats until 2027-01-18 08:00 UTC"):
        house.hub.order("borrow", "n1", NOW, days=2)
    with pytest.raises(
        ApiError, match="n2 holds 2 seats, and 3 are borrowed already: 20 % of the licence's 20 seats, 4"
    ):
        house.hub.order("borrow", "n2", NOW, days=3)
    house.offer("n3", *gpus("n3", 8))
    with pytest.raises(ApiError, match=r"n3 holds 8 seats, and of the licence's 20 at most 4 \(20 %\) may be borrowed"):
        house.hub.order("borrow", "n3", NOW, days=3)
    assert house.offer("n1", *gpus("n1", 9)) == set(gpus("n1", 3)), "it does not grow while it is away"


def test_a_borrowed_lease_says_so_and_no_other_runs_as_long(tmp_path: Path) -> None:
    good = changed(vendor.LEASE, exp=NOW + 13 * DAY, borrowed=True)
    bad = changed(vendor.LEASE, exp=NOW + 13 * DAY)
    key = public_hex(vendor.NODE)
    assert verify.lease_chain(vendor.lease(good), ROOTS, key).lease.borrowed
    with pytest.raises(ChainError, match="runs for 1123200 s, and may for 86400 s"):
        verify.lease_chain(vendor.lease(bad), ROOTS, key)


# --- giving back ---


def test_a_node_gives_its_seats_back_by_its_own_word(tmp_path: Path) -> None:
    house = House(tmp_path, 5, plan="trial")
    house.offer("n1", *gpus("n1", 5))
    house.give_back("n1")
    assert isinstance(house.nodes["n1"].admit([], NOW), Hold)
    assert house.offer("n2", *gpus("n2", 5)) == set(gpus("n2", 5))
    refused = house.offer("n1", *gpus("n1", 5))
    assert isinstance(refused, NoSeat)
    assert (refused.code, house.hub.status(NOW).resting) == ("LIC-422", ("n1",))
    again = NodeGate(tmp_path / "n1", ROOTS, house.boot)
    answer = again.admit([], NOW)
    assert isinstance(answer, Hold)
    assert answer.code == "LIC-422"
    house.hub.order("adopt", "n1", NOW)
    assert house.offer("n1", *gpus("n1", 5)) == frozenset()
    assert not isinstance(house.nodes["n1"].admit([], NOW), Hold)
    assert [row[2]["seats"] for row in house.trail("returned")] == [5]


def test_a_borrowed_node_comes_back_early(tmp_path: Path) -> None:
    house = House(tmp_path, 20)
    house.offer("n1", *gpus("n1", 4))
    house.hub.order("borrow", "n1", NOW, days=30)
    house.offer("n1", *gpus("n1", 4))
    house.give_back("n1")
    status = house.hub.status(NOW)
    assert (status.seats_used, status.seats_borrowed) == (0, 0)
    house.hub.order("adopt", "n1", NOW)
    house.offer("n1", *gpus("n1", 4))
    assert house.hub.status(NOW).holders[0].until == NOW + DAY


def test_the_word_of_another_node_or_of_before_frees_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, 5)
    house.offer("n1", *gpus("n1", 2))
    house.offer("n2", *gpus("n2", 2))
    word = house.nodes["n2"].give_back(NOW)
    with pytest.raises(ApiError, match="not signed by n1 for this hub"):
        house.hub.order("return", "n1", NOW, release=word)
    house.hub.order("return", "n2", NOW, release=word)
    house.hub.order("adopt", "n2", NOW)
    house.offer("n2", *gpus("n2", 2))
    with pytest.raises(ApiError, match="was given lease-n2-1-2 since"):
        house.hub.order("return", "n2", NOW, release=word)
    assert house.hub.status(NOW).seats_used == 4


def test_a_lost_answer_is_given_again(tmp_path: Path) -> None:
    house = House(tmp_path, 5)
    house.offer("n1", *gpus("n1", 2))
    house.hub.order("rest", "n1", NOW)
    word = house.nodes["n1"].give_back(NOW)
    assert NodeGate(tmp_path / "n1", ROOTS, house.boot).give_back(NOW) == word
    house.hub.order("adopt", "n1", NOW)
    assert house.offer("n1", *gpus("n1", 2)) == set(gpus("n1", 2)), "the seats were its own all the time"


# --- taken back ---


def test_a_tenth_may_be_taken_from_dead_nodes_in_30_days(tmp_path: Path) -> None:
    house = House(tmp_path, 20)
    for name in ("n1", "n2", "n3"):
        house.offer(name, *gpus(name, 1 if name != "n3" else 2))
    house.hub.order("reclaim", "n1", NOW)
    with pytest.raises(
        ApiError, match="n3 holds 2 seats, and 1 were taken back in the last 30 days: 10 % of"
    ) as refused:
        house.hub.order("reclaim", "n3", NOW)
    assert "Its seats are free 2027-01-16 08:00 UTC" in str(refused.value)
    house.hub.order("reclaim", "n2", NOW)
    assert house.hub.status(NOW).seats_used == 2
    assert house.offer("n1", *gpus("n1", 1)) == set(gpus("n1", 1)), "it came back, and there are seats"
    house.later(DAY)
    house.offer("n3", *gpus("n3", 2))
    house.later(30 * DAY)
    house.offer("n3", *gpus("n3", 2))
    house.hub.order("reclaim", "n3", house.now)
    assert [row[1] for row in house.trail("reclaimed")] == ["n1", "n2", "n3"]


def test_a_lease_that_was_taken_back_is_not_handed_out_again(tmp_path: Path) -> None:
    house = House(tmp_path, 1, plan="trial")
    house.offer("n1", "GPU-a")
    house.hub.order("reclaim", "n1", NOW)
    assert house.offer("n2", "GPU-b") == {"GPU-b"}
    reborn = NodeGate(tmp_path / "n1", ROOTS, house.boot)
    for seq in (0, 1):
        token = house.hub.lease("n1", reborn.key_hex, ["GPU-a"], seq, NOW)
        assert token is None or isinstance(token, str)
        if token is not None:
            assert verify.lease_chain(token, ROOTS, reborn.key_hex).lease.gpus == ()
    assert house.hub.status(NOW).seats_used == 1


# --- pins ---


def test_a_pinned_gpu_comes_first_then_what_is_held_longest(tmp_path: Path) -> None:
    house = House(tmp_path, 2, plan="trial")
    house.hub.order("pin", "GPU-c", NOW)
    assert house.hub.status(NOW).pinned == ("GPU-c",)
    assert house.offer("n1", "GPU-a", "GPU-b", "GPU-c") == {"GPU-a", "GPU-c"}
    house.hub.order("pin", "GPU-b", NOW)
    assert house.offer("n1", "GPU-b", "GPU-a", "GPU-c") == {"GPU-a", "GPU-c"}, "it takes no seat away"
    house.hub.activate(file(changed(house.terms, rev=2, seats=1)), NOW)
    assert house.offer("n1", "GPU-a", "GPU-b", "GPU-c") == {"GPU-c"}
    house.hub.order("unpin", "GPU-c", NOW)
    house.hub.order("unpin", "GPU-c", NOW)
    with pytest.raises(ApiError, match="is no UUID of a GPU"):
        house.hub.order("pin", "unknown:0", NOW)


def test_the_parts_are_at_least_one_seat() -> None:
    assert [plans.part(seats, 10) for seats in (0, 1, 9, 10, 19, 20, 64)] == [0, 1, 1, 1, 1, 2, 6]


def test_without_a_licence_nothing_can_be_ordered(tmp_path: Path) -> None:
    hub = HubLicence(tmp_path, "test", ROOTS, Boot())
    hub.open()
    with pytest.raises(ApiError, match="no licence is in use here"):
        hub.order("borrow", "n1", NOW, days=3)
    with pytest.raises(ApiError, match="'sell' is nothing to order"):
        hub.order("sell", "n1", NOW)
    hub.close()


# --- emergency hours ---

END = VOUCHER.exp + 14 * DAY


def test_72_hours_more_on_the_sites_own_word_once_a_term(tmp_path: Path) -> None:
    house = House(tmp_path, 5)
    house.offer("n1", *gpus("n1", 2))
    with pytest.raises(ApiError, match="new jobs start in ACTIVE; take the emergency hours when they are held"):
        house.hub.order("extend", "", NOW)
    house.later(END + HOUR - NOW)
    assert isinstance(house.offer("n1", *gpus("n1", 2)), NoSeat)
    status = house.hub.order("extend", "", house.now)
    until = house.now + 72 * HOUR
    assert (status.stage, status.code, status.restricted_at) == ("GRACE", "LIC-435", until)
    assert house.offer("n1", *gpus("n1", 2)) == set(gpus("n1", 2))
    assert isinstance(house.offer("n9", "GPU-9"), NoSeat), "no new nodes"
    assert house.trail("emergency") == [(house.now, "lic-test", {"code": "LIC-404", "until": until})]
    for _ in range(8):
        house.later(9 * HOUR - 60)
        assert house.offer("n1", *gpus("n1", 2)) == set(gpus("n1", 2))
    house.later(HOUR)
    assert isinstance(house.nodes["n1"].admit([], house.now), Hold), "no lease carries beyond"
    with pytest.raises(ApiError, match="had its emergency hours in this term"):
        house.hub.order("extend", "", house.now)
    house.hub.activate(file(changed(house.terms, rev=2, iat=house.now, exp=house.now + 80 * DAY)), house.now)
    assert house.offer("n1", *gpus("n1", 2)) == set(gpus("n1", 2))


def test_nothing_to_extend_where_nothing_was_bought(tmp_path: Path) -> None:
    house = House(tmp_path, 5, plan="trial")
    house.later(END - NOW)
    with pytest.raises(ApiError, match="is for trying, and has no emergency hours"):
        house.hub.order("extend", "", house.now)


def test_a_node_takes_no_more_than_72_hours_on_that_word() -> None:
    key = public_hex(vendor.NODE)
    late = {"iat": END + DAY, "exp": END + 2 * DAY}
    terms = changed(VOUCHER, site=public_hex(vendor.SITE))
    good = changed(vendor.LEASE, **late, extended_until=END + 4 * DAY)
    assert verify.lease_chain(vendor.lease(good, licence=terms), ROOTS, key).lease.extended_until == END + 4 * DAY
    for until, words in ((END + 4 * DAY + 1, "longer than 72 h"), (None, "the lease")):
        bad = changed(good, extended_until=until)
        with pytest.raises(ChainError, match=words):
            verify.lease_chain(vendor.lease(bad, licence=terms), ROOTS, key)


# --- standby ---


def test_nodes_hear_only_the_highest_epoch(tmp_path: Path) -> None:
    house = House(tmp_path, 5)
    house.offer("n1", "GPU-a")
    house.hub.close()
    shutil.copytree(tmp_path / "hub", tmp_path / "standby")
    house.hub.open()
    old, house.hub = house.hub, HubLicence(tmp_path / "standby", "test", ROOTS, house.boot)
    house.hub.open()
    assert house.hub.order("promote", "", NOW).epoch == 2
    assert house.offer("n1", "GPU-a") == {"GPU-a"}
    node = house.nodes["n1"]
    late = old.lease("n1", node.key_hex, ["GPU-a", "GPU-b"], 40, NOW)
    assert isinstance(late, str)
    with pytest.raises(ApiError, match="of epoch 1, and this node had one of epoch 2: a standby took over"):
        node.accept(late, NOW)
    node.give_back(NOW)
    again = NodeGate(tmp_path / "n1", ROOTS, house.boot)
    with pytest.raises(ApiError, match="a standby took over"):
        again.accept(late, NOW)
    old.close()
