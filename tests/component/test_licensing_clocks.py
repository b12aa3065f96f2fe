"""One wrong clock, at the hub, at a node or at both, and everything after it is as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from licensing import verify
from licensing.document import Licence
from licensing.errors import LicenceError, UsageError
from licensing.exchange import Request, Want
from licensing.node import NodeLease
from licensing.seats import NoSeat
from licensing.site import Site
from licensing.stage import Stage
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file

HOUR = 3600
WRONG_FOR_S = 600
SHIFTS = [60 * DAY, HOUR, 47 * HOUR, -HOUR, -60 * DAY]


class Place:
    """A hub and its nodes, each with a clock of its own and one true time behind them all."""

    def __init__(self, folder: Path, nodes: int = 1, seats: int = 8, plan: str = "yearly") -> None:
        self.folder, self.now = folder, NOW
        self.boots = [Boot() for _ in range(nodes + 1)]
        self.ahead = [0] * (nodes + 1)
        """How far each clock is ahead: the hub's, then each node's."""
        self.nodes = [NodeLease(folder / f"n{number}", ROOTS, self.boots[number]) for number in range(1, nodes + 1)]
        self.start_hub()
        terms = changed(VOUCHER, exp=NOW + 400 * DAY, site=self.site.key_hex, seats=seats, plan=plan)
        self.installed: Licence = terms
        self.site.activate(file(terms), NOW)

    def start_hub(self) -> None:
        self.site = Site(self.folder / "hub", "test", ROOTS, self.boots[0])
        self.site.open()

    def reboot(self, off_s: int) -> None:
        """All machines are off for so long."""
        self.site.close()
        for number, node in enumerate(self.nodes, start=1):
            node.tick(self.wall(number))
        self.now += off_s
        self.boots = [Boot(seconds=5, boot_id=f"boot-{self.now}") for _ in self.boots]
        self.start_hub()
        self.nodes = [
            NodeLease(self.folder / f"n{number}", ROOTS, self.boots[number]) for number in range(1, len(self.boots))
        ]

    def wall(self, machine: int) -> int:
        return self.now + self.ahead[machine]

    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        for boot in self.boots:
            boot.seconds += seconds

    def renew(self, *only: int) -> list[str]:
        """What the hub does with the snapshot of each node; gives what was refused."""
        refused = []
        for number in only or range(1, len(self.boots)):
            node = self.nodes[number - 1]
            seq = node.held.lease.seq if node.held else 0
            token = self.site.lease(f"n{number}", node.key_hex, [f"GPU-{number}"], seq, self.wall(0))
            assert not isinstance(token, NoSeat), token
            if token is not None:
                try:
                    node.accept(token, self.wall(number))
                except LicenceError as error:
                    refused.append(str(error))
        return refused

    def stages(self) -> list[Stage]:
        return [node.standing(self.wall(number)).stage for number, node in enumerate(self.nodes, start=1)]

    def works(self) -> bool:
        """Every node holds a lease of today and may start jobs."""
        fresh = all(node.held and abs(node.held.lease.iat - self.now) <= 2 * DAY for node in self.nodes)
        seated = all(node.seated(self.wall(number)) for number, node in enumerate(self.nodes, start=1))
        return fresh and seated and set(self.stages()) == {Stage.ACTIVE}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.site.close()


def wrong_for_ten_minutes(place: Place, machines: list[int], shift: int) -> None:
    place.renew()
    place.pass_time(9 * HOUR)  # so that a lease is due
    for machine in machines:
        place.ahead[machine] = shift
    for _ in range(WRONG_FOR_S // 60):
        place.renew()
        place.stages()
        for number, node in enumerate(place.nodes, start=1):
            node.tick(place.wall(number))
        place.pass_time(60)
    for machine in machines:
        place.ahead[machine] = 0


@pytest.mark.parametrize("machines", [[0, 1], [0], [1]], ids=["both", "hub", "node"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_ten_minutes_of_a_wrong_clock_cost_nothing(place: Place, machines: list[int], shift: int) -> None:
    wrong_for_ten_minutes(place, machines, shift)
    assert place.renew() == []
    assert place.works()
    for _ in range(360 if (machines, shift) == ([0, 1], 60 * DAY) else 6):
        place.pass_time(DAY)
        assert place.renew() == []
        assert place.works()


@pytest.mark.parametrize("machines", [[0, 1], [0], [1]], ids=["both", "hub", "node"])
def test_meanwhile_new_jobs_start(place: Place, machines: list[int]) -> None:
    place.renew()
    for machine in machines:
        place.ahead[machine] = 60 * DAY
    place.pass_time(9 * HOUR)
    assert place.renew() == []
    assert place.works()


def test_a_wrong_clock_at_the_hub_frees_nobodys_seat(tmp_path: Path) -> None:
    place = Place(tmp_path, nodes=2, seats=1, plan="trial")
    place.renew()
    assert [hold.node for hold in place.site.report(place.now).holds] == ["n1"]
    place.ahead[0] = 60 * DAY
    place.renew(2)
    assert [hold.node for hold in place.site.report(place.wall(0)).holds] == ["n1"]
    place.site.close()


@pytest.mark.parametrize("off_days", [1, 14])
def test_after_days_without_power_jobs_start_at_once(place: Place, off_days: int) -> None:
    place.renew()
    place.reboot(off_days * DAY)
    place.renew()
    assert place.works()
    for _ in range(40):
        place.pass_time(HOUR)
        assert place.renew() == []
        assert place.works()


def test_a_machine_that_starts_with_a_wrong_clock_recovers(tmp_path: Path) -> None:
    """The clock chip is 60 days ahead until the network corrects it; a node that was there then never comes back."""
    place = Place(tmp_path, nodes=2, seats=1, plan="trial")
    place.renew()
    place.ahead = [60 * DAY] * 3
    place.reboot(HOUR)
    place.renew()
    place.pass_time(WRONG_FOR_S)
    place.ahead = [0] * 3
    place.renew(2)
    for _ in range(3):
        place.pass_time(DAY)
        place.renew(2)
    held = place.nodes[1].held
    assert held is not None
    assert held.lease.gpus == ("GPU-2",)
    assert place.stages()[1] is Stage.ACTIVE
    place.site.close()


def test_what_is_held_by_a_dead_clock_alone_says_so_and_how_to_set_it(place: Place) -> None:
    """The battery is empty, and the machine starts in the year 2099: the licence only looks as if it were over."""
    place.renew()
    place.ahead = [72 * 365 * DAY] * 2
    place.reboot(HOUR)
    hub, node = place.site.report(place.wall(0)).standing, place.nodes[0].standing(place.wall(1))
    for standing in (hub, node):
        assert (standing.stage, standing.code, standing.fix) == (
            Stage.RESTRICTED,
            "LIC-404",
            "timedatectl set-ntp true",
        )
        assert standing.message.startswith(
            "The clock says 2098-12-28 09:00 UTC, and uptime explains no more than 2027-01"
        )
        assert "; if it is right, run: stoker-license activate FILE. By the clock: The licence" in standing.message
    place.ahead = [0] * 2
    place.renew()
    assert place.works()
    place.reboot(500 * DAY)
    assert place.site.report(place.wall(0)).standing.fix == "timedatectl set-ntp true", "nobody knows yet who is right"
    place.pass_time(DAY)
    assert place.site.report(place.wall(0)).standing.fix == "stoker-license activate FILE", "and then it is believed"


def test_a_clock_wrong_before_the_first_licence_leaves_nothing(tmp_path: Path) -> None:
    boot = Boot()
    site = Site(tmp_path, "test", ROOTS, boot)
    site.open()
    site.report(NOW + 900 * DAY)
    report = site.activate(file(), NOW)
    assert report.activated_at == NOW
    site.close()


def test_a_clock_that_is_ahead_is_said_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.renew()
    place.ahead = [60 * DAY, 60 * DAY]
    for _ in range(5):
        place.pass_time(60)
        place.site.report(place.wall(0))
        place.stages()
    said = [record for record in caplog.records if "timedatectl" in record.message]
    assert [record.name for record in said] == ["licensing.timekeeper", "licensing.memory"]


def test_row_30_a_clock_before_the_licence_was_signed_is_said_once_and_costs_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Also over a reboot with a dead clock chip: new jobs start, running ones are never asked about."""
    place.renew()
    for _ in range(2):
        place.ahead = [-10 * 365 * DAY] * 2
        assert place.wall(0) < VOUCHER.iat
        for _ in range(5):
            place.pass_time(60)
            place.site.report(place.wall(0))
            assert place.stages() == [Stage.ACTIVE]
            assert place.nodes[0].seated(place.wall(1))
        said = [record.name for record in caplog.records if "timedatectl" in record.message]
        assert said == ["licensing.timekeeper", "licensing.memory"]
        caplog.clear()
        place.reboot(HOUR)
    place.ahead = [0, 0]
    assert place.renew() == []
    assert place.works()


# --- time set right by hand and by the vendor ---


def poison(place: Place, machines: list[int]) -> None:
    """Clocks that are 60 days ahead for longer than it takes to believe them, and then right again."""
    place.renew()
    for machine in machines:
        place.ahead[machine] = 60 * DAY
    for _ in range(26):
        place.pass_time(HOUR)
        place.renew()
        place.stages()
        for number, node in enumerate(place.nodes, start=1):
            node.tick(place.wall(number))
    for machine in machines:
        place.ahead[machine] = 0


def answer(place: Place, request: str, signed: int) -> str:
    """What the vendor signs then."""
    asked = verify.site_paper(Request, request).paper
    return file(changed(place.installed, rev=place.installed.rev + 1, iat=signed, request=asked.id))


@pytest.mark.parametrize("machines", [[0, 1], [0], [1]], ids=["both", "hub", "node"])
def test_a_poisoned_time_is_set_back_by_the_answer_to_a_fresh_request(place: Place, machines: list[int]) -> None:
    poison(place, machines)
    if 0 in machines:
        assert place.site.report(place.wall(0)).at > place.now + 59 * DAY
    request = place.site.request(Want.RENEW, place.wall(0)).token
    place.pass_time(2 * DAY)
    text = answer(place, request, signed=place.now - DAY)
    for _ in range(2):
        assert place.site.activate(text, place.wall(0)).at == place.now
    if 0 not in machines:
        place.site.confirm_clock(place.wall(0), sure=True)
    assert place.renew() == []
    assert place.works()
    held = place.nodes[0].held
    assert held is not None
    assert (held.lease.iat, held.lease.exp) == (place.now, place.now + DAY)
    assert place.nodes[0].standing(place.wall(1)).stage is Stage.ACTIVE
    place.reboot(HOUR)
    assert place.site.report(place.wall(0)).at == place.now
    place.site._ledger.verify_audit()


def test_an_answer_that_lay_about_sets_nothing_back(place: Place) -> None:
    request = place.site.request(Want.RENEW, place.wall(0)).token
    text = answer(place, request, signed=place.now + HOUR)
    for _ in range(40):
        place.pass_time(DAY)
        place.site.report(place.wall(0))
    at = place.now
    place.ahead[0] = -39 * DAY
    assert place.site.activate(text, place.wall(0)).at == at


def test_a_vendors_clock_that_is_slow_by_a_day_sets_nothing_back(place: Place) -> None:
    place.pass_time(3 * DAY)
    place.site.report(place.wall(0))
    request = place.site.request(Want.RENEW, place.wall(0)).token
    assert place.site.activate(answer(place, request, signed=place.now - DAY), place.wall(0)).at == place.now


def test_a_jump_that_is_right_is_confirmed_by_hand(place: Place) -> None:
    place.renew()
    place.ahead = [60 * DAY] * 2
    place.pass_time(9 * HOUR)
    report = place.site.report(place.wall(0))
    assert (report.at, report.confirmed_at) == (place.now, place.now)
    with pytest.raises(UsageError, match="by the uptime it is 2027-01-15 17:00 UTC; only"):
        place.site.confirm_clock(place.wall(0), sure=False)
    confirmed = place.site.confirm_clock(place.wall(0), sure=True)
    assert (confirmed.at, confirmed.confirmed_at) == (place.wall(0), place.wall(0))
    assert place.renew() == []
    held = place.nodes[0].held
    assert held is not None
    assert held.lease.iat == place.wall(0)
    place.ahead = [0] * 2
    with pytest.raises(UsageError, match="time does not run back"):
        place.site.confirm_clock(place.wall(0), sure=True)


def test_without_a_licence_there_is_no_time_to_confirm(tmp_path: Path) -> None:
    site = Site(tmp_path, "test", ROOTS, Boot())
    site.open()
    with pytest.raises(UsageError, match="no time is kept"):
        site.confirm_clock(NOW, sure=True)
    site.close()
