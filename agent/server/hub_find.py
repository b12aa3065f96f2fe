"""Which node has a job of a number: all nodes are asked; of one that is away, what was last heard of it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import Job, LinkState
from agent.hub.fleet import Fleet, Member

FIND_WAIT_S = 3.0


async def member_with(fleet: Fleet, ref: JobRef) -> Member:
    """The one node that has a job of this number.

    Raises:
        ApiError: 404 none has, or 409 several have: names them.
    """
    members = fleet.members()
    if len(members) == 1:
        return members[0]
    has = await asyncio.gather(*(_job_of(member, ref) for member in members))
    found = [member for member, job in zip(members, has, strict=True) if job is not None]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(f"{member.name}:{ref}" for member in found)
        raise ApiError(409, "ambiguous_job", f"more than one node has a job {ref}; write {names}")
    hint = f"; {', '.join(away)} cannot be asked now" if (away := names_away(fleet)) else ""
    raise ApiError(404, "not_found", f"no node has a job {ref}{hint}; `stoker jobs` lists them")


async def jobs_numbered(fleet: Fleet, numbers: Sequence[int]) -> dict[int, list[Job]]:
    """The jobs of these numbers, of all nodes; of an array its first task."""
    pairs = [(number, member) for number in numbers for member in fleet.members()]
    found: dict[int, list[Job]] = {number: [] for number in numbers}
    jobs = await asyncio.gather(*(_job_of(member, JobRef(id=number)) for number, member in pairs))
    for (number, _), job in zip(pairs, jobs, strict=True):
        if job is not None:
            found[number].append(job)
    return found


def names_away(fleet: Fleet) -> list[str]:
    """The nodes that cannot be asked now."""
    return [member.name for member in fleet.members() if member.link.state is not LinkState.UP]


async def _job_of(member: Member, ref: JobRef) -> Job | None:
    if member.link.state is LinkState.UP:

        def ask(client: Client) -> Job | None:
            try:
                return client.job(ref)
            except ApiError as error:
                if error.status != 404:
                    raise
                return None

        try:
            async with asyncio.timeout(FIND_WAIT_S):
                return await member.calls.call(ask)
        except (TimeoutError, ApiError):
            pass
    return member.jobs.get(ref.id)
