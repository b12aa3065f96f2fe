"""The name of its node that a job is told: one that the machine can look up."""

from __future__ import annotations

import socket

import pytest

from agent.engine.address import reachable


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
