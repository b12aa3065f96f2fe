"""Lists that the hub puts together of its nodes': one node that answers nonsense costs its own part alone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.types import JobState, JobUpdate, LicenceUpdate, LinkState
from agent.api.unix import UnixTransport
from agent.hub.calls import NodeCalls
from agent.hub.fleet import Fleet
from agent.server.hub_queues import HubQueues, _raw_list
from tests.fakes.agent import fake_agent, job
from tests.fakes.hub import hub_config, nodes_of, running_hub
from tests.fakes.hub_cluster import wait_until
from tests.fakes.rawserver import http, raw_server, read_request


def listed(folder: Path, *answers: bytes) -> list[Any]:
    """What a hub makes of the nodes' answers; they are n1, n2, …"""

    async def ask(clients: Sequence[Client]) -> list[Any]:
        calls = [NodeCalls(f"n{number}", [client], [20]) for number, client in enumerate(clients, 1)]
        members = [
            SimpleNamespace(name=each.name, link=SimpleNamespace(state=LinkState.UP), calls=each) for each in calls
        ]
        fleet = cast(Fleet, SimpleNamespace(members=lambda: members))
        try:
            return await HubQueues(fleet)._ask(lambda client: _raw_list(client, "/v1/cron", {}))
        finally:
            for each in calls:
                each.close()

    with ExitStack() as stack:
        clients = []
        for number, answer in enumerate(answers, 1):

            def talk(sock: socket.socket, _: int, answer: bytes = answer) -> None:
                while read_request(sock):
                    sock.sendall(answer)

            path = folder / f"n{number}.sock"
            stack.enter_context(raw_server(path, talk))
            clients.append(stack.enter_context(Client(UnixTransport(path))))
        return asyncio.run(ask(clients))


def knows(client: Client) -> set[int]:
    """The jobs that the hub knows of itself, as it tells a watcher that comes."""
    found = set[int]()
    with client.watch() as stream:
        for message in stream:
            if isinstance(message, LicenceUpdate):  # stands behind all jobs
                break
            if isinstance(message, JobUpdate):
                found.add(message.job.id)
    return found


def test_of_a_node_that_was_killed_what_ended_before_is_listed_as_last_heard(tmp_path: Path) -> None:
    ended = {"started_at": 1, "exit_code": 0}
    jobs = (
        job(7, "n1", JobState.COMPLETED, name="before", ended_at=60, **ended),
        job(8, "n1", JobState.COMPLETED, name="after", ended_at=90, **ended),
        job(9, "n1", JobState.RUNNING, name="now", started_at=5),
    )
    with ExitStack() as stack:
        agent = stack.enter_context(fake_agent(tmp_path / "n1.sock", "n1", jobs=jobs))
        began = int(time.time())
        client = stack.enter_context(running_hub(hub_config(tmp_path, nodes_of({"n1": tmp_path / "n1.sock"}))))
        wait_until(lambda: knows(client) == {1, 7, 8, 9})
        assert {each.as_of for each in client.jobs()} == {None}, "the node itself tells of them"
        agent.kill()
        agent.wait(60)
        for asked, ids in (
            ({}, [9, 8, 7, 1]),
            ({"state": "COMPLETED", "limit": 1}, [8]),
            ({"name": "before,other"}, [7]),
            ({"since": 70}, [9, 8, 1]),
            ({"before": 8}, [7, 1]),
            ({"user": "nobody"}, []),
        ):
            found = client.jobs(**asked)
            assert [each.id for each in found] == ids, asked
            assert all(began <= (each.as_of or 0) <= int(time.time()) for each in found)
        with fake_agent(tmp_path / "n1.sock", "n1", jobs=jobs):
            wait_until(lambda: {each.as_of for each in client.jobs()} == {None})


@pytest.mark.parametrize("nonsense", [b"\x1b[2J{not json", b"\xff\xfe", b"", b'{"a":1}', b"[" * 100_000])
def test_one_node_that_answers_nonsense_is_named_and_the_other_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, nonsense: bytes
) -> None:
    assert listed(tmp_path, http(nonsense), http(b'[{"id":1}]')) == [[{"id": 1}]]
    (said,) = caplog.messages
    assert said.startswith("the answer of node n1 is not understood: ")
    assert said.isprintable()


def test_where_no_other_answers_the_caller_is_told_which_one_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="the answer of node n1 is not understood") as caught:
        listed(tmp_path, http(b"{not json"))
    assert (caught.value.status, caught.value.code) == (502, "not_understood")


def test_a_refusal_stays_a_refusal_whatever_it_says(tmp_path: Path) -> None:
    with pytest.raises(ApiError) as caught:
        listed(tmp_path, http(b'{"code":"forbidden","message":"not yours"}', "403 Forbidden"))
    assert (caught.value.status, caught.value.code) == (403, "forbidden")
