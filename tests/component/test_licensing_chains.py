"""Copied nodes, nodes and hubs put back from a backup, two hubs of one site: real ledgers, real node folders."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.types import LicenceStage
from agent.gate import Admit, Ask, HubLicence, NodeGate, NoSeat
from licensing.document import Lease, decode
from licensing.keys import public_hex
from licensing.paseto import split
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file, seeded

HOUR = 3600


class Town:
    """A site: hubs and machines in folders, which are copied and put back as disks are."""

    def __init__(self, folder: Path, seats: int = 8) -> None:
        self.folder, self.boot, self.now = folder, Boot(), NOW
        self.hub = self.hub_in("hub")
        key = self.hub.status(NOW).site_key
        self.hub.activate(file(changed(VOUCHER, site=key, seats=seats)), NOW)

    def hub_in(self, name: str) -> HubLicence:
        hub = HubLicence(self.folder / name, "test", ROOTS, self.boot)
        hub.open()
        return hub

    def machine(self, name: str) -> NodeGate:
        return NodeGate(self.folder / name, ROOTS, self.boot)

    def copy(self, name: str, to: str) -> None:
        shutil.rmtree(self.folder / to, ignore_errors=True)
        shutil.copytree(self.folder / name, self.folder / to)

    def restore_hub(self, backup: str) -> None:
        """An older `licence.db` is put back while the hub is down."""
        self.hub.close()
        self.copy(backup, "hub")
        self.hub = self.hub_in("hub")

    def backup_hub(self, to: str) -> None:
        self.hub.close()
        self.copy("hub", to)
        self.hub = self.hub_in("hub")

    def ask(self, machine: NodeGate, name: str, *gpus: str) -> Ask:
        told = machine.lease_reply(self.now)
        return Ask(node=name, key=machine.key_hex, gpus=gpus, seq=told.seq, held=told.lease)

    def offer(self, machine: NodeGate, name: str, *gpus: str, lost: bool = False) -> int | str | None:
        """What the hub does with a node: number of the lease it took, code of a refusal, `None` for nothing due."""
        asked = self.ask(machine, name, *gpus)
        (found,) = self.hub.leases([asked], self.now)
        if isinstance(found, NoSeat):
            return found.code
        if isinstance(found, Exception):
            raise found
        if found is None or lost:
            return None
        return machine.accept(found, self.now).seq

    def later(self, seconds: int) -> None:
        self.now = self.boot.at(self.now + seconds)

    def trail(self, event: str) -> list[tuple[str, dict[str, object]]]:
        self.hub.close()
        conn = sqlite3.connect(self.folder / "hub" / "licence.db")
        rows = conn.execute("SELECT subject, detail FROM audit WHERE event = ? ORDER BY n", (event,)).fetchall()
        conn.close()
        self.hub = self.hub_in("hub")
        return [(subject, json.loads(detail)) for subject, detail in rows]


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


# --- nodes ---


def test_a_copied_node_gets_nothing_new_and_what_it_has_goes_on(town: Town) -> None:
    n1 = town.machine("n1")
    assert town.offer(n1, "n1", "A", "B") == 1
    town.copy("n1", "twin")
    town.later(9 * HOUR)
    assert town.offer(n1, "n1", "A", "B") == 2
    twin = town.machine("twin")
    assert twin.key_hex == n1.key_hex
    assert town.offer(twin, "n2", "C", "D") == "LIC-423"
    assert town.hub.status(town.now).seats_used == 2
    assert twin.lease_reply(town.now).seq == 1
    assert isinstance(twin.admit(["A"], town.now), Admit), "its lease of before runs on; the signature allows it"
    (copied,) = town.hub.status(town.now).forked
    assert (copied.node, copied.of, copied.seq, copied.since) == ("n2", "n1", 1, town.now)
    assert town.offer(twin, "n2", "C", "D") == "LIC-423"
    assert town.trail("forked") == [("n2", {"of": "n1", "key": n1.key_hex[:16], "shown": 1, "known": 1})], "once"
    town.later(9 * HOUR)
    assert town.offer(n1, "n1", "A", "B") == 3


def test_a_copy_under_the_same_name_is_seen_by_its_old_lease(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A", "B")
    town.copy("n1", "twin")
    town.later(9 * HOUR)
    assert town.offer(n1, "n1", "A", "B") == 2
    assert town.offer(n1, "n1", "A", "B") is None, "it was heard to have it"
    assert town.offer(town.machine("twin"), "n1", "C", "D") == "LIC-423"
    town.later(9 * HOUR)
    assert town.offer(n1, "n1", "A", "B") == 3, "the chain goes on with the one who has it"
    assert town.hub.status(town.now).forked == (), "that one is served, so the report is over; the trail keeps it"
    assert len(town.trail("forked")) == 1


def test_the_key_alone_is_a_copy_too(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A", "B")
    town.copy("n1", "twin")
    (town.folder / "twin" / "lease").unlink()
    assert town.offer(town.machine("twin"), "n2", "C") == "LIC-423"
    assert town.hub.status(town.now).seats_used == 2


def test_a_copy_makes_itself_an_identity_and_both_go_on(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A", "B")
    town.copy("n1", "twin")
    twin = town.machine("twin")
    assert town.offer(twin, "n2", "C", "D") == "LIC-423"
    with pytest.raises(ApiError, match="adopt --new n2"):
        town.hub.order("adopt", "n2", town.now)
    new = twin.renew_identity(town.now)
    town.hub.order("renew", "n2", town.now)
    assert new == twin.key_hex == town.machine("twin").key_hex != n1.key_hex
    assert not isinstance(twin.admit([], town.now), Admit), "the old lease was the other key's"
    assert town.hub.status(town.now).forked == ()
    assert town.offer(twin, "n2", "C", "D") == 1
    assert town.hub.status(town.now).seats_used == 4
    assert town.offer(n1, "n1", "A", "B") is None
    kept = [each.name for each in (town.folder / "twin").iterdir() if each.name.startswith("node.key.")]
    assert len(kept) == 1, "the key of before is kept aside"


def test_a_node_says_why_it_gets_no_lease_and_holds_nothing_for_it(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A")
    n1.hear("LIC-423", "n2 shows an old lease and the identity of n1. Run: stoker-license node adopt --new n2.")
    told = n1.licence(town.now)
    assert (told.stage, told.code) == (LicenceStage.NOTICE, "LIC-423")
    assert isinstance(n1.admit(["A"], town.now), Admit)
    town.later(4 * DAY + HOUR)
    hold = n1.admit(["A"], town.now)
    assert not isinstance(hold, Admit)
    assert hold.code == "LIC-423"
    assert "adopt --new n2" in hold.detail
    assert town.offer(n1, "n1", "A") == 2
    assert n1.licence(town.now).code is None


def test_nodes_of_one_image_are_told_what_to_do_about_it(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A")
    town.copy("n1", "n2")
    (refused,) = town.hub.leases([town.ask(town.machine("n2"), "n2", "B")], town.now)
    assert isinstance(refused, NoSeat)
    for part in ("stoker-license node adopt --new n2", "made from one image: take node.key out of the image"):
        assert part in refused.message


def test_a_disk_of_yesterday_gets_on_where_its_gpus_are_the_same(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A", "B")
    town.copy("n1", "yesterday")
    for number in (2, 3, 4):
        town.later(9 * HOUR)
        assert town.offer(n1, "n1", "A", "B") == number
    assert town.offer(n1, "n1", "A", "B") is None
    town.copy("yesterday", "n1")
    n1 = town.machine("n1")
    assert n1.lease_reply(town.now).seq == 1
    assert town.offer(n1, "n1", "A", "B") == 4, "the last lease once more: no second seat"
    assert town.hub.status(town.now).forked == ()
    assert town.trail("went_back") == [("n1", {"shown": 1, "known": 4})]
    town.later(9 * HOUR)
    assert town.offer(n1, "n1", "A", "B") == 5


def test_a_lease_file_that_was_lost_is_no_copy(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A")
    assert town.offer(n1, "n1", "A") is None
    (town.folder / "n1" / "lease").unlink()
    assert town.offer(town.machine("n1"), "n1", "A") == 1


def test_without_gpus_there_is_no_seat_to_double(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1")
    town.copy("n1", "yesterday")
    town.later(9 * HOUR)
    town.offer(n1, "n1")
    assert town.offer(n1, "n1") is None
    assert town.offer(town.machine("yesterday"), "n1") == 2


def test_an_agent_that_was_upgraded_while_a_reply_was_lost_is_no_copy(town: Town) -> None:
    """An agent of before shows no lease, so the hub knows only the number of what it had."""
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A")
    town.later(9 * HOUR)
    town.hub.leases([dataclasses.replace(town.ask(n1, "n1", "A"), held=None)], town.now)
    assert town.offer(n1, "n1", "B") == 3


@pytest.mark.parametrize("times", [1, 2, 5])
def test_lost_replies_never_look_like_a_copy(town: Town, times: int) -> None:
    n1 = town.machine("n1")
    for first in ("A", "B", "C"):
        for turn in range(times):
            town.later(9 * HOUR if turn % 2 else 0)
            assert town.offer(n1, "n1", first, f"G{turn}", lost=True) is None
        assert isinstance(town.offer(n1, "n1", "other", first), int), "with other GPUs, too"
    assert town.trail("forked") == town.trail("went_back") == []
    town.hub.close()
    town.hub = town.hub_in("hub")
    assert town.offer(n1, "n1", "quite", "others") is not None


def test_a_machine_that_takes_the_name_of_another_goes_on_in_its_own_chain(tmp_path: Path) -> None:
    """Both had as many leases, so the number says nothing of which one comes before the next."""
    town = Town(tmp_path, seats=32)
    before: dict[str, str | None] = {}
    for n in range(16):
        for name in (f"kept{n}", f"gone{n}"):
            assert town.offer(town.machine(name), name, f"GPU-{name}") == 1
        machine = town.machine(f"kept{n}")
        before[f"gone{n}"] = town.ask(machine, f"kept{n}").head
        assert town.offer(machine, f"gone{n}", f"GPU-kept{n}") == 2
    leases = {f"gone{n}": town.machine(f"kept{n}").lease_reply(town.now).lease for n in range(16)}
    assert {name: decode(Lease, split(token or "").payload).prev for name, token in leases.items()} == before


def test_a_renamed_node_goes_on_and_its_old_name_is_over(town: Town) -> None:
    n1 = town.machine("n1")
    town.offer(n1, "n1", "A", "B")
    assert town.offer(n1, "rack7", "A", "B") == 2
    status = town.hub.status(town.now)
    assert ([each.node for each in status.holders], status.seats_used) == (["rack7"], 2)
    assert town.offer(n1, "rack7", "A", "B") is None
    assert town.offer(n1, "n1", "A", "B") == "LIC-423", "two names at once would take turns for ever"
    assert town.trail("renamed") == [("rack7", {"was": "n1", "key": n1.key_hex[:16]})]


def test_a_new_key_under_an_old_name_is_a_new_machine(town: Town) -> None:
    town.offer(town.machine("n1"), "n1", "A", "B")
    assert town.offer(town.machine("n1-new-disk"), "n1", "A", "B") == 2
    assert town.hub.status(town.now).forked == ()


# --- hubs ---


def test_a_restored_hub_counts_what_nodes_hold_before_it_grants_more(town: Town) -> None:
    n1, n2, n3 = (town.machine(name) for name in ("n1", "n2", "n3"))
    town.offer(n1, "n1", "A", "B")
    town.backup_hub("backup")
    town.later(9 * HOUR)
    assert town.offer(n1, "n1", "A", "B", "C") == 2
    assert town.offer(n2, "n2", *(f"D{n}" for n in range(5))) == 1
    town.restore_hub("backup")
    assert town.hub.status(town.now).seats_used == 2, "it has forgotten the rest"
    for machine, name in ((n1, "n1"), (n2, "n2")):
        town.hub.hear(town.ask(machine, name), town.now)
    assert town.hub.status(town.now).seats_used == 8
    town.offer(n3, "n3", "E", "F", "G")
    assert len(n3.seated(town.now)) == 1, "eight, and one overdrawn"
    assert town.offer(n1, "n1", "A", "B", "C") == 3, "numbered past what the node has"
    assert town.offer(n2, "n2", *(f"D{n}" for n in range(5))) == 2
    assert town.hub.status(town.now).seats_used == 9
    assert town.trail("restored") == [
        ("n1", {"node_seq": 2, "ledger_seq": 1}),
        ("n2", {"node_seq": 1, "ledger_seq": 0}),
    ]
    assert [subject for subject, _ in town.trail("recalled")] == ["n1", "n2"]


def test_what_nodes_said_before_there_was_a_licence_counts_under_it(town: Town) -> None:
    """The hub's ledger was lost; the licence is activated again while the nodes run on."""
    n1, n2, n3 = (town.machine(name) for name in ("n1", "n2", "n3"))
    town.offer(n1, "n1", "A", "B", "C")
    town.offer(n2, "n2", *(f"D{n}" for n in range(5)))
    town.hub.close()
    for path in (town.folder / "hub").glob("licence.db*"):
        path.unlink()
    town.hub = town.hub_in("hub")
    for machine, name in ((n1, "n1"), (n2, "n2")):
        town.hub.hear(town.ask(machine, name), town.now)
    key = town.hub.status(town.now).site_key
    town.hub.activate(file(changed(VOUCHER, site=key, seats=8)), town.now)
    town.offer(n3, "n3", "E", "F", "G")
    assert len(n3.seated(town.now)) == 1, "eight, and one overdrawn"
    assert town.hub.status(town.now).seats_used == 9


def test_what_was_borrowed_counts_to_its_end_though_the_hub_forgot_it(tmp_path: Path) -> None:
    town = Town(tmp_path, seats=10)
    n1, n2 = town.machine("n1"), town.machine("n2")
    town.offer(n1, "n1", "A", "B")
    town.backup_hub("backup")
    town.hub.order("borrow", "n1", town.now, days=20)
    assert town.offer(n1, "n1", "A", "B") == 2
    town.restore_hub("backup")
    town.hub.hear(town.ask(n1, "n1"), town.now)
    assert town.hub.status(town.now).seats_borrowed == 2
    for _ in range(15):
        town.later(DAY)
        town.offer(n2, "n2", *(f"G{n}" for n in range(12)))
    assert n1.seated(town.now) == {"A", "B"}, "away, and running"
    assert len(n2.seated(town.now)) == 9, "ten and one overdrawn, less those two"


def test_what_a_node_says_without_the_hubs_signature_counts_nothing(town: Town) -> None:
    told = town.machine("n2").lease_reply(NOW)
    assert told.lease is None
    other = Town(town.folder / "elsewhere")
    stranger = other.machine("n2")
    other.offer(stranger, "n2", "X", "Y")
    town.hub.hear(town.ask(stranger, "n2", "X", "Y"), town.now)
    town.hub.hear(Ask(node="n3", key=public_hex(seeded("n3")), gpus=("X",), seq=7, held="v4.public.AAAA"), town.now)
    assert town.hub.status(town.now).seats_used == 0


def test_a_standby_that_took_over_silences_the_hub_before_it(town: Town) -> None:
    n1, n2 = town.machine("n1"), town.machine("n2")
    town.offer(n1, "n1", "A")
    town.hub.close()
    town.copy("hub", "standby")
    old, town.hub = town.hub_in("hub"), town.hub_in("standby")
    town.hub.order("promote", "", town.now)
    assert town.offer(n1, "n1", "A") == 2
    standby, town.hub = town.hub, old
    assert town.offer(n1, "n1", "A") == "LIC-424"
    assert town.offer(n2, "n2", "B") == "LIC-424", "nor to a node that heard of no other hub"
    status = town.hub.status(town.now)
    assert (status.epoch, status.epoch_heard, status.seats_used) == (1, 2, 1)
    town.hub.order("promote", "", town.now)
    assert town.hub.status(town.now).epoch == 3, "past what was heard, at an operator's word only"
    assert town.offer(n1, "n1", "A") == 3
    standby.close()


# --- batches ---


def test_one_that_fails_costs_no_other_of_its_batch_anything(town: Town) -> None:
    def ask(name: str, key: str, *gpus: str) -> Ask:
        return Ask(node=name, key=key, gpus=gpus, seq=0)

    good = [ask(f"n{n}", public_hex(seeded(f"n{n}")), f"G{n}") for n in range(3)]
    bad = ask("weak", "01" + "00" * 31, "W")
    first, refused, *rest = town.hub.leases([good[0], bad, *good[1:]], NOW)
    assert isinstance(refused, ApiError)
    assert refused.code == "licence_weak_key"
    assert all(isinstance(each, str) for each in (first, *rest))
    assert town.hub.status(NOW).seats_used == 3
    assert [subject for subject, _ in town.trail("granted")] == ["n0", "n1", "n2"]


def dumped(folder: Path) -> list[str]:
    """All that the ledger holds, read past its own code."""
    conn = sqlite3.connect(folder / "licence.db")
    lines = sorted(conn.iterdump())
    conn.close()
    return lines


def test_a_batch_is_answered_as_its_askers_are_apart(town: Town) -> None:
    """Also where its nodes take each other's cards and names; one that fails has the batch answered one by one."""
    first = [Ask(node=f"n{n}", key=public_hex(seeded(f"k{n}")), gpus=(f"G{n}", f"H{n}"), seq=0) for n in range(6)]
    town.hub.leases(first, town.now)
    town.later(9 * 3600)
    asks = [
        Ask(node="n0", key=first[0].key, gpus=("G0", "G1"), seq=1),  # another's card
        Ask(node="n1", key=first[1].key, gpus=("G1", "H1"), seq=1),  # and he shows it too
        Ask(node="n9", key=first[2].key, gpus=("G2",), seq=1),  # renamed
        Ask(node="n2", key=first[2].key, gpus=("X",), seq=1),  # and a copy that kept the name
        Ask(node="n3", key=first[3].key, gpus=(), seq=1),
        Ask(node="n3", key=public_hex(seeded("new")), gpus=("H3",), seq=0),  # twice in one batch, under another key
        Ask(node="n4", key=first[4].key, gpus=first[4].gpus, seq=0),  # lost
        Ask(node="n5", key=first[5].key, gpus=first[5].gpus, seq=7),  # ahead
    ]
    weak = Ask(node="weak", key="01" + "00" * 31, gpus=("W",), seq=0)
    town.hub.close()
    shutil.copytree(town.folder / "hub", town.folder / "twin")
    town.hub, twin = town.hub_in("hub"), town.hub_in("twin")
    *apart, refused = twin.leases([*asks, weak], town.now)
    assert isinstance(refused, ApiError)
    assert town.hub.leases(asks, town.now) == apart
    assert len({each for each in apart if isinstance(each, str)}) >= 6
    twin.close()
    town.hub.close()
    assert dumped(town.folder / "hub") == dumped(town.folder / "twin")
    town.hub = town.hub_in("hub")


def test_cards_that_change_hands_within_a_batch_leave_no_seat_behind(tmp_path: Path) -> None:
    town = Town(tmp_path, seats=4)
    n1, n2 = (Ask(node=name, key=public_hex(seeded(name)), gpus=(), seq=0) for name in ("n1", "n2"))
    cards, others = ("A", "B", "C", "D"), ("E", "F", "G", "H")
    town.hub.leases([dataclasses.replace(n1, gpus=cards)], town.now)
    town.hub.leases([dataclasses.replace(n2, gpus=cards), dataclasses.replace(n1, gpus=others, seq=1)], town.now)
    assert town.hub.status(town.now).seats_used == 5, "four, and one that is overdrawn"
    town.hub.close()


def test_a_batch_on_a_ledger_that_cannot_be_written_grants_nothing(town: Town) -> None:
    asks = [Ask(node=f"n{n}", key=public_hex(seeded(f"n{n}")), gpus=(f"G{n}",), seq=0) for n in range(3)]
    town.hub._site._ledger._run("PRAGMA query_only=ON")
    outcomes = town.hub.leases(asks, NOW)
    assert [type(each) for each in outcomes] == [ApiError] * 3
    town.hub._site._ledger._run("PRAGMA query_only=OFF")
    assert town.hub.status(NOW).seats_used == 0
    assert town.trail("granted") == []
    assert all(isinstance(each, str) for each in town.hub.leases(asks, NOW))
