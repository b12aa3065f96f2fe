"""The queue before the ledger's one writer: real ledger, real thread, real event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.gate import MAX_BATCH, Ask, HubLicence
from agent.hub.checkouts import Answer, Checkouts
from licensing.keys import public_hex
from tests.fakes.vendor import NOW, ROOTS, VOUCHER, Boot, changed, file, seeded

Scene = Callable[[Checkouts, list[int]], Awaitable[None]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[HubLicence, ThreadPoolExecutor]]:
    with ThreadPoolExecutor(1) as thread:
        hub = HubLicence(tmp_path, "test", ROOTS, Boot())
        thread.submit(hub.open).result()
        key = thread.submit(hub.status, NOW).result().site_key
        thread.submit(hub.activate, file(changed(VOUCHER, site=key, seats=64)), NOW).result()
        yield hub, thread
        thread.submit(hub.close).result()


def play(hub: tuple[HubLicence, ThreadPoolExecutor], scene: Scene) -> None:
    """Run a scene; it is given the queue, and the size of each batch as it came to the writer."""
    licence, thread = hub
    sizes: list[int] = []

    async def answer(asks: Sequence[Ask], now: int) -> Sequence[Answer | Exception]:
        sizes.append(len(asks))
        return await asyncio.get_running_loop().run_in_executor(thread, licence.leases, asks, now)

    async def run() -> None:
        async with asyncio.timeout(60):
            await scene(Checkouts(answer, lambda: NOW), sizes)

    asyncio.run(run())


def ask(number: int, *gpus: str) -> Ask:
    return Ask(node=f"n{number}", key=public_hex(seeded(f"n{number}")), gpus=gpus or (f"G{number}",), seq=0)


def test_who_waits_together_is_one_batch_in_order_and_at_most_64(hub: tuple[HubLicence, ThreadPoolExecutor]) -> None:
    async def scene(checkouts: Checkouts, sizes: list[int]) -> None:
        done: list[int] = []

        async def one(number: int) -> None:
            assert isinstance(await checkouts.lease(ask(number)), str)
            done.append(number)

        await asyncio.gather(*(one(number) for number in range(MAX_BATCH + 6)))
        assert sizes == [MAX_BATCH, 6]
        assert done == list(range(MAX_BATCH + 6)), "nobody overtakes"
        await one(0)
        assert sizes == [MAX_BATCH, 6, 1], "who asks alone waits for nobody"

    play(hub, scene)


def test_a_bad_one_gets_its_own_error_and_the_others_their_leases(hub: tuple[HubLicence, ThreadPoolExecutor]) -> None:
    weak = Ask(node="weak", key="01" + "00" * 31, gpus=("W",), seq=0)
    broken = Ask(node="\ud800", key=public_hex(seeded("b")), gpus=("B",), seq=0)

    async def scene(checkouts: Checkouts, sizes: list[int]) -> None:
        asks = (ask(1), weak, ask(2), broken, ask(3))
        found = await asyncio.gather(*(checkouts.lease(each) for each in asks), return_exceptions=True)
        assert sizes == [5]
        assert [type(found[place]) for place in (0, 2, 4)] == [str, str, str]
        assert isinstance(found[1], ApiError)
        assert found[1].code == "licence_weak_key"
        assert isinstance(found[3], UnicodeEncodeError)

    play(hub, scene)
    licence, thread = hub
    assert thread.submit(licence.status, NOW).result().seats_used == 3


def test_one_that_gave_up_waiting_takes_no_others_answer(hub: tuple[HubLicence, ThreadPoolExecutor]) -> None:
    async def scene(checkouts: Checkouts, sizes: list[int]) -> None:
        first, gone, last = (asyncio.create_task(checkouts.lease(ask(number))) for number in (1, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        tokens = await asyncio.gather(first, last)
        assert all(isinstance(each, str) for each in tokens)
        assert tokens[0] != tokens[1]
        assert gone.cancelled()
        assert sizes == [2]

    play(hub, scene)


def test_a_ledger_that_cannot_be_used_is_everybodys_error(hub: tuple[HubLicence, ThreadPoolExecutor]) -> None:
    licence, thread = hub
    thread.submit(licence.close).result()

    async def scene(checkouts: Checkouts, sizes: list[int]) -> None:
        found = await asyncio.gather(*(checkouts.lease(ask(n)) for n in range(3)), return_exceptions=True)
        assert [type(each) for each in found] == [ApiError] * 3
        assert sizes == [3]

    play(hub, scene)
    thread.submit(licence.open).result()


def test_a_large_batch_asks_the_ledger_no_more_than_a_small_one(hub: tuple[HubLicence, ThreadPoolExecutor]) -> None:
    licence, thread = hub
    connection = licence._site._ledger._open
    asked: list[Counter[str]] = []

    def answer(first: int, count: int) -> None:
        words: list[str] = []
        connection.set_trace_callback(lambda statement: words.append(statement.split()[0]))
        found = licence.leases([ask(number, f"GPU-{number}") for number in range(first, first + count)], NOW)
        connection.set_trace_callback(None)
        assert all(isinstance(each, str) for each in found)
        asked.append(Counter(words))

    for first, count in ((0, 2), (2, 60)):
        thread.submit(answer, first, count).result()
    small, large = asked
    assert small["SELECT"] == large["SELECT"]
    assert (large["BEGIN"], large["SAVEPOINT"], large["COMMIT"]) == (1, 1, 1)
    assert large["INSERT"] == 3 * 60 + 2, "seat, grant and audit row of each, and the time and the trail's end"
