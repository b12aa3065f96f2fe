"""A vendor's desk by its own verbs, and the real sites that ask it, each in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from licensing import cli, roots, verify
from licensing.document import Licence
from licensing.exchange import Want
from licensing.hardware import Reader
from licensing.site import Site
from licensing.stage import Stage
from tests.fakes.head import HEAD
from tests.fakes.nohub import NoHub
from tests.fakes.vendor import NOW, Boot


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time at the desk; tests move it."""
    now = [NOW]
    monkeypatch.setattr("licensing.cli.time.time", lambda: now[0])
    return now


class Vendor:
    """A desk in a folder, used by its command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys, self._made = folder, capsys, 0
        self.err = ""
        self.run("keys", "root", "--name", "ACME", "-o", folder)
        self.run(
            "keys", "issuer", "--name", "issuer", "--root-key", self.root, "--delegate", "--perpetual", "-o", folder
        )
        self.roots = roots.parse((folder / "ACME-roots.json").read_bytes(), "test")

    @property
    def root(self) -> Path:
        return self.folder / "ACME-root-current.key"

    def run(self, *words: object, code: int = 0, desk: bool = False) -> str:
        """One verb; gives what it printed."""
        argv = ["vendor", *map(str, words), *(["--desk", str(self.folder)] if desk else [])]
        assert cli.main(argv, NoHub()) == code, self._capsys.readouterr().err
        out, self.err = self._capsys.readouterr()
        return out

    def file(self, *words: object, code: int = 0) -> Path:
        """One verb of the desk that writes a file."""
        self._made += 1
        path = self.folder / f"out-{self._made}"
        self.run(*words, "-o", path, code=code, desk=True)
        return path

    def voucher(self, *words: object, id_: str = "lic-1", plan: str = "yearly") -> Path:
        return self.file(
            "issue", "--voucher", "--customer", "X", "--plan", plan, "--seats", 8, "--days", 365, "--id", id_, *words
        )

    def licence(self, path: Path) -> Licence:
        return verify.licence_file(path.read_text(), self.roots).licence


@pytest.fixture
def vendor(tmp_path: Path, clock: list[int], capsys: pytest.CaptureFixture[str]) -> Vendor:
    return Vendor(tmp_path, capsys)


class Place:
    """A buyer's site, and its requests as files."""

    def __init__(self, folder: Path, trusted: roots.Roots) -> None:
        folder.mkdir()
        self.folder, self.boot = folder, Boot()
        self.site = Site(folder / "hub", "test", trusted, self.boot, built_at=NOW)
        self.site.open()
        self.site.see(Reader(HEAD.build(folder / "machine")).read(), NOW)

    def request(self, want: Want, name: str = "request", now: int = NOW) -> Path:
        path = self.folder / name
        path.write_text(self.site.request(want, now).file)
        return path

    def release(self, now: int = NOW, to: Path | None = None) -> Path:
        path = self.folder / "release"
        path.write_text(self.site.release(now, to.read_text() if to else None).file)
        return path

    def install(self, path: Path, now: int = NOW) -> Stage:
        return self.site.activate(path.read_text(), now).standing.stage


@pytest.fixture
def places(tmp_path: Path, vendor: Vendor) -> Iterator[list[Place]]:
    made = [Place(tmp_path / f"place-{number}", vendor.roots) for number in range(4)]
    yield made
    for place in made:
        place.site.close()
