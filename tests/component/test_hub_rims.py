"""One fault in a listener or in the licence: it is logged with its traceback, and the hub carries on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest

from agent.api.types import JobUpdate, LicenceUpdate, LinkState, NodeUpdate, Wire
from agent.config import Config
from agent.gate import HubLicence
from agent.hub.fleet import Fleet
from agent.hub.seats import Seats
from tests.fakes import vendor
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of

WAIT_S = 60.0


class FaultError(Exception):
    """No error of ours: what nobody expected."""


class Failing:
    """A listener that fails at the first messages that `when` picks, and then lets the test know of the next ones."""

    def __init__(self, times: int, when: Callable[[Wire], bool]) -> None:
        self._left = times
        self._when = when
        self.told: asyncio.Queue[Wire] = asyncio.Queue()

    def __call__(self, _: Hashable, message: Wire) -> None:
        if not self._when(message):
            return
        if self._left:
            self._left -= 1
            raise FaultError("a listener failed")
        self.told.put_nowait(message)


def told_with_traceback(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(
        words in record.getMessage() and record.exc_info and record.exc_info[0] is FaultError
        for record in caplog.records
    )


async def running(config: Config, listener: Failing) -> None:
    fleet = Fleet(config)
    fleet.listen(listener)
    await fleet.start()
    try:
        async with asyncio.timeout(WAIT_S):
            await listener.told.get()
    finally:
        await fleet.stop()


def test_links_go_on_ageing_after_a_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def of_a_lost_node(message: Wire) -> bool:
        return isinstance(message, NodeUpdate) and message.status.link is LinkState.LOST

    config = hub_config(tmp_path, nodes_of({"n1": tmp_path / "nobody.sock"}))
    asyncio.run(running(config, Failing(3, of_a_lost_node)))  # one comes from the link, all others from the clock
    assert told_with_traceback(caplog, "node=n1: its link could not be aged")


def test_what_a_node_says_after_a_fault_is_taken_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        listener = Failing(1, lambda message: isinstance(message, NodeUpdate | JobUpdate))
        fleet = Fleet(hub_config(tmp_path, nodes_of({"n1": tmp_path / "s"})))
        fleet.listen(listener)
        await fleet.start()
        try:
            async with asyncio.timeout(WAIT_S):
                while not isinstance(await listener.told.get(), JobUpdate):
                    pass
        finally:
            await fleet.stop()

    with fake_agent(tmp_path / "s", "n1"):
        asyncio.run(check())
    assert told_with_traceback(caplog, "node=n1: what it said could not be taken in")


def test_leases_are_offered_after_a_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        publish = Failing(1, lambda message: isinstance(message, LicenceUpdate))
        config = hub_config(tmp_path, nodes_of({"n1": tmp_path / "s"}))
        config.hub_state_dir.mkdir(parents=True)
        fleet = Fleet(config)
        seats = Seats(HubLicence(config.hub_state_dir, config.cluster, vendor.ROOTS), fleet, publish)
        await seats.start()
        await fleet.start()
        try:
            async with asyncio.timeout(WAIT_S):
                while not told_with_traceback(caplog, "leases could not be offered"):
                    await asyncio.sleep(0.02)
                await seats.activate(voucher())
                while True:
                    message = await publish.told.get()
                    if isinstance(message, LicenceUpdate) and message.licence.seats_used == 8:
                        return
        finally:
            await seats.stop()
            await fleet.stop()

    with fake_agent(tmp_path / "s", "n1"):
        asyncio.run(check())


def voucher() -> str:
    now = int(time.time())
    issuer = vendor.changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * vendor.DAY)
    licence = vendor.changed(vendor.VOUCHER, iat=now - 5, nbf=now - 5, exp=now + 300 * vendor.DAY, seats=12)
    return vendor.file(licence, issuer=issuer)
