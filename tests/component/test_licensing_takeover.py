"""What an operator can do when the hub's machine died: emergency hours, a standby that takes over."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from licensing.orders import Order, Verb
from licensing.stage import Stage
from tests.fakes.bound import Hub
from tests.fakes.bound import hub as hub
from tests.fakes.head import HEAD, TWIN
from tests.fakes.vendor import DAY, NOW

PROJECT = Path(__file__).parent.parent.parent


def test_the_emergency_hours_are_there_for_a_machine_that_died(hub: Hub) -> None:
    hub.bind()
    assert hub.leases()
    hub.move(TWIN)
    standing = hub.site.order(Order(verb=Verb.EXTEND), NOW).standing
    assert (standing.stage, standing.code) == (Stage.GRACE, "LIC-435")
    assert hub.leases()
    assert hub.at(NOW + 3 * DAY + 1).code == "LIC-442"


def test_a_standby_that_takes_over_has_14_days_once(hub: Hub, tmp_path: Path) -> None:
    hub.bind()
    standby = hub.copy(tmp_path / "b", TWIN)
    assert standby.at(NOW).code == "LIC-442"
    standing = standby.site.order(Order(verb=Verb.PROMOTE), NOW).standing
    assert (standing.stage, standing.code, standing.restricted_at) == (Stage.GRACE, "LIC-440", NOW + 14 * DAY)
    later = standby.boot.at(NOW + 10 * DAY)
    assert standby.site.order(Order(verb=Verb.PROMOTE), later).standing.restricted_at == NOW + 14 * DAY
    assert standby.at(NOW + 14 * DAY).code == "LIC-442"
    standby.site.close()


def test_its_14_days_are_not_given_again_where_all_was_well_in_between(hub: Hub, tmp_path: Path) -> None:
    hub.bind()
    standby = hub.copy(tmp_path / "b", TWIN)
    standby.site.order(Order(verb=Verb.PROMOTE), NOW)
    standby.move(HEAD, standby.boot.at(NOW + 5 * DAY))
    assert standby.at(NOW + 5 * DAY).stage is Stage.ACTIVE
    standby.move(TWIN, standby.boot.at(NOW + 9 * DAY))
    standing = standby.at(NOW + 9 * DAY)
    assert (standing.code, standing.restricted_at) == ("LIC-440", NOW + 14 * DAY), "what is left of them"
    standby.move(HEAD, standby.boot.at(NOW + 20 * DAY))
    standby.move(TWIN, standby.boot.at(NOW + 30 * DAY))
    assert standby.at(NOW + 30 * DAY).code == "LIC-442"
    later = standby.boot.at(NOW + 30 * DAY)
    assert standby.site.order(Order(verb=Verb.PROMOTE), later).standing.code == "LIC-442"
    standby.site.close()


PROMOTION = """
import os, signal, sys
from pathlib import Path
from licensing.orders import Order, Verb
from licensing.site import Site
from tests.fakes.vendor import NOW, ROOTS, Boot

site = Site(Path(sys.argv[1]), "test", ROOTS, Boot())
site.open()

def die_at(statement):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

site._ledger._conn.set_trace_callback(die_at)
site.order(Order(verb=Verb.PROMOTE), NOW)
"""


@pytest.mark.parametrize("at", ["'epoch'", "INTO hardware_taken", "INTO hardware_doubt", "INTO audit", "COMMIT"])
def test_a_standby_that_dies_while_it_takes_over_did_not(hub: Hub, tmp_path: Path, at: str) -> None:
    hub.bind()
    standby = hub.copy(tmp_path / "b", TWIN)
    standby.site.close()
    killed = subprocess.run([sys.executable, "-c", PROMOTION, str(tmp_path / "b/state"), at], cwd=PROJECT, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    standby.start(TWIN)
    report = standby.site.report(NOW)
    assert (report.epoch, report.standing.code, standby.events("epoch")) == (1, "LIC-442", [])
    done = standby.site.order(Order(verb=Verb.PROMOTE), NOW)
    assert (done.epoch, done.standing.code, done.standing.restricted_at) == (2, "LIC-440", NOW + 14 * DAY)
    standby.site._ledger.verify_audit()
    standby.site.close()


def test_promoting_the_same_machine_changes_nothing_about_it(hub: Hub) -> None:
    hub.bind()
    assert hub.site.order(Order(verb=Verb.PROMOTE), NOW).standing.stage is Stage.ACTIVE
