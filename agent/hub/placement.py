"""Where a submit goes, from facts alone: the node it names, or the one that is best able to start it.

A job is placed once and stays: its node's queue has it from then on. Choosing well for a whole cluster over time is
Slurm's work; here a job goes to the node with the most free GPUs among those that can ever run it, where GPUs that its
queue has asked for already do not count as free.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from agent.api.errors import ApiError
from agent.api.types import Gpu, GpuState, LinkState, Node, NodeStatus

_UNAVAILABLE = 503


def place(named: str | None, gpus: int, statuses: Sequence[NodeStatus], asked: Mapping[str, int]) -> str:
    """The node for a job that asks for `gpus` GPUs; `asked` is what each node's unfinished jobs ask for, by name.

    Raises:
        ApiError: the named node is unknown or lost; no node is up; or none has that many GPUs, and what each has.
    """
    if named is not None:
        status = find(named, statuses)
        require_answering(status)
        return status.name
    up = [(status.name, status.node) for status in statuses if status.link is LinkState.UP and status.node is not None]
    if not up:
        raise ApiError(
            _UNAVAILABLE, "no_node", f"no node is up: {_why_not_up(statuses)}; submit again when one is back"
        )
    able = [(name, node) for name, node in up if len(node.gpus) >= gpus]
    if not able:
        has = ", ".join(f"{name} has {len(node.gpus)}" for name, node in up)
        raise ApiError(
            422, "too_many_gpus", f"the job asks for {gpus} GPUs and no node has that many: {has}; ask for less"
        )
    # Among equals the shorter queue, then the name, so that the choice can be explained.
    return min(able, key=lambda each: (-_room(each[1], asked.get(each[0], 0)), each[1].jobs_pending, each[0]))[0]


def free_gpus(node: Node) -> int:
    """GPUs on which a new job could start now: healthy, seated, not held."""
    return sum(gpu.job_id is None for gpu in _schedulable(node))


def find(name: str, statuses: Sequence[NodeStatus]) -> NodeStatus:
    """The node of that name.

    Raises:
        ApiError: 404, with the name that was probably meant.
    """
    for status in statuses:
        if status.name == name:
            return status
    names = [status.name for status in statuses]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"the cluster has {', '.join(names)}"
    raise ApiError(404, "unknown_node", f"there is no node {name!r}; {hint}", "$.node")


def require_answering(status: NodeStatus) -> None:
    """Refuse to call a node that is known not to answer: the caller should hear so at once, not after a timeout.

    Raises:
        ApiError: 503, with the reason and when it is tried again.
    """
    if status.link in (LinkState.UP, LinkState.STALE):
        return
    if status.link is LinkState.CONNECTING:
        raise ApiError(_UNAVAILABLE, "node_connecting", f"{status.name} is being connected; try again in a moment")
    again = f"; next attempt in {status.retry_in_s:.0f} s" if status.retry_in_s is not None else ""
    raise ApiError(_UNAVAILABLE, "node_lost", f"{status.name} cannot be reached: {status.reason}{again}")


def _room(node: Node, asked: int) -> int:
    """Free GPUs left once the node's jobs have theirs; below 0 is a queue.

    The snapshot is up to a second old and jobs are told of at once, so that a burst of submits spreads over the nodes.
    """
    return min(free_gpus(node), len(_schedulable(node)) - asked)


def _schedulable(node: Node) -> list[Gpu]:
    return [gpu for gpu in node.gpus if gpu.state is GpuState.OK and gpu.seated]


def _why_not_up(statuses: Sequence[NodeStatus]) -> str:
    return "; ".join(f"{each.name} is {each.link}" + (f" ({each.reason})" if each.reason else "") for each in statuses)
