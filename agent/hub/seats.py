"""Seats to nodes: asks the licence for a lease for every node that is up, and puts it there.

Rules kept here: the licence's file belongs to thread `seats`, and leases go to it in batches (`checkouts`); nothing
slow happens in it, nodes are called from their own workers, so that one which hangs delays neither another's lease nor
an activation. When a lease is due is the licence's own rule (it says None until then); we only offer often, and at once
when something changed. What nodes hold counts before anybody is granted more. A licence that fails stops nothing: nodes
run on with the lease they hold. The machine is looked at before the first offer, daily, and before each request and
activation; a part that hangs is absent after 3 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.api.errors import ApiError
from agent.api.types import (
    LeaseReply,
    Licence,
    LicenceEvent,
    LicenceFile,
    LicenceOrder,
    LicenceUpdate,
    LinkState,
    Node,
    NodeUpdate,
    Wire,
)
from agent.gate import Ask, HubLicence, Mark, NoSeat
from agent.gpu.frames import UNKNOWN_UUID
from agent.hub.checkouts import Checkouts
from agent.hub.fleet import Fleet, Member
from agent.hub.pinning import refuse_unknown
from agent.hub.refusals import Refusals

_ORDERS = ("borrow", "adopt", "pin", "unpin", "extend", "promote")
"""What is done as it is ordered. The steps of a release are no orders: each alone would go round what it looks at."""
LOOK_S = 86_400.0
"""How often the machine is looked at."""
LOOK_AGAIN_S = 600.0
"""The same while not all is seen that the licence is bound to: a driver may load late, a file be put back."""
OFFER_S = 30.0
"""How often leases are offered when nothing happens; they are renewed after hours."""
HEAR_AGAIN_S = 600.0
"""How often a node is asked what it holds though nothing is due: another hub may lead by now, and this one not know."""
HEAR_ALL_S = 5.0
"""How long the first leases of a hub wait for the other nodes to say what they hold; those that are down do not."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Seats:
    """Hands out leases; used from the event loop."""

    def __init__(
        self,
        licence: HubLicence,
        fleet: Fleet,
        publish: Callable[[Hashable, Wire], None],
        read_hardware: Callable[[], list[Mark]] | None = None,
    ) -> None:
        """`read_hardware` may block for some seconds; without it the machine is never looked at."""
        self._licence = licence
        self._read_hardware = read_hardware
        self._looking = asyncio.Lock()
        self._looked_at: float | None = None
        self._is_known = True
        """Whether it is the machine that the licence is bound to, as far as one is."""
        self._fleet = fleet
        self._publish = publish
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seats")
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._opened = False
        self._seen: dict[str, Hashable] = {}
        """What a node was when it was last seen, as far as its lease depends on it."""
        self._held: dict[str, LeaseReply] = {}
        """The lease that each node shows; asked for anew whenever the node is another one or was away."""
        self._heard_at: dict[str, float] = {}
        """When each node said so, by the monotonic clock."""
        self._checkouts = Checkouts(self._answer)
        self._unheard = {member.name for member in fleet.members()}
        """Nodes of which it is not known yet, since this hub began, what they hold."""
        self._all_heard = asyncio.Event()
        self._refusals = Refusals()
        self._old_keys: dict[str, str] = {}
        """The key that a node was told to replace: nothing is offered while its snapshots still have that one."""
        self._said: dict[str, str] = {}
        """What was last said of each node's lease."""
        self._offers: dict[str, asyncio.Task[None]] = {}
        self.renewed: Callable[[str], None] = lambda node: None
        """Told of each lease that a node took, and with which it said where its usage ledger stands."""

    async def start(self) -> None:
        """Open the licence and begin to offer."""
        try:
            await self._in_thread(lambda licence: None)
        except ApiError as error:
            _log.error("licence: %s; nodes run on with the leases they hold", error)
        await self._look()
        self._fleet.listen(self._hear)
        asyncio.get_running_loop().call_later(HEAR_ALL_S, self._all_heard.set)
        self._task = asyncio.create_task(self._run(), name="seats")

    async def stop(self) -> None:
        """Stop offering, and close the licence."""
        tasks = [*([self._task] if self._task else []), *self._offers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._licence.close)
        self._thread.shutdown()

    async def licence(self) -> Licence:
        """The licence as it stands.

        Raises:
            ApiError: its file cannot be read.
        """
        return await self._in_thread(lambda licence: licence.status(int(time.time())))

    async def history(self, limit: int) -> list[LicenceEvent]:
        """What was done with the licence and its seats, newest first.

        Raises:
            ApiError: its file cannot be read.
        """
        return await self._in_thread(lambda licence: licence.history(limit))

    async def activate(self, document: str) -> Licence:
        """Install a voucher or licence, and offer leases of it at once.

        Raises:
            ApiError: it was refused; nothing was changed.
        """
        await self._look()
        installed = await self._in_thread(lambda licence: licence.activate(document, int(time.time())))
        _log.info(
            "licence=%s stage=%s seats=%d activated", installed.licence_id, installed.stage, installed.seats_total
        )
        self._publish(("licence",), LicenceUpdate(licence=installed))
        self._due.set()
        return installed

    def offer(self) -> None:
        """Offer leases at once: what they depend on may have changed."""
        self._due.set()

    async def ask_vendor(self, want: str) -> LicenceFile:
        """Make a request about the licence.

        Raises:
            ApiError: there is nothing that it could be about, or it cannot be kept.
        """
        await self._look()
        asked = await self._in_thread(lambda licence: licence.request(want, int(time.time())))
        await self._tell()
        return asked

    async def give_back(self, to: str | None) -> LicenceFile:
        """Give the licence back: no further leases; those given run to their end.

        Raises:
            ApiError: there is none, or it is a voucher; nothing was changed.
        """
        released = await self._in_thread(lambda licence: licence.release(to, int(time.time())))
        _log.info("licence=%s given back", released.id)
        await self._tell()
        return released

    async def order(self, order: LicenceOrder) -> Licence:
        """Do what an operator orders about seats, and offer leases by it at once.

        Raises:
            ApiError: refused, or the node that is to give its lease back does not answer; its seats stay its own.
        """
        if order.order == "release":
            done = await (self._reclaim(order.subject) if order.force else self._take_back(order.subject))
        elif order.order == "clock-confirm":
            done = await self._in_thread(lambda hub: hub.confirm_clock(int(time.time()), sure=order.force))
        elif order.order == "adopt" and order.force:
            done = await self._renew_identity(order.subject)
        elif order.order in _ORDERS:
            if order.order == "pin" and not order.force:
                nodes = [member.node for member in self._fleet.members() if member.node is not None]
                refuse_unknown(order.subject, {node.name: _uuids(node) for node in nodes})
            done = await self._do(order.order, order.subject, days=order.days)
        else:
            known = ", ".join(("release", "clock-confirm", *_ORDERS))
            raise ApiError(422, "usage", f"{order.order[:40]!r} is nothing to order; order {known}")
        self._publish(("licence",), LicenceUpdate(licence=done))
        self._due.set()
        return done

    async def _reclaim(self, node: str) -> Licence:
        member = self._member(node)
        if member is not None and member.link.state is LinkState.UP:
            message = f"{node} is up, so it can give its seats back itself; run: stoker-license release {node}"
            raise ApiError(409, "usage", message)
        return await self._do("reclaim", node)

    async def _take_back(self, node: str) -> Licence:
        """First no further lease, then the node's word, then its seats: none is ever in two hands."""
        member = self._member(node)
        if member is None and all(node != each.node for each in (await self.licence()).holders):
            raise ApiError(
                404, "usage", f"{node!r} is no node of this hub and holds no seats; see: stoker-license status"
            )
        if member is None or member.link.state is not LinkState.UP:
            message = (
                f"{node} does not answer, so it cannot give its seats back; they are free when its lease ends, or if "
                f"it is gone for good: stoker-license release {node} --force"
            )
            raise ApiError(409, "usage", message)
        await self._do("rest", node)
        try:
            if (offer := self._offers.get(node)) is not None:
                await asyncio.wait([offer])
            word = await member.calls.call(lambda client: client.give_back_lease())
            done = await self._do("return", node, release=word.token)
        except ApiError:
            await self._do("adopt", node)
            raise
        self._held.pop(node, None)
        return done

    async def _renew_identity(self, node: str) -> Licence:
        """Have a node make itself a key of its own; it is offered a lease once its snapshots show that key."""
        member = self._member(node)
        if member is not None and (member.node is None or member.link.state is not LinkState.UP):
            message = (
                f"{node} does not answer, so it cannot make itself a new key; adopt it when it is up again, or when it "
                "is gone for good and out of [[hub.nodes]]"
            )
            raise ApiError(409, "usage", message)
        licence = await self.licence()
        if all(each.node != node for each in licence.forked):
            what = "has an identity of its own, and keeps it" if member else "is no node of this cluster"
            raise ApiError(409, "usage", f"{node} {what}; see: stoker-license status")
        if licence.licence_id is None:  # before the node is told: it would give up the lease that it has
            message = f"no licence is in use here, so {node} would get no lease under a new identity. {licence.message}"
            raise ApiError(409, "usage", f"{message} Run: {licence.fix}")
        if member is None or member.node is None:
            return await self._do("renew", node)  # it is no node of here any more: what was noted of it goes
        if (offer := self._offers.get(node)) is not None:
            await asyncio.wait([offer])
        old = member.node.key
        await member.calls.call(lambda client: client.renew_identity())
        self._old_keys[node] = old
        self._forget(node)
        return await self._do("renew", node)

    def _forget(self, node: str) -> None:
        """It is asked again what it holds."""
        self._held.pop(node, None)
        self._refusals.forget(node)

    async def _do(self, verb: str, subject: str, *, days: int = 0, release: str = "") -> Licence:
        return await self._in_thread(
            lambda licence: licence.order(verb, subject, int(time.time()), days=days, release=release)
        )

    def _member(self, node: str) -> Member | None:
        return next((each for each in self._fleet.members() if each.name == node), None)

    # --- offering -----------------------------------------------------------------------------------------------------

    def _hear(self, _: Hashable, message: Wire) -> None:
        """Notice a node that came, or whose GPUs or key changed."""
        if not isinstance(message, NodeUpdate):
            return
        status = message.status
        if status.link is not LinkState.UP or status.node is None:
            if self._seen.pop(status.name, None) is not None:
                self._forget(status.name)
            return
        now = (status.node.key, status.node.boot_id, _uuids(status.node))
        if self._seen.get(status.name) != now:
            self._seen[status.name] = now
            self._due.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(OFFER_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            try:
                if self._is_look_due():
                    await self._look()
                self._offer_all()
                await self._note_nodes()
                await self._tell()
            except Exception:  # noqa: BLE001 — the rim: one bad round must not let every lease run out
                _log.exception("leases could not be offered; tried again within %.0f s", OFFER_S)

    def _is_look_due(self) -> bool:
        every = LOOK_S if self._is_known else LOOK_AGAIN_S
        return self._looked_at is None or time.monotonic() - self._looked_at >= every

    async def _look(self) -> None:
        """Look at the machine that we run on, and let the licence hear of it. Never fails."""
        if self._read_hardware is None:
            self._looked_at = time.monotonic()
            return
        async with self._looking:
            try:
                marks = await asyncio.to_thread(self._read_hardware)
                await self._in_thread(lambda licence: licence.see_hardware(marks, int(time.time())))
                found = (await self.licence()).hardware
                self._is_known = found is None or (found.verdict == "match" and set(found.enrolled) <= set(found.seen))
            except ApiError as error:
                _log.error("hardware: %s; tried again with the next offer", error)
                return
            self._looked_at = time.monotonic()

    async def _note_nodes(self) -> None:
        members = self._fleet.members()
        known = {member.name for member in members}
        heard = {member.name for member in members if member.link.state is LinkState.UP and member.node is not None}
        with contextlib.suppress(ApiError):  # `_tell` says it, and the next round notes them
            await self._in_thread(lambda licence: licence.note_nodes(heard, known, int(time.time())))

    async def note_admin(self, user: str, ago_s: int = 0) -> None:
        """Count somebody who used an admin verb so long ago. Never fails: what was done is done."""
        try:
            if await self._in_thread(lambda licence: licence.note_admin(user, int(time.time()), ago_s)):
                await self._tell()
        except ApiError as error:
            _log.warning("user=%s used an admin verb and is not counted: %s", user, error)

    def _offer_all(self) -> None:
        for member in self._fleet.members():
            # A node that still hangs in the last offer is left to it, and the others are not.
            if member.link.state is not LinkState.UP or member.node is None or member.name in self._offers:
                continue
            if self._old_keys.get(member.name) != member.node.key:
                self._offers[member.name] = asyncio.create_task(self._offer(member, member.node))

    async def _offer(self, member: Member, node: Node) -> None:
        try:
            outcome = await self._lease(member, node)
        except ApiError as error:
            self._held.pop(member.name, None)
            outcome = error.code, str(error)
        except Exception:  # noqa: BLE001 — the rim: a fault with one node must not end the offers to all
            _log.exception("node=%s: its lease failed", member.name)
            outcome = None
        finally:
            del self._offers[member.name]
        if outcome is not None and self._said.get(member.name) != outcome[0]:
            self._said[member.name], text = outcome
            _log.info("node=%s lease: %s", member.name, text)
            await self._tell()

    async def _lease(self, member: Member, node: Node) -> tuple[str, str] | None:
        """Bring one node's lease up to date; what is to be said about it, behind what tells it from the last one.

        Of a refusal that is its code: its words count the hours, and would be news with each offer.
        """
        name, uuids = member.name, _uuids(node)
        known = self._held.get(name)
        is_due = time.monotonic() - self._heard_at.get(name, -HEAR_AGAIN_S) >= HEAR_AGAIN_S
        held = await self._heard(member, node) if known is None or is_due else known
        ask = Ask(node=name, key=node.key, gpus=uuids, seq=held.seq, held=held.lease, contact=known is None)
        token = await self._checkouts.lease(ask)
        if token is None:
            await self._refusals.tell(member, None)
            return None
        if isinstance(token, NoSeat):
            await self._refusals.tell(member, token)
            return token.code, f"none, {token.code}: {token.message}"
        held = self._held[name] = await member.calls.call(lambda client: client.put_lease(token))
        self._refusals.forget(name)
        if held.usage is not None:
            self.renewed(name)
        text = f"number {held.seq} until {held.expires_at}, stage {held.stage}"
        return text, text

    async def _heard(self, member: Member, node: Node) -> LeaseReply:
        """What a node holds. It counts before anybody is granted more: this ledger may be older than its leases."""
        name = member.name
        held = self._held[name] = await member.calls.call(lambda client: client.lease())
        self._heard_at[name] = time.monotonic()
        ask = Ask(node=name, key=node.key, gpus=_uuids(node), seq=held.seq, held=held.lease)
        await self._in_thread(lambda licence: licence.hear(ask, int(time.time())))
        self._refusals.note(name, held.refused)  # by the hub of before, which may have been restarted since
        self._unheard.discard(name)
        if not self._unheard:
            self._all_heard.set()
        await self._all_heard.wait()
        return held

    async def _answer(self, asks: Sequence[Ask], now: int) -> Sequence[str | NoSeat | Exception | None]:
        return await self._in_thread(lambda licence: licence.leases(asks, now))

    async def _tell(self) -> None:
        try:
            self._publish(("licence",), LicenceUpdate(licence=await self.licence()))
        except ApiError as error:
            _log.error("licence: %s", error)

    async def with_licence(self, work: Callable[[HubLicence], _T]) -> _T:
        """Do something with the licence in its own thread.

        Raises:
            ApiError: its file cannot be used.
        """
        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[HubLicence], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._with_licence, work)

    def _with_licence(self, work: Callable[[HubLicence], _T]) -> _T:
        if not self._opened:
            self._licence.open()  # again at each call while it fails: whoever mends the file need not restart the hub
            self._opened = True
        return work(self._licence)


def _uuids(node: Node) -> tuple[str, ...]:
    """GPUs to ask seats for: whole ones, since a MIG instance has its GPU's seat.

    One that was never read has only a word in place of its UUID, and that gets no seat.
    """
    return tuple(gpu.uuid for gpu in node.gpus if gpu.mig_parent is None and not gpu.uuid.startswith(UNKNOWN_UUID))
