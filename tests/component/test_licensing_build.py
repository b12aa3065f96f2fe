"""Wheels as they are really built: which roots they pin, and that no private key is ever inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from licensing import keys, roots, vendor, verify
from licensing.document import Issuer
from tests.fakes.vendor import DAY, ISSUER_TERMS, NOW, VOUCHER, changed

pytest.importorskip("hatchling", reason="hatchling builds the wheels; it is a build requirement of the project")

PROJECT = Path(__file__).parent.parent.parent


def build(folder: Path, target: str = "wheel", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the real build into `folder`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=PROJECT,
        env={**env, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )


def wheel(folder: Path, **variables: str) -> dict[str, bytes]:
    """The files of the wheel that was built."""
    done = build(folder, **variables)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist()))
        return {name: archive.read(name) for name in archive.namelist()}


def private_keys(files: dict[str, bytes]) -> list[str]:
    return [name for name, data in files.items() if b"BEGIN PRIVATE KEY-----\nM" in data or "DEVELOPMENT-" in name]


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A vendor's desk: roots, an issuer, a voucher."""
    desk = tmp_path / "desk"
    desk.mkdir()
    vendor.make_roots("ACME", desk)
    terms: Issuer = changed(ISSUER_TERMS, name="ACME-1")
    cert = vendor.make_issuer(desk / "ACME-root-current.key", desk, terms)
    key = keys.load(desk / "ACME-1.key")
    (desk / "voucher").write_text(vendor.issue(key, cert.read_text(), changed(VOUCHER, exp=NOW + DAY)))
    return desk


def test_a_plain_build_pins_the_development_roots_without_their_private_keys(tmp_path: Path) -> None:
    files = wheel(tmp_path)
    assert roots.parse(files["licensing/roots.json"], "wheel") == roots.pinned()
    assert verify.licence_file(files["licensing/data/evaluation.voucher"].decode(), roots.pinned())
    assert private_keys(files) == []


def test_a_vendor_build_pins_the_vendors_roots_and_nothing_of_ours(tmp_path: Path, acme: Path) -> None:
    files = wheel(tmp_path, STOKER_VENDOR_ROOTS=str(acme / "ACME-roots.json"))
    assert files["licensing/roots.json"] == (acme / "ACME-roots.json").read_bytes()
    assert "licensing/data/evaluation.voucher" not in files
    assert private_keys(files) == []
    assert not any(root.key.encode() in data for root in roots.pinned().roots for data in files.values())


def test_a_vendor_build_ships_the_vendors_voucher(tmp_path: Path, acme: Path) -> None:
    names = {"STOKER_VENDOR_ROOTS": str(acme / "ACME-roots.json"), "STOKER_VENDOR_VOUCHER": str(acme / "voucher")}
    files = wheel(tmp_path, **names)
    trusted = roots.parse(files["licensing/roots.json"], "wheel")
    voucher = verify.licence_file(files["licensing/data/evaluation.voucher"].decode(), trusted)
    assert voucher.licence.exp == NOW + DAY


@pytest.mark.parametrize("content", [None, "", "[]", '{"development": true, "roots": []}', '{"roots": 1}'])
def test_a_wrong_roots_file_stops_the_build(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "roots.json"
    if content is not None:
        path.write_text(content)
    done = build(tmp_path, STOKER_VENDOR_ROOTS=str(path))
    assert done.returncode != 0
    assert f"STOKER_VENDOR_ROOTS={path}" in done.stderr
    assert list(tmp_path.glob("*.whl")) == []


def test_the_development_roots_cannot_be_passed_off_as_a_vendors(tmp_path: Path) -> None:
    done = build(tmp_path, STOKER_VENDOR_ROOTS=str(PROJECT / "licensing" / "roots.json"))
    assert done.returncode != 0
    assert '"development": false' in done.stderr


def test_an_editable_install_is_the_checkout_itself(tmp_path: Path) -> None:
    done = build(tmp_path, "wheel:editable", STOKER_VENDOR_ROOTS="/nonexistent")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        assert not any(name.startswith("licensing/") for name in archive.namelist())
