"""New jobs held on nodes by the hub's signed word: hours spent, revoked, given back; real ledger, real nodes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from licensing import armour, keys, verify
from licensing.armour import LINK, Label
from licensing.document import Licence, sign
from licensing.errors import LicenceError, ReplayError
from licensing.leases import Ask
from licensing.node import NodeLease
from licensing.plans import MS_PER_HOUR
from licensing.seats import NoSeat
from licensing.site import Site
from licensing.stage import Stage
from tests.fakes.papers import CRL
from tests.fakes.vendor import DAY, NOW, ROOT, ROOTS, VOUCHER, Boot, changed, file, seeded

HOUR = 3600
GPUS = ("GPU-0", "GPU-1")


class Place:
    """A hub whose meter the test reads out, and its nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.boot, self.used_hours, self.now = folder, Boot(), 0.0, NOW
        self.open()
        self.nodes: dict[str, NodeLease] = {}

    def open(self) -> None:
        used = lambda _: int(self.used_hours * MS_PER_HOUR)  # noqa: E731
        self.site = Site(self.folder / "hub", "test", ROOTS, self.boot, built_at=NOW, gpu_ms_used=used)
        self.site.open()

    def licence(self, **fields: object) -> Licence:
        made: Licence = changed(VOUCHER, **{"site": self.site.key_hex, **fields})
        return made

    def offer(self, name: str = "n1") -> str | NoSeat | None:
        node = self.nodes.setdefault(name, NodeLease(self.folder / name, ROOTS, self.boot, NOW))
        token = self.site.leases([self.ask(name)], self.now)[0]
        assert not isinstance(token, Exception)
        if isinstance(token, str):
            node.accept(token, self.now)
        return token

    def ask(self, name: str) -> Ask:
        held = self.nodes[name].held
        gpus = tuple(f"{gpu}-{name}" for gpu in GPUS)
        seq, token = (held.lease.seq, held.token) if held else (0, None)
        return Ask(node=name, key=self.nodes[name].key_hex, gpus=gpus, seq=seq, held=token)

    def refusal(self, name: str = "n1") -> str | None:
        found = self.nodes[name].refusal(frozenset({f"GPU-0-{name}"}), self.now)
        return found.detail if found else None

    def later(self, seconds: int) -> None:
        self.now = self.boot.at(self.now + seconds)

    def trail(self, event: str) -> list[tuple[str, dict[str, object]]]:
        rows = self.site._ledger.run("SELECT subject, detail FROM audit WHERE event = ? ORDER BY n", (event,))
        return [(subject, json.loads(detail)) for subject, detail in rows]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.site.close()


PREPAID: dict[str, object] = {"plan": "prepaid", "gpu_hours": 100}


def test_spent_hours_reach_a_node_in_contact_and_more_of_them_lift_it(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    stages = []
    for used in (50, 92, 101, 111):
        place.later(HOUR)
        place.used_hours = used
        stages.append(place.site.report(place.now).standing.stage)
        place.offer()
        assert (place.refusal() is None) == (used < 110)
        assert place.nodes["n1"].standing(place.now).gpu_ms_left is None, "it does not know what others used"
    assert stages == [Stage.ACTIVE, Stage.NOTICE, Stage.GRACE, Stage.RESTRICTED]
    said = place.refusal() or ""
    for part in (
        "LIC-434: 111.0 of the 100 prepaid GPU-hours of the licence lic-test are used, and 10.0 beyond them",
        "New jobs are held in the queue since 2027-01-15 12:00 UTC",
        "Running jobs go on to their end",
        "Run: stoker-license activate FILE",
    ):
        assert part in said, said
    assert place.nodes["n1"].seated(place.now) == frozenset()
    at_hub = place.site.report(place.now).standing
    assert (at_hub.restricted_at, "since 2027-01-15 12:00 UTC" in at_hub.message) == (place.now, True)
    place.site.activate(file(place.licence(**{**PREPAID, "gpu_hours": 200, "rev": 2})), place.now)
    place.offer()
    assert place.refusal() is None
    assert [each[1]["code"] for each in place.trail("restricted") + place.trail("lifted")] == ["LIC-434", "LIC-434"]
    assert place.trail("held")[0][0] == "n1"
    place.site._ledger.verify_audit()


def test_hours_count_from_when_a_licence_is_taken_and_not_from_when_it_was_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, "test", ROOTS, Boot())
    site.open()
    prepaid = changed(VOUCHER, id="lic-hours", site=site.key_hex, vm=True, **PREPAID)
    before = list(site._ledger.run("SELECT * FROM usage_licence"))
    with pytest.raises(ReplayError, match="answers the request unknown"):
        site.activate(file(changed(prepaid, request="unknown")), NOW)
    assert list(site._ledger.run("SELECT * FROM usage_licence")) == before, "refused: nothing was changed"
    site.activate(file(prepaid), NOW)
    assert [row[0] for row in site._ledger.run("SELECT licence FROM usage_licence")] == ["lic-hours"]
    site.close()


def test_it_is_told_once_and_says_since_when_after_a_restart_of_the_hub(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    place.used_hours = 111
    assert isinstance(place.offer(), str)
    place.later(HOUR)
    assert isinstance(place.offer(), NoSeat), "it has that word already"
    place.site.close()
    place.open()
    place.later(HOUR)
    again = place.offer()
    assert isinstance(again, NoSeat)
    assert "since 2027-01-15 08:00 UTC" in again.message
    assert len(place.trail("restricted")) == len(place.trail("held")) == 1


def test_a_node_that_was_told_holds_though_it_is_restarted_and_its_lease_ends(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    place.used_hours = 111
    place.offer()
    place.nodes["n1"] = NodeLease(place.folder / "n1", ROOTS, place.boot, NOW)
    place.later(2 * DAY)
    assert "LIC-434" in (place.refusal() or "")


def test_a_node_out_of_contact_goes_on_to_its_leases_end(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    place.used_hours = 111
    place.site.report(place.now)
    place.later(4 * DAY - HOUR)
    assert place.refusal() is None
    place.later(2 * HOUR)
    assert "LIC-412" in (place.refusal() or "")


def test_a_node_that_took_it_and_whose_answer_was_lost_is_told_the_same(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    node, place.used_hours = place.nodes["n1"], 111
    gpus = [f"{gpu}-n1" for gpu in GPUS]
    first, second = (place.site.lease("n1", node.key_hex, gpus, 1, place.now) for _ in range(2))
    assert isinstance(first, str) and first == second
    assert len(place.trail("held")) == 1


def test_an_older_lease_does_not_come_back(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    good = place.offer()
    assert isinstance(good, str)
    place.used_hours = 111
    place.offer()
    with pytest.raises(ReplayError):
        place.nodes["n1"].accept(good, place.now)
    assert "LIC-434" in (place.refusal() or "")


def test_only_the_site_key_can_say_it(place: Place) -> None:
    """A word that is changed, or signed by another key, is refused; what the node held stays."""
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    node, place.used_hours = place.nodes["n1"], 111
    word = place.site.lease("n1", node.key_hex, [f"{gpu}-n1" for gpu in GPUS], 1, place.now)
    assert isinstance(word, str)
    chain, lease = word.rsplit(LINK, 1)
    held = verify.lease_chain(word, ROOTS, node.key_hex).lease
    assert held.held is not None
    thief = seeded("thief")
    for forged in (
        LINK.join((chain, sign(thief, changed(held, site=keys.public_hex(thief))))),
        LINK.join((chain, sign(thief, held))),
        LINK.join((chain, lease[:60] + ("A" if lease[60] != "A" else "B") + lease[61:])),
    ):
        with pytest.raises(LicenceError):
            node.accept(forged, place.now)
    assert place.refusal() is None


def revoking(**fields: object) -> str:
    crl = changed(CRL, **{"keys": (), **fields})
    return armour.wrap(Label.CRL, sign(ROOT, crl))


def test_a_revocation_reaches_a_node_in_contact_and_a_newer_list_frees_it(place: Place) -> None:
    place.site.activate(file(place.licence()), NOW)
    place.offer()
    place.later(HOUR)
    place.site.activate(revoking(), place.now)
    place.offer()
    said = place.refusal() or ""
    for part in (
        "LIC-430",
        "revoked by the vendor",
        "(unpaid)",
        "since 2027-01-15 09:00 UTC",
        "stoker-license activate",
    ):
        assert part in said, said
    assert "since 2027-01-15 09:00 UTC" in place.site.report(place.now).standing.message
    place.site.activate(revoking(number=8, licences=()), place.now)
    place.offer()
    assert place.refusal() is None


def test_another_licence_lifts_a_revocation(place: Place) -> None:
    place.site.activate(file(place.licence()), NOW)
    place.offer()
    place.site.activate(revoking(), place.now)
    place.offer()
    assert place.refusal() is not None
    place.site.activate(file(place.licence(id="lic-other")), place.now)
    place.offer()
    assert place.refusal() is None


def test_a_licence_given_back_holds_new_jobs_on_nodes_in_contact(place: Place) -> None:
    place.site.activate(file(place.licence()), NOW)
    place.offer()
    place.later(HOUR)
    place.site.release(place.now)
    place.offer()
    assert "LIC-409" in (place.refusal() or "")


def test_a_node_that_was_renamed_is_told_too(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer("n1")
    place.later(HOUR)
    place.used_hours = 111
    ask = dataclasses.replace(place.ask("n1"), node="rack7")
    (word,) = place.site.leases([ask], place.now)
    assert isinstance(word, str), word
    place.nodes["n1"].accept(word, place.now)
    assert "LIC-434" in (place.refusal("n1") or "")
    assert place.trail("renamed") == [("rack7", {"was": "n1", "key": ask.key[:16]})]
    assert [(each.node, each.gpu) for each in place.site.report(place.now).holds] == [
        ("rack7", "GPU-0-n1"),
        ("rack7", "GPU-1-n1"),
    ]
    again = dataclasses.replace(place.ask("n1"), node="rack7")
    assert isinstance(place.site.leases([again], place.now)[0], NoSeat), "once"
    old = place.site.leases([place.ask("n1")], place.now)[0]
    assert isinstance(old, NoSeat), "its old name is told nothing more"
    place.used_hours = 1
    (lease,) = place.site.leases([again], place.now)
    assert isinstance(lease, str)
    place.nodes["n1"].accept(lease, place.now)
    assert place.refusal("n1") is None
    assert len(place.site.report(place.now).holds) == 2
    place.site._ledger.verify_audit()


def test_a_node_without_a_lease_of_here_is_given_none(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.used_hours = 111
    assert isinstance(place.offer(), NoSeat)
    place.used_hours = 0
    place.offer("n2")
    place.used_hours = 111
    other = keys.public_hex(seeded("reinstalled"))
    assert isinstance(place.site.lease("n2", other, ["GPU-0-n2"], 0, place.now), NoSeat)


def test_its_seats_are_free_when_its_lease_ends_and_no_sooner(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    place.used_hours = 111
    place.offer()
    place.later(DAY - HOUR)
    assert len(place.site.report(place.now).holds) == 2
    place.later(2 * HOUR)
    assert place.site.report(place.now).holds == ()


def test_the_emergency_hours_lift_it_and_it_comes_back_after_them(place: Place) -> None:
    from licensing.orders import Order, Verb

    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer()
    place.used_hours = 111
    place.offer()
    place.site.order(Order(verb=Verb.EXTEND), place.now)
    place.offer()
    assert place.refusal() is None
    place.later(73 * HOUR)
    place.offer()
    assert "LIC-434" in (place.refusal() or "")


def test_a_trail_that_cannot_be_written_holds_all_the_same(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.used_hours = 111
    path = place.folder / "hub" / "licence.db"
    place.site.close()
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    conn.close()
    place.open()
    assert place.site.report(place.now).standing.code == "LIC-434"


def test_what_the_ledger_has_wrong_of_one_node_costs_no_other_the_word(place: Place) -> None:
    place.site.activate(file(place.licence(**PREPAID)), NOW)
    place.offer("n1"), place.offer("n2")
    place.used_hours = 111
    place.site._ledger.run("UPDATE \"grant\" SET wanted = 'no list' WHERE node = 'n1'")
    wrong, word = place.site.leases([place.ask("n1"), place.ask("n2")], place.now)
    assert isinstance(wrong, Exception)
    assert isinstance(word, str)
    place.nodes["n2"].accept(word, place.now)
    assert "LIC-434" in (place.refusal("n2") or "")


def test_a_restored_hub_tells_a_node_whose_lease_it_forgot_and_counts_it(place: Place) -> None:
    """The word may get lost: the node goes on with the lease it has, and nobody else gets those seats meanwhile."""
    place.site.activate(file(place.licence(seats=2)), NOW)
    place.offer()
    place.site.close()
    shutil.copytree(place.folder / "hub", place.folder / "backup")
    place.open()
    place.later(5 * DAY)
    place.offer()
    place.site.close()
    shutil.rmtree(place.folder / "hub")
    (place.folder / "backup").rename(place.folder / "hub")
    place.open()
    place.site.activate(revoking(), place.now)
    word = place.site.leases([place.ask("n1")], place.now)[0]
    assert isinstance(word, str), "though the last lease that it knows of ended long ago"
    assert len(place.site.report(place.now).holds) == 2
    place.site.activate(revoking(number=8, licences=()), place.now)
    place.offer("n2")
    assert len(place.nodes["n2"].seated(place.now)) == 1, "one is overdrawn"
    place.nodes["n1"].accept(word, place.now)
    assert "LIC-430" in (place.refusal() or "")
    place.offer()
    assert place.refusal() is None
    place.site._ledger.verify_audit()


def test_a_list_and_the_time_that_passed_are_written_one_after_the_other(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.site.activate(file(place.licence()), NOW)
    place.later(HOUR)
    place.site.activate(revoking(licences=()), place.now)
    assert "cannot" not in caplog.text
