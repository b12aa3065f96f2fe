"""The hub's side over a real ledger: activation, the voucher's days, expiry, renewal, its file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from licensing import clock
from licensing.errors import (
    ClockError,
    ExpiredError,
    LicenceError,
    OtherSiteError,
    ReplayError,
    StoreError,
)
from licensing.seats import NoSeat
from licensing.site import Report, Site
from licensing.stage import Stage
from tests.fakes.disk import fill, tmpfs
from tests.fakes.site import EVALUATION, NODE_KEY, bound, read, token
from tests.fakes.site import boot as boot
from tests.fakes.site import site as site
from tests.fakes.vendor import DAY, EVALUATION_FILE, FOLDER, NOW, ROOTS, VOUCHER, Boot, changed, file

# --- activation ---


def test_without_a_licence_nothing_is_leased_and_it_says_why(site: Site) -> None:
    answer = site.lease("n1", NODE_KEY, ["GPU-0"], 0, NOW)
    assert isinstance(answer, NoSeat)
    assert answer.code == "LIC-401"
    assert site.report(NOW).standing.stage is Stage.RESTRICTED


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("bound-to-another-site", OtherSiteError, "made out to [0-9a-f]{64}"),
        ("ended-last-month", ExpiredError, "ask for a renewal"),
        ("begins-next-month", ClockError, "begins 2027-02-14"),
    ],
)
def test_a_genuine_file_that_does_not_fit_here(site: Site, name: str, kind: type[LicenceError], words: str) -> None:
    before = site.report(NOW)
    with pytest.raises(kind, match=words):
        site.activate((FOLDER / f"{name}.licence").read_text(), NOW)
    assert site.report(NOW) == before


def test_every_bad_file_leaves_the_licence_as_it_was(site: Site) -> None:
    before = site.activate(file(), NOW)
    for path in sorted(FOLDER.glob("*.licence")):
        if path.stem != "good":
            with pytest.raises(LicenceError):
                site.activate(path.read_text("utf-8"), NOW)
    assert site.report(NOW) == before


def test_activating_twice_is_activating_once(site: Site) -> None:
    first = site.activate(file(), NOW)
    later = site.activate(file(), NOW + 3 * DAY)
    assert (first.activated_at, later.activated_at) == (NOW, NOW)
    assert later.standing.expires_at == NOW + 14 * DAY


def test_the_voucher_runs_14_days_and_never_again(site: Site, tmp_path: Path, boot: Boot) -> None:
    stages = {
        day: stage_on(site.activate(file(EVALUATION), NOW) if day == 0 else site.report(boot.at(NOW + day * DAY)))
        for day in range(16)
    }
    assert [stages[day] for day in (0, 6, 7, 13)] == [Stage.ACTIVE, Stage.ACTIVE, Stage.NOTICE, Stage.NOTICE]
    assert stages[14] is stages[15] is Stage.RESTRICTED
    with pytest.raises(ReplayError, match="works once"):
        site.activate(file(EVALUATION), NOW + 15 * DAY)
    site.close()
    again = Site(tmp_path, "test", ROOTS, boot)
    again.open()
    assert again.report(NOW).standing.code == "LIC-405"
    again.close()


def stage_on(report: Report) -> Stage:
    return report.standing.stage


def test_a_short_voucher_ends_and_a_licence_lifts_it_at_once(site: Site) -> None:
    site.activate(file(changed(VOUCHER, exp=NOW + 5)), NOW)
    assert isinstance(site.lease("n1", NODE_KEY, ["GPU-0"], 0, NOW), str)
    refused = site.lease("n1", NODE_KEY, ["GPU-0"], 1, NOW + 5)
    assert isinstance(refused, NoSeat)
    assert refused.code == "LIC-406"
    assert site.activate(bound(site, id="lic-real"), NOW + 6).standing.stage is Stage.ACTIVE
    assert read(token(site, seq=1, now=NOW + 6)).lease.licence == "lic-real"


def test_an_older_revision_is_refused(site: Site) -> None:
    site.activate(bound(site, rev=2, seats=9), NOW)
    with pytest.raises(ReplayError, match="older than rev 2"):
        site.activate(bound(site, rev=1, seats=64), NOW)
    report = site.report(NOW)
    assert report.licence is not None
    assert report.licence.seats == 9


def test_the_shipped_evaluation_works_with_the_pinned_roots(tmp_path: Path) -> None:
    site = Site(tmp_path, "test", uptime=Boot())
    site.open()
    report = site.activate(EVALUATION_FILE.read_text(), NOW)
    assert report.licence is not None
    assert (report.licence.seats, report.standing.stage) == (16, Stage.ACTIVE)
    assert report.standing.expires_at == NOW + 14 * DAY
    assert report.development
    site.close()


def test_setting_the_clock_back_gains_nothing(site: Site, boot: Boot) -> None:
    site.activate(file(EVALUATION), NOW)
    for day in range(15):
        site.report(boot.at(NOW + day * DAY))
    assert site.report(NOW + 14 * DAY).rollbacks == 0
    assert [site.report(NOW).rollbacks for _ in range(2)] == [1, 1], "counted once, until the clock was right again"
    assert site.report(NOW).standing.code == "LIC-405"
    assert isinstance(site.lease("n1", NODE_KEY, ["GPU-0"], 0, NOW), NoSeat)


def test_a_clock_behind_by_more_than_an_hour_is_told_and_in_the_trail(
    site: Site, boot: Boot, caplog: pytest.LogCaptureFixture
) -> None:
    site.activate(bound(site), NOW)
    later = boot.at(NOW + DAY)
    assert site.report(later - 3600).rollbacks == 0, "clocks differ, and are set"
    assert [site.report(later - 3601).rollbacks for _ in range(3)] == [1, 1, 1]
    assert "the clock says 2027-01-16 06:59 UTC, and it is at least 2027-01-16 08:00 UTC" in caplog.text
    noted = [each for each in site.history(9) if each.event == "clock_back"]
    assert [(each.at, each.subject, each.detail) for each in noted] == [(later, "lic-test", {"wall": later - 3601})]
    site.report(later)
    assert site.report(later - 2 * DAY).rollbacks == 2


def test_a_clock_that_stays_behind_is_one_row_however_often_the_hub_starts(tmp_path: Path, boot: Boot) -> None:
    def start(wall: int) -> int:
        """Gives how many rows the trail has of it after a start at this time."""
        site = Site(tmp_path, "test", ROOTS, boot)
        site.open()
        assert site.report(wall).rollbacks == (wall < NOW + DAY), "the metric counts from the start"
        rows = sum(each.event == "clock_back" for each in site.history(99))
        site.close()
        return rows

    site = Site(tmp_path, "test", ROOTS, boot)
    site.open()
    site.activate(bound(site), NOW)
    site.report(boot.at(NOW + DAY))
    site.close()
    assert [start(NOW + again) for again in range(3)] == [1, 1, 1]
    boot.boot_id, boot.seconds = "boot-2", 5
    assert [start(NOW + again) for again in range(3)] == [1, 1, 1], "and however often the machine does"
    assert start(NOW + DAY + 600) == 1
    assert [start(NOW), start(NOW)] == [2, 2], "it was right in between"


def test_nor_does_a_restart_with_the_clock_set_back(site: Site, tmp_path: Path, boot: Boot) -> None:
    site.activate(file(EVALUATION), NOW)
    for day in range(15):
        site.report(boot.at(NOW + day * DAY))
    site.close()
    again = Site(tmp_path, "test", ROOTS, Boot(seconds=5, boot_id="boot-2"))
    again.open()
    assert again.report(NOW).standing.code == "LIC-405"
    again.close()


def test_a_clock_that_is_behind_learns_from_the_signed_file(site: Site) -> None:
    report = site.activate(file(), 1000)
    assert report.activated_at == NOW
    assert read(token(site, now=1000)).lease.iat == NOW


def test_a_jump_ahead_does_not_poison(site: Site) -> None:
    site.activate(bound(site), NOW)
    assert site.report(NOW + 9000 * DAY).standing.stage is Stage.ACTIVE
    assert site.report(NOW + 60).standing.stage is Stage.ACTIVE


# --- the file ---


def test_a_second_hub_on_the_same_state_is_told(site: Site, tmp_path: Path) -> None:
    site.activate(file(), NOW)
    with pytest.raises(StoreError, match="in use by another process"):
        Site(tmp_path, "test", ROOTS, Boot()).open()


def test_a_damaged_ledger_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "licence.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(StoreError, match="put the file back from the backup, or without one move it away"):
        Site(tmp_path, "test", ROOTS, Boot()).open()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_without_room_or_read_only_is_named_and_the_ledger_is_not_to_be_moved(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        kept = Site(disk, "test", ROOTS, Boot())
        kept.open()
        ballast = fill(disk)
        with pytest.raises(StoreError, match="the disk is full; make room there and try again"):
            kept.activate(file(), NOW)
        ballast.unlink()
        kept.activate(file(), NOW)
        kept.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError, match=r"see whether its disk is read-only or failing.* with the file as it is"):
            Site(disk, "test", ROOTS, Boot()).open()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        again = Site(disk, "test", ROOTS, Boot())
        again.open()
        assert again.report(NOW).standing.stage is Stage.ACTIVE
        again.close()


def test_a_licence_of_other_roots_is_not_trusted_after_an_upgrade(site: Site, tmp_path: Path) -> None:
    site.activate(file(), NOW)
    site.close()
    upgraded = Site(tmp_path, "test", uptime=Boot())
    upgraded.open()
    assert upgraded.report(NOW).standing.code == "LIC-407"
    refused = upgraded.lease("n1", NODE_KEY, [], 0, NOW)
    assert isinstance(refused, NoSeat)
    assert refused.code == "LIC-407"
    assert upgraded.activate(EVALUATION_FILE.read_text(), NOW).standing.stage is Stage.ACTIVE
    upgraded.close()


def test_the_high_water_mark_is_kept_while_nothing_is_leased(site: Site, tmp_path: Path, boot: Boot) -> None:
    site.activate(file(), NOW)
    site.report(boot.at(NOW + 3600))
    site.close()
    again = Site(tmp_path, "test", ROOTS, boot)
    again.open()
    assert again._ledger.clock() == clock.HighWater(time=NOW + 3600, boot_id="boot-1", uptime=4600, settled=True)
    again.close()


def test_a_full_disk_does_not_take_the_report_away(site: Site, boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    site.activate(file(), NOW)
    site._ledger._run("CREATE TEMP TRIGGER full BEFORE INSERT ON main.meta BEGIN SELECT raise(ABORT, 'is full'); END")
    for minute in range(1, 60):
        assert site.report(boot.at(NOW + minute * 60)).standing.stage is Stage.ACTIVE
    assert len([record for record in caplog.records if "cannot note the time" in record.message]) == 1
    site._ledger._run("DROP TRIGGER full")
    site.report(boot.at(NOW + 3600))
    mark = site._ledger.clock()
    assert mark is not None
    assert mark.time == NOW + 3600


def test_another_site_key_is_said_with_advice(site: Site, tmp_path: Path) -> None:
    site.activate(bound(site), NOW)
    was = site.key_hex
    site.close()
    (tmp_path / "site.key").unlink()
    again = Site(tmp_path, "test", ROOTS, Boot())
    again.open()
    standing = again.report(NOW).standing
    assert (standing.stage, standing.code) == (Stage.RESTRICTED, "LIC-407")
    for words in (f"bound to site {was}", again.key_hex, "from the backup and restart the hub", "made out to this key"):
        assert words in standing.message
    refused = again.lease("n1", NODE_KEY, ["GPU-0"], 0, NOW)
    assert isinstance(refused, NoSeat)
    assert refused.code == "LIC-407"
    assert again.activate(bound(again, rev=2), NOW).standing.stage is Stage.ACTIVE
    again.close()


def test_a_voucher_outlives_the_site_key(site: Site, tmp_path: Path) -> None:
    site.activate(file(), NOW)
    site.close()
    (tmp_path / "site.key").unlink()
    again = Site(tmp_path, "test", ROOTS, Boot())
    again.open()
    assert read(token(again)).lease.site == again.key_hex
    again.close()
