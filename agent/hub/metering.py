"""The nodes' usage ledgers fetched: each minute, and when a node took a lease, whatever rows are not here yet.

Rules kept here: the ledger belongs to thread `seats`, nodes are called from their own workers; a node that does not
answer is asked again, and what it has is never lost by that; nothing here holds anybody up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from itertools import zip_longest

from agent.api.errors import ApiError
from agent.api.types import LinkState
from agent.api.unix import is_account_name
from agent.api.usage import UsageRows
from agent.hub.fleet import Fleet, Member
from agent.hub.seats import Seats

FETCH_S = 60.0
PAGES_AT_ONCE = 200
"""Pages of rows that one node is asked for in a round; the rest waits for the next."""

ADMINS_AT_ONCE = 100
"""Names of admins that one node is believed in a round: each is a row of the licence's ledger."""

_log = logging.getLogger(__name__)


def admins_of(rows: UsageRows) -> list[tuple[str, int]]:
    """Whom a node names as admins, and how many seconds ago they were: so many as can be, and only accounts' names."""
    told = zip_longest(rows.admins, rows.admins_ago_s[: len(rows.admins)], fillvalue=0)
    return [(str(name), max(0, int(ago_s))) for name, ago_s in told if is_account_name(str(name))][:ADMINS_AT_ONCE]


class Metering:
    """Keeps the hub's usage ledger; used from the event loop."""

    def __init__(self, fleet: Fleet, seats: Seats, *, kept_s: int | None = None, fetch_s: float = FETCH_S) -> None:
        """`kept_s` is for how long rows that the vendor acknowledged stay; `None` keeps them."""
        self._fleet = fleet
        self._kept_s = kept_s
        self._seats = seats
        self._fetch_s = fetch_s
        self._due = asyncio.Event()
        self._renewed: set[str] = set()
        self._said: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to fetch."""
        self._seats.renewed = self._hear
        self._task = asyncio.create_task(self._run(), name="metering")

    async def stop(self) -> None:
        """Stop fetching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def fetch_all(self) -> None:
        """Fetch what all nodes have: before a report is made."""
        up = [each for each in self._fleet.members() if each.link.state is LinkState.UP]
        await asyncio.gather(*(self._fetch(member) for member in up))
        await self._attempt_seats()
        self._seats.offer()  # prepaid hours may be spent, and nodes do not count what others use

    def _hear(self, node: str) -> None:
        self._renewed.add(node)
        self._due.set()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        next_round = clock() + self._fetch_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_round):
                    await self._due.wait()
            try:
                if clock() >= next_round:  # by the clock: in a large cluster some node always takes a lease
                    next_round = clock() + self._fetch_s
                    await self.fetch_all()
                    await self._prune()
                else:
                    await self._fetch_renewed()
            except Exception:  # noqa: BLE001 - the rim: the next round shall come whatever became of this one
                _log.exception("a round of fetching usage failed")

    async def _prune(self) -> None:
        kept_s = self._kept_s
        if kept_s is None:
            return
        try:
            await self._seats.with_licence(lambda each: each.usage_prune(_now(), kept_s))
        except ApiError as error:
            _log.warning("usage that is no longer to be kept stays: %s", error)

    async def _fetch_renewed(self) -> None:
        self._due.clear()
        names, self._renewed = self._renewed, set()
        await asyncio.gather(*(self._fetch(member) for member in self._fleet.members() if member.name in names))
        await self._attempt_seats()

    async def _fetch(self, member: Member) -> None:
        try:
            count = await self._merge(member)
        except ApiError as error:
            if self._said.get(member.name) != str(error):
                self._said[member.name] = str(error)
                _log.warning("node=%s: its usage is not fetched: %s", member.name, error)
        except Exception:  # noqa: BLE001 - the rim: what one node tells must not end the fetching from all
            _log.exception("node=%s: its usage cannot be taken", member.name)
        else:
            self._said.pop(member.name, None)
            if count:
                _log.info("node=%s usage: %d rows", member.name, count)

    async def _merge(self, member: Member) -> int:
        """Fetch until nothing is missing; how many rows came."""
        name, count = member.name, 0
        rows = await member.calls.call(lambda client: client.usage_rows())
        for user, ago_s in admins_of(rows):
            await self._seats.note_admin(user, ago_s)
        for _ in range(PAGES_AT_ONCE):
            heads = rows.heads
            wanted = await self._seats.with_licence(lambda each: each.usage_wanted(name, heads, _now()))  # noqa: B023
            if not wanted:
                break
            chain, after = wanted[0]
            rows = await member.calls.call(lambda client: client.usage_rows(chain, after))  # noqa: B023
            page = rows
            count += await self._seats.with_licence(lambda each: each.usage_merge(name, page, _now()))  # noqa: B023
        return count

    async def _attempt_seats(self) -> None:
        try:
            await self._seats.with_licence(lambda each: each.usage_seats(_now()))
        except ApiError as error:
            _log.warning("who holds seats is not noted for the usage report: %s", error)


def _now() -> int:
    return int(time.time())
