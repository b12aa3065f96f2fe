"""The hub's licence and a node's gate, on one machine whose uptime a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.gate import Admit, Hold, HubLicence, NodeGate
from licensing import keys
from tests.fakes import vendor
from tests.fakes.vendor import ROOTS, Boot

HOUR = 3600


@pytest.fixture
def boot() -> Boot:
    """The uptime of hub and node, which are one machine."""
    return Boot()


@pytest.fixture
def hub(tmp_path: Path, boot: Boot) -> Iterator[HubLicence]:
    hub = HubLicence(tmp_path / "hub", "test", ROOTS, boot)
    hub.open()
    yield hub
    hub.close()


@pytest.fixture
def gate(tmp_path: Path, boot: Boot) -> NodeGate:
    return NodeGate(tmp_path / "node", ROOTS, boot)


@pytest.fixture
def known(tmp_path: Path, boot: Boot) -> NodeGate:
    """A gate whose key the leases of the fake vendor are made out to."""
    return known_gate(tmp_path, boot)


def known_gate(tmp_path: Path, boot: Boot | None = None) -> NodeGate:
    folder = tmp_path / "known"
    folder.mkdir(exist_ok=True)
    if not (folder / "node.key").exists():
        keys.store_new(folder / "node.key", vendor.NODE)
    return NodeGate(folder, ROOTS, boot or Boot())


def hand_over(hub: HubLicence, gate: NodeGate, gpus: list[str], now: int) -> None:
    """What the hub does with every snapshot of a node."""
    token = hub.lease("n1", gate.key_hex, gpus, gate.lease_reply(now).seq, now)
    if isinstance(token, str):
        gate.accept(token, now)


def held(answer: Admit | Hold) -> Hold:
    assert isinstance(answer, Hold)
    return answer
