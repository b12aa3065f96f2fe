"""Machines and admins: counted at the hub, told beyond what the licence says, and never a reason to refuse."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from agent.api.errors import ApiError
from agent.api.types import SUDO_HEADER, LicenceOrder, LinkState
from agent.config import Mode
from agent.server import base
from agent.server.admins import KEPT_S, Admins, is_admin_verb
from agent.server.peer import USER_HEADER, Access
from licensing import usage_verify
from licensing.usage_check import Grade
from tests.component.test_licensing_orders import House
from tests.fakes import vendor
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of, running_hub
from tests.fakes.hub_cluster import wait_until
from tests.fakes.rawcall import call_as
from tests.fakes.usage_ledger import BEGINS, MONTH, make_site, report
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, changed, file


def counted(house: House) -> dict[str, tuple[int, int | None]]:
    return {each.unit: (each.used, each.limit) for each in house.hub.status(house.now).units}


def test_who_used_an_admin_verb_counts_for_30_days_and_once(tmp_path: Path) -> None:
    house = House(tmp_path, 8)
    assert [house.hub.note_admin(user, house.now) for user in ("ada", "ada", "bob")] == [True, False, True]
    assert counted(house)["admin"] == (2, None)
    house.later(20 * DAY)
    assert house.hub.note_admin("ada", house.now)
    house.later(11 * DAY)
    (admins,) = (each for each in house.hub.status(house.now).units if each.unit == "admin")
    assert admins.names == ("ada",)
    assert [subject for _, subject, _ in house.trail("admin")] == ["ada", "bob"]


def test_an_admin_of_a_nodes_own_agent_counts_for_30_days_from_then_and_no_longer(tmp_path: Path) -> None:
    """The agent tells of somebody for a day, and the hub asks each minute."""
    house = House(tmp_path, 8)
    used_at = house.now
    for ago_s in (0, 60, 3600, 12 * 3600, DAY - 60):
        house.later(used_at + ago_s - house.now)
        assert house.hub.note_admin("ada", house.now, ago_s) == (ago_s == 0)
    assert house.hub.note_admin("bob", house.now, DAY - 60), "the hub was away, and hears of him late"
    house.later(used_at + 30 * DAY - 1 - house.now)
    assert counted(house)["admin"] == (2, None)
    house.later(1)
    assert counted(house)["admin"] == (0, None)
    assert [row[2]["until"] for row in house.trail("admin")] == [used_at + 30 * DAY] * 2


def test_a_day_of_work_counts_from_its_last_hour(tmp_path: Path) -> None:
    house = House(tmp_path, 8)
    for _ in range(9):
        house.hub.note_admin("ada", house.now)
        house.later(3600)
    house.later(30 * DAY - 2 * 3600)
    assert counted(house)["admin"] == (1, None)
    house.later(3600)
    assert counted(house)["admin"] == (0, None)


def test_a_node_counts_while_it_is_the_hubs_and_was_heard_within_30_days(tmp_path: Path) -> None:
    house = House(tmp_path, 8)
    house.hub.note_nodes({"n1", "n2"}, {"n1", "n2", "n3"}, house.now)
    assert counted(house)["node"] == (2, None)
    house.later(29 * DAY)
    house.hub.note_nodes({"n1"}, {"n1", "n2", "n3"}, house.now)
    assert counted(house)["node"] == (2, None)
    house.later(2 * DAY)
    assert counted(house)["node"] == (1, None)
    house.hub.note_nodes(set(), {"n3"}, house.now)
    assert counted(house)["node"] == (0, None)


def test_beyond_the_licence_is_told_and_in_the_trail_once_and_refuses_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, 8, max_nodes=1, max_admins=2)
    for user in ("ada", "bob"):
        house.hub.note_admin(user, house.now)
    house.hub.note_nodes({"n1"}, {"n1", "n2"}, house.now)
    assert all(each.told is None for each in house.hub.status(house.now).units)
    for _ in range(2):
        house.hub.note_admin("cy", house.now)
        house.hub.note_nodes({"n1", "n2"}, {"n1", "n2"}, house.now)
        house.hub.usage_seats(house.now)
    told = {each.unit: each.told for each in house.hub.status(house.now).units}
    assert told == {
        "node": "2 nodes have an agent, and the licence is for 1; nothing is refused, ask your vendor for more",
        "admin": "3 persons used an admin verb in 30 days, and the licence is for 2; nothing is refused, ask your "
        "vendor for more",
    }
    assert house.hub.status(house.now).stage == "ACTIVE"
    assert house.offer("n2", "GPU-a") == {"GPU-a"}
    rows = [(subject, detail) for _, subject, detail in house.trail("beyond")]
    assert sorted(rows) == [("admin", {"used": 3, "of": 2}), ("node", {"used": 2, "of": 1})]


def test_a_report_tells_how_many_and_never_who(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    licence = changed(VOUCHER, rev=2, max_admins=1)
    site.activate(file(licence), NOW)
    for user in ("ada-lovelace", "bob"):
        site.note_admin(user, NOW)
    site.note_nodes({"n1"}, {"n1"}, NOW)
    made = report(site)
    assert {each.unit: (each.count, each.at) for each in made.usage.units} == {"node": (1, NOW), "admin": (2, NOW)}
    assert [(each.event, each.subject) for each in made.usage.events] == [("beyond", "admin")]
    assert b"ada-lovelace" not in site._ledger.one("SELECT content FROM usage_report")[0]  # type: ignore[index]
    found = usage_verify.check([made], licence, BEGINS + 2 * MONTH)
    assert any(
        each.grade is Grade.NOTE and each.words.startswith("counted 2 admins ") and each.words.endswith("is for 1")
        for each in found
    )
    assert report(site, month=1, now=BEGINS + 3 * MONTH).usage.units == ()
    site.close()


def test_a_gpu_that_no_node_shows_is_pinned_only_by_force(tmp_path: Path) -> None:
    now = int(time.time())
    issuer = changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * DAY)
    terms = changed(VOUCHER, iat=now - 5, nbf=now - 5, exp=now + 300 * DAY)
    config = hub_config(tmp_path, nodes_of({"n1": tmp_path / "s"}))
    with fake_agent(tmp_path / "s", "n1"), running_hub(config, ROOTS) as client:
        wait_until(lambda: client.nodes()[0].link is LinkState.UP)
        client.activate(file(terms, issuer=issuer))
        with pytest.raises(ApiError) as caught:
            client.licence_order(LicenceOrder(order="pin", subject="GPU-n1-33"))
        assert (caught.value.status, caught.value.code) == (422, "usage")
        assert "no node shows a GPU 'GPU-n1-33'; nodes show GPU-n1-3 (n1), " in str(caught.value)
        assert "stoker-license pin UUID --force" in str(caught.value)
        assert client.licence().pinned == ()
        assert client.licence_order(LicenceOrder(order="pin", subject="GPU-n1-3")).pinned == ("GPU-n1-3",)
        forced = LicenceOrder(order="pin", subject="GPU-n1-33", force=True)
        assert client.licence_order(forced).pinned == ("GPU-n1-3", "GPU-n1-33")


@pytest.mark.parametrize(
    ("method", "path", "is_one"),
    [
        ("POST", "/v1/licence", True),
        ("POST", "/v1/licence/order", True),
        ("POST", "/v1/drain", True),
        ("POST", "/v1/nodes/n1/drain", True),
        ("POST", "/v1/nodes/n1/incidents/7/acknowledge", True),
        ("DELETE", "/v1/nodes/n1/reservations/course", True),
        ("GET", "/v1/licence", False),
        ("GET", "/v1/nodes/n1/reservations", False),
        ("POST", "/v1/jobs", False),
        ("DELETE", "/v1/nodes/n1/jobs/3", False),
        ("POST", "/v1/nodes/n1/cron", False),
    ],
)
def test_which_verbs_are_an_admins(method: str, path: str, is_one: bool) -> None:
    assert is_admin_verb(method, path) is is_one


def test_a_hub_counts_its_nodes_and_who_was_allowed_an_admin_verb(tmp_path: Path) -> None:
    """An order that is refused counts nobody; the metrics tell both units."""
    now = int(time.time())
    issuer = changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * DAY)
    terms = changed(VOUCHER, iat=now - 5, nbf=now - 5, exp=now + 300 * DAY, max_admins=3)
    config = hub_config(tmp_path, nodes_of({"n1": tmp_path / "s"}))
    with fake_agent(tmp_path / "s", "n1"), running_hub(config, ROOTS) as client:
        wait_until(lambda: client.nodes()[0].link is LinkState.UP)
        with pytest.raises(ApiError):
            client.licence_order(LicenceOrder(order="borrow", subject="n1", days=99))
        client.activate(file(terms, issuer=issuer))
        wait_until(lambda: {each.unit: each.used for each in client.licence().units} == {"node": 1, "admin": 1})
        metrics = client.metrics()
        assert 'lic_seats{unit="node",state="used"} 1\n' in metrics
        assert 'lic_seats{unit="node",state="total"}' not in metrics
        assert 'lic_seats{unit="admin",state="used"} 1\n' in metrics
        assert 'lic_seats{unit="admin",state="total"} 3\n' in metrics


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which only somebody else can be behind")


@needs_root
@pytest.mark.parametrize(
    ("said", "name"),
    [("daemon", "daemon"), ("nobody-has-this-name", "root"), ("root", "root"), ("da\nX: y", "root"), (None, "root")],
)
def test_root_is_counted_as_the_account_behind_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, name: str
) -> None:
    """By the word of the command, which must name an account."""
    if said is None:
        monkeypatch.delenv("SUDO_USER", raising=False)
    else:
        monkeypatch.setenv("SUDO_USER", said)
    now = int(time.time())
    issuer = changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * DAY)
    terms = changed(VOUCHER, iat=now - 5, nbf=now - 5, exp=now + 300 * DAY)
    with running_hub(hub_config(tmp_path, nodes_of({"n1": tmp_path / "s"})), ROOTS) as client:
        client.activate(file(terms, issuer=issuer))
        wait_until(lambda: [each.names for each in client.licence().units if each.unit == "admin"] == [(name,)])


_ASK = """
import os, sys
from pathlib import Path
from agent.api.unix import UnixTransport
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
print(UnixTransport(Path("/x")).behind)
"""


@needs_root
@pytest.mark.parametrize(("uid", "said"), [(0, "bin"), (1, "None")])
def test_only_root_names_somebody_behind_it(uid: int, said: str) -> None:
    env = os.environ | {"SUDO_USER": "bin"}
    told = subprocess.run(
        [sys.executable, "-c", _ASK, str(uid)], capture_output=True, text=True, timeout=60, env=env, check=True
    )
    assert told.stdout == f"{said}\n"


@needs_root
def test_a_server_believes_only_root_about_who_is_behind_it() -> None:
    """Whoever else sends the header is who the kernel says."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own is root's alone
        Path(folder).chmod(0o755)
        assert asyncio.run(_callers(Path(folder))) == [("root", "bin"), ("daemon", None)]


async def _callers(folder: Path) -> list[tuple[str, str | None]]:
    access = Access(msgspec.structs.replace(hub_config(folder, ()), mode=Mode.SYSTEM))
    found = []

    async def answer(request: web.Request) -> web.Response:
        caller = await access.caller(request)
        found.append((caller.user, caller.behind))
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/", answer)
    runner = await base.serve(app, folder / "s")
    (folder / "s").chmod(0o666)
    for account in ("root", "daemon"):
        uid = pwd.getpwnam(account).pw_uid
        status, _ = await asyncio.to_thread(call_as, uid, folder / "s", "GET", "/", None, {SUDO_HEADER: "bin"})
        assert status == 200
    await runner.cleanup()
    return found


def test_an_agent_tells_of_its_admins_for_a_day_and_of_nobody_the_hub_acts_for() -> None:
    now = [0.0]
    admins = Admins(lambda: now[0])
    own, passed_on = make_mocked_request("POST", "/v1/drain"), {USER_HEADER: "eve"}
    asyncio.run(admins.note(own, "cy"))
    now[0] = KEPT_S - 1
    asyncio.run(admins.note(own, "ada"))
    asyncio.run(admins.note(make_mocked_request("POST", "/v1/drain", headers=passed_on), "eve"))
    assert admins.recent() == {"ada": 0, "cy": KEPT_S - 1}
    now[0] = KEPT_S + 1
    assert admins.recent() == {"ada": 2}
