"""What a node hears of why it gets no lease, and that it is over: each once, also where a call is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.api.client import Client
from agent.api.unix import UnixTransport
from agent.gate import NoSeat
from agent.hub.fleet import Fleet
from agent.hub.refusals import Refusals
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of

OTHER_MACHINE = NoSeat(code="LIC-442", message="This is another machine.", fix="stoker-license export-request")
Tell = Callable[[NoSeat | None], Awaitable[None]]


def telling(folder: Path, check: Callable[[Tell], Awaitable[None]]) -> None:
    """Have a hub tell node n1 something; no lease is ever offered."""
    config = hub_config(folder, nodes_of({"n1": folder / "s"}))

    async def run() -> None:
        fleet = Fleet(config)
        refusals = Refusals()
        await fleet.start()
        try:
            (member,) = fleet.members()
            await check(lambda why: refusals.tell(member, why))
        finally:
            await fleet.stop()

    asyncio.run(run())


def heard(folder: Path) -> list[str]:
    with Client(UnixTransport(folder / "s")) as direct:
        answer = direct.request_raw("GET", "/v1/seen", headers={})
        return [each["code"] for each in json.loads(b"".join(iter(answer.read, b"")))["refusals"]]


def test_a_node_hears_a_refusal_once_and_its_end_once(tmp_path: Path) -> None:
    async def check(tell: Tell) -> None:
        for why in (None, OTHER_MACHINE, OTHER_MACHINE, None, None, OTHER_MACHINE):
            await tell(why)

    with fake_agent(tmp_path / "s", "n1"):
        telling(tmp_path, check)
        assert heard(tmp_path) == ["LIC-442", "", "LIC-442"]


def test_an_agent_of_before_gets_no_refusal_without_words(tmp_path: Path) -> None:
    """It would show NOTICE, without a code or a reason, until its next lease."""

    async def check(tell: Tell) -> None:
        for why in (OTHER_MACHINE, None, None):
            await tell(why)

    with fake_agent(tmp_path / "s", "n1", says_refused=False):
        telling(tmp_path, check)
        assert heard(tmp_path) == ["LIC-442"]


def test_what_a_node_did_not_hear_is_said_again(tmp_path: Path) -> None:
    async def check(tell: Tell) -> None:
        with fake_agent(tmp_path / "s", "n1"):
            await tell(OTHER_MACHINE)
        await tell(None)  # nobody is there
        (tmp_path / "s").unlink(missing_ok=True)
        with fake_agent(tmp_path / "s", "n1"):
            await tell(None)
            assert await asyncio.to_thread(heard, tmp_path) == [""]

    telling(tmp_path, check)
