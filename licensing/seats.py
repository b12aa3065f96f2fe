"""Who gets a seat: pure counting over the holds of the moment.

A seat is one physical GPU made schedulable, known by its UUID, and counted once wherever it is seen: a UUID that
turns up on a second node goes to the newest claim. Short of seats, a node gets a part of what it asked for: pinned
GPUs first, then those it has held longest; an empty part is still a lease, so jobs without GPUs run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

MAX_BATCH = 64
"""How many nodes are answered with one flush of the hub's disk, at most."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """One seat that is taken. A Struct, because each batch makes one for every seat of the site."""

    gpu: str
    node: str
    since: int
    until: int
    """Unix seconds; free from then on unless renewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSeat:
    """No lease is to be had now; the node keeps what it has."""

    code: str
    message: str
    fix: str | None = None
    """The command that helps, on the hub."""


def has_uuid(gpu: str) -> bool:
    """Whether this names a physical GPU: one that was never read goes by `unknown:INDEX`, the same on every node."""
    return gpu != "" and not gpu.startswith("unknown:")


def share(
    wanted: Sequence[str],
    holder: Mapping[str, Hold],
    *,
    node: str,
    elsewhere: int,
    seats: int,
    may_grow: bool,
    pinned: Collection[str] = (),
) -> tuple[str, ...]:
    """The GPUs of `wanted` that get a seat, in the order of `wanted`.

    Args:
        wanted: every schedulable GPU of the node.
        holder: who holds what at the site, by GPU: all unexpired holds, this node's among them.
        node: who asks.
        elsewhere: how many of the holds are not this node's.
        seats: what the licence allows for the whole site.
        may_grow: whether GPUs without a seat may get one; not in GRACE.
        pinned: GPUs that come before the others of their node: to keep their seat, and to get one; they take none away.
    """
    asked = tuple(dict.fromkeys(wanted))
    mine = [gpu for gpu in asked if gpu in holder and holder[gpu].node == node]
    moved = [gpu for gpu in asked if gpu in holder and holder[gpu].node != node]  # changes hands, costs no seat
    fresh = [gpu for gpu in asked if gpu not in holder] if may_grow else []
    if len(moved) + len(mine) + len(fresh) == len(asked) and elsewhere + len(mine) + len(fresh) <= seats:
        return asked  # there are enough, as there mostly are
    kept = sorted(mine, key=lambda gpu: (gpu not in pinned, holder[gpu].since))
    paid = [*kept, *sorted(fresh, key=lambda gpu: gpu not in pinned)][: max(0, seats - elsewhere)]
    chosen = set([*moved, *paid][:seats])
    return tuple(gpu for gpu in asked if gpu in chosen)
