"""What admins arrange around the queue: reservations here, drains in `drains`, partitions' states in `partitions`.

Rules kept here: an arrangement is on the store's shelf before it counts, and in memory a copy of that; what one of them
is judged by does not change before it is stored, so they are made one at a time; a reservation is forgotten when it is
over, never before.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from agent.api.errors import ApiError
from agent.api.queue import (
    PartitionUpdate,
    Reservation,
    ReservationRequest,
    ReservationUpdate,
)
from agent.engine.accept import as_api_error
from agent.engine.base import Asker, require_admin
from agent.engine.core import Core, now
from agent.engine.drains import Drains, uuid_of
from agent.engine.partitions import Partitions
from agent.engine.rereserve import changed
from agent.jobs import grammar, times
from agent.jobs.schedule import GpuFacts, ReservationFacts
from agent.jobs.schedule.words import moment
from agent.jobs.store import JobStore

_RESERVATIONS = "reservation"

_T = TypeVar("_T")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Arrangements:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._reservations: dict[str, Reservation] = {}
        self._one_at_a_time = asyncio.Lock()
        self.drains = Drains(core)
        self.partitions = Partitions(core)

    async def load(self) -> None:
        """Take up what is on the shelf.

        Raises:
            StoreError: it cannot be read.
        """
        await self.drains.load()
        self._reservations = await self._core.store.read(JobStore.all, _RESERVATIONS, Reservation)
        await self.partitions.load()

    # --- what the scheduler knows of it -------------------------------------------------------------------------------

    def reservation_facts(self, at: int) -> list[ReservationFacts]:
        """Those that are not over at a moment."""
        return [_facts(each) for each in self._reservations.values() if each.end_at > at]

    # --- partitions ---------------------------------------------------------------------------------------------------

    async def update_partition(self, name: str, request: PartitionUpdate, asker: Asker) -> None:
        """See `Engine.update_partition`."""
        require_admin(asker, "changing a partition")
        await self.partitions.change(name, request, asker.user, now())

    # --- reservations -------------------------------------------------------------------------------------------------

    def reservations(self) -> list[Reservation]:
        """See `Engine.reservations`."""
        at = now()
        return sorted(
            (each for each in self._reservations.values() if each.end_at > at), key=lambda each: each.start_at
        )

    async def reserve(self, request: ReservationRequest, asker: Asker) -> Reservation:
        """See `Engine.reserve`."""
        require_admin(asker, "reserving")
        await self.forget_over()
        async with self._one_at_a_time:
            if request.name in self._reservations:
                raise ApiError(
                    409, "exists", f"there is a reservation {request.name} already; delete it or name this one"
                )
            made = self._made(request, asker, now())
            await self._keep(made)
        return made

    async def update_reservation(self, name: str, request: ReservationUpdate, asker: Asker) -> Reservation:
        """See `Engine.update_reservation`."""
        require_admin(asker, "changing a reservation")
        await self.forget_over()
        async with self._one_at_a_time:
            before = self._known(name)
            made = changed(before, request, now())
            taken = self._taken(made.start_at, made.end_at, but=name)
            gpus = request.gpus or ("=" + ",".join(before.gpu_uuids) if before.gpu_uuids else "all")
            made = replace(made, gpu_uuids=self._chosen(None if gpus == "all" else gpus, taken))
            await self._keep(made)
        return made

    async def unreserve(self, name: str, asker: Asker) -> list[Reservation]:
        """See `Engine.unreserve`."""
        require_admin(asker, "deleting a reservation")
        async with self._one_at_a_time:
            self._known(name)
            await self._drop(name)
        self._core.wake()
        return self.reservations()

    async def forget_over(self) -> None:
        """Drop what is over."""
        at = now()
        async with self._one_at_a_time:
            for name in [each.name for each in self._reservations.values() if each.end_at <= at]:
                await self._drop(name)

    def refusal_of(self, name: str, user: str, account: str | None) -> str | None:
        """Why a job must not name a reservation, in Slurm's words; `None` when it may."""
        found, at = self._reservations.get(name), now()
        if found is None:
            known = ", ".join(each.name for each in self.reservations()) or "none"
            return f"Requested reservation is invalid: there is no reservation {name}; known: {known}"
        if found.end_at <= at:
            return f"Requested reservation is invalid: {name} ended at {moment(found.end_at)}; see stoker reservations"
        if found.maintenance:
            return f"Access denied to requested reservation: {name} is a maintenance window, in which nothing starts"
        if not _facts(found).is_for(user, account or ""):
            whom = ", ".join([*found.users, *(f"account {each}" for each in found.accounts)])
            return f"Access denied to requested reservation: {name} is for {whom}; ask {found.by}, who made it"
        return None

    def _known(self, name: str) -> Reservation:
        found = self._reservations.get(name)
        if found is None:
            known = ", ".join(self._reservations) or "none"
            raise ApiError(404, "no_such_reservation", f"there is no reservation {name[:80]!r}; known: {known}")
        return found

    async def _keep(self, made: Reservation) -> None:
        with as_api_error():
            await self._core.store.call(JobStore.put, _RESERVATIONS, made.name, made)
        self._reservations[made.name] = made
        self._core.wake()

    async def _drop(self, name: str) -> None:
        with as_api_error():
            await self._core.store.call(JobStore.drop, _RESERVATIONS, name)
        self._reservations.pop(name, None)

    def _made(self, request: ReservationRequest, asker: Asker, at: int) -> Reservation:
        start_at = _read("$.start", request.start, lambda text: times.at(text, now=at))
        end_at = self._end(request, start_at, at)
        if end_at <= max(start_at, at):
            raise ApiError(400, "bad_field", "the reservation would be over before it begins", "$.end")
        if not (request.users or request.accounts or request.maintenance):
            raise ApiError(400, "bad_field", "say for whom: users, accounts, or maintenance (for nobody)", "$.users")
        taken = self._taken(start_at, end_at)
        return Reservation(
            name=self._name(request),
            start_at=start_at,
            end_at=end_at,
            users=request.users,
            accounts=request.accounts,
            gpu_uuids=self._chosen(request.gpus, taken),
            maintenance=request.maintenance,
            by=asker.user,
            comment=request.comment,
        )

    def _end(self, request: ReservationRequest, start_at: int, at: int) -> int:
        if (request.duration is None) == (request.end is None):
            raise ApiError(400, "bad_field", "say either how long it lasts or when it ends", "$.duration")
        if request.end is not None:
            return _read("$.end", request.end, lambda text: times.at(text, now=at))
        limit_s = _read("$.duration", request.duration or "", grammar.time_limit_s)
        if limit_s is None:
            raise ApiError(400, "bad_field", "a reservation cannot last for ever; say how long", "$.duration")
        return start_at + limit_s

    def _name(self, request: ReservationRequest) -> str:
        if request.name is not None:
            if not _NAME.fullmatch(request.name):
                sentence = "a reservation's name is 1 to 64 letters, digits, '.', '_' and '-'"
                raise ApiError(400, "bad_field", sentence, "$.name")
            return request.name
        stem = next((each for each in (*request.users, *request.accounts) if _NAME.fullmatch(each)), "maint")
        numbers = (number for number in range(1, 1_000_000) if f"{stem}_{number}" not in self._reservations)
        return f"{stem}_{next(numbers)}"

    def _taken(self, start_at: int, end_at: int, *, but: str = "") -> dict[str | None, str]:
        """GPU → the reservation that has it at some time between; `None`: the whole node."""
        found: dict[str | None, str] = {}
        for each in self._reservations.values():
            if each.name != but and each.start_at < end_at and start_at < each.end_at:
                found.update(dict.fromkeys(each.gpu_uuids or (None,), each.name))
        return found

    def _chosen(self, asked: str | None, taken: Mapping[str | None, str]) -> tuple[str, ...]:
        """The GPUs: named ones, or so many of those that no other reservation has."""
        gpus = sorted(self._core.view.resources().gpus, key=lambda gpu: gpu.index)
        if asked is None:
            if taken:
                raise _overlap(next(iter(taken.values())))
            return ()
        if None in taken:
            raise _overlap(taken[None])
        if asked.startswith("="):
            named = [text.strip() for text in asked[1:].split(",") if text.strip()]
            chosen = tuple(dict.fromkeys(uuid_of(self._core, text) for text in named))
            for uuid in chosen:
                if uuid in taken:
                    raise _overlap(taken[uuid])
            if not chosen:
                raise ApiError(400, "bad_field", "name GPUs, as in =0,1", "$.gpus")
            return chosen
        return self._some(asked, [gpu for gpu in gpus if gpu.uuid not in taken])

    def _some(self, asked: str, free: Sequence[GpuFacts]) -> tuple[str, ...]:
        """The last ones that are well: jobs are mostly given the first."""
        count = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 6 else 0
        if count < 1:
            raise ApiError(400, "bad_field", f"{asked[:40]!r} is neither a number of GPUs nor =INDEX,…", "$.gpus")
        if count > len(free):
            raise ApiError(
                409, "not_free", f"{count} GPUs are asked for, and {len(free)} are not reserved then", "$.gpus"
            )
        best = sorted(free, key=lambda gpu: (gpu.healthy, gpu.index), reverse=True)[:count]
        return tuple(gpu.uuid for gpu in sorted(best, key=lambda gpu: gpu.index))


def _facts(each: Reservation) -> ReservationFacts:
    return ReservationFacts(
        name=each.name,
        start_at=each.start_at,
        end_at=each.end_at,
        users=frozenset(each.users),
        accounts=frozenset(each.accounts),
        gpu_uuids=frozenset(each.gpu_uuids) or None,
        maintenance=each.maintenance,
    )


def _overlap(name: str) -> ApiError:
    return ApiError(409, "not_free", f"reservation {name} has it for a part of that time; see stoker reservations")


def _read(field: str, text: str, reader: Callable[[str], _T]) -> _T:
    try:
        return reader(text)
    except grammar.GrammarError as error:
        raise ApiError(400, "bad_field", f"{text[:60]!r} {error}", field) from None
