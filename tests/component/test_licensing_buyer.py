"""What a buyer does without a network, as it is typed: request by file, paste or QR; answer; giving back; doctor."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
import segno
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from agent.api.errors import ApiError
from agent.api.types import LicenceOrder, LicenceStage
from licensing import armour, cli, qr, verify
from licensing.armour import Label
from licensing.document import sign
from licensing.errors import UsageError
from licensing.exchange import MAX_REQUEST_CHARS, Release, Request, Want
from tests.fakes import papers, vendor
from tests.fakes.hub import hub_config, running_hub
from tests.fakes.localhub import LocalHub
from tests.fakes.localhub import hub as hub
from tests.fakes.vendor import DAY, NOW, ROOT, ROOTS, SITE, VOUCHER, changed, file


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("licensing.doctor.time.time", lambda: NOW)


def families(text: str) -> list[Any]:
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def bind(hub: LocalHub, **fields: object) -> None:
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"], **{"rev": 2, **fields})))


# --- requests ---


def test_a_request_goes_into_a_file_and_its_answer_comes_from_one(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.activate(file())
    out = tmp_path / "site.request"
    assert cli.main(["export-request", "-o", str(out)], hub) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "until 2027-04-15 08:00 UTC, once: stoker-license import-response FILE" in said.err
    asked = verify.site_paper(Request, armour.unwrap(Label.REQUEST, out.read_text())).paper
    assert (asked.want, asked.licence) == (Want.ACTIVATE, "lic-test")
    cli.main(["status"], hub)
    assert f"request    {asked.id} to activate" in capsys.readouterr().out
    answer = tmp_path / "answer"
    answer.write_text(file(changed(VOUCHER, site=hub.licence()["site_key"], rev=2, request=asked.id)))
    for _ in range(2):
        assert cli.main(["import-response", str(answer)], hub) == 0
    assert hub.licence()["bound"]
    assert cli.main(["export-request"], hub) == 0
    text = capsys.readouterr().out
    assert verify.site_paper(Request, armour.unwrap(Label.REQUEST, text)).paper.want is Want.RENEW


def test_an_answer_can_be_pasted(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = hub.request("activate")
    text = file(changed(VOUCHER, site=hub.licence()["site_key"], request=asked["id"]))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"Hello,\n\n{text}\nBye\n".encode())))
    assert cli.main(["import-response", "-"], hub) == 0
    assert "Licence lic-test of ACME" in capsys.readouterr().out


def test_an_answer_to_no_request_of_here_exits_7(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(file(changed(VOUCHER, site=hub.licence()["site_key"], request="0" * 24)))
    assert cli.main(["import-response", str(tmp_path / "a")], hub) == 7
    assert hub.licence()["licence_id"] is None


def test_a_file_that_is_there_costs_no_request(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    assert cli.main(["export-request", "-o", str(tmp_path / "there")], hub) == 5
    assert (tmp_path / "there").read_text() == "precious"
    assert hub.licence()["pending"] == ()


def test_a_file_that_cannot_be_written_is_printed(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 250  # a fine name, and too long for the file that is written first
    assert cli.main(["export-request", "-o", str(tmp_path / long)], hub) == 5
    said = capsys.readouterr()
    assert "printed instead" in said.err
    assert verify.site_paper(Request, armour.unwrap(Label.REQUEST, said.out))


@pytest.mark.parametrize("verb", [["export-request"], ["release", "--yes"]])
def test_where_no_file_can_be_the_hub_is_not_asked(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    before = hub.licence()
    (tmp_path / "file").touch()
    for where in (tmp_path / "no" / "where", tmp_path / "file" / "where"):
        assert cli.main([*verb, "-o", str(where)], hub) == 5
        assert f"cannot write {where}" in capsys.readouterr().err
    assert hub.licence() == before


def test_what_cannot_be_asked(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export-request", "--want", "renew"], hub) == 64
    assert "nothing to renew" in capsys.readouterr().err
    assert cli.main(["export-request", "--want", "gold"], hub) == 64


# --- the QR code ---


def modules(drawn: str, *, invert: bool = False) -> list[list[bool]]:
    """The dark modules that a terminal shows, the quiet zone left out."""
    rows: list[list[bool]] = []
    for line in drawn.splitlines():
        rows.append([char in " ▄" for char in line])
        rows.append([char in " ▀" for char in line])
    size = len(drawn.splitlines()[0])
    dark = [[cell is not invert for cell in row] for row in rows[:size]]
    assert not any(any(row) for row in (*dark[:2], *dark[size - 2 :]))
    return [row[2:-2] for row in dark[2 : size - 2]]


@pytest.mark.parametrize("invert", [False, True])
def test_the_code_fits_an_80_column_terminal_and_is_the_request(
    hub: LocalHub, capsys: pytest.CaptureFixture[str], invert: bool
) -> None:
    hub.activate(file(changed(VOUCHER, id="lic-" + "x" * 20)))
    assert cli.main(["export-request", "--qr", *(["--invert"] if invert else [])], hub) == 0
    drawn = capsys.readouterr().out
    lines = drawn.splitlines()
    assert len(lines) <= 39
    assert {len(line) for line in lines} <= {len(lines[0])}
    assert len(lines[0]) <= 77
    token = hub.state._site._ledger.pending(NOW)[0].text
    assert len(token) <= MAX_REQUEST_CHARS
    expected = segno.make_qr(token, error="l", mode="byte", boost_error=False)
    assert modules(drawn, invert=invert) == [[bool(cell) for cell in row] for row in expected.matrix]


def test_the_longest_request_is_version_14() -> None:
    assert (len(qr.draw("a" * MAX_REQUEST_CHARS).splitlines()), len(qr.draw("a" * MAX_REQUEST_CHARS).split()[0])) == (
        39,
        77,
    )
    for length in (459, 5000):
        with pytest.raises(UsageError, match="-o FILE"):
            qr.draw("a" * length)


# --- giving back ---


def test_a_licence_is_given_back_only_on_purpose(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bind(hub)
    assert cli.main(["release"], hub) == 64
    assert "add: --yes" in capsys.readouterr().err
    out = tmp_path / "given"
    assert cli.main(["release", "--yes", "-o", str(out)], hub) == 0
    stone = verify.site_paper(Release, armour.unwrap(Label.RELEASE, out.read_text())).paper
    assert (stone.licence, stone.rev, stone.site) == ("lic-test", 2, hub.licence()["site_key"])
    assert cli.main(["status"], hub) == 4
    assert "LIC-409" in capsys.readouterr().out
    again = tmp_path / "again"
    assert cli.main(["release", "--yes", "-o", str(again)], hub) == 0
    assert again.read_text() == out.read_text()


def test_a_request_to_transfer_goes_to_the_site_that_has_the_licence(
    hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export-request", "--want", "transfer"], hub) == 0
    told = capsys.readouterr().err
    assert "Take it to the site that has the licence, and there: stoker-license transfer FILE --yes. Send what" in told
    assert "Send it to your vendor" not in told


def test_a_transfer_holds_tombstone_and_request(hub: LocalHub, tmp_path: Path) -> None:
    bind(hub)
    (tmp_path / "other").write_text(papers.request(changed(papers.REQUEST, want=Want.TRANSFER)))
    out = tmp_path / "moved"
    assert cli.main(["transfer", str(tmp_path / "other"), "--yes", "-o", str(out)], hub) == 0
    stone, request = armour.unwrap(Label.RELEASE, out.read_text()).split(armour.LINK)
    assert verify.site_paper(Release, stone).paper.licence == "lic-test"
    assert verify.site_paper(Request, request).key == papers.SITE_KEY


@pytest.mark.parametrize("name", sorted(papers.BAD_REQUESTS))
def test_a_transfer_with_a_bad_request_changes_nothing(hub: LocalHub, tmp_path: Path, name: str) -> None:
    bind(hub)
    (tmp_path / "bad").write_text(papers.BAD_REQUESTS[name]())
    assert cli.main(["transfer", str(tmp_path / "bad"), "--yes"], hub) == 5
    assert cli.main(["status"], hub) == 0


def test_a_voucher_is_not_given_back(hub: LocalHub) -> None:
    hub.activate(file())
    assert cli.main(["release", "--yes"], hub) == 64


# --- looking ---


def test_the_metrics_are_there_with_a_licence_and_not_without(
    hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "--metrics"], hub) == 0
    assert families(capsys.readouterr().out) == []
    bind(hub, plan="pay-per-use", report_by=NOW + 60 * DAY)
    assert cli.main(["status", "--metrics"], hub) == 0
    found = {family.name: family.samples for family in families(capsys.readouterr().out)}
    assert found["lic_report_by_timestamp"][0].value == NOW + 60 * DAY
    assert {sample.labels["stage"] for sample in found["lic_stage"] if sample.value} == {"ACTIVE"}
    bind(hub, rev=3, plan="prepaid", gpu_hours=10)
    cli.main(["status", "--metrics"], hub)
    found = {family.name: family.samples for family in families(capsys.readouterr().out)}
    assert found["lic_prepaid_gpu_seconds_left"][0].value == 36_000


def test_the_doctor_says_what_to_do(
    hub: LocalHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["doctor"], hub) == 4
    assert "bad  licence   RESTRICTED LIC-401" in capsys.readouterr().out
    hub.activate(file())
    assert cli.main(["doctor"], hub) == 3
    told = capsys.readouterr().out
    assert "warn binding   lic-test is a voucher; bind it: stoker-license export-request" in told
    assert "ok   clock" in told
    bind(hub)
    assert cli.main(["doctor"], hub) == 0
    asked = hub.request("renew")
    monkeypatch.setattr("licensing.doctor.time.time", lambda: NOW + 15 * DAY)
    assert cli.main(["doctor"], hub) == 3
    told = capsys.readouterr().out
    assert "warn clock     says 2027-01-30 08:00 UTC, and licences go by 2027-01-15 08:00 UTC" in told
    assert f"warn request   {asked['id']} to renew" in told
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"], rev=3, seats=0)))
    cli.main(["doctor"], hub)
    assert "no seat is left for more GPUs" in capsys.readouterr().out


# --- over the hub's own address ---


def test_the_hub_asks_and_gives_back_over_its_socket(tmp_path: Path) -> None:
    now = int(time.time())
    issuer = changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * DAY)
    with running_hub(hub_config(tmp_path, ()), ROOTS) as client:
        asked = client.licence_request("activate")
        licence = changed(
            VOUCHER, iat=now, nbf=now - 5, exp=now + 300 * DAY, site=client.licence().site_key, request=asked.id
        )
        assert [each.id for each in client.licence().pending] == [asked.id]
        assert client.activate(file(licence, issuer=issuer)).stage is LicenceStage.ACTIVE
        assert client.licence().pending == ()
        given = client.licence_release(sign(SITE, papers.REQUEST))
        assert given.token.endswith(sign(SITE, papers.REQUEST))
        assert client.licence().code == "LIC-409"
        with pytest.raises(ApiError, match="ask for activate, renew, transfer, usage") as error:
            client.licence_request("gold")
        assert (error.value.status, error.value.code) == (422, "usage")


@pytest.mark.parametrize("step", ["reclaim", "rest", "return", "gold"])
def test_a_step_of_a_release_cannot_be_ordered_by_itself(tmp_path: Path, step: str) -> None:
    """It would take the seats of a node that is up, or leave a node without a lease that gave none back."""
    with running_hub(hub_config(tmp_path, ()), ROOTS) as client:
        with pytest.raises(ApiError, match="is nothing to order; order release, clock-confirm, borrow") as error:
            client.licence_order(LicenceOrder(order=step, subject="n1"))
        assert (error.value.status, error.value.code) == (422, "usage")


def test_a_release_of_a_node_that_nobody_knows_says_so(tmp_path: Path) -> None:
    with running_hub(hub_config(tmp_path, ()), ROOTS) as client:
        with pytest.raises(ApiError, match="'n9' is no node of this hub and holds no seats") as error:
            client.licence_order(LicenceOrder(order="release", subject="n9"))
        assert error.value.status == 404


# --- requests that nobody waits for ---


def test_a_superseded_request_is_history_and_its_answer_is_still_taken(
    hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.activate(file())
    first, second = hub.request("activate"), hub.request("activate")
    cli.main(["status"], hub)
    out = capsys.readouterr().out
    assert f"request    {second['id']} to activate" in out
    assert first["id"] not in out
    assert "history    an earlier request, the last of 2027-01-15 08:00 UTC, superseded since\n" in out
    site = hub.licence()["site_key"]
    hub.activate(file(changed(VOUCHER, iat=NOW + 1, site=site, rev=2, request=second["id"])))
    cli.main(["status"], hub)
    assert "\nrequest " not in capsys.readouterr().out
    cli.main(["doctor"], hub)
    assert " request   " not in capsys.readouterr().out
    assert [each["superseded"] for each in hub.licence()["pending"]] == [True]
    hub.activate(file(changed(VOUCHER, site=site, rev=3, request=first["id"])))
    assert hub.licence()["pending"] == ()


def test_a_request_of_before_the_answered_one_is_history_whatever_the_desks_clock_says(hub: LocalHub) -> None:
    """One was drawn as a QR code, the other written to a file, and that was sent to a desk whose clock is behind."""
    drawn, sent = hub.request("activate"), hub.request("activate")
    site = hub.licence()["site_key"]
    hub.activate(file(changed(VOUCHER, iat=NOW, site=site, rev=2, request=sent["id"])))
    later = hub.request("renew")
    assert {each["id"]: each["superseded"] for each in hub.licence()["pending"]} == {
        drawn["id"]: True,
        later["id"]: False,
    }


def test_what_was_superseded_stays_so_after_a_revocation(hub: LocalHub) -> None:
    asked = hub.request("activate")
    hub.activate(file(changed(VOUCHER, iat=NOW + 1, site=hub.licence()["site_key"], rev=2)))
    hub.activate(armour.wrap(Label.CRL, sign(ROOT, changed(papers.CRL, keys=()))))
    told = hub.licence()
    assert told["code"] == "LIC-430"
    assert [(each["id"], each["superseded"]) for each in told["pending"]] == [(asked["id"], True)]
