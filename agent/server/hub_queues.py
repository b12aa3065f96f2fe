"""What stands around the nodes' queues, for the cluster: partitions, shares, reservations, recurring jobs, notices.

Rules kept here: a list is all nodes' lists put together, and says nothing of a node that does not answer within
`LIST_WAIT_S` (its link shows why), nor of one whose answer is not understood (the log names it); what changes something
is for one node, which a cluster of several must name, and is passed on as it came by `/v1/nodes/NAME/…`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.queue import QueueRules, Share
from agent.api.types import CronRequest, LinkState
from agent.hub.calls import NodeCalls
from agent.hub.fleet import Fleet
from agent.server.base import caller_of, json_response, key_of, read_body
from agent.server.hub_submit import parsed
from agent.server.passthrough import pass_on
from agent.server.peer import USER_HEADER

LIST_WAIT_S = 3.0
_GARBLED = "not_understood"
_SHOWN_AT_ONCE = ("/v1/drain", "/v1/resume", "/v1/reload", "/v1/inventory/accept")
"""Changes of a node that its next line in the list of nodes must show: `stoker drain n1; stoker nodes`."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class _GarbledError(Exception):
    """What a node answered is not what it was asked for."""


class HubQueues:
    """The handlers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def add_routes(self, app: web.Application) -> None:
        """Put the addresses on `app`."""
        app.router.add_get("/v1/partitions", self._partitions)
        app.router.add_get("/v1/shares", self._shares)
        for name in ("reservations", "cron", "notices"):
            app.router.add_get(f"/v1/{name}", self._list)
        app.router.add_post("/v1/cron", self._add_cron)
        app.router.add_post("/v1/reservations", self._of_one_node)
        app.router.add_post("/v1/reservations/{name}", self._of_one_node)
        app.router.add_delete("/v1/reservations/{name}", self._of_one_node)
        app.router.add_post("/v1/partitions/{name}", self._of_one_node)
        app.router.add_delete("/v1/cron/{id:\\d+}", self._of_one_node)
        for name in ("drain", "resume", "notices/retry", "reload"):
            app.router.add_post(f"/v1/{name}", self._of_one_node)

    async def _partitions(self, _: web.Request) -> web.Response:
        return json_response(_union(await self._ask(Client.rules)))

    async def _shares(self, _: web.Request) -> web.Response:
        """Each node has a fair share of its own; a user's use is summed, and the factors are the means."""
        lists = await self._ask(Client.shares)
        found: dict[tuple[str, str], list[Share]] = {}
        for share in (share for each in lists for share in each):
            found.setdefault((share.account, share.user), []).append(share)
        return json_response([_joined(shares) for _, shares in sorted(found.items())])

    async def _list(self, request: web.Request) -> web.Response:
        """The nodes' lists, asked on behalf of the caller: what they show depends on who asks."""
        headers = {USER_HEADER: caller_of(request).user}
        path = request.path
        lists = await self._ask(lambda client: _raw_list(client, path, headers))
        return json_response([line for each in lists for line in each])

    async def _add_cron(self, request: web.Request) -> web.StreamResponse:
        asked = await read_body(request, CronRequest)
        named = asked.request.node or next(iter(parsed(asked.request).nodelist), None)
        node = named or self._only_node("a recurring job stays on one node", "--node NAME, as in --node {}")
        forwarded = msgspec.json.encode(
            msgspec.structs.replace(asked, request=msgspec.structs.replace(asked.request, node=node))
        )
        key_of(request)
        return await pass_on(request, self._fleet.calls(node), "/v1/cron", forwarded)

    async def _of_one_node(self, request: web.Request) -> web.StreamResponse:
        node = self._only_node("this is of one node")
        path = request.rel_url.raw_path
        return await pass_on(request, self._fleet.calls(node), path, on_status=looking_again(self._fleet, node, path))

    def _only_node(self, why: str, how: str = "") -> str:
        """The node of a cluster of one; `how` is what names one, with the first of them put into it.

        Raises:
            ApiError: there are several, and none was named.
        """
        names = [member.name for member in self._fleet.members()]
        if len(names) == 1:
            return names[0]
        named = f"name one with {how.format(names[0])}" if how and names else "name one"
        raise ApiError(400, "which_node", f"{why}, and the cluster has {', '.join(names)}: {named}", "$.node")

    async def _ask(self, question: Callable[[Client], _T]) -> list[_T]:
        """The answers of the nodes that answer in time.

        Raises:
            ApiError: none does; with the refusal of one that refused, 502 with the name of one that is not understood,
                else 503.
        """
        members = [member for member in self._fleet.members() if member.link.state is LinkState.UP]
        found = await asyncio.gather(*(_answer(member.calls, question) for member in members))
        answers = [each for each in found if not isinstance(each, ApiError)]
        if answers:
            return answers
        refusals = [each for each in found if isinstance(each, ApiError) and each.status < 500]
        refusals += [each for each in found if isinstance(each, ApiError) and each.code == _GARBLED]
        raise refusals[0] if refusals else ApiError(503, "no_node", "no node answers now; see stoker nodes")


def looking_again(fleet: Fleet, node: str, path: str) -> Callable[[int], Awaitable[None]] | None:
    """What the node's answer to `path` calls for, where that changes what the list of nodes shows."""
    if path not in _SHOWN_AT_ONCE:
        return None

    async def look(status: int) -> None:
        if status < 400:
            await fleet.look_again(node)

    return look


async def _answer(calls: NodeCalls, question: Callable[[Client], _T]) -> _T | ApiError:
    try:
        async with asyncio.timeout(LIST_WAIT_S):
            return await calls.call(question)
    except ApiError as error:
        return error
    except _GarbledError as error:
        sentence = f"the answer of node {calls.name} is not understood: {error}; see its agent's log and version"
        logger.warning("%s", sentence)
        return ApiError(502, _GARBLED, sentence)
    except TimeoutError:
        return ApiError(503, "late", f"{calls.name} did not answer within {LIST_WAIT_S:.0f} s")


def _raw_list(client: Client, path: str, headers: dict[str, str]) -> list[object]:
    answer = client.request_raw("GET", path, headers=headers)
    try:
        body = b"".join(iter(answer.read, b""))
    finally:
        answer.close()
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _GarbledError(f"it said {body[:80]!a}") from error
    if answer.status < 400 and not isinstance(found, list):
        raise _GarbledError(f"it is no list, it said {body[:80]!a}")
    if answer.status >= 400:
        told = found if isinstance(found, dict) else {}
        raise ApiError(answer.status, str(told.get("code", "refused")), str(told.get("message", "the node refused")))
    assert isinstance(found, list), "looked at above"
    return found


def _union(rules: list[QueueRules]) -> QueueRules:
    """All names that some node knows; of a name that several know, the first one's rules are shown."""
    partitions = {each.name: each for rule in reversed(rules) for each in rule.partitions}
    qos = {each.name: each for rule in reversed(rules) for each in rule.qos}
    return QueueRules(
        partitions=tuple(partitions.values()),
        qos=tuple(qos.values()),
        accounts=tuple(sorted({name for rule in rules for name in rule.accounts})),
        features=tuple(sorted({name for rule in rules for name in rule.features})),
        licenses=_summed(rules),
    )


def _summed(rules: list[QueueRules]) -> dict[str, int]:
    """Each node counts its own licences."""
    total: dict[str, int] = {}
    for rule in rules:
        for name, count in rule.licenses.items():
            total[name] = total.get(name, 0) + count
    return total


def _joined(shares: list[Share]) -> Share:
    number = len(shares)
    return msgspec.structs.replace(
        shares[0],
        usage_gpu_s=sum(each.usage_gpu_s for each in shares),
        usage_norm=sum(each.usage_norm for each in shares) / number,
        fairshare=sum(each.fairshare for each in shares) / number,
    )
