"""More jobs than one answer of a server holds: asked for page by page.

Rules kept here: numbers are a node's own, so `before` pages one node; a hub's nodes are asked each, or none of theirs
with a number above the lowest one of another's page would ever be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.api.errors import ApiError
from agent.api.types import Job

if TYPE_CHECKING:
    from tui.client import ClusterClient

PAGE = 10_000
"""Jobs of one answer, at most: a server's own bound. Where nobody says how many, it tells a thousand."""

_TASKS = 1000

_Found = dict[tuple[str, int], Job]


def every(client: ClusterClient, size: int = PAGE, before: int | None = None, **asked: Any) -> list[Job]:
    """All jobs that match, newest first; `asked` as for `Client.jobs`, `size` is a page's."""
    page = client.jobs(**asked, limit=size, before=before)
    if len(page) < size:
        return page
    found: _Found = {(each.node, each.id): each for each in page}
    names = nodes(client)
    if len(names) == 1:
        _rest(client, found, size, page, asked, None)
        return list(found.values())
    for name in names:
        try:
            first = client.jobs(**asked, limit=size, before=before, node=name)
            found.update({(each.node, each.id): each for each in first})
            _rest(client, found, size, first, asked, name)
        except ApiError:
            continue  # away: what was last heard of it is in the hub's own answer
    return sorted(found.values(), key=lambda each: (each.submitted_at, each.node, each.id), reverse=True)


def newest(client: ClusterClient, most: int, before: int | None = None, **asked: Any) -> list[Job]:
    """The latest that match."""
    if most <= PAGE:
        return client.jobs(**asked, limit=most, before=before)
    return every(client, PAGE, before, **asked)[:most]


def tasks_of(client: ClusterClient, first: Job) -> list[Job]:
    """All tasks of an array in order; `first` is any of them."""
    found = every(client, _TASKS, array=first.array_job_id)
    return sorted((each for each in found if each.node == first.node), key=lambda each: each.array_task_id or 0)


def nodes(client: ClusterClient) -> list[str]:
    """Whose numbers there are."""
    return [each.name for each in client.nodes()]


def _rest(
    client: ClusterClient, found: _Found, size: int, page: list[Job], asked: dict[str, Any], node: str | None
) -> None:
    """What comes after a node's page."""
    while len(page) >= size:
        known = len(found)
        page = client.jobs(**asked, limit=size, before=min(each.id for each in page), node=node)
        found.update({(each.node, each.id): each for each in page})
        if len(found) == known and node is None:
            return
