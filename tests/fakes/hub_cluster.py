"""Two agents in processes of their own and a hub, as tests ask them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from agent.api.client import Client
from agent.api.types import LinkState, NodeStatus, SubmitRequest
from agent.api.unix import UnixTransport
from tests.fakes import vendor
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of, running_hub

REQUEST = SubmitRequest(script="#!/bin/sh\n#SBATCH --gres=gpu:2\ntrue\n", script_name="a.sh", work_dir="/")
_T = TypeVar("_T")


class Cluster:
    """Two agents and a hub."""

    def __init__(self, folder: Path, stack: ExitStack, machine: Path | None = None) -> None:
        self.folder = folder
        self.sockets = {name: folder / f"{name}.sock" for name in ("n1", "n2")}
        self.agents = {name: stack.enter_context(fake_agent(path, name)) for name, path in self.sockets.items()}
        self.config = hub_config(folder, nodes_of(self.sockets))
        self.client = stack.enter_context(running_hub(self.config, vendor.ROOTS, machine=machine))
        wait_until(lambda: [each.link for each in self.client.nodes()] == [LinkState.UP] * 2)

    def link(self, name: str) -> NodeStatus:
        return next(each for each in self.client.nodes() if each.name == name)

    def seen(self, name: str) -> dict[str, Any]:
        with Client(UnixTransport(self.sockets[name])) as direct:
            answer = direct.request_raw("GET", "/v1/seen", headers={})
            return dict(msgspec.json.decode(b"".join(iter(answer.read, b""))))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def wait_until(true: Callable[[], _T], timeout_s: float = 60) -> _T:
    """Ask until the answer is truthy; there is nothing to await on the far side of an API."""
    deadline = time.monotonic() + timeout_s
    while not (answer := true()):
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)
    return answer
