"""Licences that move from site to site and such that are revoked, at the vendor's desk, against real sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from licensing import armour, keys
from licensing.errors import LicenceError
from licensing.exchange import Want
from licensing.stage import Stage
from tests.fakes.desk import Place, Vendor
from tests.fakes.desk import clock as clock
from tests.fakes.desk import places as places
from tests.fakes.desk import vendor as vendor
from tests.fakes.vendor import DAY, NOW

# --- moves ---


def test_a_licence_moves_with_its_tombstone_twice_a_year(vendor: Vendor, places: list[Place], clock: list[int]) -> None:
    places[0].install(vendor.voucher())
    places[0].install(vendor.file("activate", places[0].request(Want.ACTIVATE)))
    for old, new in ((places[0], places[1]), (places[1], places[2])):
        moved = vendor.file("transfer", old.release(to=new.request(Want.TRANSFER)))
        assert new.install(moved) is Stage.ACTIVE
        assert old.site.report(NOW).standing.code == "LIC-409"
    assert vendor.licence(moved).generation == 2
    third = places[2].release(to=places[3].request(Want.TRANSFER))
    vendor.file("transfer", third, code=7)
    assert "moved 2 times in the last 365 days" in vendor.err
    clock[0] += 366 * DAY
    assert vendor.licence(vendor.file("transfer", third)).generation == 3


def test_one_move_more_is_the_vendors_to_grant(vendor: Vendor, places: list[Place]) -> None:
    places[0].install(vendor.voucher())
    places[0].install(vendor.file("activate", places[0].request(Want.ACTIVATE)))
    for old, new in ((places[0], places[1]), (places[1], places[2])):
        new.install(vendor.file("transfer", old.release(to=new.request(Want.TRANSFER))))
    release, request = places[2].release(), places[3].request(Want.TRANSFER)
    vendor.file("transfer", release, code=64)
    assert "--request FILE" in vendor.err
    moved = vendor.file("transfer", release, "--request", request, "--beyond", "board burnt")
    assert places[3].install(moved) is Stage.ACTIVE
    assert vendor.file("transfer", release, "--request", request).read_text() == moved.read_text()


def test_papers_that_are_mixed_up_are_named(vendor: Vendor, places: list[Place]) -> None:
    places[0].install(vendor.voucher())
    places[0].install(vendor.file("activate", places[0].request(Want.ACTIVATE)))
    release, request = places[0].release(), places[1].request(Want.TRANSFER)
    vendor.file("transfer", request, "--request", request, code=5)
    assert f"{request}: the file is of kind REQUEST, not RELEASE; name the other file" in vendor.err
    vendor.file("transfer", release, "--request", release, code=5)
    assert f"{release}: the file is of kind RELEASE, not REQUEST" in vendor.err
    vendor.file("activate", release, code=5)
    assert f"{release}: the file is of kind RELEASE, not REQUEST" in vendor.err


def test_an_old_tombstone_moves_nothing(vendor: Vendor, places: list[Place]) -> None:
    places[0].install(vendor.voucher())
    places[0].install(vendor.file("activate", places[0].request(Want.ACTIVATE)))
    old = places[0].release()
    places[1].install(vendor.file("transfer", old, "--request", places[1].request(Want.TRANSFER)))
    vendor.file("transfer", old, "--request", places[2].request(Want.TRANSFER), code=7)
    assert "gives back generation 0" in vendor.err


def test_a_licence_moves_only_to_a_site_that_asks_for_one(vendor: Vendor, places: list[Place]) -> None:
    for place in places[:2]:
        place.install(vendor.voucher(id_=place.folder.name))
        place.install(vendor.file("activate", place.request(Want.ACTIVATE)))
    other = places[1].request(Want.USAGE)
    with pytest.raises(LicenceError, match="asks for usage; make one at the site that the licence goes to"):
        places[0].release(to=other)
    assert places[0].site.report(NOW).standing.stage is Stage.ACTIVE, "nothing was given back"
    release = places[0].release()
    vendor.file("transfer", release, "--request", other, code=64)
    assert "asks for usage" in vendor.err
    request = places[1].request(Want.TRANSFER)
    more = places[0].release(to=request)
    chain = armour.LINK.join((armour.unwrap(armour.Label.RELEASE, more.read_text()), "v4.public.AAAA"))
    more.write_text(armour.wrap(armour.Label.RELEASE, chain))
    vendor.file("transfer", more, code=5)
    assert "3 signed parts where a release and one request belong" in vendor.err


# --- revocation ---


def test_a_revoked_licence_and_the_list_in_every_later_file(vendor: Vendor, places: list[Place]) -> None:
    bad, good = vendor.voucher(id_="lic-bad"), None
    places[0].install(bad)
    assert "vendor crl -o FILE" in vendor.run("revoke", "lic-bad", "--reason", "unpaid", desk=True)
    vendor.file("renew", "lic-bad", "--days", 400, code=5)
    assert "was revoked" in vendor.err
    first = vendor.file("crl")
    assert vendor.file("crl").read_text() == first.read_text(), "nothing new, nothing numbered"
    good = vendor.voucher(id_="lic-good")
    assert good.read_text().count("BEGIN STOKER CRL") == 1
    places[1].install(good)
    with pytest.raises(LicenceError, match="unpaid"):
        places[1].site.activate(bad.read_text(), NOW)
    assert places[0].install(first) is Stage.RESTRICTED


def test_a_stolen_issuer_key_is_revoked_by_a_root_with_what_it_truly_signed(
    vendor: Vendor, places: list[Place], tmp_path: Path
) -> None:
    places[0].install(vendor.voucher(id_="lic-true"))
    signing = ["--issuer-key", tmp_path / "issuer.key", "--issuer-cert", tmp_path / "issuer.cert"]
    forged = tmp_path / "forged"
    vendor.run("issue", "--voucher", "--customer", "Thief", "--plan", "yearly", "--seats", 8, "--days", 9,
               "--id", "lic-forged", *signing, "-o", forged)  # fmt: skip
    places[1].install(forged)
    key = keys.public_hex(keys.load(tmp_path / "issuer.key"))
    assert "crl --root-key FILE" in vendor.run("revoke", key, "--reason", "stolen", desk=True)
    assert "of the licences that it signed 1 live on, which this desk issued" in vendor.err
    stolen = vendor.file("crl", "--root-key", vendor.root)
    assert "0 licences, 1 key;" in vendor.run("crl", "--root-key", vendor.root, "-o", tmp_path / "c", desk=True)
    assert places[0].install(stolen) is Stage.ACTIVE
    assert places[1].install(stolen) is Stage.RESTRICTED
    told = vendor.run("inspect", stolen, "--roots", tmp_path / "ACME-roots.json")
    assert f"key {key}" in told
    assert "still good: lic-true" in told
