"""The vendor's desk by its own verbs, against real sites: keys, terms, answers, looking things up."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from licensing import keys, plans, verify
from licensing.document import sign
from licensing.errors import KeyFileError
from licensing.exchange import Request, Want
from licensing.hardware import Reader
from licensing.stage import Stage
from licensing.vendor import end_of_day
from licensing.vendor.sign import load_signer
from tests.fakes import papers
from tests.fakes.desk import Place, Vendor
from tests.fakes.desk import clock as clock
from tests.fakes.desk import places as places
from tests.fakes.desk import vendor as vendor
from tests.fakes.head import HEAD
from tests.fakes.vendor import DAY, NOW, SITE, changed

# --- limits of nodes and admins ---


def test_limits_of_nodes_and_admins_are_issued_amended_lifted_and_told(vendor: Vendor) -> None:
    made = vendor.voucher("--max-nodes", 4, "--max-admins", 2)
    assert (vendor.licence(made).max_nodes, vendor.licence(made).max_admins) == (4, 2)
    assert "for       4 nodes, 2 admins; told beyond it, never refused" in vendor.run(
        "inspect", made, "--roots", vendor.folder / "ACME-roots.json"
    )
    again = vendor.licence(vendor.file("amend", "lic-1", "--max-admins", "none"))
    assert (again.rev, again.max_nodes, again.max_admins) == (2, 4, None)


# --- keys ---


def test_an_encrypted_key_signs_only_with_its_passphrase(
    tmp_path: Path, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("correct horse\nsecond line\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    argv = ["keys", "issuer", "--name", "safe", "--root-key", vendor.root, "-o", tmp_path]
    vendor.run(*argv, "--encrypt", "--new-passphrase-file", tmp_path / "secret")
    key = tmp_path / "safe.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    signing = ["--issuer-key", key, "--issuer-cert", tmp_path / "safe.cert"]
    terms = ["issue", "--voucher", "--customer", "X", "--plan", "yearly", "--seats", "8", "--days", "3", *signing]
    vendor.run(*terms, "-o", tmp_path / "a", "--passphrase-file", tmp_path / "wrong", code=5)
    assert "does not open" in vendor.err
    vendor.run(*terms, "-o", tmp_path / "a", code=5)
    assert "--passphrase-file FILE" in vendor.err
    assert not (tmp_path / "a").exists()
    vendor.run(*terms, "-o", tmp_path / "a", "--passphrase-file", tmp_path / "secret")
    with pytest.raises(KeyFileError, match="encrypted with a passphrase"):
        keys.load(key)


def test_a_desk_signs_with_its_only_key_whatever_its_name_and_with_several_says_which(
    tmp_path: Path, vendor: Vendor
) -> None:
    folder = tmp_path / "other"
    vendor.run("keys", "issuer", "--name", "shop", "--root-key", vendor.root, "-o", folder)
    terms = ["issue", "--voucher", "--customer", "X", "--plan", "yearly", "--seats", "8", "--days", "3"]
    vendor.run(*terms, "--desk", folder, "-o", tmp_path / "a")
    assert stat.S_IMODE((folder / "desk.db").stat().st_mode) == 0o600
    vendor.run("keys", "issuer", "--name", "other", "--root-key", vendor.root, "-o", folder)
    vendor.run(*terms, "--desk", folder, "-o", tmp_path / "b", code=5)
    assert "the keys of other, shop, and none is issuer.key" in vendor.err
    told = vendor.err.partition("say which: ")[2].split()
    assert told == ["--issuer-key", str(folder / "other.key"), "--issuer-cert", str(folder / "other.cert")]
    vendor.run(*terms, "--desk", folder, *told, "-o", tmp_path / "b")
    (folder / "other.cert").write_text((folder / "other.cert").read_text()[:200])
    vendor.run(*terms, "--desk", folder, *told, "-o", tmp_path / "c", code=5)
    assert f"the certificate {folder / 'other.cert'}: no whole block" in vendor.err


def test_what_cannot_be_written_is_not_issued(tmp_path: Path, vendor: Vendor) -> None:
    terms = ["issue", "--voucher", "--customer", "X", "--plan", "yearly", "--seats", "8", "--days", "3", "--id", "a-1"]
    (tmp_path / "there").write_text("precious")
    for where in (tmp_path / "there", tmp_path / "no" / "where"):
        vendor.run(*terms, "-o", where, desk=True, code=5)
        assert str(where) in vendor.err
    assert vendor.run("list", "a-1", desk=True) == ""
    vendor.run(*terms, "-o", tmp_path / "a", desk=True)
    vendor.run("renew", "a-1", "--days", 9, "-o", tmp_path / "there", desk=True, code=5)
    assert "rev 2" in vendor.run("renew", "a-1", "--days", 9, "-o", tmp_path / "b", desk=True)
    assert vendor.err == ""
    assert (tmp_path / "there").read_text() == "precious"


def test_a_renewal_that_ends_earlier_is_told(vendor: Vendor) -> None:
    vendor.voucher(id_="a-1")
    vendor.file("renew", "a-1", "--days", 9)
    assert "rev 2 ends earlier than rev 1 did" in vendor.err


def test_an_encrypted_key_is_openssls(tmp_path: Path) -> None:
    keys.create(tmp_path / "a.key", "pass phrase")
    key = keys.load(tmp_path / "a.key", lambda path: "pass phrase")
    shown = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "a.key", "-passin", "pass:pass phrase", "-text", "-noout"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    digits = "".join(re.findall(r"[0-9a-f]{2}(?=:|\n)", shown.partition("pub:")[2]))
    assert digits == keys.public_hex(key)


def test_a_reseller_is_made_by_an_issuer_and_stays_within_it(tmp_path: Path, vendor: Vendor) -> None:
    by = ["--issuer-key", tmp_path / "issuer.key", "--issuer-cert", tmp_path / "issuer.cert", "-o", tmp_path]
    vendor.run("keys", "issuer", "--name", "shop", *by, "--max-seats", 16)
    with_shop = ["--issuer-key", tmp_path / "shop.key", "--issuer-cert", tmp_path / "shop.cert"]
    terms = ["--voucher", "--customer", "X", "--plan", "yearly", "--days", 30, *with_shop]
    path = vendor.file("issue", *terms, "--seats", 16, "--reseller", "shop", "--brand", "Bright GPUs")
    chain = verify.licence_file(path.read_text(), vendor.roots)
    assert [issuer.name for issuer in chain.path] == ["issuer", "shop"]
    assert (chain.licence.reseller, chain.licence.brand) == ("shop", "Bright GPUs")
    vendor.file("issue", *terms, "--seats", 17, code=5)
    assert "its issuer shop may give 16" in vendor.err
    vendor.run("keys", "issuer", "--name", "big", *by, "--max-seats", 10_001, code=5)
    assert "allows 10001 seats, and issuer may allow 10000" in vendor.err
    assert not (tmp_path / "big.key").exists()
    below = ["--issuer-key", tmp_path / "shop.key", "--issuer-cert", tmp_path / "shop.cert", "-o", tmp_path]
    vendor.run("keys", "issuer", "--name", "sub", *below, "--max-seats", 2, code=5)
    assert "shop may make no further issuers" in vendor.err
    assert not (tmp_path / "sub.key").exists()
    told = vendor.run("inspect", path, "--roots", tmp_path / "ACME-roots.json")
    assert "reseller  shop" in told
    assert "sold by   Bright GPUs (shop)" in told


# --- terms ---


@pytest.mark.parametrize(
    ("plan", "words", "field", "value"),
    [
        ("trial", [], "term_s", 30 * DAY),
        ("trial", ["--trial-days", 10], "term_s", 10 * DAY),
        ("perpetual", [], "updates_until", end_of_day("2028-01-15")),
        ("prepaid", ["--gpu-hours", 5000], "gpu_hours", 5000),
        ("pay-per-use", [], "report_by", NOW + 66 * DAY),
        ("pay-per-use", ["--report-by", "2027-03-31"], "report_by", end_of_day("2027-03-31")),
        ("yearly", ["--edition", "team"], "features", plans.EDITIONS[1].features),
        ("yearly", ["--edition", "team", "--feature", "slurm"], "features", (*plans.EDITIONS[1].features, "slurm")),
        ("yearly", ["--features", "qos"], "features", ("qos",)),
        ("evaluation", [], "features", plans.FEATURES),
        ("evaluation", [], "edition", "enterprise"),
        ("evaluation", ["--edition", "standard"], "features", ()),
        ("yearly", ["--vm"], "vm", True),
    ],
)
def test_each_plan_says_what_it_needs(
    vendor: Vendor, plan: str, words: list[object], field: str, value: object
) -> None:
    licence = vendor.licence(vendor.voucher(*words, plan=plan))
    assert getattr(licence, field) == value
    assert (licence.plan, licence.exp) == (plan, end_of_day("2028-01-15"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--edition", "teem"], "'teem' is no edition; did you mean team?"),
        (["--edition", "gold"], "'gold' is no edition; known: standard, team, enterprise"),
        (
            ["--features", "qos,teleport"],
            "teleport is no feature; known: qos, reservations, recurring, slurm",
        ),
    ],
)
def test_an_edition_or_feature_that_is_none_is_named(vendor: Vendor, words: list[str], said: str) -> None:
    vendor.run("issue", "--voucher", "--customer", "X", "--plan", "yearly", "--seats", 8, "--days", 9, *words,
               "-o", "-", code=64)  # fmt: skip
    assert said in vendor.err


def test_an_issuer_gives_no_feature_beyond_its_own(vendor: Vendor, tmp_path: Path) -> None:
    vendor.run("keys", "issuer", "--name", "small", "--root-key", vendor.root, "--features", "qos", "-o", tmp_path)
    signs = ("--issuer-key", tmp_path / "small.key", "--issuer-cert", tmp_path / "small.cert")
    issue = ("issue", "--voucher", "--customer", "X", "--seats", 8, "--days", 9, *signs)
    vendor.file(*issue, "--plan", "yearly", "--edition", "team", code=5)
    assert "has features its issuer small may not give: recurring, reservations" in vendor.err
    tried = vendor.licence(vendor.file(*issue, "--plan", "evaluation"))
    assert (tried.edition, tried.features) == (None, ("qos",)), "an evaluation has what its issuer may give"
    told = vendor.run("inspect", tmp_path / "small.cert", "--roots", tmp_path / "ACME-roots.json")
    assert "may give qos" in told


def test_inspect_says_what_an_edition_lacks_or_is_not_known(vendor: Vendor, tmp_path: Path) -> None:
    roots_file = tmp_path / "ACME-roots.json"
    signer = load_signer(tmp_path / "issuer.key", tmp_path / "issuer.cert")
    base = vendor.licence(vendor.voucher("--edition", "team"))
    for fields, said in (
        ({"features": ("qos",)}, "without reservations, recurring, which edition team has in this version"),
        ({"edition": "gold"}, "gold: no edition of this version, which knows standard, team, enterprise"),
    ):
        path = tmp_path / "odd.licence"
        path.write_text(signer.licence(changed(base, **fields)))
        assert said in vendor.run("inspect", path, "--roots", roots_file)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--date", "9999-12-31"], "9999-12-31 is over after the year 9999"),
        (["--days", 3_000_000], "would end after the year 9999"),
        (["--days", 999_999_999_999], "would end after the year 9999"),
        (["--expires-at", 999_999_999_999], "would end after the year 9999"),
        (["--days", 9, "--report-by", "9999-12-31"], "after the year 9999"),
        (["--days", 9, "--report-by", "2020-01-01"], "would have been due 2020-01-02 12:00 UTC; name a later day"),
    ],
)
def test_a_date_that_no_calendar_has_or_that_is_over_is_refused(vendor: Vendor, words: list[object], said: str) -> None:
    vendor.file("issue", "--voucher", "--customer", "X", "--plan", "pay-per-use", "--seats", 8, *words, code=64)
    assert said in vendor.err


def test_prepaid_hours_are_asked_for(vendor: Vendor) -> None:
    vendor.file("issue", "--voucher", "--customer", "X", "--plan", "prepaid", "--seats", 8, "--days", 9, code=64)
    assert "--gpu-hours N" in vendor.err


def test_an_id_is_issued_once(vendor: Vendor) -> None:
    vendor.voucher()
    vendor.file("issue", "--voucher", "--customer", "Y", "--plan", "yearly", "--seats", 8, "--days", 9, "--id", "lic-1",
                code=7)  # fmt: skip
    assert "renew or amend it" in vendor.err


def test_a_desk_is_asked_for_where_one_is_needed(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STOKER_DESK", raising=False)
    vendor.run("revoke", "lic-1", code=64)
    assert "--desk DIR, or $STOKER_DESK" in vendor.err
    monkeypatch.setenv("STOKER_DESK", str(vendor.folder))
    vendor.run("revoke", "lic-1", code=6)
    assert "issued no licence lic-1" in vendor.err


@pytest.mark.parametrize("words", [["list"], ["revoke", "lic-1"], ["renew", "lic-1", "--days", "9", "-o", "-"]])
def test_a_desk_that_is_not_there_is_said_and_not_begun(vendor: Vendor, tmp_path: Path, words: list[str]) -> None:
    vendor.run(*words, "--desk", tmp_path / "typo", code=5)
    assert f"there is no desk {tmp_path / 'typo'}: no such folder" in vendor.err
    assert not (tmp_path / "typo").exists()


def test_renew_and_amend_are_the_next_revision(vendor: Vendor, clock: list[int], places: list[Place]) -> None:
    place = places[0]
    assert place.install(vendor.voucher()) is Stage.ACTIVE
    assert place.install(vendor.file("activate", place.request(Want.ACTIVATE))) is Stage.ACTIVE
    clock[0] = place.boot.at(NOW + 100 * DAY)
    amended = vendor.file("amend", "lic-1", "--seats", 12, "--edition", "team")
    licence = vendor.licence(amended)
    assert (licence.rev, licence.seats, licence.edition, licence.exp) == (3, 12, "team", end_of_day("2028-01-15"))
    place.install(amended, clock[0])
    clock[0] = place.boot.at(NOW + 370 * DAY)
    assert place.site.report(clock[0]).standing.stage is Stage.GRACE
    renewed = vendor.file("renew", "lic-1", "--date", "2029-01-15")
    assert vendor.licence(renewed).seats == 12
    assert place.install(renewed, clock[0]) is Stage.ACTIVE
    vendor.file("renew", "lic-9", "--date", "2029-01-15", code=6)
    vendor.file("amend", "lic-1", code=64)
    vendor.file("amend", "lic-1", "--days", 3, code=64)
    assert "vendor renew" in vendor.err


# --- requests ---


def test_a_request_is_answered_once_and_the_same_way(vendor: Vendor, places: list[Place]) -> None:
    place = places[0]
    place.install(vendor.voucher())
    asked = place.request(Want.ACTIVATE)
    answer = vendor.file("activate", asked)
    licence = vendor.licence(answer)
    assert (licence.site, licence.fingerprint, licence.rev) == (place.site.key_hex, place.site._binding.commitment(), 2)
    again = vendor.file("activate", asked)
    assert again.read_text() == answer.read_text()
    vendor.run("activate", asked, "-o", answer, desk=True)
    assert "answered before" in vendor.run("activate", asked, "-o", vendor.folder / "third", desk=True)
    assert place.install(answer) is place.install(again) is Stage.ACTIVE


def test_the_vendor_is_told_of_other_hardware_and_of_none(vendor: Vendor, places: list[Place], tmp_path: Path) -> None:
    place, bare = places[0], places[1]
    place.install(vendor.voucher())
    place.install(vendor.file("activate", place.request(Want.ACTIVATE)))
    vendor.run("activate", place.request(Want.RENEW), "-o", tmp_path / "same", desk=True)
    assert "hardware" not in vendor.err
    place.site.see(Reader(HEAD.but(board="NEW-0001").build(tmp_path / "rma")).read(), NOW)
    vendor.run("activate", place.request(Want.RENEW), "-o", tmp_path / "other", desk=True)
    assert "the site's hardware is another than it was bound to" in vendor.err
    bare.install(vendor.voucher(id_="lic-2"))
    bare.site.see([], NOW)
    vendor.run("activate", bare.request(Want.ACTIVATE), "-o", tmp_path / "none", desk=True)
    assert "it works for 14 days. If it may: stoker-license vendor amend lic-2 --vm" in vendor.err
    vendor.run("amend", "lic-2", "--vm", "-o", tmp_path / "vm", desk=True)
    assert vendor.licence(tmp_path / "vm").vm


def test_a_bound_voucher_is_not_bound_again_elsewhere(vendor: Vendor, places: list[Place]) -> None:
    here, there, *_ = places
    voucher = vendor.voucher()
    for place in (here, there):
        place.install(voucher)
    vendor.file("activate", here.request(Want.ACTIVATE))
    vendor.file("activate", there.request(Want.ACTIVATE), code=6)
    assert "bound to site" in vendor.err
    assert "vendor transfer RELEASE" in vendor.err


def test_a_request_without_a_licence_needs_one_named(vendor: Vendor, places: list[Place]) -> None:
    vendor.voucher()
    asked = places[0].request(Want.ACTIVATE)
    vendor.file("activate", asked, code=64)
    assert "--licence ID" in vendor.err
    assert places[0].install(vendor.file("activate", asked, "--licence", "lic-1")) is Stage.ACTIVE


def test_a_renewal_can_be_asked_for(vendor: Vendor, places: list[Place], clock: list[int]) -> None:
    place = places[0]
    place.install(vendor.voucher())
    place.install(vendor.file("activate", place.request(Want.ACTIVATE)))
    clock[0] = place.boot.at(NOW + 360 * DAY)
    asked = place.request(Want.RENEW, now=clock[0])
    renewed = vendor.file("activate", asked, "--days", 365)
    assert place.install(renewed, clock[0]) is Stage.ACTIVE
    assert place.site.report(clock[0]).pending == ()


def test_a_licence_of_another_desk_is_not_answered(vendor: Vendor, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(papers.request())
    vendor.file("activate", tmp_path / "r", code=6)
    assert "did not issue the licence lic-test" in vendor.err
    assert "vendor revoke KEY" in vendor.err


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ({"counter": 12}, "at row 12 of its trail, and was at 40"),
        ({"counter": 40, "head": "A" * 22}, "at 40 on 2027-01-15 08:00 UTC with other content"),
        ({"counter": 41, "head": "A" * 22}, None),
    ],
)
def test_a_restored_or_doubled_site_is_remarked_and_answered(
    vendor: Vendor, tmp_path: Path, then: dict[str, Any], words: str | None
) -> None:
    vendor.voucher()
    first: dict[str, Any] = {"counter": 40}
    for number, more in enumerate((first, then)):
        terms = changed(papers.REQUEST, id=f"{number:024x}", licence="lic-1", **more)
        (tmp_path / "r").write_text(sign(SITE, terms))
        vendor.file("activate", tmp_path / "r")
    assert ("two machines answer for it" in vendor.err) is (words is not None)
    assert words is None or words in vendor.err


def test_a_release_of_an_older_trail_is_remarked_too(vendor: Vendor, places: list[Place]) -> None:
    """A site gives its licence back, and its folder is from before it asked for the last thing."""
    place = places[0]
    place.install(vendor.voucher())
    place.install(vendor.file("activate", place.request(Want.ACTIVATE)))
    place.site.close()
    ledger = place.folder / "hub" / "licence.db"
    before = ledger.read_bytes()
    place.site.open()
    for _ in range(2):
        vendor.file("activate", place.request(Want.RENEW))
    place.site.close()
    ledger.write_bytes(before)
    place.site.open()
    vendor.file("transfer", place.release(to=places[1].request(Want.TRANSFER)))
    assert "two machines answer for it" in vendor.err


@pytest.mark.parametrize("kind", ["request", "release"])
def test_the_vendors_desk_refuses_every_bad_file_and_notes_nothing(vendor: Vendor, tmp_path: Path, kind: str) -> None:
    vendor.voucher(id_="lic-test")
    before = vendor.run("list", desk=True)
    for name, make in papers.BAD_PAPERS[kind].items():
        (tmp_path / name).write_text(make())
        verb = "activate" if kind == "request" else "transfer"
        vendor.file(verb, tmp_path / name, code=5)
    assert vendor.run("list", desk=True) == before


# --- looking things up ---


def test_the_desk_is_searched_and_exported(vendor: Vendor, places: list[Place]) -> None:
    places[0].install(vendor.voucher(id_="lic-a"))
    vendor.voucher("--reseller", "shop_1", id_="lic-b")
    vendor.file("activate", places[0].request(Want.ACTIVATE))
    vendor.file("issue", "--voucher", "--customer", '=HYPERLINK("x")', "--plan", "monthly", "--seats", 2, "--days", 31,
                "--id", "lic-c")  # fmt: skip
    assert [line.split()[0] for line in vendor.run("list", desk=True).splitlines()] == [
        "lic-a",
        "lic-b",
        "lic-a",
        "lic-c",
    ]
    assert vendor.run("list", "shop_1", desk=True).startswith("lic-b rev 1")
    assert vendor.run("list", "shop%1", desk=True) == ""
    assert "activate" in vendor.run("list", "lic-a", "activate", desk=True)
    table = list(csv.DictReader(io.StringIO(vendor.run("list", "--csv", "-", desk=True))))
    assert [row["id"] for row in table] == ["lic-a", "lic-b", "lic-a", "lic-c"]
    assert table[3]["customer"] == '\'=HYPERLINK("x")'
    assert "text" not in table[0]
    rows = json.loads(vendor.run("list", "--json", desk=True))
    assert [row["id"] for row in rows] == ["lic-a", "lic-b", "lic-a", "lic-c"]
    assert [row["site"] for row in rows] == [None, None, places[0].site.key_hex, None]
    assert (rows[1]["reseller"], rows[3]["customer"]) == ("shop_1", '=HYPERLINK("x")')
    assert (rows[0]["rev"], rows[2]["rev"], rows[0]["seats"]) == (1, 2, 8)
    assert "text" not in rows[0]
    assert json.loads(vendor.run("list", "nobody", "--json", desk=True)) == []
    vendor.run("list", "--json", "--csv", "-", desk=True, code=64)


def test_every_kind_can_be_inspected(vendor: Vendor, tmp_path: Path, places: list[Place]) -> None:
    for kind, make in papers.GOOD_PAPERS.items():
        (tmp_path / kind).write_text(make())
    told = {kind: vendor.run("inspect", tmp_path / kind) for kind in ("request", "release", "usage")}
    assert "activate lic-test" in told["request"]
    assert "generation 0" in told["release"]
    assert "1.50 GPU-hours" in told["usage"]
    (tmp_path / "bare").write_text(sign(SITE, papers.REQUEST))
    assert vendor.run("inspect", tmp_path / "bare") == told["request"]
    vendor.run("inspect", tmp_path / "crl", code=5)
    token = places[0].site.request(Want.ACTIVATE, NOW).token
    assert json.loads(json.dumps(verify.site_paper(Request, token).key)) == places[0].site.key_hex


# --- words that are signed ---


@pytest.mark.parametrize(
    ("option", "word", "told"),
    [
        ("--customer", "a\tb", "argument --customer: 'a\\tb' has the character U+0009"),
        ("--customer", "", "argument --customer: 0 characters"),
        ("--customer", "x" * 201, "argument --customer: 201 characters"),
        ("--brand", "a\x1b[2J", "argument --brand: 'a\\x1b[2J' has the character U+001B"),
    ],
)
def test_a_word_that_cannot_be_signed_is_refused_by_its_options_name(
    vendor: Vendor, option: str, word: str, told: str
) -> None:
    vendor.run(
        "issue", "--voucher", "--customer", "X", option, word, "--plan", "yearly", "--seats", 8, "--days", 3,
        "-o", vendor.folder / "never", code=64, desk=True,
    )  # fmt: skip
    assert told in vendor.err
    assert not (vendor.folder / "never").exists()
