"""Copies of which the hub's ledger has a row, and the order that ends it: the real hub and its ledger."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.types import LicenceOrder, LinkState
from agent.config import Config
from agent.gate import Ask, HubLicence
from licensing.keys import public_hex
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of, running_hub
from tests.fakes.hub_cluster import wait_until
from tests.fakes.vendor import EVALUATION_FILE, seeded

ADOPT = LicenceOrder(order="adopt", subject="n2", force=True)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """A hub that knows n2 as a copy of n1."""
    made = hub_config(tmp_path, nodes_of({"n2": tmp_path / "n2.sock"}))
    now, key = int(time.time()), public_hex(seeded("n1"))
    hub = HubLicence(made.hub_state_dir, made.cluster)
    hub.open()
    hub.activate(EVALUATION_FILE.read_text(encoding="ascii"), now)
    hub.leases([Ask(node=name, key=key, gpus=(f"GPU-{name}",), seq=0) for name in ("n1", "n2")], now)
    assert [each.node for each in hub.status(now).forked] == ["n2"]
    hub.close()
    yield made


def test_a_copy_that_is_gone_and_out_of_the_configuration_is_named_no_more(config: Config, tmp_path: Path) -> None:
    with running_hub(config) as hub, pytest.raises(ApiError, match=r"gone for good and out of \[\[hub.nodes\]\]"):
        hub.licence_order(ADOPT)
    with running_hub(hub_config(tmp_path, ())) as hub:
        assert hub.licence_order(ADOPT).forked == ()
        with pytest.raises(ApiError, match="n2 is no node of this cluster"):
            hub.licence_order(ADOPT)


def test_without_a_licence_a_node_is_not_told_to_give_up_the_lease_it_has(config: Config, tmp_path: Path) -> None:
    with sqlite3.connect(config.hub_state_dir / "licence.db") as conn:
        conn.execute("DELETE FROM licence")
    conn.close()
    with fake_agent(tmp_path / "n2.sock", "n2"), running_hub(config) as hub:
        wait_until(lambda: [each.link for each in hub.nodes()] == [LinkState.UP])
        with pytest.raises(
            ApiError, match=r"no licence is in use here, so n2 would get no lease .* Run: stoker-license"
        ):
            hub.licence_order(ADOPT)
        assert len(hub.licence().forked) == 1
