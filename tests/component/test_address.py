"""The name of its node that a job is told: one that the machine can look up."""

from __future__ import annotations

import socket
import threading

import pytest

from agent.engine.address import Lookups, reachable
from tests.fakes.attempts import until


def test_the_machines_own_name_is_told_as_it_is() -> None:
    machine = socket.gethostname()
    for name in {machine, machine.partition(".")[0]}:
        assert reachable(name) == name


@pytest.mark.parametrize("node", ["no-such-machine.invalid", "n1.invalid", "a" * 64])
def test_a_node_whose_name_nobody_knows_is_told_by_one_that_is_known(node: str) -> None:
    told = reachable(node)
    assert told in (socket.gethostname(), "localhost")
    assert socket.getaddrinfo(told, None)


def test_a_name_that_is_known_is_told() -> None:
    assert reachable("localhost") == "localhost"


def test_a_name_that_the_resolver_learns_is_told_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the second look: the answer before it stands while a resolver thinks."""
    known, looks = threading.Event(), []

    def resolver(name: str, _: object) -> list[object]:
        looks.append(name)
        if not known.is_set():
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        go.wait(30)
        return [name]

    go, lookups = threading.Event(), Lookups(again_s=0)
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    assert lookups.reachable("n1.invalid") == "localhost"
    known.set()
    assert lookups.reachable("n1.invalid") == "localhost"
    go.set()
    until(lambda: lookups.reachable("n1.invalid") == "n1.invalid")
    patient = Lookups(again_s=3600)
    known.clear()
    looks.clear()
    told = [patient.reachable("n2.invalid") for _ in range(3)]
    assert told == ["localhost"] * 3
    assert looks.count("n2.invalid") == 1
