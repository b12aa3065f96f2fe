"""Each node's leases as a chain: who goes on with it, who shows an old part of it, and who is ahead of the hub.

    lease 7 ◄─prev─ lease 8 ◄─prev─ lease 9      the ledger keeps the last (9), and the newest that was shown to it (8)

A node shows the lease it holds. Who shows 9, or 8 because 9 was lost on its way, goes on with the chain. Who shows 7
after 8 was shown is not where the chain is: the same machine with a disk of yesterday, or a second holder of its
identity, a clone. GPUs tell the two apart, because a GPU is in one machine: the same GPUs are the same machine, and it
is answered again with the last lease, which covers them already. Others get nothing new. Who shows a 12 that this hub
signed, and does not remember, knows more than the hub: the ledger is an older one, put back.

Pure. What a node says of itself proves nothing; the lease that it shows is signed by this hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from licensing import paseto
from licensing.document import Lease, open_token
from licensing.ed25519 import PrivateKey
from licensing.errors import LicenceError
from licensing.store_seats import Grant


class Place(StrEnum):
    """Where in its chain a node stands."""

    NEW = "new"
    """Nothing was granted under its key."""
    AT_END = "at the end"
    LOST_REPLY = "before the last, which it was not heard to have"
    AHEAD = "ahead"
    """The ledger is older than its lease."""
    BACK = "back"
    """An old part, shown by the same machine: its disk went back."""
    RENAMED = "renamed"
    """The chain of another name, shown by the same machine."""
    FORKED = "forked"
    """Somebody else goes on with this chain."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a node says of itself."""

    node: str
    key: str
    """Its public key, 64 hex digits."""
    gpus: tuple[str, ...]
    """Every schedulable GPU it has."""
    seq: int
    """The number of the lease it holds, 0 for none."""
    held: str | None = None
    """The token of that lease; `None` from agents that show none."""
    contact: bool = False
    """Whether it was reached just now, after it was not."""

    @cached_property
    def head(self) -> str | None:
        """The digest of the lease it shows; `None` where none can be read. Proves nothing but that it was copied."""
        if self.held is None:
            return None
        try:
            return hashlib.sha256(paseto.split(self.held).payload).hexdigest()
        except LicenceError:
            return None


def place(ask: Ask, grants: Sequence[Grant]) -> tuple[Place, Grant | None]:
    """Where the asker stands, and the last grant of its chain. `grants`: of its name or key, the newest first."""
    chain = next((each for each in grants if each.key == ask.key), None)
    if chain is None:
        return Place.NEW, None
    if chain.node != ask.node:
        # A name that has given its chain up to another does not get it back: two that run at once would take turns.
        had_it = any(each.node == ask.node and each.key == ask.key for each in grants)
        return (Place.RENAMED if _same_machine(ask, chain) and not had_it else Place.FORKED), chain
    head = ask.head
    if ask.seq == chain.seq and head in (chain.head, None):
        return Place.AT_END, chain
    if ask.seq >= chain.seq:
        return Place.AHEAD, chain  # with the same number and another content, too: the ledger gave that number again
    if ask.seq > chain.taken or (ask.seq == chain.taken and (head in (chain.taken_head, None) or not chain.taken_head)):
        return Place.LOST_REPLY, chain
    return (Place.BACK if _same_machine(ask, chain) else Place.FORKED), chain


def shown(ask: Ask, site: PrivateKey) -> Lease | None:
    """The lease that a node shows, if this site signed it, for this node's key; `None` for any other."""
    if ask.held is None:
        return None
    try:
        lease = open_token(Lease, ask.held, site.public)
    except LicenceError:
        return None
    return lease if lease.key == ask.key else None


def _same_machine(ask: Ask, chain: Grant) -> bool:
    """It has a GPU of the chain's holder; or neither has one, and so no seat."""
    return not set(ask.gpus).isdisjoint(chain.wanted) or not (ask.gpus or chain.wanted)
