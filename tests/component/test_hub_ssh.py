"""A hub that reaches its node over a real sshd, by a forced command and a pinned host key."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.api.refs import JobRef
from agent.api.types import LinkState, NodeStatus
from agent.config import HubNode
from agent.hub.places import SSH_ROOM
from tests.component.test_ssh import bridge
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, running_hub
from tests.fakes.hub_cluster import wait_until
from tests.fakes.sshd import Sshd, make_key, sshd


@pytest.fixture
def far_node(tmp_path: Path) -> Iterator[Sshd]:
    script = tmp_path / "dial"
    script.write_text(f"#!/bin/sh\nexec {bridge(tmp_path / 'agent.sock')}\n")
    script.chmod(0o755)
    with fake_agent(tmp_path / "agent.sock", "far"), sshd(tmp_path / "sshd", forced=str(script)) as server:
        yield server


def node(server: Sshd, host_key: str) -> HubNode:
    return HubNode(name="far", ssh=server.target, host_key=host_key, identity_file=server.identity)


def test_calls_streams_a_freeze_and_a_cut(far_node: Sshd, tmp_path: Path) -> None:
    config = hub_config(tmp_path, (node(far_node, far_node.host_key),))
    with running_hub(config) as client:

        def link() -> LinkState:
            return client.nodes()[0].link

        wait_until(lambda: link() is LinkState.UP)
        assert client.node("far").name == "far"
        with client.follow_log(JobRef(id=1)) as stream:
            next(stream), next(stream)
            assert far_node.log().count("Accepted publickey") == 1  # all on one connection
        with far_node.frozen():
            began = time.monotonic()
            wait_until(lambda: link() is LinkState.STALE)
            assert time.monotonic() - began < 15
        wait_until(lambda: link() is LinkState.UP)
        far_node.cut()
        wait_until(lambda: far_node.log().count("Accepted publickey") >= 2 and link() is LinkState.UP)


def test_without_an_identity_file_the_hubs_own_key_is_used(far_node: Sshd, tmp_path: Path) -> None:
    config = hub_config(tmp_path, (HubNode(name="far", ssh=far_node.target, host_key=far_node.host_key),))
    config.hub_state_dir.mkdir(parents=True)
    shutil.copy(far_node.identity, config.state_dir / "hub" / "ssh_key")
    with running_hub(config) as client:
        wait_until(lambda: client.nodes()[0].link is LinkState.UP)


def test_logs_beyond_one_connections_sessions_go_over_a_second_one(far_node: Sshd, tmp_path: Path) -> None:
    config = hub_config(tmp_path, (node(far_node, far_node.host_key),))
    with running_hub(config) as client, ExitStack() as stack:
        wait_until(lambda: client.nodes()[0].link is LinkState.UP)
        for _ in range(SSH_ROOM[0] + 2):
            next(stack.enter_context(client.follow_log(JobRef(id=1))))
        assert far_node.log().count("Accepted publickey") == 2
        assert client.node("far").name == "far"
        assert client.nodes()[0].link is LinkState.UP


def test_a_node_with_another_host_key_stays_lost_and_says_why(far_node: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    pinned = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    with running_hub(hub_config(tmp_path, (node(far_node, pinned),))) as client:
        status = wait_until(lambda: (found := client.nodes()[0]).link is LinkState.LOST and found)
        assert isinstance(status, NodeStatus)
        assert "hub.nodes far in" in (status.reason or "")
        assert "SHA256:" in (status.reason or "")
    assert "Accepted publickey" not in far_node.log()
