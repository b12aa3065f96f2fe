"""Where a submit goes, from facts alone: the node it names, or the one that is best able to start it.

A job is placed once and stays: its node's queue has it from then on. Choosing well for a whole cluster over time is
Slurm's work; here a job goes to the node with the most free GPUs of its type among those that can ever run it, where
GPUs that its queue has asked for already do not count as free. Whether a node can ever run it is judged as the node
itself does, by `check_fits`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

from agent.api.errors import ApiError
from agent.api.types import Gpu, GpuState, LinkState, Node, NodeStatus
from agent.jobs.grammar import matches_type
from agent.jobs.parse import check_fits
from agent.jobs.spec import JobSpec

_UNAVAILABLE = 503


def place(spec: JobSpec, statuses: Sequence[NodeStatus], asked: Mapping[str, int]) -> str:
    """The node for a job that names none; `asked` is how many GPUs each node's unfinished jobs ask for, by name.

    Raises:
        ApiError: no node is up; or none that is can ever run the job, and what each has.
    """
    statuses = [status for status in statuses if status.name not in spec.exclude]
    if not statuses:
        raise ApiError(400, "bad_option", "--exclude leaves no node of the cluster to run on", "--exclude")
    up = [status.node for status in statuses if status.link is LinkState.UP and status.node is not None]
    if not up:
        raise ApiError(
            _UNAVAILABLE, "no_node", f"no node is up: {_why_not_up(statuses)}; submit again when one is back"
        )
    able = [node for node in up if _fits(spec, node)]
    if not able:
        raise ApiError(400, "cannot_run", _why_none(spec, up, statuses), "$.script")
    able = [node for node in able if node.drain is None] or able  # a drained node takes jobs again one day
    # Among equals the shorter queue, then the name, so that the choice can be explained.
    return min(able, key=lambda node: (-_room(node, spec, asked.get(node.name, 0)), node.jobs_pending, node.name)).name


def free_gpus(node: Node) -> int:
    """GPUs on which a new job could start now: healthy, seated, not held."""
    return _free(_schedulable(node))


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


def _fits(spec: JobSpec, node: Node) -> bool:
    gpus = [(gpu.uuid, gpu.name) for gpu in node.gpus if not gpu.divided]
    return (
        check_fits(spec, gpus, node.name, cpu_count=node.cpu_count, memory_total_bytes=node.memory_total_bytes) is None
    )


def _room(node: Node, spec: JobSpec, asked: int) -> int:
    """Free GPUs of the job's type left once the node's jobs have theirs; below 0 is a queue.

    The snapshot is up to a second old and jobs are told of at once, so that a burst of submits spreads over the nodes.
    """
    of_type = [gpu for gpu in _schedulable(node) if spec.gpu_type is None or matches_type(spec.gpu_type, gpu.name)]
    return min(_free(of_type), len(of_type) - asked)


def _free(gpus: Sequence[Gpu]) -> int:
    return sum(gpu.job_id is None for gpu in gpus)


def _schedulable(node: Node) -> list[Gpu]:
    if node.drain is not None:
        return []
    usable = (gpu for gpu in node.gpus if gpu.state is GpuState.OK and not gpu.divided)
    return [gpu for gpu in usable if gpu.seated and gpu.drain is None]


def _why_not_up(statuses: Sequence[NodeStatus]) -> str:
    return "; ".join(f"{each.name} is {each.link}" + (f" ({each.reason})" if each.reason else "") for each in statuses)


# --- why no node can run it -------------------------------------------------------------------------------------------


def _why_none(spec: JobSpec, up: Sequence[Node], statuses: Sequence[NodeStatus]) -> str:
    away = [status for status in statuses if status.link is not LinkState.UP]
    also = f"; not considered: {_why_not_up(away)}" if away else ""
    has = ", ".join(f"{node.name} has {_inventory(node)}" for node in up)
    return f"{spec.script_name} asks for {_wish(spec)}, and no node that is up has that: {has}{also}; ask for less"


def _wish(spec: JobSpec) -> str:
    gpus = _count(spec.gpus, "GPU") + (f" of type {spec.gpu_type}" if spec.gpu_type is not None else "")
    memory = [_gib(spec.memory_bytes)] if spec.memory_bytes is not None else []
    return " and ".join([*([gpus] if spec.gpus else []), _count(spec.cpus, "CPU"), *memory])


def _inventory(node: Node) -> str:
    kinds = Counter(gpu.name for gpu in node.gpus if not gpu.divided)
    gpus = " + ".join(f"{number} {name}" for name, number in sorted(kinds.items()))
    return f"{gpus or 'no GPU'} and {_count(node.cpu_count, 'CPU')} and {_gib(node.memory_total_bytes)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.1f} GiB"
