"""A hub that is bound to the machine it is in, and machines that it may come to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from licensing import verify
from licensing.exchange import Request, Want
from licensing.hardware import Reader
from licensing.keys import public_hex
from licensing.seats import NoSeat
from licensing.site import Site
from licensing.stage import Standing
from tests.fakes import vendor
from tests.fakes.head import HEAD, TWIN, Machine
from tests.fakes.vendor import NOW, ROOTS, VOUCHER, Boot, changed, file

KEY = public_hex(vendor.NODE)
BOARD_RMA = HEAD.but(uuid=TWIN.uuid, board=TWIN.board, macs=(*TWIN.macs[:2], HEAD.macs[2]))
"""Another board, with other onboard NICs: the chassis and the plugged NIC stay."""
IN_TWIN_CHASSIS = TWIN.but(disk=HEAD.disk, machine_id=HEAD.machine_id)
IMAGE_ELSEWHERE = TWIN.but(machine_id=HEAD.machine_id)
VIRTUAL = Machine(uuid=None, board=None, chassis=None, macs=("52:54:00:12:34:56",), gpus=(), disk="vol-0a1b2c3d4e")


class Hub:
    """A hub's state folder, and the machine that it is in."""

    def __init__(self, folder: Path, machine: Machine = HEAD, boot: Boot | None = None) -> None:
        self.folder, self.boot, self.trees = folder, boot or Boot(), 0
        self.start(machine)

    def start(self, machine: Machine, now: int = NOW) -> None:
        self.site = Site(self.folder / "state", "test", ROOTS, self.boot)
        self.site.open()
        self.look(machine, now)

    def look(self, machine: Machine, now: int = NOW) -> None:
        self.trees += 1
        self.site.see(Reader(machine.build(self.folder / f"tree-{self.trees}")).read(), now)

    def move(self, machine: Machine, now: int = NOW) -> None:
        """The hub stops, and starts on another machine."""
        self.site.close()
        self.start(machine, now)

    def copy(self, folder: Path, machine: Machine, now: int = NOW) -> Hub:
        """Another machine gets all files of this hub's state folder."""
        self.site.close()
        shutil.copytree(self.folder / "state", folder / "state")
        self.site.open()
        other = Hub.__new__(Hub)
        other.folder, other.boot, other.trees = folder, self.boot, 0
        other.start(machine, now)
        return other

    def ask(self, now: int = NOW, want: Want = Want.ACTIVATE) -> Request:
        return verify.site_paper(Request, self.site.request(want, now).token).paper

    def bind(self, now: int = NOW, **fields: object) -> Standing:
        """Ask, and take the vendor's answer."""
        licence = self.site.report(now).licence
        asked = self.ask(now, Want.RENEW if licence and licence.site else Want.ACTIVATE)
        terms = {"rev": (licence.rev if licence else 0) + 1, "fingerprint": asked.fingerprint, "request": asked.id}
        return self.install(now, **{**terms, **fields})

    def install(self, now: int = NOW, **fields: object) -> Standing:
        return self.site.activate(file(changed(VOUCHER, site=self.site.key_hex, **fields)), now).standing

    def at(self, now: int) -> Standing:
        return self.site.report(self.boot.at(now)).standing

    def leases(self, now: int = NOW) -> bool:
        return not isinstance(self.site.lease("n1", KEY, ("GPU-0",), 0, now), NoSeat)

    def events(self, name: str) -> list[dict[str, object]]:
        return [each.detail for each in self.site.history(100) if each.event == name]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path / "a")
    yield made
    made.site._ledger.verify_audit()
    made.site.close()
