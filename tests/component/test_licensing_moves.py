"""A hub that starts on other hardware, as its operator sees it: the real hub, its socket, the typed commands."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.types import LicenceOrder
from agent.api.unix import UnixTransport
from agent.cli import HubLicenceCalls
from agent.config import Config
from agent.gate import Hold, NodeGate
from agent.hub import seats
from licensing import armour, cli, verify
from licensing.armour import Label
from licensing.exchange import Request
from tests.fakes import vendor
from tests.fakes.agent import fake_agent
from tests.fakes.head import HEAD, TWIN, Machine
from tests.fakes.hub import hub_config, nodes_of, running_hub
from tests.fakes.hub_cluster import wait_until
from tests.fakes.vendor import DAY, ROOTS, VOUCHER, changed, file

IN_TWIN_CHASSIS = TWIN.but(disk=HEAD.disk, machine_id=HEAD.machine_id)


class Office:
    """An operator before one hub's state folder, and the vendor who answers."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.rev, self.trees = folder, capsys, 0, 0
        self.file = folder / "stoker.toml"
        self.file.write_text(
            f'[node]\nname = "head"\nmode = "user"\nstate_dir = "{folder}/state"\nrun_dir = "{folder}"\n'
            '[hub]\ncluster = "test"\n'
        )

    @property
    def config(self) -> Config:
        return hub_config(self.folder, nodes_of({"n1": self.folder / "n1.sock"}))

    @contextmanager
    def on(self, machine: Machine) -> Iterator[None]:
        self.trees += 1
        with running_hub(self.config, ROOTS, machine=machine.build(self.folder / f"tree-{self.trees}")):
            yield

    def types(self, *words: str) -> tuple[int, str]:
        """A command; its exit code, and what it printed."""
        self.capsys.readouterr()
        code = cli.main(["--config", str(self.file), *words], HubLicenceCalls())
        said = self.capsys.readouterr()
        return code, said.out + said.err

    def answered(self, name: str = "request", **fields: object) -> Path:
        """Export a request, and have the vendor answer it."""
        request, answer = self.folder / name, self.folder / f"{name}.licence"
        code, said = self.types("export-request", "-o", str(request))
        assert code == 0, said
        asked = verify.site_paper(Request, armour.unwrap(Label.REQUEST, request.read_text()))
        self.rev += 1
        now = int(time.time())
        licence = changed(
            VOUCHER, iat=now, nbf=now - 5, exp=now + 300 * DAY, site=asked.key, rev=self.rev,
            fingerprint=asked.paper.fingerprint, request=asked.paper.id, **fields,
        )  # fmt: skip
        issuer = changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * DAY)
        answer.write_text(file(licence, issuer=issuer))
        return answer


@pytest.fixture
def office(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Office:
    return Office(tmp_path, capsys)


def test_a_bound_hub_its_move_to_a_twin_and_the_answer_that_ends_it(office: Office) -> None:
    with office.on(HEAD):
        assert office.types("import-response", str(office.answered()))[0] == 0
        code, said = office.types("status")
        assert code == 0
        assert "machine    bound by hardware: 5 of 5 groups match\n" in said
        code, said = office.types("doctor")
        assert code == 0, said
        everything = "platform, network, gpus, disk, machine-id"
        assert f"seen {everything}; enrolled {everything}; matching {everything}\n" in said
    with office.on(IN_TWIN_CHASSIS):
        code, said = office.types("status")
        assert code == 3
        assert said.startswith("GRACE      LIC-440: This machine is only in part the one that the licence lic-test is")
        assert "run        stoker-license export-request\n" in said
        assert "machine    bound by hardware: 2 of 5 groups match, 3 must; new jobs start until " in said
        code, said = office.types("status", "--json")
        told = json.loads(said)
        assert (code, told["code"], told["hardware"]["verdict"]) == (3, "LIC-440", "short")
        assert told["hardware"]["matching"] == ["disk", "machine-id"]
        assert told["hardware"]["grace_until"] - told["hardware"]["since"] == 14 * DAY
        assert [each["want"] for each in told["pending"]] == ["renew"], "ready-made"
        assert "warn machine   bound by hardware: 2 of 5" in office.types("doctor")[1]
        code, said = office.types("import-response", str(office.answered("anew")))
        assert (code, said.split()[0]) == (0, "ACTIVE"), said
        assert office.types("doctor")[0] == 0
    assert office.types("audit", "verify")[0] == 0


def test_a_copy_of_the_disk_in_another_machine(
    office: Office, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with office.on(HEAD):
        office.types("import-response", str(office.answered()))
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(tmp_path / "state", copy / "state")
    other = Office(copy, office.capsys)
    caplog.set_level("INFO")
    with fake_agent(copy / "n1.sock", "n1"), other.on(TWIN):
        wait_until(lambda: "node=n1 lease: none, LIC-442" in caplog.text)
        code, said = other.types("status")
        assert code == 4
        assert said.startswith(
            "RESTRICTED LIC-442: This is another machine than the licence lic-test is bound to: 0 of"
        )
        assert "New jobs are held in the queue since " in said
        assert "Running jobs go on to their end; login, monitoring, logs" in said
        assert "0 of 8 GPUs" in said, "nothing was leased to the node that is up"
        assert other.types("doctor")[0] == 4
        code, said = other.types("import-response", str(tmp_path / "request.licence"))
        assert (code, "bound to other hardware than this" in said, "export-request" in said) == (6, True, True)
        code, said = other.types("extend", "--emergency")
        assert code == 0, said
        assert other.types("status")[0] == 3


def test_what_holds_leases_back_is_said_at_the_node_and_taken_back_with_the_answer(
    office: Office, tmp_path: Path
) -> None:
    """A real node's gate behind the hub: without a lease its job says the hub's own code and command, not LIC-410."""
    gate, socket = NodeGate(tmp_path / "node", ROOTS), tmp_path / "n1.sock"
    with fake_agent(socket, "n1"):
        with office.on(HEAD):
            office.types("import-response", str(office.answered()))
        with office.on(TWIN):
            (told,) = wait_until(lambda: seen(socket)["refusals"])
            gate.hear(told["code"], told["message"], told["fix"])
            held = gate.admit(["GPU-n1-0"], int(time.time()))
            assert isinstance(held, Hold)
            assert held.code == "LIC-442"
            assert held.detail.startswith(
                "LIC-442: This is another machine than the licence lic-test is bound to: 0 of"
            )
            assert "New jobs are held in the queue. Running jobs go on to their end" in held.detail
            assert held.detail.endswith(" Run: stoker-license export-request")
            assert gate.lease_reply(int(time.time())).refused == "LIC-442"
        with office.on(TWIN):  # a hub that was restarted knows what the node was told
            assert office.types("import-response", str(office.answered("anew")))[0] == 0
            wait_until(lambda: len(seen(socket)["refusals"]) == 1 and office.types("status")[1].find("8 of 8 GPUs") > 0)
    gate.hear("", "")
    assert gate.lease_reply(int(time.time())).refused == ""
    still = gate.admit([], int(time.time()))
    assert isinstance(still, Hold)
    assert still.code == "LIC-410"


def test_a_node_with_a_lease_hears_it_too_and_that_it_is_over_from_a_restarted_hub(
    office: Office, tmp_path: Path
) -> None:
    socket = tmp_path / "n1.sock"
    with fake_agent(socket, "n1"):
        with office.on(HEAD):
            office.types("import-response", str(office.answered()))
            wait_until(lambda: any(each["what"] == "PUT /v1/lease" for each in seen(socket)["seen"]))
        with office.on(TWIN):
            wait_until(lambda: [each["code"] for each in seen(socket)["refusals"]] == ["LIC-442"])
        with office.on(HEAD):
            wait_until(lambda: [each["code"] for each in seen(socket)["refusals"]] == ["LIC-442", ""])


def seen(path: Path) -> dict[str, list[dict[str, str]]]:
    """What the agent was asked and told."""
    with Client(UnixTransport(path)) as direct:
        answer = direct.request_raw("GET", "/v1/seen", headers={})
        told: dict[str, list[dict[str, str]]] = json.loads(b"".join(iter(answer.read, b"")))
    return told


def test_a_licence_of_other_hardware_is_refused_with_6_and_what_to_do(office: Office) -> None:
    with office.on(HEAD):
        before = office.types("status", "--json")
        forged = office.answered(name="other")
        text = armour.unwrap(Label.LICENCE, forged.read_text())
        licence = verify.licence_chain(text, ROOTS).licence
        now = int(time.time())
        issuer = changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * DAY)
        forged.write_text(file(changed(licence, fingerprint="A" * 22), issuer=issuer))
        code, said = office.types("import-response", str(forged))
        assert code == 6
        assert "is bound to hardware that this site never named" in said
        assert "send a new request to your vendor and import its answer: stoker-license export-request" in said
        assert json.loads(before[1])["stage"] == json.loads(office.types("status", "--json")[1])["stage"]


def test_no_value_of_a_mark_is_shown_anywhere(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with office.on(HEAD):
        office.types("import-response", str(office.answered()))
    with office.on(IN_TWIN_CHASSIS):
        asked = (["status"], ["status", "--json"], ["doctor"], ["status", "--metrics"])
        told = [office.types(*words)[1] for words in asked]
    salt = (office.folder / "state/hub/fingerprint.salt").read_text()
    told += [caplog.text, (office.folder / "request").read_text()]
    for secret in (salt, str(HEAD.uuid), str(HEAD.board), *HEAD.macs, *HEAD.gpus, str(HEAD.disk), *TWIN.macs):
        assert all(secret.lower() not in each.lower() for each in told), secret


def test_a_machine_without_marks_is_shown_as_weaker(office: Office) -> None:
    bare = Machine(uuid=None, board=None, chassis=None, macs=(), gpus=(), disk=None)
    with office.on(bare):
        office.types("import-response", str(office.answered(vm=True)))
        code, said = office.types("status")
        assert code == 0
        assert "machine    key only, which is weaker" in said
        code, said = office.types("doctor")
        assert code == 3
        assert "held by the site's key alone, which a copy of its disk has too" in said


def test_a_standby_takes_over_on_other_hardware(office: Office) -> None:
    with office.on(HEAD):
        office.types("import-response", str(office.answered()))
    with office.on(TWIN):
        assert office.types("status")[0] == 4
        assert office.types("standby", "promote")[0] == 0
        code, said = office.types("status")
        assert (code, "new jobs start until " in said) == (3, True), said


def test_the_hub_starts_when_a_source_cannot_be_read(office: Office) -> None:
    office.folder.joinpath("tree-1").write_text("no folder")
    with running_hub(office.config, ROOTS, machine=office.folder / "tree-1") as client:
        assert client.licence().code == "LIC-401"
        with pytest.raises(ApiError, match="no licence is in use"):
            client.licence_order(LicenceOrder(order="promote"))


def test_a_machine_that_is_itself_again_is_known_without_a_restart(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver loaded late, NICs were seated again: nobody has to ask the vendor, or to wait for the next day."""
    with office.on(HEAD):
        assert office.types("import-response", str(office.answered()))[0] == 0
    with office.on(IN_TWIN_CHASSIS):
        assert office.types("status")[0] == 3
        HEAD.build(office.folder / f"tree-{office.trees}")
        monkeypatch.setattr(seats, "LOOK_AGAIN_S", 0.0)
        assert office.types("pin", "GPU-0", "--force")[0] == 0
        wait_until(lambda: office.types("status")[1].startswith("ACTIVE"))
