"""A site's side of requests, answers, revocation lists, receipts and tombstones, over a real ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from licensing import armour, keys, verify
from licensing.armour import LINK, Label
from licensing.document import Licence, sign, signer
from licensing.errors import (
    ArmourError,
    LicenceError,
    OtherSiteError,
    ReplayError,
    RevokedError,
    UsageError,
)
from licensing.exchange import Request, Want
from licensing.hardware import Reader
from licensing.node import NodeLease
from licensing.requests import PENDING_S
from licensing.seats import NoSeat
from licensing.site import Site
from licensing.stage import Stage
from tests.fakes import papers, vendor
from tests.fakes.head import HEAD
from tests.fakes.papers import CRL, RECEIPT
from tests.fakes.vendor import DAY, NOW, ROOT, ROOTS, VOUCHER, Boot, changed, file

NODE_KEY = keys.public_hex(vendor.NODE)
EMPTY = changed(CRL, licences=(), keys=())
REVOKED = changed(CRL, keys=())


@pytest.fixture
def boot() -> Boot:
    return Boot()


@pytest.fixture
def site(tmp_path: Path, boot: Boot) -> Iterator[Site]:
    site = opened(tmp_path / "a", boot)
    yield site
    site.close()


def opened(folder: Path, boot: Boot, built_at: int = NOW) -> Site:
    site = Site(folder, "test", ROOTS, boot, built_at=built_at)
    site.open()
    return site


def bound(site: Site, **fields: object) -> Licence:
    licence: Licence = changed(VOUCHER, **{"site": site.key_hex, **fields})
    return licence


def with_list(licence: Licence, crl: object) -> str:
    return armour.wrap(Label.LICENCE, vendor.chain(licence), (sign(ROOT, crl),))  # type: ignore[arg-type]


# --- requests and their answers ---


def test_a_request_tells_what_the_vendor_needs(site: Site, tmp_path: Path) -> None:
    site.see(Reader(HEAD.build(tmp_path)).read(), NOW)
    site.activate(file(bound(site, generation=2)), NOW)
    asked = site.request(Want.RENEW, NOW)
    found = verify.site_paper(Request, asked.token)
    assert found.key == site.key_hex
    request = found.paper
    assert (request.want, request.licence, request.generation) == (Want.RENEW, "lic-test", 2)
    assert request.fingerprint is not None
    assert (request.counter, request.crl) == (3, 0), "activated, enrolled, commitment"
    assert armour.unwrap(Label.REQUEST, asked.file) == asked.token
    assert [each.id for each in site.report(NOW).pending] == [asked.id]


def test_without_a_licence_only_a_first_one_can_be_asked_for(site: Site) -> None:
    assert verify.site_paper(Request, site.request(Want.ACTIVATE, NOW).token).paper.licence is None
    with pytest.raises(UsageError, match="nothing to renew"):
        site.request(Want.RENEW, NOW)


def test_an_answer_is_taken_once_and_the_same_again_changes_nothing(site: Site) -> None:
    site.activate(file(), NOW)
    asked = site.request(Want.ACTIVATE, NOW)
    answer = file(bound(site, rev=2, request=asked.id))
    first = site.activate(answer, NOW + 60)
    assert first.licence is not None
    assert (first.licence.site, first.pending) == (site.key_hex, ())
    rows = site._ledger.verify_audit()
    again = site.activate(answer, NOW + 120)
    assert (again.licence, again.activated_at) == (first.licence, NOW)
    assert site._ledger.verify_audit() == rows + 1
    with pytest.raises(ReplayError, match=r"was answered before, by lic-test; make a new one"):
        site.activate(file(bound(site, rev=3, request=asked.id)), NOW + 180)


def test_an_answer_that_nobody_asked_for_is_refused(site: Site) -> None:
    with pytest.raises(ReplayError, match="not one of here"):
        site.activate(file(bound(site, request="0" * 24)), NOW)


def test_a_request_waits_90_days(site: Site, boot: Boot) -> None:
    site.activate(file(bound(site)), NOW)
    late, early = site.request(Want.RENEW, NOW), site.request(Want.RENEW, NOW)
    assert late.until == NOW + PENDING_S
    boot.at(NOW + PENDING_S - 1)
    site.activate(file(bound(site, rev=2, request=early.id)), NOW + PENDING_S - 1)
    boot.at(NOW + PENDING_S)
    with pytest.raises(ReplayError, match="could be answered until 2027-04-15"):
        site.activate(file(bound(site, rev=3, request=late.id)), NOW + PENDING_S)


def test_an_answer_lifts_a_stage_without_a_restart(site: Site, boot: Boot) -> None:
    site.activate(file(changed(VOUCHER, exp=NOW + 200 * DAY)), NOW)
    later = boot.at(NOW + 15 * DAY)
    assert site.report(later).standing.code == "LIC-406"
    asked = site.request(Want.ACTIVATE, later)
    assert isinstance(site.lease("n1", NODE_KEY, ["GPU-0"], 0, later), NoSeat)
    assert site.activate(file(bound(site, rev=2, request=asked.id)), later).standing.stage is Stage.ACTIVE
    assert isinstance(site.lease("n1", NODE_KEY, ["GPU-0"], 0, later), str)


def test_pending_requests_survive_a_restart(site: Site, tmp_path: Path, boot: Boot) -> None:
    asked = site.request(Want.ACTIVATE, NOW)
    site.close()
    again = opened(tmp_path / "a", boot)
    again.activate(file(bound(again, request=asked.id)), NOW)
    assert again.report(NOW).pending == ()
    again.close()


@pytest.mark.parametrize("kind", ["request", "release", "usage"])
def test_what_goes_to_the_vendor_is_not_taken_for_an_answer(site: Site, kind: str) -> None:
    text = papers.GOOD_PAPERS[kind]()
    with pytest.raises(ArmourError, match="on its way to the vendor"):
        site.activate(text, NOW)


# --- revocation lists ---


def test_a_list_that_rides_in_a_file_is_kept(site: Site, tmp_path: Path, boot: Boot) -> None:
    report = site.activate(with_list(bound(site, id="lic-new"), REVOKED), NOW)
    assert (report.standing.stage, report.crl) == (Stage.ACTIVE, 7)
    with pytest.raises(RevokedError, match="unpaid"):
        site.activate(file(bound(site)), NOW)
    site.close()
    again = opened(tmp_path / "a", boot)
    with pytest.raises(RevokedError):
        again.activate(file(bound(again)), NOW)
    assert again.request(Want.RENEW, NOW)
    again.close()


def test_a_revoked_licence_holds_new_jobs_at_once_and_after_a_restart(site: Site, tmp_path: Path, boot: Boot) -> None:
    site.activate(file(bound(site)), NOW)
    report = site.activate(papers.root_list(REVOKED), NOW)
    assert (report.standing.stage, report.standing.code) == (Stage.RESTRICTED, "LIC-430")
    assert "unpaid" in report.standing.message
    assert isinstance(site.lease("n1", NODE_KEY, ["GPU-0"], 0, NOW), NoSeat)
    site.close()
    again = opened(tmp_path / "a", boot)
    assert again.report(NOW).standing.code == "LIC-430"
    again.close()


def test_a_newer_list_can_set_it_free(site: Site) -> None:
    site.activate(file(bound(site)), NOW)
    site.activate(papers.root_list(REVOKED), NOW)
    report = site.activate(papers.root_list(changed(EMPTY, number=8)), NOW)
    assert (report.standing.stage, report.crl) == (Stage.ACTIVE, 8)


def test_an_older_list_is_refused_alone_and_ignored_beside_a_licence(site: Site) -> None:
    site.activate(with_list(bound(site), changed(EMPTY, number=9)), NOW)
    before = site.report(NOW)
    with pytest.raises(ReplayError, match="number 7 is older than number 9"):
        site.activate(papers.root_list(REVOKED), NOW)
    assert site.report(NOW) == before
    assert site.activate(with_list(bound(site, rev=2), REVOKED), NOW).crl == 9


def test_a_file_whose_own_list_revokes_it_changes_nothing(site: Site) -> None:
    before = site.report(NOW)
    with pytest.raises(RevokedError):
        site.activate(with_list(bound(site), REVOKED), NOW)
    assert site.report(NOW) == before


# --- receipts ---


def receipt(site: Site, **fields: object) -> str:
    return papers.receipt(changed(RECEIPT, site=site.key_hex, **fields))


def pay_per_use(site: Site) -> Licence:
    return bound(site, plan="pay-per-use", report_by=NOW + 66 * DAY)


def test_a_receipt_moves_the_report_on_and_reaches_the_nodes(
    site: Site, boot: Boot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.activate(file(pay_per_use(site)), NOW)
    node = NodeLease(tmp_path / "n1", ROOTS, boot, built_at=NOW)
    node.accept(str(site.lease("n1", node.key_hex, ["GPU-0"], 0, NOW)), NOW)
    late = boot.at(NOW + 70 * DAY)
    node.accept(str(site.lease("n1", node.key_hex, ["GPU-0"], 1, late)), late)
    assert site.report(late).standing.code == node.standing(late).code == "LIC-431"
    assert site.activate(receipt(site, report_by=NOW + 130 * DAY), late).standing.stage is Stage.ACTIVE
    node.accept(str(site.lease("n1", node.key_hex, ["GPU-0"], 2, late)), late)
    assert node.standing(late).stage is Stage.ACTIVE
    site.activate(receipt(site, report_by=NOW + 80 * DAY), late)
    assert site.report(late).standing.report_by == NOW + 130 * DAY, "an older receipt moves nothing"
    site.activate(receipt(site, report_by=NOW + 140 * DAY), boot.at(NOW + 71 * DAY))
    assert "cannot" not in caplog.text


def test_a_receipt_for_another_licence_or_site_is_refused(site: Site) -> None:
    with pytest.raises(OtherSiteError, match="not in use here"):
        site.activate(receipt(site), NOW)
    site.activate(file(pay_per_use(site)), NOW)
    for wrong in (papers.receipt(), receipt(site, licence="lic-other")):
        with pytest.raises(OtherSiteError, match="import it there"):
            site.activate(wrong, NOW)


# --- giving a licence back ---


def test_a_tombstone_ends_the_licence_and_is_written_again_the_same(site: Site, tmp_path: Path, boot: Boot) -> None:
    site.activate(file(bound(site)), NOW)
    assert isinstance(site.lease("n1", NODE_KEY, ["GPU-0"], 0, NOW), str)
    stone = site.release(NOW + 60)
    assert site.report(NOW + 60).standing.code == "LIC-409"
    word = site.lease("n1", NODE_KEY, ["GPU-0"], 1, NOW + 60)
    held = verify.lease_chain(str(word), ROOTS, NODE_KEY).lease
    assert (held.seq, held.held and held.held.code) == (2, "LIC-409"), "the node is told, and given nothing"
    assert isinstance(site.lease("n1", NODE_KEY, ["GPU-0"], 2, NOW + 60), NoSeat)
    assert isinstance(site.lease("n2", NODE_KEY, ["GPU-9"], 0, NOW + 60), NoSeat)
    assert site.release(NOW + 120) == stone
    with pytest.raises(ReplayError, match="was given back by this site"):
        site.activate(file(bound(site, rev=2)), NOW + 180)
    site.close()
    again = opened(tmp_path / "a", boot)
    assert again.report(NOW + 200).standing.code == "LIC-409"
    assert again.release(NOW + 240) == stone
    assert again.activate(file(bound(again, rev=3, generation=1)), NOW + 300).standing.stage is Stage.ACTIVE
    again.close()


def test_a_transfer_carries_the_request_of_the_other_site(site: Site, tmp_path: Path, boot: Boot) -> None:
    site.activate(file(bound(site)), NOW)
    other = opened(tmp_path / "b", boot)
    asked = other.request(Want.TRANSFER, NOW)
    stone, request = armour.unwrap(Label.RELEASE, site.release(NOW, to=asked.file).file).split(LINK)
    assert request == asked.token
    assert verify.site_paper(Request, request).key == other.key_hex != signer(stone)
    other.close()


def test_what_cannot_be_given_back(site: Site) -> None:
    with pytest.raises(UsageError, match="none to give back"):
        site.release(NOW)
    site.activate(file(), NOW)
    with pytest.raises(UsageError, match="a voucher and bound to no site"):
        site.release(NOW)
    site.activate(file(bound(site, rev=2)), NOW)
    with pytest.raises(UsageError, match="made by this site itself"):
        site.release(NOW, to=site.request(Want.TRANSFER, NOW).file)
    with pytest.raises(LicenceError):
        site.release(NOW, to=papers.released())
    assert site.report(NOW).standing.stage is Stage.ACTIVE


# --- a clock that was years slow ---

TRUE_NOW = NOW + 690 * DAY
EVALUATION = changed(VOUCHER, id="lic-evaluation", plan="evaluation", term_s=14 * DAY, exp=NOW + 400 * DAY)
LONG = changed(EVALUATION, exp=NOW + 750 * DAY)
LONG_ISSUER = changed(vendor.ISSUER_TERMS, nbf=NOW, exp=NOW + 760 * DAY, max_term_s=750 * DAY)


@pytest.mark.parametrize("slow", [1000, NOW + 30 * DAY], ids=["1970", "after it was signed, years before the build"])
@pytest.mark.parametrize("reboot", [False, True])
def test_an_evaluation_under_a_years_slow_clock_keeps_its_14_days(
    tmp_path: Path, boot: Boot, slow: int, reboot: bool
) -> None:
    site = opened(tmp_path / "a", boot, built_at=TRUE_NOW - 10 * DAY)
    node = NodeLease(tmp_path / "n", ROOTS, boot, built_at=TRUE_NOW - 10 * DAY)
    site.activate(file(LONG, issuer=LONG_ISSUER), slow)
    node.accept(str(site.lease("n1", node.key_hex, ["GPU-0"], 0, slow)), slow)
    boot.seconds += DAY
    assert site.report(slow + DAY).standing.stage is Stage.ACTIVE
    node.tick(slow + DAY)
    if reboot:
        site.close()
        boot = Boot(seconds=60, boot_id="boot-2")
        site = opened(tmp_path / "a", boot, built_at=TRUE_NOW - 10 * DAY)
        node = NodeLease(tmp_path / "n", ROOTS, boot, built_at=TRUE_NOW - 10 * DAY)
    begin = boot.seconds
    for passed_s in (0, 3600, 23 * 3600, 25 * 3600, 47 * 3600, 12 * DAY):
        boot.seconds, now = begin + passed_s, TRUE_NOW + passed_s
        renew(site, node, now)
        assert site.report(now).standing.stage in (Stage.ACTIVE, Stage.NOTICE)
        assert node.seated(now)
    assert 0.9 < (site.report(now).standing.expires_at or 0) / DAY - now / DAY < 1.1, "the day before counts too"
    boot.seconds, end = begin + 14 * DAY, TRUE_NOW + 14 * DAY
    assert site.report(end).standing.code == node.standing(end).code == "LIC-405"
    with pytest.raises(ReplayError, match="works once"):
        site.activate(file(LONG, issuer=LONG_ISSUER), end)
    site.close()


def renew(site: Site, node: NodeLease, now: int) -> None:
    answer = site.lease("n1", node.key_hex, ["GPU-0"], node.held.lease.seq if node.held else 0, now)
    if isinstance(answer, str):
        node.accept(answer, now)


def test_a_slow_clock_is_no_way_to_more_days(tmp_path: Path, boot: Boot) -> None:
    """Days of uptime count, whatever the clock says, and setting it right gives none of them back."""
    site = opened(tmp_path / "a", boot, built_at=TRUE_NOW)
    site.activate(file(LONG, issuer=LONG_ISSUER), 1000)
    boot.seconds += 13 * DAY
    assert site.report(1000).standing.stage is Stage.NOTICE
    assert (site.report(TRUE_NOW).standing.expires_at or 0) - TRUE_NOW <= DAY
    boot.seconds += DAY
    assert site.report(1000).standing.code == "LIC-405"
    boot.seconds += DAY
    assert site.report(TRUE_NOW + DAY).standing.code == "LIC-405"
    site.close()


def test_a_clock_that_was_right_is_not_moved(tmp_path: Path, boot: Boot) -> None:
    site = opened(tmp_path / "a", boot)
    site.activate(file(EVALUATION), NOW)
    boot.seconds += 26 * 3600
    site.report(NOW + 90 * DAY)
    boot.seconds += 26 * 3600
    assert site.report(NOW + 91 * DAY).activated_at == NOW
    site.close()


# --- bad files ---


def test_no_bad_file_of_any_kind_changes_anything(site: Site) -> None:
    site.activate(with_list(bound(site), changed(EMPTY, number=9)), NOW)
    asked, rows = site.request(Want.RENEW, NOW), site._ledger.verify_audit()
    before = site.report(NOW)
    names = [path for kind in papers.BAD_PAPERS for path in vendor.FOLDER.glob(f"*.{kind}") if path.stem != "good"]
    assert len(names) >= 60
    for path in names:
        with pytest.raises(LicenceError):
            site.activate(path.read_text("utf-8"), NOW)
    assert (site.report(NOW), site._ledger.verify_audit()) == (before, rows)
    assert [each.id for each in before.pending] == [asked.id]
