"""A licence and the machine it is bound to: real trees on disk, a real site, the vendor's answers, time that passes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from licensing import clock
from licensing.document import open_token
from licensing.errors import OtherSiteError, StoreError
from licensing.exchange import Drift, Want
from licensing.fingerprint import Mode, Verdict
from licensing.seats import NoSeat
from licensing.site import Site
from licensing.stage import Stage
from licensing.store import Ledger
from tests.fakes.bound import BOARD_RMA, IMAGE_ELSEWHERE, IN_TWIN_CHASSIS, KEY, VIRTUAL, Hub
from tests.fakes.bound import hub as hub
from tests.fakes.head import HEAD, TWIN, Machine
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file

# --- the machine that it is bound to ---


def test_a_request_names_the_machine_and_its_answer_is_taken(hub: Hub) -> None:
    asked = hub.ask()
    assert asked.fingerprint is not None
    assert hub.bind().stage is Stage.ACTIVE
    found = hub.site.report(NOW).hardware
    assert found is not None
    assert (found.mode, found.verdict, len(found.matching), found.needed) == (Mode.HARDWARE, Verdict.MATCH, 5, 3)
    hub.move(HEAD)
    assert hub.at(NOW + DAY).stage is Stage.ACTIVE
    assert hub.leases()
    assert hub.ask().fingerprint == asked.fingerprint


def test_a_copy_of_the_disk_in_another_machine_gets_no_leases(hub: Hub, tmp_path: Path) -> None:
    """site.key, licence.db and the salt went along."""
    hub.bind()
    assert hub.leases()
    other = hub.copy(tmp_path / "b", IMAGE_ELSEWHERE)
    standing = other.at(NOW)
    assert (standing.stage, standing.code) == (Stage.RESTRICTED, "LIC-442")
    assert "1 of 5 groups of its marks match (machine-id), 3 must" in standing.message
    assert "held in the queue since 2027-01-15 08:00 UTC" in standing.message
    assert "Running jobs go on to their end" in standing.message
    assert standing.fix == "stoker-license export-request"
    answer = other.site.lease("n1", KEY, ("GPU-0",), 0, NOW)
    assert isinstance(answer, NoSeat)
    assert answer.code == "LIC-442"
    assert hub.leases(), "the one that it was copied from goes on"
    other.site.close()


def test_other_hardware_is_known_before_anything_is_read_after_a_restart(hub: Hub) -> None:
    hub.bind()
    hub.move(TWIN)
    assert hub.at(NOW).code == "LIC-442"
    hub.site.close()
    hub.site = Site(hub.folder / "state", "test", ROOTS, hub.boot)
    hub.site.open()
    assert hub.at(NOW).code == "LIC-442"
    hub.look(HEAD)
    assert hub.at(NOW).stage is Stage.ACTIVE, "at once, and without the vendor"


def test_a_board_that_was_replaced_passes_and_is_noted(hub: Hub) -> None:
    hub.bind()
    hub.move(BOARD_RMA)
    assert hub.at(NOW).stage is Stage.ACTIVE
    (drift,) = hub.events("drift")
    assert drift["changed"] == ["platform", "network"]
    paper = open_token(Drift, str(drift["signed"]), hub.site._binding._key.public)
    assert (paper.changed, paper.after) == (("platform", "network"), drift["commitment"])
    hub.move(BOARD_RMA.but(disk=TWIN.disk))
    assert hub.at(NOW).stage is Stage.ACTIVE, "held against the new board, not the old one"
    assert len(hub.events("drift")) == 2
    hub.move(BOARD_RMA.but(disk=TWIN.disk))
    assert len(hub.events("drift")) == 2


def test_a_disk_in_a_twin_chassis_has_14_days(hub: Hub) -> None:
    hub.bind()
    hub.leases()
    hub.move(IN_TWIN_CHASSIS, NOW)
    standing = hub.at(NOW)
    assert (standing.stage, standing.code) == (Stage.GRACE, "LIC-440")
    assert "2 of 5 groups of its marks match (disk, machine-id), 3 must" in standing.message
    assert standing.restricted_at == NOW + 14 * DAY
    assert hub.leases()
    hub.move(IN_TWIN_CHASSIS, hub.boot.at(NOW + 13 * DAY))
    assert hub.at(NOW + 14 * DAY - 1).code == "LIC-440", "a restart does not begin them anew"
    over = hub.at(NOW + 14 * DAY)
    assert (over.stage, over.code) == (Stage.RESTRICTED, "LIC-441")
    assert "held in the queue since 2027-01-29 08:00 UTC" in over.message
    assert not hub.leases(NOW + 14 * DAY)


def test_moving_to_and_fro_begins_nothing_anew(hub: Hub) -> None:
    hub.bind()
    hub.move(TWIN)
    for day, machine in ((1, IN_TWIN_CHASSIS), (2, TWIN), (3, IN_TWIN_CHASSIS)):
        hub.move(machine, hub.boot.at(NOW + day * DAY))
        found = hub.site.report(NOW + day * DAY).hardware
        assert found is not None
        assert found.since == NOW
        assert found.grace_until == (None if machine is TWIN else NOW + 15 * DAY)


def test_the_request_to_bind_it_anew_is_ready_and_its_answer_ends_the_grace(hub: Hub) -> None:
    hub.bind()
    hub.move(IN_TWIN_CHASSIS)
    (ready,) = hub.site.report(NOW).pending
    asked = hub.ask(NOW + 5, Want.RENEW)
    assert asked.id == ready.id, "the same one, however often it is exported"
    standing = hub.install(rev=3, fingerprint=asked.fingerprint, request=asked.id)
    assert (standing.stage, standing.code) == (Stage.ACTIVE, None)
    found = hub.site.report(NOW).hardware
    assert found is not None
    assert len(found.matching) == 5
    hub.move(HEAD)
    assert hub.at(NOW).code == "LIC-440", "and the old chassis is the other one now"


def test_the_answer_on_wholly_other_hardware_lifts_the_stage_without_a_restart(hub: Hub) -> None:
    hub.bind()
    hub.move(TWIN)
    assert not hub.leases()
    assert hub.bind().stage is Stage.ACTIVE
    assert hub.leases()


def test_a_licence_of_hardware_that_was_never_named_is_refused(hub: Hub) -> None:
    hub.bind()
    before = hub.site.report(NOW)
    with pytest.raises(OtherSiteError, match=r"never named .*export-request") as error:
        hub.install(rev=3, fingerprint="A" * 22)
    assert error.value.exit_code == 6
    assert hub.site.report(NOW) == before


def test_an_answer_for_the_copied_machine_is_refused_on_the_copy(hub: Hub, tmp_path: Path) -> None:
    asked = hub.ask()
    other = hub.copy(tmp_path / "b", TWIN)
    with pytest.raises(OtherSiteError, match="bound to other hardware than this: 0 of 5 groups"):
        other.install(fingerprint=asked.fingerprint, request=asked.id)
    assert hub.install(fingerprint=asked.fingerprint, request=asked.id).stage is Stage.ACTIVE
    other.site.close()


def test_a_renewal_that_was_not_asked_for_goes_on_after_a_drift(hub: Hub) -> None:
    """It names what the first request named, and the machine is another in part since."""
    named = hub.ask().fingerprint
    hub.bind()
    hub.move(BOARD_RMA)
    assert hub.install(rev=4, fingerprint=named, exp=NOW + 390 * DAY).stage is Stage.ACTIVE
    hub.move(BOARD_RMA.but(gpus=TWIN.gpus))
    assert hub.at(NOW).stage is Stage.ACTIVE


# --- what is missing for a while ---


@pytest.mark.parametrize("gone", [{"gpus": ()}, {"uuid": None, "board": None, "chassis": None}, {"disk": None}])
def test_what_cannot_be_read_for_a_while_is_no_drift_and_stays_enrolled(hub: Hub, gone: dict[str, object]) -> None:
    hub.bind()
    hub.move(HEAD.but(**gone))
    assert hub.at(NOW).stage is Stage.ACTIVE
    assert hub.events("drift") == []
    found = hub.site.report(NOW).hardware
    assert found is not None
    assert (len(found.enrolled), len(found.seen)) == (5, 4)


def test_gpus_of_a_later_day_are_enrolled(hub: Hub) -> None:
    hub.move(HEAD.but(gpus=()))
    hub.bind()
    hub.move(HEAD)
    assert hub.at(NOW).stage is Stage.ACTIVE
    assert [each["changed"] for each in hub.events("drift")] == [["gpus"]]


def test_without_anything_to_read_nothing_is_leased(hub: Hub) -> None:
    """Else an empty /sys would be the way to take a copy anywhere."""
    hub.bind()
    hub.move(Machine(uuid=None, board=None, chassis=None, macs=(), gpus=(), disk=None, machine_id=None))
    assert hub.at(NOW).code == "LIC-442"


# --- what is reported ---


def test_many_changes_are_reported_and_never_refused(hub: Hub) -> None:
    hub.bind()
    for number in range(4):
        at = hub.boot.at(NOW + 20 * DAY * number)
        hub.look(HEAD.but(board=f"NEW-000{number}", chassis=f"NEW-100{number}"), at)
    found = hub.site.report(at).hardware
    assert found is not None
    assert (found.drifts, found.platform_changes) == (4, 4)
    assert found.remarks == (
        "its hardware changed 4 times in 365 days, more often than 3",
        "its platform changed 4 times in 90 days",
    )
    assert hub.at(at).stage is Stage.ACTIVE
    later = hub.site.report(hub.boot.at(NOW + 200 * DAY)).hardware
    assert later is not None
    assert later.remarks == ("its hardware changed 4 times in 365 days, more often than 3",)


# --- key only, and unbound ---


def test_a_machine_without_marks_needs_a_licence_for_such(tmp_path: Path) -> None:
    hub = Hub(tmp_path, VIRTUAL)
    assert hub.ask().fingerprint is None
    assert hub.bind(vm=True).stage is Stage.ACTIVE
    found = hub.site.report(NOW).hardware
    assert found is not None
    assert (found.mode, len(found.remarks)) == (Mode.KEY, 1)
    assert "that is weaker" in found.remarks[0]
    hub.move(TWIN.but(disk=None, gpus=()))
    assert hub.at(NOW).stage is Stage.ACTIVE
    hub.site.close()


def test_where_the_licence_does_not_say_so_there_are_14_days(tmp_path: Path) -> None:
    hub = Hub(tmp_path, VIRTUAL)
    hub.leases()
    standing = hub.bind()
    assert (standing.stage, standing.code) == (Stage.GRACE, "LIC-443")
    assert "2 of 5 groups, 3 are needed" in standing.message
    hub.move(VIRTUAL, hub.boot.at(NOW + 10 * DAY))
    over = hub.at(NOW + 14 * DAY)
    assert (over.stage, over.code) == (Stage.RESTRICTED, "LIC-444")
    assert hub.bind(NOW + 14 * DAY, vm=True).stage is Stage.ACTIVE
    hub.site.close()


def test_the_request_that_the_machine_made_is_closed_by_what_lifts_it(tmp_path: Path) -> None:
    """By a licence that was signed before it was made: the desk's clock is behind, or the vendor was told by phone."""
    hub = Hub(tmp_path, VIRTUAL)
    hub.leases()
    hub.bind()
    by_hand = hub.ask(want=Want.USAGE).id
    report = hub.site.report(NOW)
    (made,) = (each.id for each in report.pending if each.id != by_hand)
    assert report.superseded == frozenset()
    assert hub.install(rev=3, vm=True, iat=NOW - DAY).stage is Stage.ACTIVE
    assert hub.site.report(NOW).superseded == {made}, "the one that a person made waits on"
    hub.move(VIRTUAL)
    assert hub.site.report(NOW).superseded == {made}
    assert hub.install(rev=4, vm=True, request=made).stage is Stage.ACTIVE, "its own answer is still taken"
    assert [each.id for each in hub.site.report(NOW).pending] == [by_hand]
    hub.site.close()


def test_and_is_open_again_when_the_machine_is_another_one_once_more(hub: Hub) -> None:
    hub.bind()
    hub.move(TWIN)
    (made,) = hub.site.report(NOW).pending
    hub.move(HEAD)
    assert hub.site.report(NOW).superseded == {made.id}
    hub.move(TWIN)
    assert (hub.site.report(NOW).pending, hub.site.report(NOW).superseded) == ((made,), frozenset())


def test_a_voucher_works_anywhere(tmp_path: Path) -> None:
    hub = Hub(tmp_path, VIRTUAL)
    assert hub.site.activate(file(), NOW).standing.stage is Stage.ACTIVE
    assert hub.leases()
    hub.move(TWIN)
    assert hub.leases()
    hub.site.close()


def test_a_licence_that_names_no_hardware_is_held_to_what_is_seen_first(hub: Hub) -> None:
    """One of before this version, or one that the vendor issued without a request."""
    assert hub.install().stage is Stage.ACTIVE
    assert len(hub.events("enrolled")) == 1
    hub.move(BOARD_RMA)
    assert hub.at(NOW).stage is Stage.ACTIVE
    hub.move(IMAGE_ELSEWHERE.but(uuid=None, macs=()))
    assert hub.at(NOW).code == "LIC-442"


def test_what_was_never_looked_at_holds_nothing_back(tmp_path: Path) -> None:
    site = Site(tmp_path, "test", ROOTS, Boot())
    site.open()
    report = site.activate(file(changed(VOUCHER, site=site.key_hex)), NOW)
    assert (report.standing.stage, report.hardware) == (Stage.ACTIVE, None)
    site.close()


# --- the salt ---


def test_the_salt_is_the_owners_alone_and_goes_nowhere(hub: Hub) -> None:
    hub.bind()
    hub.move(BOARD_RMA)
    path = hub.folder / "state/fingerprint.salt"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    salt = path.read_text()
    told = [hub.site.request(Want.RENEW, NOW).file, str(hub.site.report(NOW)), str(hub.site.history(100))]
    dump = "\n".join(hub.site._ledger._open.iterdump())
    for secret in (salt, str(bytes.fromhex(salt)), str(HEAD.uuid), str(HEAD.board), HEAD.macs[0], str(HEAD.disk)):
        assert all(secret.lower() not in each.lower() for each in (*told, dump))


@pytest.mark.parametrize("how", ["removed", "cut", "garbage", "another"])
def test_a_lost_salt_is_told_and_put_back(hub: Hub, how: str) -> None:
    hub.bind()
    path = hub.folder / "state/fingerprint.salt"
    kept = path.read_bytes()
    path.unlink()
    if how != "removed":
        path.write_bytes({"cut": kept[:20], "garbage": b"\xff\xfe", "another": b"ab" * 32}[how])
    hub.move(HEAD)
    standing = hub.at(NOW)
    assert (standing.stage, standing.code) == (Stage.RESTRICTED, "LIC-442")
    assert "another fingerprint.salt; put that file back from the backup" in standing.message
    path.unlink()
    path.write_bytes(kept)
    hub.move(HEAD)
    assert hub.at(NOW).stage is Stage.ACTIVE


def test_what_is_enrolled_cannot_be_edited(hub: Hub, tmp_path: Path) -> None:
    """Neither by putting other marks in, nor by a signature that is about others."""
    hub.bind()
    hub.move(BOARD_RMA)
    other = Hub(tmp_path / "b", TWIN)
    other.bind()
    other.move(TWIN.but(disk="eui.0025385b17777777"))
    for column, value in (("marks", '{"disk": ["disk:0"], "gpus": [], "network": []}'), ("signed", "v4.public.x")):
        before = hub.site._ledger.run(f"SELECT {column} FROM hardware_enrolled")
        hub.site._ledger.run(f"UPDATE hardware_enrolled SET {column} = ?", (value,))
        hub.move(BOARD_RMA)
        assert hub.at(NOW).code == "LIC-442"
        hub.site._ledger.run(f"UPDATE hardware_enrolled SET {column} = ?", before[0])
        hub.move(BOARD_RMA)
        assert hub.at(NOW).stage is Stage.ACTIVE
    other.site.close()


# --- time ---


def test_a_grace_that_began_under_a_dead_clock_is_not_over_when_the_clock_is_right(hub: Hub) -> None:
    """Three weeks off for a new board, whose clock begins in 2000; then the network sets it."""
    hub.bind()
    hub.boot.boot_id, hub.boot.seconds = "boot-2", 60
    dead = 946_684_800
    hub.move(IN_TWIN_CHASSIS, dead)
    assert hub.site.report(dead).standing.code == "LIC-440"
    hub.boot.seconds += 300
    right = NOW + 21 * DAY
    standing = hub.site.report(right).standing
    assert standing.code == "LIC-440"
    assert standing.restricted_at is not None
    assert abs(standing.restricted_at - (right + 14 * DAY)) < 3600
    hub.boot.seconds += 25 * 3600
    confirmed = right + 25 * 3600
    assert hub.site.report(confirmed).confirmed_at == confirmed, "the clock is believed now"
    standing = hub.site.report(confirmed).standing
    assert (standing.code, abs((standing.restricted_at or 0) - (right + 14 * DAY)) < 3600) == ("LIC-440", True)
    hub.boot.boot_id, hub.boot.seconds = "boot-3", 60
    hub.move(IN_TWIN_CHASSIS, confirmed + 600)
    standing = hub.site.report(confirmed + 600).standing
    assert (standing.code, abs((standing.restricted_at or 0) - (right + 14 * DAY)) < 3600) == ("LIC-440", True)


def test_setting_the_clock_back_does_not_stretch_the_grace(hub: Hub) -> None:
    hub.bind()
    hub.move(IN_TWIN_CHASSIS)
    hub.boot.at(NOW + 15 * DAY)
    assert hub.site.report(NOW).standing.code == "LIC-441", "the uptime tells"
    assert clock.read_uptime().seconds > 0


# --- the trail ---


def test_what_is_noted_is_in_the_trail_in_the_same_transaction(hub: Hub) -> None:
    hub.bind()
    hub.site._ledger.run("CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    for machine in (BOARD_RMA, TWIN):
        with pytest.raises(StoreError):
            hub.look(machine)
    hub.site._ledger.run("DROP TRIGGER no_audit")
    assert hub.site._ledger.run("SELECT count(*) FROM hardware_drift") == [(0,)]
    assert hub.site._ledger.run("SELECT count(*) FROM hardware_doubt") == [(0,)]
    hub.look(BOARD_RMA)
    assert len(hub.events("drift")) == 1


def test_the_vendor_is_told_of_drifts_without_marks(hub: Hub) -> None:
    hub.bind()
    hub.move(BOARD_RMA)
    (drift,) = hub.events("drift")
    assert set(drift) == {"changed", "commitment", "signed"}
    assert "hmac" not in json.dumps(drift)


def test_a_ledger_of_before_gets_its_tables(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    hub.install()
    for table in ("enrolled", "doubt", "drift", "taken"):
        hub.site._ledger.run(f"DROP TABLE hardware_{table}")
    hub.site._ledger.run("DELETE FROM _sqlite_migrations WHERE migration_set = 'hardware'")
    hub.site._ledger.run("PRAGMA user_version = 0")
    hub.site.close()
    ledger = Ledger(tmp_path / "state/licence.db")
    ledger.open()
    ledger.verify_audit()
    ledger.close()
    hub.start(HEAD)
    assert hub.at(NOW).stage is Stage.ACTIVE
    hub.site.close()


def test_a_salt_that_is_put_back_ends_it_at_the_next_look(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    assert hub.bind().stage is Stage.ACTIVE
    salt = tmp_path / "state" / "fingerprint.salt"
    kept = salt.read_bytes()
    for wrong in (b"damaged", None):
        salt.unlink()
        if wrong is None:
            salt.mkdir()
        else:
            salt.write_bytes(wrong)
        hub.move(HEAD)
        assert hub.site.report(NOW).standing.code == "LIC-442"
        salt.rmdir() if wrong is None else salt.unlink()
        salt.write_bytes(kept)
        hub.look(HEAD)
        assert hub.site.report(NOW).standing.stage is Stage.ACTIVE
